//! One order at a time for each camera, and not too many at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fleet_usb::lease::CameraId;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use super::locked;

/// Steps that nobody asked for, at once.
const STEPS: usize = 16;

/// A camera that somebody is at, until this is dropped.
pub struct Held {
    _camera: OwnedMutexGuard<()>,
    _place: Option<OwnedSemaphorePermit>,
}

/// Who is at which camera.
pub struct Locks {
    cameras: Mutex<BTreeMap<CameraId, Arc<AsyncMutex<()>>>>,
    steps: Arc<Semaphore>,
}

impl Default for Locks {
    fn default() -> Self {
        Self { cameras: Mutex::default(), steps: Arc::new(Semaphore::new(STEPS)) }
    }
}

impl Locks {
    /// For a step of the controller's own: none when somebody is at the camera, or too much is under way.
    pub fn try_for_step(&self, camera: &CameraId) -> Option<Held> {
        let place = Arc::clone(&self.steps).try_acquire_owned().ok()?;
        let camera = self.of(camera).try_lock_owned().ok()?;
        Some(Held { _camera: camera, _place: Some(place) })
    }

    /// For a user, who waits so long for what is under way.
    pub async fn for_user(&self, camera: &CameraId, within: Duration) -> Option<Held> {
        let camera = tokio::time::timeout(within, self.of(camera).lock_owned()).await.ok()?;
        Some(Held { _camera: camera, _place: None })
    }

    fn of(&self, camera: &CameraId) -> Arc<AsyncMutex<()>> {
        let mut cameras = locked(&self.cameras);
        // Those that nobody is at, nor waits for.
        cameras.retain(|id, lock| id == camera || Arc::strong_count(lock) > 1);
        Arc::clone(cameras.entry(camera.clone()).or_default())
    }
}
