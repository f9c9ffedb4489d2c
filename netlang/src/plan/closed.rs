//! Closed forms: `start + step * (((i + shift) mod period) div width)`.
//!
//! Sums, `mod` and `div` of an index nearly always come to this shape, and questions about it have answers in closed
//! form as well: which values it takes over some indices, how often, and where. So nothing has to visit every VM of a
//! group. What does not come to this shape is kept as a table, see [`super::form`].

use super::super::syntax::tree::BinaryOp;
use super::form::Op;
use smallvec::SmallVec;
use std::ops::Range;

/// Largest constant in a closed form, so that no sum or product of two of them overflows.
const LARGEST: i64 = 1 << 40;
/// Largest `step`.
const LARGEST_STEP: i64 = 1 << 20;

/// A number that depends on an index; see the module's documentation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed {
    start: i64,
    /// Not 0.
    step: i64,
    shift: i64,
    /// 0 for none.
    period: i64,
    /// At least 1.
    width: i64,
}

impl Closed {
    /// The index itself.
    pub(crate) const INDEX: Closed = Closed { start: 0, step: 1, shift: 0, period: 0, width: 1 };

    /// What an expression comes to, if it has a closed form and depends on the index at all.
    pub(crate) fn of(code: &[Op]) -> Option<Closed> {
        enum Part {
            Number(i64),
            Form(Closed),
        }
        use Part::{Form, Number};
        let mut stack: SmallVec<[Part; 8]> = SmallVec::new();
        for op in code {
            let part = match *op {
                Op::Const(n) => Number(n),
                Op::Index => Form(Closed::INDEX),
                Op::Apply(op) => {
                    let (right, left) = (stack.pop()?, stack.pop()?);
                    match (left, op, right) {
                        (Number(l), _, Number(r)) => Number(super::form::apply(op, l, r)?),
                        (Form(f), BinaryOp::Add, Number(n)) | (Number(n), BinaryOp::Add, Form(f)) => Form(f.plus(n)?),
                        (Form(f), BinaryOp::Subtract, Number(n)) => Form(f.plus(n.checked_neg()?)?),
                        (Number(n), BinaryOp::Subtract, Form(f)) => Form(f.times(-1)?.plus(n)?),
                        (Form(f), BinaryOp::Mod, Number(n)) => Form(f.modulo(n)?),
                        (Form(f), BinaryOp::Div, Number(n)) => Form(f.divided(n)?),
                        _ => return None,
                    }
                }
            };
            stack.push(part);
        }
        match stack.pop()? {
            Form(form) => Some(form),
            Number(_) => None,
        }
    }

    /// One form for all ways to write it, if its constants are small enough.
    fn normal(mut self) -> Option<Closed> {
        if self.period == 0 && self.start % self.step == 0 {
            self.shift = self.shift.checked_add((self.start / self.step).checked_mul(self.width)?)?;
            self.start = 0;
        }
        let small = [self.start, self.shift, self.period, self.width].iter().all(|n| n.abs() <= LARGEST);
        (small && self.step.abs() <= LARGEST_STEP).then_some(self)
    }

    /// The number `n` if this is `i + n`.
    pub(crate) fn as_sum(self) -> Option<i64> {
        (self == Closed { shift: self.shift, ..Closed::INDEX }).then_some(self.shift)
    }

    /// This plus a number.
    pub(crate) fn plus(self, n: i64) -> Option<Closed> {
        Closed { start: self.start.checked_add(n)?, ..self }.normal()
    }

    /// This times a number that is not 0.
    pub(crate) fn times(self, n: i64) -> Option<Closed> {
        if n == 0 {
            return None;
        }
        Closed { start: self.start.checked_mul(n)?, step: self.step.checked_mul(n)?, ..self }.normal()
    }

    fn modulo(self, m: i64) -> Option<Closed> {
        let m = m.checked_abs().filter(|m| *m > 0 && *m <= LARGEST && self.step == 1)?;
        let period = self.width.checked_mul(m)?;
        if self.period == 0 {
            // `start` is 0: forms are normal. (x div w) mod m = (x mod (w*m)) div w
            return Closed { period, ..self }.normal();
        }
        let most = self.start + (self.period - 1) / self.width;
        if self.start.div_euclid(m) == most.div_euclid(m) {
            return Closed { start: self.start.rem_euclid(m), ..self }.normal();
        }
        if self.start == 0 && self.period % period == 0 { Closed { period, ..self }.normal() } else { None }
    }

