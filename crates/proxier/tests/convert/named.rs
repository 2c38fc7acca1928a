//! What a source keeps for discovery (`Extent::Named`).

use proxier::model::Unproxied;
use proxier::source::{Extent, api, convert};
use serde_json::{Value, json};

use super::object;

fn service(value: Value) -> (Option<proxier::model::Service>, Vec<String>) {
    let base = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    let service: api::Service = object(("v1", "Service"), base, value);
    let converted = convert::service(&service, Extent::Named);
    let said = converted.diagnostics.iter().map(ToString::to_string);
    (converted.object, said.collect())
}

fn unproxied(value: Value) -> Option<Unproxied> {
    service(value).0.unwrap().unproxied.map(|boxed| *boxed)
}

#[test]
fn services_that_no_node_serves_are_kept_without_addresses_to_serve() {
    let headless = |publish_not_ready_addresses| Unproxied::Headless {
        publish_not_ready_addresses,
    };
    assert_eq!(
        unproxied(json!({"spec": {"clusterIP": "None"}})),
        Some(headless(false))
    );
    let all = json!({"spec": {"clusterIP": "None", "publishNotReadyAddresses": true}});
    assert_eq!(unproxied(all), Some(headless(true)));
    assert_eq!(unproxied(json!({"spec": {"clusterIP": "10.96.0.1"}})), None);

    let (other, said) = service(json!({
        "metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "mesh"}},
        "spec": {"clusterIP": "10.96.0.1", "type": "LoadBalancer", "externalIPs": ["192.0.2.1"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.2"}]}},
    }));
    let other = other.unwrap();
    let addresses = ["10.96.0.1".parse().unwrap()];
    let expected = Unproxied::OtherProxy(addresses.into());
    assert_eq!(other.unproxied.as_deref(), Some(&expected));
    let served = [
        &other.cluster_ips,
        &other.external_ips,
        &other.load_balancer_ips,
    ];
    assert!(
        served.iter().all(|addresses| addresses.is_empty()),
        "{other:?}"
    );
    assert_eq!(said, [""; 0]);
}

#[test]
fn external_names_are_checked() {
    let external = |name: &str| {
        let spec = json!({"type": "ExternalName", "externalName": name});
        let (service, said) = service(json!({ "spec": spec }));
        (service.unwrap().unproxied, said.join("\n"))
    };
    let known = |name: &str| Some(Box::new(Unproxied::ExternalName(name.into())));
    let (found, said) = external("www.example.com");
    assert_eq!((found, said.as_str()), (known("www.example.com"), ""));
    assert_eq!(external("www.example.com.").0, known("www.example.com"));
    for (name, reason) in [
        ("", "missing"),
        ("Www.example.com", "spec.externalName"),
        ("a b", "spec.externalName"),
        ("192.0.2.1", "looks like an address"),
    ] {
        let (found, said) = external(name);
        assert!(found.is_none() && said.contains(reason), "{name}: {said}");
    }
}

#[test]
fn slices_of_headless_services_are_kept_with_their_host_names() {
    let value = json!({
        "metadata": {
            "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web", "service.kubernetes.io/headless": ""},
        },
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": ["10.0.0.2"], "hostname": "b"},
            {"addresses": ["10.0.0.1"], "hostname": "a"},
            {"addresses": ["10.0.0.3"]},
            {"addresses": ["10.0.0.4"], "hostname": "Not.A.Label"},
            {"addresses": ["10.0.0.2"], "hostname": "c"},
        ],
    });
    let slice: api::EndpointSlice =
        object(("discovery.k8s.io/v1", "EndpointSlice"), json!({}), value);
    let served = convert::endpoint_slice(&slice, Extent::Served);
    assert!(served.object.is_none());
    let named = convert::endpoint_slice(&slice, Extent::Named);
    let said: Vec<_> = named.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(said[0].starts_with("endpoints[3].hostname: "), "{said:?}");
    let slice = named.object.unwrap();
    let names = |address: &str| {
        let names = slice.hostnames_of(address.parse().unwrap());
        names.map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let names = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"].map(names);
    assert_eq!(names, ["a", "b c", "", ""]);
}

#[test]
fn endpoints_are_mirrored_with_their_host_names() {
    let value = json!({
        "metadata": {"name": "web", "labels": {"service.kubernetes.io/headless": ""}},
        "subsets": [{
            "addresses": [{"ip": "10.0.0.2", "hostname": "b"}, {"ip": "fd00::1", "hostname": "a"}],
            "notReadyAddresses": [{"ip": "10.0.0.1", "hostname": "c"}],
            "ports": [{"port": 80}],
        }],
    });
    let endpoints: api::Endpoints = object(("v1", "Endpoints"), json!({}), value);
    assert!(
        convert::endpoints(&endpoints, Extent::Served)
            .object
            .is_none()
    );
    let slices = convert::endpoints(&endpoints, Extent::Named)
        .object
        .unwrap();
    let names = |index: usize| -> Vec<String> {
        let names: &[(std::net::IpAddr, std::sync::Arc<str>)] = &slices[index].hostnames;
        names
            .iter()
            .map(|(address, name)| format!("{address} {name}"))
            .collect()
    };
    assert_eq!(names(0), ["10.0.0.1 c", "10.0.0.2 b"]);
    assert_eq!(names(1), ["fd00::1 a"]);
}
