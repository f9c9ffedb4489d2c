//! Numbers as functions of a VM's own index, like `16 + i div 4`, and what can be asked about them without a visit to
//! every VM: closed forms ([`super::closed`]) answer by arithmetic, tables by binary search.

use super::super::syntax::tree::BinaryOp;
use super::closed::{Closed, ClosedRuns};
use smallvec::SmallVec;
use std::ops::Range;

/// One step of a compiled expression, for a small stack machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    Const(i64),
    Index,
    Apply(BinaryOp),
}

/// A number that depends on an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Always the same.
    Const(u32),
    /// The index plus this.
    Plus(i32),
    /// A shape of the plan's [`Forms`].
    Shape(u32),
}

/// What takes more than a number to describe.
#[derive(Debug, Clone)]
enum Shape {
    Closed(Closed),
    /// The index plus the number of the first of these pieces that ends above it, ascending.
    Pieces(Box<[(u32, i64)]>),
    Table(Table),
}

/// Values written down one by one.
#[derive(Debug, Clone)]
struct Table {
    first: u32,
    /// By index; [`NO_VALUE`] where there is none.
    values: Box<[u32]>,
    /// Places in `values`, sorted by value.
    by_value: Box<[u32]>,
}

const NO_VALUE: u32 = u32::MAX;

impl Table {
    fn new(first: u32, values: Box<[u32]>) -> Table {
        let mut by_value: Box<[u32]> = (0..values.len() as u32).collect();
        by_value.sort_by_key(|place| values[*place as usize]);
        Table { first, values, by_value }
    }

    fn value(&self, index: u32) -> Option<u32> {
        let value = *self.values.get(index.checked_sub(self.first)? as usize)?;
        (value != NO_VALUE).then_some(value)
    }

    /// The places of a value, ascending.
    fn places(&self, value: u32) -> &[u32] {
        let from = self.by_value.partition_point(|p| self.values[*p as usize] < value);
        let until = from + self.by_value[from..].partition_point(|p| self.values[*p as usize] == value);
        &self.by_value[from..until]
    }

    /// The places of a value among some indices.
    fn places_among(&self, indices: &Range<u32>, value: u32) -> &[u32] {
        let places = self.places(value);
        let before = |index: u32| places.partition_point(|p| self.first + p < index);
        &places[before(indices.start)..before(indices.end)]
    }
}

/// The shapes of a plan's forms, shared by all of its rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forms {
    shapes: Vec<Shape>,
    table_entries: usize,
}

/// Entries that all tables of a plan have together, at most.
pub(crate) const MAX_TABLES: usize = 1 << 20;

/// There is no closed form, and a table would be larger than [`MAX_TABLES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom;

impl Forms {
    fn push(&mut self, shape: Shape) -> Form {
        self.shapes.push(shape);
        Form::Shape(self.shapes.len() as u32 - 1)
    }

    /// Adds an expression for some indices.
    pub(crate) fn add(&mut self, code: &[Op], indices: &Range<u32>) -> Result<Form, NoRoom> {
        if !code.contains(&Op::Index)
            && let Some(n) = run(code, 0).and_then(|n| u32::try_from(n).ok())
        {
            return Ok(Form::Const(n));
        }
        match Closed::of(code) {
            Some(closed) => Ok(self.add_closed(closed)),
            None => {
                self.take_room(indices.len())?;
                let value = |i| run(code, i).and_then(|n| u32::try_from(n).ok()).unwrap_or(NO_VALUE);
                let values = indices.clone().map(value).collect();
                Ok(self.push(Shape::Table(Table::new(indices.start, values))))
            }
        }
    }

    /// Adds a closed form.
    pub(crate) fn add_closed(&mut self, closed: Closed) -> Form {
        if let Some(add) = closed.as_sum().and_then(|n| i32::try_from(n).ok()) {
            return Form::Plus(add);
        }
        // NICs of one group mostly have the same form.
        match self.shapes.last() {
            Some(Shape::Closed(last)) if *last == closed => Form::Shape(self.shapes.len() as u32 - 1),
            _ => self.push(Shape::Closed(closed)),
        }
    }

    /// Adds a table of values for the indices from `first` on.
    pub(crate) fn add_table(&mut self, first: u32, values: Vec<u32>) -> Result<Form, NoRoom> {
        self.take_room(values.len())?;
        Ok(self.push(Shape::Table(Table::new(first, values.into()))))
    }

    /// Whether a table of so many entries can still be added.
    pub(crate) fn has_room(&self, entries: usize) -> bool {
        entries <= MAX_TABLES - self.table_entries
    }

    fn take_room(&mut self, entries: usize) -> Result<(), NoRoom> {
        if !self.has_room(entries) {
            return Err(NoRoom);
        }
        self.table_entries += entries;
        Ok(())
    }

