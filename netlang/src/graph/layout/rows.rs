//! The order of the parts in their rows, and where they stand from left to right.

/// Which side of a part a line leaves from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Top,
    Bottom,
}

/// A part in a row, or the place of a line that passes it.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) row: usize,
    pub(crate) w: f64,
    pub(crate) h: f64,
    /// Left edge.
    pub(crate) x: f64,
    /// Room to the next slot.
    pub(crate) gap: f64,
    /// It stays the leftmost: a title.
    pub(crate) first: bool,
    /// A line, which likes to be straight.
    pub(crate) thin: bool,
}

/// Where a line touches a slot.
#[derive(Debug, Clone)]
pub(crate) struct Pin {
    pub(crate) slot: usize,
    pub(crate) side: Side,
    /// From the left edge of the slot.
    pub(crate) dx: f64,
    /// The slot says where; otherwise pins are spread over the side.
    pub(crate) fixed: bool,
}

/// A line's way through one channel: channel `n` is above row `n`.
#[derive(Debug, Clone)]
pub(crate) struct Hop {
    pub(crate) channel: usize,
    pub(crate) from: usize,
    /// `None`: straight to the edge of the block.
    pub(crate) to: Option<usize>,
    /// Where a line that leaves the block goes, as far as it is known.
    pub(crate) target: Option<Target>,
}

/// Where a line goes that leaves the block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    /// The part that it comes from.
    pub(crate) slot: usize,
    /// How far to the right of that part's middle.
    pub(crate) dx: f64,
    /// Outside it goes to something in the same row.
    pub(crate) level: bool,
}

/// Rows in the making.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    pub(crate) slots: Vec<Slot>,
    pub(crate) rows: Vec<Vec<usize>>,
    pub(crate) pins: Vec<Pin>,
    pub(crate) hops: Vec<Hop>,
}

/// Sweeps over the rows.
const SWEEPS: usize = 10;
/// A crossing is as bad as so many pixels of line.
const CROSSING: f64 = 150.0;
/// What is gained by less is not worth leaving the order of the file for, in pixels of line.
const WORTH: f64 = 40.0;
/// Beyond so many slots, swaps are not tried: it would take long.
const MOST_FOR_SWAPS: usize = 90;
/// The widest room between two pins.
const PIN_GAP: f64 = 26.0;

impl Rows {
    /// Orders the rows and sets every slot's `x` and every pin's `dx`.
    pub(crate) fn arrange(&mut self) {
        self.order();
        for _ in 0..2 {
            self.spread_pins();
            self.straighten();
        }
        let left = self.slots.iter().map(|s| s.x).fold(f64::INFINITY, f64::min);
        for slot in &mut self.slots {
            slot.x -= left;
            if slot.first {
                slot.x = 0.0;
            }
        }
        self.snap();
    }

    /// Makes lines straight that are so nearly: a pin that is alone on its side moves a little.
    fn snap(&mut self) {
        let mut count = vec![[0usize; 2]; self.slots.len()];
        for pin in &self.pins {
            count[pin.slot][usize::from(pin.side == Side::Bottom)] += 1;
        }
        for at in 0..self.hops.len() {
            let Hop { from, to: Some(to), .. } = self.hops[at] else { continue };
            let off = self.pin_x(to) - self.pin_x(from);
            if off == 0.0 || off.abs() > PIN_GAP / 2.0 || self.pins[from].side == self.pins[to].side {
                continue;
            }
            for (pin, by) in [(to, -off), (from, off)] {
                let it = &mut self.pins[pin];
                let inside = it.dx + by > 20.0 && it.dx + by < self.slots[it.slot].w - 20.0;
                if !it.fixed && inside && count[it.slot][usize::from(it.side == Side::Bottom)] == 1 {
                    it.dx += by;
                    break;
                }
            }
        }
    }

