//! `fleet host`: the hosts of the fleet and the tokens that let more in; and `fleet agent`, which makes this host one.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use fleet_agent::JoinArgs;
use fleet_pki::Token;
use fleet_proto::v1::{
    ChangeHostsRequest, Host, HostChange, HostState, HostsRequest, IssueTokenRequest, TokenInfo, TokensRequest,
};

use super::connect::{self, Start};
use super::drain::{self, DrainArgs};
use super::output::{self, Table};
use super::{Context, Exit, Failure};
use crate::config::{Config, Overrides};
use crate::daemon::{self, AGENT_PORT, CONTROLLER_PORT};

#[derive(Args, Debug)]
pub struct AgentArgs {
    /// Serve on this socket instead of the default one
    #[arg(long, value_name = "SOCKET")]
    socket: Option<PathBuf>,
    /// Join the fleet of this controller; once, later starts need no flags
    #[arg(long, value_name = "CONTROLLER[:PORT]")]
    join: Option<String>,
    /// What `fleet host token` printed
    #[arg(long, value_name = "TOKEN", env = "FLEET_TOKEN", hide_env_values = true)]
    token: Option<Token>,
    /// Name of this host in its fleet [default: the machine's]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Serve the fleet on this address [default: 0.0.0.0:7118]
    #[arg(long, value_name = "ADDR[:PORT]")]
    listen: Option<String>,
    /// Where others reach this agent [default: where it calls the controller from]
    #[arg(long, value_name = "ADDR[:PORT]")]
    advertise: Option<String>,
    /// Address for segments over hosts [default: the agent's]
    #[arg(long, value_name = "ADDR")]
    underlay: Option<String>,
    /// A usbredir server with a camera behind it, unix:PATH or HOST:PORT; can be repeated
    #[arg(long = "camera-server", value_name = "ADDR")]
    camera_servers: Vec<fleet_agent::ServerAddress>,
    /// Rack in which it stands, told when it joins
    #[arg(long, value_name = "RACK", default_value = "", hide_default_value = true)]
    rack: String,
    /// Tag, told when it joins; can be repeated
    #[arg(long = "tag", value_name = "K[=V]", value_parser = tag)]
    tags: Vec<(String, String)>,
}

impl AgentArgs {
    /// What of the configuration the command line overrides.
    pub fn overrides(&self, overrides: &mut Overrides) {
        overrides.listen.clone_from(&self.listen);
        overrides.advertise.clone_from(&self.advertise);
        overrides.underlay.clone_from(&self.underlay);
        overrides.camera_servers.clone_from(&self.camera_servers);
    }
}

/// `fleet agent`.
pub fn agent(config: Config, args: AgentArgs) -> Result<Exit, Failure> {
    let listen = match &config.listen {
        Some(text) => daemon::parse_listen(text, AGENT_PORT).map_err(Failure::usage)?,
        None => SocketAddr::from((Ipv4Addr::UNSPECIFIED, AGENT_PORT)),
    };
    let join = JoinArgs {
        controller: args.join.map(|controller| daemon::with_port(&controller, CONTROLLER_PORT)),
        token: args.token,
        name: args.name,
        listen,
        advertise: config.advertise.clone(),
        underlay: config.underlay.clone(),
        rack: args.rack,
        tags: args.tags.into_iter().collect(),
    };
    daemon::agent_main(config, args.socket, join)?;
    Ok(Exit::Ok)
}

#[derive(Args, Debug)]
pub struct HostArgs {
    #[command(subcommand)]
    verb: HostVerb,
}

#[derive(Debug, Subcommand)]
enum HostVerb {
    /// List the hosts of the fleet
    Ls,
    /// Print a token that lets a host join; list or revoke tokens
    Token(TokenArgs),
    /// Move the VMs of hosts to others, where they start anew, and wait for that; the hosts get nothing new
    Drain(DrainArgs),
    /// Let drained hosts run new VMs again
    Undrain(NamesArgs),
    /// Remove hosts from the fleet: they are refused from now on, and their names are free
    Rm(RemoveArgs),
    /// Change the tags of a host
    Tag(TagArgs),
}

