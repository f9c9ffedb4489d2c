//! What the commands of `exec` say about a node's network: addresses, next hops, forwarding.
//!
//! Only the usual forms are understood (`ip addr add A/B dev X`, `ip route add … via A`, `ifconfig`, `sysctl`), also
//! within `sh -c "…; …"`. Everything else is counted as left out.

use std::net::Ipv4Addr;

/// Next hops that are kept of a node; the first of them tell who its gateway is.
const MOST_HOPS: usize = 64;

/// An address with the length of its prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cidr {
    pub(super) ip: Ipv4Addr,
    pub(super) len: u8,
}

impl Cidr {
    /// Reads `10.0.0.1/24`.
    pub(super) fn parse(text: &str) -> Option<Cidr> {
        let (ip, len) = text.split_once('/')?;
        let len = len.parse().ok().filter(|len| *len <= 32)?;
        Some(Cidr { ip: ip.parse().ok()?, len })
    }

    /// The prefix that it is in.
    pub(super) fn prefix(self) -> Cidr {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
        Cidr { ip: Ipv4Addr::from(u32::from(self.ip) & mask), len: self.len }
    }

    /// First and last address of the prefix.
    pub(super) fn bounds(self) -> (u32, u32) {
        let first = u32::from(self.prefix().ip);
        (first, first | u32::MAX.checked_shr(u32::from(self.len)).unwrap_or(0))
    }

    /// Whether an address is in the prefix.
    pub(super) fn contains(self, ip: Ipv4Addr) -> bool {
        let (first, last) = self.bounds();
        (first..=last).contains(&u32::from(ip))
    }

    /// How far its address is from the first one of its prefix.
    pub(super) fn host(self) -> u32 {
        u32::from(self.ip) - self.bounds().0
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ip, self.len)
    }
}

/// An address of an interface.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) interface: String,
    pub(super) address: Cidr,
    pub(super) line: usize,
}

/// What commands say.
#[derive(Debug, Default)]
pub(super) struct Setup {
    pub(super) addresses: Vec<Given>,
    /// Next hops, that of the default route first.
    pub(super) hops: Vec<Ipv4Addr>,
    /// Whether the node is told to forward packets.
    pub(super) forwards: bool,
    /// Line of the first route.
    pub(super) routes: Option<usize>,
    /// Line of the first IPv6 address or route.
    pub(super) ipv6: Option<usize>,
    /// Line of the first command that was not understood.
    pub(super) left: Option<usize>,
}

impl Setup {
    /// Reads a line of `exec`.
    pub(super) fn read(&mut self, text: &str, line: usize) {
        let text = text.replace(['"', '\'', '`', '(', ')', '{', '}'], " ").replace("&&", ";").replace("||", ";");
        for command in text.split([';', '\n', '|', '&']) {
            let wraps = |word: &&str| {
                matches!(program(word), "sh" | "ash" | "bash" | "sudo") || matches!(*word, "-c" | "-lc" | "-ec")
            };
            let words: Vec<&str> = command.split_whitespace().skip_while(wraps).collect();
            if !words.is_empty() && self.command(&words, line).is_none() {
                self.left.get_or_insert(line);
            }
        }
    }

    /// Takes in one command; `None` if it is not understood.
    fn command(&mut self, words: &[&str], line: usize) -> Option<()> {
        let (name, args) = words.split_first()?;
        match program(name) {
            "ip" => self.ip(args, line),
            "ifconfig" => self.ifconfig(args, line),
            "route" => self.route(args, line),
            "sysctl" => self.sysctl(args),
            "echo" if args.iter().any(|arg| arg.contains("ipv4/ip_forward")) => {
                self.forwards |= args.first() == Some(&"1");
                Some(())
            }
            _ => None,
        }
    }

    fn sysctl(&mut self, args: &[&str]) -> Option<()> {
        let text = args.join("").replace("-w", "").replace('/', ".");
        let (key, value) = text.split_once('=')?;
        match key {
            "net.ipv4.ip_forward" | "net.ipv4.conf.all.forwarding" => {
                self.forwards |= value == "1";
                Some(())
            }
            _ => None,
        }
    }

    fn ip(&mut self, args: &[&str], line: usize) -> Option<()> {
        let six = args.contains(&"-6");
        let mut args = args.iter().copied().skip_while(|arg| arg.starts_with('-'));
        let (object, verb) = (args.next()?, args.next()?);
        let args: Vec<&str> = args.collect();
        let adds = matches!(verb, "a" | "ad" | "add" | "append" | "change" | "replace" | "r" | "re");
        let after = |word: &str| args.iter().position(|arg| *arg == word).and_then(|at| args.get(at + 1)).copied();
        if is_short_for(object, "address") && adds {
            if six || args.iter().any(|arg| arg.contains(':') && arg.contains('/')) {
                self.ipv6.get_or_insert(line);
                return Some(());
            }
            let address = args
                .iter()
                .find_map(|arg| Cidr::parse(arg))
                .or_else(|| args.iter().find_map(|arg| arg.parse().ok()).map(|ip| Cidr { ip, len: 32 }))?;
            self.give(after("dev")?, address, line);
            return Some(());
        }
        if is_short_for(object, "route") {
            if six || args.iter().any(|arg| arg.contains(':')) {
                self.ipv6.get_or_insert(line);
                return Some(());
            }
            let hop = after("via").and_then(|hop| hop.parse().ok());
            self.hop(hop.filter(|_| adds), args.first() == Some(&"default"), line);
            return Some(());
        }
        // The agent sets interfaces up by itself.
        (is_short_for(object, "link") && is_short_for(verb, "set") && args.contains(&"up") && args.len() <= 3)
            .then_some(())
    }

