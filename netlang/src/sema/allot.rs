//! Addresses that never move: host numbers, prefixes, link blocks and VNIs, from the lock or by first fit. Host numbers
//! are in [`super::hosts`], prefixes in [`super::pools`].
//!
//! Blocks belong to declaration paths without indices (`t1.seg`), so the lock has a line for each declaration. What
//! the lock gave is taken first, even to declarations that are gone; then what the file says; then first fit.

use super::World;
use crate::address::extents::{Extent, Extents, Place};
use crate::address::lock::{BlockKind, Section};
use crate::address::prefix::Prefix;
use crate::address::space::Space;
use crate::diag::{Diagnostic, codes};
use crate::source::Span;
use hashbrown::HashMap;

/// The first host number that is given to VMs; lower ones are for routers and `at`.
pub(crate) const FIRST_HOST: u32 = 16;
/// Lans without a prefix are at least this large.
const LAN_LEN: u8 = 24;
/// VNIs are of 24 bits.
const VNI_END: u64 = 1 << 24;

/// All segments of one declaration path.
#[derive(Debug, Default)]
pub(crate) struct LanClass {
    pub(crate) path: String,
    /// Host numbers that are taken on any of its segments.
    pub(crate) space: Space,
    /// Host numbers that all of its segments lend by DHCP, half open, and which of them are reserved.
    pub(crate) dhcp: Option<(u64, u64)>,
    pub(crate) leases: Space,
    /// The largest host number that all given prefixes have; `None` if the prefix is to be found.
    pub(crate) capacity: Option<u64>,
    /// The largest host number in use.
    pub(crate) highest: u64,
    /// The most elements in each dimension.
    sizes: Place,
    pub(crate) span: Span,
}

impl LanClass {
    /// Marks host numbers as taken, those that are lent as well as the others.
    pub(crate) fn take(&mut self, from: u64, until: u64) {
        self.space.take(from, until);
        self.leases.take(from, until);
    }

    /// Whether a block is on the wrong side of the DHCP range.
    pub(crate) fn misplaced(&self, block: &Extent, by_dhcp: bool) -> bool {
        self.dhcp.is_some_and(|(first, until)| match by_dhcp {
            true => u64::from(block.base) < first || block.end() > until,
            false => u64::from(block.base) < until && block.end() > first,
        })
    }
}

