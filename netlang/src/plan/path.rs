//! Paths: `web[0..10]`, `hq.pc[*]`, resolved against the instances of a file.

use super::names::Names;
use super::rows::Data;
use super::{GroupId, Range};
use crate::source::Span;
use crate::syntax::intern::Interner;
use crate::syntax::parser::parse_word;
use crate::syntax::tree::{Expr, ExprId, Tree};
use crate::text::nearest;
use crate::vocab::Kind;

/// What stands in the brackets of a path's part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PathIndex {
    /// No brackets: the whole array.
    None,
    /// `[*]`
    All,
    /// `[3]`
    One(i64),
    /// `[0..10]`
    Range(i64, i64),
}

/// A part of a path.
#[derive(Debug, Clone)]
pub(crate) struct PathPart {
    pub(crate) name: String,
    pub(crate) span: Span,
    pub(crate) index: PathIndex,
}

/// Some elements of one declaration in one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Selected {
    pub(crate) kind: Kind,
    pub(crate) instance: u32,
    pub(crate) decl: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Why a path leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathError {
    /// No such name in an instance.
    Unknown { part: usize, scope: u32 },
    /// An index that the array does not have; its bounds.
    OutOfRange { part: usize, first: u32, until: u32 },
    /// An index on what is no array.
    NotArray { part: usize },
    /// A part before the last that has no parts of its own.
    NoParts { part: usize, kind: Kind },
}

impl PathError {
    /// The part that it is about, from 0.
    pub(crate) fn part(&self) -> usize {
        match *self {
            PathError::Unknown { part, .. }
            | PathError::OutOfRange { part, .. }
            | PathError::NotArray { part }
            | PathError::NoParts { part, .. } => part,
        }
    }
}

/// The parts of a path that is written as an expression; `eval` gives the value of an index.
pub(crate) fn parts(
    tree: &Tree,
    names: &Interner,
    path: ExprId,
    eval: &mut dyn FnMut(ExprId) -> Option<i64>,
) -> Option<Vec<PathPart>> {
    let mut parts = Vec::new();
    let mut at = path;
    let mut index = PathIndex::None;
    loop {
        match tree.expr(at) {
            Expr::At(base, inner) => {
                if index != PathIndex::None {
                    return None;
                }
                index = match tree.expr(inner) {
                    Expr::All => PathIndex::All,
                    Expr::Range(from, until) => PathIndex::Range(eval(from)?, eval(until)?),
                    Expr::Bind(..) => return None,
                    _ => PathIndex::One(eval(inner)?),
                };
                at = base;
            }
            Expr::Field(base, name) => {
                let span = tree.span(at);
                let name = names.name(name).to_owned();
                let span = Span::new(span.end - name.len() as u32, span.end);
                parts.push(PathPart { name, span, index: std::mem::replace(&mut index, PathIndex::None) });
                at = base;
            }
            Expr::Name(name) => {
                parts.push(PathPart { name: names.name(name).to_owned(), span: tree.span(at), index });
                parts.reverse();
                return Some(parts);
            }
            _ => return None,
        }
    }
}

/// Reads a path from a text on its own.
pub(crate) fn parse(text: &str) -> Option<Vec<PathPart>> {
    let (tree, word) = parse_word(text)?;
    parts(&tree, &tree.names, word, &mut |e| match tree.expr(e) {
        Expr::Int(value) => Some(tree.int(value)),
        _ => None,
    })
}

impl Names {
    /// Follows a path from an instance: the first part is a name there or in the file.
    pub(crate) fn select(&self, from: u32, parts: &[PathPart]) -> Result<Vec<Selected>, PathError> {
        let mut scopes = vec![from];
        if from != 0 && parts.first().is_some_and(|p| self.find(from, &p.name).is_none()) {
            scopes = vec![0];
        }
        for (number, part) in parts.iter().enumerate() {
            let last = number + 1 == parts.len();
            let mut next = Vec::new();
            let mut selected = Vec::new();
            for scope in &scopes {
                let Some((decl, found)) = self.find(*scope, &part.name) else {
                    return Err(PathError::Unknown { part: number, scope: *scope });
                };
                let kind = found.kind;
                let rows = self.rows(*scope, decl);
                let (first, count) = pick(rows.first, rows.count, rows.is_array, part.index, number)?;
                if last {
                    selected.push(Selected { kind, instance: *scope, decl, first, count });
                } else if kind == Kind::Instance {
                    let base = rows.base + (first - rows.first);
                    next.extend(base..base + count);
                } else {
                    return Err(PathError::NoParts { part: number, kind });
                }
            }
            if last {
                return Ok(selected);
            }
            scopes = next;
        }
        Ok(Vec::new())
    }