    /// Adds pieces (index below which it holds, number to add), in ascending order.
    pub(crate) fn add_pieces(&mut self, pieces: &[(u32, i64)]) -> Form {
        if let [(_, add)] = pieces
            && let Ok(add) = i32::try_from(*add)
        {
            return Form::Plus(add);
        }
        self.push(Shape::Pieces(pieces.into()))
    }

    /// The value for an index; `None` when it is negative, too large, or a division by zero.
    pub(crate) fn value(&self, form: Form, index: u32) -> Option<u32> {
        match form {
            Form::Const(value) => Some(value),
            Form::Plus(add) => index.checked_add_signed(add),
            Form::Shape(shape) => match self.shapes.get(shape as usize)? {
                Shape::Closed(closed) => u32::try_from(closed.value(index)).ok(),
                Shape::Pieces(pieces) => {
                    let (_, add) = pieces.get(pieces.partition_point(|(until, _)| *until <= index))?;
                    u32::try_from(i64::from(index) + add).ok()
                }
                Shape::Table(table) => table.value(index),
            },
        }
    }

    /// The form as a closed one, where it is.
    fn closed(&self, form: Form) -> Option<Closed> {
        match form {
            Form::Const(_) => None,
            Form::Plus(add) => Closed::INDEX.plus(i64::from(add)),
            Form::Shape(shape) => match self.shapes.get(shape as usize)? {
                Shape::Closed(closed) => Some(*closed),
                _ => None,
            },
        }
    }

    fn table(&self, form: Form) -> Option<&Table> {
        match form {
            Form::Shape(shape) => match self.shapes.get(shape as usize)? {
                Shape::Table(table) => Some(table),
                _ => None,
            },
            _ => None,
        }
    }

    /// Lowest and highest value over some indices; `None` if one of them has no value.
    pub(crate) fn bounds(&self, form: Form, indices: &Range<u32>) -> Option<(u32, u32)> {
        if let Form::Const(value) = form {
            return Some((value, value));
        }
        if let Some(closed) = self.closed(form) {
            let (low, high) = closed.bounds(indices)?;
            return Some((u32::try_from(low).ok()?, u32::try_from(high).ok()?));
        }
        let mut bounds: Option<(u32, u32)> = None;
        let mut at = indices.start;
        while at < indices.end {
            let last = self.rising_until(form, at).min(indices.end) - 1;
            let (from, until) = (self.value(form, at)?, self.value(form, last)?);
            let (low, high) = bounds.unwrap_or((from, until));
            bounds = Some((low.min(from), high.max(until)));
            at = last + 1;
        }
        bounds
    }

