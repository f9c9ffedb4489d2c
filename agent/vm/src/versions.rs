//! Versions of programs, each asked once for as long as the file stays the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::error::VmError;
use crate::template::FileMark;

/// For a program to say its version.
const DEADLINE: Duration = Duration::from_secs(10);

/// What is known.
#[derive(Debug, Default)]
pub(crate) struct Versions {
    known: Mutex<HashMap<PathBuf, (FileMark, String)>>,
}

impl Versions {
    /// The version of a program: "7.2.22".
    ///
    /// # Errors
    /// When it cannot be run, or does not say.
    pub(crate) async fn of(&self, program: &Path) -> Result<String, VmError> {
        let metadata = std::fs::metadata(program).map_err(VmError::io("cannot examine", program))?;
        let mark = FileMark::of(&metadata);
        // Held while the program is asked: others that want to know would all ask it.
        let mut known = self.known.lock().await;
        if let Some((_, version)) = known.get(program).filter(|(of, _)| *of == mark) {
            return Ok(version.clone());
        }
        let doing = || format!("`{} --version`", program.display());
        let asked = Command::new(program).arg("--version").env("LC_ALL", "C").kill_on_drop(true).output();
        let said = timeout(DEADLINE, asked)
            .await
            .map_err(|_| VmError::Deadline { doing: doing(), deadline: DEADLINE })?
            .map_err(VmError::io("cannot start", program))?;
        let version = version_in(&String::from_utf8_lossy(&said.stdout)).ok_or_else(|| {
            let problem = "says no version".to_owned();
            VmError::NotUsable { choice: doing(), reason: problem }
        })?;
        known.insert(program.to_owned(), (mark, version.clone()));
        Ok(version)
    }
}

/// Major and minor number of "7.2.22"; what is no number counts as 0.
pub(crate) fn major_minor(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// "7.2.22" of "QEMU emulator version 7.2.22 (Debian …)".
fn version_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once(" version ")?;
    let version = rest.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
    (!version.is_empty()).then(|| version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_found_in_what_a_program_says() {
        let said = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright (c) 2003-2022 …\n";
        assert_eq!(version_in(said).as_deref(), Some("7.2.22"));
        assert_eq!(version_in("QEMU emulator version 10.0.2"), Some("10.0.2".to_owned()));
        assert_eq!(version_in("no such option"), None);
        assert_eq!((major_minor("7.2.22"), major_minor("10.0"), major_minor("x")), ((7, 2), (10, 0), (0, 0)));
    }
}
