//! What stands in a picture, in words.

use super::measure::shorten;
use super::model::{Cluster, Item, ItemKind, Line};
use crate::plan::LinkPolicy;
use crate::text::thousands;

/// Characters of a name, after which it is cut; the tooltip has all of it.
const MOST_CHARS: usize = 30;

/// The text of a box for an item: a name and some lines.
pub(crate) fn item(item: &Item) -> (String, Vec<String>) {
    let joined = |parts: &[Option<String>]| parts.iter().flatten().cloned().collect::<Vec<_>>().join(" · ");
    let fact = |at: usize| item.facts[at].text().map(str::to_owned);
    let some = |words: &[&str]| {
        let found: Vec<&str> = words.iter().copied().filter(|w| item.traits.contains(w)).collect();
        (!found.is_empty()).then(|| found.join(" · "))
    };
    let name = if item.decls == 1 { item.names[0].clone() } else { item.kind.count(item.elements) };
    let count = match (item.elements, item.decls) {
        (_, 2..) => Some(format!("{} … {}", shorten(&item.names[0], 13), shorten(&item.names[1], 13))),
        (1, _) => None,
        _ if item.owners > 1 && item.each[0] == item.each[1] && item.each[0] > 1 => {
            Some(format!("{} × {}", thousands(item.owners), item.kind.count(item.each[0])))
        }
        (n, _) => Some(item.kind.count(n)),
    };
    let lines = match item.kind {
        ItemKind::Vm => vec![count.unwrap_or_default(), joined(&[fact(0), fact(1), some(&["camera"])])],
        ItemKind::Lan => {
            let prefix = match (fact(0), &count) {
                (Some(prefix), _) => Some(prefix),
                (None, Some(count)) => {
                    Some(fact(1).map_or_else(|| count.clone(), |len| format!("{count}, {len} each")))
                }
                (None, None) => None,
            };
            vec![prefix.unwrap_or_default(), some(&["dhcp", "isolated", "vde"]).unwrap_or_default()]
        }
        ItemKind::Router => {
            let kind = fact(0).or_else(|| (item.elements > 1).then(|| "several kinds".to_owned()));
            let routes = joined(&[kind, some(&["ospf", "bgp"]), fact(1)]);
            vec![count.unwrap_or_default(), routes, some(&["firewall", "nat"]).unwrap_or_default()]
        }
        ItemKind::External => vec![fact(0).unwrap_or_default()],
    };
    let lines = lines.into_iter().filter(|l| !l.is_empty()).map(|l| shorten(&l, MOST_CHARS + 10)).collect();
    (shorten(&name, MOST_CHARS), lines)
}

/// What a pointer over an item shows.
pub(crate) fn item_tooltip(it: &Item) -> String {
    let [first, last] = &it.names;
    let mut text = if it.decls == 1 { first.clone() } else { format!("{first} … {last}") };
    text.push_str(&format!(": {}", it.kind.count(it.elements)));
    if it.decls > 1 {
        text.push_str(&format!(" in {} declarations", thousands(it.decls)));
    }
    let (_, lines) = item(it);
    for line in lines {
        text.push_str(&format!("\n{line}"));
    }
    if let (ItemKind::External, Some(on)) = (it.kind, it.facts[1].text()) {
        text.push_str(&format!("\n{on}"));
    }
    text
}

/// The title of a box around a module's parts.
pub(crate) fn cluster(it: &Cluster) -> (String, String) {
    let name = match (it.decls, &it.names) {
        (1, [name, _]) => shorten(name, MOST_CHARS),
        (_, [first, last]) => format!("{} … {}", shorten(first, 13), shorten(last, 13)),
    };
    let module = match it.instances {
        1 => it.module.clone(),
        n => format!("{} × {}", it.module, thousands(n)),
    };
    (name, module)
}

/// The lines of a link's label.
pub(crate) fn line(it: &Line) -> Vec<String> {
    let links = if it.count > 1 { Some(format!("{} links", thousands(it.count))) } else { None };
    let join = |parts: Vec<Option<String>>, by: &str| parts.into_iter().flatten().collect::<Vec<_>>().join(by);
    let own = |fact: &super::model::Fact| fact.text().map(|t| shorten(t, MOST_CHARS));
    let head = join(vec![own(&it.name), own(&it.shape), links], ", ");
    let says = join(it.says.iter().map(own).collect(), " · ");
    [head, says].into_iter().filter(|l| !l.is_empty()).collect()
}

/// `5ms`, `5ms ±1ms`.
pub(crate) fn delay(policy: &LinkPolicy) -> String {
    match (policy.delay, policy.jitter) {
        (0, 0) => String::new(),
        (delay, 0) => duration(delay),
        (delay, jitter) => format!("{} ±{}", duration(delay), duration(jitter)),
    }
}

fn duration(nanoseconds: u64) -> String {
    in_units(nanoseconds, &[("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1000), ("ns", 1)])
}

/// `10Mbit`
pub(crate) fn rate(bits: u64) -> String {
    in_units(bits, &[("Gbit", 1_000_000_000), ("Mbit", 1_000_000), ("kbit", 1000), ("bit", 1)])
}

/// `128MiB`
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, of)| bytes >= *of && bytes.is_multiple_of(*of)) {
        Some((unit, of)) => format!("{}{unit}", bytes / of),
        None => format!("{bytes}B"),
    }
}

/// The largest unit (a power of ten) that leaves at most one digit behind the point.
fn in_units(number: u64, units: &[(&str, u64)]) -> String {
    for (unit, of) in units {
        let tenth = (of / 10).max(1);
        if number >= *of && number.is_multiple_of(tenth) {
            let rest = number % of / tenth;
            return if rest == 0 { format!("{}{unit}", number / of) } else { format!("{}.{rest}{unit}", number / of) };
        }
    }
    number.to_string()
}

/// `0.2% loss`, from parts of a billion.
pub(crate) fn loss(parts: u64) -> String {
    if parts == 0 {
        return String::new();
    }
    let digits = format!("{:07}", parts % 10_000_000);
    let digits = digits.trim_end_matches('0');
    let point = if digits.is_empty() { "" } else { "." };
    format!("{}{point}{digits}% loss", parts / 10_000_000)
}
