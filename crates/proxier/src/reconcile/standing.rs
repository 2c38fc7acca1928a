//! Conditions: problems that persist across syncs.

use std::collections::BTreeMap;

use crate::Proxier;
use crate::desired::{Problem, Unanswered};
use crate::mode::DataPlane;
use crate::model::ObjectName;
use crate::notice::Notice;
use crate::reconcile::Concerned;

/// The conditions of a proxier: what Services request and do not get, and invalid settings of the
/// Node object. Each is reported when it begins, and again if it ended and returned.
///
/// Ports without endpoints are no problems, because Services without endpoints are common: they are
/// known here and not reported.
#[derive(Debug, Default)]
pub struct Standing {
    of_services: BTreeMap<ObjectName, Vec<Problem>>,
    unanswered: BTreeMap<ObjectName, Vec<Unanswered>>,
    of_node: Vec<Notice>,
}

impl Standing {
    /// The conditions that began since the last call. Checks only the `concerned` Services.
    pub fn follow<B: DataPlane>(
        &mut self,
        proxier: &Proxier<B>,
        concerned: &Concerned,
    ) -> Vec<Notice> {
        let mut new = Vec::new();
        match concerned {
            Concerned::All => {
                let mut now = BTreeMap::<_, Vec<_>>::new();
                for problem in proxier.problems() {
                    now.entry(problem.service.clone())
                        .or_default()
                        .push(problem);
                }
                self.of_services.retain(|name, _| now.contains_key(name));
                for (name, problems) in now {
                    self.ingest(&name, problems, &mut new);
                }
                let unanswered = proxier.desired().all_unanswered();
                self.unanswered = unanswered
                    .map(|(name, ports)| (name.clone(), ports.clone()))
                    .collect();
            }
            Concerned::Services(names) => {
                for name in names {
                    self.ingest(name, proxier.problems_of(name), &mut new);
                    match proxier.desired().unanswered(name) {
                        [] => _ = self.unanswered.remove(name),
                        ports => _ = self.unanswered.insert(name.clone(), ports.to_vec()),
                    }
                }
            }
        }
        let of_node = proxier.node_conditions();
        let came = of_node.iter().filter(|now| !self.of_node.contains(now));
        new.extend(came.cloned());
        self.of_node = of_node;
        new
    }

    /// All that are known now: those of the node, then those of Services by name.
    pub fn conditions(&self) -> impl Iterator<Item = Notice> {
        let of_services = self.of_services.values().flatten();
        let of_services = of_services.cloned().map(Notice::from);
        self.of_node.iter().cloned().chain(of_services)
    }

    /// The ports without endpoints, by Service.
    pub fn unanswered(&self) -> impl Iterator<Item = (&ObjectName, &Unanswered)> {
        let of_services = self.unanswered.iter();
        of_services.flat_map(|(name, ports)| ports.iter().map(move |port| (name, port)))
    }

    /// How many there are for each reason, without ports that have no endpoints.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let of_services = self.of_services.values().flatten();
        let reasons = of_services.map(|problem| problem.reason);
        let reasons = reasons.chain(self.of_node.iter().map(|notice| notice.reason));
        let mut counts = BTreeMap::new();
        for reason in reasons {
            *counts.entry(reason.as_str()).or_default() += 1;
        }
        counts
    }

    fn ingest(&mut self, service: &ObjectName, problems: Vec<Problem>, new: &mut Vec<Notice>) {
        let before = self.of_services.get(service).map_or(&[][..], Vec::as_slice);
        let came = problems.iter().filter(|problem| !before.contains(problem));
        new.extend(came.cloned().map(Notice::from));
        if problems.is_empty() {
            self.of_services.remove(service);
        } else {
            self.of_services.insert(service.clone(), problems);
        }
    }
}
