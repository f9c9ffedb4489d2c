//! Random lives of a fleet: whatever happens, and whenever the controller is killed, sums add up, nothing is done
//! twice, no VM is lost, and once faults stop everything is as it is wanted.

#![allow(missing_docs, clippy::unwrap_used)]

mod world;

use fleet_core::{Answer, Input};
use proptest::prelude::*;
use world::{Fate, World, spec};

#[derive(Clone, Debug)]
enum Event {
    Join(u8),
    Lose(u8),
    See(u8),
    Restart(u8),
    KillController,
    Up(u8, u8, bool),
    Down(u8),
    Drain(u8),
    Undrain(u8),
    Remove(u8),
    EndWave(u8, u64),
    Wait(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0u8..7).prop_map(Event::Join),
        3 => (0u8..7).prop_map(Event::Lose),
        3 => (0u8..7).prop_map(Event::See),
        2 => (0u8..7).prop_map(Event::Restart),
        2 => Just(Event::KillController),
        5 => (0u8..3, 0u8..40, any::<bool>()).prop_map(|(name, vms, back)| Event::Up(name, vms, back)),
        2 => (0u8..3).prop_map(Event::Down),
        2 => (0u8..7).prop_map(Event::Drain),
        1 => (0u8..7).prop_map(Event::Undrain),
        1 => (0u8..7).prop_map(Event::Remove),
        12 => (any::<u8>(), any::<u64>()).prop_map(|(which, fates)| Event::EndWave(which, fates)),
        6 => (0u16..3000).prop_map(Event::Wait),
    ]
}

fn fate(roll: u64) -> Fate {
    match roll % 16 {
        0 => Fate::ActsUnheard,
        1 => Fate::Untold,
        2 => Fate::FailsForNow,
        3 if roll % 64 == 3 => Fate::Fails,
        _ => Fate::Done,
    }
}

fn play(world: &mut World, event: &Event, ops: &mut Vec<String>) {
    let host = |number: &u8| format!("h{number}");
    let name = |number: &u8| format!("e{number}");
    let known = |world: &World, number: &u8| world.agents.contains_key(&host(number));
    match event {
        Event::Join(h) => world.join(&host(h), 100 + 40 * u64::from(*h)),
        Event::Lose(h) if known(world, h) => world.lose(&host(h)),
        Event::See(h) if known(world, h) => world.see(&host(h)),
        Event::Restart(h) if known(world, h) => world.restart(&host(h)),
        Event::KillController => world.kill_controller(),
        Event::Up(e, vms, rollback) => {
            let source =
                format!("lan a\nrouter r {{ on a }}\nvm web[0..{}] {{ on a }}\nvm alice {{ on a }}", vms.max(&1));
            let mut spec = spec(&name(e), &source);
            spec.options = Some(fleet_proto::v1::Options { rollback: *rollback, ..Default::default() });
            let op_id = world.op();
            ops.push(op_id.clone());
            world.give(Input::Up { op_id, spec: Box::new(spec) });
        }
        Event::Down(e) => {
            let op_id = world.op();
            ops.push(op_id.clone());
            world.give(Input::Down { op_id, experiment: name(e) });
        }
        Event::Drain(h) => {
            let op_id = world.op();
            world.give(Input::Drain { op_id, hosts: vec![host(h)] });
        }
        Event::Undrain(h) => {
            let op_id = world.op();
            world.give(Input::Undrain { op_id, hosts: vec![host(h)] });
        }
        Event::Remove(h) => {
            let op_id = world.op();
            world.give(Input::Remove { op_id, hosts: vec![host(h)] });
        }
        Event::EndWave(which, fates) => {
            let all: Vec<String> = world.waves.keys().cloned().collect();
            if !all.is_empty() {
                let op_id = all[usize::from(*which) % all.len()].clone();
                let mut rolls = *fates;
                world.end(&op_id, &mut |_| {
                    rolls = rolls.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    fate(rolls >> 33)
                });
            }
        }
        Event::Wait(ms) => world.tick(u64::from(*ms)),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_fleet_converges_once_faults_stop(events in proptest::collection::vec(event(), 1..80)) {
        let mut world = World::new();
        let mut ops = Vec::new();
        for event in &events {
            play(&mut world, event, &mut ops);
        }
        world.settle();
        world.assert_converged();
        for op in ops {
            prop_assert!(world.answers.contains_key(&op), "{} was not answered", op);
        }
    }

    #[test]
    fn a_killed_controller_goes_on_as_if_it_had_not_been(events in proptest::collection::vec(event(), 1..40)) {
        let mut world = World::new();
        let mut ops = Vec::new();
        for event in &events {
            play(&mut world, event, &mut ops);
            let before: Vec<_> = world.core.experiments().map(|e| (e.name.to_owned(), e.generation, e.spec.clone())).collect();
            let committed: Vec<_> = world.core.hosts().map(|h| (h.record.clone(), h.committed)).collect();
            world.kill_controller();
            let after: Vec<_> = world.core.experiments().map(|e| (e.name.to_owned(), e.generation, e.spec.clone())).collect();
            let committed_after: Vec<_> = world.core.hosts().map(|h| (h.record.clone(), h.committed)).collect();
            prop_assert_eq!(before, after);
            prop_assert_eq!(committed, committed_after);
        }
        world.settle();
        world.assert_converged();
        for op in ops {
            prop_assert!(world.answers.contains_key(&op), "{} was not answered", op);
        }
        prop_assert!(world.answers.values().all(|answer| !matches!(answer, Answer::Refused(text) if text.is_empty())));
    }
}
