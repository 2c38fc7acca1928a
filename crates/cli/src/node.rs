//! This node's settings: the command line's, completed from what the machine says of itself.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use ipvs::Family;
use proxier::desired::{Config, ConfigError};

use crate::args::NodeArgs;

/// The node's settings, checked.
pub(crate) fn config(args: &NodeArgs) -> anyhow::Result<Config> {
    let name = args.node_name.clone().map_or_else(host_name, Ok)?;
    let node_ips = if args.node_ips.is_empty() {
        own_addresses()?
    } else {
        args.node_ips.clone()
    };
    let mut config = Config::new(name, node_ips);
    config.cluster_cidrs.clone_from(&args.cluster_cidrs);
    config.scheduler = args.ipvs_scheduler;
    config.drain_timeout = Duration::from_secs(args.drain_timeout);
    if args.service_cidrs.is_empty() {
        // The default is for nodes that speak its family.
        let node_ips = config.node_ips.clone();
        let spoken = |family| node_ips.iter().any(|ip| Family::of(ip) == family);
        config
            .service_cidrs
            .retain(|cidr| spoken(Family::of(&cidr.addr())));
    } else {
        config.service_cidrs.clone_from(&args.service_cidrs);
    }
    config
        .validate()
        .map_err(|error: ConfigError| anyhow::Error::new(error))?;
    Ok(config)
}

/// The host's name in lower case, as the kubelet has it.
fn host_name() -> anyhow::Result<String> {
    let name = rustix::system::uname()
        .nodename()
        .to_str()
        .map(str::to_lowercase);
    name.context("the host's name is not UTF-8: give --node-name")
}

/// The first address of each family that others can reach.
fn own_addresses() -> anyhow::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs().context("cannot list this node's addresses")?;
    let mut addresses: Vec<_> = interfaces.iter().map(if_addrs::Interface::ip).collect();
    addresses.retain(|ip| match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unicast_link_local(),
    });
    let first = |family| {
        addresses
            .iter()
            .copied()
            .find(|ip| Family::of(ip) == family)
    };
    let found: Vec<_> = [Family::V4, Family::V6]
        .into_iter()
        .filter_map(first)
        .collect();
    anyhow::ensure!(
        !found.is_empty(),
        "this node has no address of its own: give --node-ip"
    );
    Ok(found)
}
