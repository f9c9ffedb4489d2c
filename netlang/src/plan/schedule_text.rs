//! Experiments in a few words, for `fleet plan` and its JSON.

use super::PlanSummary;
use super::schedule::{Event, Experiment};
use crate::text::{duration, thousands};
use serde::Serialize;

/// An experiment, with its events in the order of their first times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExperimentSummary {
    /// Its name.
    pub name: String,
    /// How VMs are started, if the file says so.
    pub boot: Option<BootSummary>,
    /// The clock waits until routing has settled.
    pub wait_converged: bool,
    /// How long it waits at most, in nanoseconds.
    pub wait_max_ns: Option<u64>,
    /// What happens.
    pub events: Vec<EventSummary>,
    /// How many times something happens, all together.
    pub firings: u64,
    /// When it is over, in nanoseconds, if the file says so.
    pub end_ns: Option<u64>,
}

/// How VMs are started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootSummary {
    /// VMs a second.
    pub rate: Option<u32>,
    /// The words of the file; what is in none of them comes last.
    pub order: Vec<String>,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EventSummary {
    /// When it happens first, in nanoseconds from the start of the clock.
    pub at_ns: u64,
    /// The time from one to the next, when it happens again and again.
    pub every_ns: Option<u64>,
    /// It happens before this time only.
    pub until_ns: Option<u64>,
    /// How often it happens.
    pub firings: u64,
    /// What is done, as the file says it.
    pub action: String,
    /// To how many things each time; an instance of a module is one.
    pub targets: u64,
    /// Of how many.
    pub among: u64,
    /// Line in the file, from 1.
    pub line: u32,
}

impl Experiment {
    /// The experiment in a few words.
    pub fn summary(&self) -> ExperimentSummary {
        let event = |e: &Event| EventSummary {
            at_ns: e.at,
            every_ns: e.every.map(|r| r.period),
            until_ns: e.every.map(|r| r.until),
            firings: e.firings(self.end),
            action: e.text.clone(),
            targets: e.targets.count,
            among: e.targets.total(),
            line: e.line,
        };
        let mut events: Vec<EventSummary> = self.events.iter().map(event).collect();
        events.sort_by_key(|e| e.at_ns);
        ExperimentSummary {
            name: self.name.clone(),
            boot: self.boot.as_ref().map(|boot| BootSummary {
                rate: boot.rate,
                order: boot.order.iter().filter_map(|step| step.text.clone()).collect(),
            }),
            wait_converged: !self.waits.is_empty(),
            wait_max_ns: self.waits.iter().filter_map(|w| w.max).max(),
            events,
            firings: self.firings(),
            end_ns: self.end,
        }
    }
}

impl ExperimentSummary {
    /// The experiment as lines to print: what comes before the clock starts, then times and actions in columns.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("experiment {}", self.name)];
        if let Some(boot) = &self.boot {
            let rate = boot.rate.map(|rate| format!(" {} VMs a second", thousands(u64::from(rate))));
            let order = if boot.order.is_empty() { String::new() } else { format!(" {}", boot.order.join(", then ")) };
            lines.push(format!(
                "  boot{}{}{order}",
                rate.as_deref().unwrap_or(""),
                if rate.is_some() && !order.is_empty() { ":" } else { "" }
            ));
        }
        if self.wait_converged {
            let most = self.wait_max_ns.map(|max| format!(", {} at most", duration(max))).unwrap_or_default();
            lines.push(format!("  wait until routing has settled{most}"));
        }
        let when = |e: &EventSummary| match (e.every_ns, e.until_ns) {
            (Some(every), Some(until)) => {
                format!("{} until {}, every {}", duration(e.at_ns), duration(until), duration(every))
            }
            _ => duration(e.at_ns),
        };
        let mut table: Vec<(u64, String, String)> = Vec::with_capacity(self.events.len() + 1);
        table.extend(self.events.iter().map(|e| (e.at_ns, when(e), format!("{}{}", e.action, e.share()))));
        if let Some(end) = self.end_ns {
            table.push((end, duration(end), "end".to_owned()));
            table.sort_by_key(|row| row.0);
        }
        let width = table.iter().map(|row| row.1.chars().count()).max().unwrap_or(0);
        lines.extend(table.into_iter().map(|(_, when, what)| format!("  {when:width$}  {what}")));
        lines
    }
}

impl PlanSummary {
    /// All experiments as lines to print, with an empty line between two; nothing when there are none.
    pub fn schedule(&self) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for experiment in &self.experiments {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.extend(experiment.lines());
        }
        lines
    }
}

impl EventSummary {
    /// How many are meant, where the words do not say it.
    fn share(&self) -> String {
        match (self.targets, self.among) {
            (count, among) if count < among => format!("  ({} of {})", thousands(count), thousands(among)),
            (1, _) => String::new(),
            (count, _) => format!("  ({})", thousands(count)),
        }
    }
}
