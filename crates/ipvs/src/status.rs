//! `/proc/net/ip_vs_status` of Linux 7.1 and later: the state of the hash tables.

use std::str::FromStr;

use crate::ParseError;

/// The state of a network namespace's IPVS, from `/proc/net/ip_vs_status`.
///
/// ```
/// let text = "Conns:\t9401\nConn buckets:\t524288 (19 bits, lfactor -5)\n\
///             Conn buckets empty:\t505633 (96%)\nConn buckets len-1:\t18322 (98%)\n\
///             Services:\t12\nService buckets:\t128 (7 bits, lfactor -3)\n\
///             Stats thread slots:\t1 (max 16)\nStats chain max len:\t16\n\
///             Stats thread ests:\t38400\n";
/// let status: ipvs::Status = text.parse()?;
/// assert_eq!((status.connections, status.connection_table.lengths[1]), (9401, 18322));
/// # Ok::<(), ipvs::ParseError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Status {
    /// Connections.
    pub connections: u64,
    /// The table of the connections.
    pub connection_table: HashTable,
    /// Virtual servers.
    pub virtual_servers: u64,
    /// The table of the virtual servers.
    pub virtual_server_table: HashTable,
    /// Threads that estimate statistics.
    pub estimation_threads: u64,
    /// The most of them.
    pub estimation_threads_max: u64,
    /// The most servers that a thread estimates in one step.
    pub estimation_chain_max: u64,
    /// The most servers that a thread estimates.
    pub estimation_servers_max: u64,
    /// Lines that this crate does not know: name and value.
    pub unknown: Vec<(String, String)>,
}

/// A hash table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HashTable {
    /// The number of buckets.
    pub buckets: u64,
    /// Its binary logarithm.
    pub bits: u32,
    /// The load factor: 2^value entries a bucket, see
    /// [`CONN_LFACTOR`](crate::sysctl::CONN_LFACTOR).
    pub load_factor: i32,
    /// How many buckets have 0, 1, … 7 or more entries. All 0 if the table is empty.
    pub lengths: [u64; 8],
}

impl Status {
    /// Reads it in the calling thread's network namespace. It takes root, and some time if the
    /// tables are large.
    ///
    /// # Errors
    ///
    /// [`NotFound`](std::io::ErrorKind::NotFound) before Linux 7.1 or without the module `ip_vs`;
    /// [`InvalidData`](std::io::ErrorKind::InvalidData) if it cannot be parsed.
    #[cfg(feature = "client")]
    pub fn read() -> std::io::Result<Self> {
        // Of the thread, since it can be in another namespace than the process.
        let text = std::fs::read_to_string("/proc/thread-self/net/ip_vs_status")?;
        text.parse()
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))
    }

    fn take(&mut self, name: &str, value: &str) -> Option<()> {
        let (first, rest) = value.split_once(' ').unwrap_or((value, ""));
        match name {
            "Conns" => self.connections = first.parse().ok()?,
            "Services" => self.virtual_servers = first.parse().ok()?,
            "Stats thread slots" => {
                self.estimation_threads = first.parse().ok()?;
                let max = rest.strip_prefix("(max ")?.strip_suffix(')')?;
                self.estimation_threads_max = max.parse().ok()?;
            }
            "Stats chain max len" => self.estimation_chain_max = first.parse().ok()?,
            "Stats thread ests" => self.estimation_servers_max = first.parse().ok()?,
            _ => {
                let connections = name.strip_prefix("Conn buckets");
                let virtual_servers = name.strip_prefix("Service buckets");
                let known = match (connections, virtual_servers) {
                    (Some(part), _) => self.connection_table.take(part, first, rest)?,
                    (_, Some(part)) => self.virtual_server_table.take(part, first, rest)?,
                    _ => false,
                };
                if !known {
                    self.unknown.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        Some(())
    }
}

impl HashTable {
    /// Takes a line, and returns whether it knows it.
    fn take(&mut self, part: &str, first: &str, rest: &str) -> Option<bool> {
        let length = match part {
            "" => {
                self.buckets = first.parse().ok()?;
                let inner = rest.strip_prefix('(')?.strip_suffix(')')?;
                let (bits, factor) = inner.split_once(" bits, lfactor ")?;
                self.bits = bits.parse().ok()?;
                self.load_factor = factor.parse().ok()?;
                return Some(true);
            }
            " empty" => 0,
            other => match other.strip_prefix(" len-") {
                Some(length) => length.parse().ok()?,
                None => return Some(false),
            },
        };
        let slot = self.lengths.get_mut::<usize>(length);
        let known = slot.is_some();
        if let Some(slot) = slot {
            *slot = first.parse().ok()?;
        }
        Some(known)
    }
}

impl FromStr for Status {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut status = Self::default();
        for line in text.lines() {
            let taken = line
                .split_once(':')
                .and_then(|(name, value)| status.take(name, value.trim()));
            taken.ok_or_else(|| ParseError::new("line of ip_vs_status", line))?;
        }
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_line_and_keeps_the_unknown() {
        let text = "Conns:\t0\nConn buckets:\t0 (0 bits, lfactor 0)\nServices:\t2\n\
                    Service buckets:\t16 (4 bits, lfactor 2)\nService buckets empty:\t14 (87%)\n\
                    Service buckets len-2:\t1 (50%)\nService buckets len-7:\t1 (50%)\n\
                    Stats thread slots:\t1 (max 4)\nStats chain max len:\t16\n\
                    Stats thread ests:\t38400\nConn buckets len-9:\t1 (1%)\nNew:\t1 (x)\n";
        let status: Status = text.parse().unwrap();
        assert_eq!(status.virtual_servers, 2);
        let table = status.virtual_server_table;
        assert_eq!((table.buckets, table.bits, table.load_factor), (16, 4, 2));
        assert_eq!(table.lengths, [14, 0, 1, 0, 0, 0, 0, 1]);
        assert_eq!(status.estimation_threads_max, 4);
        let unknown = [("Conn buckets len-9", "1 (1%)"), ("New", "1 (x)")];
        assert_eq!(status.unknown, unknown.map(|(n, v)| (n.into(), v.into())));
        for bad in ["Conns: x", "nothing", "Conn buckets: 1 (x)"] {
            assert!(bad.parse::<Status>().is_err(), "{bad}");
        }
    }
}
