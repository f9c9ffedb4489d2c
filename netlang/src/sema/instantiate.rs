//! Second pass: the instances of modules, and how many rows each declaration has in each of them.

use super::World;
use super::eval::Env;
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, codes};
use crate::plan::RouterKind;
use crate::plan::names::{Instance, Rows};
use crate::plan::routing::ExternalRow;
use crate::plan::rows::{GroupRow, RouterRow, SegmentRow};
use crate::source::Span;
use crate::syntax::intern::Symbol;
use crate::syntax::tree::{Expr, StmtId};
use crate::text::thousands;
use crate::vocab::Kind;

/// Groups, segments, routers, links and instances that a plan has at most, together.
pub(crate) const MAX_ROWS: u64 = 1 << 21;
/// Routers that a plan has at most: each is a namespace of its own, or more.
const MAX_ROUTERS: u64 = 1 << 20;
/// VMs that a plan has at most.
pub(crate) const MAX_VMS: u64 = 1 << 24;
/// Bytes of text that elements and instances are made from, together: it bounds what a short file can ask for.
const MAX_WORK: u64 = 1 << 27;
/// What a value of an instance counts for beside its text: it is kept.
const VALUE_WORK: u64 = 48;
/// Modules within modules.
const MAX_NESTING: u32 = 8;

/// Instances of one declaration path share keys in the lock: a class of instances.
#[derive(Debug, Clone)]
pub(crate) struct InstanceClass {
    /// Path without indices, with a dot at the end; empty for the file.
    pub(crate) prefix: String,
    pub(crate) depth: u32,
}

