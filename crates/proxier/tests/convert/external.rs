//! The addresses of a Service from outside of the cluster.

use serde_json::json;

use super::check;
use super::service::{specs, whole};

#[test]
fn external_ips() {
    specs(&[
        (
            "{externalIPs: [192.0.2.1, 198.51.100.7, 192.0.2.1]}",
            "10.96.0.1, Tcp 80, external 192.0.2.1 198.51.100.7",
        ),
        (
            "{clusterIPs: [10.96.0.1, 'fd00::1'], externalIPs: ['2001:db8::1', 192.0.2.1]}",
            "10.96.0.1 fd00::1, Tcp 80, external 2001:db8::1 192.0.2.1",
        ),
        (
            "{externalIPs: ['2001:db8::1', 10.96.0.1, 192.0.2.1]}",
            "10.96.0.1, Tcp 80, external 192.0.2.1\n\
             note: spec.externalIPs[0]: not used: the Service has no cluster IP of the family of 2001:db8::1\n\
             note: spec.externalIPs[1]: not used: 10.96.0.1 is the Service's cluster IP already",
        ),
        (
            "{externalIPs: [127.0.0.1, 169.254.169.254, 0.0.0.0, 224.0.0.1, 255.255.255.255, '::', '::1', 'fe80::1', 'ff02::1', '::ffff:192.0.2.1', 192.0.2.01, web, '']}",
            "10.96.0.1, Tcp 80, external 192.0.2.1\n\
             warning: spec.externalIPs[0]: 127.0.0.1 is a loopback address (127.0.0.0/8, ::1)\n\
             warning: spec.externalIPs[1]: 169.254.169.254 is a link-local address (169.254.0.0/16)\n\
             warning: spec.externalIPs[2]: 0.0.0.0 is the unspecified address\n\
             warning: spec.externalIPs[3]: 224.0.0.1 is a multicast address (224.0.0.0/4, ff00::/8)\n\
             warning: spec.externalIPs[4]: 255.255.255.255 is the broadcast address\n\
             warning: spec.externalIPs[5]: :: is the unspecified address\n\
             warning: spec.externalIPs[6]: ::1 is a loopback address (127.0.0.0/8, ::1)\n\
             warning: spec.externalIPs[7]: fe80::1 is a link-local address (fe80::/10)\n\
             warning: spec.externalIPs[8]: ff02::1 is a multicast address (224.0.0.0/4, ff00::/8)\n\
             warning: spec.externalIPs[11]: \"web\" is not an IP address\n\
             warning: spec.externalIPs[12]: \"\" is not an IP address",
        ),
    ]);
}

#[test]
fn load_balancer_ips() {
    let ingress = |rows: &[(&str, &str)]| {
        check(rows, |ingress| {
            let status = json!({"loadBalancer": {"ingress": ingress}});
            whole(json!({"spec": {"type": "LoadBalancer"}, "status": status}))
        });
    };
    ingress(&[
        ("[]", "10.96.0.1, Tcp 80"),
        (
            "[{ip: 203.0.113.1}, {ip: 203.0.113.2, ipMode: VIP}, {ip: 203.0.113.1}]",
            "10.96.0.1, Tcp 80, lb 203.0.113.1 203.0.113.2",
        ),
        (
            "[{ip: 203.0.113.1, ipMode: Proxy}, {ip: 203.0.113.2}]",
            "10.96.0.1, Tcp 80, lb 203.0.113.2",
        ),
        ("[{hostname: lb.example.org}]", "10.96.0.1, Tcp 80"),
        // An invalid entry of one controller does not affect others.
        (
            "[{ip: lb}, {ip: 127.0.0.1}, {ip: 203.0.113.2, ipMode: vip}, {ip: '2001:db8::1'}, {ip: 10.96.0.1}, {ip: 203.0.113.1}]",
            "10.96.0.1, Tcp 80, lb 203.0.113.1\n\
             note: status.loadBalancer.ingress[0].ip: not used: \"lb\" is not an IP address\n\
             note: status.loadBalancer.ingress[1].ip: not used: 127.0.0.1 is a loopback address (127.0.0.0/8, ::1)\n\
             note: status.loadBalancer.ingress[2].ipMode: not used: \"vip\" is not a mode (VIP or Proxy)\n\
             note: status.loadBalancer.ingress[3].ip: not used: the Service has no cluster IP of the family of 2001:db8::1\n\
             note: status.loadBalancer.ingress[4].ip: not used: 10.96.0.1 is the Service's cluster IP already",
        ),
    ]);
    check(
        &[(
            "{status: {loadBalancer: {ingress: [{ip: 203.0.113.1}]}}}",
            "10.96.0.1, Tcp 80\nnote: status.loadBalancer.ingress: not used: spec.type is ClusterIP",
        )],
        whole,
    );
}

#[test]
fn source_ranges() {
    specs(&[
        (
            "{type: LoadBalancer, loadBalancerSourceRanges: [10.1.2.3/8, ' 192.0.2.0/24 ', '2001:db8::/32']}",
            "10.96.0.1, Tcp 80, from 10.0.0.0/8 192.0.2.0/24 2001:db8::/32",
        ),
        (
            "{type: LoadBalancer, loadBalancerSourceRanges: [10.1.0.0/16, 10.0.0.0/8, 192.0.2.0/25, 192.0.2.128/25]}",
            "10.96.0.1, Tcp 80, from 10.0.0.0/8 192.0.2.0/24",
        ),
        (
            "{type: LoadBalancer, loadBalancerSourceRanges: [0.0.0.0/0, 192.0.2.0/24, '::/0']}",
            "10.96.0.1, Tcp 80, from 0.0.0.0/0 ::/0",
        ),
        // Only the other family has ranges. No client of this family is allowed, so the list must
        // not be empty.
        (
            "{type: LoadBalancer, loadBalancerSourceRanges: ['2001:db8::/32']}",
            "10.96.0.1, Tcp 80, from 2001:db8::/32",
        ),
        (
            "{type: LoadBalancer, loadBalancerSourceRanges: [10.0.0.0/33, 10.0.0.1, '', '::ffff:10.0.0.0/104', 10.0.0.0/8]}",
            "10.96.0.1, Tcp 80, from 10.0.0.0/8\n\
             warning: spec.loadBalancerSourceRanges[0]: \"10.0.0.0/33\" is not a range in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/32\n\
             warning: spec.loadBalancerSourceRanges[1]: \"10.0.0.1\" is not a range in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/32\n\
             warning: spec.loadBalancerSourceRanges[2]: \"\" is not a range in CIDR notation, such as 192.0.2.0/24 or 2001:db8::/32",
        ),
        (
            "{type: NodePort, ports: [{port: 80, nodePort: 30080}], loadBalancerSourceRanges: [10.0.0.0/8]}",
            "-\nerror: spec.loadBalancerSourceRanges: is not allowed with type NodePort",
        ),
    ]);
    let annotation = "metadata: {annotations: {service.beta.kubernetes.io/load-balancer-source-ranges: 10.0.0.0/8}}";
    let rows = [
        (
            &*format!("{{{annotation}, spec: {{type: LoadBalancer}}}}"),
            "10.96.0.1, Tcp 80\nnote: metadata.annotations[service.beta.kubernetes.io/load-balancer-source-ranges]: \
             not used: it is for cloud load balancers; nodes use only \
             spec.loadBalancerSourceRanges",
        ),
        (
            &*format!(
                "{{{annotation}, spec: {{type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24]}}}}"
            ),
            "10.96.0.1, Tcp 80, from 192.0.2.0/24",
        ),
    ];
    check(&rows, whole);
}
