//! Running iptables' programs.

use std::fmt::Display;
use std::io;
use std::io::{BufWriter, Write};
use std::process::{ChildStdin, Command};
use std::time::Duration;

use ipvs::Family;

use super::{Flavour, Refusal};
use crate::mode::BackendError;
use crate::program;

/// How long a program may take: several times what legacy iptables takes for 10,000 Services on a
/// slow machine.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Print all rules.
    Save,
    /// Print all rules, and how many packets each has taken.
    Count,
    /// Change some.
    Restore,
    /// See whether that could be done.
    Test,
    /// Tell which iptables it is.
    Version,
}

/// One of iptables' programs with its arguments.
#[derive(Debug, Clone)]
pub(crate) struct Program {
    name: String,
    arguments: &'static [&'static str],
}

impl Program {
    pub(crate) fn new(flavour: Flavour, family: Family, verb: Verb) -> Self {
        let base = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let (end, arguments): (_, &[_]) = match verb {
            Verb::Save => ("-save", &[]),
            Verb::Count => ("-save", &["-c"]),
            // The lock is waited for, for so many seconds.
            Verb::Restore => ("-restore", &["--noflush", "-w", "5"]),
            Verb::Test => ("-restore", &["--noflush", "-w", "5", "--test"]),
            Verb::Version => ("", &["--version"]),
        };
        let name = format!("{base}{}{end}", flavour.infix());
        Self { name, arguments }
    }

    /// What it prints. It reads while the input is still being written out.
    pub(crate) fn run(&self, input: &(impl Display + Sync)) -> Result<String, BackendError> {
        let cannot = |source| BackendError::Program {
            program: self.name.clone(),
            source,
        };
        let mut command = Command::new(&self.name);
        let output = program::output(command.args(self.arguments), TIME_LIMIT, |stdin| {
            // A program that reads no further says why by its exit code.
            let _ = write(stdin, input);
        });
        let output = output.map_err(cannot)?;
        if output.status.success() {
            let not_text = |_| cannot(io::ErrorKind::InvalidData.into());
            return String::from_utf8(output.stdout).map_err(not_text);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let refusal = Refusal::new(&self.name, &said);
        Err(BackendError::Iptables(Box::new(refusal)))
    }
}

fn write(stdin: ChildStdin, input: &impl Display) -> io::Result<()> {
    let mut stdin = BufWriter::with_capacity(PIPE, stdin);
    write!(stdin, "{input}")?;
    stdin.flush()
}

/// How much a pipe holds, see pipe(7).
const PIPE: usize = 64 * 1024;
