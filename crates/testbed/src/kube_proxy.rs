//! Creates the state that kube-proxy leaves on a node: with the same names of chains, sets and
//! devices, the same jumps between chains, and the same flags of virtual servers (kube-proxy 1.36,
//! pkg/proxy/{iptables,ipvs,nftables}/proxier.go).

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use crate::command::Error;
use crate::namespace::Namespace;

/// The mark bit of packets to masquerade.
const MASQUERADE: &str = "0x4000/0x4000";

/// A port of a Service, with its endpoints.
#[derive(Debug, Clone)]
pub struct ServicePort {
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Its cluster IP and port.
    pub vip: SocketAddr,
    /// A load balancer's address for it.
    pub load_balancer: Option<IpAddr>,
    /// Its node port.
    pub node_port: Option<u16>,
    /// Its endpoints.
    pub endpoints: Vec<SocketAddr>,
}

impl ServicePort {
    /// A port with only a cluster IP.
    #[must_use]
    pub const fn new(protocol: &'static str, vip: SocketAddr, endpoints: Vec<SocketAddr>) -> Self {
        Self {
            protocol,
            vip,
            load_balancer: None,
            node_port: None,
            endpoints,
        }
    }
}

/// kube-proxy's state for some Services, of both families.
#[derive(Debug)]
pub struct KubeProxy<'a> {
    node: &'a Namespace,
    /// The addresses of the node that serve node ports.
    node_addresses: Vec<IpAddr>,
    ports: Vec<ServicePort>,
}

/// The differences between the families.
#[derive(Clone, Copy)]
struct Words {
    is_v4: bool,
    iptables: &'static str,
    nft: &'static str,
    inet: &'static str,
    sets: &'static str,
    pods: &'static str,
    icmp: &'static str,
}

const FAMILIES: [Words; 2] = [
    Words {
        is_v4: true,
        iptables: "iptables",
        nft: "ip",
        inet: "inet",
        sets: "KUBE-",
        pods: crate::POD_CIDR_V4,
        icmp: "icmp-port-unreachable",
    },
    Words {
        is_v4: false,
        iptables: "ip6tables",
        nft: "ip6",
        inet: "inet6",
        sets: "KUBE-6-",
        pods: crate::POD_CIDR_V6,
        icmp: "icmp6-port-unreachable",
    },
];

/// The sets of the IPVS mode, with their types.
const SETS: [(&str, &str); 17] = [
    ("LOOP-BACK", "hash:ip,port,ip"),
    ("CLUSTER-IP", "hash:ip,port"),
    ("EXTERNAL-IP", "hash:ip,port"),
    ("EXTERNAL-IP-LOCAL", "hash:ip,port"),
    ("LOAD-BALANCER", "hash:ip,port"),
    ("LOAD-BALANCER-FW", "hash:ip,port"),
    ("LOAD-BALANCER-LOCAL", "hash:ip,port"),
    ("LOAD-BALANCER-SOURCE-IP", "hash:ip,port,ip"),
    ("LOAD-BALANCER-SOURCE-CIDR", "hash:ip,port,net"),
    ("NODE-PORT-TCP", "bitmap:port"),
    ("NODE-PORT-LOCAL-TCP", "bitmap:port"),
    ("NODE-PORT-UDP", "bitmap:port"),
    ("NODE-PORT-LOCAL-UDP", "bitmap:port"),
    ("NODE-PORT-SCTP-HASH", "hash:ip,port"),
    ("NODE-PORT-LOCAL-SCTP-HASH", "hash:ip,port"),
    ("HEALTH-CHECK-NODE-PORT", "bitmap:port"),
    ("IPVS-IPS", "hash:ip"),
];

impl<'a> KubeProxy<'a> {
    /// kube-proxy on a node.
    #[must_use]
    pub fn new(node: &'a Namespace, node_addresses: Vec<IpAddr>, ports: Vec<ServicePort>) -> Self {
        Self {
            node,
            node_addresses,
            ports,
        }
    }

    /// Writes the state of the iptables mode, by `nft` or `legacy`.
    ///
    /// # Errors
    ///
    /// If iptables fails.
    pub fn write_iptables(&self, flavour: &str) -> Result<(), Error> {
        for words in FAMILIES {
            self.restore(flavour, words, &self.iptables(words))?;
        }
        Ok(())
    }

    /// Writes the state of the nftables mode.
    ///
    /// # Errors
    ///
    /// If nft fails.
    pub fn write_nftables(&self) -> Result<(), Error> {
        for words in FAMILIES {
            let text = self.nftables(words);
            self.node.run_with_input(["nft", "-f", "-"], &text)?;
        }
        Ok(())
    }