impl World<'_> {
    /// Gives every NIC its host numbers, every lan its prefix and VNI, and every link its prefix.
    pub(crate) fn allot(&mut self) {
        let mut section = match self.lock.section(&self.data.experiment) {
            Some(section) => section.renewed(),
            None => Section::default(),
        };
        self.lan_classes();
        self.host_numbers(&mut section);
        self.prefixes(&mut section);
        self.vnis(&mut section);
        if !self.sink.has_errors() {
            self.new_section = Some(section);
        }
    }

    /// The indices of an instance, outermost first; plain instances have none.
    pub(crate) fn place_of(&self, instance: u32) -> Place {
        let mut place = Place::new();
        let mut at = instance;
        while at != 0 {
            let it = &self.data.names.instances[at as usize];
            place.extend(it.index);
            at = it.parent;
        }
        place.reverse();
        place
    }

    fn lan_classes(&mut self) {
        let mut ids: HashMap<(u32, u32), u32> = HashMap::new();
        for segment in 0..self.data.segments.len() {
            let row = self.data.segments[segment];
            let key = (self.class_of[row.instance as usize], row.decl);
            let id = *ids.entry(key).or_insert_with(|| {
                let class = LanClass {
                    path: self.data.names.plain_path(row.instance, row.decl),
                    span: self.data.names.decl(row.instance, row.decl).span,
                    ..LanClass::default()
                };
                self.lan_class.push(class);
                self.lan_class.len() as u32 - 1
            });
            self.class_of_segment.push(id);
            let mut place = self.place_of(row.instance);
            place.extend(row.index);
            let dhcp = self.dhcp_of(segment as u32).map(|d| (u64::from(d.first), u64::from(d.until)));
            let class = &mut self.lan_class[id as usize];
            grow(&mut class.sizes, &place);
            if let Some((first, until)) = dhcp {
                let (least, most) = class.dhcp.unwrap_or((first, until));
                class.dhcp = Some((least.max(first), most.min(until)));
                // Whoever does not ask for an address never gets one of these.
                class.space.take(first, until);
                class.highest = class.highest.max(until - 1);
            }
            if let Some(given) = self.given_prefix[segment] {
                let most = given.map_or(u64::MAX, Prefix::max_host_number);
                class.capacity = Some(class.capacity.map_or(most, |c| c.min(most)));
            }
        }
    }

    /// Sizes of a path's classes for other passes.
    pub(crate) fn segment_place(&self, segment: usize) -> Place {
        let row = self.data.segments[segment];
        let mut place = self.place_of(row.instance);
        place.extend(row.index);
        place
    }

    fn vnis(&mut self, section: &mut Section) {
        let mut space = Space::default();
        let sections = self.lock.experiments().filter_map(|e| self.lock.section(e));
        for (kind, _, extents) in sections.flat_map(|s| s.blocks()) {
            if kind == BlockKind::Vni {
                extents.0.iter().for_each(|e| space.take(u64::from(e.base), e.end()));
            }
        }
        for id in 0..self.lan_class.len() {
            let class = &self.lan_class[id];
            let mut extents = section.get(BlockKind::Vni, &class.path).cloned().unwrap_or_default();
            if !extents.has_rank(class.sizes.len()) {
                extents = Extents::default();
            }
            let room: Place = class.sizes.iter().map(|s| s.next_power_of_two()).collect();
            for bounds in extents.missing(&class.sizes, &room) {
                let mut extent = Extent { base: 0, len: 0, bounds };
                let Some(base) = space.fit(1, VNI_END, extent.count(), 1) else {
                    self.sink.push(
                        Diagnostic::error(codes::POOL_EMPTY, "there are no VNIs left for this lan", class.span)
                            .label("16,777,215 are all there are"),
                    );
                    return;
                };
                extent.base = base as u32;
                space.take(base, extent.end());
                extents.0.push(extent);
            }
            section.set(BlockKind::Vni, &class.path, &extents);
            self.vni_extents.push(extents);
        }
        for segment in 0..self.data.segments.len() {
            let extents = &self.vni_extents[self.class_of_segment[segment] as usize];
            self.data.segments[segment].vni = extents.locate(&self.segment_place(segment)).unwrap_or(0);
        }
    }

    /// How many lan classes there are.
    pub(crate) fn lan_class_count(&self) -> usize {
        self.lan_class.len()
    }

    /// The least length of a prefix for a lan of this class.
    pub(crate) fn needed_len(&self, class: usize) -> u8 {
        len_for(self.lan_class[class].highest).min(LAN_LEN)
    }

    /// Path, sizes and place in the text of a lan class.
    pub(crate) fn lan_class_at(&self, class: usize) -> (&str, &Place, Span) {
        let it = &self.lan_class[class];
        (&it.path, &it.sizes, it.span)
    }
}

/// The longest prefix whose host numbers reach a number.
pub(crate) fn len_for(highest: u64) -> u8 {
    (0..=30).rev().find(|len| Prefix::new(0, *len).max_host_number() >= highest).unwrap_or(0)
}

/// Makes sizes at least one more than the indices.
pub(crate) fn grow(sizes: &mut Place, place: &[u32]) {
    if sizes.is_empty() {
        sizes.extend(place.iter().map(|p| p.saturating_add(1)));
    } else {
        for (size, index) in sizes.iter_mut().zip(place) {
            *size = (*size).max(index.saturating_add(1));
        }
    }
}
