//! Everything on a node that svcproxy may change, in a form that can be compared.

use std::collections::BTreeMap;
use std::fmt::{self, Display};

use serde_json::Value;
use similar::{ChangeTag, TextDiff};
use testbed::Namespace;

/// Sections of sorted lines: rules, routes, virtual servers, sysctls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct State(String);

impl State {
    /// Reads the node. Counters, handles and times are left out, and what has no order is sorted.
    pub(crate) fn read(node: &Namespace) -> Self {
        let run = |command: &str| node.run(["sh", "-c", command]).unwrap();
        let mut text = String::new();
        let mut section = |name: &str, lines: Vec<String>| {
            text.push_str(&format!("[{name}]\n{}\n", lines.join("\n")));
        };
        section("nft", nftables(&run("nft -j -s list ruleset")));
        for family in ["", "6"] {
            let saved = run(&format!("ip{family}tables-nft-save 2>/dev/null"));
            section(&format!("ip{family}tables"), iptables(&saved));
        }
        for command in ["rule show", "route show table all", "-o address show"] {
            for family in [4, 6] {
                let listed = run(&format!("ip -{family} {command}"));
                section(&format!("ip -{family} {command}"), routes(&listed));
            }
        }
        if node.enter(|| std::fs::exists("/proc/thread-self/net/ip_vs").unwrap()) {
            section("ipvs", sorted(run("ipvsadm -Sn").lines()));
        }
        Self(text)
    }

    /// The lines that differ: `-` is what the other one has, `+` what this one has.
    pub(crate) fn difference(&self, expected: &Self) -> String {
        let diff = TextDiff::from_lines(&expected.0, &self.0);
        let mut text = String::new();
        for change in diff.iter_all_changes() {
            let sign = match change.tag() {
                ChangeTag::Equal => continue,
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
            };
            text.push_str(&format!("{sign}{change}"));
        }
        text
    }
}

impl Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The sysctls of the network, by name.
pub(crate) fn sysctls(node: &Namespace) -> BTreeMap<String, String> {
    let pattern = r"^net\.(ipv4|ipv6|netfilter|core)\.";
    let listed = node.run([
        "sh",
        "-c",
        &format!("sysctl -a -r '{pattern}' 2>/dev/null || true"),
    ]);
    let listed = listed.unwrap();
    let pairs = listed.lines().filter_map(|line| line.split_once(" = "));
    // The kernel counts in these.
    let counts = |name: &str| name.ends_with("nf_conntrack_count") || name.contains("random");
    let pairs = pairs.filter(|(name, _)| !counts(name));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn sorted<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut lines: Vec<_> = lines.map(|line| line.trim_end().to_owned()).collect();
    lines.sort();
    lines
}

/// Link-local addresses are random, and the kernel numbers what it sets up late as it likes.
fn routes(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.contains("fe80:"));
    let known = lines.map(|line| match line.split_once(": ") {
        // The index of a device.
        Some((index, rest)) if index.parse::<u32>().is_ok() && rest.contains("inet") => rest,
        _ => line,
    });
    sorted(known)
}

/// Chains in the order of their names, rules in theirs.
fn iptables(text: &str) -> Vec<String> {
    let mut table = "";
    let mut lines = Vec::new();
    for line in text.lines() {
        match line.split_at_checked(1) {
            Some(("*", name)) => table = name,
            Some((":", chain)) => {
                let chain = chain.split(" [").next().unwrap_or_default();
                let name = chain.split(' ').next().unwrap_or_default();
                lines.push((table, name, format!("{table} :{chain}")));
            }
            Some(("-", _)) => {
                let chain = line.split(' ').nth(1).unwrap_or_default();
                lines.push((table, chain, format!("{table} {line}")));
            }
            _ => {}
        }
    }
    // Stable: the order of a chain's rules is kept.
    lines.sort_by_key(|(table, chain, _)| (*table, *chain));
    lines.into_iter().map(|(.., line)| line).collect()
}

/// One object a line, and one element of a set.
fn nftables(json: &str) -> Vec<String> {
    let mut listed: Value = serde_json::from_str(json).unwrap();
    let objects = listed["nftables"].as_array_mut().unwrap();
    let mut lines = Vec::new();
    for object in objects {
        for (kind, value) in object.as_object_mut().unwrap() {
            if kind == "metainfo" {
                continue;
            }
            plain(value);
            let elements = value.as_object_mut().unwrap().remove("elem");
            let word = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
            let table = if kind == "table" { "name" } else { "table" };
            let owner = if kind == "rule" { "chain" } else { "name" };
            let key = [word("family"), word(table), kind.clone(), word(owner)];
            lines.push((key.clone(), format!("{kind} {value}")));
            if let Some(Value::Array(elements)) = elements {
                let name = key.join(" ");
                let elements = elements_of(elements).into_iter();
                lines.extend(elements.map(|element| (key.clone(), format!("{name} {element}"))));
            }
        }
    }
    lines.sort_by(|(one, _), (other, _)| one.cmp(other));
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Sorted, since the kernel lists them as it hashes them. Endpoints of a Service that stay keep
/// their numbers, so which number an endpoint has depends on its history: the numbers of a Service
/// and its endpoints are listed separately.
fn elements_of(elements: Vec<Value>) -> Vec<String> {
    let (mut lines, mut numbered) = (Vec::new(), BTreeMap::<_, (Vec<_>, Vec<_>)>::new());
    for element in elements {
        let key = element[0]["concat"].as_array();
        match key.and_then(|key| key.split_last()) {
            Some((Value::String(number), of)) if number == "none" || number.starts_with("0:") => {
                let (numbers, values) = numbered.entry(format!("{of:?}")).or_default();
                numbers.push(number.clone());
                values.push(element[1].to_string());
            }
            _ => lines.push(element.to_string()),
        }
    }
    for (key, (mut numbers, mut values)) in numbered {
        numbers.sort();
        values.sort();
        lines.push(format!("{key} {numbers:?} {values:?}"));
    }
    lines.sort();
    lines
}

/// Without what the kernel counts.
fn plain(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for counted in ["handle", "expires", "packets", "bytes"] {
                fields.remove(counted);
            }
            fields.values_mut().for_each(plain);
        }
        Value::Array(values) => values.iter_mut().for_each(plain),
        _ => {}
    }
}
