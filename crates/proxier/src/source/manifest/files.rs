//! Reads files and directories, with limits.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::{Diagnostic, Location};
use super::decode;
use super::document::MAX_FILE_BYTES;
use super::parsed::{self, Cache, Parsed, Stamp};

/// The path that means standard input.
const STDIN: &str = "-";
/// Standard input in diagnostics.
const STDIN_NAME: &str = "standard input";

/// A file, or a directory that could not be listed.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// The content, or why it cannot be read.
    pub(super) content: Result<Arc<Parsed>, Diagnostic>,
}

/// Whether a path means standard input, which is read once.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

/// Reads all files at and in `paths`. Files that have not changed are not read again.
pub(super) fn read(paths: &[PathBuf], cache: &mut Cache) -> Vec<Source> {
    let mut sources = Vec::new();
    for path in paths {
        if is_stdin(path) {
            sources.push(read_stdin(cache));
            continue;
        }
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
    !hidden && matches!(extension, Some("yaml" | "yml" | "json" | "jsonl"))
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
    let content = read_changed(path, cache).map_err(|error| error_at(path, &error));
    Source {
        path: path.to_owned(),
        content,
    }
}

fn read_changed(path: &Path, cache: &mut Cache) -> io::Result<Arc<Parsed>> {
    // Not pipes: opening one would block until its other end is opened.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a file"));
    }
    // On a network file system, only an open file has current metadata.
    let file = File::open(path)?;
    let stamp = Stamp::of(&file.metadata()?);
    if let Some(known) = cache.file(path)
        && stamp.is_some()
        && known.stamp == stamp
    {
        let parsed = Arc::clone(&known.parsed);
        cache.keep(path);
        return Ok(parsed);
    }
    let text = text(file)?;
    Ok(decode(path, path, &text, stamp, cache))
}

fn read_stdin(cache: &mut Cache) -> Source {
    let (path, name) = (Path::new(STDIN), Path::new(STDIN_NAME));
    let content = match cache.file(path) {
        Some(known) => {
            let parsed = Arc::clone(&known.parsed);
            cache.keep(path);
            Ok(parsed)
        }
        None => match text(io::stdin().lock()) {
            Ok(text) => Ok(decode(path, name, &text, None, cache)),
            Err(error) => Err(error_at(name, &error)),
        },
    };
    Source {
        path: name.to_owned(),
        content,
    }
}

fn decode(
    path: &Path,
    name: &Path,
    text: &str,
    stamp: Option<Stamp>,
    cache: &mut Cache,
) -> Arc<Parsed> {
    let (parsed, documents) = decode::decode(name, text, cache, path);
    let parsed = Arc::new(parsed);
    let file = parsed::File {
        stamp,
        parsed: Arc::clone(&parsed),
        documents,
    };
    cache.insert(path, file);
    parsed
}

fn text(file: impl Read) -> io::Result<String> {
    let mut text = String::new();
    let limit = MAX_FILE_BYTES as u64 + 1;
    file.take(limit).read_to_string(&mut text)?;
    if text.len() > MAX_FILE_BYTES {
        let message = format!("more than {} MiB: split it", MAX_FILE_BYTES >> 20);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &io::Error) -> Source {
    Source {
        path: path.to_owned(),
        content: Err(error_at(path, error)),
    }
}

fn error_at(path: &Path, error: &io::Error) -> Diagnostic {
    Diagnostic::error(format_args!("cannot be read: {error}")).at(Location::new(path))
}
