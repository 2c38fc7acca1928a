//! Rules of ipvsadm, parsed.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::{
    Change, Family, Flags, Forwarding, Netmask, Persistence, Protocol, RealServer, RealServerKey,
    Scheduler, SyncDaemon, Timeouts, Tunnel, TunnelChecksum, VirtualServer, VirtualServerKey,
};

/// A rule that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {reason}, in {rule:?}")]
#[non_exhaustive]
pub struct RuleError {
    /// The line's number, from 1.
    pub line: usize,
    /// The line.
    pub rule: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What is wrong with a rule.
type Parsed<T> = Result<T, String>;

/// Parses rules as `ipvsadm --save --numeric` prints them and `ipvsadm --restore` reads them, and
/// those that [`rule`](super::rule) writes: servers, timeouts and sync daemons.
///
/// One rule a line; empty lines and those that begin with `#` are skipped. Addresses and ports
/// must be numeric. What a rule leaves out has ipvsadm's default, not this crate's: scheduler
/// `wlc`, direct routing, weight 1, 360 seconds of persistence, the virtual server's port.
///
/// ```
/// use ipvs::{Change, FakeKernel, ipvsadm};
///
/// let rules = "-A -t 10.96.0.10:53 -s rr\n-a -t 10.96.0.10:53 -r 10.244.0.3:5353 -m -w 1\n";
/// let changes = ipvsadm::parse(rules)?;
/// assert_eq!(changes[1].to_string(), "add real server 10.244.0.3:5353 of tcp 10.96.0.10:53");
/// FakeKernel::new().client()?.apply(&changes).into_result()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// The first rule that is not valid. Whether the kernel accepts the others shows when they are
/// applied.
pub fn parse(text: &str) -> Result<Vec<Change>, RuleError> {
    let rules = text.lines().enumerate().filter(|(_, line)| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#')
    });
    let parsed = rules.map(|(number, line)| {
        parse_rule(line).map_err(|reason| RuleError {
            line: number + 1,
            rule: line.trim().to_owned(),
            reason,
        })
    });
    parsed.collect()
}

/// How many values follow an option.
#[derive(Clone, Copy)]
enum Values {
    Exactly(usize),
    /// One, unless the next word is an option.
    Optional,
}
use Values::{Exactly, Optional};

/// Short and long form.
const OPTIONS: [(&str, &str, Values); 42] = [
    ("-A", "--add-service", Exactly(0)),
    ("-E", "--edit-service", Exactly(0)),
    ("-D", "--delete-service", Exactly(0)),
    ("-C", "--clear", Exactly(0)),
    ("-a", "--add-server", Exactly(0)),
    ("-e", "--edit-server", Exactly(0)),
    ("-d", "--delete-server", Exactly(0)),
    ("-Z", "--zero", Exactly(0)),
    ("", "--set", Exactly(3)),
    ("", "--start-daemon", Exactly(1)),
    ("", "--stop-daemon", Exactly(1)),
    ("-t", "--tcp-service", Exactly(1)),
    ("-u", "--udp-service", Exactly(1)),
    ("", "--sctp-service", Exactly(1)),
    ("-f", "--fwmark-service", Exactly(1)),
    ("-6", "--ipv6", Exactly(0)),
    ("-s", "--scheduler", Exactly(1)),
    ("-p", "--persistent", Optional),
    ("-M", "--netmask", Exactly(1)),
    ("", "--pe", Exactly(1)),
    ("-o", "--ops", Exactly(0)),
    ("-b", "--sched-flags", Exactly(1)),
    ("-r", "--real-server", Exactly(1)),
    ("-g", "--gatewaying", Exactly(0)),
    ("-i", "--ipip", Exactly(0)),
    ("-m", "--masquerading", Exactly(0)),
    ("", "--tun-type", Exactly(1)),
    ("", "--tun-port", Exactly(1)),
    ("", "--tun-nocsum", Exactly(0)),
    ("", "--tun-csum", Exactly(0)),
    ("", "--tun-remcsum", Exactly(0)),
    ("-w", "--weight", Exactly(1)),
    ("-x", "--u-threshold", Exactly(1)),
    ("-y", "--l-threshold", Exactly(1)),
    ("-n", "--numeric", Exactly(0)),
    ("", "--exact", Exactly(0)),
    ("", "--mcast-interface", Exactly(1)),
    ("", "--syncid", Exactly(1)),
    ("", "--sync-maxlen", Exactly(1)),
    ("", "--mcast-group", Exactly(1)),
    ("", "--mcast-port", Exactly(1)),
    ("", "--mcast-ttl", Exactly(1)),
];

