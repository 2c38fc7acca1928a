use proxier::model::{Service, SessionAffinity, TrafficPolicy};
use proxier::source::{Extent, api, convert};
use serde_json::{Value, json};

use super::{check, list, object, shown};

fn show(service: &Service) -> String {
    let mut parts = vec![list(&service.cluster_ips)];
    for port in &service.ports {
        let name = if port.name.is_unnamed() { "" } else { " " };
        let node_port = port.node_port.map(|n| format!(" node {n}"));
        parts.push(format!(
            "{:?} {}{name}{}{}",
            port.protocol,
            port.port,
            port.name.as_str(),
            node_port.unwrap_or_default()
        ));
    }
    let mut list_of = |what: &str, items: String| {
        if !items.is_empty() {
            parts.push(format!("{what} {items}"));
        }
    };
    list_of("external", list(&service.external_ips));
    list_of("lb", list(&service.load_balancer_ips));
    list_of("from", list(&service.load_balancer_source_ranges));
    list_of("scheduler", list(service.scheduler));
    list_of("flags", list(service.scheduler_flags.map(|f| f.bits())));
    list_of("health", list(service.health_check_node_port));
    if service.internal_traffic_policy == TrafficPolicy::Local {
        parts.push("internal Local".into());
    }
    if service.external_traffic_policy == TrafficPolicy::Local {
        parts.push("external Local".into());
    }
    if let SessionAffinity::ClientIp(seconds) = service.session_affinity {
        parts.push(format!("affinity {seconds}"));
    }
    if let Some(version) = service.proxy_protocol {
        parts.push(format!("PROXY protocol {version:?}"));
    }
    if service.metrics {
        parts.push("metrics".into());
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}

/// A whole Service, over one with a cluster IP and port 80.
pub(super) fn whole(value: Value) -> String {
    let base = json!({
        "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]},
    });
    let service: api::Service = object(("v1", "Service"), base, value);
    shown(&convert::service(&service, Extent::Served), show)
}

/// Rows whose YAML is the spec.
pub(super) fn specs(rows: &[(&str, &str)]) {
    check(rows, |spec| whole(json!({"spec": spec})));
}

#[test]
fn cluster_ips() {
    specs(&[
        ("{}", "10.96.0.1, Tcp 80"),
        (
            "{clusterIP: 'fd00::1', clusterIPs: ['fd00::1', 10.96.0.1], ipFamilies: [IPv6, IPv4], ipFamilyPolicy: RequireDualStack}",
            "fd00::1 10.96.0.1, Tcp 80",
        ),
        // The API server would allocate the other one.
        (
            "{ipFamilies: [IPv4, IPv6], ipFamilyPolicy: PreferDualStack}",
            "10.96.0.1, Tcp 80",
        ),
        (
            "{ipFamilies: [IPv6]}",
            "-\nerror: spec.ipFamilies[0]: \"IPv6\" is not the family of the cluster IP 10.96.0.1",
        ),
        (
            "{ipFamilies: [ipv4], ipFamilyPolicy: DualStack}",
            "-\nerror: spec.ipFamilies[0]: \"ipv4\" is not an address family (IPv4 or IPv6)\n\
             error: spec.ipFamilyPolicy: \"DualStack\" is not a family policy (SingleStack, PreferDualStack or RequireDualStack)",
        ),
        (
            "{clusterIPs: [10.96.0.1, 'fd00::1'], ipFamilyPolicy: SingleStack}",
            "-\nerror: spec.ipFamilyPolicy: SingleStack is not allowed with two cluster IPs",
        ),
    ]);
}

#[test]
fn services_without_cluster_ip_need_nothing() {
    specs(&[
        ("{clusterIP: None}", "Tcp 80"),
        (
            "{clusterIP: None, externalIPs: [192.0.2.1]}",
            "Tcp 80\nnote: spec.externalIPs[0]: not used: the Service has no cluster IP of the family of 192.0.2.1",
        ),
        (
            "{clusterIP: None, clusterIPs: [None, 10.96.0.1]}",
            "-\nerror: spec.clusterIPs: None (a headless Service) is not allowed with addresses",
        ),
        (
            "{clusterIP: None, type: NodePort, ports: [{port: 80, nodePort: 30080}]}",
            "-\nerror: spec.clusterIP: None (a headless Service) is not allowed with type NodePort",
        ),
        (
            "{type: ExternalName, externalName: example.org, externalIPs: [192.0.2.1], ports: [{port: 80, nodePort: 30080}]}",
            "Tcp 80\nnote: spec.externalIPs[0]: not used: the Service has no cluster IP of the family of 192.0.2.1",
        ),
    ]);
}

#[test]
fn labels_that_exclude_a_service() {
    let rows = [
        (
            "{metadata: {labels: {service.kubernetes.io/service-proxy-name: other}}}",
            "-\n\
             note: metadata.labels: not used: the label service.kubernetes.io/service-proxy-name assigns it to another service proxy",
        ),
        // Only the presence counts; other errors of the Service are the other proxy's business.
        (
            "{metadata: {labels: {service.kubernetes.io/service-proxy-name: ''}}, spec: {ports: [{port: 0}]}}",
            "-\n\
             note: metadata.labels: not used: the label service.kubernetes.io/service-proxy-name assigns it to another service proxy",
        ),
        (
            "{metadata: {labels: {service.kubernetes.io/headless: ''}}}",
            "10.96.0.1, Tcp 80",
        ),
        ("{metadata: {labels: {app: web}}}", "10.96.0.1, Tcp 80"),
    ];
    check(&rows, whole);
}

#[test]
fn node_ports() {
    specs(&[
        (
            "{type: NodePort, ports: [{port: 80, nodePort: 30080}]}",
            "10.96.0.1, Tcp 80 node 30080",
        ),
        (
            "{type: NodePort, ports: [{name: tcp, port: 53, nodePort: 30053}, {name: udp, port: 53, protocol: UDP, nodePort: 30053}]}",
            "10.96.0.1, Tcp 53 tcp node 30053, Udp 53 udp node 30053",
        ),
        (
            "{type: NodePort, ports: [{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30080}]}",
            "10.96.0.1, Tcp 80 a node 30080, Tcp 81 b\n\
             warning: spec.ports[1].nodePort: 30080 with this protocol is another node port of the Service too",
        ),
        (
            "{type: NodePort, ports: [{port: 80}]}",
            "10.96.0.1, Tcp 80\nnote: spec.ports[0].nodePort: missing: svcproxy allocates none, so nothing answers on the nodes' addresses",
        ),
        (
            "{type: LoadBalancer, allocateLoadBalancerNodePorts: false, ports: [{port: 80, nodePort: 0}]}",
            "10.96.0.1, Tcp 80",
        ),
        (
            "{type: LoadBalancer, ports: [{port: 80, nodePort: 65535}]}",
            "10.96.0.1, Tcp 80 node 65535",
        ),
        (
            "{type: LoadBalancer, ports: [{port: 80, nodePort: 65536}]}",
            "10.96.0.1, Tcp 80\n\
             warning: spec.ports[0].nodePort: 65536 is not a port number (1 to 65535)",
        ),
        (
            "{type: NodePort, ports: [{port: 80, nodePort: -1}]}",
            "10.96.0.1, Tcp 80\n\
             warning: spec.ports[0].nodePort: -1 is not a port number (1 to 65535)",
        ),
        (
            "{ports: [{port: 80, nodePort: 30080}]}",
            "10.96.0.1, Tcp 80\n\
             warning: spec.ports[0].nodePort: 30080 is not allowed with type ClusterIP",
        ),
        ("{ports: [{port: 80, nodePort: 0}]}", "10.96.0.1, Tcp 80"),
        // One error, not one for each field that is valid for some types only.
        (
            "{type: Nodeport, ports: [{port: 80, nodePort: 30080}], externalTrafficPolicy: Local}",
            "-\nerror: spec.type: \"Nodeport\" is not a type of Service (ClusterIP, NodePort, LoadBalancer or ExternalName)\n\
             note: spec.healthCheckNodePort: missing: svcproxy allocates none, so a load balancer cannot ask which nodes have endpoints",
        ),
    ]);
}

#[test]
fn traffic_policies() {
    specs(&[
        (
            "{internalTrafficPolicy: Local}",
            "10.96.0.1, Tcp 80, internal Local",
        ),
        ("{internalTrafficPolicy: Cluster}", "10.96.0.1, Tcp 80"),
        (
            "{internalTrafficPolicy: PreferLocal}",
            "-\nerror: spec.internalTrafficPolicy: \"PreferLocal\" is not a traffic policy (Cluster or Local)",
        ),
        (
            "{type: NodePort, ports: [{port: 80, nodePort: 30080}], externalTrafficPolicy: Local}",
            "10.96.0.1, Tcp 80 node 30080, external Local",
        ),
        (
            "{externalIPs: [192.0.2.1], externalTrafficPolicy: Local}",
            "10.96.0.1, Tcp 80, external 192.0.2.1, external Local",
        ),
        (
            "{type: LoadBalancer, externalTrafficPolicy: local}",
            "-\nerror: spec.externalTrafficPolicy: \"local\" is not a traffic policy (Cluster or Local)",
        ),
        (
            "{externalTrafficPolicy: Cluster}",
            "-\nerror: spec.externalTrafficPolicy: \"Cluster\" is not allowed with type ClusterIP: \
             nothing of the Service can be reached from outside",
        ),
        ("{externalTrafficPolicy: ''}", "10.96.0.1, Tcp 80"),
    ]);
}

#[test]
fn health_check_node_ports() {
    specs(&[
        (
            "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000}",
            "10.96.0.1, Tcp 80, health 32000, external Local",
        ),
        (
            "{type: LoadBalancer, externalTrafficPolicy: Local}",
            "10.96.0.1, Tcp 80, external Local\n\
             note: spec.healthCheckNodePort: missing: svcproxy allocates none, so a load balancer cannot ask which nodes have endpoints",
        ),
        (
            "{type: LoadBalancer, healthCheckNodePort: 32000}",
            "10.96.0.1, Tcp 80\n\
             warning: spec.healthCheckNodePort: 32000 is allowed only with type LoadBalancer and \
             externalTrafficPolicy Local",
        ),
        (
            "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 70000}",
            "10.96.0.1, Tcp 80, external Local\n\
             warning: spec.healthCheckNodePort: 70000 is not a port number (1 to 65535)",
        ),
        (
            "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30080, ports: [{port: 80, nodePort: 30080}]}",
            "10.96.0.1, Tcp 80, health 30080, external Local\n\
             warning: spec.healthCheckNodePort: 30080 is the node port of port 80 too, which is not served",
        ),
        (
            "{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 30053, ports: [{port: 53, protocol: UDP, nodePort: 30053}]}",
            "10.96.0.1, Udp 53 node 30053, health 30053, external Local",
        ),
    ]);
}

#[test]
fn session_affinity() {
    specs(&[
        (
            "{sessionAffinity: ClientIP}",
            "10.96.0.1, Tcp 80, affinity 10800",
        ),
        (
            "{sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86400}}}",
            "10.96.0.1, Tcp 80, affinity 86400",
        ),
    ]);
}

#[test]
fn schedulers() {
    let annotations = |rows: &[(&str, &str)]| {
        check(rows, |annotations| {
            whole(json!({"metadata": {"annotations": annotations}}))
        });
    };
    annotations(&[
        (
            "{svcproxy.io/scheduler: wlc}",
            "10.96.0.1, Tcp 80, scheduler wlc",
        ),
        (
            "{svcproxy.io/scheduler: ' sh ', svcproxy.io/scheduler-flags: 'sh-port, sh-fallback,'}",
            "10.96.0.1, Tcp 80, scheduler sh, flags 24",
        ),
        (
            "{svcproxy.io/scheduler: mh, svcproxy.io/scheduler-flags: 'mh-port,sh-port,port'}",
            "10.96.0.1, Tcp 80, scheduler mh, flags 16\n\
             note: metadata.annotations[svcproxy.io/scheduler-flags]: not used: \"sh-port\" is not a flag of the scheduler mh\n\
             note: metadata.annotations[svcproxy.io/scheduler-flags]: not used: \"port\" is not a flag of the scheduler mh",
        ),
        (
            "{svcproxy.io/scheduler: rr, svcproxy.io/scheduler-flags: sh-port}",
            "10.96.0.1, Tcp 80, scheduler rr\n\
             note: metadata.annotations[svcproxy.io/scheduler-flags]: not used: \"sh-port\" is not a flag of the scheduler rr",
        ),
        (
            "{svcproxy.io/scheduler: sh, svcproxy.io/scheduler-flags: ''}",
            "10.96.0.1, Tcp 80, scheduler sh",
        ),
        // It is unknown which scheduler the flags belong to.
        (
            "{svcproxy.io/scheduler-flags: sh-port}",
            "10.96.0.1, Tcp 80\n\
             note: metadata.annotations[svcproxy.io/scheduler-flags]: not used: svcproxy.io/scheduler names no scheduler to which the flags belong",
        ),
        (
            "{svcproxy.io/scheduler: none}",
            "10.96.0.1, Tcp 80\n\
             note: metadata.annotations[svcproxy.io/scheduler]: not used: \"none\" is not a scheduler (rr, wrr, lc, wlc, lblc, lblcr, dh, sh, mh, sed, nq, fo, ovf, twos)",
        ),
        (
            "{svcproxy.io/scheduler: RR, svcproxy.io/scheduler-flags: sh-port}",
            "10.96.0.1, Tcp 80\n\
             note: metadata.annotations[svcproxy.io/scheduler]: not used: \"RR\" is not a scheduler (rr, wrr, lc, wlc, lblc, lblcr, dh, sh, mh, sed, nq, fo, ovf, twos)\n\
             note: metadata.annotations[svcproxy.io/scheduler-flags]: not used: svcproxy.io/scheduler names no scheduler to which the flags belong",
        ),
    ]);
}

#[test]
fn versions_of_the_proxy_protocol() {
    check(
        &[
            (
                "{svcproxy.io/proxy-protocol: v1}",
                "10.96.0.1, Tcp 80, PROXY protocol V1",
            ),
            (
                "{svcproxy.io/proxy-protocol: ' v2 '}",
                "10.96.0.1, Tcp 80, PROXY protocol V2",
            ),
            (
                "{svcproxy.io/proxy-protocol: '2'}",
                "10.96.0.1, Tcp 80\n\
                 note: metadata.annotations[svcproxy.io/proxy-protocol]: not used: \"2\" is not a \
                 version of the PROXY protocol (v1 or v2)",
            ),
        ],
        |annotations| whole(json!({"metadata": {"annotations": annotations}})),
    );
}

#[test]
fn a_label_requests_metrics() {
    for (value, shown) in [
        ("true", "10.96.0.1, Tcp 80, metrics"),
        ("false", "10.96.0.1, Tcp 80"),
        ("yes", "10.96.0.1, Tcp 80"),
    ] {
        let labels = json!({"svcproxy.io/metrics": value});
        assert_eq!(whole(json!({"metadata": {"labels": labels}})), shown);
    }
}
