//! A scenario's file: manifests, and directives `#! WORD: ...`.

use std::net::IpAddr;
use std::path::Path;

use ipvs::{RealServerKey, VirtualServerKey};

/// The node of the examples, with the pods in `10.244.1.0/24`.
const NODE: [&str; 4] = [
    "--node-name=node-a",
    "--node-ip=172.18.0.1,fd00:172:18::1",
    "--cluster-cidr=10.244.0.0/16,fd00:10:244::/48",
    "--service-cidr=10.96.0.0/12,fd00:10:96::/112",
];

#[derive(Debug, Default)]
pub(super) struct Script {
    /// Name of the manifest.
    pub(super) file: String,
    /// `flags: ...` in addition to those of the node, or in their place; `only flags: ...`.
    pub(super) flags: Vec<String>,
    /// `steps: shown`: show the steps of the first act too.
    pub(super) steps: bool,
    /// `rules: shown`: show the nftables rules that come from the flags.
    pub(super) rules: bool,
    /// `foreign: VIRTUAL SERVER -> REAL SERVER`: exists before svcproxy starts.
    pub(super) foreign: Vec<(VirtualServerKey, RealServerKey)>,
    /// `connections: ADDRESS has N`: connections of this backend, once it exists.
    pub(super) connections: Vec<(IpAddr, u32)>,
    /// The first act, and one for each `then: TITLE`.
    pub(super) acts: Vec<Act>,
}

/// One act. The fields take effect in their order.
#[derive(Debug, Default)]
pub(super) struct Act {
    pub(super) title: String,
    /// `flush rules`: another program flushes nftables.
    pub(super) flush: bool,
    /// `restart`: svcproxy restarts.
    pub(super) restart: bool,
    /// All manifests of this act: those of the previous act, with the act's own added or replacing
    /// the same kind and name, and without the objects in `delete: KIND NAME`.
    pub(super) documents: String,
    /// `wait: SECONDS`: time since the beginning.
    pub(super) wait: Option<u64>,
}

impl Script {
    pub(super) fn parse(name: &Path, text: &str) -> Self {
        let stem = name.file_name().unwrap().to_str().unwrap();
        assert!(
            text.starts_with("# ") && !text.contains("\n\n"),
            "{}: a comment comes first, and no empty lines",
            name.display()
        );
        let mut script = Self {
            file: format!("{stem}.yaml"),
            flags: NODE.map(str::to_owned).into(),
            acts: vec![Act::default()],
            ..Self::default()
        };
        let mut deleted = Vec::new();
        let mut lines = String::new();
        for line in text.lines() {
            let Some(order) = line.strip_prefix("#! ") else {
                lines += line;
                lines += "\n";
                continue;
            };
            if let Some(title) = order.strip_prefix("then: ") {
                script.finish(&mut lines, &mut deleted);
                let title = title.to_owned();
                let act = Act {
                    title,
                    ..Act::default()
                };
                script.acts.push(act);
                continue;
            }
            if script.acts.len() == 1 {
                // Keeps the line numbers of the file.
                lines += "#\n";
            }
            let (word, rest) = order.split_once(": ").unwrap_or((order, ""));
            script.order(word, rest, &mut deleted);
        }
        script.finish(&mut lines, &mut deleted);
        script
    }

    fn order(&mut self, word: &str, rest: &str, deleted: &mut Vec<String>) {
        let act = self.acts.last_mut().unwrap();
        match word {
            "flags" => {
                let given = || rest.split(' ').map(str::to_owned);
                let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
                self.flags
                    .retain(|old| given().all(|new| name(&new) != name(old)));
                self.flags.extend(given());
            }
            "only flags" => self.flags = rest.split(' ').map(str::to_owned).collect(),
            "steps" => self.steps = true,
            "rules" => self.rules = true,
            "foreign" => {
                let (virtual_server, real_server) = rest.split_once(" -> ").unwrap();
                let foreign = (
                    virtual_server.parse().unwrap(),
                    real_server.parse().unwrap(),
                );
                self.foreign.push(foreign);
            }
            "connections" => {
                let (address, count) = rest.split_once(" has ").unwrap();
                let has = (address.parse().unwrap(), count.parse().unwrap());
                self.connections.push(has);
            }
            "flush rules" => act.flush = true,
            "restart" => act.restart = true,
            "delete" => deleted.push(rest.to_owned()),
            "wait" => act.wait = Some(rest.parse().unwrap()),
            _ => panic!("{}: what is {word:?}?", self.file),
        }
    }

    /// Finishes the documents of the last act: its own, and those that remain from the previous
    /// act.
    fn finish(&mut self, lines: &mut String, deleted: &mut Vec<String>) {
        let own = std::mem::take(lines);
        let (act, before) = self.acts.split_last_mut().unwrap();
        let Some(before) = before.last() else {
            act.documents = own;
            return;
        };
        let own: Vec<_> = documents(&own).collect();
        let replaced: Vec<_> = own
            .iter()
            .map(|d| object(d))
            .chain(deleted.drain(..))
            .collect();
        let stays = documents(&before.documents).filter(|d| !replaced.contains(&object(d)));
        let all: Vec<_> = stays.chain(own.iter().copied()).collect();
        act.documents = all.join("---\n");
    }
}

fn documents(text: &str) -> impl Iterator<Item = &str> {
    text.split("---\n")
        .filter(|document| !document.trim().is_empty())
}

/// A document's kind and name.
fn object(document: &str) -> String {
    let after = |start: &str| {
        let (_, rest) = document.split_once(start)?;
        rest.split(['\n', ',', '}']).next()
    };
    let named = after("\nkind: ").zip(after("\nmetadata: {name: "));
    let (kind, name) = named.unwrap_or_else(|| panic!("cannot be replaced: {document}"));
    format!("{kind} {name}")
}
