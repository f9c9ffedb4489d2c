//! The tables themselves.

use super::experiment::EXPERIMENT;
use super::{Arg, Keyword, Kind, Opt, Property, Ready, Ty};

pub(super) const fn arg(name: &'static str, ty: Ty) -> Arg {
    Arg { name, ty, optional: false, many: false }
}

const fn maybe(name: &'static str, ty: Ty) -> Arg {
    Arg { name, ty, optional: true, many: false }
}

const fn many(name: &'static str, ty: Ty) -> Arg {
    Arg { name, ty, optional: false, many: true }
}

pub(super) const fn opt(word: &'static str, args: &'static [Arg]) -> Opt {
    Opt { word, args }
}

pub(super) const fn prop(word: &'static str, args: &'static [Arg], doc: &'static str) -> Property {
    Property { word, args, options: &[], block: &[], inline: false, repeat: false, ready: Ready::Yes, doc }
}

impl Property {
    pub(super) const fn with(mut self, options: &'static [Opt]) -> Property {
        self.options = options;
        self
    }

    pub(super) const fn many(mut self) -> Property {
        self.repeat = true;
        self
    }

    const fn block(mut self, block: &'static [Property]) -> Property {
        self.block = block;
        self
    }

    pub(super) const fn inline(mut self, block: &'static [Property]) -> Property {
        self.block = block;
        self.inline = true;
        self
    }

    const fn later(mut self) -> Property {
        self.ready = Ready::NotYet;
        self
    }
}

const fn word(word: &'static str, usage: &'static str, block: &'static [Property], doc: &'static str) -> Keyword {
    Keyword { word, usage, block, in_module: true, ready: Ready::Yes, doc }
}

impl Keyword {
    const fn file_only(mut self) -> Keyword {
        self.in_module = false;
        self
    }

    const fn later(mut self) -> Keyword {
        self.ready = Ready::NotYet;
        self
    }
}

const ON_OFF: Ty = Ty::Choice(&["on", "off"]);
const LAN: Ty = Ty::Name(&[Kind::Lan]);
const ROUTER: Ty = Ty::Name(&[Kind::Router]);

pub(super) const COUNT: Ty = Ty::Int(1, 1 << 24);
/// No guest runs with a hundredth of its memory.
const MAX_OVERCOMMIT: i64 = 100;
const PORT: Ty = Ty::Int(1, 65_535);
const PROTOCOL: Ty = Ty::Choice(&["tcp", "udp", "icmp"]);

/// Which hosts.
const HOSTS: &[Opt] = &[opt("rack", &[arg("rack", Ty::Text)]), opt("tag", &[arg("tag", Ty::Text)])];

const VM: &[Property] = &[
    prop("on", &[arg("lan", LAN)], "attach to a lan; each `on` is one NIC, eth0 first")
        .with(&[opt("at", &[arg("number", Ty::HostNumber)]), opt("dhcp", &[])])
        .many(),
    prop("image", &[arg("image", Ty::Image)], "what to boot"),
    prop("cpu", &[arg("count", Ty::Int(1, 256))], "virtual processors"),
    prop("mem", &[arg("size", Ty::Size)], "memory"),
    prop(
        "overcommit",
        &[arg("factor", Ty::Int(1, MAX_OVERCOMMIT))],
        "how many times a host's memory may be promised: this VM counts for `mem` divided by it",
    ),
    prop(
        "restart",
        &[arg("when", Ty::Choice(&["never", "boot", "failed", "always"]))],
        "when the VM is started again: if it does not come up (boot), also if it fails later, or whenever it ends",
    )
    .with(&[opt("times", &[arg("count", Ty::Int(1, 1000))])]),
    prop(
        "hypervisor",
        &[arg("kind", Ty::Choice(&["uml", "qemu"]))],
        "what runs the VM; the host decides when left out",
    ),
    prop("ksm", &[arg("mode", Ty::Choice(&["on", "off", "aggressive"]))], "merging of equal memory pages"),
    prop("console", &[arg("mode", ON_OFF)], "whether the console is kept").later(),
    prop("needs", &[arg("device", Ty::Choice(&["camera"]))], "a device that must be lent to the VM"),
    prop("apart", &[], "no two of the group on one host"),
    prop("together", &[], "all of the group on one host"),
    prop("place", &[], "where the VM may run").with(HOSTS),
];

