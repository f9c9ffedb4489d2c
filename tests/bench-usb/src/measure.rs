//! What is measured of a way, whichever it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fleet_softcam::{Address, File, Options, Softcam, pictures};
use sha2::{Digest, Sha256};

use crate::cpu;

/// The serial number of the camera.
pub const SERIAL: &str = "6011";
/// Longest wait for something that takes a second or two.
const DEADLINE: Duration = Duration::from_secs(120);
/// How a guest says which camera it has.
const SERIALS: &str = "cat /sys/bus/usb/devices/*/serial";

/// What is fetched, and how often.
pub struct Load {
    /// Bytes of the picture.
    pub size: usize,
    /// How often.
    pub runs: usize,
}

/// What a way took: medians.
pub struct Figures {
    /// Bytes a second, without what gphoto2 needs for a picture of one byte.
    pub rate: f64,
    /// Seconds of `gphoto2` for the picture.
    pub whole: f64,
    /// Seconds of it for a picture of one byte.
    pub empty: f64,
    /// CPU seconds of QEMU for the picture, with the guest's own work.
    pub qemu: f64,
    /// Of controller and agents.
    pub fleet: f64,
    /// Of the camera.
    pub camera: f64,
    /// Seconds from the plug until the camera is listed, where there is something to list it.
    pub listed: Option<f64>,
    /// Seconds from the wish until the guest has the camera.
    pub seen: f64,
}

/// A guest with a camera, in some way.
pub trait Way {
    /// Runs a line of shell in the guest; gives its output.
    fn shell(&mut self, line: &str) -> Result<String>;
    /// Brings the camera into the guest; returns when whoever does it says that it is done.
    fn attach(&mut self) -> Result<()>;
    /// Takes it out again.
    fn detach(&mut self) -> Result<()>;
    /// Whether the camera is listed; none where nobody lists cameras.
    fn listed(&mut self) -> Result<Option<bool>>;
    /// QEMU's process.
    fn qemu(&mut self) -> Result<u32>;
    /// Processes of fleet.
    fn daemons(&self) -> Vec<u32>;
}

/// A camera with the picture, and one of one byte.
pub fn camera(load: &Load, listen: Address) -> Result<Softcam> {
    let picture = pictures(1, load.size);
    let small = File { name: "SMALL.JPG".to_owned(), bytes: vec![0].into() };
    let files = picture.into_iter().chain([small]).collect();
    Softcam::start(Options { files, ..Options::new(listen, SERIAL) }).context("the camera")
}

/// Measures a way.
pub fn run(load: &Load, camera: &Softcam, way: &mut dyn Way) -> Result<Figures> {
    let mut listed = Vec::new();
    if way.listed()?.is_some() {
        for _ in 0..load.runs {
            camera.unplug();
            until("the camera to be gone from the list", || Ok(way.listed()? == Some(false)))?;
            let begin = Instant::now();
            camera.plug(camera.condition().speed);
            until("the camera to be listed", || Ok(way.listed()? == Some(true)))?;
            listed.push(begin.elapsed().as_secs_f64());
        }
    }
    let mut seen = Vec::new();
    for run in 0..load.runs {
        let begin = Instant::now();
        way.attach()?;
        until("the camera in the guest", || Ok(way.shell(SERIALS)?.lines().any(|line| line == SERIAL)))?;
        seen.push(begin.elapsed().as_secs_f64());
        if run + 1 < load.runs {
            way.detach()?;
            until("the camera to leave the guest", || Ok(!way.shell(SERIALS)?.lines().any(|line| line == SERIAL)))?;
        }
    }
    let daemons = way.daemons();
    let qemu = [way.qemu()?];
    let mut all = Vec::new();
    for _ in 0..load.runs {
        let empty = fetch(way, 2)?;
        let before = (cpu::of(&qemu), cpu::of(&daemons), cpu::own());
        let whole = fetch(way, 1)?;
        all.push((whole, empty, cpu::of(&qemu) - before.0, cpu::of(&daemons) - before.1, cpu::own() - before.2));
        check(load, way)?;
    }
    let of = |value: fn(&(f64, f64, f64, f64, f64)) -> f64| median(all.iter().map(value).collect());
    Ok(Figures {
        rate: median(all.iter().map(|run| load.size as f64 / (run.0 - run.1)).collect()),
        whole: of(|run| run.0),
        empty: of(|run| run.1),
        qemu: of(|run| run.2),
        fleet: of(|run| run.3),
        camera: of(|run| run.4),
        listed: (!listed.is_empty()).then(|| median(listed)),
        seen: median(seen),
    })
}

/// Seconds that a download takes, by the guest's clock.
fn fetch(way: &mut dyn Way, number: usize) -> Result<f64> {
    let now = "cut -d' ' -f1 /proc/uptime";
    let text = way.shell(&format!(
        "cd /tmp && begin=$({now}) && gphoto2 --get-file {number} --filename picture{number} --force-overwrite >/dev/null && \
         echo $begin $({now})"
    ))?;
    let times: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    ensure!(times.len() == 2, "the download failed: {text}");
    Ok(times[1] - times[0])
}

/// The picture is the camera's.
fn check(load: &Load, way: &mut dyn Way) -> Result<()> {
    let wanted =
        pictures(1, load.size).iter().flat_map(|file| Sha256::digest(&file.bytes).to_vec()).collect::<Vec<u8>>();
    let wanted: String = wanted.iter().map(|byte| format!("{byte:02x}")).collect();
    let got = way.shell("cd /tmp && sha256sum picture1 && rm picture1")?;
    ensure!(got.starts_with(&wanted), "the picture came over wrong: {got}");
    Ok(())
}

fn until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + DEADLINE;
    while !so()? {
        ensure!(Instant::now() < end, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The middle value; of an even number, the upper one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
