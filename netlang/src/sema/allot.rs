//! Addresses that never move: host numbers, prefixes, link blocks and VNIs, from the lock or by first fit.
//!
//! Blocks belong to declaration paths without indices (`t1.seg`), so the lock has a line for each declaration. What
//! the lock gave is taken first, even to declarations that are gone; then what the file says; then first fit.

use super::World;
use crate::address::extents::{Extent, Extents, Place};
use crate::address::lock::{BlockKind, Section};
use crate::address::prefix::Prefix;
use crate::address::space::Space;
use crate::diag::{Diagnostic, codes};
use crate::plan::form::{Form, MAX_TABLES, NoRoom};
use crate::source::Span;
use crate::text::thousands;
use hashbrown::HashMap;

/// The first host number that is given to VMs; lower ones are for routers and `at`.
pub(crate) const FIRST_HOST: u32 = 16;
/// Lans without a prefix are at least this large.
const LAN_LEN: u8 = 24;
/// Where host numbers end on a lan whose prefix is not known (yet, or because it is wrong).
const HOSTS_END: u64 = 1 << 31;
/// VNIs are of 24 bits.
const VNI_END: u64 = 1 << 24;

/// All segments of one declaration path.
#[derive(Debug, Default)]
pub(crate) struct LanClass {
    pub(crate) path: String,
    /// Host numbers that are taken on any of its segments.
    space: Space,
    /// The largest host number that all given prefixes have; `None` if the prefix is to be found.
    capacity: Option<u64>,
    /// The largest host number in use.
    highest: u64,
    /// The most elements in each dimension.
    sizes: Place,
    span: Span,
}

/// All groups of one declaration path on lans of one path.
#[derive(Debug)]
struct HostClass {
    lan: u32,
    path: String,
    sizes: Place,
    /// What to reserve, by dimension; the last is the group's own.
    room: Place,
    nic: u32,
    extents: Extents,
    /// There is no room for it, which was reported.
    failed: bool,
}

