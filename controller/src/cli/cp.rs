//! `fleet cp`: a file to guests or hosts, or one back. It goes as the input or output of a command there, which writes it
//! beside its place, checks its SHA-256 and renames it: who reads it meanwhile sees the old one or the new one.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use fleet_proto::v1::session_output::Output;
use fleet_proto::v1::{ExecInput, ExecOpen, SessionOutput, exec_input};
use fleet_tree::{NameSet, Style, fold_names};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::connect::{self, Start};
use super::{Context, Exit, Failure, output};

/// Bytes sent at once.
const PIECE: usize = 64 * 1024;
/// Pieces that wait for the controller.
const QUEUE: usize = 16;
/// What stands before the names of hosts.
const HOSTS: &str = "host:";
/// Of what a command says when it fails, so much is shown, in bytes.
const SAID: usize = 4096;
/// Takes a file: its place, its mode and its SHA-256 are the arguments.
const TAKE: &str = r#"t="$1.fleet-$$"; trap 'rm -f "$t"' EXIT
cat > "$t" && chmod "$2" "$t" || exit
s=$(sha256sum < "$t") || exit
[ "${s%% *}" = "$3" ] || { echo "what came has another SHA-256" >&2; exit 1; }
mv "$t" "$1""#;
/// Gives a file: a line with its mode and its SHA-256, then its content.
const GIVE: &str = r#"[ -f "$1" ] || { echo "$1 is no file" >&2; exit 1; }
m=$(stat -c %a "$1") && s=$(sha256sum < "$1") && echo "$m ${s%% *}" && exec cat "$1""#;

#[derive(Args, Debug)]
pub struct CpArgs {
    /// A file here, or where one is: hello.alice:/etc/hostname, host:h1:/etc/hosts
    pub source: String,
    /// Where it goes: hello.web[0..10]:/root/data, host:h[1-3]:/srv/, or a file or folder here
    pub dest: String,
}

/// Guests or hosts, and a path there.
#[derive(Debug, PartialEq, Eq)]
struct Remote {
    target: String,
    hosts: bool,
    path: String,
}

/// Reads `TARGET:/PATH`, or `host:NAMES:/PATH`; none when it is a path here.
fn remote(text: &str) -> Option<Remote> {
    let (rest, hosts) = text.strip_prefix(HOSTS).map_or((text, false), |rest| (rest, true));
    let (target, path) = rest.split_once(":/")?;
    // `./a:/b` is a path here.
    let named = !target.is_empty() && !target.contains('/');
    named.then(|| Remote { target: target.to_owned(), hosts, path: format!("/{path}") })
}

pub async fn cp(context: &Context, args: &CpArgs) -> Result<Exit, Failure> {
    match (remote(&args.source), remote(&args.dest)) {
        (None, Some(dest)) => put(context, Path::new(&args.source), dest).await,
        (Some(source), None) => get(context, source, Path::new(&args.dest)).await,
        (None, None) => Err(Failure::usage("neither is a guest or a host")
            .help("say where with TARGET:/PATH, or host:NAME:/PATH: `fleet cp notes.txt web[0]:/root/`")),
        (Some(_), Some(_)) => {
            Err(Failure::usage("both are elsewhere").help("copy it here first, then from here to the other"))
        }
    }
}

/// Starts a command there, with its input still open.
async fn command(
    context: &Context,
    at: &Remote,
    argv: &[&str],
) -> Result<(mpsc::Sender<ExecInput>, Streaming<SessionOutput>), Failure> {
    let mut client = connect::connect(context, Start::IfUp).await?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let open = ExecOpen {
        target: at.target.clone(),
        argv: argv.iter().map(ToString::to_string).collect(),
        env: Vec::new(),
        tty: None,
        timeout_ms: 0,
        hosts: at.hosts,
    };
    // The channel is new and empty.
    drop(sender.try_send(ExecInput { input: Some(exec_input::Input::Open(open)) }));
    let stream = client.exec(ReceiverStream::new(receiver)).await?.into_inner();
    Ok((sender, stream))
}

