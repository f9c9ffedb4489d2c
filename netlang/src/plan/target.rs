//! Targets of the command line: `hello.web[0..10]`.

use super::path::{self, PathError, PathPart};
use super::{GroupId, Plan, Range};
use crate::vocab::Kind;

/// Why a target names no VMs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is no path.
    #[error("`{target}` is no target; write web, web[3], web[0..10], web[*] or hq.pc[*]")]
    Malformed {
        /// What was given.
        target: String,
    },
    /// There is nothing of that name.
    #[error("nothing is named `{name}` in {experiment}{}", did_you_mean(.similar))]
    Unknown {
        /// The part that is not known.
        name: String,
        /// The experiment.
        experiment: String,
        /// A similar name.
        similar: Option<String>,
    },
    /// The index is not one of the group's.
    #[error("{name}[{first}..{until}] has no such index; the last is {}", .until.saturating_sub(1))]
    OutOfRange {
        /// The array.
        name: String,
        /// Its lowest index.
        first: u32,
        /// One past its highest.
        until: u32,
    },
    /// An index on a single thing, or a part of what has none.
    #[error("`{name}` is {kind}, {problem}")]
    WrongKind {
        /// The part.
        name: String,
        /// What it is.
        kind: &'static str,
        /// What is wrong with that.
        problem: &'static str,
    },
}

fn did_you_mean(similar: &Option<String>) -> String {
    similar.as_ref().map_or_else(String::new, |s| format!("; did you mean `{s}`?"))
}

impl Plan {
    /// The VMs of a target: `web[0..10]` (half open), `web[3]`, `web`, `web[*]`, `hq.pc[*]`, with or without the
    /// experiment's name in front. The experiment's name alone is everything.
    pub fn resolve(&self, target: &str) -> Result<Vec<Range>, TargetError> {
        let parts = path::parse(target.trim()).ok_or_else(|| TargetError::Malformed { target: target.to_owned() })?;
        let names = &self.data.names;
        // A name of the file wins over the experiment's, which then has to be written in front.
        let prefixed = parts[0].name == self.data.experiment && names.find(0, &parts[0].name).is_none();
        let parts = if prefixed { &parts[1..] } else { &parts[..] };
        if parts.is_empty() {
            return Ok(self.everything());
        }
        let selected = names.select(0, parts).map_err(|error| self.explain(error, parts))?;
        let ranges = self.data.vms_of(&selected);
        match (ranges.is_empty(), selected.first()) {
            (true, Some(first)) if !matches!(first.kind, Kind::Vm | Kind::Instance) => Err(TargetError::WrongKind {
                name: parts.last().map(|p| p.name.clone()).unwrap_or_default(),
                kind: first.kind.a(),
                problem: "it has no VMs",
            }),
            _ => Ok(ranges),
        }
    }

    fn everything(&self) -> Vec<Range> {
        let rows = self.data.groups.iter().enumerate();
        rows.map(|(id, g)| Range { group: GroupId(id as u32), first: g.first, count: g.count }).collect()
    }

    fn explain(&self, error: PathError, parts: &[PathPart]) -> TargetError {
        let name = |part: usize| parts.get(part).map(|p| p.name.clone()).unwrap_or_default();
        match error {
            PathError::Unknown { part, scope } => {
                let similar = self.data.names.similar(scope, &name(part));
                TargetError::Unknown { name: name(part), experiment: self.data.experiment.clone(), similar }
            }
            PathError::OutOfRange { part, first, until } => TargetError::OutOfRange { name: name(part), first, until },
            PathError::NotArray { part } => {
                TargetError::WrongKind { name: name(part), kind: "a single thing", problem: "it has no index" }
            }
            PathError::NoParts { part, kind } => {
                TargetError::WrongKind { name: name(part), kind: kind.a(), problem: "nothing is within it" }
            }
        }
    }
}
