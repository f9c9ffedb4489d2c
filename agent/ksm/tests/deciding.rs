//! What the decision promises, on a model of ksmd.
#![allow(clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{FOUND, GIB, Model, play};
use fleet_ksm::decide::{MAX_PAGE_SHARING, PAGES_TO_SCAN, SLEEP_MILLISECS, shortness};
use fleet_ksm::{Counters, Decision, Input, Mode, Phase, Pressure, State, Wave, decide};
use proptest::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);

fn phases(decisions: &[Decision]) -> Vec<Phase> {
    let mut phases: Vec<Phase> = decisions.iter().map(|decision| decision.state.phase).collect();
    phases.dedup();
    phases
}

#[test]
fn nothing_is_touched_while_nobody_asks() {
    for (mode, vms) in [(Mode::Off, 100), (Mode::Aggressive, 0)] {
        let input = Input { vms, ..Model::new(mode).input };
        let decision = decide(&State::default(), &input);
        assert_eq!((decision.settings, decision.state.phase, decision.next), (FOUND, Phase::Off, None));
    }
}

#[test]
fn a_wave_of_boots_is_merged_and_then_left_in_peace() {
    for mode in [Mode::On, Mode::Aggressive] {
        let (mut model, mut state) = (Model::new(mode), State::default());
        model.boot(30);
        let decisions = play(&mut model, &mut state, 2 * MINUTE);
        assert_eq!(phases(&decisions), [Phase::Burst, Phase::Decay, Phase::Hold], "{mode:?}");
        assert_eq!(model.input.counters.profit, model.attainable(), "{mode:?}: everything is merged");
    }
}

#[test]
fn when_nothing_changes_it_costs_less_than_a_hundredth_of_a_core() {
    for visit in [1e-7, 1e-6, 2e-5] {
        let (mut model, mut state) = (Model::new(Mode::Aggressive), State::default());
        model.visit = visit;
        model.boot(20);
        play(&mut model, &mut state, 5 * MINUTE);
        let before = model.input.ksmd_cpu.unwrap();
        play(&mut model, &mut state, 10 * MINUTE);
        let percent = model.percent(before, 10 * MINUTE);
        assert!(percent < 1.0, "{percent} % with {visit} s a page");
    }
}

#[test]
fn new_vms_bring_the_burst_back() {
    let (mut model, mut state) = (Model::new(Mode::Aggressive), State::default());
    model.boot(10);
    play(&mut model, &mut state, 5 * MINUTE);
    assert_eq!(state.phase, Phase::Hold);
    model.boot(10);
    let decision = decide(&state, &model.input);
    assert_eq!(decision.state.phase, Phase::Burst);
    play(&mut model, &mut state, MINUTE);
    assert_eq!(model.input.counters.profit, model.attainable());
}

#[test]
fn while_vms_boot_the_processor_is_theirs() {
    let (mut model, mut state) = (Model::new(Mode::Aggressive), State::default());
    model.boot(10);
    play(&mut model, &mut state, Duration::from_secs(1));
    model.input.wave.under_way = true;
    let before = model.input.ksmd_cpu.unwrap();
    play(&mut model, &mut state, MINUTE);
    let percent = model.percent(before, MINUTE);
    assert!(percent < 10.0, "{percent} %");
    model.input.pressure.available = 2 * GIB;
    let decision = decide(&state, &model.input);
    assert!(decision.state.share > 0.5, "unless memory is short: {decision:?}");
}

#[test]
fn mode_on_takes_a_quarter_of_a_core_and_more_when_memory_is_short() {
    let mut model = Model::new(Mode::On);
    model.boot(50);
    let share = |model: &Model| decide(&State::default(), &model.input).state.share;
    assert_eq!(share(&model), 0.25);
    model.input.pressure.available = GIB / 10;
    assert_eq!(share(&model), 1.0);
}

#[test]
fn memory_that_guests_keep_writing_is_no_gain() {
    let (mut model, mut state) = (Model::new(Mode::Aggressive), State::default());
    model.boot(20);
    play(&mut model, &mut state, 3 * MINUTE);
    for _ in 0..100 {
        // As much is written as is merged: ksmd works, and nothing comes of it.
        model.input.counters.profit -= 20_000_000;
        play(&mut model, &mut state, Duration::from_secs(1));
        model.input.counters.profit += 20_000_000;
        play(&mut model, &mut state, Duration::from_secs(1));
    }
    assert!(state.share < 0.05, "{state:?}");
}

#[test]
fn what_guests_have_written_once_is_merged_again() {
    let (mut model, mut state) = (Model::new(Mode::Aggressive), State::default());
    model.boot(20);
    play(&mut model, &mut state, 3 * MINUTE);
    assert_eq!(state.phase, Phase::Hold);
    model.input.counters.profit -= model.input.counters.profit / 5;
    let decision = decide(&state, &model.input);
    assert_eq!((decision.state.phase, decision.state.share), (Phase::Decay, 0.02));
    model.input.counters.profit = model.attainable();
    let mut state = decision.state;
    play(&mut model, &mut state, MINUTE);
    assert_eq!(state.phase, Phase::Hold);
}

#[test]
fn max_page_sharing_is_raised_only_while_nothing_is_merged() {
    let mut model = Model::new(Mode::On);
    model.boot(1000);
    let sharing = |model: &Model| decide(&State::default(), &model.input).settings.max_page_sharing;
    assert_eq!(sharing(&model), Some(2048));
    model.input.counters.shared = 1;
    assert_eq!(sharing(&model), Some(256));
    model.input.now.max_page_sharing = None;
    assert_eq!(sharing(&model), None, "a kernel without it");
}