/// The options of a rule that have not been used yet, by their long form.
struct Given<'a>(Vec<(&'static str, Vec<&'a str>)>);

impl<'a> Given<'a> {
    fn parse(line: &'a str) -> Parsed<Self> {
        let mut words = line.split_whitespace().peekable();
        let mut given: Vec<(&'static str, Vec<&str>)> = Vec::new();
        while let Some(word) = words.next() {
            let (word, inline) = match word.split_once('=') {
                Some((name, value)) if word.starts_with("--") => (name, Some(value)),
                _ => (word, None),
            };
            let known = OPTIONS
                .iter()
                .find(|(short, long, _)| word == *long || (word == *short && !word.is_empty()));
            let &(_, long, values) = known.ok_or_else(|| format!("unknown option {word:?}"))?;
            let mut rest: Vec<&str> = inline.into_iter().collect();
            let count = match values {
                Exactly(count) => count,
                Optional => rest.len().max(usize::from(
                    words.peek().is_some_and(|next| !next.starts_with('-')),
                )),
            };
            while rest.len() < count {
                let value = words.next();
                rest.push(value.ok_or_else(|| format!("{word} needs a value"))?);
            }
            if rest.len() > count {
                return Err(format!("{word} takes no value"));
            }
            if given.iter().any(|(other, _)| *other == long) {
                return Err(format!("{word} is given twice"));
            }
            given.push((long, rest));
        }
        Ok(Self(given))
    }

    fn values(&mut self, long: &str) -> Option<Vec<&'a str>> {
        let place = self.0.iter().position(|(other, _)| *other == long)?;
        Some(self.0.remove(place).1)
    }

    fn flag(&mut self, long: &str) -> bool {
        self.values(long).is_some()
    }