    /// A name like this one that can be seen from an instance.
    pub(crate) fn similar(&self, scope: u32, name: &str) -> Option<String> {
        // In a file of a million names the one that is meant is rarely found by comparing all of them.
        const LIMIT: usize = 1_000;
        let seen = [scope, 0].into_iter().flat_map(|s| {
            let module = &self.modules[self.instances[s as usize].module as usize];
            module.decls.iter().take(LIMIT).map(|d| self.interner.name(d.symbol))
        });
        nearest(name, seen).map(str::to_owned)
    }
}

/// Applies an index to an array of elements `first..first + count`.
fn pick(first: u32, count: u32, is_array: bool, index: PathIndex, part: usize) -> Result<(u32, u32), PathError> {
    let until = first + count;
    let (from, to) = match index {
        PathIndex::None | PathIndex::All => return Ok((first, count)),
        _ if !is_array => return Err(PathError::NotArray { part }),
        PathIndex::One(i) => (i, i.saturating_add(1)),
        PathIndex::Range(from, to) => (from, to),
    };
    if from < i64::from(first) || to > i64::from(until) || from > to {
        return Err(PathError::OutOfRange { part, first, until });
    }
    Ok((from as u32, (to - from) as u32))
}

impl Data {
    /// The VMs among what a path selected: those of a group, or all of an instance.
    pub(crate) fn vms_of(&self, selected: &[Selected]) -> Vec<Range> {
        let mut ranges = Vec::new();
        let mut open: Vec<Selected> = selected.iter().rev().copied().collect();
        while let Some(it) = open.pop() {
            let rows = self.names.rows(it.instance, it.decl);
            match it.kind {
                Kind::Vm if it.count > 0 => {
                    ranges.push(Range { group: GroupId(rows.base), first: it.first, count: it.count });
                }
                Kind::Instance => {
                    let base = rows.base + (it.first - rows.first);
                    for instance in (base..base + it.count).rev() {
                        open.extend(self.names.everything(instance).into_iter().rev());
                    }
                }
                _ => {}
            }
        }
        ranges
    }
}

impl Data {
    /// The VMs and routers among what a path selected, with all that is in instances; sorted, ranges merged.
    pub(crate) fn placed_of(&self, selected: &[Selected]) -> (Vec<Range>, Vec<u32>) {
        let mut ranges = self.vms_of(selected);
        ranges.sort_unstable();
        ranges.dedup_by(|next, before| {
            let touches = next.group == before.group && next.first <= before.indices().end;
            if touches {
                before.count = before.count.max(next.indices().end - before.first);
            }
            touches
        });
        let mut routers = Vec::new();
        let mut open: Vec<Selected> = selected.to_vec();
        while let Some(it) = open.pop() {
            let rows = self.names.rows(it.instance, it.decl);
            let base = rows.base + (it.first - rows.first);
            match it.kind {
                Kind::Router => routers.extend(base..base + it.count),
                Kind::Instance => open.extend((base..base + it.count).flat_map(|i| self.names.everything(i))),
                _ => {}
            }
        }
        routers.sort_unstable();
        routers.dedup();
        (ranges, routers)
    }
}

impl Names {
    /// Every declaration of an instance.
    pub(crate) fn everything(&self, instance: u32) -> Vec<Selected> {
        let it = &self.instances[instance as usize];
        let decls = &self.modules[it.module as usize].decls;
        (0..it.rows.len().min(decls.len()))
            .map(|decl| {
                let rows = it.rows[decl];
                Selected { kind: decls[decl].kind, instance, decl: decl as u32, first: rows.first, count: rows.count }
            })
            .collect()
    }
}
