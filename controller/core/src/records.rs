//! What is stored, under which key, and a core from what was stored.

use std::collections::BTreeSet;

use fleet_proto::v1::{CoreRecord, ExperimentRecord, HostEntry, Spec, StandingBlock, TallyRecord, WaveRecord};
use prost::Message;
use thiserror::Error;

use crate::core::Core;
use crate::experiment::{self, Experiment, Flight};
use crate::output::{Output, Record};
use crate::pace::Budget;
use crate::tally::Tally;
use crate::{Settings, Sizes};

/// Hosts whose standing in an experiment is one record: a wave over all changes few records, one host changes a small one.
const BLOCK: u32 = 128;

const CORE: &str = "core";
const HOST: &str = "host/";
const EXPERIMENT: &str = "experiment/";
const SPEC: &str = "spec/";
const STANDING: &str = "standing/";
const WAVE: &str = "wave/";
const TALLY: &str = "tally/";

/// Why records make no core.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// A record is damaged.
    #[error("the record `{key}` of the controller's store does not decode ({source}); restore a backup")]
    Decode {
        /// Its key.
        key: String,
        /// Its cause.
        source: prost::DecodeError,
    },
    /// A record is of nothing that is known.
    #[error("the record `{key}` of the controller's store is of no known kind; it was written by a newer `fleet`")]
    Key {
        /// Its key.
        key: String,
    },
    /// The spec of an experiment does not compile any more.
    #[error("the spec of experiment `{experiment}` in the controller's store does not compile: {reason}")]
    Compile {
        /// Its name.
        experiment: String,
        /// The diagnostics.
        reason: String,
    },
}

/// Something whose record has to be written anew.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dirty {
    Core,
    Host(u32),
    Experiment(String),
    Spec(String),
    Standing(String, u32),
    Tally(String),
    Wave(String),
}

impl Dirty {
    /// What a host has of an experiment.
    pub fn standing(experiment: &str, host: u32) -> Dirty {
        Dirty::Standing(experiment.to_owned(), host / BLOCK)
    }

    fn key(&self) -> String {
        match self {
            Dirty::Core => CORE.to_owned(),
            Dirty::Host(id) => format!("{HOST}{id:08x}"),
            Dirty::Experiment(name) => format!("{EXPERIMENT}{name}"),
            Dirty::Spec(name) => format!("{SPEC}{name}"),
            Dirty::Standing(name, block) => format!("{STANDING}{name}/{block:06x}"),
            Dirty::Tally(name) => format!("{TALLY}{name}"),
            Dirty::Wave(op_id) => format!("{WAVE}{op_id}"),
        }
    }
}

