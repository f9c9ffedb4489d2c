//! KSM's settings, as far as fleet touches them. Names, units and defaults: Documentation/admin-guide/mm/ksm.rst of the
//! kernel.

use serde::{Deserialize, Serialize};

/// How eagerly memory is merged: the greatest wish among the VMs of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Not at all.
    #[default]
    Off,
    /// In the background: a quarter of a core after a wave of boots, more when memory gets short.
    On,
    /// At once: a whole core after a wave of boots.
    Aggressive,
}

impl Mode {
    /// The word for it: "off", "on" or "aggressive".
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::On => "on",
            Mode::Aggressive => "aggressive",
        }
    }
}

/// Values of the files in `/sys/kernel/mm/ksm`. `None`: this kernel has no such file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// 0 stops ksmd and leaves what is merged, 1 runs it, 2 undoes all merging. Fleet never writes 2.
    pub run: u64,
    /// Pages that ksmd looks at before it sleeps.
    pub pages_to_scan: u64,
    /// Its sleep, in ms.
    pub sleep_millisecs: u64,
    /// 1: pages of zeroes become the kernel's zero page, which needs no frame at all (Linux 4.12).
    pub use_zero_pages: Option<u64>,
    /// 1: pages that could not be merged several times are looked at less often (Linux 6.7).
    pub smart_scan: Option<u64>,
    /// Places that may share one frame; can be written only while nothing is merged (Linux 4.14).
    pub max_page_sharing: Option<u64>,
    /// The kernel's advisor, which then chooses `pages_to_scan` and refuses to have it written: 0 none, 1 scan-time
    /// (Linux 6.8).
    pub advisor: Option<u64>,
}

impl Settings {
    /// Names and values of those that this kernel has, in the order in which they have to be written: the advisor
    /// first, since it locks `pages_to_scan`; `run` last, so that ksmd starts with everything else in place.
    pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
        let entries = [
            ("advisor_mode", self.advisor),
            ("max_page_sharing", self.max_page_sharing),
            ("use_zero_pages", self.use_zero_pages),
            ("smart_scan", self.smart_scan),
            ("pages_to_scan", Some(self.pages_to_scan)),
            ("sleep_millisecs", Some(self.sleep_millisecs)),
            ("run", Some(self.run)),
        ];
        entries.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }

    /// Those that differ from `now`: name, value there, value here. A setting that the kernel of `now` lacks is left
    /// out.
    pub fn differences(&self, now: &Settings) -> Vec<(&'static str, u64, u64)> {
        let there: Vec<_> = now.entries().collect();
        self.entries()
            .filter_map(|(name, value)| {
                let (_, before) = there.iter().find(|(other, _)| *other == name)?;
                (*before != value).then_some((name, *before, value))
            })
            .collect()
    }

    /// Takes over the values of `now` under these names: what somebody else set is not put back.
    pub(crate) fn take_over(&mut self, now: &Settings, names: &[(&'static str, u64, u64)]) {
        for (name, ..) in names {
            match *name {
                "advisor_mode" => self.advisor = now.advisor,
                "max_page_sharing" => self.max_page_sharing = now.max_page_sharing,
                "use_zero_pages" => self.use_zero_pages = now.use_zero_pages,
                "smart_scan" => self.smart_scan = now.smart_scan,
                "pages_to_scan" => self.pages_to_scan = now.pages_to_scan,
                "sleep_millisecs" => self.sleep_millisecs = now.sleep_millisecs,
                _ => self.run = now.run,
            }
        }
    }
}
