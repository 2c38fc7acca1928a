//! Runs the iptables programs.

use std::fmt::Display;
use std::io;
use std::io::{BufWriter, Write};
use std::process::{ChildStdin, Command};
use std::time::Duration;

use ipvs::Family;
use netlink::Own;
use netlink::uapi::NETLINK_NETFILTER;

use super::{Flavour, Refusal};
use crate::mode::BackendError;
use crate::program;

/// Time limit of a program: several times what legacy iptables takes for 10,000 Services on a slow
/// machine.
const TIME_LIMIT: Duration = Duration::from_secs(120);

/// The operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// Print all rules.
    Save,
    /// Print all rules with their packet counters.
    Count,
    /// Change rules.
    Restore,
    /// Check whether a change would succeed.
    Test,
    /// Print the version.
    Version,
}

/// An iptables program with its arguments.
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
            // `-w` waits for the xtables lock for this number of seconds.
            Verb::Restore => ("-restore", &["--noflush", "-w", "5"]),
            Verb::Test => ("-restore", &["--noflush", "-w", "5", "--test"]),
            Verb::Version => ("", &["--version"]),
        };
        let name = format!("{base}{}{end}", flavour.infix());
        Self { name, arguments }
    }

    /// Runs the program, and returns its output. The program reads the input while it is being
    /// formatted.
    pub(crate) fn run(&self, input: &(impl Display + Sync)) -> Result<String, BackendError> {
        let cannot = |source| BackendError::Program {
            program: self.name.clone(),
            source,
        };
        let mut command = Command::new(&self.name);
        let command = command.args(self.arguments);
        // The watch must not take svcproxy's own changes for those of others.
        let mark = |process| Own::of_program(NETLINK_NETFILTER, process);
        let output = program::output(command, TIME_LIMIT, mark, |stdin| {
            // If the program stops reading, its exit code gives the reason.
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

/// The capacity of a pipe, see pipe(7).
const PIPE: usize = 64 * 1024;
