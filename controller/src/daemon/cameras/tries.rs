//! What came to nothing, why, and when it is worth another try: later each time. A change that may have mended it brings the
//! next try nearer, but never at once, as a try makes changes itself.

use std::collections::BTreeMap;
use std::time::Duration;

use fleet_usb::lease::CameraId;
use tokio::time::Instant;

/// The first wait, and the least one after a change.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const MOST: Duration = Duration::from_secs(60);
/// What was not tried for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(600);

struct Try {
    count: u32,
    last: Instant,
    until: Instant,
    reason: String,
}

/// All that came to nothing, by camera and by VM or host.
#[derive(Default)]
pub struct Tries {
    all: BTreeMap<(CameraId, String), Try>,
}

impl Tries {
    /// It came to nothing.
    pub fn failed(&mut self, camera: &CameraId, who: &str, reason: &str) {
        let now = Instant::now();
        self.all.retain(|_, it| now.duration_since(it.last) < FORGOTTEN);
        let it = self.all.entry((camera.clone(), who.to_owned())).or_insert_with(|| Try {
            count: 0,
            last: now,
            until: now,
            reason: String::new(),
        });
        let wait = FIRST.saturating_mul(1 << it.count.min(6)).min(MOST);
        *it = Try { count: it.count.saturating_add(1), last: now, until: now + wait, reason: reason.to_owned() };
    }

    /// It is done, or was begun anew by a user.
    pub fn done(&mut self, camera: &CameraId, who: &str) {
        self.all.remove(&(camera.clone(), who.to_owned()));
    }

    /// Something changed of a camera.
    pub fn camera_changed(&mut self, camera: &CameraId) {
        self.hasten(|(of, _)| of == camera);
    }

    /// Something changed of a VM. Whether that matters here.
    pub fn vm_changed(&mut self, holder: &str) -> bool {
        self.hasten(|(_, who)| who == holder)
    }

    fn hasten(&mut self, is: impl Fn(&(CameraId, String)) -> bool) -> bool {
        let mut any = false;
        for (_, it) in self.all.iter_mut().filter(|(key, _)| is(key)) {
            it.until = it.until.min(it.last + FIRST);
            any = true;
        }
        any
    }

    /// Whether it is not to be tried now.
    pub fn rests(&self, camera: &CameraId, who: &str) -> bool {
        let it = self.all.get(&(camera.clone(), who.to_owned()));
        it.is_some_and(|it| Instant::now() < it.until)
    }

    /// When the next one is to be tried.
    pub fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        self.all.values().map(|it| it.until).filter(|until| *until > now).min()
    }

    /// Why a camera was not brought anywhere.
    pub fn trouble(&self, camera: &CameraId) -> Option<String> {
        let of = self.all.iter().filter(|((of, _), _)| of == camera);
        of.max_by_key(|(_, it)| it.last).map(|(_, it)| it.reason.clone())
    }

    /// Which camera a VM was not given, and why.
    pub fn trouble_of(&self, holder: &str) -> Option<(CameraId, String)> {
        let of = self.all.iter().filter(|((_, who), _)| who == holder);
        of.max_by_key(|(_, it)| it.last).map(|((camera, _), it)| (camera.clone(), it.reason.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn tries_come_later_each_time_and_a_change_brings_the_next_nearer_but_not_at_once() {
        let camera = CameraId { host: "h1".into(), camera: "a".into() };
        let mut tries = Tries::default();
        let wait = |tries: &Tries| tries.next().map(|at| at.duration_since(Instant::now()).as_secs());
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            tries.failed(&camera, "x/v", "no");
            assert_eq!(wait(&tries), Some(seconds));
        }
        tries.camera_changed(&camera);
        assert!(tries.rests(&camera, "x/v") && wait(&tries) == Some(1));
        tokio::time::advance(FIRST).await;
        assert!(!tries.rests(&camera, "x/v") && tries.next().is_none());
        assert_eq!(tries.trouble(&camera), Some("no".into()));
        assert_eq!(tries.trouble_of("x/v"), Some((camera.clone(), "no".into())));
        tries.done(&camera, "x/v");
        assert_eq!(tries.trouble_of("x/v"), None);
    }
}
