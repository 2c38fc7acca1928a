//! Files and directories, read with bounds.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::super::{Diagnostic, Location};
use super::cache::Cache;
use super::decode::{self, Parsed};
use super::document::MAX_FILE_BYTES;

/// A file, or a directory that could not be listed.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// What is in it, or why that cannot be told.
    pub(super) content: Result<Parsed, Diagnostic>,
}

/// Reads all files at and in `paths`.
pub(super) fn read(paths: &[PathBuf], cache: &mut Cache) -> Vec<Source> {
    let mut sources = Vec::new();
    for path in paths {
        if !path.is_dir() {
            sources.push(read_file(path, cache));
            continue;
        }
        match list(path) {
            Ok(files) => sources.extend(files.iter().map(|file| read_file(file, cache))),
            Err(error) => sources.push(unreadable(path, &error)),
        }
    }
    cache.turn();
    sources
}

/// Whether a directory's entry of this name is a manifest. The names of a ConfigMap volume's own
/// parts begin with dots, and so do many editors' temporary files.
pub(super) fn is_manifest(name: &Path) -> bool {
    let hidden = name
        .file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let extension = name.extension().and_then(|extension| extension.to_str());
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if is_manifest(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path, cache: &mut Cache) -> Source {
    match text(path) {
        Ok(text) => Source {
            path: path.to_owned(),
            content: Ok(decode::decode(path, &text, cache)),
        },
        Err(error) => unreadable(path, &error),
    }
}

fn text(path: &Path) -> io::Result<String> {
    // Opening a pipe would wait for its other end.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    let mut text = String::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    File::open(path)?.take(limit).read_to_string(&mut text)?;
    if text.len() > MAX_FILE_BYTES {
        let message = format!("more than {} MiB: split it", MAX_FILE_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Source {
    Source {
        path: path.to_owned(),
        content: Err(
            Diagnostic::error(format_args!("cannot be read: {error}")).at(Location::new(path))
        ),
    }
}