    /// Writes the sets of the IPVS mode and the chains that use them, by `nft` or `legacy`.
    ///
    /// # Errors
    ///
    /// If ipset or iptables fails.
    pub fn write_ipvs_chains(&self, flavour: &str) -> Result<(), Error> {
        for words in FAMILIES {
            self.node
                .run_with_input(["ipset", "-exist", "restore"], &self.sets(words))?;
            self.restore(flavour, words, &self.ipvs_chains(words))?;
        }
        Ok(())
    }

    /// Writes the whole state of the IPVS mode.
    ///
    /// # Errors
    ///
    /// Also if the kernel has no IPVS or no dummy devices.
    pub fn write_ipvs(&self, flavour: &str) -> Result<(), Error> {
        self.write_servers()?;
        self.write_ipvs_chains(flavour)
    }

    /// Programs IPVS as kube-proxy does: takes over existing virtual servers, and adds missing real
    /// servers.
    fn write_servers(&self) -> Result<(), Error> {
        if self.node.run(["ip", "link", "show", "kube-ipvs0"]).is_err() {
            self.node.ip(&["link add kube-ipvs0 type dummy"])?;
        }
        for address in self.vips() {
            // The device is never up; its addresses are local anyway.
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let add = format!("address replace {address}/{bits} dev kube-ipvs0");
            self.node.ip(&[add])?;
        }
        let there = self.node.run(["ipvsadm", "-Sn"])?;
        let mut lines = String::new();
        for (key, endpoints) in self.virtual_servers() {
            let verb = |line: &str| if there.contains(line) { 'E' } else { 'A' };
            let server = format!("-A {key} -s ");
            writeln!(lines, "-{} {key} -s rr", verb(&server)).unwrap_or_default();
            for endpoint in endpoints {
                let real_server = format!("{key} -r {endpoint} ");
                if !there.contains(&real_server) {
                    writeln!(lines, "-a {real_server}-m -w 1").unwrap_or_default();
                }
            }
        }
        // `ipvsadm -R` cannot edit.
        for line in lines.lines() {
            self.node
                .run(std::iter::once("ipvsadm").chain(line.split(' ')))?;
        }
        Ok(())
    }

    /// The addresses that the dummy device has.
    fn vips(&self) -> impl Iterator<Item = IpAddr> {
        let ports = self.ports.iter();
        ports.flat_map(|port| {
            [Some(port.vip.ip()), port.load_balancer]
                .into_iter()
                .flatten()
        })
    }

    /// The virtual servers in ipvsadm's syntax, with their endpoints.
    fn virtual_servers(&self) -> Vec<(String, &[SocketAddr])> {
        let mut servers = Vec::new();
        for port in &self.ports {
            let option = if port.protocol == "tcp" { "-t" } else { "-u" };
            let load_balancer = port
                .load_balancer
                .map(|ip| SocketAddr::new(ip, port.vip.port()));
            let nodes = self.node_addresses.iter();
            let nodes = nodes.filter(|ip| ip.is_ipv4() == port.vip.is_ipv4());
            let nodes = nodes.filter_map(|ip| Some(SocketAddr::new(*ip, port.node_port?)));
            for address in [port.vip].into_iter().chain(load_balancer).chain(nodes) {
                servers.push((format!("{option} {address}"), &port.endpoints[..]));
            }
        }
        servers
    }

    fn restore(&self, flavour: &str, words: Words, text: &str) -> Result<(), Error> {
        let program = format!("{}-{flavour}-restore", words.iptables);
        let command = [&program, "--noflush", "-w", "5"];
        self.node.run_with_input(command, text)?;
        Ok(())
    }

    fn of_family(&self, words: Words) -> impl Iterator<Item = (usize, &ServicePort)> {
        let ports = self.ports.iter().enumerate();
        ports.filter(move |(_, port)| port.vip.is_ipv4() == words.is_v4)
    }