#[derive(Args, Debug)]
struct NamesArgs {
    /// The hosts
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

#[derive(Args, Debug)]
struct RemoveArgs {
    /// The hosts
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Also hosts that run VMs; these go on, and the fleet does not know of them any more
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
struct TagArgs {
    /// The host
    name: String,
    /// K=V or K to set, -K to remove
    #[arg(required = true, value_name = "K=V|-K", allow_hyphen_values = true)]
    changes: Vec<String>,
}

#[derive(Args, Debug)]
struct TokenArgs {
    /// How many hosts it lets in
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
    /// How long it lets them in: 90s, 30m, 1h, 7d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    ttl: Duration,
    /// Tag that hosts get which join with it; can be repeated
    #[arg(long = "tag", value_name = "K[=V]", value_parser = tag)]
    tags: Vec<(String, String)>,
    /// Rack that they get
    #[arg(long, value_name = "RACK", default_value = "", hide_default_value = true)]
    rack: String,
    /// List the tokens that let hosts in
    #[arg(long, conflicts_with_all = ["uses", "ttl", "tags", "rack", "revoke"])]
    ls: bool,
    /// Revoke tokens by their ids
    #[arg(long, value_name = "ID", num_args = 1.., conflicts_with_all = ["uses", "ttl", "tags", "rack"])]
    revoke: Vec<String>,
}

fn tag(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() {
        return Err(format!("`{text}` has no key; write K=V or K"));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// A time with its unit.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is no time; write 90s, 30m, 1h or 7d");
    let at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(at);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).filter(|seconds| *seconds > 0).map(Duration::from_secs).ok_or_else(wrong)
}

/// `fleet host …`.
pub async fn host(context: &Context, args: HostArgs) -> Result<Exit, Failure> {
    match args.verb {
        HostVerb::Ls => ls(context).await,
        HostVerb::Token(args) if args.ls || !args.revoke.is_empty() => tokens(context, args.revoke).await,
        HostVerb::Token(args) => token(context, args).await,
        HostVerb::Drain(args) => drain::drain(context, &args).await,
        HostVerb::Undrain(args) => {
            let request = ChangeHostsRequest { names: args.names, ..Default::default() };
            send(context, request, HostChange::Undrain, "undrained").await
        }
        HostVerb::Rm(args) => {
            let request = ChangeHostsRequest { names: args.names, force: args.force, ..Default::default() };
            send(context, request, HostChange::Remove, "removed").await
        }
        HostVerb::Tag(args) => {
            let mut request = ChangeHostsRequest { names: vec![args.name], ..Default::default() };
            for change in &args.changes {
                match change.strip_prefix('-') {
                    Some(key) if !key.is_empty() => request.unset.push(key.to_owned()),
                    Some(_) => return Err(Failure::usage("`-` names no tag; -K removes the tag K")),
                    None => request.set.extend([tag(change).map_err(Failure::usage)?]),
                }
            }
            send(context, request, HostChange::Tag, "tagged").await
        }
    }
}

async fn send(
    context: &Context,
    mut request: ChangeHostsRequest,
    change: HostChange,
    done: &str,
) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUsed).await?;
    request.set_change(change);
    let named = request.names.len();
    let changed = client.change_hosts(request).await?.into_inner().changed;
    if context.json {
        output::json(&serde_json::json!({ "changed": changed, "named": named }));
    } else if usize::try_from(changed) == Ok(named) {
        output::say!("{done}: {}", output::plural(changed, "host"));
    } else {
        output::say!("{done}: {} of {named}; the others were so already", changed);
    }
    Ok(Exit::Ok)
}

async fn ls(context: &Context) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUsed).await?;
    let hosts = client.hosts(HostsRequest {}).await?.into_inner().hosts;
    connect::end_if_idle(&mut client).await;
    if context.json {
        output::json(&serde_json::json!({ "hosts": hosts.iter().map(host_json).collect::<Vec<_>>() }));
        return Ok(Exit::Ok);
    }
    let headings =
        ["NAME", "STATE", "RACK", "TAGS", "CORES", "MEMORY", "FREE", "HYPERVISORS", "VMS", "VERSION", "SEEN"];
    let mut table = Table::new(&headings);
    for host in &hosts {
        let info = host.info.clone().unwrap_or_default();
        table.row(vec![
            host.name.clone(),
            colored(host, context.color),
            host.rack.clone(),
            tags_in_words(&host.tags),
            info.cpus.to_string(),
            output::bytes(info.memory_bytes),
            output::bytes(info.memory_available_bytes),
            info.hypervisors.join(" "),
            info.vms.to_string(),
            info.version,
            match host.last_seen_ms {
                0 => "never".into(),
                seen => format!("{} ago", output::age(seen)),
            },
        ]);
    }
    table.print();
    Ok(Exit::Ok)
}

fn state(host: &Host) -> &'static str {
    match host.state() {
        HostState::Unspecified => "?",
        HostState::Ready => "ready",
        HostState::Unknown => "unknown",
        HostState::Draining => "draining",
        HostState::Removed => "removed",
    }
}

