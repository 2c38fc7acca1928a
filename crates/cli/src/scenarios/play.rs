//! Plays a scenario on a node in memory.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use ipvs::{Change, Connections, RealServer, VirtualServer, VirtualServerKey};
use proxier::Proxier;
use proxier::desired::{Config, DesiredState};
use proxier::mode::ipvs::plan::{Plan, Scope, Step, VirtualServerState};
use proxier::mode::ipvs::rules::Ruleset;
use proxier::mode::ipvs::{FakeIpvs, FakeNode, Ipvs, Kernel, cleanup};
use proxier::notice::Subject;
use proxier::reconcile::SyncReport;
use proxier::source::Severity;
use proxier::source::manifest::{Manifests, Reading};
use proxier::store::Store;
use tempfile::TempDir;

use super::script::{Act, Script};
use crate::args::{Cli, Command};
use crate::commands::plan::{Steps, Text};
use crate::node;

/// Plays a scenario, and returns what an operator sees.
///
/// After every act it checks that all steps succeeded, that nothing is left to do, that the desired
/// state equals a computation from scratch, that the rules were installed once, and that foreign
/// state is unchanged. At the end it checks that a restart finds nothing to do, and that cleanup
/// leaves only foreign state.
pub(super) fn play(script: &Script) -> String {
    let mut player = Player::new(script);
    let (first, others) = script.acts.split_first().unwrap();
    let mut golden = player.first(first);
    for act in others {
        write!(golden, "\n== then: {}\n", act.title).unwrap();
        golden += &player.act(act);
    }
    player.finish();
    golden
}

pub(super) struct Player<'a> {
    script: &'a Script,
    config: Arc<Config>,
    directory: TempDir,
    manifests: Manifests,
    /// The manifests' objects, separate from the proxier's own store.
    store: Store,
    node: FakeNode,
    proxier: Proxier<Ipvs<FakeIpvs>>,
    foreign: BTreeMap<VirtualServerKey, VirtualServerState>,
    /// The conditions of the node and of Services that were logged last.
    problems: Vec<String>,
    start: Instant,
}

impl<'a> Player<'a> {
    pub(super) fn new(script: &'a Script) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(&script.file);
        let config = config(script, &file);
        let node = FakeNode::default();
        let mut player = Self {
            script,
            proxier: Proxier::new(Arc::clone(&config), Ipvs::new(node.kernel().unwrap())),
            manifests: Manifests::new([file]).for_node(&*config.node_name),
            config,
            directory,
            store: Store::default(),
            node,
            foreign: BTreeMap::new(),
            problems: Vec::new(),
            start: Instant::now(),
        };
        player.make_foreign();
        player
    }

    fn make_foreign(&mut self) {
        let mut client = self.node.ipvs().client().unwrap();
        for (key, real_server) in &self.script.foreign {
            let add = Change::AddVirtualServer(VirtualServer::new(*key));
            client.change(add).unwrap();
            client
                .change(Change::AddRealServer {
                    virtual_server: *key,
                    real_server: RealServer::new(*real_server),
                })
                .unwrap();
        }
        self.foreign = self.virtual_servers();
        assert_eq!(self.foreign.len(), self.script.foreign.len());
    }

    /// Plays the first act, and returns the desired state.
    pub(super) fn first(&mut self, act: &Act) -> String {
        let reading = self.read(&act.documents);
        let report = self.proxier.handle(reading.changes.clone()).unwrap();
        let Some(report) = report else {
            return format!("nothing is changed\n\nlog:\n{}", self.log_reading(&reading));
        };
        let mut text = Text(self.proxier.desired()).to_string();
        let log = self.log(&reading, &report);
        if !log.is_empty() {
            write!(text, "\nlog:\n{log}").unwrap();
        }
        if self.script.steps {
            write!(text, "\nsteps:\n{}", Steps(&report.plan)).unwrap();
        }
        if self.script.rules {
            write!(
                text,
                "\nrules beside those of any node:\n{}",
                own_rules(&report.plan)
            )
            .unwrap();
        }
        self.check(&report);
        self.check_virtual_servers();
        for (address, active) in &self.script.connections {
            self.connect(*address, *active);
        }
        text
    }