const LAN_BLOCK: &[Property] = &[
    prop("gateway", &[arg("router", ROUTER)], "the router that guests use; needed when several are on the lan"),
    prop("mtu", &[arg("bytes", Ty::Int(576, 65_535))], "largest packet; 1450 leaves room for vxlan between hosts"),
    prop("isolate", &[], "members reach the gateway only").later(),
    prop("dhcp", &[arg("numbers", Ty::Range)], "lend these host numbers")
        .with(&[opt("lease", &[arg("time", Ty::Duration)])])
        .later(),
    prop("switch", &[arg("kind", Ty::Choice(&["bridge", "vde"]))], "what carries the frames").later(),
    prop("learn", &[arg("mode", ON_OFF)], "MAC learning").later(),
    prop("arp", &[arg("mode", Ty::Choice(&["suppress", "flood"]))], "who answers ARP").later(),
    prop("storm", &[arg("rate", Ty::PacketRate)], "limit of broadcast frames").later(),
];

const OSPF: &[Property] = &[
    prop(
        "area",
        &[arg("number", Ty::Int(0, u32::MAX as i64))],
        "the area of all interfaces, or of some: `area 1 on lab`",
    )
    .with(&[opt("on", &[many("network", Ty::Name(&[Kind::Lan, Kind::Link]))])])
    .many(),
    prop("passive", &[many("lan", LAN)], "announce, but do not speak there"),
    prop("originate", &[arg("what", Ty::Choice(&["default"]))], "announce a default route"),
    prop("hello", &[arg("time", Ty::Duration)], "hello interval"),
    prop("dead", &[arg("time", Ty::Duration)], "dead interval; four times hello when left out"),
];

const BGP: &[Property] = &[
    prop("asn", &[arg("number", Ty::Int(1, u32::MAX as i64))], "autonomous system number"),
    prop("originate", &[many("prefix", Ty::Prefix)], "prefixes to announce"),
];

const RULE: &[Arg] = &[maybe("protocol", PROTOCOL), Arg { name: "port", ty: Ty::Ports, optional: true, many: true }];
const RULE_ENDS: &[Opt] = &[opt("from", &[arg("where", Ty::Target)]), opt("to", &[arg("where", Ty::Target)])];

const FIREWALL: &[Property] = &[
    prop("default", &[arg("verdict", Ty::Choice(&["drop", "accept"]))], "what no rule matched; drop when left out"),
    prop("allow", RULE, "let through").with(RULE_ENDS).many(),
    prop("deny", RULE, "drop").with(RULE_ENDS).many(),
];

const NETWORK: Ty = Ty::Name(&[Kind::Lan, Kind::External]);
const EXTERNAL: Ty = Ty::Name(&[Kind::External]);
const NAT: &[Arg] = &[
    arg("how", Ty::Choice(&["masquerade", "forward"])),
    maybe("protocol", Ty::Choice(&["tcp", "udp"])),
    maybe("port", PORT),
];

const ROUTER_BLOCK: &[Property] = &[
    prop("on", &[arg("lan", NETWORK)], "attach to a lan or an external network")
        .with(&[opt("at", &[arg("number", Ty::HostNumber)]), opt("gateway", &[arg("number", Ty::HostNumber)])])
        .many(),
    prop(
        "kind",
        &[arg("kind", Ty::Choice(&["linux", "frr", "bird", "vm"]))],
        "what routes: linux, with static routes, unless it speaks ospf or bgp: then frr",
    ),
    prop("hello", &[arg("time", Ty::Duration)], "hello interval of routing protocols").later(),
    prop("ospf", &[], "speak OSPF").block(OSPF).later(),
    prop("bgp", &[], "speak BGP").block(BGP).later(),
    prop("firewall", &[], "filter what is forwarded").block(FIREWALL).later(),
    prop("nat", NAT, "translate addresses: `masquerade out NET`, `forward tcp PORT on NET to VM PORT`")
        .with(&[
            opt("out", &[arg("net", EXTERNAL)]),
            opt("on", &[arg("net", EXTERNAL)]),
            opt("to", &[arg("vm", Ty::Target), maybe("port", PORT)]),
        ])
        .many()
        .later(),
];

