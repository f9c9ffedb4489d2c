//! What the specs mean: compiled plans, kept as long as their spec does not change, and the targets that users name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fleet_proto::v1::{Range, Spec};
use netlang::{Lock, Plan, Source};
use tonic::Status;

use super::store::Store;

/// A plan and what it was compiled from.
struct Kept {
    source: String,
    lock: String,
    plan: Arc<Plan>,
}

/// The plans of the experiments that are up.
pub struct Plans {
    store: Arc<Store>,
    kept: Mutex<HashMap<String, Kept>>,
}

/// VMs of one experiment that a user named.
pub struct Target {
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Its name.
    pub experiment: String,
    /// Which VMs.
    pub ranges: Vec<netlang::Range>,
}

impl Target {
    /// Names of the VMs, in the plan's order.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.ranges.iter().flat_map(|range| range.indices().filter_map(|index| self.plan.vm_name(range.group, index)))
    }

    /// Whether these are all VMs of the experiment.
    pub fn is_all(&self) -> bool {
        self.ranges.iter().map(|range| u64::from(range.count)).sum::<u64>() == self.plan.total_vms()
    }

    /// The ranges as they go over the wire.
    pub fn wire_ranges(&self) -> Vec<Range> {
        let wire = |range: &netlang::Range| {
            Some(Range { group: self.plan.group(range.group)?.path, first: range.first, count: range.count })
        };
        self.ranges.iter().filter_map(wire).collect()
    }
}

impl Plans {
    /// Plans of what the store holds.
    pub fn new(store: Arc<Store>) -> Self {
        Self { store, kept: Mutex::default() }
    }

    /// The plan of a spec.
    ///
    /// # Errors
    /// When its source or its lock is wrong: the diagnostics in words.
    pub fn compile(&self, spec: &Spec) -> Result<Arc<Plan>, Status> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.get(&spec.experiment)
            && known.source == spec.source
            && known.lock == spec.lock
        {
            return Ok(Arc::clone(&known.plan));
        }
        let plan = Arc::new(compile(spec)?);
        let entry = Kept { source: spec.source.clone(), lock: spec.lock.clone(), plan: Arc::clone(&plan) };
        kept.insert(spec.experiment.clone(), entry);
        Ok(plan)
    }

    /// Forgets an experiment.
    pub fn forget(&self, experiment: &str) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(experiment);
    }

    /// Finds what a user named: `hello.web[0..10]`, or `web[3]` where only one experiment has such a VM.
    ///
    /// # Errors
    /// When nothing, or too much, has that name.
    pub fn resolve(&self, target: &str) -> Result<Target, Status> {
        let specs = self.store.specs().map_err(|error| Status::internal(error.to_string()))?;
        if specs.is_empty() {
            return Err(Status::not_found("no experiment is up\nhelp: `fleet up FILE` brings one up"));
        }
        // Whoever begins with an experiment's name means that one, if it has what follows.
        let first = target.trim().split(['.', '[']).next().unwrap_or_default();
        let (named, others): (Vec<&Spec>, Vec<&Spec>) = specs.iter().partition(|spec| spec.experiment == first);
        let mut found = Vec::new();
        let mut reasons = Vec::new();
        for searched in [named, others] {
            for spec in searched {
                let plan = self.compile(spec)?;
                match plan.resolve(target) {
                    Ok(ranges) => found.push(Target { plan, experiment: spec.experiment.clone(), ranges }),
                    Err(error) => reasons.push(error.to_string()),
                }
            }
            if !found.is_empty() {
                break;
            }
        }
        match found.len() {
            1 => found.pop().ok_or_else(|| Status::internal("a found target was lost")),
            0 => Err(Status::not_found(format!(
                "{}\nhelp: `fleet ps` lists what is up ({})",
                reasons.first().cloned().unwrap_or_default(),
                specs.iter().map(|spec| spec.experiment.as_str()).collect::<Vec<_>>().join(", "),
            ))),
            _ => Err(Status::invalid_argument(format!(
                "`{target}` is in {} experiments\nhelp: say which: {}",
                found.len(),
                found
                    .iter()
                    .map(|target_in| format!("{}.{target}", target_in.experiment))
                    .collect::<Vec<_>>()
                    .join(", "),
            ))),
        }
    }

    /// Finds one VM.
    ///
    /// # Errors
    /// When nothing, or more than one VM, has that name.
    pub fn resolve_one(&self, target: &str) -> Result<(String, String), Status> {
        let found = self.resolve(target)?;
        let mut names = found.names();
        match (names.next(), names.next()) {
            (Some(name), None) => Ok((found.experiment.clone(), name)),
            (Some(name), Some(_)) => Err(Status::invalid_argument(format!(
                "`{target}` is more than one VM\nhelp: name one of them: {}.{name}",
                found.experiment
            ))),
            (None, _) => Err(Status::not_found(format!("`{target}` is no VM"))),
        }
    }
}

/// Compiles a spec. The program has done so before it sent it; here it is checked again, since anybody can send one.
fn compile(spec: &Spec) -> Result<Plan, Status> {
    let lock = Lock::parse(&spec.lock).map_err(|error| Status::invalid_argument(format!("the lock: {error}")))?;
    let source = Source::new(spec.experiment.clone(), spec.source.clone());
    let compilation = netlang::compile(&source, &lock);
    compilation.plan.ok_or_else(|| {
        let options = netlang::RenderOptions { color: false, width: 100 };
        Status::invalid_argument(netlang::render(&compilation.diagnostics, &source, options))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Plans of these experiments: name and text.
    fn plans(files: &[(&str, &str)]) -> (tempfile::TempDir, Plans) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("controller.redb")).unwrap();
        for (experiment, source) in files {
            let spec = Spec { experiment: (*experiment).to_owned(), source: (*source).to_owned(), ..Spec::default() };
            store.put_spec(&spec).unwrap();
        }
        (dir, Plans::new(Arc::new(store)))
    }

    fn found(plans: &Plans, target: &str) -> (String, Vec<String>) {
        let target = plans.resolve(target).unwrap();
        (target.experiment.clone(), target.names().collect())
    }

    #[test]
    fn a_group_of_the_experiments_own_name_is_found() {
        let (_dir, plans) = plans(&[("q", "lan l\nvm q[0..3] { on l }\n")]);
        let two = ("q".to_owned(), vec!["q[0]".to_owned(), "q[1]".to_owned()]);
        assert_eq!(found(&plans, "q.q[0..2]"), two);
        assert_eq!(found(&plans, "q[0..2]"), two);
    }

    #[test]
    fn an_experiments_name_in_front_says_which_and_is_no_obstacle_to_a_group_elsewhere() {
        let (_dir, plans) = plans(&[
            ("a", "lan l\nvm web[0..2] { on l }\n"),
            ("b", "lan l\nvm web[0..2] { on l }\nvm a[0..2] { on l }\n"),
        ]);
        assert_eq!(found(&plans, "b.web[1]"), ("b".to_owned(), vec!["web[1]".to_owned()]));
        // The experiment `a` has no such VM, and `b` has.
        assert_eq!(found(&plans, "a[1]"), ("b".to_owned(), vec!["a[1]".to_owned()]));
        assert_eq!(found(&plans, "a").0, "a");
        let both = plans.resolve("web[0]").err().unwrap();
        assert!(both.message().contains("a.web[0], b.web[0]"), "{both}");
        let nowhere = plans.resolve("a.wep").err().unwrap();
        assert!(nowhere.message().contains("did you mean `web`?"), "{nowhere}");
    }
}