    /// Lowest and highest value over some runs of indices; `None` if one of them has no value.
    pub(crate) fn bounds_over(&self, form: Form, runs: Runs<'_>) -> Option<(u32, u32)> {
        // Numbers that rise with the index need a look at both ends only.
        if self.closed(form).is_some_and(Closed::rises) {
            let (first, last) = runs.ends()?;
            return Some((self.value(form, first)?, self.value(form, last)?));
        }
        let mut all: Option<(u32, u32)> = None;
        for run in runs {
            let (low, high) = self.bounds(form, &run)?;
            all = Some(all.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
        }
        all
    }

    /// The end of the indices from one on over which a form that is not closed only rises.
    fn rising_until(&self, form: Form, index: u32) -> u32 {
        if let Form::Shape(shape) = form
            && let Some(Shape::Pieces(pieces)) = self.shapes.get(shape as usize)
        {
            return pieces.get(pieces.partition_point(|(until, _)| *until <= index)).map_or(index + 1, |p| p.0);
        }
        index + 1
    }

    /// The first index whose value is not within bounds, both included, or that has none.
    pub(crate) fn first_outside(&self, form: Form, indices: &Range<u32>, (low, high): (u32, u32)) -> Option<u32> {
        match self.closed(form) {
            Some(closed) => closed.first_outside(indices, (i64::from(low), i64::from(high))),
            None => {
                let inside = |index: u32| self.value(form, index).is_some_and(|v| (low..=high).contains(&v));
                match form {
                    Form::Const(_) => indices.clone().next().filter(|i| !inside(*i)),
                    _ => indices.clone().find(|i| !inside(*i)),
                }
            }
        }
    }

    /// Every value over some indices once, in no promised order.
    pub(crate) fn values(&self, form: Form, indices: &Range<u32>) -> SmallVec<[u32; 4]> {
        if indices.is_empty() {
            return SmallVec::new();
        }
        if let Form::Const(value) = form {
            return smallvec::smallvec![value];
        }
        if let Some(closed) = self.closed(form) {
            return closed.values(indices).filter_map(|v| u32::try_from(v).ok()).collect();
        }
        let mut values: SmallVec<[u32; 4]> = indices.clone().filter_map(|i| self.value(form, i)).collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// How many of some indices have a value.
    pub(crate) fn count(&self, form: Form, indices: &Range<u32>, value: u32) -> u32 {
        match (form, self.closed(form), self.table(form)) {
            (Form::Const(own), ..) => {
                if own == value {
                    indices.len() as u32
                } else {
                    0
                }
            }
            (_, Some(closed), _) => closed.count(indices, i64::from(value)),
            (_, _, Some(table)) => table.places_among(indices, value).len() as u32,
            _ => indices.clone().filter(|i| self.value(form, *i) == Some(value)).count() as u32,
        }
    }

    /// Those of some indices that have a value, as ascending runs.
    pub(crate) fn runs(&self, form: Form, indices: &Range<u32>, value: u32) -> Runs<'_> {
        match (form, self.closed(form), self.table(form)) {
            (Form::Const(own), ..) => Runs::One((own == value && !indices.is_empty()).then(|| indices.clone())),
            (_, Some(closed), _) => Runs::Closed(closed.runs(indices, i64::from(value))),
            (_, _, Some(table)) => Runs::Places { first: table.first, places: table.places_among(indices, value) },
            _ => {
                let found: Vec<u32> = indices.clone().filter(|i| self.value(form, *i) == Some(value)).collect();
                Runs::Some(found.into_iter())
            }
        }
    }

    /// Whether no two of some indices have the same pair of values; `false` means that it is not known.
    pub(crate) fn is_injective(&self, forms: [Form; 2], indices: &Range<u32>) -> bool {
        let [a, b] = forms;
        indices.len() < 2
            || match (self.closed(a), self.closed(b)) {
                (Some(a), Some(b)) => a.is_injective_with(b, indices),
                (Some(one), None) | (None, Some(one)) => one.is_injective(indices),
                (None, None) => false,
            }
            || forms.iter().any(|form| self.pieces_are_injective(*form))
    }

    /// Whether a form is of pieces whose values do not meet. They are the blocks of a group that has grown.
    fn pieces_are_injective(&self, form: Form) -> bool {
        let Form::Shape(shape) = form else { return false };
        let Some(Shape::Pieces(pieces)) = self.shapes.get(shape as usize) else { return false };
        let mut from = 0;
        let mut blocks: Vec<(i64, i64)> = Vec::with_capacity(pieces.len());
        for (until, add) in pieces {
            blocks.push((i64::from(from) + add, i64::from(*until) + add));
            from = *until;
        }
        blocks.sort_unstable();
        blocks.windows(2).all(|pair| pair[0].1 <= pair[1].0)
    }
}

/// Runs of indices with one value; see [`Forms::runs`].
#[derive(Debug, Clone)]
pub(crate) enum Runs<'f> {
    One(Option<Range<u32>>),
    Closed(ClosedRuns),
    /// Indices from `first` on, ascending.
    Places {
        first: u32,
        places: &'f [u32],
    },
    Some(std::vec::IntoIter<u32>),
}

impl Runs<'_> {
    /// The first and the last of the indices.
    fn ends(self) -> Option<(u32, u32)> {
        match self {
            Runs::Closed(runs) => runs.ends(),
            Runs::Places { first, places } => Some((first + places.first()?, first + places.last()?)),
            mut others => {
                let first = others.next()?;
                let last = others.last().map_or(first.end, |run| run.end) - 1;
                Some((first.start, last))
            }
        }
    }
}

impl Iterator for Runs<'_> {
    type Item = Range<u32>;

    fn next(&mut self) -> Option<Range<u32>> {
        match self {
            Runs::One(run) => run.take(),
            Runs::Closed(runs) => runs.next(),
            Runs::Places { first, places } => {
                let start = *places.first()?;
                let length = (start..).zip(places.iter()).take_while(|(at, place)| at == *place).count();
                *places = &places[length..];
                Some(*first + start..*first + start + length as u32)
            }
            Runs::Some(indices) => indices.next().map(|i| i..i + 1),
        }
    }
}

/// Runs the steps. The parser bounds an expression to a few hundred nodes, and so the stack.
pub(crate) fn run(code: &[Op], index: u32) -> Option<i64> {
    let mut stack: SmallVec<[i64; 16]> = SmallVec::new();
    for op in code {
        let value = match *op {
            Op::Const(value) => value,
            Op::Index => i64::from(index),
            Op::Apply(op) => {
                let right = stack.pop()?;
                let left = stack.pop()?;
                apply(op, left, right)?
            }
        };
        stack.push(value);
    }
    stack.pop()
}

/// Arithmetic of the language: `mod` and `div` round down, as for indices they must.
pub(crate) fn apply(op: BinaryOp, left: i64, right: i64) -> Option<i64> {
    match op {
        BinaryOp::Add => left.checked_add(right),
        BinaryOp::Subtract => left.checked_sub(right),
        BinaryOp::Mod => left.checked_rem_euclid(right),
        BinaryOp::Div => left.checked_div_euclid(right),
    }
}
