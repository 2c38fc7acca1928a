//! Sequences of API events, from the bytes of a watch to a node in memory: each event is applied, and in
//! the end a fresh start with the objects that are in effect finds nothing to do, and knows the same.
#![no_main]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arbitrary::{Result, Unstructured};
use fuzz::check;
use libfuzzer_sys::fuzz_target;
use proxier::Proxier;
use proxier::desired::Config;
use proxier::mode::ipvs::{FakeIpvs, FakeNode, Ipvs};
use proxier::source::Reading;
use proxier::source::kube::Encoding;
use proxier::source::kube::fuzzing::{Client, Kind, client};
use proxier::store::Change;
use serde_json::{Value, json};

const KINDS: [Kind; 4] = [
    Kind::Services,
    Kind::EndpointSlices,
    Kind::Node,
    Kind::ServiceCidrs,
];

/// The objects of a server by kind and name.
type Objects = BTreeMap<(Kind, String), Value>;

fuzz_target!(|data: &[u8]| {
    let mut u = Unstructured::new(data);
    client(Encoding::Json, |client| {
        let mut run = Run::new(client);
        while !u.is_empty() && run.step(&mut u).is_ok() {}
        run.end();
    });
});

struct Run<'a, 'b> {
    client: &'a mut Client<'b>,
    /// What the server has, valid or not.
    server: Objects,
    /// What is in effect: the last version of each object that was accepted.
    accepted: Objects,
    version: u64,
    node: FakeNode,
    proxier: Proxier<Ipvs<FakeIpvs>>,
}

fn proxier(node: &FakeNode) -> Proxier<Ipvs<FakeIpvs>> {
    let addresses = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap());
    let mut config = Config::new("node-a", addresses.into());
    config.service_cidrs = ["10.96.0.0/12".parse().unwrap()].into();
    Proxier::new(Arc::new(config), Ipvs::new(node.kernel().unwrap()))
}

fn whole(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::once(bytes)
}

impl<'a, 'b> Run<'a, 'b> {
    fn new(client: &'a mut Client<'b>) -> Self {
        let node = FakeNode::default();
        let mut run = Self {
            client,
            server: Objects::new(),
            accepted: Objects::new(),
            version: 1,
            proxier: proxier(&node),
            node,
        };
        KINDS.into_iter().for_each(|kind| run.list(kind));
        run
    }

    fn step(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        let kind = match u.int_in_range(0..=9)? {
            0..=3 => Kind::Services,
            4..=7 => Kind::EndpointSlices,
            8 => Kind::Node,
            _ => Kind::ServiceCidrs,
        };
        match u.int_in_range(0..=15)? {
            // The watch is lost, and changes are missed.
            0 => {
                for _ in 0..u.int_in_range(0..=3)? {
                    self.change(kind, u)?;
                }
                self.list(kind);
            }
            1 => self.audit(),
            _ => {
                let event = self.change(kind, u)?;
                let event = event.to_string() + "\n";
                // The versions grow, so nothing is out of order; an object that is none is.
                if self
                    .client
                    .watch(kind, whole(event.as_bytes()), false)
                    .is_err()
                {
                    self.list(kind);
                }
                self.deliver();
            }
        }
        Ok(())
    }

    /// Changes an object of the server. Returns the event.
    fn change(&mut self, kind: Kind, u: &mut Unstructured<'_>) -> Result<Value> {
        self.version += 1;
        let mut object = object(kind, u)?;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let key = (
            kind,
            object["metadata"]["name"].as_str().unwrap().to_owned(),
        );
        if u.ratio(1, 5)? {
            let Some(mut old) = self.server.remove(&key) else {
                return Ok(json!({"type": "BOOKMARK", "object": {"metadata": {
                    "resourceVersion": self.version.to_string()
                }}}));
            };
            old["metadata"]["resourceVersion"] = self.version.to_string().into();
            return Ok(json!({"type": "DELETED", "object": old}));
        }
        let what = match self.server.insert(key, object.clone()) {
            None => "ADDED",
            Some(_) => "MODIFIED",
        };
        Ok(json!({"type": what, "object": object}))
    }

