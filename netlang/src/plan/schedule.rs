//! Experiments: what happens when, to what.
//!
//! An event of `every` is one row however often it fires, and what it is done to are ranges however many VMs are in
//! them: [`Experiment::timeline`] unrolls the times one by one, and [`Plan::affected`] works out who is meant at one
//! of them. Both are arithmetic, so every host comes to the same answer.

use super::choose::Choice;
use super::path::Selected;
use super::rows::{Data, On};
use super::{LinkId, Plan, Range, RouterId, SegmentId};
use crate::text::mix64;
use crate::vocab::Kind;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Firings that an experiment has at most, all events together.
pub const MAX_FIRINGS: u64 = 1_000_000;

/// An `experiment` of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Experiment {
    /// Its name.
    pub name: String,
    /// Its line in the file, from 1.
    pub line: u32,
    /// How the VMs are started; `None`: all, as fast as the hosts can.
    pub boot: Option<Boot>,
    /// What holds the clock before the first event.
    pub waits: Vec<Wait>,
    /// What happens, in the order of the file; [`Experiment::timeline`] has it in the order of time.
    pub events: Vec<Event>,
    /// When it is over, in nanoseconds from its start; `None`: after the last event. All else of that instant comes first.
    pub end: Option<u64>,
}

/// How VMs are started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Boot {
    /// VMs a second; `None` for as fast as the hosts can.
    pub rate: Option<u32>,
    /// One after another. Every VM of the file is in exactly one of them.
    pub order: Vec<BootStep>,
}

/// VMs that are started together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BootStep {
    /// The words of the file; `None` for the VMs that `order` leaves out, which come last.
    pub text: Option<String>,
    /// The VMs.
    pub vms: Vec<Range>,
}

/// Something that must be so before the clock starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Wait {
    /// What.
    pub what: WaitFor,
    /// How long at most, in nanoseconds; after that the experiment has failed. `None` for no limit.
    pub max: Option<u64>,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum WaitFor {
    /// Routing has settled: every router has the routes that the plan expects.
    Converged,
}

/// An action at a time, or at many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Event {
    /// When it happens first, in nanoseconds from the start of the clock.
    pub at: u64,
    /// Again and again.
    pub every: Option<Repeat>,
    /// What is done.
    pub action: Action,
    /// To what.
    pub targets: Targets,
    /// The action as it is written, without its time.
    pub text: String,
    /// Its line in the file, from 1.
    pub line: u32,
}

/// `every PERIOD from START until STOP`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Repeat {
    /// Nanoseconds from one to the next; not 0.
    pub period: u64,
    /// It happens before this time only, in nanoseconds.
    pub until: u64,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Cut it, as by a power cut or a pulled plug.
    Fail,
    /// Mend what [`Action::Fail`] cut.
    Heal,
    /// Change properties of links.
    Set(LinkChange),
    /// Start VMs anew.
    Reboot,
    /// Shut VMs down.
    Stop,
    /// Start VMs that are stopped.
    Start,
    /// Hold VMs still.
    Pause,
    /// Let paused VMs go on.
    Resume,
    /// Run this command in VMs.
    Run(String),
}

/// Properties of links that change; the others stay as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct LinkChange {
    /// One-way delay, in nanoseconds.
    pub delay: Option<u64>,
    /// Variation of the delay, in nanoseconds.
    pub jitter: Option<u64>,
    /// Rate each way in bits a second.
    pub rate: Option<u64>,
    /// Packets lost, in parts of a billion.
    pub loss: Option<u64>,
    /// What a route over it costs.
    pub cost: Option<u32>,
}

/// Some numbers in a row, of ids of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub struct Ids {
    /// The lowest.
    pub first: u32,
    /// How many.
    pub count: u32,
}

impl Ids {
    pub(crate) fn iter(self) -> std::ops::Range<u32> {
        self.first..self.first.saturating_add(self.count)
    }
}

/// Things of one kind that an action is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetRange {
    /// VMs of a group.
    Vms(Range),
    /// Routers, by [`RouterId`].
    Routers(Ids),
    /// Segments, by [`SegmentId`].
    Segments(Ids),
    /// Links, by [`LinkId`].
    Links(Ids),
    /// Instances of modules, each with all that is in it; the numbers mean nothing outside of the plan.
    Instances(Ids),
}

impl TargetRange {
    /// How many things these are; an instance is one.
    pub fn count(&self) -> u64 {
        u64::from(match self {
            TargetRange::Vms(range) => range.count,
            TargetRange::Routers(ids)
            | TargetRange::Segments(ids)
            | TargetRange::Links(ids)
            | TargetRange::Instances(ids) => ids.count,
        })
    }

