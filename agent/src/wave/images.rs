//! Images that come down the tree: pieces are kept as they come, and put together when all are there.

use std::sync::Arc;

use fleet_images::{ImageError, ParcelFile};
use fleet_proto::v1::{ImageLacks, ImageTask, Parcel, PieceTask, reply};
use fleet_tree::{Hash, Job, LocalEnd, Sink};

use crate::agent::Agent;

/// Keeps a piece.
pub async fn keep(agent: &Arc<Agent>, piece: &PieceTask, job: &Job) -> LocalEnd {
    let content = Hash::try_from(piece.hash.as_slice()).ok().and_then(|hash| job.content.get(&hash).cloned());
    let Some(content) = content else {
        return LocalEnd::failed("the wave lacks its piece; run the same version of fleet on all hosts", Vec::new());
    };
    let agent = Arc::clone(agent);
    match blocking(move || agent.images.keep_piece(&content)).await {
        Ok(()) => LocalEnd::ok(Vec::new()),
        Err(reason) => LocalEnd::failed(reason, Vec::new()),
    }
}

/// Says what is missing of an image, or puts it together.
pub async fn image(agent: &Arc<Agent>, task: ImageTask, sink: &Sink) -> LocalEnd {
    let ImageTask { parcel, install } = task;
    let parcel = read(parcel.unwrap_or_default());
    let of = Arc::clone(agent);
    if install {
        let installed = blocking(move || of.images.install(&parcel)).await;
        let probing = Arc::clone(agent);
        agent.keep(tokio::spawn(async move {
            // With its first image a host can try what it could not before; the controller is told.
            let _ = probing.probed().await;
            probing.tell_held();
        }));
        return installed.map_or_else(|reason| LocalEnd::failed(reason, Vec::new()), |_| LocalEnd::ok(Vec::new()));
    }
    match blocking(move || of.images.lacks(&parcel)).await {
        Ok(missing) => {
            let lacks = ImageLacks { has: missing.is_none(), missing: runs(&missing.unwrap_or_default()) };
            sink.reply(reply::Reply::Lacks(lacks)).await;
            LocalEnd::ok(Vec::new())
        }
        Err(reason) => LocalEnd::failed(reason, Vec::new()),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn read(parcel: Parcel) -> fleet_images::Parcel {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let file = |file: fleet_proto::v1::ParcelFile| ParcelFile {
        sha256: hex(&file.hash),
        bytes: file.bytes,
        executable: file.executable,
        pieces: file.pieces.iter().map(|piece| hex(piece)).collect(),
    };
    fleet_images::Parcel {
        name: parcel.name,
        manifest: parcel.manifest,
        files: parcel.files.into_iter().map(file).collect(),
    }
}

/// Ascending numbers as runs: first, count, first, count, …
fn runs(numbers: &[usize]) -> Vec<u32> {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let runs = numbers.chunk_by(|a, b| *b == *a + 1);
    runs.flat_map(|run| [small(run.first().copied().unwrap_or(0)), small(run.len())]).collect()
}

#[cfg(test)]
mod tests {
    use super::runs;

    #[test]
    fn numbers_that_follow_one_another_are_a_run() {
        assert_eq!(runs(&[0, 1, 2, 7, 9, 10]), [0, 3, 7, 1, 9, 2]);
        assert!(runs(&[]).is_empty());
    }
}
