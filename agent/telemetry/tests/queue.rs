//! The queue against a model of it that is too simple to be wrong.
#![allow(clippy::unwrap_used)]

use std::collections::VecDeque;
use std::time::Duration;

use fleet_telemetry::{Pushed, Weigh, WhenFull, queue};
use proptest::prelude::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    id: usize,
    weight: usize,
}

impl Weigh for Item {
    fn weight(&self) -> usize {
        self.weight
    }
}

/// What is in the queue, and the weight of what was lost, by the letter of the documentation.
struct Model {
    items: VecDeque<Item>,
    capacity: usize,
    dropped: u64,
}

impl Model {
    fn weight(&self) -> usize {
        self.items.iter().map(|item| item.weight.max(1)).sum()
    }

    fn offer(&mut self, item: Item, when_full: WhenFull) -> Pushed {
        let weight = item.weight.max(1);
        let mut lost = 0;
        if self.weight() + weight > self.capacity {
            if when_full != WhenFull::DropOldest || weight > self.capacity {
                self.dropped += weight as u64;
                return Pushed::Dropped(weight as u64);
            }
            while self.weight() + weight > self.capacity {
                lost += self.items.pop_front().unwrap().weight.max(1) as u64;
            }
        }
        self.dropped += lost;
        self.items.push_back(item);
        if lost == 0 { Pushed::Kept } else { Pushed::Dropped(lost) }
    }
}

fn policies() -> impl Strategy<Value = WhenFull> {
    prop_oneof![Just(WhenFull::Block), Just(WhenFull::DropNewest), Just(WhenFull::DropOldest)]
}

proptest! {
    #[test]
    fn the_queue_does_what_its_model_does(
        when_full in policies(),
        capacity in 1usize..20,
        // A weight puts an item of that weight in, nothing takes one out.
        steps in proptest::collection::vec(proptest::option::weighted(0.6, 0usize..8), 0..200),
    ) {
        let (sender, mut receiver) = queue(capacity, when_full);
        let mut model = Model { items: VecDeque::new(), capacity, dropped: 0 };
        for (id, step) in steps.into_iter().enumerate() {
            match step {
                Some(weight) => {
                    let item = Item { id, weight };
                    prop_assert_eq!(sender.offer(item), model.offer(item, when_full));
                }
                None => prop_assert_eq!(receiver.try_recv(), model.items.pop_front()),
            }
            prop_assert_eq!(receiver.waiting(), model.weight());
            prop_assert_eq!(sender.dropped(), model.dropped);
            prop_assert!(receiver.waiting() <= capacity);
        }
    }
}

const ITEM: Item = Item { id: 0, weight: 1 };
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_blocked_producer_goes_on_when_there_is_room() {
    let (sender, mut receiver) = queue(1, WhenFull::Block);
    assert_eq!(sender.push(ITEM, LONG).await, Pushed::Kept);
    let waiting = tokio::spawn({
        let sender = sender.clone();
        async move { sender.push(Item { id: 1, weight: 1 }, LONG).await }
    });
    assert_eq!(receiver.recv().await.unwrap().id, 0);
    assert_eq!(receiver.recv().await.unwrap().id, 1);
    assert_eq!(waiting.await.unwrap(), Pushed::Kept);
    assert_eq!(sender.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_producer_gives_up_at_its_deadline_and_the_item_is_counted() {
    let (sender, mut receiver) = queue(1, WhenFull::Block);
    sender.offer(ITEM);
    assert_eq!(sender.push(Item { id: 1, weight: 1 }, LONG).await, Pushed::Dropped(1));
    assert_eq!(sender.dropped(), 1);
    assert_eq!(receiver.try_recv().unwrap().id, 0);
}

#[tokio::test(start_paused = true)]
async fn what_never_fits_does_not_wait() {
    let (sender, _receiver) = queue(2, WhenFull::Block);
    assert_eq!(sender.push(Item { id: 0, weight: 3 }, LONG).await, Pushed::Dropped(3));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_push_puts_nothing_in() {
    let (sender, mut receiver) = queue(1, WhenFull::Block);
    sender.offer(ITEM);
    let push = sender.push(Item { id: 1, weight: 1 }, LONG);
    assert!(tokio::time::timeout(Duration::from_secs(1), push).await.is_err());
    assert_eq!(receiver.try_recv().unwrap().id, 0);
    assert_eq!(receiver.try_recv(), None);
    assert_eq!(sender.dropped(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_what_was_put_in_before_the_senders_went() {
    let (sender, mut receiver) = queue(4, WhenFull::DropNewest);
    let second = sender.clone();
    sender.offer(ITEM);
    drop(sender);
    second.offer(Item { id: 1, weight: 1 });
    let reader = tokio::spawn(async move {
        let mut ids = Vec::new();
        while let Some(item) = receiver.recv().await {
            ids.push(item.id);
        }
        ids
    });
    tokio::task::yield_now().await;
    drop(second);
    assert_eq!(reader.await.unwrap(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn producers_learn_that_the_reader_went() {
    let (sender, receiver) = queue(1, WhenFull::Block);
    sender.offer(ITEM);
    let waiting = tokio::spawn({
        let sender = sender.clone();
        async move { sender.push(ITEM, LONG).await }
    });
    tokio::task::yield_now().await;
    drop(receiver);
    assert_eq!(waiting.await.unwrap(), Pushed::Closed);
    assert_eq!(sender.offer(ITEM), Pushed::Closed);
    assert_eq!(sender.dropped(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_producers_lose_nothing_under_block() {
    const PRODUCERS: usize = 8;
    const EACH: usize = 500;
    let (sender, mut receiver) = queue(3, WhenFull::Block);
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|producer| {
            let sender = sender.clone();
            tokio::spawn(async move {
                for index in 0..EACH {
                    let item = Item { id: producer * EACH + index, weight: 1 + index % 3 };
                    assert_eq!(sender.push(item, LONG).await, Pushed::Kept);
                }
            })
        })
        .collect();
    drop(sender);
    let mut last = [None; PRODUCERS];
    let mut count = 0;
    while let Some(item) = receiver.recv().await {
        let producer = item.id / EACH;
        assert!(last[producer].is_none_or(|last| last < item.id), "the order of a producer is kept");
        last[producer] = Some(item.id);
        count += 1;
    }
    assert_eq!(count, PRODUCERS * EACH);
    for producer in producers {
        producer.await.unwrap();
    }
}
