//! One promise a test, on small fleets.

#![allow(missing_docs, clippy::unwrap_used)]

mod world;

use fleet_core::{Action, Answer, HostState, Input, Phase};
use fleet_proto::v1::{Options, Outcome};
use world::{Fate, World, spec};

const TEN: &str = "lan a\nrouter r { on a }\nvm web[0..10] { on a; mem 10MiB }";

fn fleet(hosts: &[(&str, u64)]) -> World {
    let mut world = World::new();
    hosts.iter().for_each(|(name, mib)| world.join(name, *mib));
    world
}

fn up(world: &mut World, name: &str, source: &str) -> String {
    let op_id = world.op();
    world.give(Input::Up { op_id: op_id.clone(), spec: Box::new(spec(name, source)) });
    op_id
}

fn end_all(world: &mut World, fate: Fate) {
    for op_id in world.waves.keys().cloned().collect::<Vec<_>>() {
        world.end(&op_id, &mut |_| fate);
    }
}

fn counts(world: &World, op_id: &str) -> Vec<(Outcome, u32)> {
    let Some(Answer::Summary(summary)) = world.answers.get(op_id) else { panic!("{:?}", world.answers.get(op_id)) };
    summary.folds.iter().map(|fold| (fold.outcome(), fold.count)).collect()
}

#[test]
fn an_up_is_answered_when_every_host_has_confirmed() {
    let mut world = fleet(&[("h1", 60), ("h2", 60)]);
    let op = up(&mut world, "e", TEN);
    assert_eq!(world.waves.len(), 1, "one wave for all hosts");
    assert!(!world.answers.contains_key(&op));
    end_all(&mut world, Fate::Done);
    assert_eq!(counts(&world, &op), [(Outcome::Ok, 10)]);
    assert_eq!(world.core.experiment("e").unwrap().phase, Phase::Up);
    assert_eq!(world.core.wake_at(), None, "nothing is left to do");
}

#[test]
fn a_plan_that_does_not_fit_is_refused_with_the_sums_and_changes_nothing() {
    let mut world = fleet(&[("h1", 60)]);
    let store = world.store.clone();
    let op = up(&mut world, "e", TEN);
    let Some(Answer::Refused(text)) = world.answers.get(&op) else { panic!() };
    assert!(text.contains("10 VMs need 100 MiB") && text.contains("60 MiB"), "{text}");
    assert_eq!(store, world.store);
    assert!(world.core.experiment("e").is_none());
}

#[test]
fn vms_of_hosts_that_did_not_answer_are_counted_by_placement() {
    let mut world = fleet(&[("h1", 40), ("h2", 40), ("h3", 40)]);
    let op = up(&mut world, "e", TEN);
    // Three tries, as often as an operation waits for.
    for _ in 0..3 {
        end_all(&mut world, Fate::Done);
        if !world.answers.contains_key(&op) {
            break;
        }
    }
    let op = up(&mut world, "e", TEN);
    world.lose("h3");
    let wave = world.waves.keys().next().unwrap().clone();
    world.end(&wave, &mut |host| if host == "h2" { Fate::ActsUnheard } else { Fate::Done });
    for _ in 0..10 {
        let Some(at) = world.core.wake_at().filter(|_| !world.answers.contains_key(&op)) else { break };
        world.now = at;
        world.tick(0);
        end_all(&mut world, Fate::ActsUnheard);
    }
    let sums = counts(&world, &op);
    assert_eq!(sums.iter().map(|(_, n)| n).sum::<u32>(), 10);
    let of = |outcome| sums.iter().filter(|(o, _)| *o == outcome).map(|(_, n)| *n).sum::<u32>();
    let on = |host: &str| {
        let experiment = world.core.experiment("e").unwrap();
        let place = experiment.spec.hosts.iter().find(|place| place.host == host).unwrap();
        place.ranges.iter().map(|range| range.count).sum::<u32>()
    };
    assert_eq!((of(Outcome::Ok), of(Outcome::Unknown), of(Outcome::NotReached)), (on("h1"), on("h2"), on("h3")));
}

#[test]
fn a_host_that_comes_back_gets_its_spec_again_unless_it_has_it_still() {
    let mut world = fleet(&[("h1", 60), ("h2", 60)]);
    up(&mut world, "e", TEN);
    end_all(&mut world, Fate::Done);
    world.lose("h2");
    world.see("h2");
    world.tick(1000);
    assert!(world.waves.is_empty(), "the same life of its agent has confirmed it");
    world.restart("h2");
    world.tick(1000);
    assert!(world.waves.is_empty(), "another life has found it again");
    world.agents.get_mut("h2").unwrap().holds.clear();
    world.restart("h2");
    world.tick(1000);
    let wave = world.waves.values().next().expect("it has lost it");
    assert_eq!(wave.members.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["h2"]);
}

