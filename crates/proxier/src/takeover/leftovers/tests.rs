use std::collections::BTreeMap;
use std::fmt::Write;

use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::mode::iptables::Transaction;

/// Chains of other programs, by table.
const FOREIGN: [(&str, &str); 14] = [
    ("filter", "KUBE-FIREWALL"),
    ("filter", "KUBE-KUBELET-CANARY"),
    ("mangle", "KUBE-IPTABLES-HINT"),
    ("nat", "KUBE-MARK-DROP"),
    ("filter", "KUBE-ROUTER-INPUT"),
    ("filter", "KUBE-NWPLCY-ABCDEFGHIJKLMNOP"),
    ("filter", "KUBE-POD-FW-ABCDEFGHIJKLMNOP"),
    ("filter", "KUBE-SVC-ABCDEFGHIJKLMNOP"),
    ("nat", "KUBE-SVC-ABCDEFGHIJKLMNO"),
    ("nat", "KUBE-SVC-abcdefghijklmnop"),
    ("nat", "KUBE-SEP-ABCDEFGHIJKLMNOPQ"),
    ("nat", "cali-PREROUTING"),
    ("nat", "CNI-HOSTPORT-SETMARK"),
    ("nat", "SVCPROXY-SERVICES"),
];

const OURS_TO_REMOVE: [(&str, &str); 12] = [
    ("nat", "KUBE-SERVICES"),
    ("nat", "KUBE-NODEPORTS"),
    ("nat", "KUBE-POSTROUTING"),
    ("nat", "KUBE-MARK-MASQ"),
    ("nat", "KUBE-FIREWALL"),
    ("nat", "KUBE-SVC-ABCDEFGHIJKLMNOP"),
    ("nat", "KUBE-SEP-234567QRSTUVWXYZ"),
    ("nat", "KUBE-XLB-234567QRSTUVWXYZ"),
    ("filter", "KUBE-SERVICES"),
    ("filter", "KUBE-FORWARD"),
    ("filter", "KUBE-IPVS-FILTER"),
    ("mangle", "KUBE-PROXY-CANARY"),
];

fn table(name: &str) -> Table {
    Table::ALL
        .into_iter()
        .find(|table| table.to_string() == name)
        .unwrap()
}

#[test]
fn names_are_known_by_table() {
    for (of, name) in OURS_TO_REMOVE {
        assert!(chain(table(of), name).is_some(), "{of} {name}");
    }
    for (of, name) in FOREIGN {
        assert!(chain(table(of), name).is_none(), "{of} {name}");
    }
}

/// kube-proxy creates the kubelet's `KUBE-FIREWALL` too, and leaves it when it cleans up.
#[test]
fn all_of_a_real_kube_proxy_is_removed() {
    let saved = include_str!("kube-proxy-1.30.iptables-save");
    let found = Chains::parse(saved);
    assert!(found.in_use.is_empty(), "{:?}", found.in_use);
    let mut of = "";
    let mut expected = BTreeSet::new();
    for line in saved.lines() {
        of = line.strip_prefix('*').unwrap_or(of);
        let declared = line.strip_prefix(':').and_then(|rest| rest.split_once(' '));
        expected.extend(
            declared
                .map(|(name, _)| (of.to_owned(), name.to_owned()))
                .filter(|(of, name)| {
                    name.starts_with("KUBE-") && (&**of, &**name) != ("filter", "KUBE-FIREWALL")
                }),
        );
    }
    let chains = found.rules.chains();
    let chains = chains.map(|(of, name)| (of.to_string(), name.to_string()));
    assert_eq!(chains.collect::<BTreeSet<_>>(), expected);

    let removal = Transaction::removal(Family::V4, &found.rules).to_string();
    let (mut jumps, mut kept) = (0, 0);
    for rule in saved.lines().filter_map(|line| line.strip_prefix("-A ")) {
        if rule.starts_with("KUBE-") {
            continue;
        }
        let is_removed = removal.contains(&format!("-D {rule}\n"));
        assert_eq!(is_removed, !rule.ends_with("-j KUBE-FIREWALL"), "{rule}");
        jumps += usize::from(is_removed);
        kept += usize::from(!is_removed);
    }
    assert_eq!((jumps, kept), (12, 2));
}

