//! Users: what they ask for, and what is wanted because of it. One whose controller dies before it has answered asks the
//! next one again, as a person would; unless meanwhile something else is wanted of the same experiment.

use std::collections::BTreeMap;

use fleet_core::{Answer, Input};
use fleet_proto::v1::Spec;

use crate::fleet::{VM_MEMORY, name};

/// What a user asks for.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub enum Ask {
    /// So many VMs of an experiment.
    Up(String, u32),
    /// Nothing of an experiment.
    Down(String),
    /// VMs of a host moved to others.
    Drain(usize),
    /// A host used again.
    Undrain(usize),
    /// A host to be no part of the fleet any more.
    Remove(usize),
}

/// How a question stands.
#[derive(Clone, Debug)]
struct Asked {
    ask: Ask,
    answered: bool,
    /// Why it was refused.
    refused: Option<String>,
}

/// All users.
#[derive(Debug, Default)]
pub struct Users {
    asked: BTreeMap<u64, Asked>,
    /// For each experiment what was wanted, by the number of the question.
    wishes: BTreeMap<String, Vec<(u64, Option<u32>)>>,
}

/// The operation of a question.
pub fn op_id(number: u64) -> String {
    format!("op{number}")
}

/// The number in the op id, or in the name of the source, of a question.
pub fn number(op_id: &str) -> Option<u64> {
    op_id.strip_prefix("op")?.parse().ok()
}

impl Users {
    /// A user asks; gives what the controller is told.
    pub fn ask(&mut self, ask: Ask) -> Input {
        let number = self.asked.len() as u64 + 1;
        match &ask {
            Ask::Up(experiment, vms) => self.wishes.entry(experiment.clone()).or_default().push((number, Some(*vms))),
            Ask::Down(experiment) => self.wishes.entry(experiment.clone()).or_default().push((number, None)),
            _ => {}
        }
        let input = input(number, &ask);
        self.asked.insert(number, Asked { ask, answered: false, refused: None });
        input
    }

    /// What a controller that starts is asked again.
    pub fn ask_again(&mut self) -> Vec<Input> {
        let newest = self.newest();
        for (number, asked) in self.asked.iter_mut().filter(|(_, asked)| !asked.answered) {
            asked.answered = asked.ask.experiment().is_some_and(|experiment| newest.get(experiment) != Some(number));
        }
        self.asked
            .iter()
            .filter(|(_, asked)| !asked.answered)
            .map(|(number, asked)| input(*number, &asked.ask))
            .collect()
    }

    /// What was refused while hosts were away, and is still wanted.
    pub fn ask_once_more(&mut self) -> Vec<Input> {
        let newest = self.newest();
        let mut inputs = Vec::new();
        for (number, asked) in &mut self.asked {
            let Ask::Up(experiment, _) = &asked.ask else { continue };
            if asked.refused.is_some() && newest.get(experiment) == Some(number) {
                (asked.answered, asked.refused) = (false, None);
                inputs.push(input(*number, &asked.ask));
            }
        }
        inputs
    }

    /// An answer came.
    pub fn answered(&mut self, op_id: &str, answer: &Answer) {
        let Some(asked) = number(op_id).and_then(|number| self.asked.get_mut(&number)) else { return };
        asked.answered = true;
        asked.refused = match answer {
            Answer::Refused(why) => Some(why.clone()),
            _ => None,
        };
    }

    /// The first question that nobody has answered.
    pub fn unanswered(&self) -> Option<u64> {
        self.asked.iter().find(|(_, asked)| !asked.answered).map(|(number, _)| *number)
    }

    /// Why what is wanted of an experiment was refused.
    pub fn refused(&self, experiment: &str) -> Option<&str> {
        let (newest, _) = self.wishes.get(experiment)?.last()?;
        self.asked.get(newest)?.refused.as_deref()
    }

    /// Whether a question is answered.
    pub fn is_answered(&self, number: u64) -> bool {
        self.asked.get(&number).is_some_and(|asked| asked.answered)
    }

    /// How many questions there were.
    pub fn count(&self) -> u64 {
        self.asked.len() as u64
    }

    /// The experiments that were ever asked for, with the VMs that are wanted now; none of one that was taken down.
    pub fn wanted(&self) -> impl Iterator<Item = (&str, Option<u32>)> {
        self.wishes.iter().map(|(name, wishes)| (name.as_str(), wishes.last().and_then(|(_, vms)| *vms)))
    }

    /// The VMs of an experiment that are wanted now.
    pub fn wanted_of(&self, experiment: &str) -> Option<u32> {
        self.wishes.get(experiment)?.last()?.1
    }

    /// The fewest VMs of an experiment that anybody has asked for since a question: those below may not stop.
    pub fn fewest_since(&self, experiment: &str, since: u64) -> u32 {
        let wishes = self.wishes.get(experiment).map(Vec::as_slice).unwrap_or_default();
        wishes.iter().filter(|(number, _)| *number >= since).map(|(_, vms)| vms.unwrap_or(0)).min().unwrap_or(u32::MAX)
    }

    fn newest(&self) -> BTreeMap<String, u64> {
        self.wishes.iter().filter_map(|(name, wishes)| Some((name.clone(), wishes.last()?.0))).collect()
    }
}

impl Ask {
    fn experiment(&self) -> Option<&str> {
        match self {
            Ask::Up(experiment, _) | Ask::Down(experiment) => Some(experiment),
            _ => None,
        }
    }
}

fn input(number: u64, ask: &Ask) -> Input {
    let op_id = op_id(number);
    match ask {
        Ask::Up(experiment, vms) => {
            let mib = VM_MEMORY >> 20;
            let spec = Spec {
                experiment: experiment.clone(),
                // Hosts tell by it which question their VMs answer.
                source_name: op_id.clone(),
                source: format!("vm web[0..{vms}] {{ mem {mib}MiB }}\n"),
                ..Spec::default()
            };
            Input::Up { op_id, spec: Box::new(spec) }
        }
        Ask::Down(experiment) => Input::Down { op_id, experiment: experiment.clone() },
        Ask::Drain(host) => Input::Drain { op_id, hosts: vec![name(*host)] },
        Ask::Undrain(host) => Input::Undrain { op_id, hosts: vec![name(*host)] },
        Ask::Remove(host) => Input::Remove { op_id, hosts: vec![name(*host)] },
    }
}
