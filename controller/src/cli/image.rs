//! `fleet image build|ls|show|rm`, and the images that an `up` needs.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use fleet_images::{Builder, ImageError, ImageStore, KernelOrigin, Progress, Recipe, RootFs};
use fleet_proto::v1::PushImageRequest;
use indicatif::ProgressBar;
use netlang::Plan;

use super::connect::{self, Start};
use super::output::{self, Table};
use super::{Context, Exit, Failure, up};
use crate::config::Config;

/// Seconds between two lines about a compilation that nobody watches.
const TOLD_EVERY_S: u64 = 15;

#[derive(Args, Debug)]
pub struct ImageArgs {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build an image from a recipe of fleet's own or from a file
    Build {
        /// A recipe's name (tiny), or the path of a recipe file
        recipe: String,
        /// Take this tiny kernel in place of the recipe's for the same hypervisor: tiny-uml, tiny-x86; may be repeated
        #[arg(long, value_name = "KERNEL")]
        kernel: Vec<String>,
        /// Name of the image, in place of the recipe's
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// The guests' init, a static program; found beside fleet when left out
        #[arg(long, value_name = "FILE", env = "FLEET_INIT")]
        init: Option<PathBuf>,
    },
    /// Send an image of this host to the hosts of the fleet; `up` sends what is missing by itself
    Push(PushArgs),
    /// List the images of this host
    Ls,
    /// Show what an image consists of
    Show {
        /// Its name, or its id, or the beginning of the id
        image: String,
    },
    /// Remove an image; running VMs keep what they use
    Rm {
        /// Names, or ids, or the beginnings of ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

fn rate(text: &str) -> Result<u64, String> {
    crate::size::size(text).filter(|rate| *rate > 0).ok_or_else(|| format!("`{text}` is no size; write 50MiB"))
}

#[derive(Args, Debug)]
pub struct PushArgs {
    /// Its name, or its id, or the beginning of the id
    image: String,
    /// To these hosts: h1, h[1-3]; to all when left out
    #[arg(long, value_name = "HOSTS", default_value = "", hide_default_value = true)]
    to: String,
    /// At most so much a second leaves a host for each of those after it: 50MiB
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    rate: Option<u64>,
}

/// Sends an image to hosts, and shows how far it is.
pub async fn push(context: &Context, args: PushArgs) -> Result<Exit, Failure> {
    let PushArgs { image, to, rate } = args;
    let mut client = connect::connect(context, Start::IfUsed).await?;
    let request = PushImageRequest { image: image.clone(), hosts: to, rate: rate.unwrap_or(0) };
    let stream = client.push_image(request).await?.into_inner();
    let summary = up::follow(context, &format!("push {image}"), stream).await?.summary;
    if context.json {
        output::json(&serde_json::json!({
            "image": image, "targets": summary.targets, "outcomes": output::folds_json(&summary.folds),
            "elapsed_ms": summary.elapsed_ms,
        }));
    }
    Ok(if up::failed(&summary) > 0 { Exit::Partial } else { Exit::Ok })
}

pub fn image(context: &Context, args: &ImageArgs) -> Result<Exit, Failure> {
    let store = ImageStore::open(&context.config.image_store).map_err(failure)?;
    match &args.verb {
        Verb::Build { recipe, kernel, name, init } => {
            let mut recipe = Recipe::load(recipe).map_err(failure)?;
            for kernel in kernel {
                recipe.set_kernel(kernel).map_err(failure)?;
            }
            if let Some(name) = name {
                recipe.name.clone_from(name);
            }
            let image = build(context, &store, &recipe, init.clone())?;
            let size = output::bytes(image.size_bytes);
            if context.json {
                output::json(&serde_json::json!({
                    "name": image.name, "id": image.id.as_str(), "size_bytes": image.size_bytes,
                }));
            } else {
                output::say!("image {} is {} ({size})", image.name, image.id.short());
            }
            Ok(Exit::Ok)
        }
        Verb::Push(_) => Err(Failure::internal("an image is pushed by the controller")),
        Verb::Ls => ls(context, &store),
        Verb::Show { image } => show(context, &store, image),
        Verb::Rm { images } => rm(context, &store, images),
    }
}

/// Builds what the plan needs and the store lacks, where fleet knows the recipe.
///
/// # Errors
/// When an image can neither be found nor built.
pub async fn ensure(context: &Context, plan: &Plan) -> Result<(), Failure> {
    let mut names: Vec<Arc<str>> = plan.groups().map(|group| group.class.image).collect();
    names.sort();
    names.dedup();
    let store = ImageStore::open(&context.config.image_store).map_err(failure)?;
    for name in names {
        match store.resolve(&name) {
            Ok(_) => {}
            Err(_) if Recipe::builtin().any(|recipe| recipe == &*name) => {
                eprintln!("fleet: the image {name} is not here yet; building it once");
                let store = ImageStore::open(&context.config.image_store).map_err(failure)?;
                // The build blocks, and nothing else is under way in this process.
                build(context, &store, &Recipe::load(&name).map_err(failure)?, None)?;
            }
            Err(error) => return Err(failure(error)),
        }
    }
    Ok(())
}

fn build(
    context: &Context,
    store: &ImageStore,
    recipe: &Recipe,
    init: Option<PathBuf>,
) -> Result<fleet_images::Image, Failure> {
    let init = match init {
        Some(init) => init,
        None => find_init()?,
    };
    let builder = Builder::new(store, fleet_images::user_cache(), init);
    let spinner = (!context.json && std::io::stderr().is_terminal()).then(ProgressBar::new_spinner);
    if let Some(spinner) = &spinner {
        spinner.enable_steady_tick(std::time::Duration::from_millis(120));
    }
    let mut told_s = 0;
    let result = builder.build(recipe, &mut |progress| match &spinner {
        Some(spinner) => spinner.set_message(progress.to_string()),
        None if context.json => {}
        None => {
            // A log wants no line for every object file.
            if let Progress::Compiling { seconds, .. } = progress {
                if seconds < told_s + TOLD_EVERY_S {
                    return;
                }
                told_s = seconds;
            } else {
                told_s = 0;
            }
            eprintln!("fleet: {progress}");
        }
    });
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    result.map_err(failure)
}

fn ls(context: &Context, store: &ImageStore) -> Result<Exit, Failure> {
    let entries = store.list().map_err(failure)?;
    if context.json {
        let images: Vec<_> = entries
            .iter()
            .map(|entry| match &entry.image {
                Ok(image) => serde_json::json!({
                    "name": entry.name, "id": entry.id.as_str(), "size_bytes": image.size_bytes,
                    "uml": image.uml.is_some(), "x86": image.x86.is_some(), "damage": null,
                    "uml_kernel": image.uml.as_ref().map(|files| origin_json(&files.origin)),
                    "x86_kernel": image.x86.as_ref().map(|files| origin_json(&files.origin)),
                }),
                Err(damage) => serde_json::json!({ "name": entry.name, "id": entry.id.as_str(), "damage": damage }),
            })
            .collect();
        output::json(&serde_json::json!({ "images": images }));
        return Ok(Exit::Ok);
    }
    if entries.is_empty() {
        output::say!("no images; `fleet image build tiny` builds one");
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["NAME", "ID", "SIZE", "KERNELS", "BUILT"]);
    for entry in &entries {
        let (size, kernels, built) = match &entry.image {
            Ok(image) => {
                let kernels = [
                    image.uml.as_ref().map(|files| format!("uml: {}", origin_short(&files.origin))),
                    image.x86.as_ref().map(|files| format!("qemu: {}", origin_short(&files.origin))),
                ];
                let built = image.built_at.and_then(|time| time.elapsed().ok());
                (
                    output::bytes(image.size_bytes),
                    kernels.into_iter().flatten().collect::<Vec<_>>().join(", "),
                    built.map(|age| format!("{} ago", output::duration(age.as_secs() * 1000))).unwrap_or_default(),
                )
            }
            Err(damage) => (String::new(), damage.clone(), String::new()),
        };
        table.row(vec![entry.name.clone(), entry.id.short().to_owned(), size, kernels, built]);
    }
    table.print();
    Ok(Exit::Ok)
}

fn show(context: &Context, store: &ImageStore, name: &str) -> Result<Exit, Failure> {
    let image = store.resolve(name).map_err(failure)?;
    let parts: Vec<Part<'_>> = [
        image.uml.as_ref().map(|files| Part {
            hypervisor: "uml",
            origin: &files.origin,
            root: match &files.root {
                RootFs::Initrd(_) => "initrd",
                RootFs::Erofs(_) => "erofs",
            },
            cmdline: &files.cmdline,
            memory_mib: (files.default_mem_mib, files.min_mem_mib),
            max_cpus: files.max_cpus,
            usb: false,
        }),
        image.x86.as_ref().map(|files| Part {
            hypervisor: "qemu",
            origin: &files.origin,
            root: "initrd",
            cmdline: &files.cmdline,
            memory_mib: (files.default_mem_mib, files.min_mem_mib),
            max_cpus: files.max_cpus,
            usb: files.usb,
        }),
    ]
    .into_iter()
    .flatten()
    .collect();
    if context.json {
        let parts: Vec<_> = parts
            .iter()
            .map(|part| {
                serde_json::json!({
                    "hypervisor": part.hypervisor, "kernel": origin_json(part.origin), "root": part.root,
                    "cmdline": part.cmdline, "default_mem_mib": part.memory_mib.0, "min_mem_mib": part.memory_mib.1,
                    "max_cpus": part.max_cpus, "usb": part.usb,
                })
            })
            .collect();
        output::json(&serde_json::json!({
            "name": image.name, "id": image.id.as_str(), "size_bytes": image.size_bytes, "hypervisors": parts,
        }));
        return Ok(Exit::Ok);
    }
    output::say!("{}  {}  {}", image.name, image.id, output::bytes(image.size_bytes));
    for part in parts {
        let kind = if part.origin.tiny { "tiny kernel" } else { "Debian's kernel, package" };
        output::say!("{}", part.hypervisor);
        output::say!("  kernel   Linux {}, {kind} {}", part.origin.version, part.origin.name);
        output::say!("  root     {}", part.root);
        output::say!("  memory   {} MiB, at least {} MiB", part.memory_mib.0, part.memory_mib.1);
        if let Some(most) = part.max_cpus {
            output::say!("  cpu      at most {most}");
        }
        if part.usb {
            output::say!("  usb      its VMs have a controller, for cameras");
        }
        output::say!("  cmdline  {}", part.cmdline);
    }
    Ok(Exit::Ok)
}

/// What an image has for one hypervisor.
struct Part<'a> {
    hypervisor: &'static str,
    origin: &'a KernelOrigin,
    root: &'static str,
    cmdline: &'a str,
    memory_mib: (u32, u32),
    max_cpus: Option<u32>,
    usb: bool,
}

