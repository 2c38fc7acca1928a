//! Reads `/proc/net/ip_vs`, in parts.
//!
//! Its format is that of `ip_vs_info_seq_show` (`net/netfilter/ipvs/ip_vs_ctl.c`):
//!
//! ```text
//! IP Virtual Server version 1.2.1 (size=4096)
//! Prot LocalAddress:Port Scheduler Flags
//!   -> RemoteAddress:Port Forward Weight ActiveConn InActConn
//! TCP  0A600050:0050 rr
//!   -> 0AF4010A:1F90      Masq    1      0          0
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;

use foldhash::HashMap;
use ipvs::{Protocol, RealServerKey, VirtualServerKey};

use crate::mode::ipvs::glance::{Glance, Shown, ShownForwarding, ShownRealServer, ShownServer};
use crate::mode::ipvs::plan::VirtualServerState;

/// That of the thread's network namespace: `/proc/net` is that of the process's first thread.
const FILE: &str = "/proc/thread-self/net/ip_vs";
/// Number of virtual servers in a part.
const PART: usize = 512;
/// The titles.
const HEAD: usize = 3;

/// The file while it is read.
#[derive(Debug)]
pub(super) struct Listing<R = BufReader<File>> {
    lines: Lines<R>,
    /// The virtual server whose first line has been read.
    next: Option<Shown>,
}

#[derive(Debug)]
struct Lines<R> {
    reader: R,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> io::Result<Option<&str>> {
        self.line.clear();
        let length = self.reader.read_until(b'\n', &mut self.line)?;
        // A line that is not text is none of svcproxy's.
        let text = str::from_utf8(&self.line).unwrap_or_default();
        Ok((length > 0).then_some(text))
    }
}

impl Listing {
    pub(super) fn open() -> io::Result<Self> {
        Self::new(BufReader::with_capacity(64 << 10, File::open(FILE)?))
    }
}

impl<R: BufRead> Listing<R> {
    fn new(reader: R) -> io::Result<Self> {
        let line = Vec::new();
        let mut lines = Lines { reader, line };
        for _ in 0..HEAD {
            lines.next()?;
        }
        Ok(Self { lines, next: None })
    }

    /// Compares the next part with the known state.
    pub(super) fn glance(
        &mut self,
        known: &HashMap<VirtualServerKey, VirtualServerState>,
    ) -> io::Result<Glance> {
        let mut right = Vec::new();
        for _ in 0..PART {
            match self.next()? {
                Some(Some(mut shown)) => right.extend(shown.as_known(known)),
                Some(None) => {}
                None => return Ok(Glance::new(right, true)),
            }
        }
        Ok(Glance::new(right, false))
    }

    /// The next virtual server; `Some(None)` for one that has a line of an unknown format.
    fn next(&mut self) -> io::Result<Option<Option<Shown>>> {
        let mut is_known = true;
        loop {
            let Some(line) = self.lines.next()? else {
                let last = self.next.take();
                return Ok(last.map(|shown| Some(shown).filter(|_| is_known)));
            };
            if let Some(line) = line.strip_prefix("  -> ") {
                match (real_server(line), &mut self.next) {
                    (Some(found), Some(shown)) => shown.real_servers.push(found),
                    _ => is_known = false,
                }
                continue;
            }
            let server = server(line).map(|server| Shown {
                server,
                real_servers: Vec::new(),
            });
            let was_known = std::mem::replace(&mut is_known, true);
            if let Some(before) = std::mem::replace(&mut self.next, server) {
                return Ok(Some(Some(before).filter(|_| was_known)));
            }
        }
    }
}

fn server(line: &str) -> Option<ShownServer> {
    let mut words = line.split_ascii_whitespace();
    let (kind, place) = (words.next()?, words.next()?);
    let protocol = match kind {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        "FWM" => {
            let mark = u32::from_str_radix(place, 16).ok()?;
            return NonZeroU32::new(mark).map(ShownServer::Mark);
        }
        _ => return None,
    };
    let key = VirtualServerKey::new(protocol, socket_address(place)?);
    Some(ShownServer::Address(key))
}

fn real_server(line: &str) -> Option<ShownRealServer> {
    let mut words = line.split_ascii_whitespace();
    let place = socket_address(words.next()?)?;
    let forwarding = match words.next()? {
        "Masq" => ShownForwarding::Masquerade,
        "Local" => ShownForwarding::LocalNode,
        "Tunnel" => ShownForwarding::Tunnel,
        "Route" => ShownForwarding::DirectRouting,
        _ => return None,
    };
    Some(ShownRealServer {
        key: RealServerKey::from(place),
        weight: words.next()?.parse().ok()?,
        forwarding,
    })
}

