//! Prints the desired state of a node in the syntax of ipvsadm.

use std::collections::BTreeMap;
use std::io::{self, Write};

use ipvs::{Change, RealServer, VirtualServer};
use proxier::desired::DesiredState;
use proxier::mode::ipvs::plan::{NodeState, Plan, Scope, Step};

/// The plan for an empty node.
pub(super) fn from_nothing(desired: &DesiredState) -> Plan {
    Plan::new(desired, &NodeState::default(), Scope::Full)
}

/// In the syntax of `ipvsadm -Sn`, virtual servers by protocol, address and port, then those of
/// firewall marks; real servers in the order in which this node adds them.
pub(crate) fn desired_ipvsadm(desired: &DesiredState) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    for (server, real_servers) in virtual_servers(desired) {
        writeln!(out, "{}", ipvs::ipvsadm::virtual_server(&server))?;
        for real_server in &real_servers {
            writeln!(
                out,
                "{}",
                ipvs::ipvsadm::real_server(&server.key, real_server)
            )?;
        }
    }
    Ok(())
}

/// The virtual servers that the plan for an empty node creates, sorted, with their real servers.
pub(crate) fn virtual_servers(desired: &DesiredState) -> Vec<(VirtualServer, Vec<RealServer>)> {
    let mut servers = BTreeMap::new();
    for step in &from_nothing(desired) {
        match step {
            Step::Ipvs(Change::AddVirtualServer(server)) => {
                servers.insert(server.key, (*server, Vec::new()));
            }
            Step::Ipvs(Change::AddRealServer {
                virtual_server,
                real_server,
            }) => {
                if let Some((_, real_servers)) = servers.get_mut(virtual_server) {
                    real_servers.push(*real_server);
                }
            }
            _ => {}
        }
    }
    servers.into_values().collect()
}
