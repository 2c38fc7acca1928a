//! The plan and the kernel's state, as text.

use std::fmt::Write as _;

use proxier::desired::DesiredState;
use proxier::mode::iptables::{self, IptablesKernel};
use proxier::mode::ipvs::plan::{NodeState, Scope};
use proxier::mode::ipvs::{IpvsKernel, Kernel};
use proxier::mode::nftables::{self, NftablesKernel};
use proxier::mode::userspace;

use crate::args::Mode;
use crate::commands::plan::Text;

/// The desired state, and below it the steps that lead to it from an empty node, except in modes
/// ipvs, whose text has them, and userspace, which has sockets only.
pub(super) fn plan(mode: Mode, desired: &DesiredState) -> String {
    let mut text = Text(desired).to_string();
    // Writing to a `String` cannot fail.
    match mode {
        Mode::Ipvs | Mode::Userspace => {}
        Mode::Iptables => {
            let node = iptables::NodeState::default();
            for step in iptables::Plan::new(desired, &node, Scope::Full).steps() {
                let _ = match step {
                    iptables::Step::Restore(transaction) => {
                        write!(text, "\n# {}\n{transaction}", transaction.family)
                    }
                    other => writeln!(text, "\n# {other}"),
                };
            }
        }
        Mode::Nftables => {
            let node = nftables::NodeState::default();
            let plan = nftables::Plan::new(desired, &node, Scope::Full);
            text.push('\n');
            for step in plan.steps() {
                let _ = writeln!(text, "{step}");
            }
        }
    }
    text
}

/// What the kernel has of svcproxy.
pub(super) fn kernel(mode: Mode) -> anyhow::Result<String> {
    Ok(match mode {
        Mode::Ipvs => of_ipvs(&IpvsKernel::open()?.observe()?),
        Mode::Iptables => of_iptables(&IptablesKernel::open()?.observe()?),
        Mode::Nftables => of_nftables(&NftablesKernel::open()?.observe()?),
        Mode::Userspace => of_userspace(&userspace::observe([])?),
    })
}

/// A heading, and sorted lines.
fn section(text: &mut String, heading: &str, lines: impl Iterator<Item = String>) {
    let mut lines: Vec<_> = lines.collect();
    lines.sort_unstable();
    let _ = writeln!(text, "# {heading}: {}", lines.len());
    for line in lines {
        let _ = writeln!(text, "{line}");
    }
    text.push('\n');
}

fn sysctls<'a, S: std::fmt::Display + 'a>(
    all: impl Iterator<Item = (&'a S, &'a String)>,
) -> impl Iterator<Item = String> {
    all.map(|(sysctl, value)| format!("{sysctl} = {value}"))
}

/// An element with its comment.
fn element(element: &impl std::fmt::Display, comment: Option<&str>) -> String {
    match comment {
        Some(comment) => format!("{element} ({comment})"),
        None => element.to_string(),
    }
}

/// The sockets, what they are for, and the routes to them.
pub(super) fn of_userspace(node: &userspace::NodeState) -> String {
    let mut text = String::new();
    let may_route = if node.may_route { "yes" } else { "no" };
    let _ = writeln!(text, "# may add routes: {may_route}\n");
    let lines = node.routes.iter().map(ToString::to_string);
    section(&mut text, "routes", lines);
    let lines = node.obstacles.iter().map(|of| of.by.clone());
    section(&mut text, "obstacles", lines);
    let lines = node.addresses.iter().map(ToString::to_string);
    section(&mut text, "addresses", lines);
    let lines = node.served.values().map(|served| {
        let step = userspace::Step::Serve(std::sync::Arc::clone(served));
        step.to_string()
    });
    section(&mut text, "frontends", lines);
    let lines = node.listeners.iter().flat_map(|(key, at)| {
        at.iter()
            .map(move |at| format!("listen on {} {at}", key.protocol))
    });
    section(&mut text, "listeners", lines);
    text
}

fn of_ipvs(node: &NodeState) -> String {
    let mut text = String::new();
    section(&mut text, "sysctls", sysctls(node.sysctls.iter()));
    let rules = node.ruleset.as_ref().map(|of| format!("{of:?}"));
    section(&mut text, "nftables rules", rules.into_iter());
    let elements = node.elements.iter();
    let elements = elements.map(|(of, comment)| element(of, comment.as_deref()));
    section(&mut text, "elements", elements);
    section(
        &mut text,
        "routes",
        node.routes.iter().map(ToString::to_string),
    );
    let obstacles = node
        .obstacles
        .iter()
        .map(|of| format!("{} before {}", of.by, of.prefix));
    section(&mut text, "routes of others", obstacles);
    let policy = node.policy_routes.iter().map(ToString::to_string);
    section(&mut text, "policy routes", policy);
    let servers = node.virtual_servers.values().map(|state| {
        let server = ipvs::ipvsadm::virtual_server(&state.server).to_string();
        let real = state.real_servers.iter();
        let real = real.map(|of| ipvs::ipvsadm::real_server(&state.server.key, of).to_string());
        [server]
            .into_iter()
            .chain(real)
            .collect::<Vec<_>>()
            .join("\n")
    });
    section(&mut text, "virtual servers, also of others", servers);
    text
}

fn of_iptables(node: &iptables::NodeState) -> String {
    let mut text = String::new();
    section(&mut text, "sysctls", sysctls(node.sysctls.iter()));
    for (name, rules) in [("IPv4", &node.v4), ("IPv6", &node.v6)] {
        let jumps = rules.jumps().iter();
        let jumps = jumps.map(|of| format!("{} -A {} {}", of.table, of.hook, of.rule));
        section(&mut text, &format!("{name}, built-in chains"), jumps);
        let chains = rules.chains().map(|(table, chain)| {
            let rules = rules.chain(table, chain).iter();
            let rules = rules.map(|rule| format!("{table} -A {chain} {rule}"));
            let head = format!("{table} -N {chain}");
            [head]
                .into_iter()
                .chain(rules)
                .collect::<Vec<_>>()
                .join("\n")
        });
        section(&mut text, &format!("{name}, chains"), chains);
    }
    text
}

fn of_nftables(node: &nftables::NodeState) -> String {
    let mut text = String::new();
    section(&mut text, "sysctls", sysctls(node.sysctls.iter()));
    let rules = node.ruleset.as_ref().map(|of| format!("{of:?}"));
    section(&mut text, "rules", rules.into_iter());
    let choosers = node.choosers.iter().map(ToString::to_string);
    section(&mut text, "chains", choosers);
    let outdated = node.outdated.iter().map(ToString::to_string);
    section(&mut text, "outdated chains", outdated);
    let of_frontends = node.elements.frontends().flat_map(|key| {
        let elements = node.elements.of(key);
        elements.map(|(of, comment)| element(of, comment.as_deref()))
    });
    section(&mut text, "elements of Services", of_frontends);
    let others = node.elements.others().map(ToString::to_string);
    section(&mut text, "other elements", others);
    text
}