    /// The absolute place of a pin.
    pub(crate) fn pin_x(&self, pin: usize) -> f64 {
        let pin = &self.pins[pin];
        self.slots[pin.slot].x + pin.dx
    }

    fn target_x(&self, target: Target) -> f64 {
        let slot = &self.slots[target.slot];
        slot.x + slot.w / 2.0 + target.dx
    }

    /// For each slot its own pin and the one at the other end of each hop.
    fn neighbours(&self) -> Vec<Vec<(usize, usize)>> {
        let mut of: Vec<Vec<(usize, usize)>> = vec![Vec::new(); self.slots.len()];
        for hop in &self.hops {
            let Some(to) = hop.to else { continue };
            let (a, b) = (self.pins[hop.from].slot, self.pins[to].slot);
            if a != b {
                of[a].push((hop.from, to));
                of[b].push((to, hop.from));
            }
        }
        of
    }

    fn pack(&mut self) {
        for row in &self.rows {
            let total: f64 = row.iter().map(|s| self.slots[*s].w + self.slots[*s].gap).sum();
            let mut x = -total / 2.0;
            for slot in row {
                self.slots[*slot].x = x;
                x += self.slots[*slot].w + self.slots[*slot].gap;
            }
        }
    }

    fn order(&mut self) {
        let neighbours = self.neighbours();
        let mut targets: Vec<Vec<Target>> = vec![Vec::new(); self.slots.len()];
        for hop in &self.hops {
            targets[self.pins[hop.from].slot].extend(hop.target);
        }
        self.pack();
        let mut best = (self.cost(), self.rows.clone());
        for sweep in 0..SWEEPS {
            let count = self.rows.len();
            for n in 0..count {
                let row = if sweep % 2 == 0 { n } else { count - 1 - n };
                // Towards what the sweep comes from; in the last ones towards all.
                let wanted =
                    |other: usize| sweep >= SWEEPS - 2 || if sweep % 2 == 0 { other <= row } else { other >= row };
                let mut keyed: Vec<(f64, usize)> = self.rows[row]
                    .iter()
                    .map(|slot| {
                        let it = &self.slots[*slot];
                        let near =
                            neighbours[*slot].iter().filter(|(_, to)| wanted(self.slots[self.pins[*to].slot].row));
                        let outside = targets[*slot].iter().map(|t| self.target_x(*t));
                        let xs: Vec<f64> = near.map(|(_, to)| self.pin_x(*to)).chain(outside).collect();
                        let key = match (it.first, xs.len()) {
                            (true, _) => f64::NEG_INFINITY,
                            (_, 0) => it.x + it.w / 2.0,
                            (_, n) => xs.iter().sum::<f64>() / n as f64,
                        };
                        (key, *slot)
                    })
                    .collect();
                keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
                self.rows[row] = keyed.into_iter().map(|(_, slot)| slot).collect();
                self.pack();
            }
            let cost = self.cost();
            if cost < best.0 - WORTH {
                best = (cost, self.rows.clone());
            }
        }
        self.rows = best.1;
        self.pack();
        if self.slots.len() <= MOST_FOR_SWAPS {
            self.swap(best.0);
        }
    }

    /// Swaps neighbours as long as that helps.
    fn swap(&mut self, mut cost: f64) {
        for _ in 0..SWEEPS {
            let before = cost;
            for row in 0..self.rows.len() {
                for at in 1..self.rows[row].len() {
                    if self.slots[self.rows[row][at - 1]].first {
                        continue;
                    }
                    self.rows[row].swap(at - 1, at);
                    self.pack();
                    let new = self.cost();
                    if new < cost - WORTH {
                        cost = new;
                    } else {
                        self.rows[row].swap(at - 1, at);
                    }
                }
            }
            if cost >= before {
                break;
            }
        }
        self.pack();
    }

