//! Interfaces, addresses and routes of this guest, brought from what is to what is wanted.
//!
//! An interface is found by its MAC. On the wanted interfaces the IPv4 addresses are exactly those wanted; interfaces
//! that were wanted before and no longer are lose their addresses and go down; of the routes only those made here
//! are touched (they carry a protocol number of their own), so a routing daemon in the guest keeps its routes.

use std::net::Ipv4Addr;

use fleet_wire::{Address, MacAddress, Nic, Route};
use nix::errno::Errno;

use crate::netlink::{CREATE, Netlink, Request, attributes};

// Message types and attributes of linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_GATEWAY: u16 = 5;
const LINK_FIXED: usize = 16;
const ADDRESS_FIXED: usize = 8;
const ROUTE_FIXED: usize = 12;
const AF_INET: u8 = 2;
const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 1;
const RT_TABLE_MAIN: u8 = 254;
const RTN_UNICAST: u8 = 1;
/// Marks the routes made here; free for use by programs (those of the kernel and known daemons are below 200).
const RTPROT_FLEET: u8 = 0xf1;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    mac: Option<MacAddress>,
    mtu: u32,
    is_up: bool,
}

/// Brings the loopback interface up.
pub fn loopback_up() -> Result<(), String> {
    let change = || {
        let mut netlink = Netlink::open()?;
        set_up(&mut netlink, 1, true) // lo is the first interface of every network namespace
    };
    change().map_err(|errno: Errno| format!("bringing lo up: {errno}"))
}

/// Brings everything to what is wanted; `before` is what was wanted last. Gives a line for each failure.
pub fn apply(nics: &[Nic], routes: &[Route], before: &[Nic]) -> Vec<String> {
    let mut errors = Vec::new();
    match Netlink::open() {
        Ok(netlink) => Apply { netlink, errors: &mut errors }.run(nics, routes, before),
        Err(errno) => errors.push(format!("netlink: {errno}")),
    }
    errors
}

/// Gives interfaces other addresses: from, to. All are found before the first one is changed. Gives a line for each
/// failure.
pub fn change_macs(changes: &[(MacAddress, MacAddress)]) -> Vec<String> {
    let mut errors = Vec::new();
    match Netlink::open() {
        Ok(netlink) => Apply { netlink, errors: &mut errors }.change_macs(changes),
        Err(errno) => errors.push(format!("netlink: {errno}")),
    }
    errors
}

/// Brings all wired interfaces up, as they are: a driver fills its receive ring once, in the template, not in each of its
/// clones. Gives a line for each failure.
pub fn all_up() -> Vec<String> {
    let mut errors = Vec::new();
    match Netlink::open() {
        Ok(netlink) => Apply { netlink, errors: &mut errors }.all_up(),
        Err(errno) => errors.push(format!("netlink: {errno}")),
    }
    errors
}

struct Apply<'a> {
    netlink: Netlink,
    errors: &'a mut Vec<String>,
}

