//! Meaning: from the syntax tree to a plan.
//!
//! One pass after another over the columns of [`Data`]: declarations and shapes (`declare`), instances of modules
//! (`instantiate`), then lans, groups, routers and links, then addresses (`allot`, `pools`), then the rules that need
//! them (`verify`), gateways and checks. A pass reports what it finds and leaves out what it cannot work out, so
//! that many errors come from one run and none of them is a consequence of another.

mod allot;
mod bgp;
mod bgp_checks;
mod check_messages;
mod checks;
mod clause;
mod declare;
mod eval;
mod experiment;
mod externals;
mod firewall;
mod firewall_checks;
mod hosts;
mod instantiate;
mod lans;
mod link_refs;
mod links;
pub(crate) mod modules;
mod nat;
mod nics;
mod ospf;
mod ospf_checks;
mod outage;
mod place;
mod policies;
mod pools;
mod refs;
mod routers;
mod targets;
mod telemetry;
pub(crate) mod value;
mod verify;
mod vms;
mod wires;
mod zones;

use crate::address::extents::Extents;
use crate::address::lock::{Lock, Section};
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, Sink};
use crate::plan::rows::{Data, Lists, On};
use crate::plan::{Plan, VmClass};
use crate::source::Source;
use crate::syntax::intern::Symbol;
use crate::syntax::parser::parse;
use crate::syntax::tree::{ExprId, StmtId, Tree};
use hashbrown::{HashMap, HashSet};
use std::sync::Arc;
use value::Value;

/// What came of compiling a file.
#[derive(Debug, Clone)]
pub struct Compilation {
    /// Errors and warnings, in the order of the text.
    pub diagnostics: Vec<Diagnostic>,
    /// The plan; `None` if there is an error.
    pub plan: Option<Plan>,
    /// The lock with this experiment's blocks brought up to date; unchanged if there is an error.
    pub lock: Lock,
}

impl Compilation {
    /// Whether an error keeps the file from having a plan.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Checks a network file that is to be run, gives addresses to everything and proves its `check` lines.
///
/// Whatever this version of fleet cannot run yet is an error (E0099). Pure: the same source and lock give the same
/// plan everywhere.
pub fn compile(source: &Source, lock: &Lock) -> Compilation {
    compile_for(source, lock, Purpose::Run)
}

/// Like [`compile`], for a network that is to be looked at: what cannot be run yet is no error, but is listed in
/// [`Plan::unsupported`]. `check` lines are proved only if that list is empty, because a proof that leaves something
/// out proves nothing.
pub fn design(source: &Source, lock: &Lock) -> Compilation {
    compile_for(source, lock, Purpose::Design)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Run,
    Design,
}

fn compile_for(source: &Source, lock: &Lock, purpose: Purpose) -> Compilation {
    parts(source, lock, purpose).compilation
}

/// A compilation with what it came from, which is there even if the file has errors: for editors.
pub(crate) struct Parts {
    pub(crate) tree: Tree,
    pub(crate) data: Arc<Data>,
    /// Values of `let`s and parameters: by instance and declaration.
    pub(crate) values: HashMap<(u32, u32), Value>,
    pub(crate) compilation: Compilation,
}

/// Like [`design`], with all parts.
pub(crate) fn design_parts(source: &Source, lock: &Lock) -> Parts {
    parts(source, lock, Purpose::Design)
}

fn parts(source: &Source, lock: &Lock, purpose: Purpose) -> Parts {
    let mut sink = Sink::default();
    if u32::try_from(source.text.len()).is_err() {
        let span = crate::source::Span::default();
        sink.push(Diagnostic::error(crate::diag::codes::TOO_LARGE, "the file is larger than 4 GiB", span));
        let compilation = Compilation { diagnostics: sink.finish(""), plan: None, lock: lock.clone() };
        return Parts { tree: Tree::default(), data: Arc::default(), values: HashMap::new(), compilation };
    }
    let mut tree = parse(&source.text, &mut sink);
    let mut data = Data { experiment: source.name.clone(), ..Data::default() };
    data.names.interner = std::mem::take(&mut tree.names);
    let mut world = World::new(&source.text, tree, data, sink, lock);
    world.run();
    if purpose == Purpose::Run {
        world.refuse_unsupported();
    }
    let World { sink, data, new_section, tree, values, .. } = world;
    let failed = sink.has_errors();
    let mut new_lock = lock.clone();
    if let Some(section) = new_section.filter(|_| !failed) {
        new_lock.set_section(&source.name, Arc::new(section));
    }
    let data = Arc::new(data);
    let plan = (!failed).then(|| Plan { data: data.clone() });
    let known = values.into_iter().filter_map(|(key, known)| match known {
        eval::Known::Done(Some(value)) => Some((key, value)),
        _ => None,
    });
    let values = if purpose == Purpose::Design { known.collect() } else { HashMap::new() };
    let compilation = Compilation { diagnostics: sink.finish(&source.text), plan, lock: new_lock };
    Parts { tree, data, values, compilation }
}

/// All that the passes share.
pub(crate) struct World<'a> {
    text: &'a str,
    tree: Tree,
    data: Data,
    sink: Sink,
    lock: &'a Lock,
    new_section: Option<Section>,

