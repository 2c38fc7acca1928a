//! Probes what iptables mode needs.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::{NonZeroU16, NonZeroU32};
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use ipvs::Family;

use crate::desired::{Config, DesiredState};
use crate::mode::iptables::kernel::kernel_speaks;
use crate::mode::iptables::{Flavour, IptablesKernel};
use crate::mode::iptables::{NodeState, Plan, Step, Transaction};
use crate::mode::ipvs::plan::{Scope, base_sysctls};
use crate::mode::probe::look::{connection_tracking, families, finding, sysctl};
use crate::mode::probe::{Finding, Missing, Probe, Requirement};
use crate::mode::{NodeError, Sysctl};
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, ObjectName, PortName, Protocol, Service, ServicePort,
    SessionAffinity, TrafficPolicy,
};
use crate::store::{Change, Store};

/// Probes what iptables mode needs with these settings. Changes nothing, but the kernel may load
/// modules on request.
pub fn probe(config: &Config, proc_sys: &Path) -> Probe {
    let mut findings = Vec::new();
    let opened = Flavour::find().and_then(IptablesKernel::with_flavour);
    let spoken = families(config).filter(|family| kernel_speaks(*family));
    let found = match opened {
        Ok(kernel) => {
            let rules = spoken.map(|family| {
                let found = try_rules(&kernel, config, family);
                let found = found.map(|lines| format!("{lines} lines checked"));
                let module = Some("x_tables");
                finding(Requirement::IptablesRules(family), module, found)
            });
            findings.extend(rules);
            let flavour = kernel.flavour();
            let version = flavour.version();
            version.map(|version| format!("{flavour}: {version}"))
        }
        Err(error) => {
            let untried = |family| {
                let missing = Missing::not_tried("its programs");
                Finding::new(Requirement::IptablesRules(family), Err(missing))
            };
            findings.extend(spoken.map(untried));
            Err(error)
        }
    };
    findings.insert(0, finding(Requirement::Iptables, Some("x_tables"), found));
    findings.push(connection_tracking());
    let forward =
        |(name, _): &(Sysctl, u32)| [Sysctl::IPV4_FORWARD, Sysctl::IPV6_FORWARD].contains(name);
    let sysctls = base_sysctls(config).filter(forward);
    findings.extend(sysctls.map(|(name, value)| sysctl(proc_sys, name, value)));
    findings.into_iter().collect()
}

/// Checks all kinds of rules with `iptables-restore --test`. Returns the number of lines.
fn try_rules(kernel: &IptablesKernel, config: &Config, family: Family) -> Result<usize, NodeError> {
    let transactions = sample(config);
    let of_family = transactions.iter().filter(|t| t.family == family);
    let mut lines = 0;
    for transaction in of_family {
        kernel.test(transaction)?;
        lines += transaction.to_string().lines().count();
    }
    Ok(lines)
}

/// The transactions for [`services`] on a node without rules.
fn sample(config: &Config) -> Vec<Transaction> {
    let mut config = config.clone();
    config.exclude_cidrs.clear();
    let mut store = Store::default();
    let families: Vec<_> = families(&config).collect();
    services(&families, &config.node_name)
        .into_iter()
        .for_each(|change| store.apply(change));
    let desired = DesiredState::from_store(Arc::new(config), &store);
    let plan = Plan::new(&desired, &NodeState::default(), Scope::Full);
    let steps = plan.steps().iter();
    let transactions = steps.filter_map(|step| match step {
        Step::Restore(transaction) => Some(transaction.clone()),
        _ => None,
    });
    transactions.collect()
}

/// A plain Service, one with session affinity and source ranges, and one without endpoints.
fn services(families: &[Family], node: &Arc<str>) -> Vec<Change> {
    let mut changes = Vec::new();
    for (name, number) in [("random", 200), ("affinity", 210), ("refused", 220)] {
        let (Ok(name), Some(port), Some(node_port)) = (
            ObjectName::new("svcproxy", name),
            NonZeroU16::new(80),
            NonZeroU16::new(30000 + number),
        ) else {
            continue;
        };
        let of_all = |offset: u16| -> Box<[IpAddr]> {
            let addresses = families.iter();
            addresses
                .map(|family| address(*family, number + offset))
                .collect()
        };
        let mut service = Service::new(name.clone());
        service.cluster_ips = of_all(0);
        service.load_balancer_ips = of_all(1);
        let mut service_port = ServicePort::new(PortName::default(), Protocol::Tcp, port);
        service_port.node_port = Some(node_port);
        service.ports = [service_port].into();
        if number == 210 {
            let seconds = NonZeroU32::MIN.saturating_add(10_799);
            service.session_affinity = SessionAffinity::ClientIp(seconds);
            service.external_traffic_policy = TrafficPolicy::Local;
            let ranges = families.iter().map(|family| range(*family));
            service.load_balancer_source_ranges = ranges.collect();
        }
        changes.push(Change::ServiceApplied(service));
        if number == 220 {
            continue;
        }
        for family in families {
            let mut slice = EndpointSlice::new(name.clone(), name.clone(), *family);
            slice.ports = [EndpointPort::new(PortName::default(), Protocol::Tcp, port)].into();
            let endpoints = [2, 3].map(|offset| {
                let mut endpoint = Endpoint::new(address(*family, number + offset));
                endpoint.node = Some(Arc::clone(node));
                endpoint
            });
            slice.endpoints = endpoints.into();
            changes.push(Change::EndpointSliceApplied(slice));
        }
    }
    changes
}

/// An address reserved for documentation.
fn address(family: Family, host: u16) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(0xc000_0200 + u32::from(host)).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into(),
    }
}

fn range(family: Family) -> IpNet {
    let bits = match family {
        Family::V4 => 24,
        Family::V6 => 32,
    };
    IpNet::new_assert(address(family, 0), bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sample contains every match and target.
    #[test]
    fn the_sample_has_every_kind_of_rule() {
        let node_ips = vec![
            "198.51.100.1".parse().unwrap(),
            "2001:db8:1::1".parse().unwrap(),
        ];
        let mut config = Config::new("node-a", node_ips);
        config.cluster_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
        let transactions = sample(&config);
        assert_eq!(transactions.len(), 2);
        let text: String = transactions.iter().map(ToString::to_string).collect();
        for part in [
            "-m addrtype",
            "-m comment",
            "-m conntrack --ctstate",
            "-m mark",
            "-m recent --set",
            "-m recent --update",
            "-m statistic --mode random",
            "-m tcp --dport",
            "-j DNAT",
            "-j DROP",
            "-j MARK --set-xmark",
            "-j MASQUERADE",
            "-j REJECT --reject-with tcp-reset",
            "-j RETURN",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
