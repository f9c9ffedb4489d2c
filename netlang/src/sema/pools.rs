//! Pools, and the prefixes that lans and links take from them.

use super::World;
use super::eval::Env;
use super::value::Value;
use crate::address::extents::{Extent, Extents, Place};
use crate::address::lock::{BlockKind, Section};
use crate::address::prefix::Prefix;
use crate::address::space::Space;
use crate::diag::{Diagnostic, codes};
use crate::source::Span;
use crate::syntax::tree::ExprId;
use crate::vocab::{Ty, keyword};

/// Where blocks of a kind come from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pool {
    prefix: Prefix,
    /// The length of one element.
    each: Option<u8>,
    span: Option<Span>,
}

/// The pools of a file: what it says, or the usual private ranges.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pools {
    lan: Pool,
    link: Pool,
}

impl Default for Pools {
    fn default() -> Pools {
        Pools {
            lan: Pool { prefix: Prefix::new(0x0a00_0000, 8), each: None, span: None },
            // Shared address space of RFC 6598, which private networks rarely use.
            link: Pool { prefix: Prefix::new(0x6440_0000, 10), each: None, span: None },
        }
    }
}

impl World<'_> {
    /// Reads the `pool` statements.
    pub(crate) fn read_pools(&mut self) -> Pools {
        let mut pools = Pools::default();
        for at in 0..self.pools.len() {
            let stmt = self.pools[at].stmt;
            let name = |w: ExprId| self.tree.as_name(w).map(|s| self.data.names.interner.name(s));
            let words = self.tree.words(stmt);
            let (kind, prefix, each) = match *words {
                [_, kind, prefix] => (name(kind), prefix, None),
                [_, kind, prefix, with, each] if name(with) == Some("each") => (name(kind), prefix, Some(each)),
                _ => (None, ExprId(0), None),
            };
            let (Some(kind), Some(found)) = (kind.filter(|k| matches!(*k, "lan" | "link")), keyword("pool")) else {
                keyword("pool").into_iter().for_each(|found| self.bad_head(stmt, found));
                continue;
            };
            let is_lan = kind == "lan";
            let span = self.tree.head_span(stmt);
            let Some(Value::Prefix(prefix)) = self.want(Env::of(0), prefix, Ty::Prefix, found.word) else { continue };
            let mut pool = Pool { prefix, each: None, span: Some(span) };
            if let Some(word) = each {
                let Some(Value::PrefixLen(len)) = self.want(Env::of(0), word, Ty::PrefixLen, "each") else { continue };
                let bounds = if is_lan { prefix.len()..=30 } else { prefix.len().max(24)..=31 };
                if !bounds.contains(&len) {
                    self.sink.push(
                        Diagnostic::error(
                            codes::OUT_OF_BOUNDS,
                            format!("`each` cannot be /{len} here"),
                            self.tree.span(word),
                        )
                        .label(format!("from /{} to /{}", bounds.start(), bounds.end())),
                    );
                    continue;
                }
                pool.each = Some(len);
            }
            let slot = if is_lan { &mut pools.lan } else { &mut pools.link };
            if let Some(first) = slot.span {
                self.sink.push(
                    Diagnostic::error(
                        codes::REPEATED,
                        format!("`pool {}` is given twice", if is_lan { "lan" } else { "link" }),
                        span,
                    )
                    .label("a second time")
                    .also(first, "given here first"),
                );
                continue;
            }
            *slot = pool;
        }
        pools
    }

    /// Gives prefixes to the lans that have none and to all links.
    pub(crate) fn prefixes(&mut self, section: &mut Section) {
        let pools = self.read_pools();
        let mut space = Space::default();
        for (kind, _, extents) in section.blocks() {
            if matches!(kind, BlockKind::Net | BlockKind::Link) {
                extents.0.iter().for_each(|e| space.take(u64::from(e.base), e.end()));
            }
        }
        for given in self.given_prefix.iter().flatten().flatten() {
            space.take(u64::from(given.first()), u64::from(given.last()) + 1);
        }
        for external in self.data.externals.iter().filter(|e| e.prefix != super::externals::UNKNOWN) {
            space.take(u64::from(external.prefix.first()), u64::from(external.prefix.last()) + 1);
        }
        for class in 0..self.lan_class_count() {
            self.class_prefixes(class, &pools.lan, &mut space, section);
        }
        for segment in 0..self.data.segments.len() {
            let inferred = self.net_extents[self.class_of_segment[segment] as usize].as_ref();
            let prefix = match (self.given_prefix[segment], inferred) {
                (Some(given), _) => given,
                (None, Some(extents)) => {
                    let len = extents.0.first().map_or(32, |e| e.len);
                    extents.locate(&self.segment_place(segment)).map(|base| Prefix::new(base, len))
                }
                (None, None) => None,
            };
            if let Some(prefix) = prefix {
                self.data.segments[segment].prefix = prefix;
            }
        }
        self.link_prefixes(&pools.link, &mut space, section);
    }

    fn class_prefixes(&mut self, class: usize, pool: &Pool, space: &mut Space, section: &mut Section) {
        let given = |s: usize| self.given_prefix[s].is_some();
        let has_inferred = (0..self.data.segments.len())
            .skip_while(|s| self.class_of_segment[*s] as usize != class)
            .take_while(|s| self.class_of_segment[*s] as usize == class)
            .any(|s| !given(s));
        if !has_inferred {
            self.net_extents.push(None);
            return;
        }
        let len = self.needed_len(class).min(pool.each.unwrap_or(32));
        let (path, sizes, span) = self.lan_class_at(class);
        let (path, sizes) = (path.to_owned(), sizes.clone());
        let mut extents = section.get(BlockKind::Net, &path).cloned().unwrap_or_default();
        let inside = |e: &Extent| {
            u64::from(e.base) >= u64::from(pool.prefix.first()) && e.end() <= u64::from(pool.prefix.last()) + 1
        };
        // Another pool or another shape: the file was changed on purpose, so the lan moves.
        if !extents.has_rank(sizes.len()) || !extents.0.iter().all(inside) {
            extents = Extents::default();
        }
        let mut use_len = extents.0.first().map_or(len, |e| e.len);
        if use_len > len {
            if !widen(&mut extents, len, pool, space) {
                self.cannot_grow(span, &extents, len);
                self.net_extents.push(None);
                return;
            }
            use_len = len;
        }
        let room: Place = sizes.iter().map(|s| s.next_power_of_two()).collect();
        for bounds in extents.missing(&sizes, &room) {
            let extent = Extent { base: 0, len: use_len, bounds };
            let Some(extent) = take(extent, pool, space) else {
                self.pool_empty(span, pool, "lan");
                break;
            };
            extents.0.push(extent);
        }
        section.set(BlockKind::Net, &path, &extents);
        self.net_extents.push(Some(extents));
    }

    fn cannot_grow(&mut self, span: Span, extents: &Extents, len: u8) {
        let now = extents.0.first().map_or_else(String::new, |e| Prefix::new(e.base, e.len).to_string());
        self.sink.push(
            Diagnostic::error(
                codes::CANNOT_GROW,
                format!("this lan has outgrown {now}, which the lock holds for it"),
                span,
            )
            .label(format!("needs a /{len} now"))
            .note("the addresses next to it are taken, and addresses never move by themselves")
            .help("give it a prefix in the file, or remove its `net` line from fleet.lock to have it renumbered"),
        );
    }

    fn pool_empty(&mut self, span: Span, pool: &Pool, kind: &str) {
        let mut it = Diagnostic::error(codes::POOL_EMPTY, format!("the pool {} has no room left", pool.prefix), span)
            .label(format!("no prefix for this {kind}"));
        if let Some(pool) = pool.span {
            it = it.also(pool, "this pool");
        }
        self.sink.push(it.help(format!("a larger pool: `pool {kind} 10.0.0.0/8`")));
    }

    /// A block for each class of links, and each link's prefix out of it.
    fn link_prefixes(&mut self, pool: &Pool, space: &mut Space, section: &mut Section) {
        let len = pool.each.unwrap_or(31);
        let inside =
            |e: &Extent| e.len == len && e.base >= pool.prefix.first() && e.end() <= u64::from(pool.prefix.last()) + 1;
        let mut blocks: Vec<(Extents, bool)> = Vec::with_capacity(self.link_classes.len());
        for class in &self.link_classes {
            let ranked_key = format!("{}#rank", class.key);
            let ranked = !class.ranked_sizes.is_empty()
                && (section.get(BlockKind::Link, &ranked_key).is_some()
                    || (section.get(BlockKind::Link, &class.key).is_none() && is_wide(&class.sizes, len, pool)));
            let (key, sizes) = if ranked { (&ranked_key, &class.ranked_sizes) } else { (&class.key, &class.sizes) };
            let mut extents = section.get(BlockKind::Link, key).cloned().unwrap_or_default();
            if !extents.has_rank(sizes.len()) || !extents.0.iter().all(inside) {
                extents = Extents::default();
            }
            // A class whose links all failed has no size.
            let missing =
                if sizes.contains(&0) { Default::default() } else { extents.missing(sizes, &room_for(sizes)) };
            for bounds in missing {
                let Some(extent) = take(Extent { base: 0, len, bounds }, pool, space) else {
                    self.pool_empty(class.span, pool, "link");
                    return;
                };
                extents.0.push(extent);
            }
            section.set(BlockKind::Link, key, &extents);
            blocks.push((extents, ranked));
        }
        for (link, source) in self.data.links.iter_mut().zip(&self.link_sources) {
            let (extents, ranked) = &blocks[source.class as usize];
            let place = source.ranked.as_ref().filter(|_| *ranked).unwrap_or(&source.place);
            if let Some(base) = extents.locate(place) {
                link.prefix = Prefix::new(base, len);
            }
        }
    }
}