    /// Plays a later act, and returns its steps.
    fn act(&mut self, act: &Act) -> String {
        if act.flush {
            self.node.flush_ruleset();
        }
        if act.restart {
            self.restart();
        }
        let rules_before = self.node.kernel().unwrap().observe().unwrap().ruleset;
        let reading = self.read(&act.documents);
        let changes = reading.changes.clone();
        let mut report = self.proxier.handle(changes).unwrap().unwrap();
        // A restart reads the node anyway.
        if act.flush && !act.restart {
            report = self.proxier.audit().unwrap().unwrap();
        }
        let mut text = self.log(&reading, &report);
        if let Some(seconds) = act.wait {
            let now = self.start + Duration::from_secs(seconds);
            text += &Steps(&report.plan).to_string();
            let drained = self.proxier.drain(now).unwrap();
            self.check(&report);
            let drained = drained.map(|report| {
                self.check(&report);
                Steps(&report.plan).to_string()
            });
            let drained = drained.unwrap_or_else(|| "nothing has drained\n".to_owned());
            write!(text, "-- after {seconds} s\n{drained}").unwrap();
            return text;
        }
        text += &Steps(&report.plan).to_string();
        self.check(&report);
        let installed_again = |step: &Step| match step {
            Step::InstallRuleset(rules) => rules_before == Some(rules.fingerprint()),
            _ => false,
        };
        assert!(
            !report.plan.into_iter().any(installed_again),
            "the rules have not changed"
        );
        text
    }

    fn restart(&mut self) {
        let kernel = self.node.kernel().unwrap();
        self.proxier = Proxier::new(Arc::clone(&self.config), Ipvs::new(kernel));
        let manifests = Manifests::new([self.directory.path()]);
        self.manifests = manifests.for_node(&*self.config.node_name);
    }

    fn finish(mut self) {
        self.restart();
        let reading = self.manifests.read();
        // Nothing is changed either while some manifest cannot be read.
        if let Some(report) = self.proxier.handle(reading.changes).unwrap() {
            let plan = report.plan;
            assert!(plan.is_empty(), "after a restart:\n{}", Steps(&plan));
        }

        let mut kernel = self.node.kernel().unwrap();
        let removed = cleanup(&mut kernel).unwrap().applied;
        assert!(removed.failures.is_empty(), "{:?}", removed.failures);
        let node = kernel.observe().unwrap();
        assert_eq!((node.ruleset, node.elements.len()), (None, 0));
        assert!(node.routes.is_empty() && node.policy_routes.is_empty());
        assert_eq!(self.virtual_servers(), self.foreign, "left behind");
    }

    /// Writes the manifests and reads them.
    fn read(&mut self, documents: &str) -> Reading {
        let file = self.directory.path().join(&self.script.file);
        fs::write(file, documents).unwrap();
        let reading = self.manifests.read();
        let changes = reading.changes.iter().cloned();
        changes.for_each(|change| self.store.apply(change));
        reading
    }

    /// The log of a reading.
    fn log_reading(&self, reading: &Reading) -> String {
        let mut log = String::new();
        for diagnostic in &reading.diagnostics {
            let level = match diagnostic.severity {
                Severity::Error => "ERROR",
                Severity::Warning => "WARN",
                _ => "INFO",
            };
            writeln!(log, "{level} {diagnostic}").unwrap();
        }
        let directory = format!("{}/", self.directory.path().display());
        log.replace(&directory, "")
    }

    /// The log of a reading and of its sync.
    fn log(&mut self, reading: &Reading, report: &SyncReport) -> String {
        let mut log = self.log_reading(reading);
        let of_node = self.proxier.node_conditions();
        let of_node = of_node
            .iter()
            .map(|notice| format!("Node: {}", notice.text()));
        let problems = self.proxier.problems();
        let of_services = problems.iter().map(ToString::to_string);
        let problems: Vec<_> = of_node.chain(of_services).collect();
        for problem in problems.iter().filter(|new| !self.problems.contains(new)) {
            writeln!(log, "WARN {problem}").unwrap();
        }
        self.problems = problems;
        for notice in &report.notices {
            let Subject::Service(name) = &notice.about else {
                panic!("{notice:?}");
            };
            writeln!(log, "WARN Service {name}: {}", notice.text()).unwrap();
        }
        log
    }

