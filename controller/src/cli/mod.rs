//! The program `fleet`: what can be said on its command line, and which file answers it.

mod backup;
mod check;
mod complete;
mod connect;
mod cp;
mod doctor;
mod down;
mod drain;
mod failed;
mod failure;
mod fmt;
mod graph;
mod guest;
mod host;
mod image;
mod import;
mod ksm;
mod lsp;
mod output;
mod plan;
mod progress;
mod ps;
mod session;
mod sim;
mod snapshots;
mod source;
mod telemetry;
mod up;
mod usb;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use failure::{Exit, Failure};
pub use output::{now_ms, stderr_is_terminal};

use crate::config::{Config, Overrides};

/// What every command starts from.
struct Context {
    config: Config,
    json: bool,
    color: bool,
}

/// Very large networks of small virtual machines, from one short file.
#[derive(Debug, Parser)]
#[command(name = "fleet", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 all went well, 1 internal error, 2 usage or file, 3 some targets failed, \
4 deadline passed, 5 nobody was reached.\nA TARGET is a path of the network file: hello.web[0..10], web[3], hq.pc[*].";

#[derive(Args, Debug)]
struct Global {
    /// Read this configuration file instead of /etc/fleet/config.toml
    #[arg(long, global = true, value_name = "FILE", env = "FLEET_CONFIG", help_heading = "Global options")]
    config: Option<PathBuf>,
    /// Keep all state below this folder: a fleet of its own beside the machine's
    #[arg(long, global = true, value_name = "DIR", env = "FLEET_ROOT", help_heading = "Global options")]
    root: Option<PathBuf>,
    /// Print a JSON document instead of text
    #[arg(long, global = true, help_heading = "Global options")]
    json: bool,
    /// When to colour the output
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, help_heading = "Global options")]
    color: Color,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring the network of FILE up, or make what runs like FILE
    Up(up::UpArgs),
    /// Take experiments down: nothing of them remains
    Down(down::DownArgs),
    /// Show what runs
    Ps(ps::PsArgs),
    /// Show what FILE means: hosts, groups, addresses, sums, and what `up` would change
    Plan(plan::PlanArgs),
    /// Check FILE and prove its `check` lines on the plan; nothing is contacted
    Check(check::CheckArgs),
    /// Format network files
    Fmt(fmt::FmtArgs),
    /// Draw FILE: a picture for people, or a graph for Graphviz
    Graph(graph::GraphArgs),
    /// Turn a topology of another program into a network file
    Import(import::ImportArgs),
    /// Explain an error code or a word of the language
    Explain(check::ExplainArgs),
    /// Serve an editor: errors, completion, hover, renaming (the editor starts this)
    Lsp,
    /// Run a command in guests, or on hosts
    Exec(guest::ExecArgs),
    /// Copy a file to guests or hosts, or one back
    Cp(cp::CpArgs),
    /// Open a VM's console; leave it with ctrl-]
    Console(guest::ConsoleArgs),
    /// Show what a VM wrote on its console
    Logs(guest::LogsArgs),
    /// Stop, start, reboot, pause and resume VMs; keep and restore their state
    Vm(vm::VmArgs),
    /// List USB cameras, watch them, lend them to VMs
    Usb(usb::UsbArgs),
    /// Show what merging of equal memory pages saves and costs, and why
    Ksm(ksm::KsmArgs),
    /// Ask the telemetry of VMs, ports and hosts
    Telemetry(telemetry::TelemetryArgs),
    /// Build, list, push and remove guest images
    Image(image::ImageArgs),
    /// Look at this host: what works, what is missing, and how to have it
    Doctor(doctor::DoctorArgs),
    /// Simulate a fleet of any size under faults, and check what must always hold
    Sim(sim::SimArgs),
    /// Add hosts to the fleet, list, tag, drain and remove them
    Host(host::HostArgs),
    /// Run the controller (`fleet up` starts one by itself when none runs)
    Controller(ControllerArgs),
    /// Run only the agent of this host, alone or as a member of a fleet
    Agent(host::AgentArgs),
    /// Print a shell's completions
    Completions(complete::CompletionsArgs),
}

