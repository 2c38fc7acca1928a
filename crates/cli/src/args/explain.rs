//! Flags of `svcproxy explain`.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use clap::Args;
use ipvs::Protocol;

use super::{Against, Mode, ModeArgs, NodeArgs, StatusFormat, chosen};

/// `svcproxy explain`.
#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// Where the connection goes: ADDRESS:PORT (an IPv6 address in brackets), or node-port:PORT; then
    /// /udp or /sctp for another protocol than TCP
    #[arg(value_name = "ADDRESS:PORT[/PROTOCOL]", value_parser = target)]
    pub(crate) target: Target,

    /// Address of the client [default: this node]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) from: Option<IpAddr>,

    /// Interface of this node on which the client's packets arrive; needed only if pods are detected
    /// by interface
    #[arg(long, value_name = "NAME", requires = "from")]
    pub(crate) interface: Option<String>,

    /// Explain this state even if a source is given, and report where the two differ
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) against: Option<Against>,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = StatusFormat::Text)]
    pub(crate) output: StatusFormat,

    #[command(flatten)]
    pub(crate) mode: ModeArgs,

    #[command(flatten)]
    pub(crate) node: NodeArgs,
}

impl ExplainArgs {
    /// Whether the command line names a source of Services.
    pub(crate) fn has_source(&self) -> bool {
        self.node.source.is_given()
    }

    /// The chosen mode, for a plan.
    pub(crate) fn planned_mode(&self) -> Mode {
        chosen(self.mode.mode, &self.node)
    }
}

/// Where a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Target {
    /// None for a node port, at the node's address.
    pub(crate) address: Option<IpAddr>,
    pub(crate) port: NonZeroU16,
    pub(crate) protocol: Protocol,
}

fn target(text: &str) -> Result<Target, String> {
    let (at, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((at, name)) => match name.to_ascii_lowercase().as_str() {
            "tcp" => (at, Protocol::Tcp),
            "udp" => (at, Protocol::Udp),
            "sctp" => (at, Protocol::Sctp),
            _ => return Err("the protocol must be tcp, udp or sctp".to_owned()),
        },
    };
    let (address, port) = match at.strip_prefix("node-port:") {
        Some(port) => (
            None,
            port.parse()
                .map_err(|_| "the port must be within 1 and 65535")?,
        ),
        None => {
            let at: SocketAddr = at.parse().map_err(
                |_| "neither ADDRESS:PORT nor node-port:PORT; an IPv6 address needs brackets",
            )?;
            (Some(at.ip()), at.port())
        }
    };
    let port = NonZeroU16::new(port).ok_or("the port must be within 1 and 65535")?;
    Ok(Target {
        address,
        port,
        protocol,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let parse = |text: &str| {
            target(text).map(|of| {
                (
                    of.address.map(|ip| ip.to_string()),
                    of.port.get(),
                    of.protocol,
                )
            })
        };
        let at = |ip: &str| Some(ip.to_owned());
        assert_eq!(
            parse("10.96.0.1:80"),
            Ok((at("10.96.0.1"), 80, Protocol::Tcp))
        );
        assert_eq!(
            parse("10.96.0.1:53/UDP"),
            Ok((at("10.96.0.1"), 53, Protocol::Udp))
        );
        assert_eq!(
            parse("[fd00::1]:80/sctp"),
            Ok((at("fd00::1"), 80, Protocol::Sctp))
        );
        assert_eq!(parse("node-port:30080"), Ok((None, 30_080, Protocol::Tcp)));
        for wrong in [
            "10.96.0.1",
            "fd00::1:80",
            "10.96.0.1:0",
            "node-port:0",
            "a:80",
            "10.96.0.1:80/icmp",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