    // Declarations.
    module_of: HashMap<Symbol, u32>,
    poisoned: HashSet<Symbol>,
    defaults: Vec<(&'static str, StmtId)>,
    links: Vec<declare::Loose>,
    checks: Vec<declare::Loose>,
    pools: Vec<declare::Loose>,
    places: Vec<declare::Loose>,
    telemetries: Vec<StmtId>,
    target_ranges: usize,
    unsupported_spans: HashSet<crate::source::Span>,

    // Instances.
    values: HashMap<(u32, u32), eval::Known>,
    value_depth: u32,
    /// The parameters that the block of an instance gives; of the one that was asked for last.
    given_params: Option<(StmtId, HashMap<Symbol, StmtId>)>,
    /// Elements of arrays and instances, times the bytes of text that each is made from.
    work: u64,
    eval_depth: u32,
    /// The instances of each module.
    module_instances: Vec<Vec<u32>>,
    class_of: Vec<u32>,
    class_ids: HashMap<(u32, u32), u32>,
    instance_classes: Vec<instantiate::InstanceClass>,
    vms: u64,
    /// NICs of all VMs.
    ports: u64,
    too_large: bool,

    // Rows, and what was said about them.
    given_prefix: Vec<Option<Option<Prefix>>>,
    broken_dhcp: HashSet<u32>,
    class_rows: HashMap<VmClass, u32>,
    nic_sources: Vec<vms::NicSource>,
    poisoned_nics: HashSet<u32>,
    attaches: Vec<routers::Attach>,
    broken_routers: HashSet<u32>,
    interface_words: Vec<ExprId>,
    /// The word that says the OSPF area of an interface.
    area_words: HashMap<u32, ExprId>,
    link_sources: Vec<links::LinkSource>,
    link_classes: Vec<links::LinkClass>,
    link_names: HashMap<(u32, String), StmtId>,

    // Addresses.
    lan_class: Vec<allot::LanClass>,
    class_of_segment: Vec<u32>,
    net_extents: Vec<Option<Extents>>,
    vni_extents: Vec<Extents>,

    outside_zone: Option<crate::plan::routing::Zone>,
}

impl<'a> World<'a> {
    fn new(text: &'a str, tree: Tree, data: Data, sink: Sink, lock: &'a Lock) -> World<'a> {
        World {
            text,
            tree,
            data,
            sink,
            lock,
            new_section: None,
            module_of: HashMap::new(),
            poisoned: HashSet::new(),
            defaults: Vec::new(),
            links: Vec::new(),
            checks: Vec::new(),
            pools: Vec::new(),
            places: Vec::new(),
            telemetries: Vec::new(),
            target_ranges: 0,
            unsupported_spans: HashSet::new(),
            values: HashMap::new(),
            value_depth: 0,
            given_params: None,
            work: 0,
            eval_depth: 0,
            module_instances: Vec::new(),
            class_of: Vec::new(),
            class_ids: HashMap::new(),
            instance_classes: Vec::new(),
            vms: 0,
            ports: 0,
            too_large: false,
            given_prefix: Vec::new(),
            broken_dhcp: HashSet::new(),
            class_rows: HashMap::new(),
            nic_sources: Vec::new(),
            poisoned_nics: HashSet::new(),
            attaches: Vec::new(),
            broken_routers: HashSet::new(),
            interface_words: Vec::new(),
            area_words: HashMap::new(),
            link_sources: Vec::new(),
            link_classes: Vec::new(),
            link_names: HashMap::new(),
            lan_class: Vec::new(),
            class_of_segment: Vec::new(),
            net_extents: Vec::new(),
            vni_extents: Vec::new(),
            outside_zone: None,
        }
    }