    fn divided(self, n: i64) -> Option<Closed> {
        if !(1..=LARGEST).contains(&n) || self.step != 1 || self.start % n != 0 {
            return None;
        }
        Closed { start: self.start / n, width: self.width.checked_mul(n)?, ..self }.normal()
    }

    /// Whether a higher index never has a lower value.
    pub(crate) fn rises(self) -> bool {
        self.period == 0 && self.step > 0
    }

    /// `((i + shift) mod period) div width`
    fn rank(self, index: u32) -> i64 {
        let x = i64::from(index) + self.shift;
        if self.period == 0 { x.div_euclid(self.width) } else { x.rem_euclid(self.period) / self.width }
    }

    /// The value for an index.
    pub(crate) fn value(self, index: u32) -> i64 {
        self.start + self.step * self.rank(index)
    }

    /// At most two ranges of indices over which the value only rises or only falls, and which have all values.
    fn sections(self, indices: &Range<u32>) -> [Range<u32>; 2] {
        if self.period == 0 || indices.is_empty() {
            return [indices.clone(), indices.end..indices.end];
        }
        let left = self.period - (i64::from(indices.start) + self.shift).rem_euclid(self.period);
        let after = |from: u32, count: i64| {
            u32::try_from(i64::from(from) + count).map_or(indices.end, |until| until.min(indices.end))
        };
        let cut = after(indices.start, left);
        [indices.start..cut, cut..after(cut, self.period)]
    }

    /// Its ranks over some indices, as at most two ranges, ascending, both ends included.
    fn ranks(self, indices: &Range<u32>) -> SmallVec<[(i64, i64); 2]> {
        let sections = self.sections(indices).into_iter().filter(|s| !s.is_empty());
        let mut ranks: SmallVec<[(i64, i64); 2]> =
            sections.map(|s| (self.rank(s.start), self.rank(s.end - 1))).collect();
        ranks.sort_unstable();
        if let [(a, b), (c, d)] = ranks[..]
            && c <= b + 1
        {
            ranks.clear();
            ranks.push((a, b.max(d)));
        }
        ranks
    }

    /// Lowest and highest value over some indices; `None` without indices.
    pub(crate) fn bounds(self, indices: &Range<u32>) -> Option<(i64, i64)> {
        let ranks = self.ranks(indices);
        let (low, high) = (ranks.first()?.0, ranks.last()?.1);
        let (a, b) = (self.start + self.step * low, self.start + self.step * high);
        Some((a.min(b), a.max(b)))
    }

    /// Every value over some indices once.
    pub(crate) fn values(self, indices: &Range<u32>) -> impl Iterator<Item = i64> {
        self.ranks(indices).into_iter().flat_map(|(a, b)| a..=b).map(move |rank| self.start + self.step * rank)
    }

    /// The first index whose value is not within bounds, both included.
    pub(crate) fn first_outside(self, indices: &Range<u32>, (low, high): (i64, i64)) -> Option<u32> {
        let outside = |index: u32| !(low..=high).contains(&self.value(index));
        for section in self.sections(indices).into_iter().filter(|s| !s.is_empty()) {
            if outside(section.start) {
                return Some(section.start);
            }
            // Once outside, it does not come back: the value only rises or only falls.
            if outside(section.end - 1) {
                let (mut inside, mut found) = (section.start, section.end - 1);
                while found - inside > 1 {
                    let middle = inside + (found - inside) / 2;
                    if outside(middle) { found = middle } else { inside = middle }
                }
                return Some(found);
            }
        }
        None
    }

    /// The residues `x mod period` (or the `x`) that have a value, as a half-open range.
    fn residues(self, value: i64) -> Option<(i64, i64)> {
        let offset = value.checked_sub(self.start)?;
        if offset % self.step != 0 {
            return None;
        }
        let low = (offset / self.step).checked_mul(self.width)?;
        let high = low.checked_add(self.width)?;
        match self.period {
            0 => Some((low, high)),
            period => (0..period).contains(&low).then_some((low, high.min(period))),
        }
    }

