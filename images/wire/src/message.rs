//! What is said. Both ends are built from one commit, yet a guest can be older than its agent (VMs survive an agent's
//! upgrade): new variants go at the end, and [`VERSION`] grows when an old meaning changes.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Version of the protocol; part of [`ToAgent::Hello`].
pub const VERSION: u16 = 1;

/// How many bytes of output a command may have under way before the agent grants more with [`ToGuest::Grant`].
pub const WINDOW_BYTES: u32 = 64 * 1024;

/// A command's number, chosen by the agent, unique within a session.
pub type ExecId = u32;

/// An Ethernet address in transmission order.
pub type MacAddress = [u8; 6];

/// An IPv4 address and the length of its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Address {
    /// The address itself.
    pub ip: Ipv4Addr,
    /// Bits of the network part, 0..=32.
    pub prefix_len: u8,
}

/// One network interface, found in the guest by its MAC.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Nic {
    /// Name that the guest gives it: "eth0", …
    pub name: String,
    /// How the guest finds it.
    pub mac: MacAddress,
    /// Bytes.
    pub mtu: u16,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// A static route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Where to; 0.0.0.0/0 is the default route.
    pub to: Address,
    /// The next hop.
    pub via: Ipv4Addr,
}

/// All that makes one guest different from the others of its image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settings {
    /// Host name of the guest: "web-3".
    pub hostname: String,
    /// Its interfaces, in order.
    pub nics: Vec<Nic>,
    /// Its routes.
    pub routes: Vec<Route>,
    /// Lines for /etc/hosts beside localhost.
    pub hosts: Vec<(Ipv4Addr, String)>,
    /// Bytes for the guest's random number generator.
    pub seed: Vec<u8>,
    /// Time of day when this was sent, ns since 1970; 0: leave the clock alone.
    pub time_ns: u64,
}

/// One address to send echo requests to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProbeTarget {
    /// The address.
    pub ip: Ipv4Addr,
}

/// From the agent to the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToGuest {
    /// First message of a session; commands of earlier sessions are ended.
    Attach {
        /// Chosen by the agent; comes back in [`ToAgent::Hello`].
        session: u64,
    },
    /// Take these settings. May come again: the guest changes only what differs. Answer: `Configured`.
    Configure(Settings),
    /// Run a command. Answers: `Started`, output, `Exited`; or `ExecFailed`.
    Exec {
        /// Its number.
        id: ExecId,
        /// Program and arguments.
        argv: Vec<String>,
        /// "K=V", added to the init's own environment.
        env: Vec<String>,
        /// Rows and columns of a terminal to run it on; without it, three pipes.
        tty: Option<(u16, u16)>,
    },
    /// Bytes for a command's standard input.
    Stdin {
        /// Which command.
        id: ExecId,
        /// At most [`WINDOW_BYTES`] unacknowledged by `StdinTaken`.
        data: Vec<u8>,
    },
    /// No more standard input.
    StdinClosed {
        /// Which command.
        id: ExecId,
    },
    /// The terminal's new size.
    Resize {
        /// Which command.
        id: ExecId,
        /// Rows.
        rows: u16,
        /// Columns.
        columns: u16,
    },
    /// Send a signal to the command's process group.
    Signal {
        /// Which command.
        id: ExecId,
        /// Its number.
        signal: i32,
    },
    /// The agent has taken so many bytes of output: so many more may be sent.
    Grant {
        /// Which command.
        id: ExecId,
        /// Bytes.
        bytes: u32,
    },
    /// Are you there? Answer: `Pong`.
    Ping {
        /// Comes back.
        nonce: u64,
    },
    /// Send ICMP echo requests to all targets at once. Answer: `Probed`.
    Probe {
        /// Comes back.
        nonce: u64,
        /// At most 1024.
        targets: Vec<ProbeTarget>,
        /// How long to wait for one answer.
        timeout_ms: u32,
        /// Tries for each target, at least one.
        attempts: u32,
    },
    /// End: stop the commands, sync, power off.
    Shutdown {
        /// Start again instead of powering off.
        reboot: bool,
    },
    /// Come to rest: the machine is about to be frozen as a template. Answer: `Settled`.
    Settle,
    /// For a clone: you are no longer the template of that boot. A guest of another boot has done so before and
    /// passes it over. Answer: `Hello`, with a boot id of its own.
    Become {
        /// `boot_id` of the template, as its `Hello` said.
        template: u64,
        /// Addresses of the template's interfaces, and those that they get.
        macs: Vec<(MacAddress, MacAddress)>,
        /// Bytes for the random number generator, which is the template's until then.
        seed: Vec<u8>,
        /// Time of day when this was sent, ns since 1970.
        time_ns: u64,
    },
}

/// From the guest to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToAgent {
    /// Answer to `Attach`.
    Hello {
        /// [`VERSION`] of the guest.
        version: u16,
        /// The session that it answers.
        session: u64,
        /// Drawn at boot, and by a clone when it becomes itself: another value means that the guest was started again.
        boot_id: u64,
        /// `uname -r`.
        kernel: String,
        /// Since boot, in ms.
        uptime_ms: u64,
        /// Hash of the settings in force, see [`Settings::fingerprint`]; 0: none yet.
        settings: u64,
    },
    /// The settings are in force, or what was wrong with them.
    Configured {
        /// [`Settings::fingerprint`] of what was asked.
        settings: u64,
        /// One line each; empty when all went well.
        errors: Vec<String>,
    },
    /// The command runs.
    Started {
        /// Which command.
        id: ExecId,
        /// Its process in the guest.
        pid: u32,
    },
    /// The command could not be started.
    ExecFailed {
        /// Which command.
        id: ExecId,
        /// `errno`.
        errno: i32,
        /// In words.
        reason: String,
    },
    /// Output.
    Stdout {
        /// Which command.
        id: ExecId,
        /// Bytes.
        data: Vec<u8>,
    },
    /// Error output.
    Stderr {
        /// Which command.
        id: ExecId,
        /// Bytes.
        data: Vec<u8>,
    },
    /// So many bytes of standard input were written to the command.
    StdinTaken {
        /// Which command.
        id: ExecId,
        /// Bytes.
        bytes: u32,
    },
    /// The command ended, and all of its output was sent.
    Exited {
        /// Which command.
        id: ExecId,
        /// Exit code, 128 + n for a signal.
        code: i32,
    },
    /// Answer to `Ping`.
    Pong {
        /// As asked.
        nonce: u64,
    },
    /// Answer to `Probe`.
    Probed {
        /// As asked.
        nonce: u64,
        /// Round trip in µs for each target in the order asked; `None`: no answer.
        rtt_us: Vec<Option<u32>>,
        /// Why probes could not be sent at all; empty when they could.
        error: String,
    },
    /// On its way down.
    ShuttingDown,
    /// At rest: answer to `Settle`.
    Settled,
}

impl Settings {
    /// FNV-1a (64 bit) over the settings without clock and seed, which change with every message. Never 0.
    pub fn fingerprint(&self) -> u64 {
        let stable = Settings { seed: Vec::new(), time_ns: 0, ..self.clone() };
        let bytes = postcard::to_allocvec(&stable).unwrap_or_default();
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        hash.max(1)
    }
}
