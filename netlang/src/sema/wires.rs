//! Rules of layer 2: packets that no wire carries, and wires that make a loop.

use super::World;
use super::lans::DEFAULT_MTU;
use crate::diag::{Diagnostic, codes};
use crate::plan::form::Form;
use crate::source::Span;
use crate::syntax::tree::StmtId;
use crate::text::thousands;
use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

/// Outer headers of vxlan over IPv4: Ethernet 14, IP 20, UDP 8, VXLAN 8 (RFC 7348, section 5).
const VXLAN_BYTES: u32 = 50;

impl World<'_> {
    /// Checks MTUs, external networks and NICs.
    pub(crate) fn wires(&mut self) {
        self.mtus();
        self.shared_wires();
        self.double_nics();
    }

    fn mtus(&mut self) {
        let mut seen: HashSet<(StmtId, u16)> = HashSet::new();
        for segment in 0..self.data.segments.len() {
            let row = self.data.segments[segment];
            if row.mtu > DEFAULT_MTU {
                let decl = self.data.names.decl(row.instance, row.decl);
                let stmt = decl.stmt;
                if seen.insert((stmt, row.mtu)) {
                    self.mtu(row.mtu, stmt, "lan");
                }
            }
        }
        for link in 0..self.data.links.len() {
            let (mtu, stmt) = (self.data.links[link].mtu, self.data.links[link].stmt);
            if mtu > DEFAULT_MTU && seen.insert((stmt, mtu)) {
                self.mtu(mtu, stmt, "link");
            }
        }
    }

    fn mtu(&mut self, mtu: u16, stmt: StmtId, kind: &'static str) {
        let word = self.property_of(stmt, kind, "mtu").and_then(|(c, _)| c.arg(0));
        let span = word.map_or_else(|| self.tree.head_span(stmt), |w| self.tree.span(w));
        let outer = u32::from(mtu) + VXLAN_BYTES;
        let most = u32::from(u16::MAX) - VXLAN_BYTES;
        self.sink.push(if outer > u32::from(u16::MAX) {
            Diagnostic::error(
                codes::MTU_TOO_LARGE,
                format!("packets of {} bytes cannot pass from host to host", thousands(u64::from(mtu))),
                span,
            )
            .label(format!("at most {}", thousands(u64::from(most))))
            .note(format!("vxlan puts {VXLAN_BYTES} bytes around each, and no IP packet is larger than 65,535"))
            .help(format!("`mtu {most}`"))
        } else {
            Diagnostic::warning(
                codes::MTU_NEEDS_UNDERLAY,
                format!("between hosts, this {kind} needs a network of MTU {outer}"),
                span,
            )
            .label(format!("{mtu} + {VXLAN_BYTES} bytes of vxlan = {outer}"))
            .note("an ordinary Ethernet carries 1500; on a single host there is no such limit")
            .help(format!("`mtu {DEFAULT_MTU}`, unless the hosts' network carries jumbo frames"))
        });
    }

    /// Two external networks on one interface of a host are one wire.
    fn shared_wires(&mut self) {
        let mut wires: HashMap<(Box<str>, Box<str>), Span> = HashMap::new();
        for external in 0..self.data.externals.len() {
            let row = &self.data.externals[external];
            if row.host.is_empty() || row.interface.is_empty() {
                continue;
            }
            let span = self.data.names.decl(0, row.decl).span;
            if let Some(first) = wires.insert((row.host.clone(), row.interface.clone()), span) {
                self.sink.push(
                    Diagnostic::error(
                        codes::SHARED_WIRE,
                        format!("two external networks are on `{}` of `{}`", row.interface, row.host),
                        span,
                    )
                    .label("the same wire a second time")
                    .also(first, "the first")
                    .note("broadcasts of one would go round in the other")
                    .help("let several routers be on one external network, or take another interface"),
                );
            }
        }
    }

    /// A VM with two NICs on one lan answers for both on either.
    fn double_nics(&mut self) {
        for group in 0..self.data.groups.len() {
            let row = self.data.groups[group];
            let nics = row.first_nic..row.first_nic + u32::from(row.nic_count);
            for second in nics.clone() {
                if let Some(first) = (nics.start..second).find(|first| self.share_a_lan(*first, second)) {
                    let decl = *self.data.names.decl(row.instance, row.decl);
                    let name = self.data.names.interner.name(decl.symbol);
                    let (first, second) = (self.nic_sources[first as usize], self.nic_sources[second as usize]);
                    self.sink.push(
                        Diagnostic::warning(
                            codes::TWO_NICS,
                            format!("`{name}` has two NICs on one lan"),
                            self.tree.span(second.lan),
                        )
                        .label("a second NIC")
                        .also(self.tree.span(first.lan), "the first")
                        .note("Linux answers ARP for both addresses on either, and sends by the first alone")
                        .help("one NIC is enough, unless the guest bonds or bridges them"),
                    );
                    break;
                }
            }
        }
    }

    /// Whether two NICs of a group are on the same segment for some index.
    fn share_a_lan(&self, first: u32, second: u32) -> bool {
        let forms: SmallVec<[Form; 2]> = [first, second].iter().map(|n| self.data.nics[*n as usize].segment).collect();
        if let [Form::Const(a), Form::Const(b)] = forms[..] {
            return a == b;
        }
        let lan = |nic: u32| {
            let segment = &self.data.segments[self.nic_sources[nic as usize].segment as usize];
            (self.class_of[segment.instance as usize], segment.decl)
        };
        // Lans of different declarations are different lans.
        if lan(first) != lan(second) {
            return false;
        }
        let group = self.data.groups[self.data.nics[first as usize].group as usize];
        let value = |form: Form, index: u32| self.data.forms.value(form, index);
        (group.first..group.first + group.count)
            .any(|i| value(forms[0], i).is_some_and(|a| value(forms[1], i) == Some(a)))
    }
}
