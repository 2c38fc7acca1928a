//! The status of iptables mode, from its rules.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use proxier::mode::iptables::IptablesBackend;
use proxier::mode::iptables::{self, Served, Verdict};

use super::{Clients, RealServerStatus, Status, VipState, VipStatus};

pub(super) fn status(backend: &IptablesBackend) -> anyhow::Result<Status> {
    let mut services: BTreeMap<String, Vec<VipStatus>> = BTreeMap::new();
    for served in backend.served()? {
        let owner = served.owner.as_ref();
        let service = owner.map_or_else(|| "unknown".to_owned(), |of| of.service.to_string());
        services.entry(service).or_default().push(vip(served));
    }
    Ok(Status::new(services))
}

fn vip(served: Served) -> VipStatus {
    let (state, sent) = match served.outcome {
        Verdict::Sent(backends) => (VipState::Served, backends),
        Verdict::Refused => (VipState::Refused, Vec::new()),
        _ => (VipState::Dropped, Vec::new()),
    };
    VipStatus {
        key: served.key,
        port_name: served
            .owner
            .map_or_else(String::new, |owner| owner.port.to_string()),
        state,
        clients: match served.clients {
            iptables::Clients::Inside => Clients::Inside,
            iptables::Clients::Outside => Clients::Outside,
            _ => Clients::All,
        },
        // The equivalent of a scheduler in IPVS.
        scheduler: (state == VipState::Served).then(|| "random".to_owned()),
        persistence_seconds: served.affinity.map(NonZeroU32::get),
        real_servers: sent.iter().map(RealServerStatus::from).collect(),
    }
}