async fn put(context: &Context, source: &Path, dest: Remote) -> Result<Exit, Failure> {
    let failed = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", source.display()));
    let content = std::fs::File::open(source).and_then(|file| file.metadata().map(|metadata| (file, metadata)));
    let (mut file, metadata) = content.map_err(failed)?;
    if !metadata.is_file() {
        return Err(Failure::usage(format!("{} is no file", source.display())).help("copy files one by one, or a tar"));
    }
    let mut hasher = Sha256::new();
    let mut piece = vec![0; PIECE];
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => break,
            read => hasher.update(&piece[..read]),
        }
    }
    let sum: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let name = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let path = if dest.path.ends_with('/') { format!("{}{name}", dest.path) } else { dest.path.clone() };
    let mode = format!("{:o}", metadata.permissions().mode() & 0o7777);
    let argv = ["sh", "-c", TAKE, "sh", &path, &mode, &sum];
    let (sender, stream) = command(context, &dest, &argv).await?;
    let feeding = tokio::spawn(feed(tokio::fs::File::open(source).await.map_err(failed)?, sender));
    let ends = ends(stream, dest.hosts).await?;
    feeding.abort();
    if let Ok(Err(error)) = feeding.await {
        return Err(failed(error));
    }
    report(context, &path, ends)
}

/// Sends a file as the command's input. The sender is held until the command has ended: its end would mean that the user
/// went away.
async fn feed(mut file: tokio::fs::File, sender: mpsc::Sender<ExecInput>) -> Result<(), std::io::Error> {
    loop {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        let last = piece.is_empty();
        let input = if last { exec_input::Input::StdinClosed(true) } else { exec_input::Input::Stdin(piece) };
        // A command that has ended takes no more; its end says why.
        if sender.send(ExecInput { input: Some(input) }).await.is_err() {
            return Ok(());
        }
        if last {
            return std::future::pending().await;
        }
    }
}

/// How each ended: nothing, or why not.
async fn ends(mut stream: Streaming<SessionOutput>, hosts: bool) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let style = if hosts { Style::Hosts } else { Style::Guests };
    let mut said: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut ends: BTreeMap<String, Option<String>> = BTreeMap::new();
    while let Some(SessionOutput { output, vm }) = stream.message().await? {
        let names: Vec<String> = NameSet::parse(style, &vm).iter().collect();
        let Some(output) = output else {
            ends.extend(names.into_iter().map(|name| (name, Some("nothing was heard of it".to_owned()))));
            continue;
        };
        for name in names {
            match &output {
                Output::Stderr(data) => {
                    let kept = said.entry(name).or_default();
                    kept.extend(data.iter().take(SAID.saturating_sub(kept.len())));
                }
                Output::Stdout(_) => {}
                Output::Exited(status) if status.code == 0 => drop(ends.insert(name, None)),
                Output::Exited(status) => {
                    let words = said.get(&name).map(|said| String::from_utf8_lossy(said).trim().to_owned());
                    let words = words.filter(|words| !words.is_empty());
                    ends.insert(name, Some(words.unwrap_or_else(|| format!("exit {}", status.code))));
                }
                Output::Failed(reason) => drop(ends.insert(name, Some(reason.clone()))),
            }
        }
    }
    Ok(ends)
}

fn report(context: &Context, path: &str, ends: BTreeMap<String, Option<String>>) -> Result<Exit, Failure> {
    let mut alike: BTreeMap<&Option<String>, Vec<&str>> = BTreeMap::new();
    for (name, end) in &ends {
        alike.entry(end).or_default().push(name);
    }
    let failed = ends.values().flatten().count();
    if context.json {
        let fold = |(end, names): (&&Option<String>, &Vec<&str>)| serde_json::json!({ "targets": fold_names(names.iter().copied()), "count": names.len(), "failed": end });
        output::json(&serde_json::json!({ "path": path, "outcomes": alike.iter().map(fold).collect::<Vec<_>>() }));
    } else {
        for (end, names) in alike {
            let (folded, count) = (fold_names(names.iter().copied()), names.len());
            match end {
                None => output::say!("{folded} ({count}): {path}"),
                Some(reason) => output::say!("{folded} ({count}) failed: {reason}"),
            }
        }
    }
    Ok(if failed > 0 { Exit::Partial } else { Exit::Ok })
}