/// "6.1.192-tiny" or "6.1.192-2 (Debian)".
fn origin_short(origin: &KernelOrigin) -> String {
    if origin.tiny { origin.version.clone() } else { format!("{} (Debian)", origin.version) }
}

fn origin_json(origin: &KernelOrigin) -> serde_json::Value {
    serde_json::json!({ "name": origin.name, "tiny": origin.tiny, "version": origin.version })
}

fn rm(context: &Context, store: &ImageStore, images: &[String]) -> Result<Exit, Failure> {
    let mut removed = Vec::new();
    for image in images {
        let result = store.remove(image).map_err(failure)?;
        if !context.json {
            output::say!("removed {} ({} freed)", result.names.join(" "), output::bytes(result.freed_bytes));
        }
        removed.push(serde_json::json!({ "names": result.names, "freed_bytes": result.freed_bytes }));
    }
    if context.json {
        output::json(&serde_json::json!({ "removed": removed }));
    }
    Ok(Exit::Ok)
}

/// The static init: where `make install` puts it, or where cargo does.
fn find_init() -> Result<PathBuf, Failure> {
    let program = std::env::current_exe()?;
    let folder = program.parent().unwrap_or(&program);
    // Not beside this program: a plain `cargo build` puts one there that is not static.
    let candidates =
        [folder.join("../lib/fleet/fleet-init"), folder.join("../x86_64-unknown-linux-gnu/guest/fleet-init")];
    candidates.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        Failure::usage("the guests' init (fleet-init) is not where this program looks for it")
            .help("`make build` builds it; or give its path with `fleet image build NAME --init FILE`")
    })
}

fn failure(error: ImageError) -> Failure {
    Failure::usage(error)
}

/// Where the images of a configuration are, for `doctor`.
pub fn names(config: &Config) -> Result<Vec<String>, Failure> {
    let store = ImageStore::open(&config.image_store).map_err(failure)?;
    Ok(store.list().map_err(failure)?.into_iter().map(|entry| entry.name).collect())
}
