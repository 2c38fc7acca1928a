//! The Services, as `svcproxy status --services` lists them.

use std::io::{self, Write};
use std::net::SocketAddr;

use crate::inventory::{ClientGroup, Inventory, Scheduled, ServiceStatus, VipState, VipStatus};
use crate::logging::Shown;

/// Writes each Service with its virtual IPs and real servers.
pub(super) fn write(out: &mut impl Write, inventory: &Inventory) -> io::Result<()> {
    for ServiceStatus { service, vips } in &inventory.services {
        writeln!(out, "{}", Shown(service))?;
        for vip in vips {
            let VipStatus { key, port_name, .. } = vip;
            write!(out, "  {key}")?;
            if !port_name.is_empty() {
                write!(out, " ({})", Shown(port_name))?;
            }
            match vip.clients {
                ClientGroup::All => {}
                ClientGroup::Inside => write!(out, " clients in the cluster:")?,
                ClientGroup::Outside => write!(out, " clients outside of the cluster:")?,
            }
            match (vip.state, &vip.scheduler) {
                (VipState::Refused, _) => write!(out, " no endpoints: refused")?,
                (VipState::Dropped, _) => write!(out, " no endpoints here: dropped")?,
                (VipState::NotServed, _) => write!(out, " not served")?,
                (VipState::Served, Some(scheduler)) => write!(out, " {scheduler}")?,
                (VipState::Served, None) => write!(out, " its virtual server is missing")?,
            }
            if let Some(seconds) = vip.persistence_seconds {
                write!(out, ", client keeps its endpoint {seconds} s")?;
            }
            if let Some(reason) = &vip.reason {
                write!(out, ": {}", Shown(reason))?;
            }
            writeln!(out)?;
            for server in &vip.real_servers {
                let address = SocketAddr::new(server.address, server.port).to_string();
                write!(out, "    -> {address:<28}")?;
                if let Some(Scheduled { weight, now, .. }) = server.scheduled {
                    let (active, inactive) = (now.active_connections, now.inactive_connections);
                    write!(
                        out,
                        " weight {weight:<4} active {active:<6} inactive {inactive:<6}"
                    )?;
                }
                match server.total_connections {
                    Some(total) => writeln!(out, " total {total}")?,
                    None => writeln!(out)?,
                }
            }
        }
    }
    Ok(())
}