#[test]
fn sets_are_known_by_their_whole_name() {
    for name in [
        "KUBE-CLUSTER-IP",
        "KUBE-6-CLUSTER-IP",
        "KUBE-NODE-PORT-LOCAL-SCTP-HASH",
        // Truncated by kube-proxy.
        "KUBE-6-LOAD-BALANCER-SOURCE-CID",
        "KUBE-6-NODE-PORT-LOCAL-SCTP-HAS",
    ] {
        assert!(is_set(name), "{name}");
    }
    for name in [
        "KUBE-6-LOAD-BALANCER-SOURCE-CIDR",
        "KUBE-CLUSTER-IPS",
        "KUBE-DST-2FAIIK2E4RIPMTGF",
        "CLUSTER-IP",
        "cali40all-ipam-pools",
        "",
    ] {
        assert!(!is_set(name), "{name}");
    }
}

#[test]
fn virtual_servers_are_known_by_the_record() {
    let set = ["10.96.0.1", "203.0.113.1"].map(|ip| ip.parse().unwrap());
    let record = Record {
        vips: set.into(),
        node_addresses: ["192.0.2.1", "2001:db8::1"]
            .map(|ip| ip.parse().unwrap())
            .into(),
        entries: [(Protocol::Tcp, "192.0.2.1".parse().unwrap(), 80)].into(),
        node_ports: [(Protocol::Udp, Family::V4, 30053)].into(),
    };
    for (key, expected) in [
        ("tcp 10.96.0.1:443", true),
        ("udp 203.0.113.1:53", true),
        ("tcp 192.0.2.1:80", true),
        ("udp 192.0.2.1:30053", true),
        ("udp 192.0.2.1:80", false),
        ("tcp 192.0.2.1:30053", false),
        ("udp [2001:db8::1]:30053", false),
        ("udp 192.0.2.2:30053", false),
        ("tcp 10.96.0.2:443", false),
    ] {
        assert_eq!(record.has(&key.parse().unwrap()), expected, "{key}");
    }
    let mark = VirtualServerKey::firewall_mark(1.try_into().unwrap(), Family::V4);
    assert!(!record.has(&mark));
}

/// The tables of one family: the rules of each chain.
type Tables = BTreeMap<&'static str, BTreeMap<String, Vec<String>>>;

const BUILT_IN: [(&str, &[&str]); 3] = [
    ("nat", &["PREROUTING", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("mangle", &["PREROUTING"]),
];

fn saved(tables: &Tables) -> String {
    let mut text = String::new();
    for (table, chains) in tables {
        writeln!(text, "*{table}").unwrap();
        for name in chains.keys() {
            writeln!(text, ":{name} - [0:0]").unwrap();
        }
        for (name, rules) in chains {
            rules
                .iter()
                .for_each(|rule| writeln!(text, "-A {name} {rule}").unwrap());
        }
        writeln!(text, "COMMIT").unwrap();
    }
    text
}

/// The chain that a rule of a test jumps to.
fn target(rule: &str) -> &str {
    rule.rsplit_once("-j ").unwrap().1
}

/// Does what iptables-restore(8) does with `--noflush`, and checks what it would reject.
fn restore(tables: &mut Tables, text: &str) {
    let mut chains = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            chains = tables.get_mut(name);
            continue;
        }
        let chains = chains.as_mut().unwrap();
        if let Some(declared) = line.strip_prefix(':') {
            let name = declared.strip_suffix(" - [0:0]").unwrap();
            chains.insert(name.to_owned(), Vec::new());
        } else if let Some(rule) = line.strip_prefix("-D ") {
            let (name, rule) = rule.split_once(' ').unwrap();
            let rules = chains.get_mut(name).unwrap();
            let at = rules.iter().position(|there| there == rule);
            rules.remove(at.unwrap());
        } else if let Some(name) = line.strip_prefix("-X ") {
            let gone = chains.remove(name);
            assert_eq!(gone, Some(vec![]), "{name} is not empty");
            let mut rules = chains.values().flatten();
            assert!(rules.all(|rule| target(rule) != name), "{name} is in use");
        } else {
            assert_eq!(line, "COMMIT");
        }
    }
}