    fn iptables(&self, words: Words) -> String {
        let (mut declared, mut rules) = (String::new(), String::new());
        let mut rule = |text: String| rules.push_str(&(text + "\n"));
        let mut chain = |name: &str| _ = writeln!(declared, ":{name} - [0:0]");
        for (number, port) in self.of_family(words) {
            let (svc, ext) = (hashed("KUBE-SVC-", number), hashed("KUBE-EXT-", number));
            let (protocol, pods) = (port.protocol, words.pods);
            let to = |ip: IpAddr, port: u16| {
                format!(
                    "-d {ip} -p {protocol} -m comment --comment \"a \\\"port\\\" of a Service\" -m {protocol} --dport {port}"
                )
            };
            chain(&svc);
            let vip = to(port.vip.ip(), port.vip.port());
            rule(format!("-A KUBE-SERVICES {vip} -j {svc}"));
            rule(format!(
                "-A {svc} ! -s {pods} -d {} -j KUBE-MARK-MASQ",
                port.vip.ip()
            ));
            if port.load_balancer.is_some() || port.node_port.is_some() {
                chain(&ext);
                rule(format!("-A {ext} -j KUBE-MARK-MASQ"));
                rule(format!("-A {ext} -j {svc}"));
            }
            if let Some(ip) = port.load_balancer {
                let vip = to(ip, port.vip.port());
                rule(format!("-A KUBE-SERVICES {vip} -j {ext}"));
            }
            if let Some(node_port) = port.node_port {
                let of_port = format!("-p {protocol} -m {protocol} --dport {node_port}");
                rule(format!("-A KUBE-NODEPORTS {of_port} -j {ext}"));
            }
            let count = port.endpoints.len();
            for (at, endpoint) in port.endpoints.iter().enumerate() {
                let sep = hashed("KUBE-SEP-", number * 100 + at);
                chain(&sep);
                let chance = match count - at {
                    1 => String::new(),
                    left => {
                        let chance = 1.0 / f64::from(u32::try_from(left).unwrap_or(1));
                        format!("-m statistic --mode random --probability {chance:.10} ")
                    }
                };
                rule(format!("-A {svc} {chance}-j {sep}"));
                rule(format!("-A {sep} -s {} -j KUBE-MARK-MASQ", endpoint.ip()));
                let dnat = format!("-j DNAT --to-destination {endpoint}");
                rule(format!("-A {sep} -p {protocol} -m {protocol} {dnat}"));
            }
        }
        let icmp = words.icmp;
        format!(
            "*mangle\n:KUBE-PROXY-CANARY - [0:0]\nCOMMIT\n\
             *filter\n:KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n\
             :KUBE-FORWARD - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
             :KUBE-PROXY-CANARY - [0:0]\n\
             -I INPUT -m conntrack --ctstate NEW -m comment --comment \"outside portals\" -j KUBE-EXTERNAL-SERVICES\n\
             -I FORWARD -m conntrack --ctstate NEW -m comment --comment \"outside portals\" -j KUBE-EXTERNAL-SERVICES\n\
             -I INPUT -m comment --comment \"health check ports\" -j KUBE-NODEPORTS\n\
             -I FORWARD -m conntrack --ctstate NEW -m comment --comment \"portals\" -j KUBE-SERVICES\n\
             -I OUTPUT -m conntrack --ctstate NEW -m comment --comment \"portals\" -j KUBE-SERVICES\n\
             -I FORWARD -m comment --comment \"forwarding rules\" -j KUBE-FORWARD\n\
             -I INPUT -m conntrack --ctstate NEW -m comment --comment \"firewall\" -j KUBE-PROXY-FIREWALL\n\
             -I OUTPUT -m conntrack --ctstate NEW -m comment --comment \"firewall\" -j KUBE-PROXY-FIREWALL\n\
             -I FORWARD -m conntrack --ctstate NEW -m comment --comment \"firewall\" -j KUBE-PROXY-FIREWALL\n\
             -A KUBE-EXTERNAL-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 32767 -j REJECT --reject-with {icmp}\n\
             -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
             -A KUBE-FORWARD -m mark --mark {MASQUERADE} -j ACCEPT\n\
             -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             COMMIT\n\
             *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
             :KUBE-MARK-MASQ - [0:0]\n:KUBE-PROXY-CANARY - [0:0]\n{declared}\
             -I OUTPUT -m comment --comment \"service portals\" -j KUBE-SERVICES\n\
             -I PREROUTING -m comment --comment \"service portals\" -j KUBE-SERVICES\n\
             -I POSTROUTING -m comment --comment \"postrouting rules\" -j KUBE-POSTROUTING\n\
             {POSTROUTING}{rules}\
             -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\nCOMMIT\n"
        )
    }