#[test]
fn a_removed_experiment_is_removed_on_hosts_that_come_back_later() {
    let mut world = fleet(&[("h1", 60), ("h2", 60)]);
    up(&mut world, "e", TEN);
    end_all(&mut world, Fate::Done);
    world.lose("h2");
    let op = world.op();
    world.give(Input::Down { op_id: op.clone(), experiment: "e".into() });
    end_all(&mut world, Fate::Done);
    let sums = counts(&world, &op);
    assert_eq!(sums.iter().map(|(_, n)| n).sum::<u32>(), 10);
    assert!(sums.iter().any(|(outcome, _)| *outcome == Outcome::NotReached), "{sums:?}");
    assert_eq!(world.core.experiment("e").unwrap().phase, Phase::Removing);
    world.kill_controller();
    world.see("h2");
    world.settle();
    assert!(world.core.experiment("e").is_none());
    assert!(world.agents["h2"].holds.is_empty());
    assert!(world.store.keys().all(|key| !key.ends_with("/e") && !key.contains("/e/")), "{:?}", world.store.keys());
}

#[test]
fn draining_moves_only_what_is_on_the_host_and_removes_it_there_at_last() {
    let mut world = fleet(&[("h1", 60), ("h2", 60), ("h3", 60)]);
    up(&mut world, "e", TEN);
    end_all(&mut world, Fate::Done);
    let place = |world: &World, host: &str| {
        let experiment = world.core.experiment("e").unwrap();
        experiment.spec.hosts.iter().find(|place| place.host == host).map(|p| p.ranges.clone()).unwrap_or_default()
    };
    let (first, second) = (place(&world, "h1"), place(&world, "h2"));
    let op = world.op();
    world.give(Input::Drain { op_id: op, hosts: vec!["h1".into()] });
    assert!(second.iter().all(|range| place(&world, "h2").contains(range)), "others do not move");
    assert!(!first.is_empty() && place(&world, "h1").is_empty());
    let vms = |ranges: &[fleet_proto::v1::Range]| ranges.iter().map(|range| u64::from(range.count)).sum::<u64>();
    let held =
        |world: &World| world.core.held_by("h1").map(|held| (held.experiment.to_owned(), held.vms)).collect::<Vec<_>>();
    assert_eq!(held(&world), [("e".to_owned(), vms(&first))]);
    assert!(
        world.waves.values().all(|wave| wave.members.iter().all(|m| m.name != "h1")),
        "not before others have them"
    );
    end_all(&mut world, Fate::Done);
    assert!(!world.agents["h1"].holds.is_empty());
    world.settle();
    assert!(world.agents["h1"].holds.is_empty());
    assert_eq!(held(&world), []);
    world.assert_converged();
    assert!(world.notes.iter().any(|note| note.starts_with("h1: is drained")), "{:?}", world.notes);
    assert_eq!(world.core.hosts().next().unwrap().state, HostState::Draining);
}

#[test]
fn draining_that_finds_no_room_is_refused() {
    let mut world = fleet(&[("h1", 60), ("h2", 60)]);
    up(&mut world, "e", TEN);
    end_all(&mut world, Fate::Done);
    let op = world.op();
    world.give(Input::Drain { op_id: op.clone(), hosts: vec!["h1".into()] });
    let Some(Answer::Refused(text)) = world.answers.get(&op) else { panic!() };
    assert!(text.contains("100 MiB"), "{text}");
    assert!(world.waves.is_empty());
    assert_eq!(world.core.hosts().next().unwrap().state, HostState::Ready);
}

#[test]
fn vms_of_a_removed_host_wait_for_room_and_get_it_from_a_late_joiner() {
    let mut world = fleet(&[("h1", 60), ("h2", 60)]);
    up(&mut world, "e", TEN);
    end_all(&mut world, Fate::Done);
    world.lose("h2");
    let op = world.op();
    world.give(Input::Remove { op_id: op, hosts: vec!["h2".into()] });
    assert_eq!(world.core.experiment("e").unwrap().phase, Phase::Placing);
    world.join("h3", 100);
    world.settle();
    assert_eq!(world.core.experiment("e").unwrap().phase, Phase::Up);
    assert_eq!(world.agents["h3"].holds["e"].vms.len() + world.agents["h1"].holds["e"].vms.len(), 10);
}

#[test]
fn a_host_without_contact_gets_nothing_new() {
    let mut world = fleet(&[("h1", 200), ("h2", 200)]);
    world.lose("h1");
    up(&mut world, "e", TEN);
    let experiment = world.core.experiment("e").unwrap();
    assert!(experiment.spec.hosts.iter().all(|place| place.host == "h2"));
}

