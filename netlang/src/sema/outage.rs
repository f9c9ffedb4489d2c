//! Whether `fail` and `heal` fit together: nothing is mended that was never cut, nothing is cut twice.
//!
//! Both are only warnings: a choice by share may or may not meet the same things.

use super::World;
use crate::diag::{Diagnostic, codes};
use crate::plan::schedule::Affected;
use crate::plan::{Action, Event, Experiment, TargetRange};
use crate::source::Span;
use crate::text::duration;

/// So many `fail` and `heal` are compared with one another; beyond that nobody reads the warnings.
const MAX_COMPARED: usize = 200;
/// So many ranges they may be of, all together.
const MAX_RANGES: usize = 1 << 18;

/// Kind, group (0 where there are none), first and one past the last: sorted, so that two lists can be merged.
type Cover = Vec<(u8, u32, u32, u32)>;

impl World<'_> {
    /// Warns of `heal` without `fail`, and of a second `fail` without `heal` between.
    pub(crate) fn check_outages(&mut self, experiment: &Experiment, spans: &[Span]) {
        let of_outages = |e: &Event| matches!(e.action, Action::Fail | Action::Heal);
        let mut order: Vec<usize> =
            (0..experiment.events.len()).filter(|n| of_outages(&experiment.events[*n])).collect();
        if order.len() > MAX_COMPARED {
            return;
        }
        order.sort_by_key(|n| experiment.events[*n].at);
        let mut covers: Vec<Cover> = Vec::with_capacity(order.len());
        let mut ranges = 0;
        for number in &order {
            let cover = self.cover(&experiment.events[*number].targets.among);
            ranges += cover.len();
            if ranges > MAX_RANGES {
                return;
            }
            covers.push(cover);
        }
        for (place, number) in order.iter().enumerate() {
            let event = &experiment.events[*number];
            let earlier =
                || order[..place].iter().zip(&covers).map(|(n, cover)| (&experiment.events[*n], spans[*n], cover));
            let meets = |cover: &Cover| overlap(cover, &covers[place]);
            if event.action == Action::Heal {
                // One that is repeated may come to what fails later.
                let all = order.iter().zip(&covers).map(|(n, cover)| (&experiment.events[*n], cover));
                let mut fails = all.filter(|(e, c)| e.action == Action::Fail && overlap(c, &covers[place]));
                let last = event.every.map_or(event.at, |every| every.until);
                if !fails.any(|(e, _)| e.at <= last) {
                    self.sink.push(
                        Diagnostic::warning(codes::HEAL_WHOLE, "this mends what did not fail before", spans[*number])
                            .label(format!("at {} nothing of it has failed", duration(event.at))),
                    );
                }
                continue;
            }
            // The latest of what met the same things, when that is certain.
            let before = earlier().rfind(|(_, _, cover)| meets(cover));
            let heals_again =
                earlier().any(|(e, _, cover)| e.action == Action::Heal && e.every.is_some() && meets(cover));
            if let Some((first, first_span, cover)) = before
                && first.action == Action::Fail
                && !heals_again
                && *cover == covers[place]
                && [first, event].iter().all(|e| e.targets.count == e.targets.total())
            {
                self.sink.push(
                    Diagnostic::warning(codes::FAILED_ALREADY, "this has failed already", spans[*number])
                        .label(format!("at {}, and nothing healed it before", duration(event.at)))
                        .also(first_span, format!("failed at {}", duration(first.at))),
                );
            }
        }
    }

    fn cover(&self, among: &[TargetRange]) -> Cover {
        let mut cover = Cover::new();
        let mut inner = Affected::default();
        for set in among {
            match set {
                TargetRange::Vms(range) => inner.vms.push(*range),
                TargetRange::Routers(ids) => cover.push((1, 0, ids.first, ids.first + ids.count)),
                TargetRange::Segments(ids) => cover.push((2, 0, ids.first, ids.first + ids.count)),
                TargetRange::Links(ids) => cover.push((3, 0, ids.first, ids.first + ids.count)),
                TargetRange::Instances(ids) => ids.iter().for_each(|i| self.data.parts_of(i, &mut inner)),
            }
        }
        cover.extend(inner.vms.iter().map(|r| (0, r.group.0, r.first, r.indices().end)));
        cover.extend(inner.routers.iter().map(|r| (1, 0, r.0, r.0 + 1)));
        cover.sort_unstable();
        cover
    }
}

/// Whether two lists have something in common.
fn overlap(a: &Cover, b: &Cover) -> bool {
    let (mut left, mut right) = (a.iter().peekable(), b.iter().peekable());
    while let (Some(x), Some(y)) = (left.peek(), right.peek()) {
        if (x.0, x.1) == (y.0, y.1) && x.2 < y.3 && y.2 < x.3 {
            return true;
        }
        if (x.0, x.1, x.3) <= (y.0, y.1, y.3) {
            left.next()
        } else {
            right.next()
        };
    }
    false
}