#[derive(Args, Debug)]
struct ControllerArgs {
    /// What to do; `run` when left out
    #[arg(value_enum, default_value_t = ControllerVerb::Run)]
    verb: ControllerVerb,
    /// The file of `backup` and `restore`
    #[arg(value_name = "FILE", required_if_eq_any = [("verb", "backup"), ("verb", "restore")])]
    file: Option<PathBuf>,
    /// `restore`: in place of a store that is there already
    #[arg(long)]
    force: bool,
    /// Send telemetry to this MongoDB server instead of one of fleet's own
    #[arg(long, value_name = "URI", env = "FLEET_MONGODB")]
    mongodb: Option<String>,
    /// Run without telemetry
    #[arg(long)]
    no_telemetry: bool,
    /// Listen for hosts that join, on this address [port: 7117]; off when left out
    #[arg(long, value_name = "ADDR[:PORT]")]
    listen: Option<String>,
    /// This host's address for segments over hosts
    #[arg(long, value_name = "ADDR")]
    underlay: Option<String>,
    /// A usbredir server with a camera behind it, unix:PATH or HOST:PORT; can be repeated
    #[arg(long = "camera-server", value_name = "ADDR")]
    camera_servers: Vec<fleet_agent::ServerAddress>,
    /// Use the agent behind this socket instead of one inside this process
    #[arg(long, value_name = "SOCKET")]
    agent: Option<PathBuf>,
    /// Detach, and say on standard output when ready
    #[arg(long, hide = true)]
    background: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ControllerVerb {
    /// Run in the foreground
    Run,
    /// Show the one that runs
    Status,
    /// End the one that runs; VMs go on
    Stop,
    /// Write the store and the CA of the one that runs to FILE
    Backup,
    /// Put FILE in place of a controller that is lost; none may run
    Restore,
}

/// Reads the command line, does what it says, and gives the process's exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let color = match cli.global.color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => output::stdout_wants_color(),
    };
    match run(cli, color) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print(color);
            failure.exit.into()
        }
    }
}

fn run(cli: Cli, color: bool) -> Result<Exit, Failure> {
    // An editor wants answers about its text, whatever the configuration is.
    if let Command::Lsp = cli.command {
        return lsp::lsp();
    }
    let mut overrides = Overrides { config_file: cli.global.config, root: cli.global.root, ..Overrides::default() };
    match &cli.command {
        Command::Controller(args) => {
            overrides.mongodb.clone_from(&args.mongodb);
            overrides.no_telemetry = args.no_telemetry;
            overrides.listen.clone_from(&args.listen);
            overrides.underlay.clone_from(&args.underlay);
            overrides.camera_servers.clone_from(&args.camera_servers);
        }
        Command::Agent(args) => args.overrides(&mut overrides),
        Command::Up(args) => {
            overrides.mongodb.clone_from(&args.mongodb);
            overrides.no_telemetry = args.no_telemetry;
        }
        _ => {}
    }
    let config = Config::load(&overrides).map_err(Failure::usage)?;
    let context = Context { config, json: cli.global.json, color };
    // These need no runtime, and `completions` must work for any user.
    match cli.command {
        Command::Check(args) => check::check(&context, &args),
        Command::Fmt(args) => fmt::fmt(&context, &args),
        Command::Graph(args) => graph::graph(&context, &args),
        Command::Import(args) => import::import(&context, &args),
        Command::Explain(args) => check::explain(&args),
        Command::Completions(args) => complete::completions(&args),
        Command::Image(args) if !matches!(args.verb, image::Verb::Push(_)) => image::image(&context, &args),
        Command::Sim(args) => sim::sim(&context, &args),
        Command::Controller(ControllerArgs { verb: ControllerVerb::Run, agent, background, .. }) => {
            crate::daemon::controller_main(context.config, agent, background)?;
            Ok(Exit::Ok)
        }
        Command::Controller(ControllerArgs { verb: ControllerVerb::Restore, file: Some(file), force, .. }) => {
            backup::restore(&context, &file, force)
        }
        Command::Agent(args) => host::agent(context.config, args),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::internal(format!("cannot start the runtime: {error}")))?;
            runtime.block_on(answer(&context, command))
        }
    }
}

/// The commands that talk to the controller.
async fn answer(context: &Context, command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Up(args) => up::up(context, &args).await,
        Command::Down(args) => down::down(context, &args).await,
        Command::Ps(args) => ps::ps(context, &args).await,
        Command::Plan(args) => plan::plan(context, &args).await,
        Command::Exec(args) => guest::exec(context, args).await,
        Command::Cp(args) => cp::cp(context, &args).await,
        Command::Console(args) => guest::console(context, &args).await,
        Command::Logs(args) => guest::logs(context, &args).await,
        Command::Vm(args) => vm::vm(context, &args).await,
        Command::Usb(args) => usb::usb(context, &args).await,
        Command::Ksm(args) => ksm::ksm(context, &args).await,
        Command::Telemetry(args) => telemetry::telemetry(context, &args).await,
        Command::Doctor(args) => doctor::doctor(context, &args).await,
        Command::Host(args) => host::host(context, args).await,
        Command::Image(image::ImageArgs { verb: image::Verb::Push(args) }) => image::push(context, args).await,
        Command::Controller(ControllerArgs { verb: ControllerVerb::Status, .. }) => connect::status(context).await,
        Command::Controller(ControllerArgs { verb: ControllerVerb::Backup, file: Some(file), .. }) => {
            backup::backup(context, &file).await
        }
        Command::Controller(ControllerArgs { verb: ControllerVerb::Stop, .. }) => connect::stop(context).await,
        Command::Check(_)
        | Command::Fmt(_)
        | Command::Graph(_)
        | Command::Import(_)
        | Command::Explain(_)
        | Command::Lsp
        | Command::Completions(_)
        | Command::Image(_)
        | Command::Sim(_)
        | Command::Controller(_)
        | Command::Agent(_) => Err(Failure::internal("this command is answered without the controller")),
    }
}
