//! Runs the iptables programs, and parses the errors that they print.

use std::fmt::{self, Display};
use std::io::{self, BufWriter, Write};
use std::process::{ChildStdin, Command};
use std::time::Duration;

use ipvs::Family;
use netlink::Own;
use netlink::uapi::NETLINK_NETFILTER;

use super::Flavour;
use crate::desired::ServicePortName;
use crate::mode::NodeError;
use crate::mode::iptables::Transaction;
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
    lists_rules: bool,
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
        Self {
            name,
            arguments,
            lists_rules: matches!(verb, Verb::Save | Verb::Count),
        }
    }

    /// Runs the program, and returns its output. The program reads the input while it is being
    /// formatted.
    pub(crate) fn run(&self, input: &(impl Display + Sync)) -> Result<String, NodeError> {
        let cannot = |source| NodeError::Program {
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
            let invalid = |flaw| cannot(io::Error::new(io::ErrorKind::InvalidData, flaw));
            // A comment of another program's rule may have any bytes, and is never compared.
            let printed = String::from_utf8_lossy(&output.stdout).into_owned();
            if self.lists_rules {
                whole(&printed).map_err(invalid)?;
            }
            return Ok(printed);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let refusal = Refusal::new(&self.name, &said);
        Err(NodeError::Iptables(Box::new(refusal)))
    }
}

/// Checks that a listing of iptables-save(8) has nothing else and ends where a table ends. Rules that are
/// missing in half a listing would be added once more.
fn whole(saved: &str) -> Result<(), String> {
    let mut open = None;
    // A comment may have line breaks; iptables-save quotes it.
    let mut in_quotes = false;
    for (number, line) in (1..).zip(saved.lines()) {
        let goes_on = in_quotes;
        in_quotes ^= (goes_on || !line.starts_with('#')) && has_open_quote(line);
        let is_known = match line.as_bytes() {
            _ if goes_on => true,
            [] | [b'#', ..] => true,
            [b'*', ..] => open.replace(number).is_none(),
            b"COMMIT" => open.take().is_some(),
            [b':' | b'-' | b'[', ..] => open.is_some(),
            _ => false,
        };
        if !is_known {
            let start: String = line.chars().take(SHOWN).collect();
            return Err(format!("line {number} of its listing is {start:?}"));
        }
    }
    match open {
        None => Ok(()),
        Some(number) => Err(format!(
            "its listing ends in the table that begins in line {number}"
        )),
    }
}

/// Whether a quote begins or ends in a line, and does not end or begin there again.
fn has_open_quote(line: &str) -> bool {
    let mut is_escaped = false;
    let quotes = line.bytes().filter(|byte| {
        let counts = *byte == b'"' && !is_escaped;
        is_escaped = *byte == b'\\' && !is_escaped;
        counts
    });
    quotes.count() % 2 == 1
}

/// The number of characters of a wrong line that an error shows.
const SHOWN: usize = 60;

fn write(stdin: ChildStdin, input: &impl Display) -> io::Result<()> {
    let mut stdin = BufWriter::with_capacity(PIPE, stdin);
    write!(stdin, "{input}")?;
    stdin.flush()
}

/// The capacity of a pipe, see pipe(7).
const PIPE: usize = 64 * 1024;

/// An error of an iptables program.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    /// The program.
    pub program: String,
    /// Its message.
    pub message: String,
    /// The rejected line with its number, if the message names one. If the kernel rejects the
    /// rules, legacy iptables names the last line of the table.
    pub line: Option<(usize, String)>,
    /// The Service port that the line belongs to.
    pub owner: Option<ServicePortName>,
}

impl Refusal {
    pub(crate) fn new(program: &str, said: &str) -> Self {
        let words = said.split_whitespace().collect::<Vec<_>>();
        Self {
            program: program.to_owned(),
            message: words.join(" "),
            line: None,
            owner: None,
        }
    }