fn colored(host: &Host, color: bool) -> String {
    let word = state(host);
    let code = match host.state() {
        HostState::Ready => "32",
        HostState::Draining => "33",
        _ => "31",
    };
    if color { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() }
}

/// "gpu ssd=yes", by key.
fn tags_in_words(tags: &HashMap<String, String>) -> String {
    let mut words: Vec<String> =
        tags.iter().map(|(key, value)| if value.is_empty() { key.clone() } else { format!("{key}={value}") }).collect();
    words.sort();
    words.join(" ")
}

fn host_json(host: &Host) -> serde_json::Value {
    let info = host.info.clone().unwrap_or_default();
    serde_json::json!({
        "name": host.name, "state": state(host), "draining": host.draining, "address": host.address,
        "underlay": host.underlay, "rack": host.rack, "tags": host.tags, "cpus": info.cpus,
        "memory_bytes": info.memory_bytes, "memory_available_bytes": info.memory_available_bytes,
        "memory_committed_bytes": info.memory_committed_bytes, "hypervisors": info.hypervisors,
        "features": info.features, "kernel": info.kernel, "vms": info.vms, "version": info.version,
        "incarnation": host.incarnation, "joined_ms": host.joined_ms, "last_seen_ms": host.last_seen_ms,
    })
}

async fn token(context: &Context, args: TokenArgs) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUsed).await?;
    let request = IssueTokenRequest {
        uses: args.uses,
        ttl_ms: u64::try_from(args.ttl.as_millis()).unwrap_or(u64::MAX),
        rack: args.rack,
        tags: args.tags.into_iter().collect(),
    };
    let issued = client.issue_token(request).await?.into_inner();
    let info = issued.info.unwrap_or_default();
    if issued.address.is_empty() {
        eprintln!("fleet: this controller does not listen for hosts yet; `fleet controller run --listen ADDR` does");
    }
    if context.json {
        let mut document = token_json(&info);
        document["token"] = issued.token.into();
        document["controller"] = issued.address.into();
        output::json(&document);
        return Ok(Exit::Ok);
    }
    eprintln!(
        "fleet: token {} lets {} join within {}; on the host: fleet agent --join CONTROLLER --token TOKEN",
        info.id,
        output::plural(info.uses, "host"),
        output::duration(info.expires_ms.saturating_sub(info.issued_ms)),
    );
    output::say!("{}", issued.token);
    Ok(Exit::Ok)
}

async fn tokens(context: &Context, revoke: Vec<String>) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUsed).await?;
    let listing = revoke.is_empty();
    let reply = client.tokens(TokensRequest { revoke }).await?.into_inner();
    if context.json {
        let tokens: Vec<_> = reply.tokens.iter().map(token_json).collect();
        output::json(&serde_json::json!({ "tokens": tokens, "revoked": reply.revoked }));
        return Ok(Exit::Ok);
    }
    if !listing {
        output::say!("revoked: {}", output::plural(reply.revoked, "token"));
        return Ok(Exit::Ok);
    }
    if reply.tokens.is_empty() {
        output::say!("no token lets anybody in; `fleet host token` makes one");
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["ID", "USED", "ENDS IN", "RACK", "TAGS"]);
    for token in &reply.tokens {
        table.row(vec![
            token.id.clone(),
            format!("{} of {}", token.used, token.uses),
            output::duration(token.expires_ms.saturating_sub(output::now_ms())),
            token.rack.clone(),
            tags_in_words(&token.tags),
        ]);
    }
    table.print();
    Ok(Exit::Ok)
}

fn token_json(token: &TokenInfo) -> serde_json::Value {
    serde_json::json!({
        "id": token.id, "uses": token.uses, "used": token.used, "issued_ms": token.issued_ms,
        "expires_ms": token.expires_ms, "rack": token.rack, "tags": token.tags,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(time("90s").unwrap(), Duration::from_secs(90));
        assert_eq!(time("7d").unwrap(), Duration::from_secs(7 * 24 * 3600));
        for wrong in ["", "1", "0s", "h", "1w", "-1h", "99999999999999999999d"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_tag_is_a_key_with_or_without_a_value() {
        assert_eq!(tag("gpu").unwrap(), ("gpu".into(), String::new()));
        assert_eq!(tag("ssd=yes=no").unwrap(), ("ssd".into(), "yes=no".into()));
        assert!(tag("=x").is_err());
        let tags = [("b".to_owned(), String::new()), ("a".to_owned(), "1".to_owned())];
        assert_eq!(tags_in_words(&tags.into_iter().collect()), "a=1 b");
    }
}