    /// How many of some indices have a value.
    pub(crate) fn count(self, indices: &Range<u32>, value: i64) -> u32 {
        let Some((low, high)) = self.residues(value) else { return 0 };
        let (from, until) = (i64::from(indices.start) + self.shift, i64::from(indices.end) + self.shift);
        let count = match self.period {
            0 => until.min(high) - from.max(low),
            // Of 0..x so many have such a residue.
            period => {
                let below =
                    |x: i64| x.div_euclid(period) * (high - low) + (x.rem_euclid(period) - low).clamp(0, high - low);
                below(until) - below(from)
            }
        };
        count.max(0) as u32
    }

    /// Those of some indices that have a value, as runs.
    pub(crate) fn runs(self, indices: &Range<u32>, value: i64) -> ClosedRuns {
        let (from, until) = (i64::from(indices.start), i64::from(indices.end));
        let Some((low, high)) = self.residues(value).filter(|_| from < until) else {
            return ClosedRuns { next: 0, width: 0, period: 0, from: 0, until: 0 };
        };
        let width = high - low;
        let next = match self.period {
            0 => low - self.shift,
            // The first that ends behind the first index.
            period => {
                let least = from - width + 1;
                least + (low - self.shift - least).rem_euclid(period)
            }
        };
        ClosedRuns { next, width, period: self.period, from, until }
    }

    /// Whether no two of some indices have the same value.
    pub(crate) fn is_injective(self, indices: &Range<u32>) -> bool {
        let count = i64::from(indices.end.saturating_sub(indices.start));
        if count <= 3 {
            let values: SmallVec<[i64; 3]> = indices.clone().map(|i| self.value(i)).collect();
            return (1..values.len()).all(|i| !values[..i].contains(&values[i]));
        }
        self.width == 1 && (self.period == 0 || count <= self.period)
    }

    /// Whether no two of some indices have the same pair of values; `false` means that it is not known.
    pub(crate) fn is_injective_with(self, other: Closed, indices: &Range<u32>) -> bool {
        // Two indices with the same value are at least so far apart, and at most.
        let least = |f: Closed| match (f.width, f.period) {
            (1, 0) => i64::MAX,
            (1, period) => period,
            _ => 1,
        };
        let most = |f: Closed| if f.period == 0 { f.width - 1 } else { i64::MAX };
        self.is_injective(indices)
            || other.is_injective(indices)
            || least(self) > most(other)
            || least(other) > most(self)
    }
}

/// Runs of indices with one value; see [`Closed::runs`].
#[derive(Debug, Clone)]
pub(crate) struct ClosedRuns {
    next: i64,
    width: i64,
    /// 0 for a single run.
    period: i64,
    from: i64,
    until: i64,
}

impl ClosedRuns {
    /// The first and the last of the indices.
    pub(crate) fn ends(mut self) -> Option<(u32, u32)> {
        let first = self.next()?;
        let mut last = first.end - 1;
        if self.period > 0 && self.next < self.until {
            // The last run that starts below the end.
            let start = self.next + (self.until - 1 - self.next) / self.period * self.period;
            last = ((start + self.width).min(self.until) - 1) as u32;
        }
        Some((first.start, last))
    }
}

impl Iterator for ClosedRuns {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        let (start, end) = (self.next.max(self.from), (self.next + self.width).min(self.until));
        if start >= end {
            return None;
        }
        match self.period {
            0 => self.next = self.until,
            period => self.next += period,
        }
        // Both lie within the indices that were asked for.
        Some(start as u32..end as u32)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::form::{Form, Forms, run};
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Sums, `mod` and `div` of the index with numbers, in any order.
    fn code() -> impl Strategy<Value = Vec<Op>> {
        let step = prop_oneof![
            (-20i64..20).prop_map(|n| (BinaryOp::Add, n, true)),
            (-20i64..20).prop_map(|n| (BinaryOp::Subtract, n, true)),
            (-20i64..20).prop_map(|n| (BinaryOp::Subtract, n, false)),
            (1i64..13).prop_map(|n| (BinaryOp::Mod, n, true)),
            (1i64..7).prop_map(|n| (BinaryOp::Div, n, true)),
        ];
        proptest::collection::vec(step, 0..5).prop_map(|steps| {
            let mut code = vec![Op::Index];
            for (op, number, index_is_left) in steps {
                match index_is_left {
                    true => code.push(Op::Const(number)),
                    false => code.insert(0, Op::Const(number)),
                }
                code.push(Op::Apply(op));
            }
            code
        })
    }

