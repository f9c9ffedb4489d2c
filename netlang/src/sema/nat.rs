//! Address translation: `nat masquerade out EXT`, `nat forward tcp PORT on EXT to VM [PORT]`.

use super::World;
use super::clause::Clause;
use super::eval::Env;
use super::firewall::PORT;
use crate::diag::{Diagnostic, codes};
use crate::plan::routing::NatRow;
use crate::plan::rows::On;
use crate::source::Span;
use crate::syntax::tree::{ExprId, StmtId};
use crate::vocab::Kind;

impl World<'_> {
    /// Works out every translation. All addresses must be known.
    pub(crate) fn nats(&mut self) {
        for router in 0..self.data.routers.len() as u32 {
            let row = self.data.routers[router as usize];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            let env = self.element_env(row.instance, stmt, row.index);
            let first_nat = self.data.nats.len() as u32;
            for nat in self.children_of(stmt, "nat") {
                let Some(clause) = self.clause(nat, Self::block_of("router")) else { continue };
                if let Some(nat) = self.nat(router, env, nat, &clause) {
                    self.push_nat(first_nat, nat);
                }
            }
            let row = &mut self.data.routers[router as usize];
            row.first_nat = first_nat;
            row.nat_count = self.data.nats.len() as u32 - first_nat;
        }
    }

    fn nat(&mut self, router: u32, env: Env, stmt: StmtId, clause: &Clause) -> Option<NatRow> {
        let span = self.tree.head_span(stmt);
        let how = self.choice(clause.arg(0)?, clause.property.args[0].ty, "nat")?;
        let given = (clause.arg(1), clause.arg(2), clause.option("out"), clause.option("on"), clause.option_args("to"));
        match (how, given) {
            ("masquerade", (None, None, Some(out), None, [])) => {
                Some(NatRow::Masquerade { external: self.nat_external(router, env, out)?, span })
            }
            ("forward", (Some(protocol), Some(port), None, Some(on), [vm, to_port @ ..])) => {
                let protocol = self.protocol(protocol, clause.property.args[1].ty)?;
                let port = self.want_int(env, port, PORT, "port")? as u16;
                let external = self.nat_external(router, env, on)?;
                let to = self.nat_target(env, *vm)?;
                let to_port = match to_port.first() {
                    Some(word) => self.want_int(env, *word, PORT, "port")? as u16,
                    None => port,
                };
                Some(NatRow::Forward { protocol, port, external, to, to_port, span })
            }
            _ => {
                self.sink.push(
                    Diagnostic::error(codes::BAD_WORDS, "this is not how `nat` is written", span)
                        .label("does not fit")
                        .note("written like this: `nat masquerade out EXTERNAL`")
                        .note("or like this: `nat forward tcp|udp PORT on EXTERNAL to VM [PORT]`"),
                );
                None
            }
        }
    }

    fn nat_external(&mut self, router: u32, env: Env, word: ExprId) -> Option<u32> {
        let external = self.one(env, word, &[Kind::External], "external network")?;
        let is_on = self.data.interfaces_of(router).iter().any(|i| i.on == On::External(external));
        if !is_on && !self.broken_routers.contains(&router) {
            let row = self.data.routers[router as usize];
            let decl = self.data.names.decl(row.instance, row.decl).span;
            let text = self.tree.span(word).text(self.text);
            self.sink.push(
                Diagnostic::error(
                    codes::NAT_ELSEWHERE,
                    format!("`{}` is not on this external network", self.data.router_name(router)),
                    self.tree.span(word),
                )
                .label("no interface to translate on")
                .also(decl, "this router")
                .help(format!("add `on {text} at NUMBER gateway NUMBER` to it")),
            );
        }
        is_on.then_some(external)
    }

    /// The address of a VM's eth0.
    fn nat_target(&mut self, env: Env, word: ExprId) -> Option<u32> {
        let selected = self.select(env, word, "vm")?;
        let ranges = self.vms_among(&selected, word)?;
        let span = self.tree.span(word);
        let (group, index) = match ranges.as_slice() {
            [only] if only.count == 1 => (self.data.groups[only.group.0 as usize], only.first),
            several => {
                let count: u64 = several.iter().map(|r| u64::from(r.count)).sum();
                let text = span.text(self.text);
                self.sink.push(
                    Diagnostic::error(codes::BAD_INDEX, format!("`{text}` is {count} vms: which one?"), span)
                        .label("a port is forwarded to one VM"),
                );
                return None;
            }
        };
        let address = (group.nic_count > 0).then(|| self.data.nic_at(group.first_nic, index)).flatten();
        if address.is_none() {
            self.sink.push(Diagnostic::error(codes::NOTHING, "this VM has no address", span).label("it is on no lan"));
        }
        address.map(|(_, ip)| ip)
    }

    fn push_nat(&mut self, first_nat: u32, nat: NatRow) {
        let (span, what) = match nat {
            NatRow::Masquerade { span, .. } => (span, "this network is masqueraded already".to_owned()),
            NatRow::Forward { span, protocol, port, .. } => {
                (span, format!("{protocol} port {port} is forwarded already"))
            }
        };
        let before = self.data.nats[first_nat as usize..].iter().find_map(|old| same_place(old, &nat));
        if let Some(first) = before {
            self.sink.push(
                Diagnostic::error(codes::DUPLICATE_NAT, what, span)
                    .label("a second time")
                    .also(first, "the first")
                    .help("remove one of them, or forward another port"),
            );
            return;
        }
        self.data.nats.push(nat);
    }
}

/// Where the older translation stands, if both are of the same packets.
fn same_place(old: &NatRow, new: &NatRow) -> Option<Span> {
    match (old, new) {
        (NatRow::Masquerade { external: a, span }, NatRow::Masquerade { external: b, .. }) => (a == b).then_some(*span),
        (
            NatRow::Forward { protocol: a, port: a_port, external: a_on, span, .. },
            NatRow::Forward { protocol: b, port: b_port, external: b_on, .. },
        ) => ((a, a_port, a_on) == (b, b_port, b_on)).then_some(*span),
        _ => None,
    }
}