/// Chains of kube-proxy and of other programs, with rules that jump anywhere within a table.
fn tables() -> impl Strategy<Value = Tables> {
    let built_in = BUILT_IN.into_iter();
    let built_in = built_in.flat_map(|(table, names)| names.iter().map(move |name| (table, *name)));
    let all: Vec<_> = built_in.chain(FOREIGN).chain(OURS_TO_REMOVE).collect();
    let comment = select(vec![
        "",
        "-m comment --comment \"service portals\" ",
        "-m comment --comment \"see -j KUBE-SERVICES \\\" -j KUBE-FORWARD\" ",
    ]);
    let rule = (select(all.clone()), comment, any::<prop::sample::Index>());
    let rules = prop::collection::vec(rule, 0..40);
    rules.prop_map(move |rules| {
        let mut tables = Tables::new();
        for (table, name) in &all {
            tables
                .entry(table)
                .or_default()
                .insert((*name).to_owned(), Vec::new());
        }
        for ((table, from), comment, to) in rules {
            let mut targets = vec!["ACCEPT", "RETURN"];
            let of_table = all.iter().filter(|(of, _)| *of == table);
            targets.extend(
                of_table
                    .map(|(_, name)| *name)
                    .filter(|name| name.contains('-')),
            );
            let rule = format!("{comment}-j {}", to.get(&targets));
            tables
                .get_mut(table)
                .unwrap()
                .get_mut(from)
                .unwrap()
                .push(rule);
        }
        tables
    })
}

fn is_to_go(table: &str, name: &str) -> bool {
    OURS_TO_REMOVE.contains(&(table, name))
}

/// kube-proxy's chains that rules of other programs jump to, directly or not.
fn kept(chains: &BTreeMap<String, Vec<String>>, table: &str) -> BTreeSet<String> {
    let is_foreign = |name: &str| !is_to_go(table, name) && name.contains('-');
    let mut kept = BTreeSet::new();
    loop {
        let leads = |name: &String| is_foreign(name) || kept.contains(name);
        let rules = chains.iter().filter(|(name, _)| leads(name));
        let targets = rules.flat_map(|(_, rules)| rules).map(|rule| target(rule));
        let more: BTreeSet<_> = targets
            .filter(|name| is_to_go(table, name) && !kept.contains(*name))
            .map(str::to_owned)
            .collect();
        if more.is_empty() {
            return kept;
        }
        kept.extend(more);
    }
}

proptest! {
    #[test]
    fn everything_of_kube_proxy_is_removed_and_nothing_else(before in tables()) {
        let chains = Chains::parse(&saved(&before));
        let mut after = before.clone();
        for transaction in Transaction::removal(Family::V4, &chains.rules).by_table() {
            restore(&mut after, &transaction.to_string());
        }
        let mut expected = before.clone();
        for (table, chains) in &mut expected {
            let kept = kept(chains, table);
            chains.retain(|name, _| !is_to_go(table, name) || kept.contains(name));
            for (name, rules) in chains.iter_mut() {
                let is_built_in = !name.contains('-');
                rules.retain(|rule| !is_built_in || !is_to_go(table, target(rule)));
            }
        }
        for (table, chains) in &expected {
            for (name, rules) in chains {
                prop_assert_eq!(&after[table][name], rules, "{} {}", table, name);
            }
            prop_assert_eq!(after[table].len(), chains.len(), "{}", table);
        }
    }

    #[test]
    fn no_other_name_is_kube_proxys(name in "KUBE-[A-Z]{1,3}-[A-Z2-7]{14,18}|[A-Za-z0-9_-]{1,28}") {
        let known = |table| chain(table, &name).is_some();
        let hashed = ["SVC", "SVL", "SEP", "FW", "EXT", "XLB"];
        let mut words = name.splitn(3, '-');
        let class = words.nth(1).unwrap_or_default();
        let hash = words.next().unwrap_or_default();
        let is_hashed = name.starts_with("KUBE-") && hashed.contains(&class) && hash.len() == 16;
        prop_assert!(!known(Table::Nat) || is_hashed, "{}", name);
        prop_assert!(!known(Table::Filter) && !known(Table::Mangle), "{}", name);
    }
}