impl World<'_> {
    /// Makes all instances and allots rows to their declarations.
    pub(crate) fn instantiate(&mut self) {
        self.data.names.instances.push(Instance { parent: 0, decl: 0, index: None, module: 0, rows: Vec::new() });
        self.instance_classes.push(InstanceClass { prefix: String::new(), depth: 0 });
        self.class_of.push(0);
        self.module_instances = vec![Vec::new(); self.data.names.modules.len()];
        let mut at = 0;
        while at < self.data.names.instances.len() && !self.too_large {
            self.fill_instance(at as u32);
            let module = self.data.names.instances[at].module as usize;
            self.module_instances[module].push(at as u32);
            at += 1;
        }
    }

    fn fill_instance(&mut self, instance: u32) {
        let module = self.data.names.instances[instance as usize].module;
        let count = self.data.names.modules[module as usize].decls.len();
        self.data.names.instances[instance as usize].rows = Vec::with_capacity(count);
        for decl in 0..count as u32 {
            let rows = self.rows_for(instance, decl);
            self.data.names.instances[instance as usize].rows.push(rows);
            if self.too_large {
                return;
            }
        }
    }

    fn rows_for(&mut self, instance: u32, decl: u32) -> Rows {
        let found = *self.data.names.decl(instance, decl);
        if found.kind == Kind::External {
            self.data.externals.push(ExternalRow {
                decl,
                host: "".into(),
                interface: "".into(),
                prefix: super::externals::UNKNOWN,
            });
            return Rows { base: self.data.externals.len() as u32 - 1, count: 1, ..Rows::default() };
        }
        if found.kind == Kind::Link {
            // A named link gets its rows when it is made. One that is wrong is never made and has none.
            return Rows::default();
        }
        if !matches!(found.kind, Kind::Lan | Kind::Vm | Kind::Router | Kind::Instance) {
            self.work += VALUE_WORK;
            // A link that cannot be made has no rows; the others get theirs when they are made.
            return Rows { count: u32::from(found.kind != Kind::Link), ..Rows::default() };
        }
        let (first, count, is_array) = self.bounds(instance, found.stmt);
        let of = match found.kind {
            // A group is worked out once, however many VMs it has.
            Kind::Vm => None,
            Kind::Instance => self.data.names.modules[found.module as usize].stmt,
            _ => Some(found.stmt),
        };
        if let Some(of) = of {
            let span = self.tree.stmt_span(of);
            self.work += u64::from(span.end - span.start) * u64::from(count);
            if self.work > MAX_WORK {
                return self.refuse_size(found.span, "bytes of text for elements and instances", MAX_WORK);
            }
        }
        let indices = (first..first + count).map(|i| is_array.then_some(i));
        let base = match found.kind {
            Kind::Vm => {
                self.vms += u64::from(count);
                if self.vms > MAX_VMS {
                    return self.refuse_size(found.span, "VMs", MAX_VMS);
                }
                let row = GroupRow { instance, decl, first, count, class: 0, first_nic: 0, nic_count: 0, is_array };
                self.data.groups.push(row);
                self.data.groups.len() - 1
            }
            _ if self.row_count() + u64::from(count) > MAX_ROWS => {
                return self.refuse_size(found.span, "lans, routers, groups and instances", MAX_ROWS);
            }
            Kind::Router if self.data.routers.len() as u64 + u64::from(count) > MAX_ROUTERS => {
                return self.refuse_size(found.span, "routers", MAX_ROUTERS);
            }
            Kind::Lan => {
                let blank = SegmentRow {
                    instance,
                    decl,
                    index: None,
                    prefix: Prefix::new(0, 32),
                    mtu: super::lans::DEFAULT_MTU,
                    vni: 0,
                    domain: 0,
                    gateway: None,
                    policy: 0,
                };
                let base = self.data.segments.len();
                self.data.segments.extend(indices.map(|index| SegmentRow { index, ..blank }));
                base
            }
            Kind::Router => {
                let kind = RouterKind::Linux;
                let base = self.data.routers.len();
                self.data.routers.extend(indices.map(|index| RouterRow {
                    instance,
                    decl,
                    index,
                    kind,
                    first_interface: 0,
                    interface_count: 0,
                    originates_default: false,
                    bgp: None,
                    firewall: None,
                    first_nat: 0,
                    nat_count: 0,
                }));
                base
            }
            _ => self.push_instances(instance, decl, found.module, indices, found.span),
        };
        Rows { base: base as u32, first, count, is_array }
    }

    fn push_instances(
        &mut self,
        parent: u32,
        decl: u32,
        module: u32,
        indices: impl Iterator<Item = Option<u32>>,
        span: Span,
    ) -> usize {
        let base = self.data.names.instances.len();
        let parent_class = self.class_of[parent as usize];
        let depth = self.instance_classes[parent_class as usize].depth + 1;
        if depth > MAX_NESTING {
            self.sink.push(
                Diagnostic::error(codes::CYCLE, "modules are nested too deep", span)
                    .label(format!("more than {MAX_NESTING} modules within one another; does one need itself?")),
            );
            self.too_large = true;
            return base;
        }
        let class = match self.class_ids.get(&(parent_class, decl)) {
            Some(class) => *class,
            None => {
                let name = self.data.names.interner.name(self.data.names.decl(parent, decl).symbol);
                let prefix = format!("{}{name}.", self.instance_classes[parent_class as usize].prefix);
                self.instance_classes.push(InstanceClass { prefix, depth });
                let class = self.instance_classes.len() as u32 - 1;
                self.class_ids.insert((parent_class, decl), class);
                class
            }
        };
        for index in indices {
            self.data.names.instances.push(Instance { parent, decl, index, module, rows: Vec::new() });
            self.class_of.push(class);
        }
        base
    }

    fn row_count(&self) -> u64 {
        let data = &self.data;
        (data.groups.len() + data.segments.len() + data.routers.len() + data.names.instances.len()) as u64
    }

    pub(crate) fn refuse_size(&mut self, span: Span, what: &str, most: u64) -> Rows {
        self.too_large = true;
        self.sink.push(
            Diagnostic::error(codes::TOO_LARGE, format!("more than {} {what}", thousands(most)), span)
                .label("with this the file has too many"),
        );
        Rows::default()
    }

    /// First index, count and whether it is an array, of a declaration in an instance.
    fn bounds(&mut self, instance: u32, stmt: StmtId) -> (u32, u32, bool) {
        let Some((_, range)) = self.head_range(stmt) else { return (0, 1, false) };
        let Some((from, until)) = self.range(Env::of(instance), range) else { return (0, 0, true) };
        if from >= until || until > MAX_VMS as i64 {
            let span = self.tree.span(range);
            let text = span.text(self.text);
            let label = if from >= until { "a range ends before its second number" } else { "too large" };
            self.sink.push(
                Diagnostic::error(codes::BAD_RANGE, format!("`{text}` has no elements that fleet can make"), span)
                    .label(label),
            );
            return (0, 0, true);
        }
        (from as u32, (until - from) as u32, true)
    }

    /// The name of the index and the range of a declared array.
    pub(crate) fn head_range(&self, stmt: StmtId) -> Option<(Option<Symbol>, crate::syntax::tree::ExprId)> {
        let word = *self.tree.words(stmt).get(1)?;
        let Expr::At(_, index) = self.tree.expr(word) else { return None };
        match self.tree.expr(index) {
            Expr::Range(..) => Some((None, index)),
            Expr::Bind(name, range) => Some((Some(name), range)),
            _ => None,
        }
    }

    /// The name of the index of a declared array: `i` of `web[i in 0..300]`.
    pub(crate) fn index_name(&self, stmt: StmtId) -> Option<Symbol> {
        self.head_range(stmt).and_then(|(name, _)| name)
    }

    /// The environment of element `index` of a declaration.
    pub(crate) fn element_env(&self, instance: u32, stmt: StmtId, index: Option<u32>) -> Env {
        let index = self.index_name(stmt).zip(index).map(|(name, i)| (name, i64::from(i)));
        Env { instance, index }
    }
}
