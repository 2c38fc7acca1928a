//! Paths.

use std::path::{Path, PathBuf};

/// The workspace's top directory.
pub(crate) fn workspace() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// Files of the VM: kernels, images, logs, results.
pub(crate) fn vm() -> PathBuf {
    workspace().join("target/vm")
}