    fn text(&mut self, long: &str) -> Option<&'a str> {
        self.values(long)
            .map(|values| values.first().copied().unwrap_or_default())
    }

    fn value<T: FromStr>(&mut self, long: &str) -> Parsed<Option<T>> {
        let parse = |text: &str| {
            let parsed = text.parse();
            parsed.map_err(|_| format!("{text:?} is not a valid value of {long}"))
        };
        self.text(long).map(parse).transpose()
    }

    fn service(&mut self) -> Parsed<Option<VirtualServerKey>> {
        let mut found = None;
        for (long, protocol) in [
            ("--tcp-service", Protocol::Tcp),
            ("--udp-service", Protocol::Udp),
            ("--sctp-service", Protocol::Sctp),
        ] {
            if let Some(text) = self.text(long) {
                let (address, port) = address(text, 0)?;
                let key = VirtualServerKey::new(protocol, SocketAddr::new(address, port));
                if found.replace(key).is_some() {
                    return Err("more than one virtual server".to_owned());
                }
            }
        }
        let family = if self.flag("--ipv6") {
            Family::V6
        } else {
            Family::V4
        };
        let mark = self.value("--fwmark-service")?;
        match (found, mark) {
            (Some(_), Some(_)) => Err("more than one virtual server".to_owned()),
            (None, Some(mark)) => Ok(Some(VirtualServerKey::firewall_mark(mark, family))),
            (found, None) => Ok(found),
        }
    }

    fn needed_service(&mut self) -> Parsed<VirtualServerKey> {
        let service = self.service()?;
        service.ok_or_else(|| "the virtual server is missing (-t, -u, -f)".to_owned())
    }

    fn virtual_server(&mut self) -> Parsed<VirtualServer> {
        let key = self.needed_service()?;
        let scheduler = self.value("--scheduler")?;
        let scheduler = scheduler.unwrap_or(Scheduler::WeightedLeastConnection);
        let mut server = VirtualServer::new(key).with_scheduler(scheduler);
        server.engine = self.value("--pe")?;
        let netmask = self.text("--netmask");
        server.persistence = match (self.text("--persistent"), netmask) {
            (None, None) => None,
            (None, Some(_)) => return Err("--netmask needs --persistent".to_owned()),
            (Some(timeout), netmask) => {
                let timeout = match timeout {
                    "" => 360,
                    text => number(text)?,
                };
                let mut persistence = Persistence::new(timeout);
                persistence.netmask =
                    netmask
                        .map(str::parse::<Netmask>)
                        .transpose()
                        .map_err(|_| {
                            "--netmask is neither an IPv4 mask nor an IPv6 prefix length".to_owned()
                        })?;
                Some(persistence)
            }
        };
        if self.flag("--ops") {
            server.flags = Flags::ONE_PACKET;
        }
        for name in self.text("--sched-flags").unwrap_or_default().split(',') {
            server.flags = server.flags | scheduler_flag(scheduler, name)?;
        }
        Ok(server)
    }

    fn real_server_key(&mut self, virtual_server: &VirtualServerKey) -> Parsed<RealServerKey> {
        let text = self.text("--real-server");
        let text = text.ok_or("the real server is missing (-r)")?;
        let default = virtual_server.address().map_or(0, |address| address.port());
        let (address, port) = address(text, default)?;
        Ok(RealServerKey::new(address, port))
    }

    fn real_server(&mut self, virtual_server: &VirtualServerKey) -> Parsed<RealServer> {
        let mut server = RealServer::new(self.real_server_key(virtual_server)?);
        let methods = ["--masquerading", "--ipip", "--gatewaying"];
        server.forwarding = match methods.map(|method| self.flag(method)) {
            [true, false, false] => Forwarding::Masquerade,
            [false, true, false] => Forwarding::Tunnel(self.tunnel()?),
            [false, false, _] => Forwarding::DirectRouting,
            _ => return Err("more than one forwarding method".to_owned()),
        };
        server.weight = self.value("--weight")?.unwrap_or(1);
        server.upper_threshold = self.value("--u-threshold")?.unwrap_or(0);
        server.lower_threshold = self.value("--l-threshold")?.unwrap_or(0);
        Ok(server)
    }

    fn tunnel(&mut self) -> Parsed<Tunnel> {
        let port = self.value("--tun-port")?;
        let sums = ["--tun-nocsum", "--tun-csum", "--tun-remcsum"];
        let checksum = match sums.map(|sum| self.flag(sum)) {
            [_, false, false] => TunnelChecksum::None,
            [false, true, false] => TunnelChecksum::Full,
            [false, false, true] => TunnelChecksum::Remote,
            _ => return Err("more than one kind of tunnel checksum".to_owned()),
        };
        match (self.text("--tun-type").unwrap_or("ipip"), port, checksum) {
            ("ipip", None, TunnelChecksum::None) => Ok(Tunnel::Ipip),
            ("gue", Some(port), checksum) => Ok(Tunnel::Gue { port, checksum }),
            ("gue", None, _) => Err("--tun-type gue needs --tun-port".to_owned()),
            ("gre", None, checksum) => Ok(Tunnel::Gre { checksum }),
            (kind @ ("ipip" | "gre"), ..) => Err(format!(
                "--tun-type {kind} does not take these tunnel options"
            )),
            (kind, ..) => Err(format!("{kind:?} is not a tunnel type (ipip, gue, gre)")),
        }
    }

    fn sync_daemon(&mut self, role: &str) -> Parsed<SyncDaemon> {
        let role = role.parse();
        let role = role.map_err(|_| "a sync daemon is master or backup".to_owned())?;
        let interface = self.value("--mcast-interface")?;
        let interface = interface.ok_or("--mcast-interface is missing")?;
        let sync_id = self.value("--syncid")?.unwrap_or(0);
        let mut daemon = SyncDaemon::new(role, interface, sync_id);
        daemon.max_length = self.value("--sync-maxlen")?;
        daemon.group = self.value("--mcast-group")?;
        daemon.port = self.value("--mcast-port")?;
        daemon.ttl = self.value("--mcast-ttl")?;
        Ok(daemon)
    }

    fn change(&mut self) -> Parsed<Change> {
        if self.flag("--add-service") {
            Ok(Change::AddVirtualServer(self.virtual_server()?))
        } else if self.flag("--edit-service") {
            Ok(Change::UpdateVirtualServer(self.virtual_server()?))
        } else if self.flag("--delete-service") {
            Ok(Change::DeleteVirtualServer(self.needed_service()?))
        } else if self.flag("--add-server") {
            let virtual_server = self.needed_service()?;
            Ok(Change::AddRealServer {
                virtual_server,
                real_server: self.real_server(&virtual_server)?,
            })
        } else if self.flag("--edit-server") {
            let virtual_server = self.needed_service()?;
            Ok(Change::UpdateRealServer {
                virtual_server,
                real_server: self.real_server(&virtual_server)?,
            })
        } else if self.flag("--delete-server") {
            let virtual_server = self.needed_service()?;
            Ok(Change::DeleteRealServer {
                virtual_server,
                real_server: self.real_server_key(&virtual_server)?,
            })
        } else if self.flag("--clear") {
            Ok(Change::Flush)
        } else if self.flag("--zero") {
            Ok(Change::ZeroStatistics(self.service()?))
        } else if let Some(values) = self.values("--set") {
            let mut seconds = values.into_iter().map(|text| {
                // 0 leaves the value unchanged.
                number(text).map(|seconds| Some(seconds).filter(|&seconds| seconds != 0))
            });
            let mut next = || seconds.next().transpose().map(Option::flatten);
            Ok(Change::SetTimeouts(Timeouts {
                tcp: next()?,
                tcp_fin: next()?,
                udp: next()?,
            }))
        } else if let Some(role) = self.text("--start-daemon") {
            Ok(Change::StartSyncDaemon(self.sync_daemon(role)?))
        } else if let Some(role) = self.text("--stop-daemon") {
            let role = role.parse();
            let role = role.map_err(|_| "a sync daemon is master or backup".to_owned())?;
            Ok(Change::StopSyncDaemon(role))
        } else {
            Err("no command (-A, -a, --set, …)".to_owned())
        }
    }
}

