//! Helpers of the tests of several modules.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use ipvs::{Family, Protocol};
use proxier::desired::FrontendKey;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format;
use tracing_subscriber::registry::LookupSpan;

use crate::inventory::{ClientGroup, Now, Rates, RealServerStatus, Scheduled, VipState, VipStatus};
use crate::logging::write_field;

/// The lines of a log in the text format, without times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let writer = self.clone();
        tracing_subscriber::fmt::layer()
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .fmt_fields(format::debug_fn(write_field).delimited(" "))
    }

    /// The lines since the last call.
    pub(crate) fn take(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A port of a virtual IP as a kernel with IPVS has it: served by `rr` at these real servers, each an
/// address, a weight and a number of active connections.
pub(crate) fn vip(key: &str, port_name: &str, servers: &[(&str, u32, u64)]) -> VipStatus {
    let (protocol, at) = key.split_once(' ').unwrap();
    let protocol = match protocol {
        "udp" => Protocol::Udp,
        _ => Protocol::Tcp,
    };
    let key = match at.parse::<SocketAddr>() {
        Ok(at) => FrontendKey {
            protocol,
            address: at.ip(),
            port: at.port().try_into().unwrap(),
        },
        Err(_) => FrontendKey::node_port(protocol, Family::V4, at.parse().unwrap()),
    };
    let servers = servers.iter().map(|(at, weight, active)| {
        let at: SocketAddr = at.parse().unwrap();
        RealServerStatus {
            address: at.ip(),
            port: at.port(),
            scheduled: Some(Scheduled {
                weight: *weight,
                now: Now {
                    active_connections: *active,
                    inactive_connections: 1,
                },
                rates: Rates {
                    connections_per_second: 2,
                    packets_per_second: 20,
                    bytes_per_second: 2000,
                },
            }),
            total_connections: Some(100),
        }
    });
    VipStatus {
        key,
        port_name: port_name.to_owned(),
        state: VipState::Served,
        reason: None,
        clients: ClientGroup::All,
        scheduler: Some("rr".to_owned()),
        persistence_seconds: None,
        real_servers: servers.collect(),
    }
}

/// A port of a virtual IP without endpoints.
pub(crate) fn without_endpoints(key: &str, port_name: &str, state: VipState) -> VipStatus {
    VipStatus {
        state,
        scheduler: None,
        ..vip(key, port_name, &[])
    }
}
