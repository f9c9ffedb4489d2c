//! Which lan a NIC is on, as a function of its VM's index: `seg[i mod 4]`, `site[i div 100].lan`.
//!
//! The path is resolved once for all VMs of a group. Where the index stands in one pair of brackets only, the segment
//! has a closed form as a rule; otherwise a table is made, by arithmetic for each VM and with no look at names.

use super::World;
use super::eval::Env;
use crate::diag::{Diagnostic, codes};
use crate::plan::closed::Closed;
use crate::plan::form::{Form, MAX_TABLES, NoRoom, Op, run};
use crate::plan::names::Names;
use crate::syntax::intern::Symbol;
use crate::syntax::tree::{Expr, ExprId};
use crate::text::thousands;
use crate::vocab::Kind;
use smallvec::SmallVec;
use std::ops::Range;

/// A step of a path: a declaration in the module that the path has led to, and which of its elements.
struct Step {
    decl: u32,
    /// What is in the brackets, compiled.
    index: Option<Vec<Op>>,
}

impl Step {
    fn is_dynamic(&self) -> bool {
        self.index.as_ref().is_some_and(|code| code.contains(&Op::Index))
    }
}

impl World<'_> {
    /// The segment of a NIC as a function of the group's index, and one of the segments.
    pub(crate) fn lan_form(&mut self, group: u32, lan: ExprId, index: Option<Symbol>) -> Option<(Form, u32)> {
        let row = self.data.groups[group as usize];
        let Some(name) = index.filter(|i| self.mentions(lan, *i)) else {
            let segment = self.one(Env::of(row.instance), lan, &[Kind::Lan], "lan")?;
            return Some((Form::Const(segment), segment));
        };
        let Some((scope, steps)) = self.lan_steps(row.instance, lan, name)? else {
            // Something is wrong with the names, whatever the index is.
            self.one(
                Env { instance: row.instance, index: Some((name, i64::from(row.first))) },
                lan,
                &[Kind::Lan],
                "lan",
            );
            return None;
        };
        let indices = self.data.indices(group);
        let form = match self.closed_lan(scope, &steps, &indices) {
            Some(form) => form,
            None => self.lan_table(group, lan, name, (scope, &steps))?,
        };
        let first = self.data.forms.value(form, row.first)?;
        Some((form, first))
    }

    /// The steps of a path to a lan, from an instance. Outer `None`: an error was reported; inner: one is to be.
    #[allow(clippy::option_option)]
    fn lan_steps(&mut self, instance: u32, lan: ExprId, name: Symbol) -> Option<Option<(u32, Vec<Step>)>> {
        let mut parts: SmallVec<[(Symbol, Option<ExprId>); 4]> = SmallVec::new();
        let mut at = lan;
        let mut index = None;
        loop {
            match self.tree.expr(at) {
                Expr::At(base, inner) if index.is_none() => (index, at) = (Some(inner), base),
                Expr::Field(base, field) => {
                    parts.push((field, index.take()));
                    at = base;
                }
                Expr::Name(first) => {
                    parts.push((first, index.take()));
                    break;
                }
                _ => return Some(None),
            }
        }
        let Some((from, ..)) = self.data.names.lookup(instance, parts[parts.len() - 1].0) else {
            return Some(None);
        };
        let mut module = self.data.names.instances[from as usize].module;
        let mut steps = Vec::new();
        while let Some((symbol, index)) = parts.pop() {
            let of = &self.data.names.modules[module as usize];
            let Some(decl) = of.table.get(&symbol).copied() else { return Some(None) };
            let found = of.decls[decl as usize];
            let kind = if parts.is_empty() { Kind::Lan } else { Kind::Instance };
            if found.kind != kind {
                return Some(None);
            }
            let index = match index {
                Some(index) => {
                    if matches!(self.tree.expr(index), Expr::Range(..) | Expr::All | Expr::Bind(..)) {
                        self.several_lans(index);
                        return None;
                    }
                    // Names in the brackets are those of the group, wherever the path has led to.
                    let mut code = Vec::new();
                    self.lower(Env::of(instance), index, Some(name), &mut code)?;
                    Some(code)
                }
                None => None,
            };
            steps.push(Step { decl, index });
            module = found.module;
        }
        Some(Some((from, steps)))
    }

    fn several_lans(&mut self, index: ExprId) {
        let span = self.tree.span(index);
        self.sink.push(
            Diagnostic::error(codes::BAD_OPERANDS, "a NIC is on one lan", span)
                .label("several at once")
                .help("one number in the brackets, such as `i mod 4`"),
        );
    }

    /// The form of a path in which the index is in one pair of brackets and elements follow one another evenly.
    fn closed_lan(&mut self, scope: u32, steps: &[Step], indices: &Range<u32>) -> Option<Form> {
        let names = &self.data.names;
        let at = steps.iter().position(Step::is_dynamic)?;
        let (before, after) = (&steps[..at], &steps[at + 1..]);
        if after.iter().any(Step::is_dynamic) {
            return None;
        }
        let scope = if before.is_empty() { scope } else { walk(names, scope, before, 0)? };
        let rows = names.rows(scope, steps[at].decl);
        let index = Closed::of(steps[at].index.as_ref()?)?;
        let (low, high) = index.bounds(indices)?;
        let (first, until) = (i64::from(rows.first), i64::from(rows.first) + i64::from(rows.count));
        if !rows.is_array || low < first || high >= until {
            return None;
        }
        let row = |element: i64| (i64::from(rows.base) + element - first) as u32;
        if after.is_empty() {
            let form = index.plus(i64::from(row(low)) - low)?;
            return Some(self.data.forms.add_closed(form));
        }
        // More elements than VMs: a table is no more work than to look at all of them.
        if high - low >= indices.len() as i64 {
            return None;
        }
        let lan = |element: i64| walk(names, row(element), after, 0).map(i64::from);
        let start = lan(low)?;
        if low == high {
            return Some(Form::Const(start as u32));
        }
        let stride = lan(low + 1)? - start;
        if !(low..=high).all(|element| lan(element) == Some(start + (element - low) * stride)) {
            return None;
        }
        let form = index.plus(-low)?.times(stride)?.plus(start)?;
        Some(self.data.forms.add_closed(form))
    }

    /// The form of any other path: one entry for each VM.
    fn lan_table(&mut self, group: u32, lan: ExprId, name: Symbol, (scope, steps): (u32, &[Step])) -> Option<Form> {
        let row = self.data.groups[group as usize];
        let indices = self.data.indices(group);
        let span = self.tree.span(lan);
        let room = self.data.forms.has_room(indices.len());
        let mut table = Vec::with_capacity(if room { indices.len() } else { 0 });
        for index in indices {
            match walk(&self.data.names, scope, steps, index) {
                Some(segment) if room => table.push(segment),
                Some(_) => {}
                None => {
                    self.no_lan(group, lan, name, index, steps);
                    return None;
                }
            }
        }
        match room.then(|| self.data.forms.add_table(row.first, table)) {
            Some(Ok(form)) => Some(form),
            Some(Err(NoRoom)) | None => {
                self.sink.push(
                    Diagnostic::error(codes::TOO_LARGE, "these lans have no closed form for so many VMs", span)
                        .label("use the index in one pair of brackets, in sums, `mod` and `div` with numbers")
                        .note(format!("without one, {} VMs are the most", thousands(MAX_TABLES as u64))),
                );
                None
            }
        }
    }

    /// Reports that a VM would be on a lan that there is not.
    fn no_lan(&mut self, group: u32, lan: ExprId, name: Symbol, index: u32, steps: &[Step]) {
        let row = self.data.groups[group as usize];
        if let ([only], Expr::At(base, _)) = (steps, self.tree.expr(lan))
            && let Some(symbol) = self.tree.as_name(base)
            && let Some((scope, ..)) = self.data.names.lookup(row.instance, symbol)
        {
            let rows = self.data.names.rows(scope, only.decl);
            if rows.is_array {
                // Arrays that came out empty were reported where they are declared.
                if rows.count > 0 {
                    let vm = self.data.names.path(row.instance, row.decl, Some(index));
                    let count = thousands(u64::from(rows.count));
                    let message = format!("`{vm}` would be on a lan that there is not");
                    self.sink.push(
                        Diagnostic::error(codes::BAD_INDEX, message, self.tree.span(lan))
                            .label(format!("the array has {count} lans; the index is {index}")),
                    );
                }
                return;
            }
        }
        self.one(Env { instance: row.instance, index: Some((name, i64::from(index))) }, lan, &[Kind::Lan], "lan");
    }
}

/// The row that some steps lead to from an instance.
fn walk(names: &Names, scope: u32, steps: &[Step], index: u32) -> Option<u32> {
    let mut at = scope;
    for step in steps {
        let rows = names.rows(at, step.decl);
        let element = match &step.index {
            Some(code) if rows.is_array => {
                let element = run(code, index)? - i64::from(rows.first);
                u32::try_from(element).ok().filter(|e| *e < rows.count)?
            }
            Some(_) => return None,
            None if rows.count == 1 => 0,
            None => return None,
        };
        at = rows.base + element;
    }
    Some(at)
}
