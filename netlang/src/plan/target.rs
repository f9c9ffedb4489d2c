//! Targets of the command line: `hello.web[0..10]`.

use super::path::{self, PathError, PathIndex, PathPart};
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
    /// experiment's name in front. The experiment's name alone is everything, unless the file has that name, too.
    ///
    /// # Errors
    /// When it is no path, or leads to no VMs.
    pub fn resolve(&self, target: &str) -> Result<Vec<Range>, TargetError> {
        let parts = path::parse(target.trim()).ok_or_else(|| TargetError::Malformed { target: target.to_owned() })?;
        let Some((first, rest)) = parts.split_first() else {
            return Err(TargetError::Malformed { target: target.to_owned() });
        };
        let in_front = first.name == self.data.experiment && first.index == PathIndex::None;
        if in_front && self.data.names.find(0, &first.name).is_none() {
            return if rest.is_empty() { Ok(self.everything()) } else { self.follow(rest).map_err(|(_, error)| error) };
        }
        // A name of the file wins over the experiment's; where it leads nowhere, the experiment's is meant.
        let (depth, error) = match self.follow(&parts) {
            Ok(ranges) => return Ok(ranges),
            Err(failed) => failed,
        };
        if !in_front || rest.is_empty() {
            return Err(error);
        }
        // Of two errors the one that is further along the path is about what was meant.
        self.follow(rest).map_err(|(other_depth, other)| if other_depth + 1 > depth { other } else { error })
    }

    /// The VMs of a path from the top of the file; an error comes with the part that it is about.
    fn follow(&self, parts: &[PathPart]) -> Result<Vec<Range>, (usize, TargetError)> {
        let selected = self.data.names.select(0, parts).map_err(|error| (error.part(), self.explain(error, parts)))?;
        let ranges = self.data.vms_of(&selected);
        match (ranges.is_empty(), selected.first()) {
            (true, Some(first)) if !matches!(first.kind, Kind::Vm | Kind::Instance) => {
                let name = parts.last().map(|part| part.name.clone()).unwrap_or_default();
                let error = TargetError::WrongKind { name, kind: first.kind.a(), problem: "it has no VMs" };
                Err((parts.len(), error))
            }
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