    /// `count` of them, from the `first` one on; both are within.
    fn part(&self, first: u64, count: u64) -> TargetRange {
        let (skip, count) = (first as u32, count as u32);
        let cut = |ids: &Ids| Ids { first: ids.first + skip, count };
        match self {
            TargetRange::Vms(r) => TargetRange::Vms(Range { group: r.group, first: r.first + skip, count }),
            TargetRange::Routers(ids) => TargetRange::Routers(cut(ids)),
            TargetRange::Segments(ids) => TargetRange::Segments(cut(ids)),
            TargetRange::Links(ids) => TargetRange::Links(cut(ids)),
            TargetRange::Instances(ids) => TargetRange::Instances(cut(ids)),
        }
    }
}

/// What an action is done to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Targets {
    /// What can be chosen from, in the order of the file's words.
    pub among: Vec<TargetRange>,
    /// How many of them are chosen each time; all when it is [`Targets::total`].
    pub count: u64,
    /// The number that the choice depends on.
    pub seed: u64,
    /// A hash of the names of `among`, so that different lists with one seed are chosen from independently.
    pub(crate) list: u64,
}

impl Targets {
    /// How many there are to choose from.
    pub fn total(&self) -> u64 {
        self.among.iter().map(TargetRange::count).sum()
    }

    /// Which of them, by their place in `among`, are meant at the given firing of an event (0 for the first). Depends
    /// on seed, list, count and firing alone: the same words in two events mean the same ones.
    pub fn choice(&self, firing: u64) -> Choice {
        Choice::new(self.total(), self.count, mix64(self.list ^ mix64(self.seed)) ^ mix64(firing.rotate_left(32) ^ 1))
    }

    /// The chosen ones as ranges.
    fn chosen(&self, firing: u64) -> Vec<TargetRange> {
        if self.count == self.total() {
            return self.among.clone();
        }
        let mut chosen = Vec::new();
        let mut sets = self.among.iter();
        let (mut set, mut start) = (sets.next(), 0);
        for (mut first, mut left) in self.choice(firing).runs() {
            while let Some(it) = set.filter(|_| left > 0) {
                let end = start + it.count();
                if first >= end {
                    (set, start) = (sets.next(), end);
                    continue;
                }
                let here = left.min(end - first);
                chosen.push(it.part(first - start, here));
                (first, left) = (first + here, left - here);
            }
        }
        chosen
    }
}

/// Who is meant by an event at one of its firings.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Affected {
    /// VMs.
    pub vms: Vec<Range>,
    /// Routers.
    pub routers: Vec<RouterId>,
    /// Segments.
    pub segments: Vec<SegmentId>,
    /// Links; those of routers when the action is about links.
    pub links: Vec<LinkId>,
}

/// One happening of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Firing {
    /// When, in nanoseconds from the start of the clock.
    pub at: u64,
    /// Which of [`Experiment::events`].
    pub event: usize,
    /// How often it happened before.
    pub number: u64,
}

impl Event {
    /// How often it happens, when nothing after `end` does.
    pub fn firings(&self, end: Option<u64>) -> u64 {
        let end = end.unwrap_or(u64::MAX);
        if self.at > end {
            return 0;
        }
        let Some(every) = self.every else { return 1 };
        // The last instant at which it may happen.
        let last = every.until.saturating_sub(1).min(end);
        last.checked_sub(self.at).map_or(0, |time| time / every.period.max(1) + 1)
    }

    /// Whether it happens at most once.
    pub fn is_single(&self) -> bool {
        self.every.is_none()
    }
}

impl Experiment {
    /// How many firings there are, of all events.
    pub fn firings(&self) -> u64 {
        self.events.iter().fold(0, |sum, event| sum.saturating_add(event.firings(self.end)))
    }

    /// Everything that happens, in order of time; at the same time in the order of the file. It is worked out one by
    /// one and takes memory for one firing of each event.
    pub fn timeline(&self) -> Timeline<'_> {
        let happens = self.events.iter().enumerate().filter(|(_, event)| event.firings(self.end) > 0);
        Timeline { experiment: self, next: happens.map(|(n, e)| Reverse((e.at, n, 0))).collect() }
    }

    /// When its last event happens.
    pub fn last(&self) -> Option<u64> {
        let last = |e: &Event| {
            let more = e.firings(self.end).checked_sub(1)?;
            Some(e.at + e.every.map_or(0, |every| every.period * more))
        };
        self.events.iter().filter_map(last).max()
    }
}