    /// How bad an order is: crossings, and the length of the lines.
    fn cost(&self) -> f64 {
        let mut channels: Vec<Vec<(f64, f64, bool)>> = vec![Vec::new(); self.rows.len() + 1];
        let mut cost = 0.0;
        for hop in &self.hops {
            let mut a = self.pin_x(hop.from);
            let from_row = self.slots[self.pins[hop.from].slot].row;
            let (mut b, level, upwards) = match (hop.to, hop.target) {
                (Some(to), _) => {
                    let to_row = self.slots[self.pins[to].slot].row;
                    (self.pin_x(to), from_row == to_row, from_row > to_row)
                }
                (None, Some(target)) => (self.target_x(target), target.level, self.pins[hop.from].side == Side::Top),
                (None, None) => continue,
            };
            if (level && a > b) || (!level && upwards) {
                std::mem::swap(&mut a, &mut b);
            }
            cost += (a - b).abs();
            channels[hop.channel].push((a, b, level));
        }
        for channel in channels.iter().filter(|c| c.len() <= MOST_FOR_SWAPS) {
            for (n, one) in channel.iter().enumerate() {
                for other in &channel[..n] {
                    let crossed = match (one.2, other.2) {
                        (false, false) => (one.0 - other.0) * (one.1 - other.1) < 0.0,
                        (true, true) => {
                            (one.0 < other.0 && other.0 < one.1 && one.1 < other.1)
                                || (other.0 < one.0 && one.0 < other.1 && other.1 < one.1)
                        }
                        // One that goes down through the span of one that stays level.
                        (true, false) => one.0 < other.1 && other.1 < one.1,
                        (false, true) => other.0 < one.1 && one.1 < other.1,
                    };
                    if crossed {
                        cost += CROSSING;
                    }
                }
            }
        }
        cost
    }

    /// Spreads the pins of each side in the order of what they lead to.
    fn spread_pins(&mut self) {
        let mut sides: Vec<[Vec<(PinKey, usize)>; 2]> = vec![Default::default(); self.slots.len()];
        for hop in &self.hops {
            for (own, other) in [(Some(hop.from), hop.to), (hop.to, Some(hop.from))] {
                let Some(own) = own.filter(|p| !self.pins[*p].fixed) else { continue };
                let pin = &self.pins[own];
                let slot = &self.slots[pin.slot];
                let middle = slot.x + slot.w / 2.0;
                let target = hop.target.filter(|_| own == hop.from).map(|t| (self.target_x(t), t.level));
                let key = match (target, other.map(|p| &self.pins[p])) {
                    (Some((towards, level)), _) => pin_key(middle, towards, level),
                    (None, Some(other)) if other.slot != pin.slot => {
                        let to = &self.slots[other.slot];
                        pin_key(middle, to.x + other.dx, to.row == slot.row)
                    }
                    // A loop stands on the left, where its label has room.
                    (None, Some(_)) => (0, 0.0),
                    (None, None) => pin_key(middle, middle, false),
                };
                sides[pin.slot][usize::from(pin.side == Side::Bottom)].push((key, own));
            }
        }
        for (slot, sides) in sides.into_iter().enumerate() {
            for mut pins in sides {
                pins.sort_by(|a, b| a.0.0.cmp(&b.0.0).then(a.0.1.total_cmp(&b.0.1)));
                let count = pins.len() as f64;
                let w = self.slots[slot].w;
                let gap = PIN_GAP.min((w - 20.0).max(0.0) / (count - 1.0).max(1.0));
                for (n, (_, pin)) in pins.into_iter().enumerate() {
                    self.pins[pin].dx = w / 2.0 + (n as f64 - (count - 1.0) / 2.0) * gap;
                }
            }
        }
    }

    /// For each slot how many lines it has upwards and downwards.
    fn degrees(&self, neighbours: &[Vec<(usize, usize)>]) -> Vec<[usize; 2]> {
        let row_of = |pin: usize| self.slots[self.pins[pin].slot].row;
        let count = |(slot, of): (usize, &Vec<(usize, usize)>)| {
            let own = self.slots[slot].row;
            [of.iter().filter(|n| row_of(n.1) < own).count(), of.iter().filter(|n| row_of(n.1) > own).count()]
        };
        neighbours.iter().enumerate().map(count).collect()
    }

