//! The controller on simulated hosts: cores that boots share, boots of some processor time and some waiting, memory
//! that runs short, and others who want the processors, too.

use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;
/// A step of the simulation, in seconds.
const STEP: f64 = 0.005;

/// A boot on its way: half of the wait, the work, the other half.
struct Boot {
    wait: f64,
    work: f64,
    rest: f64,
    age: f64,
}

struct Host {
    cores: u32,
    /// Of one boot, in seconds.
    work: f64,
    wait: f64,
    /// Tasks of others that always want a processor.
    others: u32,
    /// Share of the time that tasks wait for memory.
    thrashing: f64,
    available: u64,
    controller: Controller,
    boots: Vec<Boot>,
    now: f64,
    busy: f64,
    cpu_wait: f64,
    memory_wait: f64,
    /// Boots that ended.
    done: u32,
    random: u64,
}

impl Host {
    fn new(cores: u32, work: f64, wait: f64) -> Self {
        let controller = Controller::new(cores);
        let (others, thrashing, available) = (0, 0.0, 8 * GIB);
        let (now, busy, cpu_wait, memory_wait) = (0.0, 0.0, 0.0, 0.0);
        let boots = Vec::new();
        Self {
            cores,
            work,
            wait,
            others,
            thrashing,
            available,
            controller,
            boots,
            now,
            busy,
            cpu_wait,
            memory_wait,
            done: 0,
            random: 1,
        }
    }

    /// Ready to run: boots that do not wait, and others.
    fn runnable(&self) -> u32 {
        self.others
            + u32::try_from(self.boots.iter().filter(|boot| boot.wait <= 0.0 && boot.work > 0.0).count()).unwrap()
    }

    /// No two boots are alike: a quarter more or less, the same in each run.
    fn vary(&mut self) -> f64 {
        // Knuth's linear congruential generator (MMIX).
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        0.75 + 0.5 * (self.random >> 11) as f64 / (1u64 << 53) as f64
    }

    fn step(&mut self) {
        while (self.boots.len() as u32) < self.controller.limit() {
            let (wait, work) = (self.wait * self.vary(), self.work * self.vary());
            self.boots.push(Boot { wait: wait / 2.0, work, rest: wait / 2.0, age: 0.0 });
        }
        let runnable = self.runnable();
        let share = (f64::from(self.cores) / f64::from(runnable.max(1))).min(1.0) * STEP;
        self.busy += f64::from(runnable.min(self.cores)) * STEP;
        self.cpu_wait += if runnable > self.cores { STEP } else { 0.0 };
        self.memory_wait += self.thrashing * STEP;
        self.now += STEP;
        for boot in &mut self.boots {
            boot.age += STEP;
            if boot.wait > 0.0 {
                boot.wait -= STEP;
            } else if boot.work > 0.0 {
                boot.work -= share;
            } else {
                boot.rest -= STEP;
            }
        }
        let up: Vec<f64> =
            self.boots.extract_if(.., |boot| boot.work <= 0.0 && boot.rest <= 0.0).map(|boot| boot.age).collect();
        for age in &up {
            self.controller.booted(Duration::from_secs_f64(*age));
        }
        self.done += up.len() as u32;
        let ticks = |seconds: f64| (seconds * 100.0) as u64;
        let look = Look {
            at: Duration::from_secs_f64(self.now),
            cpu: CpuTicks { busy: ticks(self.busy), total: ticks(self.now * f64::from(self.cores)) },
            cpu_wait: Some(Duration::from_secs_f64(self.cpu_wait)),
            memory_wait: Some(Duration::from_secs_f64(self.memory_wait)),
            memory: Memory { total: 24 * GIB, available: self.available },
            runnable: self.runnable() + 1,
            starting: self.boots.len() as u32,
            waiting: true,
        };
        let limit = self.controller.look(&look);
        assert!(limit >= 1 && limit <= self.controller.most());
    }

    fn run(&mut self, seconds: f64) {
        let end = self.now + seconds;
        while self.now < end {
            self.step();
        }
    }

    /// The share of all processors that was in use over the next seconds.
    fn use_over(&mut self, seconds: f64) -> f64 {
        let (busy, now) = (self.busy, self.now);
        self.run(seconds);
        (self.busy - busy) / (self.now - now) / f64::from(self.cores)
    }
}

