//! Proofs of OSPF that need no paths: neighbours that will not become any, and areas that hang in the air.

use super::World;
use super::ospf::BACKBONE;
use crate::diag::{Diagnostic, codes};
use crate::plan::OspfInterface;
use crate::plan::rows::On;
use crate::sets::Sets;
use crate::source::Span;
use hashbrown::HashMap;
use std::collections::BTreeMap;

impl World<'_> {
    /// Checks all neighbours and areas.
    pub(crate) fn ospf_checks(&mut self) {
        if self.data.interfaces.iter().all(|i| i.ospf.is_none()) {
            return;
        }
        let mut good = true;
        for link in 0..self.data.links.len() {
            let [a, b] = self.data.links[link].interfaces;
            good &= self.ospf_link(link, a, b);
        }
        for segment in 0..self.data.segments.len() as u32 {
            let all = self.data.segment_interfaces.of(segment).to_vec();
            good &= self.ospf_lan(&all);
        }
        // Where neighbours are in different areas it is open what hangs together.
        if good {
            self.ospf_areas();
        }
    }

    fn speaker(&self, interface: u32) -> Option<OspfInterface> {
        self.data.interfaces[interface as usize].ospf.filter(|o| !o.passive)
    }

    fn ospf_link(&mut self, link: usize, a: u32, b: u32) -> bool {
        match (self.speaker(a), self.speaker(b)) {
            (Some(left), Some(right)) => self.ospf_neighbours((a, left), (b, right)),
            (Some(_), None) => self.ospf_one_end(link, a, b),
            (None, Some(_)) => self.ospf_one_end(link, b, a),
            (None, None) => true,
        }
    }

    /// All who speak on a lan must agree with the first.
    fn ospf_lan(&mut self, all: &[u32]) -> bool {
        let mut speakers = all.iter().filter_map(|i| Some((*i, self.speaker(*i)?)));
        let Some(first) = speakers.next() else { return true };
        let others: Vec<_> = speakers.collect();
        let mut good = true;
        for other in others {
            good &= self.ospf_neighbours(first, other);
        }
        for silent in all {
            if self.data.interfaces[*silent as usize].ospf.is_none() {
                self.ospf_silent(first.0, *silent, None);
            }
        }
        good
    }

    /// Whether two who hear one another become neighbours.
    fn ospf_neighbours(&mut self, a: (u32, OspfInterface), b: (u32, OspfInterface)) -> bool {
        if a.1.area != b.1.area {
            self.ospf_differ(
                a.0,
                b.0,
                codes::OSPF_AREAS,
                "different areas",
                |o| format!("area {}", o.area),
                |w, i| w.area_span(i),
            );
            return false;
        }
        if (a.1.hello, a.1.dead) != (b.1.hello, b.1.dead) {
            let text = |o: OspfInterface| format!("hello {}s, dead {}s", o.hello / 1000, o.dead / 1000);
            self.ospf_differ(a.0, b.0, codes::OSPF_TIMERS, "different timers", text, |w, i| w.timer_span(i));
            return false;
        }
        true
    }

    fn ospf_differ(
        &mut self,
        a: u32,
        b: u32,
        code: &'static str,
        what: &str,
        text: impl Fn(OspfInterface) -> String,
        span: impl Fn(&Self, u32) -> Span,
    ) {
        let said = |world: &Self, i: u32| {
            let row = world.data.interfaces[i as usize];
            let value = row.ospf.map(&text).unwrap_or_default();
            (span(world, i), world.data.router_name(row.router), value)
        };
        let (mut first, mut second) = (said(self, a), said(self, b));
        if first.0 > second.0 {
            std::mem::swap(&mut first, &mut second);
        }
        let place = self.network_name(a);
        let mut it =
            Diagnostic::error(code, format!("`{}` and `{}` have {what} on `{place}`", first.1, second.1), second.0)
                .label(format!("`{}`: {}", second.1, second.2));
        if first.0 != second.0 {
            it = it.also(first.0, format!("`{}`: {}", first.1, first.2));
        }
        let help = match code {
            codes::OSPF_AREAS => {
                let area = self.data.interfaces[a as usize].ospf.map_or(BACKBONE, |o| o.area);
                // A link without a name cannot be named here.
                match place.contains("--") {
                    true => format!("name the link `as line`, and write `area {area} on line` for the other router"),
                    false => format!("`area {area} on {place}` for the other router"),
                }
            }
            _ => "the same `hello` and `dead` for both; `default router { hello 1s }` sets it for all".to_owned(),
        };
        self.sink.push(it.note("OSPF routers that do not agree never become neighbours").help(help));
    }

    /// The name of what an interface is on.
    fn network_name(&self, interface: u32) -> String {
        match self.data.interfaces[interface as usize].on {
            On::Segment(s) => {
                let row = &self.data.segments[s as usize];
                self.data.names.path(row.instance, row.decl, row.index)
            }
            On::Link(l) => self.data.link_name(l),
            On::External(_) => String::new(),
        }
    }

    /// A link with OSPF at one end only. Between autonomous systems that is how it should be.
    fn ospf_one_end(&mut self, link: usize, speaks: u32, silent: u32) -> bool {
        let router = |i: u32| self.data.interfaces[i as usize].router;
        if self.data.asn_of(router(speaks)).is_none() || self.data.asn_of(router(silent)).is_none() {
            let span = self.tree.head_span(self.data.links[link].stmt);
            self.ospf_silent(speaks, silent, Some(span));
        }
        true
    }

    fn ospf_silent(&mut self, speaks: u32, silent: u32, link: Option<Span>) {
        let name = |i: u32| {
            let row = self.data.routers[self.data.interfaces[i as usize].router as usize];
            (self.data.names.path(row.instance, row.decl, row.index), self.data.names.decl(row.instance, row.decl).span)
        };
        let ((speaker, speaker_span), (other, span)) = (name(speaks), name(silent));
        let place = self.network_name(speaks);
        let it = Diagnostic::warning(
            codes::OSPF_ONE_END,
            format!("on `{place}`, `{speaker}` speaks OSPF and `{other}` does not"),
            link.unwrap_or(span),
        )
        .label(format!("`{speaker}` finds no neighbour here"));
        let it = if link.is_some() { it.also(span, "says nothing of OSPF") } else { it };
        self.sink.push(it.also(speaker_span, "has an `ospf` block").help(format!(
            "`ospf {{ area {} }}` for `{other}`{}",
            self.data.interfaces[speaks as usize].ospf.map_or(BACKBONE, |o| o.area),
            if link.is_none() { format!(", or `passive` for the lan in `{speaker}`") } else { String::new() }
        )));
    }

    /// Every area must hang together with the backbone, and the backbone with itself. A network of one area needs none.
    fn ospf_areas(&mut self) {
        // Parts: routers joined within an area. Domains: routers joined at all.
        let mut nodes: BTreeMap<(u32, u32), u32> = BTreeMap::new();
        for row in &self.data.interfaces {
            if let Some(ospf) = row.ospf {
                let next = nodes.len() as u32;
                nodes.entry((row.router, ospf.area)).or_insert(next);
            }
        }
        if nodes.keys().all(|(_, area)| *area == nodes.keys().next().map_or(0, |k| k.1)) {
            return;
        }
        let mut parts = Sets::new(nodes.len());
        let mut domains = Sets::new(self.data.routers.len());
        let join = |interfaces: &[u32], parts: &mut Sets, domains: &mut Sets| {
            let mut first: Option<u32> = None;
            for row in interfaces.iter().map(|i| &self.data.interfaces[*i as usize]) {
                let Some(ospf) = row.ospf.filter(|o| !o.passive) else { continue };
                let node = nodes[&(row.router, ospf.area)];
                if let Some(before) = first {
                    parts.join(before, node);
                }
                first.get_or_insert(node);
                domains.join(row.router, self.data.interfaces[interfaces[0] as usize].router);
            }
        };
        for link in self.data.links.iter().filter(|l| l.interfaces.iter().all(|i| self.speaker(*i).is_some())) {
            join(&link.interfaces, &mut parts, &mut domains);
        }
        for segment in 0..self.data.segments.len() as u32 {
            let speakers: Vec<u32> = self
                .data
                .segment_interfaces
                .of(segment)
                .iter()
                .copied()
                .filter(|i| self.speaker(*i).is_some())
                .collect();
            join(&speakers, &mut parts, &mut domains);
        }
        // By domain and area: the parts, each with the router of its first interface and whether it touches the backbone.
        let mut found: BTreeMap<(u32, u32), BTreeMap<u32, (u32, bool)>> = BTreeMap::new();
        for ((router, area), node) in &nodes {
            let parts = found.entry((domains.find(*router), *area)).or_default().entry(parts.find(*node));
            let part = parts.or_insert((*router, false));
            part.1 |= nodes.contains_key(&(*router, BACKBONE));
        }
        let mut areas: HashMap<u32, u32> = HashMap::new();
        for (domain, _) in found.keys() {
            *areas.entry(*domain).or_default() += 1;
        }
        let mut problems = Vec::new();
        for ((domain, area), parts) in &found {
            if areas[domain] < 2 {
                continue;
            }
            match *area {
                BACKBONE => problems.extend(parts.values().skip(1).map(|(router, _)| (*router, *area))),
                _ => problems.extend(parts.values().filter(|(_, touches)| !touches).map(|(r, _)| (*r, *area))),
            }
        }
        for (router, area) in problems {
            self.ospf_apart(router, area);
        }
    }

    fn ospf_apart(&mut self, router: u32, area: u32) {
        let first = self.data.routers[router as usize].first_interface;
        let on_area = self.data.interfaces_of(router).iter().position(|i| i.ospf.is_some_and(|o| o.area == area));
        let span = self.area_span(first + on_area.unwrap_or(0) as u32);
        let name = self.data.router_name(router);
        let it = match area {
            BACKBONE => Diagnostic::error(codes::OSPF_BACKBONE, "the backbone is in two parts", span)
                .label(format!("from `{name}` no way through area 0 leads to the rest of it"))
                .help("join the parts by a link in area 0"),
            _ => Diagnostic::error(codes::OSPF_BACKBONE, format!("area {area} is not attached to the backbone"), span)
                .label(format!("neither `{name}` nor another router of the area is in area 0"))
                .help("let a router of the area have a lan or link in area 0: `area 0 on …`"),
        };
        self.sink.push(it.note("between areas OSPF goes through area 0 only"));
    }

    /// Where the area of an interface stands.
    fn area_span(&self, interface: u32) -> Span {
        match self.area_words.get(&interface) {
            Some(word) => self.tree.span(*word),
            None => self.ospf_span(interface),
        }
    }

    /// Where the timers of an interface's router stand.
    fn timer_span(&self, interface: u32) -> Span {
        let row = self.data.routers[self.data.interfaces[interface as usize].router as usize];
        let stmt = self.data.names.decl(row.instance, row.decl).stmt;
        let block = self.part(stmt, "ospf").map(|(block, _)| block);
        let own = block.and_then(|b| self.child(b, "hello").or_else(|| self.child(b, "dead")));
        match own.or_else(|| self.child(stmt, "hello")) {
            Some(found) => self.tree.head_span(found),
            None => self.ospf_span(interface),
        }
    }

    /// The word `ospf` of an interface's router.
    fn ospf_span(&self, interface: u32) -> Span {
        let row = self.data.routers[self.data.interfaces[interface as usize].router as usize];
        let decl = self.data.names.decl(row.instance, row.decl);
        self.part(decl.stmt, "ospf").map_or(decl.span, |(block, _)| self.tree.head_span(block))
    }
}
