//! Links as they are named elsewhere: by their `as` name, or by their two ends, `a -- b`.

use super::World;
use super::eval::Env;
use crate::diag::{Diagnostic, codes};
use crate::syntax::tree::{Expr, ExprId, Mark};
use crate::text::any_of;
use crate::vocab::Kind;

impl World<'_> {
    /// The links that some words name, with commas between them: `fibre, hq.gw -- dc.gw`; sorted, each once.
    pub(crate) fn link_list(&mut self, env: Env, words: &[ExprId], what: &str) -> Option<Vec<u32>> {
        let mut links = Vec::new();
        let mut rest = words;
        while !rest.is_empty() {
            let (found, taken) = self.link_reference(env, rest, what)?;
            links.extend(found);
            rest = &rest[taken..];
            match rest {
                [] => {}
                [comma, after @ ..] if self.tree.expr(*comma) == Expr::Mark(Mark::Comma) && !after.is_empty() => {
                    rest = after;
                }
                [other, ..] => {
                    let span = self.tree.span(*other);
                    self.sink.push(
                        Diagnostic::error(codes::BAD_WORDS, format!("`{what}` wants links here"), span)
                            .label("does not fit")
                            .note(
                                "links are written like this: `fibre`, or `hq.gw -- dc.gw`, with commas between them",
                            ),
                    );
                    return None;
                }
            }
        }
        links.sort_unstable();
        links.dedup();
        Some(links)
    }

    /// The links that the first words name, and how many words that is.
    pub(crate) fn link_reference(&mut self, env: Env, words: &[ExprId], what: &str) -> Option<(Vec<u32>, usize)> {
        if let [a, mark, b, ..] = *words
            && matches!(self.tree.expr(mark), Expr::Mark(Mark::Peer | Mark::Transit))
        {
            return Some((self.links_by_ends(env, a, b)?, 3));
        }
        let word = *words.first()?;
        let rows = self.rows_of(env, word, &[Kind::Link], "link")?;
        if rows.is_empty() && !self.sink.has_errors() {
            self.sink.push(
                Diagnostic::error(codes::NOTHING, format!("`{what}` names no link"), self.tree.span(word))
                    .label("there is none"),
            );
        }
        Some((rows, 1))
    }

    /// The links that have one end among the routers of each word; at least one.
    pub(crate) fn links_by_ends(&mut self, env: Env, a: ExprId, b: ExprId) -> Option<Vec<u32>> {
        let ends = (self.rows_of(env, a, &[Kind::Router], "router"), self.rows_of(env, b, &[Kind::Router], "router"));
        let (left, right) = (ends.0?, ends.1?);
        let links = self.links_between(&left, &right);
        if links.is_empty() && !self.sink.has_errors() {
            let span = self.tree.span(a).to(self.tree.span(b));
            let text = span.text(self.text).to_owned();
            let help = self.neighbours(&left, self.tree.span(a).text(self.text));
            self.sink.push(
                Diagnostic::error(codes::UNKNOWN_NAME, format!("there is no link `{text}`"), span)
                    .label("no link joins these two")
                    .help(help),
            );
        }
        (!links.is_empty()).then_some(links)
    }

    /// Says which links some routers have.
    fn neighbours(&self, routers: &[u32], text: &str) -> String {
        let ends = self.data.links.iter().flat_map(|l| [(l.routers[0], l.routers[1]), (l.routers[1], l.routers[0])]);
        let mut others: Vec<u32> = ends.filter(|(end, _)| routers.contains(end)).map(|(_, other)| other).collect();
        others.sort_unstable();
        others.dedup();
        let names: Vec<String> = others.iter().take(4).map(|r| self.data.router_name(*r)).collect();
        match names.is_empty() {
            true => format!("`link {text} -- …` makes one; now it has none"),
            false => format!("`{text}` has links to {}", any_of(names.iter().map(String::as_str))),
        }
    }

    /// The links between two sets of routers, in either direction, sorted.
    pub(crate) fn links_between(&self, left: &[u32], right: &[u32]) -> Vec<u32> {
        let set = |routers: &[u32]| routers.iter().copied().collect::<hashbrown::HashSet<u32>>();
        let (left, right) = (set(left), set(right));
        let joins = |ends: [u32; 2]| left.contains(&ends[0]) && right.contains(&ends[1]);
        let all = (0u32..).zip(&self.data.links);
        all.filter(|(_, l)| joins(l.routers) || joins([l.routers[1], l.routers[0]])).map(|(id, _)| id).collect()
    }
}
