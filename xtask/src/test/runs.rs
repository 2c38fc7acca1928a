//! Running test programs, here or in the VM.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::binaries::Binary;
use super::libtest::Output;
use super::report::Outcome;
use crate::process;
use crate::vm::{Job, Machine, MachineArgs, quote};

/// Where tests run.
pub(super) enum Place {
    Here,
    Machine(MachineArgs),
}

/// A test program to run.
pub(super) struct Run<'a> {
    pub(super) binary: &'a Binary,
    pub(super) arguments: Vec<&'a str>,
    /// The names of the tests it will run.
    pub(super) expected: Vec<String>,
}

/// Ends what hangs, after seconds; not what is slow, under emulation on a busy machine.
const TIMEOUT: &str = "timeout --kill-after=10 2400";

/// Before and after each program, on a line of its own, with the program's number.
const START: &str = "::start ";
const END: &str = "::end ";

/// Runs `runs` one after the other, shows their output, and returns what came of each.
///
/// A test that the program did not report, since it or the whole machine died, has failed.
pub(super) fn execute(
    runs: &[Run<'_>],
    svcproxy: &Path,
    place: &Place,
) -> Result<Vec<BTreeMap<String, Outcome>>> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let script = script(runs, svcproxy);
    let mut reader = Reader::new(runs);
    match place {
        Place::Here => {
            by_line(Command::new("sh").arg("-c").arg(script), |line| {
                reader.line(line)
            })?;
        }
        Place::Machine(args) => {
            let machine = Machine::prepare(args)?;
            let job = Job::here(vec!["sh".into(), "-c".into(), script])?;
            let lines = Lines {
                pending: Vec::new(),
                each: |line: &str| reader.line(line),
            };
            // Its end is in what the tests that it cut off are counted as.
            if let Err(error) = machine.run(&job, lines, io::stderr()) {
                eprintln!("error: {error:#}");
            }
        }
    }
    Ok(reader.finish(runs))
}

/// A shell script, so that the same runs here and in the VM.
fn script(runs: &[Run<'_>], svcproxy: &Path) -> OsString {
    let mut script = b"export SVCPROXY_BIN=".to_vec();
    script.extend(quote(svcproxy.as_os_str()));
    for (
        number,
        Run {
            binary, arguments, ..
        },
    ) in runs.iter().enumerate()
    {
        let directory = quote(binary.directory.as_os_str());
        let words: Vec<_> = [binary.executable.as_os_str().as_bytes()]
            .into_iter()
            .chain(arguments.iter().map(|argument| argument.as_bytes()))
            .map(|word| quote(std::ffi::OsStr::from_bytes(word)))
            .collect();
        // As cargo does: the working directory, and the variable that names it.
        script.extend_from_slice(b"\ncd ");
        script.extend_from_slice(&directory);
        script.extend_from_slice(b" && export CARGO_MANIFEST_DIR=");
        script.extend_from_slice(&directory);
        script.extend_from_slice(format!("\necho '{START}{number}'\n{TIMEOUT} ").as_bytes());
        script.extend_from_slice(&words.join(&b' '));
        script.extend_from_slice(format!("\nprintf '\\n{END}%s\\n' $?").as_bytes());
    }
    OsString::from_vec(script)
}

/// Sorts the script's output by program.
struct Reader<'a> {
    runs: &'a [Run<'a>],
    outputs: Vec<(Output, bool)>,
    current: usize,
}

impl<'a> Reader<'a> {
    fn new(runs: &'a [Run<'a>]) -> Self {
        Self {
            runs,
            outputs: runs.iter().map(|_| (Output::default(), false)).collect(),
            current: 0,
        }
    }

    fn line(&mut self, line: &str) {
        if let Some(number) = line
            .strip_prefix(START)
            .and_then(|number| number.parse().ok())
        {
            self.current = number;
            return;
        }
        let current = self
            .outputs
            .get_mut(self.current)
            .zip(self.runs.get(self.current));
        let Some(((output, success), run)) = current else {
            return;
        };
        match line.strip_prefix(END) {
            Some(status) => *success = status == "0",
            None => output.show(line, &run.binary.name),
        }
    }

    fn finish(self, runs: &[Run<'_>]) -> Vec<BTreeMap<String, Outcome>> {
        let results = self.outputs.into_iter().zip(runs);
        results
            .map(|((output, success), run)| output.outcomes(&run.expected, success))
            .collect()
    }
}

/// Runs `command`, gives each line of its standard output to `each`, and tells its success.
pub(super) fn by_line(command: &mut Command, mut each: impl FnMut(&str)) -> Result<bool> {
    let start = || format!("cannot start `{}`", process::display(command));
    let start = start();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(start)?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            each(&String::from_utf8_lossy(&line?));
        }
    }
    Ok(child.wait()?.success())
}

/// Splits what is written to it into lines.
struct Lines<F> {
    pending: Vec<u8>,
    each: F,
}

impl<F: FnMut(&str)> Write for Lines<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &byte in bytes {
            if byte == b'\n' {
                (self.each)(&String::from_utf8_lossy(&self.pending));
                self.pending.clear();
            } else {
                self.pending.push(byte);
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
