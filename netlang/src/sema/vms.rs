//! Groups of VMs: what they are, and which lan each NIC is on as a function of the index.

use super::World;
use super::clause::Clause;
use super::eval::Env;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::form::Form;
use crate::plan::rows::NicRow;
use crate::plan::{HypervisorKind, KsmMode, Restart, RestartMode, VmClass};
use crate::syntax::tree::{Expr, ExprId, StmtId};
use crate::text::nearest;
use crate::vocab::{Kind, Ty};
use std::sync::Arc;

/// The image of VMs when the file says nothing.
const DEFAULT_IMAGE: &str = "tiny";
/// The least memory in which a kernel starts at all.
const LEAST_MEMORY: u64 = 8 << 20;
/// NICs that a VM has at most.
const MAX_NICS: usize = 32;
/// NICs that all VMs of a plan have together, at most.
const MAX_PORTS: u64 = 1 << 25;

/// A NIC row, and what is needed to give it host numbers.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NicSource {
    /// The word that names the lan.
    pub(crate) lan: ExprId,
    /// The word after `at`.
    pub(crate) at: Option<ExprId>,
    /// One of the segments it is on; all are of the same declaration.
    pub(crate) segment: u32,
}

impl World<'_> {
    /// Works out every group: class and NICs. Host numbers come later.
    pub(crate) fn groups(&mut self) {
        let block = Self::block_of("vm");
        let default = self.defaults.iter().find(|(k, _)| *k == "vm").map(|(_, s)| *s);
        let default = default.map(|s| self.class_clauses(s, block)).unwrap_or_default();
        for group in 0..self.data.groups.len() {
            if self.sink.is_flooded() {
                return;
            }
            let row = self.data.groups[group];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            let own = self.class_clauses(stmt, block);
            let class = self.class(Env::of(row.instance), &own, &default);
            self.data.groups[group].class = class;
            self.data.groups[group].first_nic = self.data.nics.len() as u32;
            self.nics(group as u32, stmt, block);
            let nics = self.data.nics.len() as u32 - self.data.groups[group].first_nic;
            self.data.groups[group].nic_count = nics as u16;
        }
    }

    fn class_clauses(&self, stmt: StmtId, block: &'static [crate::vocab::Property]) -> ClassClauses {
        let mut found = ClassClauses::default();
        for child in self.tree.children(Some(stmt)) {
            let Some(word) = self.tree.keyword(child).map(|k| self.data.names.interner.name(k)) else { continue };
            let slot = match word {
                "hypervisor" => &mut found.hypervisor,
                "image" => &mut found.image,
                "cpu" => &mut found.cpu,
                "mem" => &mut found.memory,
                "overcommit" => &mut found.overcommit,
                "restart" => &mut found.restart,
                "ksm" => &mut found.ksm,
                "console" => &mut found.console,
                "needs" => &mut found.needs,
                _ => continue,
            };
            *slot = self.clause(child, block);
        }
        found
    }

    fn class(&mut self, env: Env, own: &ClassClauses, default: &ClassClauses) -> u32 {
        // The default's values are those of the file, wherever they are used.
        fn pick<'a>(own: &'a Option<Clause>, default: &'a Option<Clause>, env: Env) -> Option<(ExprId, Ty, Env)> {
            let (clause, env) = match own {
                Some(clause) => (clause, env),
                None => (default.as_ref()?, Env::of(0)),
            };
            Some((clause.arg(0)?, clause.property.args[0].ty, env))
        }
        let hypervisor = pick(&own.hypervisor, &default.hypervisor, env)
            .and_then(|(word, ty, _)| self.choice(word, ty, "hypervisor"))
            .map(|kind| if kind == "uml" { HypervisorKind::Uml } else { HypervisorKind::Qemu });
        let image = pick(&own.image, &default.image, env).and_then(|(word, _, _)| self.image_name(word));
        let cpu = pick(&own.cpu, &default.cpu, env).and_then(|(word, ty, env)| self.want_int(env, word, ty, "cpu"));
        let memory = pick(&own.memory, &default.memory, env).and_then(|(word, ty, env)| self.memory(env, word, ty));
        let overcommit = pick(&own.overcommit, &default.overcommit, env)
            .and_then(|(word, ty, env)| self.want_int(env, word, ty, "overcommit"));
        let ksm = pick(&own.ksm, &default.ksm, env).and_then(|(word, ty, _)| self.choice(word, ty, "ksm"));
        let console =
            pick(&own.console, &default.console, env).and_then(|(word, ty, _)| self.choice(word, ty, "console"));
        let needs = pick(&own.needs, &default.needs, env);
        let needs_camera = needs.is_some_and(|(word, ty, _)| self.choice(word, ty, "needs").is_some());
        if let (Some((camera, ..)), Some(HypervisorKind::Uml)) = (needs.filter(|_| needs_camera), hypervisor) {
            let uml = pick(&own.hypervisor, &default.hypervisor, env).map(|(word, ..)| word);
            self.no_usb(camera, uml);
        }
        // Of the two, only this one has USB.
        let hypervisor = hypervisor.or(needs_camera.then_some(HypervisorKind::Qemu));
        let class = VmClass {
            hypervisor,
            image: image.unwrap_or_else(|| Arc::from(DEFAULT_IMAGE)),
            cpu: cpu.unwrap_or(1) as u32,
            memory,
            overcommit: overcommit.unwrap_or(1) as u32,
            restart: self.restart(env, own.restart.as_ref(), default.restart.as_ref()),
            ksm: ksm.map(|mode| match mode {
                "off" => KsmMode::Off,
                "on" => KsmMode::On,
                _ => KsmMode::Aggressive,
            }),
            console: console != Some("off"),
            needs_camera,
        };
        if let Some(id) = self.class_rows.get(&class) {
            return *id;
        }
        let id = self.data.classes.len() as u32;
        self.data.classes.push(class.clone());
        self.class_rows.insert(class, id);
        id
    }

    /// When the VM is started again: what it says itself, else what the default says, as a whole.
    fn restart(&mut self, env: Env, own: Option<&Clause>, default: Option<&Clause>) -> Restart {
        let (clause, env) = match (own, default) {
            (Some(clause), _) => (clause, env),
            (None, Some(clause)) => (clause, Env::of(0)),
            (None, None) => return Restart::default(),
        };
        let mut restart = Restart::default();
        if let Some(word) = clause.arg(0) {
            restart.mode = match self.choice(word, clause.property.args[0].ty, "restart") {
                Some("never") => RestartMode::Never,
                Some("failed") => RestartMode::Failed,
                Some("always") => RestartMode::Always,
                _ => RestartMode::Boot,
            };
        }
        if let Some(times) = clause.option("times")
            && let Some(count) = self.want_int(env, times, clause.property.options[0].args[0].ty, "times")
        {
            restart.times = count as u32;
        }
        restart
    }

    /// Reports a camera for a VM of a hypervisor without USB.
    fn no_usb(&mut self, camera: ExprId, uml: Option<ExprId>) {
        let it = Diagnostic::error(
            codes::CAMERA_WITHOUT_USB,
            "`uml` has no USB, so it cannot be lent a camera",
            self.tree.span(camera),
        )
        .label("cannot be had here")
        .help("`hypervisor qemu`, or no `hypervisor` at all");
        self.sink.push(match uml {
            Some(word) => it.also(self.tree.span(word), "the hypervisor"),
            None => it,
        });
    }

    fn memory(&mut self, env: Env, word: ExprId, ty: Ty) -> Option<u64> {
        let Value::Size(bytes) = self.want(env, word, ty, "mem")? else { return None };
        if bytes < LEAST_MEMORY {
            self.sink.push(
                Diagnostic::error(codes::OUT_OF_BOUNDS, "this is too little memory to boot", self.tree.span(word))
                    .label("at least 8MiB"),
            );
            return None;
        }
        Some(bytes)
    }

    /// The image store's name of an image: what the file's `image` binds, or the name itself.
    fn image_name(&mut self, word: ExprId) -> Option<Arc<str>> {
        let span = self.tree.span(word);
        if let Expr::Text = self.tree.expr(word) {
            return Some(span.text(self.text).trim_matches('"').into());
        }
        let Some(symbol) = self.tree.as_name(word) else {
            // `tiny-kernels` is a difference of two names; images may well be called so, in quotes.
            let text = span.text(self.text);
            let is_name = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let label = if text.chars().all(is_name) { format!("help: `\"{text}\"`") } else { "not a name".to_owned() };
            let it = Diagnostic::error(codes::WRONG_TYPE, "`image` wants the name of an image", span).label(label);
            self.sink.push(it);
            return None;
        };
        let name = self.data.names.interner.name(symbol);
        if self.data.names.modules[0].images.contains_key(&symbol) {
            return Some(name.into());
        }
        // Not declared here: a name of the image store, unless it looks like a slip of one that is declared.
        let decls = self.data.names.modules[0].decls.iter().filter(|d| d.kind == Kind::Image);
        let similar = nearest(name, decls.map(|d| self.data.names.interner.name(d.symbol)));
        if let Some(similar) = similar.filter(|_| name != DEFAULT_IMAGE) {
            let it = Diagnostic::error(codes::UNKNOWN_NAME, format!("no image named `{name}` here"), span)
                .label(format!("help: did you mean `{similar}`?"));
            self.sink.push(it);
            return None;
        }
        Some(name.into())
    }

    fn nics(&mut self, group: u32, stmt: StmtId, block: &'static [crate::vocab::Property]) {
        let row = self.data.groups[group as usize];
        let index = self.index_name(stmt);
        let mut attached = 0;
        let mut next = self.tree.children(Some(stmt)).next();
        while let Some(child) = next {
            next = self.tree.sibling(child);
            if self.tree.keyword(child).map(|k| self.data.names.interner.name(k)) != Some("on") {
                continue;
            }
            attached += 1;
            let Some(clause) = self.clause(child, block) else { continue };
            let Some(lan) = clause.arg(0) else { continue };
            if attached > MAX_NICS {
                self.sink.push(
                    Diagnostic::error(codes::OUT_OF_BOUNDS, "this VM has too many NICs", self.tree.head_span(child))
                        .label(format!("at most {MAX_NICS}")),
                );
                return;
            }
            if clause.has("dhcp") {
                self.not_yet("dhcp", self.tree.head_span(child));
            }
            if row.count == 0 {
                continue;
            }
            self.ports += u64::from(row.count);
            if self.ports > MAX_PORTS {
                self.refuse_size(self.tree.head_span(child), "NICs of VMs", MAX_PORTS);
                return;
            }
            if let Some((segment, first)) = self.lan_form(group, lan, index) {
                if clause.has("dhcp") {
                    self.check_dhcp_nic(lan, first);
                }
                self.data.nics.push(NicRow { group, segment, host: Form::Const(0), dhcp: clause.has("dhcp") });
                self.nic_sources.push(NicSource { lan, at: clause.option("at"), segment: first });
            }
        }
        if attached == 0 && !self.tree.stmt(stmt).broken {
            let span = self.data.names.decl(row.instance, row.decl).span;
            self.sink.push(
                Diagnostic::warning(codes::NO_NETWORK, "this VM is on no lan", span)
                    .label("nothing can reach it")
                    .help("`on LAN` in its block attaches it"),
            );
        }
    }
}

/// The clauses that make up a class.
#[derive(Debug, Default)]
struct ClassClauses {
    hypervisor: Option<Clause>,
    image: Option<Clause>,
    cpu: Option<Clause>,
    memory: Option<Clause>,
    overcommit: Option<Clause>,
    restart: Option<Clause>,
    ksm: Option<Clause>,
    console: Option<Clause>,
    needs: Option<Clause>,
}