    fn list(&mut self, kind: Kind) {
        let list = list(kind, &self.server, self.version);
        self.client
            .list(kind, whole(list.to_string().as_bytes()))
            .expect("a list");
        self.deliver();
    }

    fn deliver(&mut self) {
        for reading in self.client.take() {
            for diagnostic in &reading.diagnostics {
                check(&diagnostic.to_string());
            }
            self.accept(&reading);
            if let Some(report) = self.proxier.handle(reading.changes).unwrap() {
                assert!(report.is_success() && report.is_timely(), "{report:?}");
            }
        }
    }

    /// Records which versions of the server's objects a reading has accepted.
    fn accept(&mut self, reading: &Reading) {
        for change in &reading.changes {
            match change {
                Change::ServicesReplaced(all) => {
                    all.iter()
                        .for_each(|one| self.take(Kind::Services, one.name.name()));
                }
                Change::EndpointSlicesReplaced(all) => {
                    all.iter()
                        .for_each(|one| self.take(Kind::EndpointSlices, one.name.name()));
                }
                Change::ServiceApplied(one) => self.take(Kind::Services, one.name.name()),
                Change::EndpointSliceApplied(one) => {
                    self.take(Kind::EndpointSlices, one.name.name());
                }
                Change::ServiceDeleted(name) => self.drop(Kind::Services, name.name()),
                Change::EndpointSliceDeleted(name) => self.drop(Kind::EndpointSlices, name.name()),
                Change::NodeReplaced(Some(_)) => self.take(Kind::Node, "node-a"),
                Change::NodeReplaced(None) => self.drop(Kind::Node, "node-a"),
                Change::ServiceCidrsReplaced(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    fn take(&mut self, kind: Kind, name: &str) {
        let key = (kind, name.to_owned());
        let object = self.server[&key].clone();
        self.accepted.insert(key, object);
    }

    fn drop(&mut self, kind: Kind, name: &str) {
        self.accepted.remove(&(kind, name.to_owned()));
    }

    fn audit(&mut self) {
        loop {
            if let Some(report) = self.proxier.audit().unwrap() {
                assert!(report.is_success(), "{report:?}");
                assert_eq!(report.plan.steps(), [], "an audit without drift");
            }
            if !self.proxier.is_auditing() {
                return;
            }
        }
    }

    /// Compares with a fresh start on the same node.
    fn end(mut self) {
        self.audit();
        let late = Instant::now() + Duration::from_secs(86_400);
        while self.proxier.is_draining() {
            let report = self.proxier.drain(late).unwrap();
            assert!(report.is_none_or(|report| report.is_success()));
        }
        if self.proxier.node_error().is_some() {
            // The settings before stay in effect, which a fresh start does not know.
            return;
        }
        let mut fresh = proxier(&self.node);
        let cidrs = self.proxier.store().service_cidrs().to_vec();
        client(Encoding::Json, |client| {
            for kind in KINDS {
                let list = list(kind, &self.accepted, self.version);
                client
                    .list(kind, whole(list.to_string().as_bytes()))
                    .expect("a list");
            }
            let mut changes: Vec<_> = client.take().into_iter().flat_map(|r| r.changes).collect();
            changes.retain(|change| !matches!(change, Change::ServiceCidrsReplaced(_)));
            changes.push(Change::ServiceCidrsReplaced(cidrs));
            let report = fresh.handle(changes).unwrap().expect("complete lists");
            assert!(report.is_success());
            assert_eq!(report.plan.steps(), [], "a fresh start changes something");
        });
        assert_eq!(described(&self.proxier), described(&fresh));
    }
}

/// What a proxier serves, and what it cannot serve.
fn described(proxier: &Proxier<Ipvs<FakeIpvs>>) -> Vec<String> {
    let frontends = proxier.desired().frontends();
    let frontends = frontends.map(|frontend| format!("{frontend:?}"));
    let problems = proxier.problems().into_iter();
    let problems = problems.map(|problem| format!("{problem:?}"));
    let conditions = proxier.node_conditions().into_iter();
    // The message of an unknown node has the names that were known when it began.
    let conditions = conditions.map(|condition| format!("{:?}", condition.reason));
    let mut all: Vec<_> = frontends.chain(problems).chain(conditions).collect();
    all.sort_unstable();
    all
}

fn list(kind: Kind, objects: &Objects, version: u64) -> Value {
    let of_kind = objects.iter().filter(|((of, _), _)| *of == kind);
    let items: Vec<_> = of_kind.map(|(_, object)| object).collect();
    json!({"metadata": {"resourceVersion": version.to_string()}, "items": items})
}

/// Any value of a list. The fuzzer chooses all values, right and wrong ones.
fn choose(u: &mut Unstructured<'_>, values: &[Value]) -> Result<Value> {
    u.choose(values).cloned()
}

fn some(
    u: &mut Unstructured<'_>,
    most: usize,
    one: impl Fn(&mut Unstructured<'_>) -> Result<Value>,
) -> Result<Value> {
    let count = u.int_in_range(0..=most)?;
    (0..count).map(|_| one(u)).collect()
}

fn object(kind: Kind, u: &mut Unstructured<'_>) -> Result<Value> {
    match kind {
        Kind::Services => service(u),
        Kind::EndpointSlices => slice(u),
        Kind::Node => node(u),
        Kind::ServiceCidrs => cidr(u),
    }
}

fn metadata(u: &mut Unstructured<'_>, names: &[Value], stamps: bool) -> Result<Value> {
    let name = choose(u, names)?;
    let mut metadata = json!({"name": name, "namespace": "default"});
    if stamps {
        // Each Service has its own age, so it is certain which of two gets an address.
        let number = names.iter().position(|other| *other == name).unwrap_or(0);
        metadata["creationTimestamp"] = format!("2026-01-0{}T00:00:00Z", number + 1).into();
    }
    Ok(metadata)
}

fn address(u: &mut Unstructured<'_>) -> Result<Value> {
    choose(
        u,
        &[
            json!("10.96.0.1"),
            json!("10.96.0.2"),
            json!("fd00::1"),
            json!("203.0.113.1"),
            json!("203.0.113.2"),
            json!("192.0.2.1"),
            json!("None"),
            json!(""),
            json!("0.0.0.0"),
            json!("127.0.0.1"),
            json!("224.0.0.1"),
            json!("10.96.0.300"),
            json!("\u{1b}[31m"),
            json!(7),
            Value::Null,
        ],
    )
}

fn number(u: &mut Unstructured<'_>) -> Result<Value> {
    let right = [json!(80), json!(443), json!(30080), json!(30081)];
    let wrong = [json!(0), json!(-1), json!(65536), json!("80"), json!(1.5)];
    match u.ratio(9, 10)? {
        true => choose(u, &right),
        false => choose(u, &wrong),
    }
}

fn port(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(json!({
        "name": choose(u, &[json!("a"), json!("b"), json!(""), Value::Null])?,
        "protocol": choose(u, &[json!("TCP"), json!("UDP"), json!("SCTP"), json!("tcp"), Value::Null])?,
        "port": number(u)?,
        "nodePort": if u.ratio(1, 3)? { number(u)? } else { Value::Null },
    }))
}

fn service(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut metadata = metadata(u, &[json!("a"), json!("b"), json!("c")], true)?;
    if u.ratio(1, 4)? {
        metadata["annotations"] = json!({
            "svcproxy.io/scheduler": choose(u, &[json!("sh"), json!("rr"), json!("\n"), json!("lc")])?,
        });
    }
    if u.ratio(1, 8)? {
        metadata["labels"] = json!({
            "service.kubernetes.io/service-proxy-name": "other",
        });
    }
    let policies = [
        json!("Local"),
        json!("Cluster"),
        json!("other"),
        Value::Null,
    ];
    let mut spec = json!({
        "type": choose(u, &[
            json!("ClusterIP"), json!("NodePort"), json!("LoadBalancer"), json!("ExternalName"),
            json!("other"), Value::Null,
        ])?,
        "clusterIPs": some(u, 3, address)?,
        "ports": some(u, 3, port)?,
        "externalIPs": some(u, 2, address)?,
        "externalTrafficPolicy": choose(u, &policies)?,
        "internalTrafficPolicy": choose(u, &policies)?,
        "sessionAffinity": choose(u, &[json!("ClientIP"), json!("None"), Value::Null])?,
        "loadBalancerSourceRanges": some(u, 2, |u| choose(u, &[
            json!("0.0.0.0/0"), json!("10.0.0.0/9"), json!("::/0"), json!("1"), json!("192.0.2.1/32"),
        ]))?,
    });
    if let Some(first) = spec["clusterIPs"].get(0).cloned() {
        spec["clusterIP"] = first;
    }
    if u.ratio(1, 4)? {
        spec["healthCheckNodePort"] = number(u)?;
    }
    let ingress = some(u, 2, |u| {
        Ok(json!({
            "ip": address(u)?,
            "ipMode": choose(u, &[json!("VIP"), json!("Proxy"), Value::Null])?,
        }))
    })?;
    Ok(json!({
        "metadata": metadata,
        "spec": spec,
        "status": {"loadBalancer": {"ingress": ingress}},
    }))
}

fn endpoint(u: &mut Unstructured<'_>) -> Result<Value> {
    let truth = [json!(true), json!(false), Value::Null];
    Ok(json!({
        "addresses": some(u, 2, |u| choose(u, &[
            json!("10.244.0.1"), json!("10.244.0.2"), json!("10.244.1.1"), json!("fd01::1"),
            json!("192.0.2.1"), json!("10.96.0.1"), json!("127.0.0.1"), json!("x"),
        ]))?,
        "conditions": {
            "ready": choose(u, &truth)?,
            "serving": choose(u, &truth)?,
            "terminating": choose(u, &truth)?,
        },
        "nodeName": choose(u, &[json!("node-a"), json!("node-b"), Value::Null])?,
        "zone": choose(u, &[json!("z"), Value::Null])?,
    }))
}

fn slice(u: &mut Unstructured<'_>) -> Result<Value> {
    let mut metadata = metadata(u, &[json!("s"), json!("t"), json!("u")], false)?;
    metadata["labels"] = json!({
        "kubernetes.io/service-name": choose(u, &[json!("a"), json!("b"), json!("c"), json!("A/"), Value::Null])?,
    });
    Ok(json!({
        "metadata": metadata,
        "addressType": choose(u, &[json!("IPv4"), json!("IPv6"), json!("FQDN"), Value::Null])?,
        "ports": some(u, 2, |u| Ok(json!({
            "name": choose(u, &[json!("a"), json!("b"), json!(""), Value::Null])?,
            "protocol": choose(u, &[json!("TCP"), json!("UDP"), json!("SCTP"), Value::Null])?,
            "port": number(u)?,
        })))?,
        "endpoints": some(u, 3, endpoint)?,
    }))
}

fn node(u: &mut Unstructured<'_>) -> Result<Value> {
    let address = |u: &mut Unstructured<'_>| {
        Ok(json!({"type": "InternalIP", "address": choose(u, &[
            json!("192.0.2.1"), json!("192.0.2.9"), json!("2001:db8::1"), json!("x"),
        ])?}))
    };
    Ok(json!({
        "metadata": {
            "name": "node-a",
            "labels": {"topology.kubernetes.io/zone": choose(u, &[json!("z"), json!("y"), Value::Null])?},
        },
        "spec": {"podCIDRs": some(u, 2, |u| choose(u, &[
            json!("10.244.0.0/24"), json!("fd01::/64"), json!("10.244.0.0/33"),
        ]))?},
        "status": {"addresses": some(u, 2, address)?},
    }))
}

fn cidr(u: &mut Unstructured<'_>) -> Result<Value> {
    Ok(json!({
        "metadata": {"name": choose(u, &[json!("one"), json!("two")])?},
        "spec": {"cidrs": some(u, 2, |u| choose(u, &[
            json!("10.96.0.0/12"), json!("10.0.0.0/8"), json!("fd00::/108"), json!("x"),
        ]))?},
    }))
}