const LINK_BLOCK: &[Property] = &[
    prop("delay", &[arg("time", Ty::Duration)], "one-way delay")
        .with(&[opt("jitter", &[arg("time", Ty::Duration)])])
        .later(),
    prop("rate", &[arg("rate", Ty::Rate)], "rate limit each way").later(),
    prop("loss", &[arg("ratio", Ty::Ratio)], "share of packets lost").later(),
    prop("cost", &[arg("cost", Ty::Int(1, 65_535))], "what a route over it costs; 10 when left out"),
    prop("mtu", &[arg("bytes", Ty::Int(576, 65_535))], "largest packet"),
];

const IMAGE_BLOCK: &[Property] = &[prop("sha256", &[arg("digest", Ty::Text)], "what the file must hash to")];

const EXTERNAL_BLOCK: &[Property] = &[
    prop("host", &[arg("host", Ty::Text)], "the host that has the interface"),
    prop("interface", &[arg("interface", Ty::Text)], "the host's interface"),
    prop("net", &[arg("prefix", Ty::Prefix)], "the prefix on it"),
];

const PLACE_BLOCK: &[Property] = &[
    prop("hosts", &[], "which hosts").with(HOSTS),
    prop("together", &[], "on as few hosts as fit"),
    prop("apart", &[], "no two on one host"),
    prop("per", &[arg("what", Ty::Choice(&["host"])), arg("count", COUNT)], "at most so many on one host"),
];

const OF: Ty = Ty::Word("of");
const VMS: Ty = Ty::Things(&[Kind::Vm, Kind::Instance]);
const SAMPLE: &[Arg] = &[arg("few", COUNT), arg("of", OF), arg("many", COUNT), arg("of", OF), arg("vms", VMS)];

const TELEMETRY_BLOCK: &[Property] = &[
    prop("every", &[arg("time", Ty::Duration)], "the period of samples"),
    prop("collect", &[many("what", Ty::Choice(&["cpu", "mem", "net", "ksm"]))], "what is sampled"),
    prop("pcap", &[arg("links", Ty::Things(&[Kind::Link]))], "capture a link's packets")
        .with(&[opt("max", &[arg("rate", Ty::Rate)])])
        .many(),
    prop("sample", SAMPLE, "sample a few of many, more often")
        .with(&[opt("every", &[arg("time", Ty::Duration)])])
        .many(),
    prop("console", &[arg("vms", VMS)], "keep consoles").many(),
    prop("routes", &[arg("routers", Ty::Things(&[Kind::Router, Kind::Instance]))], "keep routing tables").many(),
];

/// Every keyword, in the order in which they are documented.
pub const KEYWORDS: &[Keyword] = &[
    word("language", "language 1", &[], "the version of the language that the file is written in").file_only(),
    word("lan", "lan NAME [= PREFIX] { … }", LAN_BLOCK, "an L2 network"),
    word("vm", "vm NAME { on LAN … }", VM, "a virtual machine, or a group: `vm web[0..300]`"),
    word("router", "router NAME [KIND] { on LAN … }", ROUTER_BLOCK, "a router between lans"),
    word(
        "link",
        "link A -- B | mesh SET | each SET -- K of SET  [as NAME] { … }",
        LINK_BLOCK,
        "lines between routers: `--` peers, `->` buys transit from the right",
    ),
    word("image", "image NAME \"FILE\" { … }", IMAGE_BLOCK, "binds a name to a file of the image store").file_only(),
    word("default", "default vm|lan|router|link { … }", &[], "properties that all of a kind have").file_only(),
    word("pool", "pool lan|link PREFIX [each /LEN]", &[], "where addresses are taken from").file_only(),
    word("let", "let NAME = VALUE", &[], "a named value"),
    word(
        "check",
        "check VMS reaches|cannot reach TARGET [tcp|udp PORT] [without LINK], check diameter <= N",
        &[],
        "what must be true of the network; proved on the plan and with packets",
    ),
    word("module", "module NAME { … }", &[], "a part of a network, to be used many times").file_only(),
    word("param", "param NAME TYPE [= VALUE] [max VALUE]", &[], "a parameter of a module"),
    word("external", "external NAME { … }", EXTERNAL_BLOCK, "a network outside, on a host's interface")
        .file_only()
        .later(),
    word("place", "place TARGET { … } | place together|apart", PLACE_BLOCK, "which hosts run what"),
    word("telemetry", "telemetry { … }", TELEMETRY_BLOCK, "what is measured").file_only().later(),
    word("experiment", "experiment NAME { … }", EXPERIMENT, "what happens when").file_only().later(),
];