    fn indices() -> impl Strategy<Value = Range<u32>> {
        (0u32..40, 0u32..60).prop_map(|(first, count)| first..first + count)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_closed_form_answers_like_a_visit_to_every_index(code in code(), indices in indices()) {
            let Some(closed) = Closed::of(&code) else { return Ok(()) };
            let mut by_value: BTreeMap<i64, Vec<u32>> = BTreeMap::new();
            for index in indices.clone() {
                prop_assert_eq!(Some(closed.value(index)), run(&code, index));
                by_value.entry(closed.value(index)).or_default().push(index);
            }
            let mut values: Vec<i64> = closed.values(&indices).collect();
            values.sort_unstable();
            prop_assert_eq!(values, by_value.keys().copied().collect::<Vec<_>>());
            let ends = by_value.keys().next().copied().zip(by_value.keys().next_back().copied());
            prop_assert_eq!(closed.bounds(&indices), ends);
            prop_assert_eq!(closed.is_injective(&indices), by_value.values().all(|at| at.len() == 1));
            let (low, high) = ends.unwrap_or((0, 0));
            for value in low - 2..=high + 2 {
                let expected = by_value.get(&value).cloned().unwrap_or_default();
                prop_assert_eq!(closed.count(&indices, value) as usize, expected.len());
                let runs = closed.runs(&indices, value);
                prop_assert_eq!(runs.clone().ends(), expected.first().copied().zip(expected.last().copied()));
                prop_assert_eq!(runs.flatten().collect::<Vec<_>>(), expected);
            }
            for bounds in [(low + 1, high), (low, high - 1), (low + 1, high - 1), (low, high)] {
                let outside = indices.clone().find(|i| !(bounds.0..=bounds.1).contains(&closed.value(*i)));
                prop_assert_eq!(closed.first_outside(&indices, bounds), outside);
            }
        }

        #[test]
        fn pairs_that_are_said_to_differ_do(a in code(), b in code(), indices in indices()) {
            let mut forms = Forms::default();
            let (a, b) = (forms.add(&a, &indices).unwrap(), forms.add(&b, &indices).unwrap());
            let mut seen = std::collections::BTreeSet::new();
            let differ = indices.clone().all(|i| seen.insert((forms.value(a, i), forms.value(b, i))));
            // Where a value is missing, nothing is promised: such a NIC is an error.
            let whole = |f: Form| indices.clone().all(|i| forms.value(f, i).is_some());
            if forms.is_injective([a, b], &indices) && whole(a) && whole(b) {
                prop_assert!(differ);
            }
        }

        #[test]
        fn tables_answer_like_closed_forms(code in code(), indices in indices()) {
            let mut forms = Forms::default();
            let form = forms.add(&code, &indices).unwrap();
            let values: Vec<Option<u32>> = indices.clone().map(|i| forms.value(form, i)).collect();
            let written: Vec<u32> = values.iter().map(|v| v.unwrap_or(u32::MAX)).collect();
            let table = forms.add_table(indices.start, written).unwrap();
            prop_assert_eq!(forms.bounds(form, &indices), forms.bounds(table, &indices));
            for value in forms.values(form, &indices) {
                prop_assert_eq!(forms.count(form, &indices, value), forms.count(table, &indices, value));
                let runs = |f: Form| forms.runs(f, &indices, value).flatten().collect::<Vec<u32>>();
                prop_assert_eq!(runs(form), runs(table));
                let bounds = |f: Form| forms.bounds_over(form, forms.runs(f, &indices, value));
                prop_assert_eq!(bounds(form), bounds(table));
            }
        }
    }

    #[test]
    fn usual_spreads_differ_in_lan_or_number() {
        let mut forms = Forms::default();
        let (index, number, op) = (Op::Index, Op::Const, Op::Apply);
        let indices = 0..1_000_000;
        let mut add = |code: &[Op]| forms.add(code, &indices).unwrap();
        let lan = add(&[index, number(4), op(BinaryOp::Mod)]);
        let host = add(&[number(16), index, number(4), op(BinaryOp::Div), op(BinaryOp::Add)]);
        let close = add(&[number(16), index, number(5), op(BinaryOp::Div), op(BinaryOp::Add)]);
        let block = add(&[index, number(250), op(BinaryOp::Div)]);
        let within = add(&[number(16), index, number(250), op(BinaryOp::Mod), op(BinaryOp::Add)]);
        assert!(forms.is_injective([lan, host], &indices));
        assert!(!forms.is_injective([lan, close], &indices));
        assert!(forms.is_injective([block, within], &indices));
    }
}