    fn check(&mut self, report: &SyncReport) {
        assert!(report.is_success(), "{:?}", report.applied.failures);
        loop {
            if let Some(SyncReport { plan: left, .. }) = self.proxier.audit().unwrap() {
                assert!(left.is_empty(), "left to do:\n{}", Steps(&left));
            }
            if !self.proxier.is_auditing() {
                break;
            }
        }

        let config = Arc::new(self.proxier.desired().config().clone());
        let desired = DesiredState::from_store(config, &self.store);
        assert_eq!(
            Text(&desired).to_string(),
            Text(self.proxier.desired()).to_string(),
            "from scratch it is another"
        );
        let mut node = self.node.kernel().unwrap().observe().unwrap();
        node.retain_owned(&desired);
        let again = Plan::new(&desired, &node, Scope::Full);
        assert!(
            again.is_empty(),
            "from scratch there is more to do:\n{}",
            Steps(&again)
        );

        let there = self.virtual_servers();
        for (key, state) in &self.foreign {
            assert_eq!(there.get(key), Some(state), "foreign, and touched");
        }
    }

    /// Checks that an empty node gets the virtual servers that `plan -o ipvsadm` prints.
    fn check_virtual_servers(&self) {
        let mut there = self.virtual_servers();
        there.retain(|key, _| !self.foreign.contains_key(key));
        let planned = crate::commands::plan::virtual_servers(self.proxier.desired());
        let planned = planned.into_iter().map(|(server, mut real_servers)| {
            real_servers.sort_unstable_by_key(|real_server| real_server.key);
            (
                server.key,
                VirtualServerState {
                    server,
                    real_servers,
                },
            )
        });
        assert_eq!(there, planned.collect());
    }

    fn virtual_servers(&self) -> BTreeMap<VirtualServerKey, VirtualServerState> {
        let node = self.node.kernel().unwrap().observe().unwrap();
        node.virtual_servers.into_iter().collect()
    }

    fn connect(&self, address: std::net::IpAddr, active: u32) {
        let connections = Connections::new(active, 0, 0);
        for (key, state) in self.virtual_servers() {
            for real_server in state
                .real_servers
                .iter()
                .filter(|r| r.key.address == address)
            {
                self.node
                    .ipvs()
                    .set_connections(&key, &real_server.key, connections);
            }
        }
    }
}

/// A scenario's settings, with `file` as its manifests.
pub(super) fn config(script: &Script, file: &Path) -> Arc<Config> {
    let command = ["svcproxy", "plan", "--manifests", file.to_str().unwrap()];
    let flags = script.flags.iter().map(String::as_str);
    let cli = Cli::try_parse_from(command.into_iter().chain(flags));
    let Some(Command::Plan(args)) = cli.unwrap_or_else(|e| panic!("{e}")).command else {
        panic!("not a plan");
    };
    let host = || Ok(vec!["192.0.2.99/24".parse()?, "2001:db8::99/64".parse()?]);
    Arc::new(node::config_on(&args.node, host).unwrap())
}

/// The rules that a plan installs beyond all those of a node without settings.
fn own_rules(plan: &Plan) -> String {
    let installed = plan.into_iter().find_map(|step| match step {
        Step::InstallRuleset(ruleset) => Some(ruleset),
        _ => None,
    });
    let rules = |ruleset: &Ruleset| {
        let mut chain = String::new();
        let mut rules = Vec::new();
        for line in ruleset.to_string().lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("chain ") {
                chain = name.trim_end_matches(" {").to_owned();
            } else {
                rules.push(format!("{chain}: {line}\n"));
            }
        }
        rules
    };
    let of_any = rules(&Ruleset::new(&Config::new("any", vec![])));
    let own = rules(installed.unwrap()).into_iter();
    own.filter(|rule| !of_any.contains(rule)).collect()
}
