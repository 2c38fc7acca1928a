//! The parts, and the archive of them.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::{Builder, EntryType, Header};

use super::mask::mask;

/// The longest part, in bytes; the rest is cut off.
const LONGEST: usize = 32 << 20;

/// A part: a file of the archive.
#[derive(Debug)]
pub(super) struct Part {
    /// The path in the archive.
    name: String,
    what: &'static str,
    /// The text without secrets, or why there is none.
    text: Result<String, String>,
    is_cut: bool,
}

/// All parts, in order.
#[derive(Debug)]
pub(super) struct Parts {
    all: Vec<Part>,
    /// How long each may take.
    limit: Duration,
}

impl Parts {
    pub(super) const fn new(limit: Duration) -> Self {
        let all = Vec::new();
        Self { all, limit }
    }

    /// Collects a part in a thread of its own. One that fails, panics or takes too long costs only
    /// itself; its thread is left behind, and ends with the process.
    pub(super) fn collect(
        &mut self,
        name: impl Into<String>,
        what: &'static str,
        collect: impl FnOnce() -> anyhow::Result<String> + Send + 'static,
    ) {
        let (deliver, delivered) = mpsc::channel();
        let spawned = thread::Builder::new().spawn(move || {
            // If it is late, nothing receives it any more.
            let _ = deliver.send(collect());
        });
        let text = match spawned {
            Err(error) => Err(format!("no thread: {error}")),
            Ok(_) => match delivered.recv_timeout(self.limit) {
                Ok(Ok(text)) => Ok(text),
                Ok(Err(error)) => Err(format!("{error:#}")),
                Err(mpsc::RecvTimeoutError::Timeout) => Err(format!(
                    "not ready within {:?} (--part-timeout)",
                    self.limit
                )),
                Err(mpsc::RecvTimeoutError::Disconnected) => Err("an internal error".to_owned()),
            },
        };
        self.add(name.into(), what, text);
    }

    /// Records that a part cannot be had.
    pub(super) fn lack(&mut self, name: &str, what: &'static str, why: &str) {
        self.add(name.to_owned(), what, Err(why.to_owned()));
    }

    fn add(&mut self, name: String, what: &'static str, text: Result<String, String>) {
        let mut is_cut = false;
        let text = text.map(|text| {
            let mut text = mask(&text);
            if text.len() > LONGEST {
                is_cut = true;
                let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
                text.truncate(end.unwrap_or_default());
            }
            text
        });
        self.all.push(Part {
            name,
            what,
            text: text.map_err(|error| mask(&error)),
            is_cut,
        });
    }

    /// The number of parts, and of those that are missing.
    pub(super) fn counts(&self) -> (usize, usize) {
        let missing = self.all.iter().filter(|part| part.text.is_err());
        (self.all.len(), missing.count())
    }

    /// What the archive holds, and what not and why.
    pub(super) fn manifest(&self, head: &str) -> String {
        let mut text = format!(
            "{head}\nTokens, passwords, certificates and keys are masked as ***. Kubeconfigs, \
             manifests and the contents of Secrets are not collected.\n\nFILE\tBYTES\tWHAT\n"
        );
        for Part {
            name,
            what,
            text: content,
            is_cut,
        } in &self.all
        {
            // Writing to a `String` cannot fail.
            let _ = match content {
                Ok(content) => {
                    let cut = if *is_cut { " (cut off)" } else { "" };
                    writeln!(text, "{name}\t{}{cut}\t{what}", content.len())
                }
                Err(why) => {
                    let why = why.replace(['\n', '\t'], " ");
                    writeln!(text, "{name}\tmissing\t{what}: {why}")
                }
            };
        }
        text
    }

    /// Writes the archive: all parts in a directory of this name, the manifest first.
    pub(super) fn write(&self, out: impl Write, directory: &str, manifest: &str) -> io::Result<()> {
        let mut archive = Builder::new(GzEncoder::new(out, Compression::default()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.unwrap_or_default().as_secs();
        let mut put = |name: &str, text: &str| {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_mode(0o600);
            header.set_mtime(now);
            header.set_size(u64::try_from(text.len()).unwrap_or(u64::MAX));
            archive.append_data(&mut header, format!("{directory}/{name}"), text.as_bytes())
        };
        put("MANIFEST.txt", manifest)?;
        for part in &self.all {
            if let Ok(text) = &part.text {
                put(&part.name, text)?;
            }
        }
        let mut out = archive.into_inner()?.finish()?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn read(archive: &[u8]) -> Vec<(String, String)> {
        let mut archive = tar::Archive::new(GzDecoder::new(archive));
        let entries = archive.entries().unwrap();
        entries
            .map(|entry| {
                let mut entry = entry.unwrap();
                assert_eq!(entry.header().mode().unwrap(), 0o600);
                let name = entry.path().unwrap().display().to_string();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (name, text)
            })
            .collect()
    }

    #[test]
    fn one_part_that_fails_costs_only_itself() {
        let mut parts = Parts::new(Duration::from_secs(3));
        parts.collect("good.txt", "good", || {
            Ok("token: hunter2\nfine\n".to_owned())
        });
        parts.collect("bad.txt", "bad", || {
            anyhow::bail!("no such\tthing, token: hunter2")
        });
        parts.collect("slow.txt", "slow", || {
            thread::sleep(Duration::from_secs(60));
            Ok(String::new())
        });
        parts.collect("broken.txt", "broken", || panic!("broken"));
        parts.lack("absent.txt", "absent", "nobody has it");
        parts.collect("last.txt", "last", || Ok("last\n".to_owned()));
        assert_eq!(parts.counts(), (6, 4));
        let manifest = parts.manifest("node node-a");
        let mut archive = Vec::new();
        parts.write(&mut archive, "bundle", &manifest).unwrap();
        let files = read(&archive);
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(
            names,
            ["bundle/MANIFEST.txt", "bundle/good.txt", "bundle/last.txt"]
        );
        assert_eq!(files[1].1, "token: ***\nfine\n");
        let lines: Vec<_> = manifest.lines().collect();
        assert!(lines.contains(&"good.txt\t16\tgood"), "{manifest}");
        assert!(lines.contains(&"absent.txt\tmissing\tabsent: nobody has it"));
        assert!(lines.contains(&"broken.txt\tmissing\tbroken: an internal error"));
        assert!(manifest.contains("slow.txt\tmissing\tslow: not ready within 3s"));
        assert!(manifest.contains("bad.txt\tmissing\tbad: no such thing, token: ***"));
    }
}
