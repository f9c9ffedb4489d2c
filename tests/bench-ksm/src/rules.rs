//! The regulators that are compared.

use std::time::Duration;

use anyhow::{Context, Result};
use fleet_ksm::{Custody, Demand, HostReader, KsmConfig, Mode, Regulator, Settings, Sysfs};
use tokio::task::JoinHandle;

/// ksmtuned looks once a minute.
const TUNED_TURN: Duration = Duration::from_secs(60);

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// This project's.
    Fleet,
    /// 100,000 pages, 10 ms, for ever.
    Minimega,
    /// The kernel's scan-time advisor with its defaults.
    Advisor,
    /// A turn a minute: 300 pages more while memory is short, else 50 fewer, within 64 and 1250, after the script
    /// `/usr/sbin/ksmtuned` of Debian's package ksmtuned 4.20150326 (`KSM_*`, `adjust`). Its other threshold, 2048, is said to
    /// be MiB and compared with KiB, so that a fifth of the memory always wins. Only its speed is compared: the script
    /// itself would stop ksmd as long as more than a fifth of the memory is free and the VMs have less than the rest.
    Ksmtuned,
    /// The kernel's default speed: 100 pages, 20 ms.
    Default,
}

impl Rule {
    /// In the order in which they run: the first shows what can be had.
    pub const ALL: [Rule; 5] = [Rule::Fleet, Rule::Minimega, Rule::Advisor, Rule::Ksmtuned, Rule::Default];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Rule::Fleet => "fleet, `ksm aggressive`",
            Rule::Minimega => "minimega's constants",
            Rule::Advisor => "advisor of the kernel (scan-time)",
            Rule::Ksmtuned => "ksmtuned's rule",
            Rule::Default => "default of the kernel (100 pages, 20 ms)",
        }
    }
}

/// One that is switched on.
pub struct Active {
    regulator: Option<Regulator>,
    custody: Option<Custody>,
    turns: Option<JoinHandle<()>>,
    config: KsmConfig,
}

/// Switches a regulator on for so many VMs that have just been started.
///
/// # Errors
/// When KSM cannot be set, or somebody else regulates it.
pub fn switch_on(rule: Rule, config: &KsmConfig, vms: u32) -> Result<Active> {
    let mut active = Active { regulator: None, custody: None, turns: None, config: config.clone() };
    if rule == Rule::Fleet {
        active.regulator = Some(Regulator::start(config.clone(), Demand { mode: Mode::Aggressive, vms }));
        return Ok(active);
    }
    let sysfs = Sysfs::new(&config.sysfs);
    let mut custody = Custody::take(&config.state_dir, &boot_id()?)?;
    let now = sysfs.settings()?;
    custody.keep(now)?;
    active.custody = Some(custody);
    let speed = move |pages_to_scan, sleep_millisecs| Settings {
        run: 1,
        pages_to_scan,
        sleep_millisecs,
        advisor: now.advisor.map(|_| 0),
        ..now
    };
    match rule {
        Rule::Minimega => sysfs.set(&speed(100_000, 10))?,
        Rule::Default => sysfs.set(&speed(100, 20))?,
        Rule::Advisor => {
            let advisor = now.advisor.context("this kernel has no KSM advisor")? | 1;
            sysfs.set(&speed(now.pages_to_scan, 20))?;
            // The advisor chooses pages_to_scan itself from here on.
            let chosen = sysfs.settings()?;
            sysfs.set(&Settings { advisor: Some(advisor), ..chosen })?;
        }
        Rule::Ksmtuned => {
            let host = HostReader::new(&config.proc);
            active.turns = Some(tokio::spawn(async move {
                let mut pages: u64 = 0;
                loop {
                    let memory = host.pressure();
                    let short = memory.available < memory.total / 5;
                    pages = if short { pages + 300 } else { pages.saturating_sub(50) }.clamp(64, 1250);
                    // 10 ms on 16 GiB, more on less; never less.
                    let sleep = (10 * (16 << 30) / memory.total.max(1)).max(10);
                    if let Err(error) = sysfs.set(&speed(pages, sleep)) {
                        eprintln!("bench: ksmtuned's rule: {error}");
                    }
                    tokio::time::sleep(TUNED_TURN).await;
                }
            }));
        }
        Rule::Fleet => {} // returned above
    }
    Ok(active)
}

impl Active {
    /// Stops ksmd. What cannot be put back while pages are merged is put back when the clones are gone.
    ///
    /// # Errors
    /// When KSM cannot be set.
    pub async fn switch_off(mut self) -> Result<()> {
        if let Some(regulator) = self.regulator.take() {
            regulator.shutdown().await;
        }
        if let Some(turns) = self.turns.take() {
            turns.abort();
            drop(turns.await);
        }
        if let Some(mut custody) = self.custody.take() {
            custody.put_back(&Sysfs::new(&self.config.sysfs))?;
        }
        Ok(())
    }
}

/// The identity of this boot.
///
/// # Errors
/// Without /proc.
pub fn boot_id() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}
