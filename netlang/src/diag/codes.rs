//! The codes of diagnostics. A code keeps its meaning for ever; each has a page in `docs/errors`.

macro_rules! codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal;)*) => {
        $($(#[doc = $doc])* pub const $name: &str = $code;)*
        /// Every code with its page.
        pub(crate) const PAGES: &[(&str, &str)] =
            &[$(($code, include_str!(concat!("../../../docs/errors/", $code, ".md"))),)*];
    };
}

codes! {
    /// A character or word that the language does not have.
    STRAY = "E0001";
    /// A text without its closing quote.
    OPEN_TEXT = "E0002";
    /// A number, unit or address that cannot be read.
    BAD_NUMBER = "E0003";
    /// A bracket or block without its end.
    UNCLOSED = "E0004";
    /// A closing brace without its block.
    UNMATCHED = "E0005";
    /// A word where another was expected.
    UNEXPECTED = "E0006";
    /// Too deep or too long to be meant.
    TOO_DEEP = "E0007";
    /// A language version that this fleet does not know.
    VERSION = "E0008";
    /// Part of the language, not of this version of fleet.
    NOT_YET = "E0099";
    /// A keyword or property that does not exist.
    UNKNOWN_WORD = "E0101";
    /// A name that nothing was given.
    UNKNOWN_NAME = "E0102";
    /// A name that was given twice.
    DUPLICATE = "E0103";
    /// A name of the wrong kind.
    WRONG_KIND = "E0104";
    /// An index that is missing, superfluous or out of range.
    BAD_INDEX = "E0105";
    /// Something required is missing.
    MISSING = "E0106";
    /// A property that was given twice.
    REPEATED = "E0107";
    /// A statement about nothing.
    NOTHING = "E0108";
    /// Values or modules that need themselves.
    CYCLE = "E0109";
    /// The words after a keyword do not fit.
    BAD_WORDS = "E0201";
    /// Operands that do not go together.
    BAD_OPERANDS = "E0202";
    /// A value outside of its bounds.
    OUT_OF_BOUNDS = "E0203";
    /// Not one of the words that are possible.
    NOT_A_CHOICE = "E0204";
    /// A value of the wrong type or unit.
    WRONG_TYPE = "E0205";
    /// A range that is empty or reversed.
    BAD_RANGE = "E0206";
    /// Overlapping prefixes.
    OVERLAP = "E0301";
    /// Two ends with one address.
    DUPLICATE_ADDRESS = "E0302";
    /// A host number outside of the prefix.
    OUTSIDE_PREFIX = "E0303";
    /// A group larger than its lan.
    TOO_LARGE_FOR_LAN = "E0304";
    /// A pool without room.
    POOL_EMPTY = "E0305";
    /// A lan that outgrew the prefix the lock holds for it.
    CANNOT_GROW = "E0306";
    /// A prefix that cannot be.
    BAD_PREFIX = "E0307";
    /// A DHCP range that cannot be.
    BAD_DHCP_RANGE = "E0308";
    /// A host number on the wrong side of a DHCP range.
    DHCP_NUMBER = "E0309";
    /// A NIC that asks for its address where nobody lends any.
    NO_DHCP = "E0310";
    /// A DHCP range without a router that serves it.
    NO_DHCP_SERVER = "E0311";
    /// A link that cannot be.
    BAD_LINK = "E0401";
    /// Fewer routers than each is to be linked to.
    TOO_FEW_PEERS = "E0402";
    /// Packets larger than a vxlan can carry.
    MTU_TOO_LARGE = "E0403";
    /// Two external networks on one wire.
    SHARED_WIRE = "E0404";
    /// More ports than a bridge has.
    BRIDGE_PORTS = "E0407";
    /// Several routers, no word on which is the gateway.
    AMBIGUOUS_GATEWAY = "E0501";
    /// A gateway that is not on the lan.
    GATEWAY_ELSEWHERE = "E0502";
    /// A gateway on an external network that cannot be.
    BAD_UPLINK = "E0503";
    /// Two default gateways on a router.
    TWO_UPLINKS = "E0504";
    /// A kind of router that cannot do what is asked.
    KIND_CANNOT = "E0505";
    /// OSPF neighbours in different areas.
    OSPF_AREAS = "E0506";
    /// OSPF neighbours with different timers.
    OSPF_TIMERS = "E0507";
    /// An OSPF area that is not attached to the backbone.
    OSPF_BACKBONE = "E0508";
    /// OSPF on what the router is not on.
    OSPF_ELSEWHERE = "E0509";
    /// Networks that buy transit from one another in a circle.
    TRANSIT_CYCLE = "E0510";
    /// Translation on an external network that the router is not on.
    NAT_ELSEWHERE = "E0511";
    /// A translation that was given twice.
    DUPLICATE_NAT = "E0512";
    /// More than fleet plans.
    TOO_LARGE = "E0601";
    /// A camera for a VM whose hypervisor has no USB.
    CAMERA_WITHOUT_USB = "E0620";
    /// An action that does not exist.
    UNKNOWN_ACTION = "E0701";
    /// An action on what it cannot be done to.
    WRONG_ACTION = "E0702";
    /// `every` without time between `from` and `until`.
    EMPTY_EVERY = "E0703";
    /// `every 0s`.
    ZERO_PERIOD = "E0704";
    /// None of something, or more than all.
    BAD_SHARE = "E0705";
    /// An experiment in which too much happens.
    TOO_MANY_FIRINGS = "E0706";
    /// A property that `set` cannot change.
    CANNOT_SET = "E0707";
    /// An order of booting that cannot be.
    BAD_BOOT_ORDER = "E0708";
    /// A sample larger than what it is of.
    BAD_SAMPLE = "E0709";
    /// Samples too close together.
    TOO_OFTEN = "E0710";
    /// Demands about hosts that contradict one another.
    PLACE_CONTRADICTION = "E0602";
    /// A check that must reach and does not.
    CHECK_UNREACHABLE = "E0801";
    /// A check that must not reach and does.
    CHECK_REACHABLE = "E0802";
    /// Lans that are too far apart.
    CHECK_DIAMETER = "E0803";
    /// A VM without a network.
    NO_NETWORK = "W0301";
    /// Packets that need a larger underlay between hosts.
    MTU_NEEDS_UNDERLAY = "W0401";
    /// A VM with two NICs on one lan.
    TWO_NICS = "W0402";
    /// OSPF at one end of a link only.
    OSPF_ONE_END = "W0501";
    /// A BGP router without a session.
    BGP_ALONE = "W0502";
    /// A prefix that two autonomous systems originate.
    ORIGINATED_TWICE = "W0503";
    /// Transit between routers that do not speak BGP to one another.
    TRANSIT_MEANS_NOTHING = "W0504";
    /// A prefix that has none of the autonomous system's own lans in it.
    ORIGINATES_OTHERS = "W0505";
    /// A firewall rule that earlier ones cover.
    RULE_SHADOWED = "W0506";
    /// A firewall rule that matches nothing.
    RULE_UNUSED = "W0507";
    /// A firewall rule about packets that never come through the router.
    RULE_ELSEWHERE = "W0508";
    /// An announced network of which not every AS hears.
    AS_UNREACHED = "W0520";
    /// An event after the end of its experiment.
    AFTER_END = "W0701";
    /// A `heal` of what did not fail.
    HEAL_WHOLE = "W0702";
    /// A `fail` of what has failed already.
    FAILED_ALREADY = "W0703";
    /// A demand about hosts without effect.
    PLACE_NO_EFFECT = "W0601";
}