/// What a block for so many elements reserves.
fn room_for(sizes: &Place) -> Place {
    sizes.iter().map(|s| s.checked_next_power_of_two().unwrap_or(*s)).collect()
}

/// Whether a block for all pairs would take more than an eighth of the pool.
fn is_wide(sizes: &Place, len: u8, pool: &Pool) -> bool {
    let count = room_for(sizes).iter().fold(1u64, |n, s| n.saturating_mul(u64::from(*s)));
    count.saturating_mul(1 << (32 - u32::from(len.min(32)))) > pool.prefix.size() / 8
}

/// Takes room for a block from a pool, aligned to its elements.
fn take(mut extent: Extent, pool: &Pool, space: &mut Space) -> Option<Extent> {
    let (from, until) = (u64::from(pool.prefix.first()), u64::from(pool.prefix.last()) + 1);
    let size = extent.count().checked_mul(extent.stride())?;
    let base = space.fit(from, until, size, extent.stride())?;
    space.take(base, base + size);
    extent.base = u32::try_from(base).ok()?;
    Some(extent)
}

/// Makes the prefix of a single lan shorter in place: its addresses stay. Arrays would have to move.
fn widen(extents: &mut Extents, len: u8, pool: &Pool, space: &mut Space) -> bool {
    let [extent] = extents.0.as_mut_slice() else { return false };
    let wide = Prefix::new(extent.base, len);
    let beyond = u64::from(wide.last()) + 1;
    let fits = extent.bounds.is_empty()
        && wide.first() == extent.base
        && wide.last() <= pool.prefix.last()
        && space.is_free(extent.end(), beyond);
    if fits {
        space.take(extent.end(), beyond);
        extent.len = len;
    }
    fits
}