    /// Adds the line of the transaction that the message names.
    pub(crate) fn located(mut self, transaction: &Transaction) -> Self {
        let found = self.line_number().and_then(|number| {
            let (line, owner) = transaction.line(number)?;
            self.owner = owner;
            Some((number, line))
        });
        self.line = found;
        self
    }

    /// Whether the program lacked a privilege.
    pub(crate) fn is_permission_denied(&self) -> bool {
        // The text of both flavours for EPERM.
        self.message.contains("Permission denied")
    }

    /// Sets the Service port to which the error belongs, whatever line the message names.
    pub(crate) fn of(mut self, owner: ServicePortName) -> Self {
        (self.line, self.owner) = (None, Some(owner));
        self
    }

    /// "line 3: RULE_APPEND failed", "Error occurred at line: 9" or "line 4 failed".
    fn line_number(&self) -> Option<usize> {
        let mut words = self.message.split(' ');
        words.find(|word| word.trim_end_matches(':') == "line")?;
        words.next()?.trim_end_matches(':').parse().ok()
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed", self.program)?;
        if let Some((number, line)) = &self.line {
            write!(f, " at line {number}, {line:?}")?;
        }
        match (&self.owner, &self.line) {
            (Some(owner), Some(_)) => write!(f, ", which is for Service {owner}")?,
            (Some(owner), None) => write!(f, " for Service {owner}")?,
            _ => {}
        }
        write!(f, ": {}", self.message)?;
        if self.is_permission_denied() {
            f.write_str(" (needs CAP_NET_ADMIN and CAP_NET_RAW)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_listing_is_none() {
        const LISTING: &str = "# Generated\n*nat\n:PREROUTING ACCEPT [0:0]\n\
                               [3:180] -A PREROUTING -j SVCPROXY-SERVICES\nCOMMIT\n# Completed\n";
        assert_eq!(whole(LISTING), Ok(()));
        assert_eq!(whole(&LISTING.repeat(2)), Ok(()));
        assert_eq!(whole(""), Ok(()));
        let commit = LISTING.find("COMMIT").unwrap();
        let table = LISTING.find("*nat").unwrap() + 4;
        for end in table..commit + 5 {
            assert!(whole(&LISTING[..end]).is_err(), "{:?}", &LISTING[..end]);
        }
        assert_eq!(
            whole("no rules\u{1b}[2J"),
            Err("line 1 of its listing is \"no rules\\u{1b}[2J\"".to_owned())
        );
        assert!(whole(":PREROUTING ACCEPT [0:0]\nCOMMIT\n").is_err());
        assert_eq!(whole("# what's \" this\n*nat\nCOMMIT\n"), Ok(()));
        // Comments of other programs.
        let comment = "*nat\n-A X -m comment --comment \"a\\\"\nb\" -j Y\n-A X -j Z\nCOMMIT\n";
        assert_eq!(whole(comment), Ok(()));
        assert!(whole(&comment.replace("\\\"", "")).is_ok());
        assert!(whole(&comment.replace("-A X -j Z", "X")).is_err());
        assert!(whole("*nat\n*filter\nCOMMIT\n").is_err());
    }

    #[test]
    fn the_line_is_found_in_the_messages_of_both_iptables() {
        for (said, number) in [
            (
                "iptables-nft-restore v1.8.9 (nf_tables): \nline 15: RULE_INSERT failed (Invalid argument): rule in chain PREROUTING\n",
                Some(15),
            ),
            (
                "iptables-restore v1.8.9 (legacy): unknown option \"--to\"\nError occurred at line: 9\nTry `iptables-restore -h'",
                Some(9),
            ),
            ("iptables-restore: line 16 failed\n", Some(16)),
            ("Another app is currently holding the xtables lock.", None),
        ] {
            assert_eq!(
                Refusal::new("iptables-restore", said).line_number(),
                number,
                "{said}"
            );
        }
    }
}
