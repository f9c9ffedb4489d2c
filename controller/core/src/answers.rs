//! When a user's operation is answered, and when an experiment is forgotten.

use fleet_proto::v1::{OperationSummary, Outcome};

use crate::core::Core;
use crate::output::Answer;
use crate::records::Dirty;

impl Core {
    /// Answers the operation of an experiment when it waits for no host any more.
    pub(crate) fn answer_when_settled(&mut self, name: &str) {
        let Some(experiment) = self.experiments.get(name) else { return };
        if experiment.record.op.is_none() || !experiment.open.is_empty() {
            return;
        }
        let failed = experiment.tally.as_ref().map_or(0, |tally| tally.count(Outcome::Failed));
        let rolls_back = experiment.spec.options.as_ref().is_some_and(|options| options.rollback);
        let undo = rolls_back && failed > 0 && !experiment.record.removing;
        self.answer_now(name);
        if undo {
            self.note(name, format!("{failed} targets failed: what was before comes back"));
            self.roll_back(name);
            self.send(name);
        }
    }

    /// Answers with what is known now.
    pub(crate) fn answer_now(&mut self, name: &str) {
        let Some(experiment) = self.experiments.get_mut(name) else { return };
        let Some(op) = experiment.record.op.take() else { return };
        experiment.open.clear();
        let tally = experiment.tally.take().unwrap_or_default();
        let plan = &experiment.plan;
        let is_array =
            |group: &str| plan.find_group(group).and_then(|group| plan.group(group)).is_none_or(|group| group.is_array);
        let host = |id: u32| self.hosts.get(id).map_or_else(String::new, |host| host.record.name.clone());
        let summary = OperationSummary {
            targets: u32::try_from(tally.targets()).unwrap_or(u32::MAX),
            folds: tally.folds(&is_array, &host),
            elapsed_ms: self.now.saturating_sub(op.since_ms),
        };
        self.dirty.extend([Dirty::Experiment(name.to_owned()), Dirty::Tally(name.to_owned())]);
        self.answer(op.op_id, Answer::Summary(summary));
    }

    /// Forgets an experiment that is taken down and that no host can have any more.
    pub(crate) fn forget_when_gone(&mut self, name: &str) {
        let gone = |e: &crate::experiment::Experiment| {
            e.record.removing && e.record.op.is_none() && e.standing.is_empty() && e.flights.is_empty()
        };
        if !self.experiments.get(name).is_some_and(gone) {
            return;
        }
        self.experiments.remove(name);
        let name_of = || name.to_owned();
        self.dirty.extend([Dirty::Experiment(name_of()), Dirty::Spec(name_of()), Dirty::Tally(name_of())]);
        self.note(name, "is gone from all hosts".to_owned());
    }
}
