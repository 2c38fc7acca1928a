//! Errors that iptables prints.

use std::fmt;

use crate::desired::ServicePortName;
use crate::mode::iptables::Transaction;

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
        // The text of both flavours for EPERM.
        if self.message.contains("Permission denied") {
            f.write_str(" (needs CAP_NET_ADMIN and CAP_NET_RAW)")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