fn parse_rule(line: &str) -> Parsed<Change> {
    let mut given = Given::parse(line)?;
    // They change how ipvsadm prints.
    given.flag("--numeric");
    given.flag("--exact");
    let change = given.change()?;
    match given.0.first() {
        None => Ok(change),
        Some((option, _)) => Err(format!("{option} does not belong to this command")),
    }
}

fn number(text: &str) -> Parsed<u32> {
    let parsed = text.parse();
    parsed.map_err(|_| format!("{text:?} is not a number of seconds"))
}

/// `10.96.0.1:80`, `[fd00::1]:80`, or an address alone.
fn address(text: &str, port: u16) -> Parsed<(IpAddr, u16)> {
    let error = || format!("{text:?} is not a numeric address and port");
    if let Ok(address) = text.parse::<SocketAddr>() {
        return if text.contains('%') {
            Err(error())
        } else {
            Ok((address.ip(), address.port()))
        };
    }
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse();
    address.map(|address| (address, port)).map_err(|_| error())
}

/// The inverse of [`scheduler_flags`](super::scheduler_flags).
fn scheduler_flag(scheduler: Scheduler, name: &str) -> Parsed<Flags> {
    let bits = [Flags::SCHEDULER_1, Flags::SCHEDULER_2, Flags::SCHEDULER_3];
    let named = |bit: &Flags| super::scheduler_flags(scheduler, *bit).any(|known| known == name);
    match name {
        "" => Ok(Flags::NONE),
        "flag-1" => Ok(Flags::SCHEDULER_1),
        "flag-2" => Ok(Flags::SCHEDULER_2),
        "flag-3" => Ok(Flags::SCHEDULER_3),
        _ => bits
            .into_iter()
            .find(named)
            .ok_or_else(|| format!("{name:?} is not a flag of scheduler {scheduler}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipvsadm::rule;

    #[test]
    fn long_and_short_forms_and_defaults() {
        for (text, canonical) in [
            ("-A -t 10.0.0.1:80", "-A -t 10.0.0.1:80 -s wlc"),
            (
                "--add-service --udp-service=[fd00::1]:53 --scheduler=sh --persistent --netmask 64 -b sh-port",
                "-A -u [fd00::1]:53 -s sh -p 360 -M 64 -b sh-port",
            ),
            (
                "-A -f 7 -6 -s mh -b mh-fallback,flag-3 -p 60",
                "-A -f 7 -6 -s mh -p 60 -b mh-fallback,flag-3",
            ),
            (
                "-a -t 10.0.0.1:80 -r 10.1.0.1",
                "-a -t 10.0.0.1:80 -r 10.1.0.1:80 -g -w 1",
            ),
            (
                "-e -t [fd00::1]:80 -r [fd00::2] -i --tun-type gue --tun-port 6080 -w 0 -x 9 -y 3",
                "-e -t [fd00::1]:80 -r [fd00::2]:80 -i -w 0 --tun-type gue --tun-port 6080 \
                 --tun-nocsum -x 9 -y 3",
            ),
            ("-d -f 7 -r 10.0.0.1", "-d -f 7 -r 10.0.0.1:0"),
            ("-C", "-C"),
            ("-Z", "-Z"),
            ("-Z -f 9", "-Z -f 9"),
            ("--set 1 0 3", "--set 1 0 3"),
            (
                "--start-daemon=master --mcast-interface eth0",
                "--start-daemon master --mcast-interface eth0 --syncid 0",
            ),
            (
                "--start-daemon backup --mcast-interface lo --syncid 8 --sync-maxlen 1400 --mcast-group ff02::81 --mcast-port 9000 --mcast-ttl 3",
                "--start-daemon backup --mcast-interface lo --syncid 8 --sync-maxlen 1400 \
                 --mcast-group ff02::81 --mcast-port 9000 --mcast-ttl 3",
            ),
            ("--stop-daemon backup", "--stop-daemon backup"),
        ] {
            let change = parse_rule(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(format!("{:#}", rule(&change)), canonical);
            assert_eq!(parse_rule(canonical), Ok(change));
        }
    }

    #[test]
    fn errors_name_line_and_reason() {
        for (text, reason) in [
            ("", "no command (-A, -a, --set, …)"),
            ("-A", "the virtual server is missing (-t, -u, -f)"),
            ("-A -t", "-t needs a value"),
            (
                "-A -t web:80",
                "\"web:80\" is not a numeric address and port",
            ),
            ("-A -t 10.0.0.1:80 -f 7", "more than one virtual server"),
            (
                "-A -t 10.0.0.1:80 -w 1",
                "--weight does not belong to this command",
            ),
            ("-A -t 10.0.0.1:80 -t 10.0.0.1:80", "-t is given twice"),
            (
                "-A -t 10.0.0.1:80 -M 255.0.0.0",
                "--netmask needs --persistent",
            ),
            (
                "-A -t 10.0.0.1:80 -b sh-port",
                "\"sh-port\" is not a flag of scheduler wlc",
            ),
            ("-a -t 10.0.0.1:80", "the real server is missing (-r)"),
            (
                "-a -t 10.0.0.1:80 -r 10.0.0.2:80 -m -g",
                "more than one forwarding method",
            ),
            (
                "-a -t 10.0.0.1:80 -r 10.0.0.2:80 -w x",
                "\"x\" is not a valid value of --weight",
            ),
            (
                "-a -t 10.0.0.1:80 -r 10.0.0.2:80 -i --tun-type gue",
                "--tun-type gue needs --tun-port",
            ),
            ("-A -t 10.0.0.1:80 --frob", "unknown option \"--frob\""),
            ("--set 1 2", "--set needs a value"),
            ("-f 0 -D", "\"0\" is not a valid value of --fwmark-service"),
            ("--stop-daemon none", "a sync daemon is master or backup"),
        ] {
            assert_eq!(parse_rule(text), Err(reason.to_owned()), "{text}");
        }
        let error = parse("# comment\n\n-C\n  -A\n").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 4: the virtual server is missing (-t, -u, -f), in \"-A\""
        );
    }
}
