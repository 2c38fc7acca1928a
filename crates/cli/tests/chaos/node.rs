//! A node with Services, what other programs have there, and svcproxy's command lines.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};
use std::fs;
use std::net::IpAddr;
use std::process::Command;

use testbed::{Host, KubeProxy, ServicePort, eventually};

use crate::follower::Follower;
use crate::lab::{Lab, PATIENCE, run_logged};
use crate::ports::{SHOP, SHOP_UDP};
use crate::shop::{FIRST, SECOND, THIRD, shop};
use crate::state::{self, State};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Ipvs,
    Iptables,
    Nftables,
    Userspace,
}

impl Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ipvs => "ipvs",
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
            Self::Userspace => "userspace",
        })
    }
}

impl Mode {
    /// Whether the kernel passes connections on without svcproxy.
    pub(crate) fn is_in_the_kernel(self) -> bool {
        self != Self::Userspace
    }
}

/// The objects that every table and listing of another program must keep.
const FOREIGN_TABLES: &str = "
table inet other {
  set addresses { type ipv4_addr; elements = { 10.96.0.90, 203.0.113.90 } }
  chain look { type filter hook prerouting priority -10; ip daddr @addresses accept; }
}
table ip othernat {
  chain after { type nat hook postrouting priority 110; ip daddr 198.51.100.9 masquerade; }
}
";
/// In every chain that iptables has by itself, so that it makes none later.
const FOREIGN_CHAINS: &str = "*filter
:OTHER - [0:0]
-A OTHER -d 10.96.0.90/32 -j RETURN
-A INPUT -j OTHER
-A FORWARD -j OTHER
-A OUTPUT -j OTHER
COMMIT
*nat
:OTHER - [0:0]
-A OTHER -d 10.96.0.90/32 -j RETURN
-A PREROUTING -j OTHER
-A INPUT -j OTHER
-A OUTPUT -j OTHER
-A POSTROUTING -j OTHER
COMMIT
*mangle
:OTHER - [0:0]
-A OTHER -d 10.96.0.90/32 -j RETURN
-A PREROUTING -j OTHER
-A INPUT -j OTHER
-A FORWARD -j OTHER
-A OUTPUT -j OTHER
-A POSTROUTING -j OTHER
COMMIT
";
const FOREIGN_SERVERS: &str =
    "-A -t 198.51.100.7:80 -s wrr\n-a -t 198.51.100.7:80 -r 10.244.9.9:80 -m -w 3";

/// This version of svcproxy.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_svcproxy");

pub(crate) struct Node {
    pub(crate) lab: Lab,
    pub(crate) mode: Mode,
    /// The node before svcproxy.
    pub(crate) pristine: State,
    sysctls: BTreeMap<String, String>,
    foreign: Vec<String>,
}

impl Node {
    /// With state of other programs on the node.
    pub(crate) fn new(mode: Mode) -> Self {
        Self::with(mode, |node| {
            node.run_with_input(["nft", "-f", "-"], FOREIGN_TABLES)
                .unwrap();
            for restore in ["iptables-nft-restore", "ip6tables-nft-restore"] {
                let chains = match restore {
                    "iptables-nft-restore" => FOREIGN_CHAINS.to_owned(),
                    _ => FOREIGN_CHAINS.replace("10.96.0.90/32", "fd00:10:96::90/128"),
                };
                node.run_with_input([restore, "--noflush"], &chains)
                    .unwrap();
            }
            node.ip(&[
                "address add 198.51.100.7/32 dev lo",
                "route add local 198.51.100.0/24 dev lo proto 42",
                "rule add from 198.51.100.0/24 lookup 742 priority 7000",
            ])
            .unwrap();
            if mode == Mode::Ipvs {
                node.run_with_input(["ipvsadm", "-R"], FOREIGN_SERVERS)
                    .unwrap();
            }
        })
    }

    /// Without state of other programs, and with a sysctl that svcproxy has to set.
    pub(crate) fn empty(mode: Mode) -> Self {
        Self::with(mode, |node| {
            node.sysctl("net/ipv4/ip_forward", "0").unwrap()
        })
    }

