//! `fleet controller backup FILE` and `fleet controller restore FILE`.

use std::path::Path;

use fleet_proto::v1::BackupRequest;

use super::connect::{self, Start};
use super::{Context, Exit, Failure, output};
use crate::daemon::backup;

/// Writes what the controller that runs hands out, as a private file that is whole or not there.
pub async fn backup(context: &Context, path: &Path) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::Never).await?;
    let mut chunks = client.backup(BackupRequest {}).await?.into_inner();
    let mut content = Vec::new();
    while let Some(chunk) = chunks.message().await? {
        content.extend_from_slice(&chunk.content);
    }
    // What arrived is read as a restore would.
    let backup = backup::parse(path, &content).map_err(Failure::internal)?;
    fleet_pki::write_private(path, &content).map_err(Failure::usage)?;
    if context.json {
        output::json(&serde_json::json!({
            "file": path, "bytes": content.len(), "host": backup.host, "made_ms": backup.made_ms,
        }));
    } else {
        output::say!("backed up: {}, {}", path.display(), output::bytes(content.len() as u64));
        eprintln!("fleet: keep it secret: it has the key of the fleet's certificates");
    }
    Ok(Exit::Ok)
}

/// Puts a backup in place where no controller runs.
pub fn restore(context: &Context, path: &Path, force: bool) -> Result<Exit, Failure> {
    let backup = backup::read(path).map_err(Failure::usage)?;
    crate::daemon::restore_main(&context.config, &backup, force)?;
    if context.json {
        output::json(&serde_json::json!({ "restored": path, "host": backup.host, "made_ms": backup.made_ms }));
    } else {
        output::say!("restored: the controller of {}, as of {} ago", backup.host, output::age(backup.made_ms));
        eprintln!("fleet: its hosts come back when `fleet controller` runs at the address that they know");
    }
    Ok(Exit::Ok)
}