#[test]
fn the_books_are_cleared_before_everything_is_put_back() {
    let (mut model, mut state) = (Model::new(Mode::On), State::default());
    model.boot(200);
    play(&mut model, &mut state, MINUTE);
    model.input.vms = 0;
    let decision = decide(&state, &model.input);
    assert_eq!(decision.settings.run, 1);
    model.input.counters.shared = 0;
    let decision = decide(&decision.state, &model.input);
    assert_eq!((decision.settings, decision.state.phase), (FOUND, Phase::Off));
}

#[test]
fn books_that_stay_full_hold_nobody_up() {
    let (mut model, mut state) = (Model::new(Mode::On), State::default());
    model.boot(20);
    play(&mut model, &mut state, MINUTE);
    model.input.vms = 0;
    model.input.elapsed = Duration::from_millis(200);
    for _ in 0..100 {
        let decision = decide(&state, &model.input);
        state = decision.state;
        if decision.next.is_none() {
            return;
        }
    }
    panic!("it never ended: {state:?}");
}

#[test]
fn without_a_sight_of_ksmd_it_still_ends_its_burst() {
    let (mut model, mut state) = (Model::new(Mode::Aggressive), State::default());
    model.boot(10);
    for _ in 0..600 {
        let input = Input { ksmd_cpu: None, ..model.input.clone() };
        let decision = decide(&state, &input);
        state = decision.state.clone();
        model.run(&decision.settings, decision.next.unwrap());
    }
    assert_eq!(state.phase, Phase::Hold);
}

fn pressure() -> impl Strategy<Value = Pressure> {
    (0.0..100.0, 0.0..100.0, 0..=24 * GIB).prop_map(|(some, full, available)| Pressure {
        some,
        full,
        available,
        total: 24 * GIB,
    })
}

prop_compose! {
    fn input()(
        elapsed in 0u64..100_000, aggressive: bool, vms in 1u32..5000, ended in 0u64..4, ago in 0u64..100,
        under_way: bool, pressure in pressure(), counts in proptest::array::uniform7(0u64..1_000_000),
        profit in -1_000_000_000i64..1_000_000_000, cpu in proptest::option::of(0u64..1_000_000)
    ) -> Input {
        let [shared, sharing, unshared, volatile, zero, scanned, full_scans] = counts;
        Input {
            elapsed: Duration::from_millis(elapsed),
            mode: if aggressive { Mode::Aggressive } else { Mode::On },
            vms,
            wave: Wave { ended, ago: Duration::from_secs(ago), under_way },
            pressure,
            counters: Counters { shared, sharing, unshared, volatile, zero, scanned, full_scans, profit },
            ksmd_cpu: cpu.map(Duration::from_millis),
            found: FOUND,
            now: FOUND,
        }
    }
}

/// Where some inputs lead.
fn after(inputs: &[Input]) -> State {
    inputs.iter().fold(State::default(), |state, input| decide(&state, input).state)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_beyond_the_bounds_is_ever_set(inputs in proptest::collection::vec(input(), 1..30)) {
        let mut state = State::default();
        for input in &inputs {
            let Decision { settings, state: next, next: wait, .. } = decide(&state, input);
            prop_assert!(PAGES_TO_SCAN.contains(&settings.pages_to_scan), "{settings:?}");
            prop_assert!(SLEEP_MILLISECS.contains(&settings.sleep_millisecs), "{settings:?}");
            prop_assert!(settings.max_page_sharing.is_some_and(|most| (256..=MAX_PAGE_SHARING).contains(&most)));
            prop_assert_eq!(settings.run, 1);
            prop_assert!(next.share > 0.0 && next.share <= 1.0, "{next:?}");
            prop_assert!(wait.is_some_and(|wait| wait >= Duration::from_millis(100) && wait <= MINUTE));
            state = next;
        }
    }

    #[test]
    fn it_always_decays_when_nothing_is_gained(inputs in proptest::collection::vec(input(), 0..20), last in input()) {
        let mut state = after(&inputs);
        // ksmd works and the rounds go by, but nothing comes of it, however short memory is.
        let mut input = Input { wave: Wave { under_way: false, ago: MINUTE, ..last.wave }, ..last };
        input.ksmd_cpu = Some(input.ksmd_cpu.unwrap_or_default());
        for _ in 0..100 {
            let decision = decide(&state, &input);
            state = decision.state;
            input.elapsed = decision.next.unwrap();
            input.counters.full_scans += 1;
            input.counters.scanned += 100_000;
            *input.ksmd_cpu.as_mut().unwrap() += Duration::from_millis(100);
        }
        prop_assert_eq!(state.phase, Phase::Hold);
        prop_assert!(state.share <= 0.004, "{:?}", state);
    }

    #[test]
    fn shorter_memory_never_means_less(
        inputs in proptest::collection::vec(input(), 0..20), input in input(), other in pressure()
    ) {
        let state = after(&inputs);
        let share = |pressure: Pressure| decide(&state, &Input { pressure, ..input.clone() }).state.share;
        let (less, more) = if shortness(&other) < shortness(&input.pressure) {
            (other, input.pressure)
        } else {
            (input.pressure, other)
        };
        prop_assert!(share(less) <= share(more) + 1e-9, "{} > {}", share(less), share(more));
    }

    #[test]
    fn added_vms_always_bring_a_burst(inputs in proptest::collection::vec(input(), 0..20), last in input()) {
        let state = after(&inputs);
        let mut input = last;
        input.wave.under_way = false;
        let settled = decide(&state, &input).state;
        input.vms += 1;
        prop_assert_eq!(decide(&settled, &input).state.phase, Phase::Burst);
    }
}