async fn get(context: &Context, source: Remote, dest: &Path) -> Result<Exit, Failure> {
    let name = source.path.rsplit('/').next().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Failure::usage(format!("{} is a folder", source.path)).help("name a file in it"))?;
    let path: PathBuf = if dest.is_dir() { dest.join(name) } else { dest.to_owned() };
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: std::io::Error| Failure::usage(format!("cannot write {}: {error}", path.display()));
    // Removed when it is dropped.
    let mut temp = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
    let (sender, mut stream) = command(context, &source, &["sh", "-c", GIVE, "sh", &source.path]).await?;
    drop(sender.send(ExecInput { input: Some(exec_input::Input::StdinClosed(true)) }).await);
    let (mut head, mut said) = (Some(Vec::new()), Vec::new());
    let (mut mode, mut sum, mut hasher) = (0o644, String::new(), Sha256::new());
    while let Some(SessionOutput { output, vm }) = stream.message().await? {
        match output {
            None if NameSet::parse(if source.hosts { Style::Hosts } else { Style::Guests }, &vm).len() != 1 => {
                return Err(Failure::usage(format!("`{}` is more than one", source.target)).help("name one of them"));
            }
            Some(Output::Stdout(data)) => {
                let mut content = data;
                if let Some(line) = &mut head {
                    line.extend_from_slice(&content);
                    let Some(end) = line.iter().position(|byte| *byte == b'\n') else { continue };
                    content = line.split_off(end + 1);
                    let words = String::from_utf8_lossy(line).into_owned();
                    let (of_mode, of_sum) = words.trim().split_once(' ').unwrap_or_default();
                    mode = u32::from_str_radix(of_mode, 8).unwrap_or(mode);
                    of_sum.clone_into(&mut sum);
                    head = None;
                }
                hasher.update(&content);
                temp.write_all(&content).map_err(failed)?;
            }
            Some(Output::Stderr(data)) => said.extend(data.into_iter().take(SAID.saturating_sub(said.len()))),
            Some(Output::Exited(status)) if status.code != 0 => {
                let words = String::from_utf8_lossy(&said).trim().to_owned();
                let words = if words.is_empty() { format!("exit {}", status.code) } else { words };
                return Err(Failure::new(Exit::Partial, format!("{vm}: {words}")));
            }
            Some(Output::Failed(reason)) => return Err(Failure::from_words(Exit::Partial, &format!("{vm}: {reason}"))),
            None | Some(Output::Exited(_)) => {}
        }
    }
    let came: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if came != sum {
        return Err(Failure::new(Exit::Partial, "what came has another SHA-256; it may have changed meanwhile")
            .help("try again"));
    }
    temp.as_file().set_permissions(std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    temp.persist(&path).map_err(|error| failed(error.error))?;
    let target = Some(source.target).into_iter().map(|target| (target, None)).collect();
    report(context, &path.display().to_string(), target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_elsewhere_has_a_path_behind_its_name() {
        let at = |target: &str, hosts, path: &str| Some(Remote { target: target.into(), hosts, path: path.into() });
        assert_eq!(remote("hello.web[0..10]:/root/a:b"), at("hello.web[0..10]", false, "/root/a:b"));
        assert_eq!(remote("host:h[1-3]:/srv/"), at("h[1-3]", true, "/srv/"));
        for here in ["notes.txt", "./a:/b", "/tmp/a:/b", "web:notes", ":/x"] {
            assert_eq!(remote(here), None, "{here}");
        }
    }
}
