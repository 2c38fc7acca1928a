//! Flags of the HTTP servers for metrics and health.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use clap::{ArgAction, Args, ValueEnum};

use super::go_bool;

/// As kube-proxy's.
pub(crate) const DEFAULT_METRICS: &str = "127.0.0.1:10249";
/// As kube-proxy's.
pub(crate) const DEFAULT_HEALTHZ: &str = "0.0.0.0:10256";

const MONITORING: &str = "Monitoring";

/// Metrics and health.
#[derive(Debug, Clone, Args)]
pub(crate) struct MonitorArgs {
    /// Address to serve /metrics, /proxyMode, /configz, /version, /conditions, /status
    /// and /services on; empty disables the server
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = DEFAULT_METRICS,
        value_parser = bind_address::<10249>,
        help_heading = MONITORING
    )]
    pub(crate) metrics_bind_address: BindAddress,

    /// Serve a page for people at / of --metrics-bind-address: Services, endpoints, rates, conditions
    /// and the last changes, read-only
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = true,
        value_parser = go_bool,
        action = ArgAction::Set,
        help_heading = MONITORING
    )]
    pub(crate) page: bool,

    /// Address to serve /healthz, /livez and /readyz on; empty disables the server
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = DEFAULT_HEALTHZ,
        value_parser = bind_address::<10256>,
        help_heading = MONITORING
    )]
    pub(crate) healthz_bind_address: BindAddress,

    /// Services to export traffic metrics for: connections, packets and bytes
    #[arg(
        long,
        value_enum,
        value_name = "WHICH",
        default_value_t = ServiceMetrics::Labeled,
        help_heading = MONITORING
    )]
    pub(crate) service_metrics: ServiceMetrics,

    /// Maximum number of Services to export traffic metrics for
    #[arg(long, value_name = "COUNT", default_value_t = 1000, help_heading = MONITORING)]
    pub(crate) service_metrics_limit: usize,
}

impl MonitorArgs {
    /// Whether the page for people is served.
    pub(crate) fn serves_page(&self) -> bool {
        self.page && self.metrics_bind_address.0.is_some()
    }
}

/// The Services whose traffic is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServiceMetrics {
    /// Services with the label svcproxy.io/metrics=true
    Labeled,
    /// All Services
    All,
}

/// An address to listen on, if any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BindAddress(pub(crate) Option<SocketAddr>);

impl BindAddress {
    /// An address, with a port or without one.
    pub(crate) fn parse<const DEFAULT: u16>(text: &str) -> Result<Self, String> {
        bind_address::<DEFAULT>(text)
    }
}

/// Reads an address as kube-proxy does: with a port, or without one for the port `DEFAULT`.
fn bind_address<const DEFAULT: u16>(text: &str) -> Result<BindAddress, String> {
    if text.is_empty() {
        return Ok(BindAddress(None));
    }
    let with_port = SocketAddr::from_str(text);
    let address = with_port.or_else(|_| IpAddr::from_str(text).map(|ip| (ip, DEFAULT).into()));
    match address {
        Ok(address) if address.port() != 0 => Ok(BindAddress(Some(address))),
        _ => Err("neither IP:PORT nor IP".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_addresses_are_as_kube_proxy_takes_them() {
        let parse =
            |text| bind_address::<10249>(text).map(|BindAddress(a)| a.map(|a| a.to_string()));
        let some = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(parse(""), Ok(None));
        assert_eq!(parse("127.0.0.1:1"), some("127.0.0.1:1"));
        assert_eq!(parse("0.0.0.0"), some("0.0.0.0:10249"));
        assert_eq!(parse("::"), some("[::]:10249"));
        assert_eq!(parse("[::1]:9"), some("[::1]:9"));
        for wrong in [
            ":10249",
            "localhost:10249",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "10249",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
