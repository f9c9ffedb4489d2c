//! The targets that users name, among the experiments that are wanted.

use std::sync::Arc;

use fleet_proto::v1::Range;
use netlang::Plan;
use tonic::Status;

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
    /// Whether these are all VMs of the experiment.
    pub fn is_all(&self) -> bool {
        self.ranges.iter().map(|range| u64::from(range.count)).sum::<u64>() == self.plan.total_vms()
    }

    /// The one VM that this is: its group, its index and its name.
    ///
    /// # Errors
    /// When it is none, or more than one; `target` is what the user wrote.
    pub fn one(&self, target: &str) -> Result<(String, u32, String), Status> {
        let mut all = self.ranges.iter().flat_map(|range| range.indices().map(move |index| (range.group, index)));
        let first = all
            .next()
            .and_then(|(group, index)| Some((self.plan.group(group)?.path, index, self.plan.vm_name(group, index)?)));
        match (first, all.next()) {
            (Some(one), None) => Ok(one),
            (Some((.., name)), Some(_)) => Err(Status::invalid_argument(format!(
                "`{target}` is more than one VM\nhelp: name one of them: {}.{name}",
                self.experiment
            ))),
            (None, _) => Err(Status::not_found(format!("`{target}` is no VM"))),
        }
    }

    /// The ranges as they go over the wire.
    pub fn wire_ranges(&self) -> Vec<Range> {
        let wire = |range: &netlang::Range| {
            Some(Range { group: self.plan.group(range.group)?.path, first: range.first, count: range.count })
        };
        self.ranges.iter().filter_map(wire).collect()
    }
}

/// Finds what a user named among experiments: `hello.web[0..10]`, or `web[3]` where only one experiment has such a VM.
///
/// # Errors
/// When nothing, or too much, has that name.
pub fn resolve(up: &[(String, Arc<Plan>)], target: &str) -> Result<Target, Status> {
    if up.is_empty() {
        return Err(Status::not_found("no experiment is up\nhelp: `fleet up FILE` brings one up"));
    }
    // Whoever begins with an experiment's name means that one, if it has what follows.
    let first = target.trim().split(['.', '[']).next().unwrap_or_default();
    let (named, others): (Vec<_>, Vec<_>) = up.iter().partition(|(name, _)| name == first);
    let mut found = Vec::new();
    let mut reasons = Vec::new();
    for searched in [named, others] {
        for (name, plan) in searched {
            match plan.resolve(target) {
                Ok(ranges) => found.push(Target { plan: Arc::clone(plan), experiment: name.clone(), ranges }),
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
            up.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
        ))),
        _ => Err(Status::invalid_argument(format!(
            "`{target}` is in {} experiments\nhelp: say which: {}",
            found.len(),
            found.iter().map(|target_in| format!("{}.{target}", target_in.experiment)).collect::<Vec<_>>().join(", "),
        ))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Plans of these experiments: name and text.
    fn plans(files: &[(&str, &str)]) -> Vec<(String, Arc<Plan>)> {
        let plan = |(name, text): &(&str, &str)| {
            let source = netlang::Source::new((*name).to_owned(), (*text).to_owned());
            let compiled = netlang::compile(&source, &netlang::Lock::parse("").unwrap());
            ((*name).to_owned(), Arc::new(compiled.plan.unwrap()))
        };
        files.iter().map(plan).collect()
    }

    fn found(plans: &[(String, Arc<Plan>)], target: &str) -> (String, Vec<String>) {
        let target = resolve(plans, target).unwrap();
        let plan = &target.plan;
        let names = target.ranges.iter().flat_map(|r| r.indices().map(|index| plan.vm_name(r.group, index).unwrap()));
        (target.experiment.clone(), names.collect())
    }

    #[test]
    fn a_group_of_the_experiments_own_name_is_found() {
        let plans = plans(&[("q", "lan l\nvm q[0..3] { on l }\n")]);
        let two = ("q".to_owned(), vec!["q[0]".to_owned(), "q[1]".to_owned()]);
        assert_eq!(found(&plans, "q.q[0..2]"), two);
        assert_eq!(found(&plans, "q[0..2]"), two);
    }

    #[test]
    fn an_experiments_name_in_front_says_which_and_is_no_obstacle_to_a_group_elsewhere() {
        let plans = plans(&[
            ("a", "lan l\nvm web[0..2] { on l }\n"),
            ("b", "lan l\nvm web[0..2] { on l }\nvm a[0..2] { on l }\n"),
        ]);
        assert_eq!(found(&plans, "b.web[1]"), ("b".to_owned(), vec!["web[1]".to_owned()]));
        // The experiment `a` has no such VM, and `b` has.
        assert_eq!(found(&plans, "a[1]"), ("b".to_owned(), vec!["a[1]".to_owned()]));
        assert_eq!(found(&plans, "a").0, "a");
        let both = resolve(&plans, "web[0]").err().unwrap();
        assert!(both.message().contains("a.web[0], b.web[0]"), "{both}");
        let nowhere = resolve(&plans, "a.wep").err().unwrap();
        assert!(nowhere.message().contains("did you mean `web`?"), "{nowhere}");
    }

    #[test]
    fn one_vm_is_one() {
        let plans = plans(&[("q", "lan l\nvm q[0..3] { on l }\n")]);
        let one = resolve(&plans, "q[1]").unwrap().one("q[1]").unwrap();
        assert_eq!(one, ("q".to_owned(), 1, "q[1]".to_owned()));
        assert!(resolve(&plans, "q.q").unwrap().one("q.q").unwrap_err().message().contains("more than one"));
    }
}
