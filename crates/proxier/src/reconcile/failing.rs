//! What failed and has not been right since.
//!
//! The schedule knows when to retry it; this is what an operator is shown, until the same thing
//! succeeds. The success of anything else changes nothing here.

use std::collections::BTreeMap;

use crate::desired::{DesiredState, Frontend, Need, Problem};
use crate::mode::ipvs::plan::Scope;
use crate::mode::{Failures, Item, Part};
use crate::model::ObjectName;
use crate::notice::{Notice, Reason};

/// The failures that last.
#[derive(Debug, Default)]
pub(super) struct Failing {
    /// The first cause of each. Later ones are the same with other words, and would be reported
    /// again.
    causes: BTreeMap<Part, String>,
    /// Whether the last full comparison, or a sync since, failed in something that all Services
    /// share.
    is_general: bool,
}

impl Failing {
    /// Records the result of a plan of this scope.
    pub(super) fn settle(&mut self, scope: Scope<'_>, failures: &mut Failures) {
        let is_tried = |part: &Part| match scope {
            Scope::Full => true,
            Scope::Touched(touched) => match part {
                Part::Item(Item::Frontend(key)) => touched.frontends.contains(key),
                Part::Item(Item::Need(need)) => touched.needs.contains(need),
                Part::Step(_) => false,
            },
        };
        let causes = std::mem::take(&mut failures.causes);
        self.causes
            .retain(|part, _| causes.contains_key(part) || !is_tried(part));
        for (part, cause) in causes {
            self.causes.entry(part).or_insert(cause);
        }
        if matches!(scope, Scope::Full) {
            self.is_general = failures.is_general;
        } else {
            self.is_general |= failures.is_general;
        }
    }

    pub(super) const fn is_general(&self) -> bool {
        self.is_general
    }

    /// The problems of all Services, or of one.
    pub(super) fn problems(&self, desired: &DesiredState, of: Option<&ObjectName>) -> Vec<Problem> {
        if self.causes.is_empty() {
            return Vec::new();
        }
        let problem = |frontend: &Frontend| {
            let cause = self.causes.get(&Part::Item(Item::Frontend(frontend.key)))?;
            Some(Problem {
                service: frontend.owner.service.clone(),
                field: frontend.kind.field().to_owned(),
                reason: Reason::SyncFailed,
                message: format!(
                    "{} is not as it should be, and svcproxy retries within 30 seconds: {cause}",
                    frontend.key
                ),
            })
        };
        match of {
            None => {
                let keys = self.causes.keys().filter_map(|part| match part {
                    Part::Item(Item::Frontend(key)) => Some(key),
                    _ => None,
                });
                let frontends = keys.filter_map(|key| desired.frontend(key));
                frontends.filter_map(|frontend| problem(frontend)).collect()
            }
            // Another Service may have the key.
            Some(service) => desired
                .frontends_of(service)
                .filter(|frontend| desired.frontend(&frontend.key) == Some(*frontend))
                .filter_map(|frontend| problem(frontend))
                .collect(),
        }
    }

    /// What belongs to no single Service.
    pub(super) fn conditions<'a>(
        &'a self,
        desired: &'a DesiredState,
    ) -> impl Iterator<Item = Notice> + 'a {
        self.causes.iter().filter_map(|(part, cause)| {
            let what = match part {
                Part::Item(Item::Frontend(key)) if desired.frontend(key).is_some() => return None,
                Part::Item(Item::Frontend(key)) => {
                    format!("{key}, which no Service has any more, cannot be removed")
                }
                Part::Item(Item::Need(need)) => format!("{} failed", describe(need)),
                Part::Step(step) => format!("cannot {step}"),
            };
            let message = format!("{what}, and svcproxy retries within 30 seconds: {cause}");
            Some(Notice::of_node(Reason::SyncFailed, message))
        })
    }
}

/// A change for a need, as the subject of a sentence.
fn describe(need: &Need) -> String {
    match need {
        Need::Route(address) => format!("a change of the route to {address}"),
        Need::Hairpin(address) => {
            format!("a change for connections of endpoint {address} to itself")
        }
        Need::Capture(address) => format!("a change for packets to {address}"),
        Need::Delivery(family) => format!("a change of the routing rules ({family})"),
        Need::HealthCheck(family, port) => {
            format!("a change for health check node port {port} ({family})")
        }
        Need::Marks | Need::Refusal | Need::SourceRanges => {
            "a change of the rules that Services share".to_owned()
        }
    }
}
