//! Closed forms: a number as a function of a VM's own index, like `16 + i div 4`.

use super::super::syntax::tree::BinaryOp;

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
    IndexPlus(i64),
    /// Steps `from..from + len` of the plan's code.
    Code(u32, u32),
    /// Entry `index - first` of the plan's tables, from this one on.
    Table(u32, u32),
    /// The index plus the number of the first of these pieces that ends above it: `pieces[from..from + len]`.
    Pieces(u32, u32),
}

/// Forms' code and tables, shared by all rows of a plan.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forms {
    code: Vec<Op>,
    tables: Vec<u32>,
    pieces: Vec<(u32, i64)>,
}

impl Forms {
    /// Adds an expression; the plain cases need no code.
    pub(crate) fn add(&mut self, code: &[Op]) -> Form {
        match *code {
            [Op::Const(n)] if u32::try_from(n).is_ok() => return Form::Const(n as u32),
            [Op::Index] => return Form::IndexPlus(0),
            [Op::Const(n), Op::Index, Op::Apply(BinaryOp::Add)]
            | [Op::Index, Op::Const(n), Op::Apply(BinaryOp::Add)] => {
                return Form::IndexPlus(n);
            }
            _ => {}
        }
        // Instances of one module mostly have the same code as the one before.
        if self.code.ends_with(code) {
            return Form::Code((self.code.len() - code.len()) as u32, code.len() as u32);
        }
        self.code.extend_from_slice(code);
        Form::Code((self.code.len() - code.len()) as u32, code.len() as u32)
    }

    /// Adds a table of values for the indices from `first` on.
    pub(crate) fn add_table(&mut self, first: u32, values: &[u32]) -> Form {
        self.tables.extend_from_slice(values);
        Form::Table((self.tables.len() - values.len()) as u32, first)
    }

    /// Adds pieces (index below which it holds, number to add), in ascending order.
    pub(crate) fn add_pieces(&mut self, pieces: &[(u32, i64)]) -> Form {
        if let [(_, add)] = pieces {
            return Form::IndexPlus(*add);
        }
        self.pieces.extend_from_slice(pieces);
        Form::Pieces((self.pieces.len() - pieces.len()) as u32, pieces.len() as u32)
    }

    /// The value for an index; `None` when it is negative, too large, or a division by zero.
    pub(crate) fn value(&self, form: Form, index: u32) -> Option<u32> {
        match form {
            Form::Const(value) => Some(value),
            Form::IndexPlus(add) => u32::try_from(i64::from(index).checked_add(add)?).ok(),
            Form::Table(start, first) => self.tables.get(start as usize + index.checked_sub(first)? as usize).copied(),
            Form::Pieces(from, len) => {
                let pieces = &self.pieces[from as usize..(from + len) as usize];
                let (_, add) = pieces.iter().find(|(until, _)| index < *until)?;
                u32::try_from(i64::from(index) + add).ok()
            }
            Form::Code(from, len) => u32::try_from(run(&self.code[from as usize..(from + len) as usize], index)?).ok(),
        }
    }
}

/// Runs the steps. The parser bounds an expression to a few hundred nodes, and so the stack.
pub(crate) fn run(code: &[Op], index: u32) -> Option<i64> {
    let mut stack: smallvec::SmallVec<[i64; 16]> = smallvec::SmallVec::new();
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