impl Apply<'_> {
    fn run(&mut self, nics: &[Nic], routes: &[Route], before: &[Nic]) {
        let gone = before.iter().filter(|old| !nics.iter().any(|nic| nic.mac == old.mac));
        for nic in gone {
            if let Some(link) = self.find(nic.mac) {
                self.set_addresses(&link, &[]);
                let done = set_up(&mut self.netlink, link.index, false);
                self.note(&link.name, "taking it down", done);
            }
        }
        for nic in nics {
            self.set_nic(nic);
        }
        self.set_routes(routes);
    }

    fn change_macs(&mut self, changes: &[(MacAddress, MacAddress)]) {
        let links = self.links();
        for (from, to) in changes {
            let Some(link) = links.iter().find(|link| link.mac == Some(*from)) else {
                self.errors.push(format!("no interface has the address {}", mac_text(*from)));
                continue;
            };
            let request = || link_request(link.index, 0, 0).attribute(IFLA_ADDRESS, to);
            let mut done = self.netlink.change(request());
            if done == Err(Errno::EBUSY) {
                // A driver that changes it only while the interface is down.
                done = set_up(&mut self.netlink, link.index, false).and_then(|()| self.netlink.change(request()));
            }
            self.note(&link.name, &format!("setting its address to {}", mac_text(*to)), done);
        }
    }

    fn all_up(&mut self) {
        for link in self.links().iter().filter(|link| link.mac.is_some() && !link.is_up) {
            let done = set_up(&mut self.netlink, link.index, true);
            self.note(&link.name, "bringing it up", done);
        }
    }

    fn note<T>(&mut self, subject: &str, action: &str, result: Result<T, Errno>) -> Option<T> {
        result.map_err(|errno| self.errors.push(format!("{subject}: {action}: {errno}"))).ok()
    }

    fn links(&mut self) -> Vec<Link> {
        let mut links = Vec::new();
        let request = Request::new(RTM_GETLINK, 0, &[0; LINK_FIXED]);
        let dumped = self.netlink.dump(request, &mut |body| links.extend(parse_link(body)));
        self.note("links", "listing", dumped);
        links
    }

    /// The first interface with this MAC: later ones are VLANs and bridges that inherited it.
    fn find(&mut self, mac: MacAddress) -> Option<Link> {
        self.links().into_iter().filter(|link| link.mac == Some(mac)).min_by_key(|link| link.index)
    }

    fn set_nic(&mut self, nic: &Nic) {
        let Some(mut link) = self.find(nic.mac) else {
            self.errors.push(format!("{}: no interface has the address {}", nic.name, mac_text(nic.mac)));
            return;
        };
        if link.name != nic.name {
            if let Some(other) = self.links().into_iter().find(|other| other.name == nic.name) {
                let name = format!("was{}", other.index);
                self.rename(&other, &name);
            }
            link.is_up &= !self.rename(&link, &nic.name);
        }
        if link.mtu != u32::from(nic.mtu) && nic.mtu != 0 {
            let request = link_request(link.index, 0, 0).attribute(IFLA_MTU, &u32::from(nic.mtu).to_ne_bytes());
            let done = self.netlink.change(request);
            self.note(&nic.name, "setting its MTU", done);
        }
        if !link.is_up {
            let done = set_up(&mut self.netlink, link.index, true);
            self.note(&nic.name, "bringing it up", done);
        }
        link.name.clone_from(&nic.name);
        self.set_addresses(&link, &nic.addresses);
    }

    /// Gives an interface another name; it is down then. Whether that worked.
    fn rename(&mut self, link: &Link, name: &str) -> bool {
        let down = if link.is_up { set_up(&mut self.netlink, link.index, false) } else { Ok(()) };
        let request = || link_request(link.index, 0, 0).attribute(IFLA_IFNAME, format!("{name}\0").as_bytes());
        let renamed = down.and_then(|()| self.netlink.change(request()));
        self.note(name, &format!("renaming {}", link.name), renamed).is_some()
    }

    fn set_addresses(&mut self, link: &Link, wanted: &[Address]) {
        for address in self.addresses(link.index).into_iter().filter(|address| !wanted.contains(address)) {
            let done = self.netlink.change(address_request(RTM_DELADDR, 0, link.index, address));
            self.note(&link.name, &format!("removing {}/{}", address.ip, address.prefix_len), done);
        }
        // Asked again: with an address the kernel may have removed others of its subnet.
        let there = self.addresses(link.index);
        for address in wanted.iter().filter(|address| !there.contains(address)) {
            let mut request = address_request(RTM_NEWADDR, CREATE, link.index, *address);
            if address.prefix_len < 31 {
                let broadcast = address.ip | !mask(address.prefix_len);
                request = request.attribute(IFA_BROADCAST, &broadcast.octets());
            }
            let done = self.netlink.change(request);
            self.note(&link.name, &format!("adding {}/{}", address.ip, address.prefix_len), done);
        }
    }

    fn addresses(&mut self, index: u32) -> Vec<Address> {
        let mut found = Vec::new();
        let request = Request::new(RTM_GETADDR, 0, &[AF_INET, 0, 0, 0, 0, 0, 0, 0]);
        let dumped = self.netlink.dump(request, &mut |body| {
            found.extend(parse_address(body).filter(|(of, _)| *of == index).map(|(_, address)| address));
        });
        self.note("addresses", "listing", dumped);
        found
    }

    fn set_routes(&mut self, wanted: &[Route]) {
        let wanted: Vec<Route> = wanted.iter().map(|route| Route { to: network(route.to), via: route.via }).collect();
        let mut there = Vec::new();
        let mut fixed = [0; ROUTE_FIXED];
        fixed[0] = AF_INET;
        let dumped =
            self.netlink.dump(Request::new(RTM_GETROUTE, 0, &fixed), &mut |body| there.extend(parse_route(body)));
        self.note("routes", "listing", dumped);
        for route in there.iter().filter(|route| !wanted.contains(route)) {
            let done = self.netlink.change(route_request(RTM_DELROUTE, 0, *route));
            self.note(&route_text(route), "removing", done);
        }
        for route in wanted.iter().filter(|route| !there.contains(route)) {
            let done = self.netlink.change(route_request(RTM_NEWROUTE, CREATE, *route));
            self.note(&route_text(route), "adding", done);
        }
    }
}