    fn sets(&self, words: Words) -> String {
        let (prefix, inet) = (words.sets, words.inet);
        let mut text = String::new();
        let mut line = |line: String| text.push_str(&(line + "\n"));
        let name = |set: &str| {
            let mut name = format!("{prefix}{set}");
            // The maximum length in ipset.
            name.truncate(31);
            name
        };
        for (set, kind) in SETS {
            let options = match kind {
                "bitmap:port" => "range 0-65535".to_owned(),
                _ => format!("family {inet} hashsize 1024 maxelem 65536"),
            };
            line(format!("create {} {kind} {options}", name(set)));
        }
        for (_, port) in self.of_family(words) {
            let (protocol, number) = (port.protocol, port.vip.port());
            let entry = |ip: IpAddr| format!("{ip},{protocol}:{number}");
            line(format!(
                "add {} {}",
                name("CLUSTER-IP"),
                entry(port.vip.ip())
            ));
            line(format!("add {} {}", name("IPVS-IPS"), port.vip.ip()));
            if let Some(ip) = port.load_balancer {
                line(format!("add {} {}", name("LOAD-BALANCER"), entry(ip)));
                line(format!("add {} {ip}", name("IPVS-IPS")));
            }
            if let Some(node_port) = port.node_port {
                let set = format!("NODE-PORT-{}", protocol.to_uppercase());
                line(format!("add {} {node_port}", name(&set)));
            }
            for endpoint in &port.endpoints {
                let (ip, number) = (endpoint.ip(), endpoint.port());
                let own = format!("{ip},{protocol}:{number},{ip}");
                line(format!("add {} {own}", name("LOOP-BACK")));
            }
        }
        text
    }

    fn ipvs_chains(&self, words: Words) -> String {
        let (prefix, pods) = (words.sets, words.pods);
        let lo = if words.is_v4 {
            "127.0.0.0/8"
        } else {
            "::1/128"
        };
        format!(
            "*filter\n:KUBE-FORWARD - [0:0]\n:KUBE-NODE-PORT - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
             :KUBE-SOURCE-RANGES-FIREWALL - [0:0]\n:KUBE-IPVS-FILTER - [0:0]\n:KUBE-IPVS-OUT-FILTER - [0:0]\n\
             -I FORWARD -m comment --comment \"forwarding rules\" -j KUBE-FORWARD\n\
             -I INPUT -m comment --comment \"health check rules\" -j KUBE-NODE-PORT\n\
             -I INPUT -m comment --comment \"firewall rules\" -j KUBE-PROXY-FIREWALL\n\
             -I FORWARD -m comment --comment \"firewall rules\" -j KUBE-PROXY-FIREWALL\n\
             -I INPUT -m comment --comment \"access filter\" -j KUBE-IPVS-FILTER\n\
             -I OUTPUT -m comment --comment \"access filter\" -j KUBE-IPVS-OUT-FILTER\n\
             -A KUBE-PROXY-FIREWALL -m set --match-set {prefix}LOAD-BALANCER-FW dst,dst -j KUBE-SOURCE-RANGES-FIREWALL\n\
             -A KUBE-SOURCE-RANGES-FIREWALL -j DROP\n\
             -A KUBE-FORWARD -m mark --mark {MASQUERADE} -j ACCEPT\n\
             -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A KUBE-NODE-PORT -m set --match-set {prefix}HEALTH-CHECK-NODE-PORT dst -j ACCEPT\n\
             -A KUBE-IPVS-FILTER -m set --match-set {prefix}LOAD-BALANCER dst,dst -j RETURN\n\
             -A KUBE-IPVS-FILTER -m set --match-set {prefix}CLUSTER-IP dst,dst -j RETURN\n\
             -A KUBE-IPVS-FILTER -m set --match-set {prefix}EXTERNAL-IP dst,dst -j RETURN\n\
             -A KUBE-IPVS-FILTER -m set --match-set {prefix}EXTERNAL-IP-LOCAL dst,dst -j RETURN\n\
             -A KUBE-IPVS-FILTER -m set --match-set {prefix}HEALTH-CHECK-NODE-PORT dst -j RETURN\n\
             -A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {prefix}IPVS-IPS dst -j REJECT\n\
             COMMIT\n\
             *nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-NODE-PORT - [0:0]\n\
             :KUBE-LOAD-BALANCER - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
             -I OUTPUT -m comment --comment \"service portals\" -j KUBE-SERVICES\n\
             -I PREROUTING -m comment --comment \"service portals\" -j KUBE-SERVICES\n\
             -I POSTROUTING -m comment --comment \"postrouting rules\" -j KUBE-POSTROUTING\n\
             -A KUBE-SERVICES -s {lo} -j RETURN\n\
             -A KUBE-POSTROUTING -m set --match-set {prefix}LOOP-BACK dst,dst,src -j MASQUERADE\n\
             -A KUBE-SERVICES -m set --match-set {prefix}LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER\n\
             -A KUBE-NODE-PORT -p tcp -m set --match-set {prefix}NODE-PORT-TCP dst -j KUBE-MARK-MASQ\n\
             -A KUBE-NODE-PORT -p udp -m set --match-set {prefix}NODE-PORT-UDP dst -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES ! -s {pods} -m set --match-set {prefix}CLUSTER-IP dst,dst -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT\n\
             -A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES -m set --match-set {prefix}CLUSTER-IP dst,dst -j ACCEPT\n\
             -A KUBE-SERVICES -m set --match-set {prefix}LOAD-BALANCER dst,dst -j ACCEPT\n\
             {POSTROUTING}COMMIT\n"
        )
    }

