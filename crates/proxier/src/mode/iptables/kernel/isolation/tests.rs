use std::sync::Arc;

use testbed::Namespace;

use super::super::{Flavour, IptablesKernel, Program, Verb};
use super::*;
use crate::desired::{Config, DesiredState};
use crate::mode::iptables::{NodeState, Plan, Rules, Step, Table};
use crate::mode::ipvs::plan::Scope;
use crate::model::{
    Endpoint, EndpointPort, EndpointSlice, Family, ObjectName, PortName, Protocol, Service,
    ServicePort,
};
use crate::store::{Change, Store};

/// Services with addresses on the same and on different branches. The address of each backend
/// identifies its Service.
fn services(numbers: std::ops::Range<u8>, port: u16) -> DesiredState {
    let mut store = Store::default();
    for n in numbers {
        let name = ObjectName::new("default", &format!("web-{n}")).unwrap();
        let mut service = Service::new(name.clone());
        service.cluster_ips = [[10, 96, n % 3, n].into()].into();
        let number = |number: u16| number.try_into().unwrap();
        service.ports = [ServicePort::new(
            PortName::UNNAMED,
            Protocol::Tcp,
            number(80),
        )]
        .into();
        let mut slice = EndpointSlice::new(name.clone(), name, Family::V4);
        let target = EndpointPort::new(PortName::UNNAMED, Protocol::Tcp, number(port));
        slice.ports = [target].into();
        slice.endpoints = [Endpoint::new([10, 244, 0, n].into())].into();
        store.apply(Change::ServiceApplied(service));
        store.apply(Change::EndpointSliceApplied(slice));
    }
    let config = Config::new("node-a", vec![[192, 0, 2, 1].into()]);
    DesiredState::from_store(Arc::new(config), &store)
}

fn transaction(state: &DesiredState, there: &Rules) -> Transaction {
    let node = NodeState::new(Default::default(), there.clone(), Rules::default());
    let plan = Plan::new(state, &node, Scope::Full);
    let restore = plan.steps().iter().find_map(|step| match step {
        Step::Restore(transaction) => Some(transaction.clone()),
        _ => None,
    });
    restore.unwrap()
}

/// All backends that the rules send packets to.
pub(super) fn backends(rules: &Rules) -> BTreeSet<String> {
    let chains = rules.chains();
    let rules = chains.flat_map(|(table, name)| rules.chain(table, name));
    let to = rules.filter_map(|rule| rule.as_str().split("--to-destination ").nth(1));
    to.map(str::to_owned).collect()
}

/// An in-memory kernel that rejects lines with certain words.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    pub(super) rules: Rules,
    pub(super) refused: Vec<&'static str>,
    /// Names the last line of the table in errors, as legacy iptables does.
    pub(super) names_the_end: bool,
    pub(super) calls: usize,
}

impl Kernel {
    pub(super) fn restore(&mut self, transaction: &Transaction) -> Result<(), NodeError> {
        self.calls += 1;
        let mut before = 0;
        for table in transaction.apart() {
            let text = table.to_string();
            let lines: Vec<_> = text.lines().collect();
            let bad = |line: &&str| self.refused.iter().any(|words| line.contains(words));
            if let Some(at) = lines.iter().position(bad) {
                let at = if self.names_the_end {
                    lines.len()
                } else {
                    at + 1
                };
                let said = format!("line {}: RULE_APPEND failed", before + at);
                let refusal = Refusal::new("iptables", &said).located(transaction);
                return Err(NodeError::Iptables(Box::new(refusal)));
            }
            table.record(&mut self.rules);
            self.check();
            before += lines.len();
        }
        Ok(())
    }

    /// Checks that every jump has a target, and that no jump is duplicated.
    fn check(&self) {
        let chains: BTreeSet<_> = self.rules.chains().collect();
        for (table, name) in &chains {
            for rule in self.rules.chain(*table, name) {
                let to = rule.leads_to();
                assert!(
                    to.is_none_or(|to| chains.contains(&(*table, &to))),
                    "{rule}"
                );
            }
        }
        let mut jumps = self.rules.jumps().to_vec();
        jumps.dedup();
        assert_eq!(jumps, self.rules.jumps());
    }
}

/// The rejected Service ports. Checks that nothing else failed.
fn names(outcome: &Restored) -> Vec<String> {
    let mut names = Vec::new();
    for (owner, error) in &outcome.refused {
        assert_eq!(refusal(error).unwrap().owner.as_ref(), Some(owner));
        names.push(owner.to_string());
    }
    names.sort();
    names
}

/// Executes a transaction, and checks that the reported part is in effect.
fn carried_out(transaction: &Transaction, kernel: &mut Kernel) -> Restored {
    let mut reported = kernel.rules.clone();
    let outcome = carry_out(transaction, &mut |some| kernel.restore(some));
    if outcome.failures.is_empty() {
        let done = outcome.done.as_ref();
        done.unwrap_or(transaction).record(&mut reported);
        assert_eq!(reported, kernel.rules);
    }
    outcome
}

