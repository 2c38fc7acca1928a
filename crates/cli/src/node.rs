//! This node's settings: those of the command line, with defaults from the machine.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ipvs::{Family, Timeouts};
use proxier::desired::{Config, FollowNode, Marks, PodInterfaces};

use crate::args::{DetectLocal, NodeArgs, NodePortAddresses};

/// The node's settings, validated.
pub(crate) fn config(args: &NodeArgs) -> anyhow::Result<Config> {
    let mut config = config_on(args, own_networks)?;
    config.has_ipv6 = has_ipv6();
    Ok(config)
}

/// Whether routes and rules of IPv6 have an effect: the kernel has it, and it is not disabled.
fn has_ipv6() -> bool {
    let disabled = fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    disabled.is_ok_and(|disabled| disabled.trim() == "0")
}

/// The settings on a machine with these addresses, each with its network.
pub(crate) fn config_on(
    args: &NodeArgs,
    own_networks: impl FnOnce() -> anyhow::Result<Vec<IpNet>>,
) -> anyhow::Result<Config> {
    let name = args.node_name.clone().map_or_else(host_name, Ok)?;
    let bind = args.kube_proxy.bind_address;
    let bind = bind.filter(|ip| !ip.is_unspecified() && args.node_ips.is_empty());
    // If the node's addresses are given, this may be another machine, whose networks do not count.
    let (mut node_ips, attached) = if args.node_ips.is_empty() {
        let own = own_networks()?;
        let first = |family| {
            own.iter()
                .map(IpNet::addr)
                .find(|ip| Family::of(ip) == family)
        };
        let first = [Family::V4, Family::V6].into_iter().filter_map(first);
        // The address of a dummy device may itself be a virtual IP.
        let wide = own
            .iter()
            .filter(|own| own.prefix_len() < own.max_prefix_len());
        (first.collect(), wide.map(IpNet::trunc).collect())
    } else {
        (args.node_ips.clone(), Vec::new())
    };
    if let Some(bind) = bind {
        node_ips.retain(|ip| Family::of(ip) != Family::of(&bind));
        node_ips.insert(0, bind);
    }
    let mut config = Config::new(name, node_ips);
    config.zone = args.zone.as_deref().map(Into::into);
    config.cluster_cidrs.clone_from(&args.cluster_cidrs);
    config.pod_interfaces = match args.detect_local_mode {
        DetectLocal::BridgeInterface => args.pod_bridge_interface.map(PodInterfaces::Named),
        DetectLocal::InterfaceNamePrefix => {
            args.pod_interface_name_prefix.map(PodInterfaces::Prefixed)
        }
        DetectLocal::ClusterCidr | DetectLocal::NodeCidr => None,
    };
    config.masquerade_all = args.masquerade_all;
    config.marks = Marks::new(args.masquerade_bit, args.mark_mask)?;
    for given in &args.nodeport_addresses {
        match given {
            NodePortAddresses::Primary => config.primary_node_ports = true,
            NodePortAddresses::Localhost => {
                let networks = [
                    ([127, 0, 0, 0].into(), 8),
                    (Ipv6Addr::LOCALHOST.into(), 128),
                ];
                let networks = networks.map(|(ip, bits)| IpNet::new_assert(ip, bits));
                config.node_port_addresses.extend(networks);
            }
            NodePortAddresses::All => {
                let networks = [Ipv4Net::default().into(), Ipv6Net::default().into()];
                config.node_port_addresses.extend::<[IpNet; 2]>(networks);
            }
            NodePortAddresses::In(network) => config.node_port_addresses.push(*network),
        }
    }
    config.exclude_cidrs.clone_from(&args.exclude_cidrs);
    config.deny_external_ips = args.deny_external_ips;
    config.deny_endpoints.clone_from(&args.deny_endpoints);
    config.scheduler = args.ipvs_scheduler;
    config.strict_arp = args.strict_arp;
    config.timeouts = timeouts(args);
    config.conntrack = args.kube_proxy.conntrack.settings(processors());
    config.drain_timeout = Duration::from_secs(args.drain_timeout);
    config.follow_node = FollowNode::default()
        .with_addresses(args.node_ips.is_empty() && bind.is_none())
        .with_pod_cidrs(args.detect_local_mode == DetectLocal::NodeCidr)
        .with_zone(args.zone.is_none())
        .with_service_cidrs(args.service_cidrs.is_empty());
    config.service_cidrs.clone_from(&args.service_cidrs);
    config.attached = attached;
    config.validate()?;
    Ok(config)
}

fn timeouts(args: &NodeArgs) -> Timeouts {
    let mut timeouts = Timeouts::default();
    timeouts.tcp = args.ipvs_tcp_timeout.0;
    timeouts.tcp_fin = args.ipvs_tcpfin_timeout.0;
    timeouts.udp = args.ipvs_udp_timeout.0;
    timeouts
}

/// The number of the machine's processors, even if this process may not use all of them.
fn processors() -> u32 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let processor = |line: &&str| {
        let rest = line.strip_prefix("cpu");
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    u32::try_from(stat.lines().filter(processor).count()).unwrap_or(u32::MAX)
}

/// The host's name in lower case, as the kubelet uses it.
fn host_name() -> anyhow::Result<String> {
    let name = rustix::system::uname()
        .nodename()
        .to_str()
        .map(str::to_lowercase);
    name.context("the host's name is not UTF-8: give --node-name")
}

/// The addresses that other machines can reach, with their networks.
fn own_networks() -> anyhow::Result<Vec<IpNet>> {
    let interfaces = if_addrs::get_if_addrs().context("cannot list this node's addresses")?;
    let networks = interfaces.iter().filter_map(|interface| {
        let prefix = match &interface.addr {
            if_addrs::IfAddr::V4(own) => own.prefixlen,
            if_addrs::IfAddr::V6(own) => own.prefixlen,
        };
        IpNet::new(interface.ip(), prefix).ok()
    });
    let can_be_reached = |own: &IpNet| match own.addr() {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    };
    Ok(networks.filter(can_be_reached).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    /// The settings of a machine with these addresses.
    fn on_machine(addresses: &[&str], arguments: &[&str]) -> Result<Config, String> {
        let command = ["svcproxy", "--node-name=node-a"];
        let cli = Cli::try_parse_from(command.iter().chain(arguments)).unwrap();
        let own = addresses.iter().map(|ip| {
            let ip: IpAddr = ip.parse().unwrap();
            ip.into()
        });
        let own = own.collect();
        config_on(&cli.run.node, || Ok(own)).map_err(|error| error.to_string())
    }

    #[test]
    fn missing_addresses_may_come_from_the_node_object() {
        let dual = "--service-cidr=10.96.0.0/12,fd00:10:96::/112";
        for addresses in [&["192.0.2.1"][..], &["2001:db8::1"], &[]] {
            on_machine(addresses, &[dual]).unwrap();
        }
        let manifests = "--manifests=web.yaml";
        for addresses in [&["192.0.2.1"][..], &[]] {
            on_machine(addresses, &[dual, manifests]).unwrap();
        }
        // Flags take precedence over the Node, so the node needs an address in one of the Service
        // CIDRs' families.
        on_machine(&[], &[dual, "--node-ip=192.0.2.1"]).unwrap();
        let arguments = ["--service-cidr=fd00:10:96::/112", "--node-ip=192.0.2.1"];
        let error = on_machine(&[], &arguments).unwrap_err();
        assert!(error.contains("no node IP for the Service CIDR"), "{error}");
    }
}