    fn nftables(&self, words: Words) -> String {
        let nft = words.nft;
        let (mut chains, mut vips, mut node_ports) = (String::new(), Vec::new(), Vec::new());
        let mut write = |text: String| chains.push_str(&text);
        for (number, port) in self.of_family(words) {
            let protocol = port.protocol;
            let (service, external) = (hashed("service-", number), hashed("external-", number));
            let count = port.endpoints.len();
            let pairs = port.endpoints.iter().enumerate();
            let pairs = pairs.map(|(at, to)| format!("{at} : {} . {}", to.ip(), to.port()));
            let pairs = pairs.collect::<Vec<_>>().join(", ");
            let dnat = format!("dnat {nft} to numgen random mod {count} map {{ {pairs} }}");
            write(format!(
                "chain {service} {{\n meta l4proto {protocol} {dnat}\n}}\n"
            ));
            let mark = "meta mark set meta mark | 0x4000";
            write(format!(
                "chain {external} {{\n {mark}\n goto {service}\n}}\n"
            ));
            let key = |ip: IpAddr| format!("{ip} . {protocol} . {}", port.vip.port());
            vips.push(format!("{} : goto {service}", key(port.vip.ip())));
            vips.extend(
                port.load_balancer
                    .map(|ip| format!("{} : goto {external}", key(ip))),
            );
            let node_port = port
                .node_port
                .map(|n| format!("{protocol} . {n} : goto {external}"));
            node_ports.extend(node_port);
        }
        let elements = |elements: Vec<String>| match &elements[..] {
            [] => String::new(),
            some => format!(" elements = {{ {} }}\n", some.join(", ")),
        };
        let (vips, node_ports) = (elements(vips), elements(node_ports));
        let address = if words.is_v4 {
            "ipv4_addr"
        } else {
            "ipv6_addr"
        };
        let addresses = self.node_addresses.iter();
        let addresses = addresses.filter(|ip| ip.is_ipv4() == words.is_v4);
        let addresses = elements(addresses.map(ToString::to_string).collect());
        let ports = self.of_family(words);
        let cluster_ips = elements(ports.map(|(_, port)| port.vip.ip().to_string()).collect());
        let pods = words.pods;
        format!(
            "table {nft} kube-proxy {{\n{chains}\
             map service-ips {{\n type {address} . inet_proto . inet_service : verdict\n{vips}}}\n\
             map service-nodeports {{\n type inet_proto . inet_service : verdict\n{node_ports}}}\n\
             set nodeport-ips {{\n type {address}\n{addresses}}}\n\
             set cluster-ips {{\n type {address}\n{cluster_ips}}}\n\
             chain services {{\n \
             {nft} daddr @cluster-ips {nft} saddr != {pods} meta mark set meta mark | 0x4000\n \
             {nft} daddr . meta l4proto . th dport vmap @service-ips\n \
             {nft} daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports\n}}\n\
             chain masquerading {{\n meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random\n}}\n\
             chain nat-prerouting {{\n type nat hook prerouting priority -100;\n jump services\n}}\n\
             chain nat-output {{\n type nat hook output priority -100;\n jump services\n}}\n\
             chain nat-postrouting {{\n type nat hook postrouting priority 100;\n jump masquerading\n}}\n}}\n"
        )
    }
}

const POSTROUTING: &str = "\
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000
-A KUBE-POSTROUTING -m comment --comment \"traffic that needs it\" -j MASQUERADE --random-fully
-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
";

/// A name like kube-proxy's, with a number in place of the hash.
fn hashed(prefix: &str, number: usize) -> String {
    let letters = format!("{number:016}");
    let letters = letters.bytes().map(|digit| char::from(digit - b'0' + b'A'));
    format!("{prefix}{}", letters.collect::<String>())
}
