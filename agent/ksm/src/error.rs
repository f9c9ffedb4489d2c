//! What can go wrong.

use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why KSM is not regulated, or not as it should be.
#[derive(Debug, Error)]
pub enum KsmError {
    /// The kernel has no KSM.
    #[error("this kernel has no KSM ({0} is not there); memory is not merged. It needs CONFIG_KSM")]
    Missing(PathBuf),
    /// A setting or counter cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A setting cannot be written.
    #[error("cannot write `{value}` to {path}: {source}; KSM needs root, and /sys writable")]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// Why.
        source: std::io::Error,
    },
    /// Pages are merged, so the kernel does not take this setting back yet.
    #[error("max_page_sharing is put back when no page is merged any more; it stays written down until then")]
    Merged,
    /// A file of the kernel's has an unknown form.
    #[error("{path} says `{text}`, which is not understood")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What it says.
        text: String,
    },
    /// Another regulator of this host holds the lock.
    #[error("another agent regulates KSM on this host (it holds {0}); this one leaves it alone")]
    Held(PathBuf),
    /// The folder or file of the found settings cannot be used.
    #[error("cannot keep the settings that were found in {path}: {source}; KSM is left alone")]
    Keep {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Something else on the host changed a setting that this regulator had set.
    #[error("another program set {name} to {found} (fleet had set {ours}); KSM is left to it until VMs are started")]
    Foreign {
        /// The setting.
        name: &'static str,
        /// What it is now.
        found: u64,
        /// What it was set to here.
        ours: u64,
    },
}

impl KsmError {
    pub(crate) fn read(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| KsmError::Read { path: path.to_owned(), source }
    }

    pub(crate) fn keep(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| KsmError::Keep { path: path.to_owned(), source }
    }
}
