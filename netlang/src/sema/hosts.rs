//! Host numbers of VMs: those of `at`, those that the lock holds, and first fit for the rest.
//!
//! Groups of one declaration path share a block with an element for each of their VMs. Groups of the file itself have
//! a path of their own each; there may be a million of them, so they are worked out one after another, with nothing
//! kept.

use super::World;
use super::allot::{FIRST_HOST, grow, len_for};
use super::eval::Env;
use crate::address::extents::{Extent, Extents, Place};
use crate::address::lock::{BlockKind, Section};
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, codes};
use crate::plan::form::{Form, MAX_TABLES, NoRoom};
use crate::plan::rows::On;
use crate::syntax::tree::ExprId;
use crate::text::thousands;
use hashbrown::HashMap;
use std::fmt::Write;

/// Where host numbers end on a lan whose prefix is not known (yet, or because it is wrong).
const HOSTS_END: u64 = 1 << 31;

/// All groups of one declaration path on lans of one path.
#[derive(Debug)]
struct HostClass {
    lan: u32,
    /// One of the NICs.
    nic: u32,
    sizes: Place,
    /// What to reserve, by dimension; the last is the group's own.
    room: Place,
    extents: Extents,
}

impl World<'_> {
    /// Gives every NIC its host numbers.
    pub(crate) fn host_numbers(&mut self, section: &mut Section) {
        // 1. What the lock gave on these lans, and what the file says by `at`.
        for (lan, from, until) in self.locked_hosts(section) {
            self.lan_class[lan].take(from, until);
        }
        for attach in &self.attaches {
            if let On::Segment(s) = attach.on {
                let class = &mut self.lan_class[self.class_of_segment[s as usize] as usize];
                class.take(u64::from(attach.host), u64::from(attach.host) + 1);
                class.highest = class.highest.max(u64::from(attach.host));
            }
        }
        let mut classes: Vec<HostClass> = Vec::new();
        let mut ids: HashMap<(u32, u32, u32, u32), u32> = HashMap::new();
        let mut own: Vec<u32> = Vec::new();
        let mut shared: Vec<(u32, u32)> = Vec::new();
        for nic in 0..self.data.nics.len() as u32 {
            let lan = self.lan_of_nic(nic);
            let group = self.data.groups[self.data.nics[nic as usize].group as usize];
            if self.nic_sources[nic as usize].at.is_some() {
                self.explicit_hosts(nic, lan);
            } else if group.instance == 0 {
                own.push(nic);
            } else {
                let key = (self.class_of[group.instance as usize], group.decl, lan, self.rank_of_nic(nic));
                let id = *ids.entry(key).or_insert(classes.len() as u32);
                if id as usize == classes.len() {
                    let (sizes, room) = (Place::new(), Place::new());
                    classes.push(HostClass { lan, nic, sizes, room, extents: Extents::default() });
                }
                self.grow_class(&mut classes[id as usize], nic);
                shared.push((nic, id));
            }
        }
        // 2. First fit for the rest, in the file's order; the groups of the file itself come before those of modules.
        section.reserve(own.len());
        let mut path = String::new();
        for nic in own {
            let lan = self.lan_of_nic(nic);
            let (sizes, room) = (Place::new(), Place::new());
            let mut class = HostClass { lan, nic, sizes, room, extents: Extents::default() };
            self.grow_class(&mut class, nic);
            self.fit_hosts(&mut class, section, &mut path);
            self.give_hosts(nic, &class);
        }
        for class in &mut classes {
            self.fit_hosts(class, section, &mut path);
        }
        for (nic, class) in shared {
            self.give_hosts(nic, &classes[class as usize]);
        }
    }

    fn lan_of_nic(&self, nic: u32) -> u32 {
        self.class_of_segment[self.nic_sources[nic as usize].segment as usize]
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
    fn rank_of_nic(&self, nic: u32) -> u32 {
        let first = self.data.groups[self.data.nics[nic as usize].group as usize].first_nic;
        let lan = self.lan_of_nic(nic);
        (first..nic).filter(|n| self.lan_of_nic(*n) == lan).count() as u32
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

    /// Makes a class large enough for a NIC's group.
    fn grow_class(&mut self, class: &mut HostClass, nic: u32) {
        let group = self.data.groups[self.data.nics[nic as usize].group as usize];
        let mut last = self.relative_place(group.instance, self.nic_sources[nic as usize].segment);
        if group.is_array {
            last.push(group.first + group.count - 1);
        }
        grow(&mut class.sizes, &last);
        class.room = class.sizes.iter().map(|s| s.next_power_of_two()).collect();
        if group.is_array
            && let Some(own) = class.room.last_mut()
            && let Some(most) = self.most_of(group.instance, group.decl)
        {
            *own = most.max(class.sizes.last().copied().unwrap_or(0));
        }
    }

    /// The class's path in the lock: `office/alice`, `hq.users/hq.pc#1`.
    fn host_path(&self, class: &HostClass, path: &mut String) {
        let group = self.data.groups[self.data.nics[class.nic as usize].group as usize];
        path.clear();
        path.push_str(&self.lan_class[class.lan as usize].path);
        path.push('/');
        self.data.names.push_plain_path(path, group.instance, group.decl);
        let rank = self.rank_of_nic(class.nic);
        if rank > 0 {
            // Writing to a String cannot fail.
            let _ = write!(path, "#{rank}");
        }
    }

    /// Finds numbers for a class. What there is no room for is reported, and gets none.
    fn fit_hosts(&mut self, class: &mut HostClass, section: &mut Section, path: &mut String) {
        self.host_path(class, path);
        let lan = &mut self.lan_class[class.lan as usize];
        let rank = class.sizes.len();
        let extents = section.entry(BlockKind::Host, path);
        let dhcp = self.data.nics[class.nic as usize].dhcp;
        // Blocks on the wrong side of a DHCP range: the file was changed on purpose, so the group moves.
        if !extents.has_rank(rank) || extents.0.iter().any(|e| lan.misplaced(e, dhcp)) {
            *extents = Extents::default();
        }
        let until = lan.capacity.map_or(HOSTS_END, |c| c.saturating_add(1).min(HOSTS_END));
        let (from, until) = match lan.dhcp.filter(|_| dhcp) {
            Some((first, end)) => (first, end.min(until)),
            None => (u64::from(FIRST_HOST), until),
        };
        let exact = extents.missing(&class.sizes, &class.sizes);
        for (bounds, exact) in extents.missing(&class.sizes, &class.room).into_iter().zip(exact) {
            let room = Extent { base: 0, len: 0, bounds };
            let tight = Extent { base: 0, len: 0, bounds: exact };
            // Room to grow if there is room, else just what is needed.
            let fit = [room, tight].into_iter().find_map(|mut extent| {
                let space = if dhcp { &mut lan.leases } else { &mut lan.space };
                let base = space.fit(from, until, extent.count(), 1)?;
                extent.base = u32::try_from(base).ok()?;
                Some(extent)
            });
            let Some(extent) = fit else {
                return self.too_many_for_lan(class.nic, class.lan);
            };
            lan.take(u64::from(extent.base), extent.end());
            extents.0.push(extent);
        }
        // Only what is in use decides how large the lan must be, and only what is in use must fit.
        let last: Place = class.sizes.iter().map(|s| s.saturating_sub(1)).collect();
        lan.highest = lan.highest.max(u64::from(extents.locate(&last).unwrap_or(0)));
        class.extents.clone_from(extents);
    }

    /// Gives a NIC the numbers of its class.
    fn give_hosts(&mut self, nic: u32, class: &HostClass) {
        if class.extents.0.is_empty() {
            self.poisoned_nics.insert(nic);
        }
        let group = self.data.groups[self.data.nics[nic as usize].group as usize];
        let mut place = self.relative_place(group.instance, self.nic_sources[nic as usize].segment);
        let form = match group.is_array {
            true => self.host_form(&class.extents, &mut place, group.first + group.count),
            false => Form::Const(class.extents.locate(&place).unwrap_or(0)),
        };
        self.data.nics[nic as usize].host = form;
    }

    /// The host number of an array's VMs as a function of the index, out of the blocks.
    fn host_form(&mut self, extents: &Extents, place: &mut Place, until: u32) -> Form {
        let mut pieces: Vec<(u32, i64)> = Vec::new();
        let mut at = 0;
        while at < until {
            let end =
                extents.0.iter().filter_map(|e| e.bounds.last()).filter(|(f, u)| (*f..*u).contains(&at)).map(|b| b.1);
            let Some(end) = end.min() else { break };
            place.push(at);
            let Some(number) = extents.locate(place) else { break };
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
        if let Some((first, until)) = class.dhcp.filter(|_| self.data.nics[nic as usize].dhcp) {
            let numbers = thousands(until.saturating_sub(first));
            self.sink.push(
                Diagnostic::error(
                    codes::TOO_LARGE_FOR_LAN,
                    format!("{count} {noun} cannot fit in `dhcp {first}..{until}` ({numbers} host numbers)"),
                    decl.span,
                )
                .label("not enough numbers to lend are left for it")
                .also(class.span, "this lan")
                .help("let the lan lend more numbers, or spread the group over several lans"),
            );
            return;
        }
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
        if self.lower(Env::of(group.instance), word, index, &mut code).is_none() {
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
                class.take(u64::from(lowest), u64::from(highest) + 1);
                if class.dhcp.is_some() {
                    self.check_dhcp_numbers(nic, word);
                }
            }
            _ => self.outside_prefix(nic, word, form),
        }
    }

    /// Numbers given by `at` are among those that the lan lends if the guest asks for its address, and only then.
    fn check_dhcp_numbers(&mut self, nic: u32, word: ExprId) {
        let row = self.data.nics[nic as usize];
        let group = self.data.groups[row.group as usize];
        let bad = (group.first..group.first + group.count).find_map(|index| {
            let host = self.data.forms.value(row.host, index)?;
            let range = self.dhcp_of(self.data.forms.value(row.segment, index)?)?;
            ((range.first..range.until).contains(&host) != row.dhcp).then_some((host, range))
        });
        if let Some((host, range)) = bad {
            self.dhcp_number(word, host, range, row.dhcp);
        }
    }

    fn no_closed_form(&mut self, word: ExprId) {
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

    fn outside_prefix(&mut self, nic: u32, word: ExprId, form: Form) {
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
}