    fn with(mode: Mode, make: impl FnOnce(&Host)) -> Self {
        let lab = Lab::new("chaos", &[SHOP, SHOP_UDP].concat());
        let node = lab.node();
        // The kernel completes its own routes some time after a link is up.
        let is_up = || {
            let v4 = node.run(["ip", "route", "show", "table", "all"]).unwrap();
            let v6 = node.run(["ip", "-6", "route", "show", "table", "local"]);
            let v6 = v6.unwrap();
            let own = format!("local {} dev", node.v6);
            match !v4.contains("linkdown") && v6.contains(&own) {
                true => Ok(()),
                false => Err(v4 + &v6),
            }
        };
        eventually(PATIENCE, is_up).unwrap();
        make(node);
        // Connection tracking remembers for two minutes that a packet came while nobody served its
        // address. A later connection from the same port would share its lot.
        node.sysctl("net/netfilter/nf_conntrack_tcp_timeout_syn_sent", "2")
            .unwrap();
        let mut this = Self {
            pristine: State::read(node),
            sysctls: state::sysctls(node),
            foreign: Vec::new(),
            lab,
            mode,
        };
        this.foreign = this.read_foreign();
        this
    }

    /// As the tools print it.
    fn read_foreign(&self) -> Vec<String> {
        let run = |command: &str| {
            let silent = format!("({command}) 2>/dev/null || true");
            self.lab.node().run(["sh", "-c", &silent]).unwrap()
        };
        let mut texts: Vec<_> = [
            "nft list table inet other",
            "nft list table ip othernat",
            "iptables-nft -S OTHER; iptables-nft -t nat -S OTHER; iptables-nft -t mangle -S OTHER",
            "ip6tables-nft -S OTHER; ip6tables-nft -t nat -S OTHER; ip6tables-nft -t mangle -S OTHER",
            "ip route show table all proto 42; ip rule show priority 7000",
            "ip -4 -o address show",
        ]
        .map(run)
        .into();
        if self.mode == Mode::Ipvs {
            texts.push(run("ipvsadm -Sn | grep 198.51.100.7 | sort"));
        }
        texts
    }

    /// Whether other programs' state is byte for byte as it was.
    pub(crate) fn foreign_is_whole(&self) -> Result<(), String> {
        let now = self.read_foreign();
        if now == self.foreign {
            return Ok(());
        }
        Err(format!(
            "foreign state was {:#?} and is {now:#?}",
            self.foreign
        ))
    }

    /// What svcproxy may have changed, without sysctls.
    pub(crate) fn state(&self) -> State {
        State::read(self.lab.node())
    }

    /// The sysctls that differ from before.
    pub(crate) fn changed_sysctls(&self) -> BTreeMap<String, String> {
        let now = state::sysctls(self.lab.node());
        let changed = now
            .into_iter()
            .filter(|(name, value)| self.sysctls.get(name) != Some(value));
        changed.collect()
    }

    /// Runs `cleanup` of a program.
    pub(crate) fn clean_up(&self, program: &str) {
        let mut command = self.lab.node().command(program);
        command.args(["cleanup", "--now", "--log-format=json"]);
        let (log, code) = run_logged(command.env_remove("SVCPROXY_LOG"));
        assert_eq!(code, 0, "{log:#?}");
    }

    /// Cleanup does not reset sysctls, and removes no files.
    pub(crate) fn start_afresh(&self) {
        self.clean_up(PROGRAM);
        self.set_sysctls_back();
        for entry in fs::read_dir(self.lab.manifests()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
    }

    /// Gives all sysctls the values that they had before svcproxy.
    pub(crate) fn set_sysctls_back(&self) {
        for name in self.changed_sysctls().keys() {
            if let Some(value) = self.sysctls.get(name) {
                let path = name.replace('.', "/");
                self.lab.node().sysctl(&path, value).unwrap();
            }
        }
    }

    /// Writes the Services before a change.
    pub(crate) fn write_services(&self) {
        self.lab
            .write("shop.yaml", &shop(&[FIRST, SECOND, THIRD], "", ""));
        self.lab.write("many.yaml", &many(1..=12, 0));
    }

    /// Changes many Services, and none with connections: some go, some come, all others get other
    /// endpoints.
    pub(crate) fn change_services(&self) {
        self.lab.write("many.yaml", &many(4..=15, 1));
    }

    /// Writes the configuration file, with another setting if it is to change.
    pub(crate) fn write_config(&self, is_changed: bool) {
        let pods = match is_changed {
            false => testbed::POD_CIDR_V4.to_owned(),
            true => format!("{},{}", testbed::POD_CIDR_V4, testbed::POD_CIDR_V6),
        };
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             mode: {}\nclusterCIDR: '{pods}'\n",
            self.mode
        );
        self.lab.write("config.conf", &text);
    }