/// `0A600050:0050`, `[fd00:0010:0096:0000:0000:0000:0000:0050]:0050`.
fn socket_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let address = match address.strip_prefix('[') {
        Some(address) => IpAddr::V6(address.strip_suffix(']')?.parse::<Ipv6Addr>().ok()?),
        None => Ipv4Addr::from_bits(u32::from_str_radix(address, 16).ok()?).into(),
    };
    Some(SocketAddr::new(
        address,
        u16::from_str_radix(port, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use ipvs::{Family, Forwarding, RealServer, Tunnel, VirtualServer};

    use super::*;

    /// From Linux 6.1, after `ipvsadm -R` of what the test knows.
    const TEXT: &str = "\
IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A600050:0050 rr  
  -> 0AF4020B:1F90      Masq    3      0          0         
  -> 0AF4010A:1F90      Masq    1      12         3         
UDP  0A60000A:0035 sh persistent 10800 FFFFFFFF
  -> 0AF4010A:0035      Tunnel  1      0          0         
FWM  00012000 rr  
  -> 0AF4010A:1F90      Route   0      0          0         
TCP  [fd00:0010:0096:0000:0000:0000:0000:0050]:0050 rr 
  -> [fd00:0010:0244:0000:0000:0000:0000:0007]:1F90      Masq    1      0          0         
FWM  00022000 rr  
SCTP 0A60000B:1388 rr  
";

    fn state(
        key: VirtualServerKey,
        real_servers: &[(&str, u32, Forwarding)],
    ) -> (VirtualServerKey, VirtualServerState) {
        let real_server = |(place, weight, forwarding): &(&str, u32, Forwarding)| {
            let key: SocketAddr = place.parse().unwrap();
            RealServer::new(key.into())
                .with_weight(*weight)
                .with_forwarding(*forwarding)
        };
        let mut real_servers: Vec<_> = real_servers.iter().map(real_server).collect();
        real_servers.sort_unstable_by_key(|real_server| real_server.key);
        let server = VirtualServer::new(key);
        let state = VirtualServerState {
            server,
            real_servers,
        };
        (key, state)
    }

    fn known() -> HashMap<VirtualServerKey, VirtualServerState> {
        let mark =
            |mark, family| VirtualServerKey::firewall_mark(NonZeroU32::new(mark).unwrap(), family);
        let masquerade = Forwarding::Masquerade;
        [
            state(
                "tcp 10.96.0.80:80".parse().unwrap(),
                &[
                    ("10.244.1.10:8080", 1, masquerade),
                    ("10.244.2.11:8080", 3, masquerade),
                ],
            ),
            state(
                "udp 10.96.0.10:53".parse().unwrap(),
                &[("10.244.1.10:53", 1, Forwarding::Tunnel(Tunnel::Ipip))],
            ),
            state(
                mark(0x0001_2000, Family::V4),
                &[("10.244.1.10:8080", 0, Forwarding::DirectRouting)],
            ),
            state(
                "tcp [fd00:10:96::50]:80".parse().unwrap(),
                &[("[fd00:10:244::7]:8080", 1, masquerade)],
            ),
            state(mark(0x0002_2000, Family::V4), &[]),
            state("sctp 10.96.0.11:5000".parse().unwrap(), &[]),
        ]
        .into_iter()
        .collect()
    }

    fn right(text: &str, known: &HashMap<VirtualServerKey, VirtualServerState>) -> Vec<String> {
        let mut listing = Listing::new(text.as_bytes()).unwrap();
        let glance = listing.glance(known).unwrap();
        assert!(glance.is_last);
        let mut right: Vec<_> = glance.right.iter().map(ToString::to_string).collect();
        right.sort();
        right
    }

    #[test]
    fn what_looks_as_known_is_right() {
        let known = known();
        assert_eq!(
            right(TEXT, &known),
            [
                "fwmark 73728 ipv4",
                "sctp 10.96.0.11:5000",
                "tcp 10.96.0.80:80",
                "tcp [fd00:10:96::50]:80",
                "udp 10.96.0.10:53"
            ]
        );
        // Each of these is about one virtual server.
        for (from, to) in [
            ("Masq    3 ", "Masq    4 "),
            ("Masq    3 ", "Masq    -3 "),
            ("Masq    3 ", "Drop    3 "),
            ("0AF4020B:1F90", "0AF4020C:1F90"),
            ("0AF4020B:1F90", "0AF4020B:1F91"),
            (
                "  -> 0AF4020B:1F90      Masq    3      0          0         \n",
                "",
            ),
            ("Tunnel ", "Masq   "),
            ("FWM  00012000", "FWM  00012001"),
            ("TCP  [", "UDP  ["),
            ("SCTP 0A60000B", "DCCP 0A60000B"),
        ] {
            let text = TEXT.replacen(from, to, 1);
            assert_ne!(text, TEXT, "{from}");
            assert_eq!(right(&text, &known).len(), 4, "{from} {to}");
        }
    }

    #[test]
    fn parts_together_are_the_whole() {
        let count = u16::try_from(2 * PART + 7).unwrap();
        let head = TEXT.split_inclusive('\n').take(HEAD).collect::<String>();
        let mut text = head;
        let mut known = HashMap::default();
        for port in 1..=count {
            text +=
                &format!("TCP  0A600050:{port:04X} rr\n  -> 0AF4010A:1F90      Masq    1 0 0\n");
            let key = VirtualServerKey::tcp(([10, 96, 0, 80], port).into());
            known.extend([state(
                key,
                &[("10.244.1.10:8080", 1, Forwarding::Masquerade)],
            )]);
        }
        let mut listing = Listing::new(text.as_bytes()).unwrap();
        let (mut found, mut parts) = (0, 0);
        loop {
            let glance = listing.glance(&known).unwrap();
            (found, parts) = (found + glance.right.len(), parts + 1);
            if glance.is_last {
                break;
            }
        }
        assert_eq!((found, parts), (usize::from(count), 3));
    }

    #[test]
    fn any_text_is_read_without_panic() {
        for text in [
            "",
            "x",
            "a\nb\nc\n  -> x",
            "a\nb\nc\nTCP\n",
            "a\nb\nc\nTCP  é:1\n  -> [:1\n",
        ] {
            assert_eq!(right(text, &known()), [""; 0], "{text}");
        }
    }
}
