//! What failed, by reason: a million VMs of which one in ten thousand fails are a hundred lines that say the same, so
//! they are folded as clush folds answers, with the last console lines of one of them.

use std::collections::BTreeMap;

use fleet_proto::v1::VmStatus;

use super::output;

/// VMs of an experiment that failed for one reason.
#[derive(Debug, PartialEq, Eq)]
pub struct Failures<'a> {
    /// In the order of the listing; never empty.
    pub vms: Vec<&'a VmStatus>,
    /// Why: with `VM` for the name of each, where they are several.
    pub reason: String,
}

impl Failures<'_> {
    /// "web[0-3,7]".
    pub fn names(&self) -> String {
        fleet_agent::fold_names(self.vms.iter().map(|vm| vm.name.as_str()))
    }

    /// The one whose console is shown: the first that said anything.
    pub fn sample(&self) -> Option<&VmStatus> {
        self.vms.iter().find(|vm| !vm.last_lines.is_empty()).or(self.vms.first()).copied()
    }
}

/// Folds what failed: the most frequent reason first. Every VM is in exactly one fold.
pub fn fold(vms: &[VmStatus]) -> Vec<Failures<'_>> {
    let mut by_reason: BTreeMap<(&str, String), Vec<&VmStatus>> = BTreeMap::new();
    for vm in vms {
        let reason = vm.reason.replace(&vm.name, "VM");
        by_reason.entry((vm.experiment.as_str(), reason)).or_default().push(vm);
    }
    let folds = by_reason.into_iter().map(|((_, reason), vms)| {
        let reason = if let [only] = vms.as_slice() { only.reason.clone() } else { reason };
        Failures { vms, reason }
    });
    let mut folds: Vec<_> = folds.collect();
    folds.sort_by_key(|fold| std::cmp::Reverse(fold.vms.len()));
    folds
}

/// Prints the folds.
pub fn print(vms: &[VmStatus]) {
    let folds = fold(vms);
    if folds.is_empty() {
        output::say!("no VM failed");
        return;
    }
    for fold in &folds {
        let Some(sample) = fold.sample() else { continue };
        output::say!("{} {} ({}): {}", sample.experiment, fold.names(), fold.vms.len(), fold.reason);
        if fold.vms.len() > 1 && !sample.last_lines.is_empty() {
            output::say!("    {} said last:", sample.name);
        }
        for line in &sample.last_lines {
            output::say!("    {line}");
        }
    }
    if folds.len() > 1 {
        output::say!("\n{} failed for {} reasons", output::plural(vms.len() as u64, "VM"), folds.len());
    }
}

/// The folds as JSON.
pub fn json(vms: &[VmStatus]) -> serde_json::Value {
    fold(vms)
        .iter()
        .map(|fold| {
            let sample = fold.sample();
            serde_json::json!({
                "experiment": sample.map(|vm| vm.experiment.as_str()), "reason": fold.reason, "count": fold.vms.len(),
                "targets": fold.names(), "sample": sample.map(|vm| vm.name.as_str()),
                "last_lines": sample.map(|vm| vm.last_lines.as_slice()),
            })
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn vm(experiment: &str, name: &str, reason: &str, lines: &[&str]) -> VmStatus {
        VmStatus {
            experiment: experiment.into(),
            name: name.into(),
            reason: reason.into(),
            last_lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..VmStatus::default()
        }
    }

    #[test]
    fn failures_are_folded_by_reason_and_add_up() {
        let mut vms: Vec<_> =
            (0..100).map(|n| vm("e", &format!("web[{n}]"), &format!("no tap for web[{n}]"), &[])).collect();
        vms.push(vm("e", "db", "panic", &["Kernel panic"]));
        vms.push(vm("f", "web[3]", "no tap for web[3]", &[]));
        vms[7].last_lines = vec!["the last".into()];
        let folds = fold(&vms);
        assert_eq!(folds.len(), 3);
        assert_eq!((folds[0].names(), folds[0].reason.as_str()), ("web[0-99]".into(), "no tap for VM"));
        assert_eq!(folds[0].sample().unwrap().name, "web[7]", "one that said something");
        assert_eq!(folds.iter().map(|fold| fold.vms.len()).sum::<usize>(), vms.len());
        let alone = folds.iter().find(|fold| fold.vms[0].experiment == "f").unwrap();
        assert_eq!(alone.reason, "no tap for web[3]", "a name is told where there is one");
        let sum: u64 = json(&vms).as_array().unwrap().iter().map(|fold| fold["count"].as_u64().unwrap()).sum();
        assert_eq!(sum, 102);
    }
}