/// How long a few boots take, one after the other, and not less than some looks.
fn a_few(work: f64, wait: f64) -> f64 {
    (6.0 * (work + wait)).max(4.0)
}

#[test]
fn short_boots_and_long_boots_fill_the_processors_within_a_few_boots() {
    for (work, wait) in [(0.03, 0.0), (0.03, 0.1), (0.03, 0.5), (2.0, 0.0), (2.0, 1.0), (2.0, 10.0)] {
        for cores in [1, 2, 8, 64] {
            let mut host = Host::new(cores, work, wait);
            host.run(a_few(work, wait));
            let used = host.use_over(10.0 * (work + wait).max(1.0));
            assert!(
                used >= 0.95,
                "{cores} cores, {work} s of work, {wait} s of waiting: {used}, {:?}",
                host.controller
            );
        }
    }
}

#[test]
fn boots_of_work_alone_do_not_crowd_the_host() {
    let mut host = Host::new(2, 2.0, 0.0);
    host.run(60.0);
    assert!(host.controller.limit() <= 8, "{:?}", host.controller);
}

#[test]
fn a_host_that_others_use_is_shared_and_not_left() {
    let mut host = Host::new(4, 0.5, 0.1);
    host.others = 40;
    host.run(120.0);
    assert_eq!(host.controller.limit(), 4, "one a core at least");
    host.others = 0;
    host.run(10.0);
    assert!(host.use_over(10.0) >= 0.95);
}

#[test]
fn pressure_on_memory_brings_starts_down_to_one_and_never_to_none() {
    for (thrashing, available) in [(0.5, 8 * GIB), (0.0, 100 << 20)] {
        let mut host = Host::new(8, 0.03, 0.1);
        host.run(5.0);
        (host.thrashing, host.available) = (thrashing, available);
        host.run(3.0);
        let before = host.done;
        host.run(3.0);
        assert_eq!(host.controller.limit(), 1);
        assert!(host.done > before, "it goes on");
        (host.thrashing, host.available) = (0.0, 8 * GIB);
        host.run(5.0);
        assert!(host.use_over(10.0) >= 0.95, "and back to full speed when it is over");
    }
}

#[test]
fn looks_that_follow_too_soon_change_nothing() {
    let mut controller = Controller::new(2);
    let idle = |ms| Look {
        at: Duration::from_millis(ms),
        cpu: CpuTicks { busy: 0, total: ms },
        memory: Memory { total: 24 * GIB, available: 8 * GIB },
        starting: 8,
        waiting: true,
        ..Look::default()
    };
    for ms in (1000..1500).step_by(50) {
        assert_eq!(controller.look(&idle(ms)), 8, "half a second tells nothing of boots yet");
    }
    assert_eq!(controller.look(&idle(1500)), 16);
    controller.booted(Duration::from_millis(100));
    assert_eq!(controller.look(&idle(1550)), 16);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_boots_fill_any_host(cores in 1u32..17, work in 0.02f64..2.0, ratio in 0.0f64..8.0) {
        let wait = work * ratio;
        let mut host = Host::new(cores, work, wait);
        host.run(a_few(work, wait));
        let used = host.use_over(10.0 * (work + wait).max(1.0));
        prop_assert!(used >= 0.95, "{used}, {:?}", host.controller);
    }

    #[test]
    fn whatever_is_seen_the_answer_stays_in_bounds(
        cores in 0u32..300,
        looks in proptest::collection::vec((0u64..3000, any::<[u64; 7]>(), any::<[u32; 2]>(), any::<bool>()), 1..200),
    ) {
        let mut controller = Controller::new(cores);
        for (ms, [busy, total, wait, memory_wait, of, available, took], [runnable, starting], waiting) in looks {
            controller.booted(Duration::from_millis(took));
            let look = Look {
                at: Duration::from_millis(ms),
                cpu: CpuTicks { busy, total },
                cpu_wait: Some(Duration::from_micros(wait)),
                memory_wait: Some(Duration::from_micros(memory_wait)),
                memory: Memory { total: of, available },
                runnable,
                starting,
                waiting,
            };
            let limit = controller.look(&look);
            prop_assert!(limit >= 1 && limit <= controller.most());
        }
    }
}