    /// `svcproxy` in a mode.
    pub(crate) fn svcproxy(&self, program: &str, mode: Mode, more: &[&str]) -> Command {
        let node = self.lab.node();
        let mut command = node.command(program);
        let manifests = self.lab.manifests().display();
        command
            .env_remove("SVCPROXY_LOG")
            .args([format!("--mode={mode}"), "--log-format=json".to_owned()])
            .arg(format!("--manifests={manifests}"))
            .args(["--node-name=node-a".to_owned()])
            .arg(format!("--node-ip={},{}", node.v4, node.v6))
            .arg(format!(
                "--service-cidr={},{}",
                testbed::SERVICE_CIDR_V4,
                testbed::SERVICE_CIDR_V6
            ))
            .args(more);
        // The flag would take precedence over the file.
        if self.lab.manifests().join("config.conf").exists() && mode == self.mode {
            command.arg(format!("--config={manifests}/config.conf"));
        } else {
            command.arg(format!(
                "--cluster-cidr={},{}",
                testbed::POD_CIDR_V4,
                testbed::POD_CIDR_V6
            ));
        }
        command
    }

    /// Starts `svcproxy` in a mode; returns after its first sync.
    pub(crate) fn start(&self, mode: Mode) -> Follower {
        self.start_with(PROGRAM, mode, &["--audit-interval=2s"])
    }

    /// As [`start`](Self::start), with another program or more arguments.
    pub(crate) fn start_with(&self, program: &str, mode: Mode, more: &[&str]) -> Follower {
        let follower = Follower::start(&mut self.svcproxy(program, mode, more));
        follower.wait("a sync", |event| event["message"] == "synced");
        follower
    }

    /// kube-proxy on the node, in a mode that svcproxy's mode replaces.
    pub(crate) fn write_kube_proxy(&self) {
        let endpoints: Vec<_> = SHOP[0].backends().collect();
        let mut shop = ServicePort::new("tcp", SHOP[0].vip(), endpoints.clone());
        shop.node_port = Some(SHOP[1].vip().port());
        shop.load_balancer = Some(SHOP[2].vip().ip());
        let gone = ServicePort::new("tcp", "10.96.0.99:80".parse().unwrap(), endpoints);
        let node = self.lab.node();
        let addresses = vec![node.v4.into(), IpAddr::from(node.v6)];
        let kube_proxy = KubeProxy::new(node, addresses, vec![shop, gone]);
        match self.mode {
            Mode::Ipvs => kube_proxy.write_ipvs("nft"),
            Mode::Nftables => kube_proxy.write_nftables(),
            Mode::Iptables | Mode::Userspace => kube_proxy.write_iptables("nft"),
        }
        .unwrap();
        if self.mode == Mode::Ipvs {
            node.sysctl("net/ipv4/vs/conntrack", "1").unwrap();
        }
    }
}

/// Services of both families without traffic; `round` chooses their endpoints.
fn many(numbers: impl Iterator<Item = u8>, round: u8) -> String {
    let mut text = String::new();
    for n in numbers {
        // As hexadecimal digits.
        let six = format!("fd00:10:96::97:{n}");
        let ports = "[{name: a, port: 80}, {name: b, port: 81, protocol: UDP}]";
        let affinity = if round == 1 && n.is_multiple_of(5) {
            "sessionAffinity: ClientIP, "
        } else {
            ""
        };
        let _ = write!(
            text,
            "---
apiVersion: v1
kind: Service
metadata: {{name: many-{n}}}
spec: {{{affinity}ipFamilies: [IPv4, IPv6], clusterIP: 10.97.0.{n}, clusterIPs: [10.97.0.{n}, '{six}'], ports: {ports}}}
"
        );
        for (family, network) in [("IPv4", "10.245.1."), ("IPv6", "fd00:10:245::")] {
            let endpoints =
                [0, 1].map(|more| format!("{{addresses: ['{network}{}']}}", n + round + more));
            let _ = write!(
                text,
                "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: many-{n}-{}, labels: {{kubernetes.io/service-name: many-{n}}}}}
addressType: {family}
ports: {ports}
endpoints: [{}]
",
                family.to_lowercase(),
                endpoints.join(", ")
            );
        }
    }
    text
}
