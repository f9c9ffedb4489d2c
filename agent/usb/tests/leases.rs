//! Random lives of leases: one holder, no stale order obeyed, and nothing forgotten over a restart.

use fleet_usb::Persona;
use fleet_usb::lease::{Act, CameraId, Event, Keeper, LeaseError, Leases, Order, Phase};
use proptest::prelude::*;

fn camera() -> CameraId {
    CameraId { host: "h1".into(), camera: "04b0:000003012345".into() }
}

#[test]
fn a_camera_has_one_holder_until_it_is_given_back() {
    let mut leases = Leases::default();
    let first = leases.acquire(&camera(), "lab/a", 0, false).expect("a lease");
    assert_eq!(leases.acquire(&camera(), "lab/a", 0, false), Ok(first.clone()), "asked again");
    let taken = leases.acquire(&camera(), "lab/b", 0, false);
    assert_eq!(taken, Err(LeaseError::Taken { holder: "lab/a".into(), epoch: first.epoch }));
    let second = leases.acquire(&camera(), "lab/b", first.epoch, true).expect("stolen");
    assert!(second.epoch > first.epoch);
    let late = leases.acquire(&camera(), "lab/c", first.epoch, true);
    assert_eq!(late, Err(LeaseError::Changed { expected: first.epoch, found: second.epoch }));
    assert!(!leases.release(&camera(), first.epoch), "the first holder cannot end the second's");
    assert_eq!(leases.release_all_of("lab/b"), ["h1 04b0:000003012345"]);
    let third = leases.acquire(&camera(), "lab/a", 0, false).expect("free again");
    assert!(third.epoch > second.epoch, "an epoch is never given twice");
}

#[test]
fn a_lease_that_moved_or_was_ended_by_its_host_has_a_higher_epoch_and_one_that_stays_has_not() {
    let mut leases = Leases::default();
    let first = leases.acquire(&camera(), "lab/a", 0, false).expect("a lease");
    let told = |leases: &mut Leases, epoch, to| leases.send(&camera(), epoch, to, true).expect("epochs are left");
    let there = told(&mut leases, first.epoch, "h1").expect("its own epoch");
    assert_eq!((there.epoch, there.at.as_str()), (first.epoch, "h1"));
    assert_eq!(told(&mut leases, first.epoch, "h1"), Some(there.clone()), "told again");
    let moved = told(&mut leases, first.epoch, "h2").expect("its own epoch");
    assert!(moved.epoch > there.epoch && moved.at == "h2");
    assert_eq!(told(&mut leases, first.epoch, "h1"), None, "of the old place");
    let again = leases.send(&camera(), moved.epoch, "h2", false).expect("epochs are left").expect("its own epoch");
    assert!(again.epoch > moved.epoch, "its host does not keep the one before");
    let moved = again;
    assert!(leases.hold(&camera(), moved.epoch, true) && !leases.hold(&camera(), first.epoch, false));
    assert!(leases.iter().all(|(id, lease)| id == camera() && lease.held));
}

#[test]
fn epochs_that_were_seen_elsewhere_and_those_before_a_restore_are_not_given_again() {
    let mut leases = Leases::default();
    leases.seen(40);
    leases.seen(7);
    let lease = leases.acquire(&camera(), "lab/a", 0, false).expect("a lease");
    assert_eq!(lease.epoch, 41);
    leases.renew(1000).expect("epochs are left");
    let renewed = leases.get(&camera()).expect("kept");
    assert!(renewed.epoch > 1000 && renewed.holder == "lab/a");
}

#[test]
fn the_d7000_goes_through_its_day() {
    let mut keeper = Keeper::new("lab/a", 7, Persona::Ptp);
    let mut step = |event, phase, act| {
        let order = keeper.step(7, event).expect("a step");
        assert_eq!(order.map(|order| order.act), act, "{event:?}");
        assert_eq!(keeper.phase(), phase, "{event:?}");
    };
    step(Event::Attach(Some(Persona::Ptp)), Phase::Attaching, Some(Act::Attach));
    step(Event::Attached(1), Phase::Attached, None);
    // Its mode is switched, and back.
    step(Event::Gone, Phase::Lost, Some(Act::Detach));
    step(Event::Back(Persona::MassStorage), Phase::WrongMode(Persona::MassStorage), None);
    step(Event::Gone, Phase::Lost, None);
    step(Event::Back(Persona::Ptp), Phase::Reattaching, Some(Act::Attach));
    step(Event::Attached(3), Phase::Attached, None);
    // Kept out for its firmware menu: it comes and goes, and stays out.
    step(Event::Detach { hold: true }, Phase::Detaching { hold: true }, Some(Act::Detach));
    step(Event::Detached(4), Phase::Held, None);
    step(Event::Gone, Phase::Held, None);
    step(Event::Back(Persona::Ptp), Phase::Held, None);
    step(Event::Attach(Some(Persona::Ptp)), Phase::Attaching, Some(Act::Attach));
    step(Event::Attached(5), Phase::Attached, None);
    step(Event::Detach { hold: false }, Phase::Detaching { hold: false }, Some(Act::Detach));
    step(Event::Detached(6), Phase::Ended, None);
}

