//! Of each experiment the newest generation that this host acted on: a wave that was delayed must not undo what a newer
//! one did, also not after this agent was started anew or the experiment was removed. In a file before it counts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tonic::Status;

use crate::hub::now_ms;

/// The file in the folder of state.
const FILE: &str = "generations.json";
/// Experiments that are gone are remembered so long: no wave is under way for longer. A week, in ms.
const REMEMBERED_MS: u64 = 7 * 24 * 3600 * 1000;

/// Why a wave's generation is not taken.
#[derive(Debug, Error)]
pub enum GenerationError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is none.
    #[error("{path} is damaged ({source}); remove it if no operation is under way")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] fleet_pki::PkiError),
    /// Something newer was done.
    #[error("it is of generation {asked}, and this host acted on {known} of that experiment already")]
    Old {
        /// Of the wave.
        asked: u64,
        /// The newest.
        known: u64,
    },
}

impl From<GenerationError> for Status {
    fn from(error: GenerationError) -> Self {
        match &error {
            GenerationError::Old { .. } => Status::failed_precondition(error.to_string()),
            _ => Status::resource_exhausted(error.to_string()),
        }
    }
}

/// What is known of one experiment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Entry {
    /// The newest that was acted on.
    generation: u64,
    /// This host has its part of it, whole.
    whole: bool,
    /// When it was removed, in ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    removed_ms: Option<u64>,
}

type Known = BTreeMap<String, Entry>;

/// The generations, in memory and in their file.
#[derive(Debug)]
pub struct Generations {
    path: PathBuf,
    known: Mutex<Known>,
}

impl Generations {
    /// Reads the file; empty where there is none.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub fn open(state_dir: &Path) -> Result<Self, GenerationError> {
        let path = state_dir.join(FILE);
        let known = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| GenerationError::Damaged { path: path.clone(), source })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(source) => return Err(GenerationError::Read { path, source }),
        };
        Ok(Self { path, known: Mutex::new(known) })
    }

    /// Refuses what is older than what was acted on. 0 is none, and always taken.
    ///
    /// # Errors
    /// When a newer one was acted on before.
    pub fn check(&self, experiment: &str, asked: u64) -> Result<(), GenerationError> {
        let known = self.newest(experiment);
        if asked != 0 && asked < known { Err(GenerationError::Old { asked, known }) } else { Ok(()) }
    }

    /// The newest that was acted on; 0: none.
    pub fn newest(&self, experiment: &str) -> u64 {
        self.lock().get(experiment).map_or(0, |entry| entry.generation)
    }

    /// Takes note of what is about to be acted on; an older one is refused. 0 is none, and always taken.
    ///
    /// # Errors
    /// When a newer one was acted on before, or the number cannot be written.
    pub fn admit(&self, experiment: &str, asked: u64) -> Result<(), GenerationError> {
        self.change_one(experiment, |entry| {
            if asked != 0 && asked < entry.generation {
                return Err(GenerationError::Old { asked, known: entry.generation });
            }
            *entry = Entry { generation: entry.generation.max(asked), whole: false, removed_ms: None };
            Ok(())
        })
    }

    /// This host has its part of a generation, whole, unless something newer was begun.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn whole(&self, experiment: &str, generation: u64) -> Result<(), GenerationError> {
        self.change_one(experiment, |entry| {
            entry.whole = entry.generation == generation && generation != 0;
            Ok(())
        })
    }

    /// Nothing of the experiment is here any more.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn removed(&self, experiment: &str) -> Result<(), GenerationError> {
        self.change_one(experiment, |entry| {
            entry.whole = false;
            entry.removed_ms = Some(now_ms());
            Ok(())
        })
    }

    /// An agent that starts has found these experiments; the others are gone, as after a boot.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn found(&self, is_here: impl Fn(&str) -> bool) -> Result<(), GenerationError> {
        self.change(|known| {
            for (_, entry) in known.iter_mut().filter(|(name, entry)| entry.removed_ms.is_none() && !is_here(name)) {
                entry.whole = false;
                entry.removed_ms = Some(now_ms());
            }
            Ok(())
        })
    }

    /// The generation that this host has whole; 0: none.
    pub fn held(&self, experiment: &str) -> u64 {
        self.lock().get(experiment).filter(|entry| entry.whole).map_or(0, |entry| entry.generation)
    }

    fn change_one(
        &self,
        experiment: &str,
        change: impl FnOnce(&mut Entry) -> Result<(), GenerationError>,
    ) -> Result<(), GenerationError> {
        self.change(|known| change(known.entry(experiment.to_owned()).or_default()))
    }

    fn change(&self, change: impl FnOnce(&mut Known) -> Result<(), GenerationError>) -> Result<(), GenerationError> {
        let mut known = self.lock();
        let mut next = known.clone();
        let since = now_ms().saturating_sub(REMEMBERED_MS);
        next.retain(|_, entry| entry.removed_ms.is_none_or(|removed| removed >= since));
        change(&mut next)?;
        if *known != next {
            let bytes = serde_json::to_vec(&next).unwrap_or_default();
            fleet_pki::write_private(&self.path, &bytes)?;
            *known = next;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // Only whole values are exchanged under it.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_older_generation_is_refused_also_after_a_restart_and_a_removal() {
        let dir = tempfile::tempdir().unwrap();
        let known = Generations::open(dir.path()).unwrap();
        known.admit("a", 3).unwrap();
        known.admit("a", 3).unwrap();
        known.admit("a", 0).unwrap();
        assert!(matches!(known.admit("a", 2), Err(GenerationError::Old { asked: 2, known: 3 })));
        known.admit("b", 1).unwrap();
        known.removed("a").unwrap();
        drop(known);
        let known = Generations::open(dir.path()).unwrap();
        assert!(known.admit("a", 2).is_err());
        known.admit("a", 4).unwrap();
    }

    #[test]
    fn what_a_host_has_whole_is_known_until_something_is_begun() {
        let dir = tempfile::tempdir().unwrap();
        let known = Generations::open(dir.path()).unwrap();
        known.admit("a", 3).unwrap();
        assert_eq!(known.held("a"), 0);
        known.whole("a", 3).unwrap();
        assert_eq!(Generations::open(dir.path()).unwrap().held("a"), 3);
        known.admit("a", 4).unwrap();
        known.whole("a", 3).unwrap();
        assert_eq!(known.held("a"), 0, "something newer was begun");
    }

    #[test]
    fn what_is_gone_after_a_boot_is_not_held_and_its_generation_still_counts() {
        let dir = tempfile::tempdir().unwrap();
        let known = Generations::open(dir.path()).unwrap();
        for name in ["a", "b"] {
            known.admit(name, 3).unwrap();
            known.whole(name, 3).unwrap();
        }
        known.found(|name| name == "a").unwrap();
        assert_eq!((known.held("a"), known.held("b")), (3, 0));
        assert!(known.check("b", 2).is_err());
        known.check("b", 3).unwrap();
    }

    #[test]
    fn what_was_removed_long_ago_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let known = Generations::open(dir.path()).unwrap();
        known.admit("a", 3).unwrap();
        known.removed("a").unwrap();
        known.admit("b", 1).unwrap();
        assert_eq!(known.newest("a"), 3);
        known.lock().get_mut("a").unwrap().removed_ms = Some(now_ms() - REMEMBERED_MS - 1);
        known.admit("b", 2).unwrap();
        assert_eq!((known.newest("a"), known.newest("b")), (0, 2));
    }

    #[test]
    fn a_damaged_file_is_told() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Generations::open(dir.path()).unwrap_err().to_string().contains(FILE));
    }
}