impl Core {
    /// The records of what changed since the last call.
    pub(crate) fn changed_records(&mut self) -> Vec<Record> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty.iter().map(|dirty| Record { key: dirty.key(), value: self.encoded(dirty) }).collect()
    }

    fn encoded(&self, dirty: &Dirty) -> Option<Vec<u8>> {
        match dirty {
            Dirty::Core => Some(self.numbers.encode_to_vec()),
            Dirty::Host(id) => Some(self.hosts.get(*id)?.record.encode_to_vec()),
            Dirty::Experiment(name) => Some(self.experiments.get(name)?.record.encode_to_vec()),
            Dirty::Spec(name) => Some(self.experiments.get(name)?.blob.to_vec()),
            Dirty::Standing(name, block) => {
                let range = block * BLOCK..block.saturating_add(1).saturating_mul(BLOCK);
                let standing = &self.experiments.get(name)?.standing;
                let hosts: Vec<_> = standing.range(range).map(|(_, standing)| standing.clone()).collect();
                (!hosts.is_empty()).then(|| StandingBlock { hosts }.encode_to_vec())
            }
            Dirty::Tally(name) => Some(self.experiments.get(name)?.tally.as_ref()?.record().encode_to_vec()),
            Dirty::Wave(op_id) => {
                let experiment = self.experiments.get(self.flights.get(op_id)?)?;
                Some(experiment.flights.get(op_id)?.record.encode_to_vec())
            }
        }
    }

    /// A core from what one before it stored, with what it was about to do. `epoch` is higher than that of any before.
    ///
    /// # Errors
    /// When a record is damaged or unknown.
    pub fn restore(
        settings: Settings,
        sizes: Box<dyn Sizes>,
        epoch: u64,
        now: u64,
        records: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<(Core, Output), RestoreError> {
        let mut core = Core::new(settings, sizes, epoch, now);
        let mut rest: Vec<(String, Vec<u8>)> = Vec::new();
        let mut found = false;
        for (key, value) in records {
            found = true;
            if key == CORE {
                core.numbers = decode::<CoreRecord>(&key, &value)?;
            } else if key.starts_with(HOST) {
                core.hosts.insert(decode::<HostEntry>(&key, &value)?);
            } else {
                rest.push((key, value));
            }
        }
        if found {
            core.budget = Budget::new(&core.settings, now, false);
        }
        // Experiments first: the others are of them.
        for (key, value) in rest.iter().filter(|(key, _)| key.starts_with(EXPERIMENT)) {
            let record = decode::<ExperimentRecord>(key, value)?;
            let spec_key = format!("{SPEC}{}", record.name);
            let spec = rest.iter().find(|(key, _)| *key == spec_key).map_or(&[][..], |(_, value)| value);
            let spec = decode::<Spec>(&spec_key, spec)?;
            let plan = experiment::compile(&spec);
            let plan = plan.map_err(|reason| RestoreError::Compile { experiment: record.name.clone(), reason })?;
            let name = record.name.clone();
            let experiment = Experiment::new(record, spec, plan, &core.hosts);
            core.commit(&experiment, true);
            core.experiments.insert(name, experiment);
        }
        for (key, value) in &rest {
            core.restore_one(key, value)?;
        }
        let output = core.resume(now);
        Ok((core, output))
    }

    fn restore_one(&mut self, key: &str, value: &[u8]) -> Result<(), RestoreError> {
        if let Some(name) = key.strip_prefix(STANDING).and_then(|rest| rest.rsplit_once('/')).map(|(name, _)| name) {
            let block = decode::<StandingBlock>(key, value)?;
            match self.experiments.get_mut(name) {
                Some(experiment) => experiment.standing.extend(block.hosts.into_iter().map(|s| (s.host, s))),
                None => drop(self.dirty.insert(Dirty::Standing(name.to_owned(), block_of(&block)))),
            }
        } else if let Some(name) = key.strip_prefix(TALLY) {
            let record = decode::<TallyRecord>(key, value)?;
            if let Some(experiment) = self.experiments.get_mut(name) {
                experiment.tally = Some(Tally::of(&record));
            }
        } else if key.starts_with(WAVE) {
            let record = decode::<WaveRecord>(key, value)?;
            let op_id = record.op_id.clone();
            match self.experiments.get_mut(&record.experiment) {
                Some(experiment) if experiment.record.generation == record.generation => {
                    experiment.busy.extend(&record.members);
                    self.flights.insert(op_id.clone(), record.experiment.clone());
                    experiment.flights.insert(op_id, Flight { record, until: 0 });
                }
                _ => drop(self.dirty.insert(Dirty::Wave(op_id))),
            }
        } else if !key.starts_with(EXPERIMENT) && !key.starts_with(SPEC) {
            return Err(RestoreError::Key { key: key.to_owned() });
        }
        Ok(())
    }

    /// Keys that are of one experiment's hosts, to be written anew.
    pub(crate) fn mark_standing(&mut self, experiment: &str, hosts: impl IntoIterator<Item = u32>) {
        let blocks: BTreeSet<u32> = hosts.into_iter().map(|host| host / BLOCK).collect();
        self.dirty.extend(blocks.into_iter().map(|block| Dirty::Standing(experiment.to_owned(), block)));
    }
}

/// Records of a backup, made newer than anything that a host can have seen since it was made: `from` is higher than all
/// generations that were ever given. Each experiment has a new generation, so all its hosts are told their part of it
/// anew; waves that were under way are not sent again.
///
/// # Errors
/// When a record is damaged.
pub fn renewed(records: Vec<(String, Vec<u8>)>, from: u64) -> Result<Vec<(String, Vec<u8>)>, RestoreError> {
    let mut numbers = CoreRecord { next_host: 1, next_generation: 1 };
    if let Some((key, value)) = records.iter().find(|(key, _)| key == CORE) {
        numbers = decode(key, value)?;
    }
    numbers.next_generation = numbers.next_generation.max(from);
    let mut renewed = Vec::with_capacity(records.len());
    for (key, value) in records {
        if key.starts_with(EXPERIMENT) {
            let mut record = decode::<ExperimentRecord>(&key, &value)?;
            (record.generation, record.attempt) = (numbers.next_generation, 0);
            numbers.next_generation += 1;
            renewed.push((key, record.encode_to_vec()));
        } else if key != CORE && !key.starts_with(WAVE) {
            renewed.push((key, value));
        }
    }
    renewed.push((CORE.to_owned(), numbers.encode_to_vec()));
    Ok(renewed)
}

fn block_of(block: &StandingBlock) -> u32 {
    block.hosts.first().map_or(0, |standing| standing.host / BLOCK)
}

fn decode<M: Message + Default>(key: &str, bytes: &[u8]) -> Result<M, RestoreError> {
    M::decode(bytes).map_err(|source| RestoreError::Decode { key: key.to_owned(), source })
}