#[test]
fn rejected_service_ports_are_left_out_and_named() {
    for names_the_end in [false, true] {
        let mut kernel = Kernel {
            rules: Rules::default(),
            refused: vec!["10.244.0.7:", "10.244.0.31:"],
            names_the_end,
            calls: 0,
        };
        let state = services(1..41, 8080);
        let first = transaction(&state, &kernel.rules);
        let outcome = carried_out(&first, &mut kernel);
        assert_eq!(names(&outcome), ["default/web-31", "default/web-7"]);
        assert_eq!(outcome.failures.len(), 0);
        let there = backends(&kernel.rules);
        assert_eq!(there.len(), 38);
        assert!(!there.contains("10.244.0.7:8080") && there.contains("10.244.0.8:8080"));
        assert!(kernel.calls < 25, "{}", kernel.calls);
        // A retry changes nothing.
        let again = transaction(&state, &kernel.rules);
        let outcome = carried_out(&again, &mut kernel);
        assert_eq!(names(&outcome), ["default/web-31", "default/web-7"]);
        assert!(outcome.done.unwrap().is_empty());

        // Once the rules are accepted, nothing is missing.
        kernel.refused.clear();
        let rest = transaction(&state, &kernel.rules);
        let outcome = carried_out(&rest, &mut kernel);
        assert!(outcome.failures.is_empty() && names(&outcome).is_empty());
        assert_eq!(backends(&kernel.rules).len(), 40);

        // A rejected change keeps the previous rules, also among other changes.
        kernel.refused = vec!["10.244.0.9:9090"];
        let change = transaction(&services(1..30, 9090), &kernel.rules);
        let outcome = carried_out(&change, &mut kernel);
        assert_eq!(names(&outcome), ["default/web-9"]);
        let there = backends(&kernel.rules);
        assert_eq!(there.len(), 29);
        assert!(there.contains("10.244.0.9:8080") && there.contains("10.244.0.8:9090"));
    }
}

#[test]
fn if_all_are_rejected_they_are_not_tried_one_by_one() {
    for names_the_end in [false, true] {
        let mut kernel = Kernel {
            rules: Rules::default(),
            refused: vec!["-j DNAT"],
            names_the_end,
            calls: 0,
        };
        let state = services(1..201, 8080);
        let first = transaction(&state, &kernel.rules);
        let outcome = carried_out(&first, &mut kernel);
        // One more call is for the next table.
        assert!(!outcome.failures.is_empty() && kernel.calls <= 3 + NAMED + TRIED);
        assert!(backends(&kernel.rules).is_empty());
        // Rules that belong to no Service are in effect, and the next sync continues from there.
        kernel.refused.clear();
        let rest = transaction(&state, &kernel.rules);
        assert!(carried_out(&rest, &mut kernel).done.is_none());
        assert_eq!(backends(&kernel.rules).len(), 200);
    }
}

#[test]
fn a_failure_of_no_single_service_port_is_reported_once() {
    for names_the_end in [false, true] {
        let mut kernel = Kernel {
            rules: Rules::default(),
            refused: vec!["-j MASQUERADE"],
            names_the_end,
            calls: 0,
        };
        let first = transaction(&services(1..41, 8080), &kernel.rules);
        let outcome = carried_out(&first, &mut kernel);
        assert_eq!((outcome.failures.len(), outcome.refused.len()), (1, 0));
        // The other table is in effect.
        let tables = kernel.rules.chains().map(|(table, _)| table);
        assert!(tables.collect::<BTreeSet<_>>() == [Table::Filter].into());
    }
}

#[test]
fn an_error_that_rejects_no_line_is_not_retried() {
    let mut calls = 0;
    let said = "Another app is currently holding the xtables lock.";
    let first = transaction(&services(1..41, 8080), &Rules::default());
    let outcome = carry_out(&first, &mut |_| {
        calls += 1;
        Err(NodeError::Iptables(Box::new(Refusal::new("x", said))))
    });
    assert_eq!((outcome.failures.len(), outcome.refused.len()), (1, 0));
    assert_eq!(calls, 1);
}

/// The rule of one backend is replaced by an invalid one: the kernel remembers at most 65535
/// packets of a client (XT_RECENT_MAX_NSTAMPS), or the match does not exist.
#[test]
#[ignore = "netns: needs root"]
fn netns_one_rejected_rule_affects_no_other_service() {
    let hitcount = "-m recent --update --seconds 60 --hitcount 100000 --name X --rsource";
    for flavour in [Flavour::Nft, Flavour::Legacy] {
        for refused in [hitcount, "-m nosuchmatch"] {
            Namespace::new("isolation").unwrap().enter(|| {
                let mut kernel = IptablesKernel::with_flavour(flavour).unwrap();
                let state = services(1..41, 8080);
                let first = transaction(&state, &kernel.observe().unwrap().v4);
                let outcome = carry_out(&first, &mut |some| {
                    let to = "-j DNAT --to-destination 10.244.0.7:8080";
                    let text = some.to_string().replace(to, &format!("{refused} {to}"));
                    let program = Program::new(flavour, Family::V4, Verb::Restore);
                    let outcome = program.run(&text);
                    outcome.map(drop).map_err(|error| match error {
                        NodeError::Iptables(refusal) => {
                            NodeError::Iptables(Box::new(refusal.located(some)))
                        }
                        error => error,
                    })
                });
                assert_eq!(names(&outcome), ["default/web-7"], "{flavour}: {outcome:?}");
                let said = outcome.refused[0].1.to_string();
                assert!(said.contains("Service default/web-7"), "{said}");
                let there = kernel.observe().unwrap().v4;
                let mut reported = Rules::default();
                outcome.done.unwrap().record(&mut reported);
                assert_eq!(reported, there);
                let addresses = backends(&there);
                assert_eq!(addresses.len(), 39);
                assert!(!addresses.contains("10.244.0.7:8080"));
                // After nothing is rejected any more.
                let plan = Plan::new(&state, &kernel.observe().unwrap(), Scope::Full);
                assert!(kernel.apply(&plan).failures.is_empty());
                assert_eq!(backends(&kernel.observe().unwrap().v4).len(), 40);
                let again = Plan::new(&state, &kernel.observe().unwrap(), Scope::Full);
                assert!(again.is_empty(), "{again:?}");
            });
        }
    }
}