/// What can happen in the world of the model.
#[derive(Debug, Clone, Copy)]
enum Happens {
    Unplug,
    Plug(bool),
    AskAttach,
    AskDetach(bool),
    /// The act at hand ends; an attachment fails when the camera is not there, or when so told.
    ActEnds(bool),
    /// The agent is killed between any two moments; its record is all that is left.
    Kill,
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        Just(Happens::Unplug),
        any::<bool>().prop_map(Happens::Plug),
        Just(Happens::AskAttach),
        any::<bool>().prop_map(Happens::AskDetach),
        any::<bool>().prop_map(Happens::ActEnds),
        Just(Happens::Kill),
    ]
}

/// A host: the camera, the VM's device, and the acts that are still to be done.
struct World {
    keeper: Keeper,
    plugged: Option<Persona>,
    in_vm: bool,
    acts: std::collections::VecDeque<Order>,
}

impl World {
    fn tell(&mut self, event: Event) {
        if let Ok(Some(order)) = self.keeper.step(7, event) {
            self.acts.push_back(order);
        }
    }

    fn happen(&mut self, what: Happens) {
        match what {
            Happens::Unplug if self.plugged.take().is_some() => self.tell(Event::Gone),
            Happens::Plug(ptp) if self.plugged.is_none() => {
                let persona = if ptp { Persona::Ptp } else { Persona::MassStorage };
                self.plugged = Some(persona);
                self.tell(Event::Back(persona));
            }
            Happens::Unplug | Happens::Plug(_) => {}
            Happens::AskAttach => self.tell(Event::Attach(self.plugged)),
            Happens::AskDetach(hold) => self.tell(Event::Detach { hold }),
            Happens::ActEnds(well) => match self.acts.pop_front() {
                Some(Order { number, act: Act::Attach }) => {
                    self.in_vm = well && self.plugged == Some(Persona::Ptp);
                    self.tell(if self.in_vm { Event::Attached(number) } else { Event::Failed(number) });
                }
                Some(Order { number, act: Act::Detach }) => {
                    self.in_vm = false;
                    self.tell(Event::Detached(number));
                }
                None => {}
            },
            Happens::Kill => {
                let record = serde_json::to_string(&self.keeper).expect("a record");
                self.keeper = serde_json::from_str(&record).expect("the record");
                self.acts.clear();
                self.tell(Event::Restarted { present: self.plugged, in_vm: self.in_vm });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_what_the_phase_says_is_so_once_all_acts_have_ended(
        life in proptest::collection::vec(happens(), 0..40)
    ) {
        let keeper = Keeper::new("lab/a", 7, Persona::Ptp);
        let mut world = World { keeper, plugged: Some(Persona::Ptp), in_vm: false, acts: Default::default() };
        for what in life {
            world.happen(what);
            // Only then may another VM have it, or a hand take it.
            let (phase, told) = (world.keeper.phase(), world.acts.is_empty());
            let out = told && !world.in_vm;
            prop_assert!(out || matches!(what, Happens::Kill) || !matches!(phase, Phase::Held | Phase::Ended), "{phase:?}");
            prop_assert!(world.acts.len() < 64);
        }
        for _ in 0..64 {
            world.happen(Happens::ActEnds(true));
        }
        prop_assert!(world.acts.is_empty());
        match world.keeper.phase() {
            Phase::Attached => prop_assert!(world.in_vm && world.plugged == Some(Persona::Ptp)),
            Phase::Lost => prop_assert!(!world.in_vm && world.plugged.is_none()),
            Phase::WrongMode(persona) => prop_assert!(!world.in_vm && world.plugged == Some(persona)),
            Phase::Leased | Phase::Held | Phase::Ended => prop_assert!(!world.in_vm),
            phase => prop_assert!(false, "{phase:?} is no phase to stay in"),
        }
    }

    #[test]
    fn an_order_of_another_epoch_changes_nothing(life in proptest::collection::vec(happens(), 0..20), epoch in any::<u64>()) {
        prop_assume!(epoch != 7);
        let keeper = Keeper::new("lab/a", 7, Persona::Ptp);
        let mut world = World { keeper, plugged: Some(Persona::Ptp), in_vm: false, acts: Default::default() };
        life.into_iter().for_each(|what| world.happen(what));
        let before = world.keeper.clone();
        let outcome = world.keeper.step(epoch, Event::Detach { hold: false });
        prop_assert_eq!(outcome, Err(LeaseError::Stale { order: epoch, current: 7 }));
        prop_assert_eq!(world.keeper, before);
    }

    #[test]
    fn epochs_only_rise_and_a_lease_has_one_holder(asks in proptest::collection::vec((0u8..3, any::<bool>(), any::<bool>()), 0..40)) {
        let (mut leases, mut last) = (Leases::default(), 0);
        for (who, steal, gives_back) in asks {
            let holder = format!("lab/{who}");
            let before = leases.get(&camera()).cloned();
            let expected = before.as_ref().map_or(0, |lease| lease.epoch);
            match leases.acquire(&camera(), &holder, expected, steal) {
                Ok(lease) => {
                    prop_assert!(lease.epoch > last || before.as_ref() == Some(&lease));
                    last = lease.epoch;
                    prop_assert_eq!(leases.get(&camera()), Some(&lease));
                    if gives_back {
                        prop_assert!(leases.release(&camera(), lease.epoch));
                    }
                }
                Err(_) => prop_assert_eq!(leases.get(&camera()), before.as_ref()),
            }
            let stored = serde_json::to_string(&leases).expect("a record");
            leases = serde_json::from_str(&stored).expect("the record");
        }
    }
}
