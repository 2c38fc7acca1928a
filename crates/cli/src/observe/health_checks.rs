//! Health check node ports, kept in sync with the Services.

use ipnet::IpNet;
use proxier::Runtime;
use proxier::desired::{Config, DesiredState, HealthCheck};
use proxier::observe::health::ServiceHealth;
use proxier::observe::metrics::Monitor;

use crate::logging::chain;

/// The server, and the checks that it serves.
pub(crate) struct Health {
    runtime: Runtime,
    monitor: Monitor,
    /// The networks of the addresses that it listens on.
    networks: Vec<IpNet>,
    server: ServiceHealth,
    /// The checks in effect; `None` if a port could not be opened.
    checks: Option<Vec<HealthCheck>>,
}

impl Health {
    pub(crate) fn new(runtime: Runtime, config: &Config, monitor: Monitor) -> Self {
        let networks = config.node_port_networks();
        Self {
            server: server(&runtime, &networks, &monitor),
            runtime,
            monitor,
            networks,
            checks: Some(Vec::new()),
        }
    }

    /// Updates the checks. Ports that could not be opened are tried again.
    pub(crate) fn follow(&mut self, desired: &DesiredState) {
        let networks = desired.config().node_port_networks();
        if networks != self.networks {
            self.server = server(&self.runtime, &networks, &self.monitor);
            self.networks = networks;
            self.checks = Some(Vec::new());
        }
        let as_before = self
            .checks
            .as_ref()
            .is_some_and(|checks| desired.health_checks().eq(checks));
        if as_before {
            return;
        }
        let checks: Vec<_> = desired.health_checks().cloned().collect();
        let errors = self.server.sync(checks.iter().cloned());
        for error in &errors {
            tracing::warn!("{}", chain(error));
        }
        self.checks = errors.is_empty().then_some(checks);
    }
}

fn server(runtime: &Runtime, networks: &[IpNet], monitor: &Monitor) -> ServiceHealth {
    let monitor = monitor.clone();
    ServiceHealth::new(runtime.clone(), networks.to_vec())
        .healthy_while(move || monitor.is_healthy())
}
