//! A kernel of the test's own: a model of ksmd for the decision, and a tree of files for the actuator.
#![allow(dead_code, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use fleet_ksm::{Counters, Decision, Input, KsmConfig, Mode, Pressure, Settings, State, Wave, decide};

pub const GIB: u64 = 1 << 30;

/// The settings of a kernel that nobody has touched.
pub const FOUND: Settings = Settings {
    run: 0,
    pages_to_scan: 100,
    sleep_millisecs: 20,
    use_zero_pages: Some(0),
    smart_scan: Some(1),
    max_page_sharing: Some(256),
    advisor: Some(0),
};

/// What a page of a VM does.
#[derive(Clone, Copy, PartialEq)]
enum Page {
    Alike,
    Own,
    Volatile,
}

/// ksmd, page by page: a page that was seen before and has not changed since is merged if it is like another.
pub struct Model {
    pages: Vec<(Page, u8)>,
    cursor: usize,
    /// Seconds a visit.
    pub visit: f64,
    pub input: Input,
}

impl Model {
    pub fn new(mode: Mode) -> Self {
        let input = Input {
            mode,
            pressure: Pressure { total: 24 * GIB, available: 20 * GIB, ..Pressure::default() },
            ksmd_cpu: Some(Duration::ZERO),
            found: FOUND,
            now: FOUND,
            ..Input::default()
        };
        Self { pages: Vec::new(), cursor: 0, visit: 1e-6, input }
    }

    /// A wave of boots of so many VMs, of 4000 pages each, is over.
    pub fn boot(&mut self, vms: u32) {
        for at in 0..u64::from(vms) * 4000 {
            let page = match at % 10 {
                0 => Page::Own,
                1 => Page::Volatile,
                _ => Page::Alike,
            };
            self.pages.push((page, 0));
        }
        self.input.vms += vms;
        self.input.wave = Wave { ended: self.input.wave.ended + 1, ..Wave::default() };
    }

    /// ksmd runs under these settings for a while.
    pub fn run(&mut self, settings: &Settings, time: Duration) {
        self.input.now = *settings;
        self.input.elapsed = time;
        self.input.wave.ago += time;
        if settings.run != 1 || self.pages.is_empty() {
            return;
        }
        let batch = settings.pages_to_scan as f64;
        let turn = batch * self.visit + settings.sleep_millisecs as f64 / 1000.0;
        let visits = (time.as_secs_f64() / turn * batch) as u64;
        *self.input.ksmd_cpu.as_mut().unwrap() += Duration::from_secs_f64(visits as f64 * self.visit);
        self.input.counters.scanned += visits;
        // Rounds that change nothing any more are counted, not walked.
        let rounds = visits / self.pages.len() as u64;
        let walked = visits.min(3 * self.pages.len() as u64);
        for _ in 0..walked {
            self.visit_one();
        }
        let counted = walked / self.pages.len() as u64;
        self.input.counters.full_scans += rounds - counted.min(rounds);
    }

    fn visit_one(&mut self) {
        let (page, seen) = &mut self.pages[self.cursor];
        let counters = &mut self.input.counters;
        match (*page, *seen) {
            (Page::Volatile, 0) => counters.volatile += 1,
            (Page::Alike, 1) => {
                counters.sharing += 1;
                counters.shared += u64::from(counters.shared == 0);
                counters.profit += 4032;
            }
            (Page::Own, 1) => counters.unshared += 1,
            _ => {}
        }
        *seen = (*seen + 1).min(2);
        self.cursor = (self.cursor + 1) % self.pages.len();
        counters.full_scans += u64::from(self.cursor == 0);
    }

    /// Percent of a core that ksmd took since `before`.
    pub fn percent(&self, before: Duration, time: Duration) -> f64 {
        (self.input.ksmd_cpu.unwrap() - before).as_secs_f64() / time.as_secs_f64() * 100.0
    }

    /// What could be saved at most, bytes.
    pub fn attainable(&self) -> i64 {
        self.pages.iter().filter(|(page, _)| *page == Page::Alike).count() as i64 * 4032
    }
}

/// Decision and kernel together, for so long. Gives every decision.
pub fn play(model: &mut Model, state: &mut State, time: Duration) -> Vec<Decision> {
    let mut left = time;
    let mut decisions = Vec::new();
    while left > Duration::ZERO {
        let decision = decide(state, &model.input);
        *state = decision.state.clone();
        let wait = decision.next.unwrap_or(left).min(left);
        model.run(&decision.settings, wait);
        left -= wait;
        decisions.push(decision);
    }
    decisions
}

/// A kernel as a tree of files. It does not run; a test writes its counters.
pub struct Tree {
    pub dir: tempfile::TempDir,
}

impl Tree {
    pub fn new() -> Self {
        let tree = Self { dir: tempfile::tempdir().unwrap() };
        for (name, value) in [
            ("run", "0"),
            ("pages_to_scan", "100"),
            ("sleep_millisecs", "20"),
            ("use_zero_pages", "0"),
            ("smart_scan", "1"),
            ("max_page_sharing", "256"),
            ("advisor_mode", "[none] scan-time"),
            ("pages_shared", "0"),
            ("pages_sharing", "0"),
            ("pages_unshared", "0"),
            ("pages_volatile", "0"),
            ("ksm_zero_pages", "0"),
            ("pages_scanned", "0"),
            ("full_scans", "0"),
            ("general_profit", "0"),
        ] {
            tree.write(&format!("ksm/{name}"), value);
        }
        tree.write("proc/meminfo", "MemTotal:       24000000 kB\nMemAvailable:   20000000 kB\n");
        tree.write("proc/sys/kernel/random/boot_id", "a-boot\n");
        tree.write("proc/36/comm", "ksmd\n");
        tree.write("proc/36/cmdline", "");
        tree.write("proc/36/stat", "36 (ksmd) S 2 0 0 0 -1 2129984 0 0 0 0 150 250 0 0 25 5 1 0 33 0 0\n");
        tree
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn ksm(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("ksm").join(name)).unwrap().trim().to_owned()
    }

    pub fn config(&self) -> KsmConfig {
        config(self.dir.path())
    }
}

pub fn config(root: &Path) -> KsmConfig {
    let join = |name: &str| -> PathBuf { root.join(name) };
    KsmConfig { sysfs: join("ksm"), proc: join("proc"), state_dir: join("state") }
}

/// Counters of a line of a trace.
pub fn counters(words: &[i64]) -> Counters {
    let at = |at: usize| u64::try_from(words[at]).unwrap();
    Counters {
        shared: at(0),
        sharing: at(1),
        unshared: at(2),
        volatile: at(3),
        zero: at(4),
        scanned: at(5),
        full_scans: at(6),
        profit: words[7],
    }
}