/// See [`Experiment::timeline`].
#[derive(Debug, Clone)]
pub struct Timeline<'e> {
    experiment: &'e Experiment,
    /// The next firing of each event: time, event, number.
    next: BinaryHeap<Reverse<(u64, usize, u64)>>,
}

impl Iterator for Timeline<'_> {
    type Item = Firing;

    fn next(&mut self) -> Option<Firing> {
        let Reverse((at, event, number)) = self.next.pop()?;
        let row = self.experiment.events.get(event)?;
        if number + 1 < row.firings(self.experiment.end)
            && let Some(every) = row.every
        {
            self.next.push(Reverse((at + every.period, event, number + 1)));
        }
        Some(Firing { at, event, number })
    }
}

impl Data {
    /// All VMs and routers of an instance.
    pub(crate) fn parts_of(&self, instance: u32, affected: &mut Affected) {
        let mut open: Vec<Selected> = self.names.everything(instance);
        open.reverse();
        while let Some(it) = open.pop() {
            let base = self.names.rows(it.instance, it.decl).base;
            match it.kind {
                Kind::Vm => affected.vms.extend(self.vms_of(&[it])),
                Kind::Router => affected.routers.extend((base..base + it.count).map(RouterId)),
                Kind::Instance => {
                    for inner in (base..base + it.count).rev() {
                        open.extend(self.names.everything(inner).into_iter().rev());
                    }
                }
                _ => {}
            }
        }
    }

    /// The links that end at a router.
    pub(crate) fn links_at(&self, router: u32) -> impl Iterator<Item = LinkId> + '_ {
        self.interfaces_of(router).iter().filter_map(|i| if let On::Link(l) = i.on { Some(LinkId(l)) } else { None })
    }
}

/// The same VMs in order, each once, in as few ranges as can be.
pub(crate) fn merged(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    let mut out: Vec<Range> = Vec::with_capacity(ranges.len());
    for range in ranges.into_iter().filter(|r| r.count > 0) {
        match out.last_mut() {
            Some(last) if last.group == range.group && range.first <= last.indices().end => {
                last.count = last.indices().end.max(range.indices().end) - last.first;
            }
            _ => out.push(range),
        }
    }
    out
}

/// The VMs of the first list, in order of groups, that are not in the second, which is [`merged`].
pub(crate) fn without(all: Vec<Range>, named: &[Range]) -> Vec<Range> {
    let mut rest = Vec::new();
    for range in all {
        let mut first = range.first;
        let start = named.partition_point(|n| n.group < range.group);
        for taken in named[start..].iter().take_while(|n| n.group == range.group) {
            rest.push(Range { group: range.group, first, count: taken.first.saturating_sub(first) });
            first = first.max(taken.indices().end);
        }
        rest.push(Range { group: range.group, first, count: range.indices().end.saturating_sub(first) });
    }
    rest.retain(|range| range.count > 0);
    rest
}

impl Plan {
    /// The experiments of the file, in its order.
    pub fn experiments(&self) -> &[Experiment] {
        &self.data.experiments
    }

    /// Who is meant by an event of this plan at one of its firings, see [`Firing::number`].
    pub fn affected(&self, event: &Event, firing: u64) -> Affected {
        let mut affected = Affected::default();
        let with_routers = matches!(event.action, Action::Fail | Action::Heal);
        for set in event.targets.chosen(firing) {
            match set {
                TargetRange::Vms(range) => affected.vms.push(range),
                TargetRange::Segments(ids) => affected.segments.extend(ids.iter().map(SegmentId)),
                TargetRange::Links(ids) => affected.links.extend(ids.iter().map(LinkId)),
                TargetRange::Routers(ids) if matches!(event.action, Action::Set(_)) => {
                    affected.links.extend(ids.iter().flat_map(|r| self.data.links_at(r)));
                }
                TargetRange::Routers(ids) => affected.routers.extend(ids.iter().map(RouterId)),
                TargetRange::Instances(ids) => ids.iter().for_each(|i| self.data.parts_of(i, &mut affected)),
            }
        }
        if !with_routers {
            affected.routers.clear();
        }
        // Two routers may share a link, and an instance may be named beside a part of it.
        affected.vms = merged(affected.vms);
        affected.routers.sort_unstable();
        affected.routers.dedup();
        affected.segments.sort_unstable();
        affected.segments.dedup();
        affected.links.sort_unstable();
        affected.links.dedup();
        affected
    }
}
