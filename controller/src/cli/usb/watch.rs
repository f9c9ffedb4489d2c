//! `fleet usb watch`: what changes of cameras, a line each.

use std::collections::BTreeMap;

use fleet_proto::v1::{CameraState, CameraView, CamerasRequest, ControllerCameras};

use super::{colored, holder, name, place, serial, view_json};
use crate::cli::connect::{self, Start};
use crate::cli::telemetry::time;
use crate::cli::{Context, Exit, Failure, output};

/// What a line of `watch` is about: a change of anything else is not told.
type Seen = (CameraState, String, String, String, String);

fn seen(view: &CameraView) -> Seen {
    let camera = view.camera.clone().unwrap_or_default();
    (view.state(), place(&camera), holder(view), camera.persona, view.detail.clone())
}

/// What `watch` has told.
#[derive(Default)]
struct Told {
    cameras: BTreeMap<(String, String), (Seen, CameraView)>,
    silent: Vec<String>,
}

/// A line of `watch`.
#[derive(Debug, PartialEq)]
enum Line {
    Camera(Box<CameraView>),
    Forgotten(Box<CameraView>),
    Silent(String),
    Answers(String),
}

impl Told {
    /// What is new.
    fn take(&mut self, now: ControllerCameras) -> Vec<Line> {
        let mut lines = Vec::new();
        lines.extend(now.unknown_hosts.iter().filter(|host| !self.silent.contains(host)).cloned().map(Line::Silent));
        lines.extend(self.silent.iter().filter(|host| !now.unknown_hosts.contains(host)).cloned().map(Line::Answers));
        self.silent = now.unknown_hosts;
        let mut before = std::mem::take(&mut self.cameras);
        for view in now.cameras {
            let camera = view.camera.clone().unwrap_or_default();
            let key = (camera.host, camera.id);
            let is = seen(&view);
            if before.remove(&key).is_none_or(|(was, _)| was != is) {
                lines.push(Line::Camera(Box::new(view.clone())));
            }
            self.cameras.insert(key, (is, view));
        }
        // Those of a host that went silent are told by that.
        let gone = before.into_values().map(|(_, view)| view);
        let of_silent = |view: &CameraView| view.camera.as_ref().is_some_and(|it| self.silent.contains(&it.host));
        lines.extend(gone.filter(|view| !of_silent(view)).map(|view| Line::Forgotten(Box::new(view))));
        lines
    }
}

/// Prints how cameras are, then each change, until the stream or the user ends it.
pub async fn watch(context: &Context) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUsed).await?;
    let mut stream = client.watch_cameras(CamerasRequest {}).await?.into_inner();
    let mut told = Told::default();
    let mut is_first = true;
    while let Some(now) = stream.message().await? {
        if std::mem::take(&mut is_first) && now.cameras.is_empty() && !context.json {
            eprintln!("fleet: no camera is there; each change is shown, ctrl-C ends this");
        }
        let at = output::now_ms();
        for line in told.take(now) {
            output::print(&if context.json { line_json(&line, at) } else { line_text(context, &line, at) });
        }
    }
    Ok(Exit::Ok)
}

fn line_text(context: &Context, line: &Line, at: u64) -> String {
    let at = time(at);
    let of = |view: &CameraView, state: String| {
        let camera = view.camera.clone().unwrap_or_default();
        let called = format!("{} {}", name(&camera), serial(&camera));
        let words = [holder(view), view.detail.clone()].into_iter().filter(|word| !word.is_empty());
        let words = words.collect::<Vec<_>>().join(": ");
        format!("{at} {called:<26} {:<20} {state} {words}", place(&camera)).trim_end().to_owned() + "\n"
    };
    match line {
        Line::Camera(view) => of(view, colored(view.state(), context.color)),
        Line::Forgotten(view) => of(view, "forgotten".to_owned()),
        Line::Silent(host) => format!("{at} {host} does not answer\n"),
        Line::Answers(host) => format!("{at} {host} answers\n"),
    }
}

fn line_json(line: &Line, at: u64) -> String {
    let value = match line {
        Line::Camera(view) => serde_json::json!({ "ts_ms": at, "camera": view_json(view) }),
        Line::Forgotten(view) => serde_json::json!({ "ts_ms": at, "forgotten": view_json(view) }),
        Line::Silent(host) => serde_json::json!({ "ts_ms": at, "host": host, "answers": false }),
        Line::Answers(host) => serde_json::json!({ "ts_ms": at, "host": host, "answers": true }),
    };
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::super::tests::view;
    use super::*;

    fn all(cameras: Vec<CameraView>, silent: &[&str]) -> ControllerCameras {
        ControllerCameras { cameras, unknown_hosts: silent.iter().map(ToString::to_string).collect() }
    }

    #[test]
    fn a_change_of_a_camera_is_one_line_and_what_stays_is_none() {
        let (free, busy) = (view("a", CameraState::Available, ""), view("a", CameraState::Busy, "process 7"));
        let other = view("b", CameraState::Available, "");
        let mut told = Told::default();
        let first = told.take(all(vec![free.clone(), other.clone()], &[]));
        assert_eq!(first, [Line::Camera(Box::new(free.clone())), Line::Camera(Box::new(other.clone()))]);
        assert_eq!(told.take(all(vec![free, other.clone()], &[])), []);
        let changed = told.take(all(vec![busy.clone(), other.clone()], &[]));
        assert_eq!(changed, [Line::Camera(Box::new(busy))]);
        assert_eq!(told.take(all(vec![other.clone()], &[])).len(), 1, "one is forgotten");
        assert_eq!(told.take(all(vec![], &["h1"])), [Line::Silent("h1".into())]);
        let back = told.take(all(vec![other.clone()], &[]));
        assert_eq!(back, [Line::Answers("h1".into()), Line::Camera(Box::new(other))]);
    }
}
