//! A command on many hosts, beside clush and pdsh where they are installed.
//!
//! Here all hosts are this machine, so the others use their local transports (`-R exec`), which run the command as a
//! child for each host: no connection, no encryption and no login. fleet sends a wave over mutual TLS to as many agents,
//! each of which runs the command as a child.

use std::fmt::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use fleet_proto::v1::{ExecAnswer, ExecTask, OpHeader, Task, reply, task};
use fleet_tree::{Call, Config, Event, Job, Local, LocalEnd, Root, Sink, recommended_k};

use crate::agents::Agents;
use crate::clocks::{children, median, process};
use crate::model::{branches, check};

/// What each host runs: the shortest that says something.
const COMMAND: &str = "hostname";

/// What one run took, in seconds.
#[derive(Clone, Copy)]
struct Took {
    cpu: f64,
    wall: f64,
}

/// Runs the command that it is told, as a child.
struct Runs;

#[async_trait]
impl Local for Runs {
    fn admit_epoch(&self, _: u64) -> Result<(), String> {
        Ok(())
    }

    async fn run(&self, job: Job, sink: Sink) -> LocalEnd {
        let Some(task::Task::Exec(task)) = job.task.task else { return LocalEnd::failed("no command", Vec::new()) };
        let Some((program, arguments)) = task.argv.split_first() else {
            return LocalEnd::failed("no command was named", Vec::new());
        };
        match tokio::process::Command::new(program).args(arguments).stdin(Stdio::null()).output().await {
            Ok(output) => {
                let code = output.status.code().unwrap_or(-1);
                let answer = ExecAnswer { stdout: output.stdout, ended: true, code, ..ExecAnswer::default() };
                sink.reply(reply::Reply::Exec(answer)).await;
                LocalEnd::ok(Vec::new())
            }
            Err(error) => LocalEnd::failed(error.to_string(), Vec::new()),
        }
    }
}

/// A tool that is compared.
struct Tool {
    name: &'static str,
    arguments: fn(usize) -> Vec<String>,
    does: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "clush",
        arguments: |hosts| words(&format!("-S -b -f {hosts} -R exec -w h[0-{}] {COMMAND}", hosts - 1)),
        does: "its own start (Python); a child for each host, equal answers folded",
    },
    Tool {
        name: "pdsh",
        arguments: |hosts| words(&format!("-S -f {hosts} -R exec -w h[0-{}] {COMMAND}", hosts - 1)),
        does: "its own start; a thread and a child for each host, answers as lines",
    },
];

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// The section of the page.
pub fn section(hosts: usize, runs: usize) -> Result<String> {
    if hosts == 0 {
        return Ok(String::new());
    }
    let mut text = format!(
        "### A command on {hosts} hosts\n\n`{COMMAND}` once for each host, all hosts being this machine: medians of {runs}. CPU is that of everything \
         that was started, the commands included. The local transports of the others make no connection. This compares what a command costs, not \
         how far each scales.\n\n| | CPU | wall | what it does |\n|---|---|---|---|\n"
    );
    let mut row = |name: &str, took: &[Took], does: &str| {
        let of = |value: fn(&Took) -> f64| median(took.iter().map(value).collect()) * 1e3;
        writeln!(text, "| {name} | {:.0} ms | {:.0} ms | {does} |", of(|took| took.cpu), of(|took| took.wall))
    };
    let direct: Vec<Took> = (0..runs).map(|_| directly(hosts)).collect::<Result<_>>()?;
    row("children, directly", &direct, "the floor: a child for each host, all at once")?;
    let agents = Agents::start(hosts, |_| Runs);
    for k in [0, recommended_k(hosts).max(16)] {
        let name = format!("fleet, k = {}", branches(k));
        row(&name, &waves(&agents, k, runs)?, "a wave over mutual TLS to agents that run; equal answers folded")?;
    }
    drop(agents);
    let mut missing = Vec::new();
    for tool in TOOLS {
        match (0..runs).map(|_| with(tool, hosts)).collect::<Result<Option<Vec<Took>>>>()? {
            Some(took) => row(tool.name, &took, tool.does)?,
            None => missing.push(tool.name),
        }
    }
    if !missing.is_empty() {
        writeln!(text, "\nNot installed, so not compared: {}.", missing.join(", "))?;
    }
    Ok(text)
}

fn directly(hosts: usize) -> Result<Took> {
    let (start, cpu) = (Instant::now(), process() + children());
    let spawn = |_| Command::new(COMMAND).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let all: Vec<_> = (0..hosts).map(spawn).collect::<std::io::Result<_>>()?;
    for child in all {
        child.wait_with_output()?;
    }
    Ok(Took { cpu: process() + children() - cpu, wall: start.elapsed().as_secs_f64() })
}

/// Runs a tool; none if it is not installed.
fn with(tool: &Tool, hosts: usize) -> Result<Option<Took>> {
    let (start, cpu) = (Instant::now(), children());
    let output = match Command::new(tool.name).args((tool.arguments)(hosts)).stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context(tool.name),
    };
    if !output.status.success() {
        bail!("{}: {}", tool.name, String::from_utf8_lossy(&output.stderr));
    }
    Ok(Some(Took { cpu: children() - cpu, wall: start.elapsed().as_secs_f64() }))
}

fn waves(agents: &Agents, k: u32, runs: usize) -> Result<Vec<Took>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let root = Root::new(agents.controller().link(), Config::default(), Arc::clone(&agents.clock));
        let mut all = Vec::new();
        // The first makes the connections, which a controller has.
        for run in 0..=runs {
            let (start, cpu) = (Instant::now(), process() + children());
            let mut wave = root.wave(exec(agents, k, &format!("{k} {run}")))?;
            let mut answers = 0;
            let end = loop {
                match wave.next().await.context("the root was stopped")? {
                    Event::Reply(reply) => answers += reply.count as usize,
                    Event::Progress(_) => {}
                    Event::End(end) => break end,
                }
            };
            let took = Took { cpu: process() + children() - cpu, wall: start.elapsed().as_secs_f64() };
            let hosts = agents.members.as_slice().len();
            check(&end, hosts);
            anyhow::ensure!(answers == hosts, "{answers} answers of {hosts} hosts");
            all.push(took);
        }
        Ok(all.split_off(1))
    })
}

fn exec(agents: &Agents, k: u32, op: &str) -> Call {
    let task = ExecTask { argv: vec![COMMAND.to_owned()], ..ExecTask::default() };
    Call {
        op: OpHeader { op_id: op.to_owned(), epoch: 1, generation: 0 },
        members: agents.members.clone(),
        k,
        dead: Vec::new(),
        task: Task { task: Some(task::Task::Exec(task)) },
        content: Vec::new(),
        deadline: Duration::from_secs(60),
        again: false,
    }
}