impl World<'_> {
    /// Gives every NIC its host numbers, every lan its prefix and VNI, and every link its prefix.
    pub(crate) fn allot(&mut self) {
        let mut section = match self.lock.section(&self.data.experiment) {
            Some(section) => (**section).clone(),
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
            let class = &mut self.lan_class[id as usize];
            grow(&mut class.sizes, &place);
            if let Some(given) = self.given_prefix[segment] {
                let most = given.map_or(u64::MAX, Prefix::max_host_number);
                class.capacity = Some(class.capacity.map_or(most, |c| c.min(most)));
            }
        }
    }

    fn host_numbers(&mut self, section: &mut Section) {
        // 1. What the lock gave on these lans, and what the file says by `at`.
        for (lan, from, until) in self.locked_hosts(section) {
            self.lan_class[lan].space.take(from, until);
        }
        for attach in &self.attaches {
            if let crate::plan::rows::On::Segment(s) = attach.on {
                let class = &mut self.lan_class[self.class_of_segment[s as usize] as usize];
                class.space.take(u64::from(attach.host), u64::from(attach.host) + 1);
                class.highest = class.highest.max(u64::from(attach.host));
            }
        }
        let mut classes: Vec<HostClass> = Vec::new();
        let mut ids: HashMap<(u32, u32, u32, u32), u32> = HashMap::new();
        let mut waiting: Vec<(u32, u32, Place)> = Vec::new();
        for nic in 0..self.data.nics.len() as u32 {
            let source = self.nic_sources[nic as usize];
            let lan = self.class_of_segment[source.segment as usize];
            if source.at.is_some() {
                self.explicit_hosts(nic, lan);
                continue;
            }
            let group = self.data.groups[self.data.nics[nic as usize].group as usize];
            let place = self.relative_place(group.instance, source.segment);
            let number = nic - group.first_nic;
            let key = (self.class_of[group.instance as usize], group.decl, lan, self.rank_of_nic(nic, number, lan));
            let id = match ids.get(&key) {
                Some(id) => *id,
                None => {
                    let mut path = format!("{}/", self.lan_class[lan as usize].path);
                    path.push_str(&self.data.names.plain_path(group.instance, group.decl));
                    if key.3 > 0 {
                        path.push_str(&format!("#{}", key.3));
                    }
                    let class = HostClass {
                        lan,
                        path,
                        sizes: Place::new(),
                        room: Place::new(),
                        nic,
                        extents: Extents::default(),
                        failed: false,
                    };
                    classes.push(class);
                    ids.insert(key, classes.len() as u32 - 1);
                    classes.len() as u32 - 1
                }
            };
            let class = &mut classes[id as usize];
            let mut last = place.clone();
            if group.is_array {
                last.push(group.first + group.count - 1);
            }
            grow(&mut class.sizes, &last);
            let mut room: Place = class.sizes.iter().map(|s| s.next_power_of_two()).collect();
            if group.is_array
                && let Some(own) = room.last_mut()
                && let Some(most) = self.most_of(group.instance, group.decl)
            {
                *own = most.max(*class.sizes.last().unwrap_or(&0));
            }
            class.room = room;
            waiting.push((nic, id, place));
        }
        // 2. First fit for the rest, in the file's order.
        for class in &mut classes {
            self.fit_hosts(class, section);
        }
        for (nic, class, place) in waiting {
            if classes[class as usize].failed {
                self.poisoned_nics.insert(nic);
            }
            let group = self.data.groups[self.data.nics[nic as usize].group as usize];
            let form =
                self.host_form(&classes[class as usize].extents, &place, group.is_array, group.first + group.count);
            self.data.nics[nic as usize].host = form;
        }
    }

    /// The host numbers that the lock gave on the lans that there are: (lan class, from, until).
    fn locked_hosts(&self, section: &Section) -> Vec<(usize, u64, u64)> {
        let lans: HashMap<&str, usize> = self.lan_class.iter().enumerate().map(|(i, c)| (&*c.path, i)).collect();
        let mut taken = Vec::new();
        for (kind, path, extents) in section.blocks() {
            if let (BlockKind::Host, Some((lan, _))) = (kind, path.split_once('/'))
                && let Some(lan) = lans.get(lan)
            {
                taken.extend(extents.0.iter().map(|e| (*lan, u64::from(e.base), e.end())));
            }
        }
        taken
    }

    /// The first, second, … NIC of its group on the same lan.
    fn rank_of_nic(&self, nic: u32, number: u32, lan: u32) -> u32 {
        (nic - number..nic)
            .filter(|n| self.class_of_segment[self.nic_sources[*n as usize].segment as usize] == lan)
            .count() as u32
    }

    /// The indices of a group's instance below the instance that the lan belongs to as well.
    fn relative_place(&self, instance: u32, segment: u32) -> Place {
        let names = &self.data.names;
        let mut shared = Vec::new();
        let mut at = self.data.segments[segment as usize].instance;
        while at != 0 {
            shared.push(at);
            at = names.instances[at as usize].parent;
        }
        let mut place = Place::new();
        let mut at = instance;
        while at != 0 && !shared.contains(&at) {
            place.extend(names.instances[at as usize].index);
            at = names.instances[at as usize].parent;
        }
        place.reverse();
        place
    }

    fn fit_hosts(&mut self, class: &mut HostClass, section: &mut Section) {
        let lan = &mut self.lan_class[class.lan as usize];
        let rank = class.sizes.len();
        let mut extents = section.get(BlockKind::Host, &class.path).cloned().unwrap_or_default();
        if !extents.has_rank(rank) {
            extents = Extents::default();
        }
        let until = lan.capacity.map_or(HOSTS_END, |c| c.saturating_add(1).min(HOSTS_END));
        let exact = extents.missing(&class.sizes, &class.sizes);
        for (bounds, exact) in extents.missing(&class.sizes, &class.room).into_iter().zip(exact) {
            let room = Extent { base: 0, len: 0, bounds };
            let tight = Extent { base: 0, len: 0, bounds: exact };
            // Room to grow if there is room, else just what is needed.
            let fit = [room, tight].into_iter().find_map(|mut extent| {
                let base = lan.space.fit(u64::from(FIRST_HOST), until, extent.count(), 1)?;
                extent.base = u32::try_from(base).ok()?;
                Some(extent)
            });
            let Some(extent) = fit else {
                class.failed = true;
                self.too_many_for_lan(class.nic, class.lan);
                return;
            };
            lan.space.take(u64::from(extent.base), extent.end());
            extents.0.push(extent);
        }
        // Only what is in use decides how large the lan must be, and only what is in use must fit.
        let last: Place = class.sizes.iter().map(|s| s.saturating_sub(1)).collect();
        let highest = extents.0.iter().filter_map(|_| extents.locate(&last)).max().unwrap_or(0);
        lan.highest = lan.highest.max(u64::from(highest));
        section.set(BlockKind::Host, &class.path, extents.clone());
        class.extents = extents;
    }

    /// The host number as a function of the index, out of a group's blocks.
    fn host_form(&mut self, extents: &Extents, outer: &Place, is_array: bool, until: u32) -> Form {
        let mut place = outer.clone();
        if !is_array {
            return Form::Const(extents.locate(&place).unwrap_or(0));
        }
        let mut pieces: Vec<(u32, i64)> = Vec::new();
        let mut at = 0;
        while at < until {
            let end =
                extents.0.iter().filter_map(|e| e.bounds.last()).filter(|(f, u)| (*f..*u).contains(&at)).map(|b| b.1);
            let Some(end) = end.min() else { break };
            place.push(at);
            let Some(number) = extents.locate(&place) else { break };
            place.pop();
            pieces.push((end, i64::from(number) - i64::from(at)));
            at = end;
        }
        pieces.dedup_by(|next, before| {
            let same = next.1 == before.1;
            if same {
                before.0 = next.0;
            }
            same
        });
        if pieces.is_empty() { Form::Const(0) } else { self.data.forms.add_pieces(&pieces) }
    }

    fn too_many_for_lan(&mut self, nic: u32, lan: u32) {
        let group = self.data.groups[self.data.nics[nic as usize].group as usize];
        let source = self.nic_sources[nic as usize];
        let class = &self.lan_class[lan as usize];
        let prefix = self.given_prefix[source.segment as usize].flatten();
        let place = prefix.map_or_else(|| "the pool of lans".to_owned(), |p| p.to_string());
        let numbers = class.capacity.unwrap_or(0).saturating_sub(u64::from(FIRST_HOST) - 1);
        let decl = *self.data.names.decl(group.instance, group.decl);
        let count = thousands(u64::from(group.count));
        let last = FIRST_HOST + group.first + group.count - 1;
        let label = match group.is_array {
            true => format!("host numbers follow the index, {FIRST_HOST}..{}", last + 1),
            false => "no host number is left for it".to_owned(),
        };
        let noun = if group.count == 1 { "VM" } else { "VMs" };
        let needed = Prefix::new(0, len_for(u64::from(last)));
        let mut it = Diagnostic::error(
            codes::TOO_LARGE_FOR_LAN,
            format!("{count} {noun} cannot fit in {place} ({} host numbers from {FIRST_HOST})", thousands(numbers)),
            decl.span,
        )
        .label(label)
        .also(class.span, "this lan");
        if numbers > 0 && u64::from(group.count) <= numbers {
            it = it.note("other groups have the rest of the numbers; `at` chooses numbers by hand");
        }
        let word = self.tree.span(source.lan).text(self.text);
        it = match self.index_name(decl.stmt).filter(|i| self.mentions(source.lan, *i)) {
            Some(index) => {
                let index = self.data.names.interner.name(index);
                let divisor = word.rsplit("mod ").next().map_or("4", |d| d.trim_end_matches(']'));
                it.help(format!("pack them: `on {word} at {FIRST_HOST} + {index} div {divisor}`"))
            }
            None => it.help(format!(
                "give the lan a prefix of /{} or shorter, or spread the group over several lans",
                needed.len()
            )),
        };
        self.sink.push(it);
    }

    /// `at N`: compiled, and its numbers taken.
    fn explicit_hosts(&mut self, nic: u32, lan: u32) {
        let row = self.data.nics[nic as usize];
        let group = self.data.groups[row.group as usize];
        let stmt = self.data.names.decl(group.instance, group.decl).stmt;
        let Some(word) = self.nic_sources[nic as usize].at else { return };
        let mut code = Vec::new();
        let index = self.index_name(stmt);
        if self.lower(super::eval::Env::of(group.instance), word, index, &mut code).is_none() {
            self.poisoned_nics.insert(nic);
            return;
        }
        let indices = self.data.indices(row.group);
        let form = match self.data.forms.add(&code, &indices) {
            Ok(form) => form,
            Err(NoRoom) => {
                self.poisoned_nics.insert(nic);
                self.no_closed_form(word);
                return;
            }
        };
        self.data.nics[nic as usize].host = form;
        let class = &mut self.lan_class[lan as usize];
        let most = class.capacity.unwrap_or((1 << 24) - 1);
        match self.data.forms.bounds(form, &indices) {
            Some((lowest, highest)) if lowest > 0 && u64::from(highest) <= most => {
                class.highest = class.highest.max(u64::from(highest));
                class.space.take(u64::from(lowest), u64::from(highest) + 1);
            }
            _ => self.outside_prefix(nic, word, form),
        }
    }

    fn no_closed_form(&mut self, word: crate::syntax::tree::ExprId) {
        self.sink.push(
            Diagnostic::error(
                codes::TOO_LARGE,
                "these host numbers have no closed form for so many VMs",
                self.tree.span(word),
            )
            .label("use the index once, in sums, `mod` and `div` with numbers")
            .note(format!("without one, {} VMs are the most", thousands(MAX_TABLES as u64))),
        );
    }

    fn outside_prefix(&mut self, nic: u32, word: crate::syntax::tree::ExprId, form: Form) {
        self.poisoned_nics.insert(nic);
        let group = self.data.groups[self.data.nics[nic as usize].group as usize];
        let source = self.nic_sources[nic as usize];
        let class = &self.lan_class[self.class_of_segment[source.segment as usize] as usize];
        let most = class.capacity.unwrap_or((1 << 24) - 1);
        let indices = self.data.indices(self.data.nics[nic as usize].group);
        let within = (1, u32::try_from(most).unwrap_or(u32::MAX));
        let index = self.data.forms.first_outside(form, &indices, within).unwrap_or(group.first);
        let name = self.data.names.path(group.instance, group.decl, group.is_array.then_some(index));
        let number = self.data.forms.value(form, index).map_or_else(|| "below zero".to_owned(), |n| n.to_string());
        self.sink.push(
            Diagnostic::error(
                codes::OUTSIDE_PREFIX,
                format!("`{name}` would have the host number {number}"),
                self.tree.span(word),
            )
            .label(format!("host numbers of this lan go from 1 to {}", thousands(most)))
            .also(class.span, "this lan"),
        );
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
            section.set(BlockKind::Vni, &class.path, extents.clone());
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
fn len_for(highest: u64) -> u8 {
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