    /// Moves the slots so that lines become straight, as far as the order leaves room.
    fn straighten(&mut self) {
        let neighbours = self.neighbours();
        let degrees = self.degrees(&neighbours);
        for sweep in 0..2 * SWEEPS {
            let count = self.rows.len();
            for n in 0..count {
                let at = if sweep % 2 == 0 { n } else { count - 1 - n };
                let row = &self.rows[at];
                let last = sweep >= SWEEPS;
                let mut offset = 0.0;
                let mut wishes = Vec::with_capacity(row.len());
                let mut offsets = Vec::with_capacity(row.len());
                for slot in row {
                    let it = &self.slots[*slot];
                    let mut sum = 0.0;
                    let mut weight = 0.0;
                    for (own, to) in &neighbours[*slot] {
                        let other = &self.slots[self.pins[*to].slot];
                        if other.row == at {
                            continue;
                        }
                        let ahead = (other.row > at) == (sweep % 2 == 0);
                        let down = usize::from(other.row > at);
                        let alone = degrees[*slot][down] == 1 && degrees[self.pins[*to].slot][1 - down] == 1;
                        // What the sweep comes to will move, so it counts less.
                        let part = if ahead && !last { 0.2 } else { 1.0 };
                        let part = match (alone, it.thin || other.thin) {
                            (true, _) => part * 25.0,
                            (false, true) => part * 4.0,
                            (false, false) => part,
                        };
                        sum += part * (self.pin_x(*to) - self.pins[*own].dx);
                        weight += part;
                    }
                    let (wish, weight) = match (it.first, weight > 0.0) {
                        (true, _) | (_, false) => (it.x, 0.01),
                        (false, true) => (sum / weight, weight),
                    };
                    wishes.push((wish - offset, weight));
                    offsets.push(offset);
                    offset += it.w + it.gap;
                }
                for ((slot, x), offset) in row.clone().into_iter().zip(ascending(&wishes)).zip(offsets) {
                    self.slots[slot].x = x + offset;
                }
            }
        }
    }
}

/// What the pins of a part are sorted by.
type PinKey = (u8, f64);

fn pin_key(middle: f64, towards: f64, level: bool) -> PinKey {
    // Of lines that stay level, the one that goes the farthest is the innermost, and goes around the others.
    match (level, towards < middle) {
        (true, true) => (1, -towards),
        (false, _) => (2, towards),
        (true, false) => (3, -towards),
    }
}

/// The ascending numbers nearest to the wished ones by the sum of weighted squares: pool adjacent violators.
fn ascending(wishes: &[(f64, f64)]) -> Vec<f64> {
    let mut pools: Vec<(f64, f64, usize)> = Vec::with_capacity(wishes.len());
    for (wish, weight) in wishes {
        pools.push((*wish, *weight, 1));
        while let [.., before, last] = pools.as_mut_slice()
            && before.0 > last.0
        {
            let weight = before.1 + last.1;
            *before = ((before.0 * before.1 + last.0 * last.1) / weight, weight, before.2 + last.2);
            pools.pop();
        }
    }
    pools.into_iter().flat_map(|(x, _, count)| std::iter::repeat_n(x, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::ascending;

    #[test]
    fn wishes_in_order_are_granted_and_others_meet_in_the_middle() {
        assert_eq!(ascending(&[(1.0, 1.0), (2.0, 1.0)]), [1.0, 2.0]);
        assert_eq!(ascending(&[(3.0, 1.0), (1.0, 1.0), (9.0, 1.0)]), [2.0, 2.0, 9.0]);
        assert_eq!(ascending(&[(4.0, 3.0), (0.0, 1.0)]), [3.0, 3.0]);
    }
}