    fn run(&mut self) {
        self.declare();
        self.instantiate();
        if self.too_large {
            return;
        }
        self.all_values();
        self.externals();
        self.lans();
        self.lan_policies();
        self.groups();
        self.routers();
        self.links();
        self.experiments();
        self.telemetry();
        self.places();
        self.allot();
        self.interfaces();
        self.ospf();
        self.bgp();
        self.index_nics();
        // Addresses are only known if everything before is right.
        if self.sink.has_errors() && !self.addresses_known() {
            return;
        }
        self.verify();
        self.gateways();
        self.verify_dhcp();
        self.nats();
        self.firewalls();
        self.firewall_checks();
        self.wires();
        self.ospf_checks();
        self.bgp_checks();
        if !self.sink.has_errors() {
            self.announcements();
            self.check_lines();
        } else {
            self.check_names();
        }
    }

    fn refuse_unsupported(&mut self) {
        for (span, what) in &self.data.unsupported {
            self.sink.push(
                Diagnostic::error(crate::diag::codes::NOT_YET, format!("`{what}` is not supported yet"), *span)
                    .label("part of the language, but this version of fleet cannot run it")
                    .help("leave it out for now; `fleet check` and `fleet plan` understand it"),
            );
        }
    }

    /// Evaluates what nothing may have asked for, for its errors.
    fn all_values(&mut self) {
        for instance in 0..self.data.names.instances.len() as u32 {
            let module = self.data.names.instances[instance as usize].module;
            for decl in 0..self.data.names.modules[module as usize].decls.len() as u32 {
                if self.sink.is_flooded() {
                    return;
                }
                let found = *self.data.names.decl(instance, decl);
                if matches!(found.kind, crate::vocab::Kind::Let | crate::vocab::Kind::Param) {
                    self.value_of(instance, decl, found.span);
                }
            }
        }
    }

    /// Lists for each segment the NICs that may be on it.
    fn index_nics(&mut self) {
        let mut pairs: Vec<(u32, u32)> = Vec::with_capacity(self.data.nics.len());
        for (nic, row) in (0u32..).zip(&self.data.nics) {
            let indices = self.data.indices(row.group);
            pairs.extend(self.data.forms.values(row.segment, &indices).into_iter().map(|segment| (segment, nic)));
        }
        self.data.segment_nics = Lists::from_pairs(self.data.segments.len(), &pairs);
    }

    /// Whether every segment and link has its prefix.
    fn addresses_known(&self) -> bool {
        let none = Prefix::new(0, 31);
        self.data.segments.iter().all(|s| s.prefix.len() < 31)
            && self.data.interfaces.iter().all(|i| match i.on {
                On::Link(l) => self.data.links[l as usize].prefix != none,
                On::Segment(_) | On::External(_) => true,
            })
    }
}
