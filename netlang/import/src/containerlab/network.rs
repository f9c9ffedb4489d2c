//! The network that is written: what of a topology the language can say.

use super::exec::Cidr;

/// A network file in the making.
#[derive(Debug, Default)]
pub(super) struct Network {
    pub(super) hosts: Vec<Host>,
    pub(super) lans: Vec<Lan>,
    pub(super) lines: Vec<Line>,
    pub(super) externals: Vec<External>,
    pub(super) images: Vec<Image>,
    /// Pools other than the usual ones, where those are taken.
    pub(super) pools: Vec<(&'static str, &'static str)>,
}

/// A VM or a router.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    /// Its place among the topology's nodes.
    pub(super) node: usize,
    /// The kind of a router; `None` for a VM.
    pub(super) router: Option<&'static str>,
    /// Its place among the images.
    pub(super) image: Option<usize>,
    pub(super) cpu: Option<u32>,
    /// In MiB.
    pub(super) memory: Option<u64>,
    pub(super) ports: Vec<Port>,
}

/// What a port is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    Lan(usize),
    External(usize),
}

/// An attachment to a lan or an external network.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) interface: String,
    pub(super) on: On,
    /// The address that the topology gives it.
    pub(super) address: Option<Cidr>,
    pub(super) line: usize,
    /// Host number; left to fleet when `None`.
    pub(super) at: Option<u32>,
}

/// A lan.
#[derive(Debug)]
pub(super) struct Lan {
    pub(super) name: String,
    pub(super) line: usize,
    pub(super) prefix: Option<Cidr>,
    /// The router that guests use, a place in [`Network::hosts`]; only where there is a choice.
    pub(super) gateway: Option<usize>,
    pub(super) mtu: Option<u32>,
}

/// A link between two routers.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) ends: [usize; 2],
    pub(super) name: Option<String>,
    pub(super) mtu: Option<u32>,
}

/// A network outside, on an interface of a host.
#[derive(Debug)]
pub(super) struct External {
    pub(super) name: String,
    pub(super) interface: String,
    pub(super) prefix: Cidr,
}

/// An image.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) file: String,
}

impl Network {
    /// Every name that the file declares, but for images.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let hosts = self.hosts.iter().map(|host| host.name.as_str());
        let lans = self.lans.iter().map(|lan| lan.name.as_str());
        let lines = self.lines.iter().filter_map(|line| line.name.as_deref());
        hosts.chain(lans).chain(lines).chain(self.externals.iter().map(|external| external.name.as_str()))
    }

    /// Ports on each lan, as places of host and port, in the order of the hosts.
    pub(super) fn members(&self) -> Vec<Vec<(usize, usize)>> {
        let mut members = vec![Vec::new(); self.lans.len()];
        for (host, row) in self.hosts.iter().enumerate() {
            for (port, on) in row.ports.iter().enumerate() {
                if let On::Lan(lan) = on.on {
                    members[lan].push((host, port)); // Ports are on lans of this network.
                }
            }
        }
        members
    }
}

/// Sets that grow together: which bridges are one lan, which lans routers join.
#[derive(Debug)]
pub(super) struct Sets {
    parents: Vec<usize>,
}

impl Sets {
    /// So many sets of one.
    pub(super) fn new(count: usize) -> Sets {
        Sets { parents: (0..count).collect() }
    }

    /// The number of the set that an element is in: its smallest element.
    pub(super) fn of(&mut self, element: usize) -> usize {
        let mut at = element;
        while self.parents[at] != at {
            self.parents[at] = self.parents[self.parents[at]];
            at = self.parents[at];
        }
        at
    }

    /// Makes one set of two; `false` if they were one.
    pub(super) fn join(&mut self, a: usize, b: usize) -> bool {
        let (a, b) = (self.of(a), self.of(b));
        let (low, high) = (a.min(b), a.max(b));
        self.parents[high] = low;
        low != high
    }
}
