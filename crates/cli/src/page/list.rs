//! The Services as the loop knows them: a part of the list, the numbers, and what drains.

use std::collections::BTreeSet;

use proxier::Proxier;
use proxier::desired::{Frontend, FrontendKind};
use proxier::mode::DataPlane;
use proxier::model::{ObjectName, Service};
use serde::{Deserialize, Serialize};

/// Services on one page.
pub(super) const ROWS: usize = 50;
/// Drains that are listed, at most.
const DRAINS: usize = 50;
/// The longest text to search for.
const LONGEST: usize = 253;

/// The part of the list that is wanted, from a query.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// In the name of a Service, or an address or a port of it.
    pub(super) text: String,
    /// Only Services that have a problem.
    pub(super) with_problems: bool,
    /// The number of Services to skip.
    pub(super) from: usize,
}

impl Query {
    /// Reads a query; what is not understood counts as not given.
    pub(super) fn parse(query: &str) -> Self {
        let mut it = Self::default();
        for (key, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*key {
                "q" => it.text = value.trim().chars().take(LONGEST).collect(),
                "problems" => it.with_problems = value == "1",
                "from" => it.from = value.parse().unwrap_or(0),
                _ => {}
            }
        }
        it
    }

    /// The query of another part.
    pub(super) fn at(&self, from: usize) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if !self.text.is_empty() {
            query.append_pair("q", &self.text);
        }
        if self.with_problems {
            query.append_pair("problems", "1");
        }
        if from > 0 {
            query.append_pair("from", &from.to_string());
        }
        query.finish()
    }
}

/// The answer of the loop.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct List {
    /// All Services.
    pub(super) all: usize,
    /// Those that match.
    pub(super) found: usize,
    pub(super) rows: Vec<Row>,
    /// Real servers that drain.
    pub(super) draining: usize,
    /// The first of them.
    pub(super) drains: Vec<DrainOf>,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) service: String,
    /// As kubectl prints them.
    pub(super) ports: Vec<String>,
    pub(super) addresses: Vec<String>,
    /// Endpoints that this node uses.
    pub(super) endpoints: usize,
    /// Why a port has no endpoints, or what it does not get.
    pub(super) problems: Vec<String>,
}

/// A real server that drains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DrainOf {
    pub(super) vip: String,
    pub(super) service: Option<String>,
    pub(super) endpoint: String,
    pub(super) seconds: Option<u64>,
}

/// Whether a question is for [`list`].
pub(crate) fn is_list(about: &str) -> bool {
    about.starts_with('?')
}

/// The list for a question, which is a query with its question mark.
pub(crate) fn list<B: DataPlane>(about: &str, proxier: &Proxier<B>) -> Option<String> {
    let query = Query::parse(about.strip_prefix('?')?);
    let services = proxier.store().services().map(|view| view.service);
    let all: Vec<_> = services.collect();
    let text = query.text.to_lowercase();
    let is_found = |service: &&&Service| {
        matches(&text, service) && (!query.with_problems || has_problem(&service.name, proxier))
    };
    let mut found: Vec<_> = all.iter().filter(is_found).collect();
    found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let wanted = found.iter().skip(query.from).take(ROWS);
    let drains = proxier.drains(DRAINS);
    let servers = proxier.servers();
    let list = List {
        all: all.len(),
        found: found.len(),
        rows: wanted.map(|service| row(service, proxier)).collect(),
        draining: servers.map_or(drains.len(), |servers| servers.draining),
        drains: drains
            .into_iter()
            .map(|drain| DrainOf {
                vip: drain.vip.to_string(),
                service: drain.service.map(|name| name.to_string()),
                endpoint: drain.endpoint.to_string(),
                seconds: drain.lasts.map(|lasts| lasts.as_secs()),
            })
            .collect(),
    };
    serde_json::to_string(&list).ok()
}

/// Whether a text, in lower case, is in the name, begins an address, or is a port.
fn matches(text: &str, service: &Service) -> bool {
    let has_address = || {
        let all = [
            &service.cluster_ips,
            &service.external_ips,
            &service.load_balancer_ips,
        ];
        let mut addresses = all.into_iter().flat_map(|ips| ips.iter());
        addresses.any(|ip| ip.to_string().starts_with(text))
    };
    let has_port = || {
        text.parse::<u16>().is_ok_and(|number| {
            let mut ports = service.ports.iter();
            ports.any(|port| {
                port.port.get() == number || port.node_port.is_some_and(|of| of.get() == number)
            })
        })
    };
    text.is_empty() || service.name.to_string().contains(text) || has_address() || has_port()
}

fn has_problem<B: DataPlane>(name: &ObjectName, proxier: &Proxier<B>) -> bool {
    !proxier.desired().unanswered(name).is_empty() || !proxier.problems_of(name).is_empty()
}

fn row<B: DataPlane>(service: &Service, proxier: &Proxier<B>) -> Row {
    let desired = proxier.desired();
    let frontends: Vec<_> = desired.frontends_of(&service.name).collect();
    let backends = frontends.iter().flat_map(|frontend| {
        let external = frontend.external.iter().flat_map(|of| of.iter());
        frontend.backends.iter().chain(external)
    });
    let endpoints: BTreeSet<_> = backends.map(|of| (of.address, of.port)).collect();
    let unanswered = desired.unanswered(&service.name).iter().filter_map(|of| {
        // The other ports of the Service may be served.
        let port = match service.ports.len() {
            0 | 1 => String::new(),
            _ => format!("port {}: ", of.port),
        };
        let why = match (&of.anywhere, &of.here) {
            (Some(why), _) => format!("no endpoints: {why}"),
            (None, Some(why)) => format!("no endpoints on this node: {why}"),
            (None, None) => return None,
        };
        Some(port + &why)
    });
    let problems = proxier.problems_of(&service.name).into_iter();
    let problems = problems.map(|problem| problem.message);
    let problems: BTreeSet<_> = unanswered.chain(problems).collect();
    let ports = service.ports.iter().map(|port| {
        let node_port = port.node_port.map(|number| format!(":{number}"));
        let protocol = port.protocol.to_string().to_uppercase();
        let number = port.port;
        format!("{number}{}/{protocol}", node_port.unwrap_or_default())
    });
    Row {
        service: service.name.to_string(),
        ports: ports.collect(),
        addresses: addresses(frontends.into_iter().map(|frontend| &**frontend)),
        endpoints: endpoints.len(),
        problems: problems.into_iter().collect(),
    }
}

/// The addresses of a Service, those of the cluster first.
fn addresses<'a>(frontends: impl Iterator<Item = &'a Frontend>) -> Vec<String> {
    let named = frontends.filter(|frontend| frontend.kind != FrontendKind::NodePort);
    let addresses: BTreeSet<_> = named
        .map(|frontend| (frontend.kind, frontend.key.address))
        .collect();
    let texts = addresses
        .into_iter()
        .map(|(_, address)| address.to_string());
    texts.collect()
}
