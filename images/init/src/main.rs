//! The guests' init: process 1 of every virtual machine of fleet.
//!
//! It mounts what programs expect, loads the modules that the image lists, opens the control channel and then obeys
//! it: settings, commands, probes, shutdown (crate `fleet-wire`). Nothing of what makes one guest different from
//! another is in the image; it comes over the channel.
//!
//! A host runs thousands of these, so there is one thread, one epoll and no timer while nothing happens.
//!
//! - [`boot`]: mounts, modules, loopback
//! - [`root`]: a root file system that many guests share is made writable
//! - [`channel`]: finds and frames the control channel
//! - [`server`]: the event loop; hands each message to the part that knows it
//! - [`command`]: commands that the agent runs here, with pipes or a terminal
//! - [`settings`], [`net`], [`netlink`]: name, interfaces, addresses, routes, clock, random numbers
//! - [`probe`]: echo requests to many targets at once
//! - [`console`]: a shell for whoever presses Enter on the console
//! - [`template`]: coming to rest before the guest is frozen, and becoming somebody as a clone of it
//! - [`power`]: the way down

mod boot;
mod channel;
mod command;
mod console;
mod error;
mod events;
mod icmp;
mod net;
mod netlink;
mod power;
mod probe;
mod root;
mod server;
mod settings;
mod template;

use std::convert::Infallible;

use error::InitError;

fn main() {
    if std::process::id() != 1 {
        eprintln!("fleet-init: this is the init of fleet's guests; it does its work only as process 1");
        std::process::exit(2);
    }
    let Err(error) = run();
    // If process 1 ended here, the kernel would panic and the reason would be lost in its last words.
    eprintln!("fleet-init: fatal: {error}; powering off");
    power::switch_off(false);
}

fn run() -> Result<Infallible, InitError> {
    for problem in boot::prepare() {
        eprintln!("fleet-init: {problem}");
    }
    let channel = channel::Channel::open()?;
    server::Server::new(channel)?.run()
}