#[test]
fn what_cannot_be_is_not_tried_again_and_what_may_be_is_later_each_time() {
    let mut world = fleet(&[("h1", 60), ("h2", 60)]);
    let op = up(&mut world, "e", TEN);
    let wave = world.waves.keys().next().unwrap().clone();
    world.end(&wave, &mut |host| if host == "h1" { Fate::Fails } else { Fate::FailsForNow });
    let mut times = vec![0];
    for _ in 0..6 {
        world.now = world.core.wake_at().unwrap();
        world.tick(0);
        let wave = world.waves.values().next().unwrap().clone();
        assert_eq!(wave.members.len(), 1);
        assert_eq!(wave.members[0].name, "h2");
        times.push(world.now);
        end_all(&mut world, Fate::FailsForNow);
    }
    let waits: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((500..=1000).contains(&waits[0]) && waits[4] >= 8_000, "{waits:?}");
    assert_eq!(counts(&world, &op).iter().map(|(_, n)| n).sum::<u32>(), 10);
    assert_eq!(world.core.experiment("e").unwrap().failed, [("h1", "no such image")]);
}

#[test]
fn retries_of_many_hosts_keep_to_the_budget_of_the_fleet() {
    let names: Vec<String> = (0..40).map(|at| format!("h{at}")).collect();
    let mut world = World::new();
    names.iter().for_each(|name| world.join(name, 20));
    up(&mut world, "e", "lan a\nvm web[0..80] { on a; mem 10MiB }");
    end_all(&mut world, Fate::FailsForNow);
    let mut retried = 0;
    while world.now < 3_000 {
        world.now = world.core.wake_at().unwrap();
        world.tick(0);
        retried += world.waves.values().map(|wave| wave.members.len()).sum::<usize>();
        end_all(&mut world, Fate::Untold);
    }
    let settings = world::settings();
    let most = settings.retry_burst as usize + settings.retries_per_second as usize * 3 + 1;
    assert!(retried <= most, "{retried} of {most}");
}

#[test]
fn a_controller_killed_in_the_middle_of_an_up_sends_the_same_wave_and_answers() {
    let mut world = fleet(&[("h1", 60), ("h2", 60)]);
    let op = up(&mut world, "e", TEN);
    let before = world.waves.values().next().unwrap().clone();
    world.kill_controller();
    let after = world.waves.values().next().unwrap().clone();
    assert_eq!((&before.op_id, &before.members), (&after.op_id, &after.members));
    assert!(after.epoch > before.epoch);
    end_all(&mut world, Fate::Done);
    assert_eq!(counts(&world, &op), [(Outcome::Ok, 10)]);
}

#[test]
fn an_up_that_fails_and_rolls_back_brings_back_what_was_before() {
    let mut world = fleet(&[("h1", 60), ("h2", 60)]);
    up(&mut world, "e", "lan a\nvm web[0..2] { on a }");
    end_all(&mut world, Fate::Done);
    let mut next = spec("e", TEN);
    next.options = Some(Options { rollback: true, ..Options::default() });
    let op_id = world.op();
    world.give(Input::Up { op_id: op_id.clone(), spec: Box::new(next) });
    let wave = world.waves.keys().next().unwrap().clone();
    world.end(&wave, &mut |host| if host == "h1" { Fate::Done } else { Fate::Fails });
    assert!(counts(&world, &op_id).iter().any(|(outcome, _)| *outcome == Outcome::Failed));
    world.settle();
    assert_eq!(
        world.agents.values().flat_map(|agent| agent.holds.values()).map(|held| held.vms.len()).sum::<usize>(),
        2
    );
}

#[test]
fn an_experiment_that_nobody_knows_is_told_of_and_left_alone() {
    let mut world = fleet(&[("h1", 60)]);
    world.agents.get_mut("h1").unwrap().holds.insert("stranger".into(), world::Held::default());
    world.see("h1");
    world.tick(60_000);
    assert!(world.waves.is_empty());
    assert!(world.notes.iter().any(|note| note.contains("`stranger`")), "{:?}", world.notes);
}

#[test]
fn a_wave_without_end_is_given_up_after_its_time() {
    let mut world = fleet(&[("h1", 60), ("h2", 60)]);
    up(&mut world, "e", TEN);
    let op_id = world.waves.keys().next().unwrap().clone();
    let at = world.core.wake_at().unwrap();
    let output = world.core.handle(at, Input::Tick);
    let abandoned = output.actions.iter().any(|action| matches!(action, Action::Abandon { op_id: id } if *id == op_id));
    assert!(abandoned, "{:?}", output.actions);
    assert!(world.core.wake_at().unwrap() > at, "its members are tried again later");
}