    fn ifconfig(&mut self, args: &[&str], line: usize) -> Option<()> {
        let (interface, args) = args.split_first()?;
        if args == ["up"] {
            return Some(());
        }
        let address = args.first()?;
        let mask = args.iter().position(|arg| *arg == "netmask").and_then(|at| args.get(at + 1));
        let cidr = match mask.and_then(|mask| mask.parse::<Ipv4Addr>().ok()).map(u32::from) {
            Some(mask) if mask.leading_ones() + mask.trailing_zeros() >= 32 => {
                Cidr { ip: address.parse().ok()?, len: mask.leading_ones() as u8 }
            }
            _ => Cidr::parse(address)?,
        };
        self.give(interface, cidr, line);
        Some(())
    }

    fn route(&mut self, args: &[&str], line: usize) -> Option<()> {
        if args.first() != Some(&"add") {
            return None;
        }
        let hop = args.iter().position(|arg| *arg == "gw").and_then(|at| args.get(at + 1))?;
        self.hop(hop.parse().ok(), args.contains(&"default"), line);
        Some(())
    }

    fn give(&mut self, interface: &str, address: Cidr, line: usize) {
        self.addresses.push(Given { interface: interface.to_owned(), address, line });
    }

    fn hop(&mut self, hop: Option<Ipv4Addr>, default: bool, line: usize) {
        self.routes.get_or_insert(line);
        let Some(hop) = hop.filter(|_| self.hops.len() < MOST_HOPS) else { return };
        if default { self.hops.insert(0, hop) } else { self.hops.push(hop) }
    }
}

/// The name of a program without its folder.
fn program(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// `ip` takes the beginnings of its words.
fn is_short_for(word: &str, whole: &str) -> bool {
    !word.is_empty() && whole.starts_with(word)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(lines: &[&str]) -> Setup {
        let mut setup = Setup::default();
        for (at, line) in lines.iter().enumerate() {
            setup.read(line, at + 1);
        }
        setup
    }

    #[test]
    fn addresses_are_read_in_all_their_usual_forms() {
        let setup = read(&[
            "ip addr add 10.0.0.1/24 dev eth1",
            "ip -4 address replace dev eth2 10.0.1.1/16 brd +",
            "sh -c \"ip a add 10.0.2.1/24 dev eth3 && ip link set eth3 up; ip r add default via 10.0.2.254\"",
            "/sbin/ifconfig eth4 10.0.3.1 netmask 255.255.255.0 up",
            "ip addr add 10.9.9.9 dev lo",
        ]);
        let found: Vec<String> = setup.addresses.iter().map(|g| format!("{} {}", g.interface, g.address)).collect();
        assert_eq!(
            found,
            ["eth1 10.0.0.1/24", "eth2 10.0.1.1/16", "eth3 10.0.2.1/24", "eth4 10.0.3.1/24", "lo 10.9.9.9/32"]
        );
        assert_eq!(setup.hops, [Ipv4Addr::new(10, 0, 2, 254)]);
        assert_eq!((setup.routes, setup.left), (Some(3), None));
    }

    #[test]
    fn what_is_not_understood_is_counted() {
        let setup = read(&[
            "ip -6 addr add 2001:db8::1/64 dev eth1",
            "ip link add bond0 type bond",
            "sysctl -w net.ipv4.ip_forward=1",
            "touch /tmp/x; ip addr add nonsense dev eth1",
            "",
        ]);
        assert!(setup.addresses.is_empty() && setup.forwards);
        assert_eq!((setup.ipv6, setup.left), (Some(1), Some(2)));
    }

    #[test]
    fn prefixes_are_worked_out_at_both_ends_of_their_lengths() {
        assert_eq!(Cidr::parse("10.0.3.7/22").unwrap().prefix().to_string(), "10.0.0.0/22");
        assert_eq!(Cidr::parse("10.0.3.7/22").unwrap().host(), 775);
        assert_eq!(Cidr::parse("1.2.3.4/0").unwrap().bounds(), (0, u32::MAX));
        assert_eq!(Cidr::parse("1.2.3.4/32").unwrap().host(), 0);
        assert_eq!(Cidr::parse("1.2.3.4/33"), None);
    }
}
