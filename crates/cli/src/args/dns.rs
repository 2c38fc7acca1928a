//! Flags of the DNS server.

use std::net::{IpAddr, SocketAddr};

use clap::Args;
use proxier::desired;
use proxier::discovery::dns::{Config, Domain};

const DISCOVERY: &str = "Discovery (docs/discovery.md)";

/// The port of DNS.
const PORT: u16 = 53;

/// The DNS server.
#[derive(Debug, Args)]
pub(crate) struct DnsArgs {
    /// Address to answer DNS queries on, over UDP and TCP; repeat it for more [default: none, no DNS
    /// server]
    #[arg(
        long,
        value_name = "IP:PORT",
        value_parser = address,
        conflicts_with = "once",
        help_heading = DISCOVERY
    )]
    pub(crate) dns_address: Vec<SocketAddr>,

    /// DNS server to ask for names outside of the cluster domain; repeat it for more, which are asked
    /// if the first one does not answer [default: none, such names are refused]
    #[arg(
        long,
        value_name = "IP[:PORT]",
        value_parser = upstream,
        requires = "dns_address",
        help_heading = DISCOVERY
    )]
    pub(crate) dns_upstream: Vec<SocketAddr>,

    /// Domain of the names of Services
    #[arg(
        long,
        value_name = "DOMAIN",
        default_value = "cluster.local",
        help_heading = DISCOVERY
    )]
    pub(crate) cluster_domain: Domain,
}

impl DnsArgs {
    /// The settings of the server, if there is one, on a node with these settings.
    pub(crate) fn config(&self, node: &desired::Config) -> Option<Config> {
        let mut config = Config::new(self.dns_address.iter().copied());
        config.service_cidrs.clone_from(&node.service_cidrs);
        config.domain = self.cluster_domain.clone();
        config.upstreams.clone_from(&self.dns_upstream);
        (!config.addresses.is_empty()).then_some(config)
    }

    /// The address that is served and asked at the same time, if there is one.
    pub(crate) fn own_upstream(&self) -> Option<SocketAddr> {
        let mut upstreams = self.dns_upstream.iter().copied();
        upstreams.find(|upstream| self.dns_address.contains(upstream))
    }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        "not an address and a port, such as 10.0.0.10:53 or [fd00::10]:53".to_owned()
    })?;
    if address.ip().is_unspecified() {
        return Err(
            "give each address of its own: an answer must come from the address that was asked"
                .to_owned(),
        );
    }
    if address.port() == 0 {
        return Err("the port must not be 0".to_owned());
    }
    Ok(address)
}

fn upstream(text: &str) -> Result<SocketAddr, String> {
    let whole = text.parse::<SocketAddr>();
    let address = whole.or_else(|_| text.parse().map(|ip: IpAddr| SocketAddr::new(ip, PORT)));
    let address = address.map_err(|_| "not an address, with or without a port".to_owned())?;
    match address.port() == 0 || address.ip().is_unspecified() {
        true => Err("not the address of a server".to_owned()),
        false => Ok(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        let ok = |result: Result<SocketAddr, String>| result.map(|at| at.to_string()).ok();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(ok(address("10.0.0.10:53")), some("10.0.0.10:53"));
        assert_eq!(ok(address("[fd00::1]:53")), some("[fd00::1]:53"));
        for wrong in [
            "10.0.0.10",
            "0.0.0.0:53",
            "[::]:53",
            "10.0.0.10:0",
            "localhost:53",
        ] {
            assert_eq!(ok(address(wrong)), None, "{wrong}");
        }
        assert_eq!(ok(upstream("192.0.2.53")), some("192.0.2.53:53"));
        assert_eq!(ok(upstream("fd00::53")), some("[fd00::53]:53"));
        assert_eq!(ok(upstream("192.0.2.53:5353")), some("192.0.2.53:5353"));
        for wrong in ["0.0.0.0", "dns.example.com", "192.0.2.53:0"] {
            assert_eq!(ok(upstream(wrong)), None, "{wrong}");
        }
    }
}
