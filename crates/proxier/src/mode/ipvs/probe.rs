//! Probes what IPVS mode needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::thread;
use std::time::Duration;

use ipvs::{Client, ErrorKind, Family, Scheduler, VirtualServer, VirtualServerKey};

use crate::desired::Config;
use crate::mode::ipvs::kernel::{check_routes, check_ruleset};
use crate::mode::ipvs::plan::base_sysctls;
use crate::mode::ipvs::rules::Ruleset;
use crate::mode::probe::look::{connection_tracking, families, finding, sysctl};
use crate::mode::probe::{Finding, Missing, Mode, Probe, Requirement};

/// The discard port (RFC 863), which is never load-balanced.
const PORT: u16 = 9;

/// Pauses before further tries if the kernel is too busy to answer, or fails.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(2),
];

/// Probes what IPVS mode needs with these settings. Changes nothing, but the kernel may load
/// modules on request.
///
/// If the kernel is too busy to answer, or fails, it tries again, up to four times in 3.4 seconds.
///
/// The test virtual servers have addresses reserved for documentation (192.0.2.0/24,
/// 2001:db8::/32). Each exists only while the kernel processes one datagram, which no signal can
/// interrupt.
pub fn probe(config: &Config, proc_sys: &Path) -> Probe {
    let mut probe = look(config, proc_sys);
    for pause in PAUSES {
        if !probe.may_pass(Mode::Ipvs) {
            break;
        }
        thread::sleep(pause);
        probe = look(config, proc_sys);
    }
    probe
}

fn look(config: &Config, proc_sys: &Path) -> Probe {
    let mut findings = Vec::new();
    let opened = Client::open().and_then(|mut client| Ok((client.info()?, client)));
    let has_ipvs = opened.is_ok();
    let found = match opened {
        Ok((info, client)) => {
            virtual_servers(client, config, &mut findings);
            Ok(format!("version {}", info.version))
        }
        Err(error) => {
            findings.extend(untried(config));
            Err(error.into())
        }
    };
    findings.insert(0, finding(Requirement::Ipvs, Some("ip_vs"), found));
    let ruleset = Ruleset::new(config);
    let rules = check_ruleset(&ruleset).map(|()| "accepts the rules".to_owned());
    findings.push(finding(Requirement::Nftables, Some("nf_tables"), rules));
    let (routes, rules) = check_routes();
    let listed = |()| "can be listed".to_owned();
    findings.push(finding(Requirement::Routes, None, routes.map(listed)));
    findings.push(finding(Requirement::RoutingRules, None, rules.map(listed)));
    findings.push(connection_tracking());
    for (name, value) in base_sysctls(config) {
        findings.push(match has_ipvs || !name.name().contains(".vs.") {
            true => sysctl(proc_sys, name, value),
            false => not_tried(Requirement::Sysctl(name, value)),
        });
    }
    findings.into_iter().collect()
}

/// Whether the kernel has loaded IPVS. Loads nothing, and needs no privileges.
pub fn is_loaded() -> bool {
    Path::new("/proc/thread-self/net/ip_vs").exists()
}

fn untried(config: &Config) -> impl Iterator<Item = Finding> {
    let schedulers = schedulers(config).map(|(requirement, _)| requirement);
    let servers = families(config).map(Requirement::VirtualServers);
    schedulers.chain(servers).map(not_tried)
}

fn not_tried(requirement: Requirement) -> Finding {
    Finding::new(requirement, Err(Missing::not_tried("IPVS")))
}

/// The schedulers that these settings need.
fn schedulers(config: &Config) -> impl Iterator<Item = (Requirement, Scheduler)> {
    let mh = Scheduler::MaglevHash;
    let of_all = config.scheduler;
    let affinity = (of_all != mh).then_some((Requirement::AffinityScheduler, mh));
    [(Requirement::Scheduler(of_all), of_all)]
        .into_iter()
        .chain(affinity)
}

fn virtual_servers(mut client: Client, config: &Config, findings: &mut Vec<Finding>) {
    let first = families(config).next().unwrap_or(Family::V4);
    for (requirement, scheduler) in schedulers(config) {
        let module = format!("ip_vs_{scheduler}");
        let found = attempt(&mut client, first, scheduler);
        let found = found.map(|()| "found".to_owned()).map_err(Into::into);
        findings.push(finding(requirement, Some(&module), found));
    }
    for family in families(config) {
        let requirement = Requirement::VirtualServers(family);
        let found = match attempt(&mut client, family, config.scheduler) {
            Err(error) if *error.kind() == ErrorKind::UnknownScheduler => {
                let missing = Missing::not_tried("its scheduler");
                findings.push(Finding::new(requirement, Err(missing)));
                continue;
            }
            found => found,
        };
        let found = found.map(|()| "created, read and deleted".to_owned());
        findings.push(finding(
            requirement,
            Some("ip_vs"),
            found.map_err(Into::into),
        ));
    }
}

/// Creates, reads and deletes a virtual server.
fn attempt(client: &mut Client, family: Family, scheduler: Scheduler) -> ipvs::Result<()> {
    let mut attempt = |host: u8| {
        let address: IpAddr = match family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, host).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(),
        };
        let key = VirtualServerKey::tcp(SocketAddr::new(address, PORT));
        let server = VirtualServer::new(key).with_scheduler(scheduler);
        client.probe_virtual_server(&server).map(drop)
    };
    let is_taken = |tried: &ipvs::Result<()>| {
        let error = tried.as_ref().err();
        error.is_some_and(ipvs::Error::is_already_exists)
    };
    // Another virtual server may exist at the address.
    let mut tried = attempt(1);
    for host in 2..=8 {
        if is_taken(&tried) {
            tried = attempt(host);
        }
    }
    tried
}
