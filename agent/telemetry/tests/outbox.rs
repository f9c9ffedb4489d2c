//! The outbox keeps what it promises: each event until it is acknowledged, and each id once.
#![allow(clippy::unwrap_used)]

use fleet_proto::v1::Event;
use fleet_telemetry::{EventOutbox, Recorded};
use proptest::prelude::*;

fn event(id: impl ToString) -> Event {
    Event { id: id.to_string(), kind: "vm.running".into(), ..Event::default() }
}

fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

#[tokio::test]
async fn a_reader_gets_each_event_once_and_in_order() {
    let outbox = EventOutbox::new(10);
    let mut reader = outbox.reader();
    outbox.record(event(1));
    outbox.record(event(2));
    assert_eq!(ids(&reader.next(1).await), ["1"]);
    assert_eq!(ids(&reader.next(10).await), ["2"]);
    assert!(reader.try_next(10).is_empty());
    outbox.record(event(3));
    assert_eq!(ids(&reader.next(10).await), ["3"]);
}

#[tokio::test]
async fn a_waiting_reader_wakes_up() {
    let outbox = EventOutbox::new(10);
    let mut reader = outbox.reader();
    let waiting = tokio::spawn(async move { reader.next(10).await });
    tokio::task::yield_now().await;
    outbox.record(event("late"));
    assert_eq!(ids(&waiting.await.unwrap()), ["late"]);
}

#[test]
fn the_next_connection_gets_what_the_last_one_did_not_acknowledge() {
    let outbox = EventOutbox::new(10);
    for id in 1..=3 {
        outbox.record(event(id));
    }
    assert_eq!(outbox.reader().try_next(10).len(), 3);
    outbox.acknowledge(["2", "unknown"]);
    assert_eq!(ids(&outbox.reader().try_next(10)), ["1", "3"]);
    assert_eq!(outbox.pending(), 2);
}

#[test]
fn a_repeated_id_is_no_second_event_even_after_its_acknowledgement() {
    let outbox = EventOutbox::new(10);
    assert_eq!(outbox.record(event(1)), Recorded::Kept);
    assert_eq!(outbox.record(event(1)), Recorded::Repeated);
    outbox.acknowledge(["1"]);
    assert_eq!(outbox.record(event(1)), Recorded::Repeated);
    assert_eq!(outbox.pending(), 0);
}

#[test]
fn a_full_outbox_keeps_the_first_events_and_counts_the_others() {
    let outbox = EventOutbox::new(2);
    for id in 1..=5 {
        outbox.record(event(id));
    }
    assert_eq!(outbox.record(event(6)), Recorded::Full);
    assert_eq!(outbox.lost(), 4);
    assert_eq!(ids(&outbox.reader().try_next(10)), ["1", "2"]);
    outbox.acknowledge(["1"]);
    assert_eq!(outbox.record(event(7)), Recorded::Kept);
}

proptest! {
    #[test]
    fn kept_is_recorded_less_acknowledged(
        capacity in 1usize..8,
        // The id, and whether it is acknowledged instead of recorded.
        steps in proptest::collection::vec((0u8..12, any::<bool>()), 0..100),
    ) {
        let outbox = EventOutbox::new(capacity);
        let mut kept: Vec<String> = Vec::new();
        for (id, acknowledge) in steps {
            let id = id.to_string();
            if acknowledge {
                outbox.acknowledge([&id]);
                kept.retain(|other| *other != id);
            } else {
                match outbox.record(event(&id)) {
                    Recorded::Kept => {
                        prop_assert!(!kept.contains(&id));
                        kept.push(id);
                    }
                    Recorded::Full => prop_assert!(kept.len() == capacity && !kept.contains(&id)),
                    Recorded::Repeated => {}
                }
            }
            let pending = outbox.reader().try_next(usize::MAX);
            prop_assert_eq!(ids(&pending), kept.iter().map(String::as_str).collect::<Vec<_>>());
            prop_assert!(outbox.pending() <= capacity);
        }
    }
}
