//! Names of namespaces and devices, derived from the experiment's own names so that every run finds the same ones.
//!
//! * A namespace is a file `<prefix>-<experiment>` (the switch, which holds bridges and taps) or
//!   `<prefix>-<experiment>-r-<router>`. A name that a file cannot have, that is long, or that would make the two forms
//!   ambiguous is shortened and ends in `~` and a hash; `~` never occurs in an unshortened name, so the two kinds do
//!   not meet. The full name is kept as the alias of the namespace's `lo`.
//! * A device's name has at most 15 bytes, less than many port ids, so it is three letters that tell the kind and 60
//!   bits of the id's SHA-256. The id itself is the device's alias, which `ip link` shows.

use sha2::{Digest, Sha256};

use crate::spec::Mac;

/// Between an experiment and a router in a namespace's name.
const ROUTER_MARK: &str = "-r-";
/// Longest part of a namespace's name that stays as it is.
const LONGEST_PART: usize = 64;
/// How much of a longer part is kept before the hash.
const KEPT_OF_LONG: usize = 40;
/// RFC 4648 alphabet in lower case.
const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Twelve base-32 digits are 60 bits: with a million ports, two names meet with a chance below one in a million.
const HASH_DIGITS: usize = 12;

/// The device of a VM's port.
pub(crate) fn tap_name(port_id: &str) -> String {
    format!("tap{}", hash_text(port_id, HASH_DIGITS))
}

/// The device of a segment.
pub(crate) fn bridge_name(segment: &str) -> String {
    format!("br-{}", hash_text(segment, HASH_DIGITS))
}

/// The bridge's end of the cable to a router's port.
pub(crate) fn router_port_name(port_id: &str) -> String {
    format!("rp-{}", hash_text(port_id, HASH_DIGITS))
}

/// The tunnel that joins a segment to other hosts.
pub(crate) fn tunnel_name(segment: &str) -> String {
    format!("vx-{}", hash_text(segment, HASH_DIGITS))
}

/// A locally administered unicast address for a segment's bridge. A fixed one saves the kernel from choosing the
/// lowest among the ports anew with every port.
pub(crate) fn bridge_mac(experiment: &str, segment: &str) -> Mac {
    let hash = Sha256::digest(format!("{experiment}\0{segment}"));
    [0xfe, hash[0], hash[1], hash[2], hash[3], hash[4]]
}

/// The file name of the experiment's switch namespace.
pub(crate) fn switch_file(prefix: &str, experiment: &str) -> String {
    format!("{prefix}-{}", file_part(experiment))
}

/// The file name of a router's namespace.
pub(crate) fn router_file(prefix: &str, experiment: &str, router: &str) -> String {
    format!("{}{ROUTER_MARK}{}", switch_file(prefix, experiment), file_part(router))
}

/// What the name of a namespace file says: the experiment's and the router's part, as [`file_part`] wrote them.
pub(crate) fn parse_file<'a>(prefix: &str, file: &'a str) -> Option<(&'a str, Option<&'a str>)> {
    let rest = file.strip_prefix(prefix)?.strip_prefix('-')?;
    Some(match rest.split_once(ROUTER_MARK) {
        Some((experiment, router)) => (experiment, Some(router)),
        None => (rest, None),
    })
}

/// A name as a part of a file name.
pub(crate) fn file_part(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    // With the mark behind it, the name must hold the mark nowhere earlier: "a-r" + "-r-" would end too soon.
    let unambiguous = format!("{name}{ROUTER_MARK}").find(ROUTER_MARK) == Some(name.len());
    if !name.is_empty() && name.len() <= LONGEST_PART && name.chars().all(plain) && unambiguous {
        return name.to_owned();
    }
    let kept: String = name.chars().take(KEPT_OF_LONG).map(|c| if plain(c) && c != '-' { c } else { '_' }).collect();
    format!("{kept}~{}", hash_text(name, HASH_DIGITS))
}

/// Whether `prefix` may begin the names of namespaces. It has no dash, so that one prefix never begins another.
pub(crate) fn valid_prefix(prefix: &str) -> bool {
    (1..=16).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn hash_text(text: &str, digits: usize) -> String {
    let hash = Sha256::digest(text);
    // One byte a digit: five of its bits are used, 32 bytes are more digits than anybody asks for.
    hash.iter().take(digits).map(|byte| char::from(BASE32[usize::from(byte & 31)])).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn device_names_fit_the_kernel_and_differ() {
        let names: std::collections::BTreeSet<_> = (0..10_000).map(|i| tap_name(&format!("web[{i}]/eth0"))).collect();
        assert_eq!(names.len(), 10_000);
        assert!(names.iter().all(|name| name.len() == 15));
    }

    #[test]
    fn names_of_namespaces_are_read_back() {
        for experiment in ["hello", "a-r", "a-r-b", "übung 1", "../x", "", ".", &"long".repeat(30)] {
            for router in [None, Some("core"), Some("r-b"), Some("a/b"), Some("-r-")] {
                let file = match router {
                    None => switch_file("fleet", experiment),
                    Some(router) => router_file("fleet", experiment, router),
                };
                assert!(!file.contains('/') && file.len() < 200, "{file}");
                let parsed = parse_file("fleet", &file).unwrap();
                assert_eq!(parsed, (file_part(experiment).as_str(), router.map(file_part).as_deref()), "{file}");
            }
        }
    }

    #[test]
    fn different_names_have_different_files() {
        let names = ["a b", "a_b", "a.b", "a/b", "a-r-b", "a_r_b"];
        let files: std::collections::BTreeSet<_> = names.iter().map(|name| file_part(name)).collect();
        assert_eq!(files.len(), names.len());
        assert!(router_file("fleet", "a", "r-b") != router_file("fleet", "a-r", "b"));
        assert!(parse_file("fleet", "fleets-a").is_none());
    }

    #[test]
    fn a_bridge_has_a_local_unicast_address() {
        let mac = bridge_mac("hello", "lan0");
        assert_eq!(mac[0] & 3, 2);
        assert_ne!(mac, bridge_mac("hello", "lan1"));
    }
}
