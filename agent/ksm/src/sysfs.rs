//! Reading and writing `/sys/kernel/mm/ksm`, or a folder that looks like it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::KsmError;
use crate::settings::Settings;

/// What KSM has done, in pages unless said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Frames that are shared.
    pub shared: u64,
    /// Further places that share them: what is saved.
    pub sharing: u64,
    /// Looked at, and like no other.
    pub unshared: u64,
    /// Changed too quickly to be looked at.
    pub volatile: u64,
    /// Pages of zeroes that need no frame any more.
    pub zero: u64,
    /// Visits by ksmd since boot.
    pub scanned: u64,
    /// Whole rounds by ksmd since boot.
    pub full_scans: u64,
    /// Bytes saved, less what the bookkeeping needs.
    pub profit: i64,
}

impl Counters {
    /// Bytes that VMs need less: the kernel's own sum where it has one.
    pub fn saved_bytes(&self) -> u64 {
        u64::try_from(self.profit).unwrap_or(0)
    }

    /// All pages that ksmd goes round.
    pub fn known(&self) -> u64 {
        [self.shared, self.sharing, self.unshared, self.volatile]
            .iter()
            .fold(0, |sum, pages| sum.saturating_add(*pages))
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub struct Sysfs {
    dir: PathBuf,
}

impl Sysfs {
    /// `dir` is `/sys/kernel/mm/ksm`, or a test's.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The settings in force.
    ///
    /// # Errors
    /// When the kernel has no KSM, or speaks another language.
    pub fn settings(&self) -> Result<Settings, KsmError> {
        if !self.dir.join("run").exists() {
            return Err(KsmError::Missing(self.dir.clone()));
        }
        let required = |name| self.number(name).and_then(|value| value.ok_or_else(|| self.missing(name)));
        Ok(Settings {
            run: required("run")?,
            pages_to_scan: required("pages_to_scan")?,
            sleep_millisecs: required("sleep_millisecs")?,
            use_zero_pages: self.number("use_zero_pages")?,
            smart_scan: self.number("smart_scan")?,
            max_page_sharing: self.number("max_page_sharing")?,
            advisor: self.advisor()?,
        })
    }

    /// What was done so far. Counters that this kernel lacks stay at nought; without `general_profit` (Linux 6.4) the
    /// saving is what pages_sharing says.
    ///
    /// # Errors
    /// When the kernel has no KSM, or speaks another language.
    pub fn counters(&self) -> Result<Counters, KsmError> {
        if !self.dir.join("run").exists() {
            return Err(KsmError::Missing(self.dir.clone()));
        }
        let count = |name| self.number(name).map(Option::unwrap_or_default);
        let sharing = count("pages_sharing")?;
        let profit = match self.text("general_profit")? {
            Some(text) => text.parse().map_err(|_| self.unknown("general_profit", text))?,
            None => i64::try_from(sharing.saturating_mul(4096)).unwrap_or(i64::MAX),
        };
        Ok(Counters {
            shared: count("pages_shared")?,
            sharing,
            unshared: count("pages_unshared")?,
            volatile: count("pages_volatile")?,
            zero: count("ksm_zero_pages")?,
            scanned: count("pages_scanned")?,
            full_scans: count("full_scans")?,
            profit,
        })
    }

    /// Makes the settings so; writes only those that differ, goes on past errors, and gives the first of them.
    ///
    /// # Errors
    /// When one could not be read or written.
    pub fn set(&self, wanted: &Settings) -> Result<(), KsmError> {
        let now = self.settings()?;
        let mut first = Ok(());
        for (name, _, value) in wanted.differences(&now) {
            first = first.and(self.write(name, value));
        }
        first
    }

    fn write(&self, name: &str, value: u64) -> Result<(), KsmError> {
        let path = self.dir.join(name);
        let value = match (name, value) {
            ("advisor_mode", 0) => "none".to_owned(),
            ("advisor_mode", _) => "scan-time".to_owned(),
            // Undoing all merging at once can need more memory than there is; 0 keeps what is merged.
            ("run", 2) => "0".to_owned(),
            (_, value) => value.to_string(),
        };
        std::fs::write(&path, &value).map_err(|source| match source.kind() {
            std::io::ErrorKind::ResourceBusy if name == "max_page_sharing" => KsmError::Merged,
            _ => KsmError::Write { path, value, source },
        })
    }

    fn text(&self, name: &str) -> Result<Option<String>, KsmError> {
        let path = self.dir.join(name);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(KsmError::read(&path)(error)),
        }
    }

    fn number(&self, name: &str) -> Result<Option<u64>, KsmError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|_| self.unknown(name, text))
    }

    /// The file lists all words, with the one in force in brackets: `[none] scan-time`.
    fn advisor(&self) -> Result<Option<u64>, KsmError> {
        Ok(self.text("advisor_mode")?.map(|text| u64::from(text != "none" && !text.contains("[none]"))))
    }

    fn missing(&self, name: &str) -> KsmError {
        KsmError::Missing(self.dir.join(name))
    }

    fn unknown(&self, name: &str, text: String) -> KsmError {
        KsmError::Parse { path: self.dir.join(name), text }
    }
}
