//! Waves over mutual TLS on loopback, all agents in this process.
//!
//! The controller has a thread of its own, whose processor time is its own; what the process takes beside it are the
//! agents. A bare unary call over each channel that a wave goes over, with an answer of as many bytes, is the floor: in
//! a tree, agents make most of the calls, and pay for both ends of these.

use std::collections::HashSet;
use std::fmt::Write;

use anyhow::{Context, Result, bail};
use fleet_tree::grpc::Connector;
use fleet_tree::{Config, Root, plan, recommended_k};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::agents::{Agents, ToMembers, call_each};
use crate::clocks::{median, process, thread};
use crate::model::{Work, branches, call, check};
use crate::sockets::{self, Bytes};

/// Descriptors of a host: its port, and both ends of a connection, twice.
const FILES: usize = 5;

/// What one number of hosts costs with one k.
struct Cost {
    /// Seconds of the controller: the first wave with its connections, a later one.
    first: f64,
    later: f64,
    bytes_first: Bytes,
    bytes_later: Bytes,
    /// Seconds of an agent for a later wave, and for a bare call.
    agent: f64,
    bare: f64,
}

/// The section of the page.
pub fn section(hosts: &[usize], runs: usize) -> Result<String> {
    let mut text = "### Over mutual TLS on loopback\n\nReal nodes with certificates and servers, all in one process; the controller in \
                    a thread of its own. \"First\" makes the connections of the controller (those between agents stand) and carries the spec, \"later\" is another operation \
                    with the same spec over connections that stand. Bytes are those of its TCP connections. The floor of an agent is bare unary calls: one over each of the \
                    channels that the wave goes over, from the same senders, in the same run.\n\n\
                    | hosts | k | levels | controller's CPU, first | later | bytes out, first | later | bytes in, later | an agent's CPU, later | bare calls | ratio |\n\
                    |---|---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for hosts in hosts.iter().copied() {
        if !has_files(hosts * FILES)? {
            writeln!(text, "\n{hosts} hosts were left out: they need {} open files.", hosts * FILES)?;
            continue;
        }
        let mut ks = vec![0, recommended_k(hosts).max(16)];
        ks.dedup();
        for k in ks {
            let cost = measure(hosts, k, runs)?;
            writeln!(
                text,
                "| {hosts} | {} | {} | {:.2} ms | {:.2} ms | {} | {} | {} | {:.0} µs | {:.0} µs | {:.2} |",
                branches(k),
                plan::levels(hosts, k),
                cost.first * 1e3,
                cost.later * 1e3,
                cost.bytes_first.out,
                cost.bytes_later.out,
                cost.bytes_later.incoming,
                cost.agent * 1e6,
                cost.bare * 1e6,
                cost.agent / cost.bare,
            )?;
        }
    }
    Ok(text)
}

/// Whether so many files may be open; asks for as many as are allowed.
fn has_files(needed: usize) -> Result<bool> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most > needed as u64 + 100)
}

fn measure(hosts: usize, k: u32, runs: usize) -> Result<Cost> {
    let agents = Agents::start(hosts, |name| Work(name.to_owned()));
    agents.connect(k).map_err(|error| anyhow::anyhow!(error.0))?;
    let measure =
        || tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(waves(&agents, k, runs));
    std::thread::scope(|scope| scope.spawn(measure).join()).unwrap()
}

/// In the controller's thread.
async fn waves(agents: &Agents, k: u32, runs: usize) -> Result<Cost> {
    let members = &agents.members;
    let to = agents.controller();
    let root = Root::new(to.link(), Config::default(), std::sync::Arc::clone(&agents.clock));
    let hosts = members.as_slice().len();
    let wave = async |op: &str| -> Result<(f64, f64)> {
        let (own, all) = (thread(), process());
        let end = root.wave(call(op, members, k))?.end().await.context("the root was stopped")?;
        let (own, all) = (thread() - own, process() - all);
        check(&end, hosts);
        Ok((own, (all - own) / hosts as f64))
    };
    // Those of agents are there already: what comes is the controller's.
    let heads: Vec<_> = plan::branches(members.as_slice(), k).into_iter().map(|run| run.start).collect();
    let addresses: HashSet<_> = members.as_slice().iter().filter_map(|member| member.address.parse().ok()).collect();
    let others: HashSet<_> = sockets::to(&addresses).into_iter().collect();
    let before = thread();
    for head in &heads {
        if let Err(error) = to.channel(&members.as_slice()[*head]).await {
            bail!("{}: {}", members.as_slice()[*head].name, error.0);
        }
    }
    let connecting = thread() - before;
    let mut sockets = sockets::to(&addresses);
    sockets.retain(|socket| !others.contains(socket));
    let mut before = sockets::carried(&sockets);
    let mut bytes = || {
        let now = sockets::carried(&sockets);
        let bytes = Bytes { out: now.out - before.out, incoming: now.incoming - before.incoming };
        before = now;
        bytes
    };
    let (first, _) = wave("first").await?;
    let bytes_first = bytes();
    let (mut own, mut agent, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes_later = Bytes::default();
    // By turns, so that what changes on the machine meets both.
    for run in 0..runs {
        let (controller, of_agents) = wave(&format!("later {run}")).await?;
        bytes_later = bytes();
        own.push(controller);
        agent.push(of_agents);
        bare.push(calls(&to, agents, k).await?);
        bytes();
    }
    Ok(Cost {
        first: first + connecting,
        later: median(own),
        bytes_first,
        bytes_later,
        agent: median(agent),
        bare: median(bare),
    })
}

/// Bare calls as a wave makes them; gives the seconds of an agent.
async fn calls(to: &ToMembers, agents: &Agents, k: u32) -> Result<f64> {
    let members = agents.members.as_slice();
    let heads: Vec<_> = plan::branches(members, k).into_iter().map(|run| members[run.start].clone()).collect();
    let below = agents.below(k);
    let (own, all) = (thread(), process());
    let (told, ()) = tokio::join!(call_each(to, &heads), agents.call_below(below));
    told.map_err(anyhow::Error::msg)?;
    Ok(((process() - all) - (thread() - own)) / members.len() as f64)
}
