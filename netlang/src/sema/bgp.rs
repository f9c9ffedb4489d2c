//! BGP: a router's autonomous system and what it originates.
//!
//! Sessions are not rows: two routers of unlike AS have one over each link between them, and all routers of an AS have
//! one with each other (a full mesh), over whatever their interior routing finds.

use super::World;
use super::eval::Env;
use super::value::Value;
use crate::diag::{Diagnostic, codes};
use crate::plan::routing::BgpRow;
use crate::vocab::Ty;

impl World<'_> {
    /// Works out the BGP of every router that speaks it.
    pub(crate) fn bgp(&mut self) {
        let clauses = Self::part_block("bgp");
        for router in 0..self.data.routers.len() {
            let row = self.data.routers[router];
            let stmt = self.data.names.decl(row.instance, row.decl).stmt;
            let Some((block, from_default)) = self.part(stmt, "bgp") else { continue };
            let own = self.element_env(row.instance, stmt, row.index);
            let env = if from_default { Env::of(0) } else { own };
            let head = self.tree.head_span(block);
            if self.child(block, "asn").is_none() && !self.tree.stmt(block).broken {
                self.sink.push(
                    Diagnostic::error(codes::MISSING, "a BGP router needs the number of its autonomous system", head)
                        .label("no `asn`")
                        .help(
                            "`bgp { asn 64512; … }`: 64512 to 65534 and 4200000000 to 4294967294 are for private use",
                        ),
                );
                continue;
            }
            let Some(clause) = self.find_clause(block, clauses, "asn") else { continue };
            let Some(word) = clause.arg(0) else { continue };
            let asn = self.want_int(env, word, clause.property.args[0].ty, "asn");
            let mut originate = Vec::new();
            if let Some(clause) = self.find_clause(block, clauses, "originate") {
                for word in clause.args(0) {
                    if let Some(Value::Prefix(prefix)) = self.want(env, word, Ty::Prefix, "originate") {
                        originate.push(prefix);
                    }
                }
            }
            let Some(asn) = asn.and_then(|n| u32::try_from(n).ok()) else { continue };
            let span = self.tree.span(word);
            self.data.routers[router].bgp = Some(self.data.bgp.len() as u32);
            self.data.bgp.push(BgpRow { asn, originate: originate.into_boxed_slice(), span });
        }
    }
}
