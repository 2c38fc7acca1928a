//! Flags of the commands that look at this node.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, ValueEnum};
use proxier::desired::FrontendKey;

use super::Mode;
use super::monitor::{BindAddress, DEFAULT_METRICS};

/// The data plane to look at, and the process that programs it.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataPlaneArgs {
    /// Data plane to read [default: userspace if the running svcproxy has it, else that of iptables or
    /// nftables if svcproxy has rules there, else ipvs]
    #[arg(long, value_enum)]
    pub(crate) mode: Option<Mode>,

    /// Metrics address of the running svcproxy; empty reads the kernel only
    #[arg(
        long,
        value_name = "IP:PORT",
        default_value = DEFAULT_METRICS,
        value_parser = BindAddress::parse::<10249>
    )]
    pub(crate) metrics_bind_address: BindAddress,
}

/// `svcproxy status`.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// List every VIP and real server that the kernel has, instead of the summary; -o json always
    /// does
    #[arg(long)]
    pub(crate) services: bool,

    #[command(flatten)]
    pub(crate) from: DataPlaneArgs,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = StatusFormat::Text)]
    pub(crate) output: StatusFormat,
}

/// Output formats of `svcproxy status` and `svcproxy describe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StatusFormat {
    /// Text for people
    Text,
    /// JSON for programs
    Json,
}

/// Which Services.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Selection {
    /// Names of Services, as NAME or NAMESPACE/NAME [default: all]
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,

    /// Only Services of this namespace
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,

    /// Only Services with this virtual IP, or with this port of it
    #[arg(long, value_name = "IP[:PORT]", value_parser = vip)]
    pub(crate) vip: Option<VipFilter>,

    /// Only Services with an endpoint of this address
    #[arg(long, value_name = "IP")]
    pub(crate) endpoint: Option<IpAddr>,
}

impl Selection {
    /// Whether a Service has a name and a namespace of the command line.
    pub(crate) fn names(&self, service: &str) -> bool {
        let (namespace, _) = service.split_once('/').unwrap_or(("", service));
        let in_namespace = self.namespace.as_ref().is_none_or(|of| of == namespace);
        let mut names = self.names.iter();
        in_namespace && (self.names.is_empty() || names.any(|name| is_called(service, name)))
    }

    /// The names of the command line that none of these Services has.
    pub(crate) fn missing<'a>(&self, services: impl Iterator<Item = &'a str> + Clone) -> Vec<&str> {
        let is_there = |name: &&String| services.clone().any(|service| is_called(service, name));
        let missing = self.names.iter().filter(|name| !is_there(name));
        missing.map(String::as_str).collect()
    }

    /// Whether all Services with these names are wanted, whatever their addresses.
    pub(crate) const fn is_by_name(&self) -> bool {
        self.vip.is_none() && self.endpoint.is_none()
    }

    /// Whether this port of a Service has a wanted VIP and a wanted endpoint.
    pub(crate) fn has(
        &self,
        key: &FrontendKey,
        mut endpoints: impl Iterator<Item = IpAddr>,
    ) -> bool {
        let vip = |VipFilter { address, port }: VipFilter| {
            key.address == address && port.is_none_or(|port| port == key.port.get())
        };
        let endpoint = |address| endpoints.any(|endpoint| endpoint == address);
        self.vip.is_none_or(vip) && self.endpoint.is_none_or(endpoint)
    }
}

/// Whether this is the Service's name, with or without its namespace.
fn is_called(service: &str, name: &str) -> bool {
    service == name || service.split_once('/').is_some_and(|(_, own)| own == name)
}

/// `svcproxy services`.
#[derive(Debug, Args)]
pub(crate) struct ServicesArgs {
    #[command(flatten)]
    pub(crate) selection: Selection,

    /// Order of the lines
    #[arg(long, value_enum, default_value_t = SortBy::Name)]
    pub(crate) sort: SortBy,

    /// Output format [default: a table]
    #[arg(short, long, value_enum)]
    pub(crate) output: Option<ServicesFormat>,

    /// Read again every 2 seconds, and print the lines that change
    #[arg(short, long)]
    pub(crate) watch: bool,

    #[command(flatten)]
    pub(crate) from: DataPlaneArgs,
}

/// Output formats of `svcproxy services`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServicesFormat {
    /// The table with more columns
    Wide,
    /// JSON for programs
    Json,
    /// YAML for people and programs
    Yaml,
    /// NAMESPACE/NAME, one per line
    Name,
}

/// The order of Services; the busiest first, except by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SortBy {
    /// Namespace, name and port
    Name,
    /// Active connections; in mode iptables all connections
    Connections,
    /// New connections per second
    Rate,
    /// Endpoints
    Endpoints,
}

/// A virtual IP, and perhaps a port of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VipFilter {
    pub(crate) address: IpAddr,
    pub(crate) port: Option<u16>,
}

fn vip(text: &str) -> Result<VipFilter, String> {
    if let Ok(address) = text.parse() {
        let port = None;
        return Ok(VipFilter { address, port });
    }
    let with_port: SocketAddr = text
        .parse()
        .map_err(|_| "neither IP nor IP:PORT; an IPv6 address needs brackets before a port")?;
    Ok(VipFilter {
        address: with_port.ip(),
        port: Some(with_port.port()),
    })
}

/// `svcproxy describe`.
#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// The Service, as NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    pub(crate) name: String,

    /// Namespace of the Service [default: default]
    #[arg(short, long)]
    pub(crate) namespace: Option<String>,

    #[command(flatten)]
    pub(crate) from: DataPlaneArgs,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = StatusFormat::Text)]
    pub(crate) output: StatusFormat,
}