fn set_up(netlink: &mut Netlink, index: u32, up: bool) -> Result<(), Errno> {
    netlink.change(link_request(index, if up { IFF_UP } else { 0 }, IFF_UP))
}

/// `struct ifinfomsg`: family, type, index, flags, mask of flags to change.
fn link_request(index: u32, flags: u32, change: u32) -> Request {
    let mut fixed = [0; LINK_FIXED];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    Request::new(RTM_NEWLINK, 0, &fixed)
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
fn address_request(kind: u16, flags: u16, index: u32, address: Address) -> Request {
    let mut fixed = [AF_INET, address.prefix_len, 0, 0, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    Request::new(kind, flags, &fixed).attribute(IFA_LOCAL, &address.ip.octets())
}

/// `struct rtmsg`: family, lengths of destination and source, tos, table, protocol, scope, type, flags.
fn route_request(kind: u16, flags: u16, route: Route) -> Request {
    let fixed = [AF_INET, route.to.prefix_len, 0, 0, RT_TABLE_MAIN, RTPROT_FLEET, 0, RTN_UNICAST, 0, 0, 0, 0];
    let request = Request::new(kind, flags, &fixed).attribute(RTA_GATEWAY, &route.via.octets());
    if route.to.prefix_len == 0 { request } else { request.attribute(RTA_DST, &route.to.ip.octets()) }
}

fn parse_link(body: &[u8]) -> Option<Link> {
    let number = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
    let kind = u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?);
    let mut link = Link { index: number(4)?, name: String::new(), mac: None, mtu: 0, is_up: number(8)? & IFF_UP != 0 };
    for (attribute, value) in attributes(body, LINK_FIXED) {
        match attribute {
            IFLA_IFNAME => link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
            IFLA_ADDRESS if kind == ARPHRD_ETHER => link.mac = value.try_into().ok(),
            IFLA_MTU => link.mtu = u32::from_ne_bytes(value.try_into().ok()?),
            _ => {}
        }
    }
    Some(link)
}

fn parse_address(body: &[u8]) -> Option<(u32, Address)> {
    let index = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
    let (_, ip) = attributes(body, ADDRESS_FIXED).find(|(attribute, _)| *attribute == IFA_LOCAL)?;
    Some((index, Address { ip: ipv4(ip)?, prefix_len: *body.get(1)? }))
}

/// A route of the main table that was made here.
fn parse_route(body: &[u8]) -> Option<Route> {
    let (prefix_len, table, protocol) = (*body.get(1)?, *body.get(4)?, *body.get(5)?);
    let value =
        |wanted| attributes(body, ROUTE_FIXED).find(|(attribute, _)| *attribute == wanted).map(|(_, value)| value);
    let ip = value(RTA_DST).map_or(Some(Ipv4Addr::UNSPECIFIED), ipv4)?;
    let route = Route { to: Address { ip, prefix_len }, via: ipv4(value(RTA_GATEWAY)?)? };
    (table == RT_TABLE_MAIN && protocol == RTPROT_FLEET).then_some(route)
}

fn ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

fn mask(prefix_len: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32_u32.saturating_sub(prefix_len.into())).unwrap_or(0))
}

fn network(address: Address) -> Address {
    Address { ip: address.ip & mask(address.prefix_len), prefix_len: address.prefix_len }
}

fn mac_text(mac: MacAddress) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn route_text(route: &Route) -> String {
    format!("route {}/{} via {}", route.to.ip, route.to.prefix_len, route.via)
}

#[cfg(test)]
mod tests;
