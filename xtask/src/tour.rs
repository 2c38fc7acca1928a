//! The tour: each command of svcproxy on the examples, and those that look at a node with 10,000
//! Services. What they print is recorded in the documentation.

use std::fmt::Write as _;
use std::fs;
use std::process::{ExitCode, Output};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::scene::Scene;
use crate::{apt, cargo, paths, setup};

/// Arguments of `tour`.
#[derive(Args)]
pub(crate) struct TourArgs {
    /// Mode of the node; ipvs needs a kernel with IPVS.
    #[arg(long, default_value = "nftables")]
    mode: String,
    /// Number of Services of the large node.
    #[arg(long, default_value_t = 10_000)]
    services: usize,
    /// Print the tour instead of writing it.
    #[arg(long)]
    print: bool,
}

/// A command: what it answers, its arguments, the lines that are shown, and its exit codes.
struct Stop {
    question: &'static str,
    command: &'static str,
    lines: usize,
    codes: &'static [i32],
}

const fn stop(question: &'static str, command: &'static str) -> Stop {
    Stop {
        question,
        command,
        lines: 24,
        codes: &[0],
    }
}

/// Before svcproxy runs. `MODE` and `SETTINGS` stand for the arguments of the node.
const BEFORE: [Stop; 3] = [
    stop("Can this node run it?", "check --mode MODE"),
    stop("What would it do?", "plan SETTINGS"),
    Stop {
        codes: &[0, 1],
        ..stop(
            "What would a switch from kube-proxy change?",
            "migrate --proxy-mode ipvs --cluster-cidr 10.244.0.0/16 --mode MODE",
        )
    },
];

/// While it runs.
const RUNNING: [Stop; 12] = [
    stop("Does it work?", "status"),
    stop("What does the node serve?", "services"),
    stop(
        "Which endpoints does a Service have, and why?",
        "describe web",
    ),
    stop(
        "Who answers a connection?",
        "explain 10.96.0.80:80 --from 10.244.1.60",
    ),
    Stop {
        codes: &[1],
        ..stop(
            "Why does one go nowhere?",
            "explain 10.96.0.80:81 --from 10.244.1.60",
        )
    },
    Stop {
        codes: &[1],
        ..stop(
            "And to an address that no Service has?",
            "explain 10.100.7.7:80",
        )
    },
    stop("What is busy?", "top --once"),
    stop("Does the kernel have what it should have?", "verify"),
    stop(
        "What would svcproxy do now?",
        "plan --against kernel SETTINGS",
    ),
    stop(
        "Which variables does a container get?",
        "env -n default --manifests=examples",
    ),
    stop(
        "What do maintainers need?",
        "support-bundle -o node-a.tar.gz",
    ),
    stop("What would clean-up remove?", "cleanup --dry-run"),
];

/// After it has ended.
const AFTER: [Stop; 2] = [
    stop("What is left without it?", "status"),
    stop("How is it removed?", "cleanup"),
];

/// On the large node.
const LARGE: [Stop; 8] = [
    short("status"),
    short("services -n team-7 --sort name"),
    short("services s1234 -n team-34 -o wide"),
    short("describe team-34/s1234"),
    short("explain 10.96.4.210:80 --from 10.244.1.60"),
    short("top --once"),
    short("verify -n team-34"),
    short("cleanup --dry-run"),
];

const fn short(command: &'static str) -> Stop {
    Stop {
        lines: 12,
        ..stop("", command)
    }
}

/// `cargo xtask tour`.
pub(crate) fn run_command(args: &TourArgs) -> Result<ExitCode> {
    apt::ensure(&setup::TOOLS)?;
    let svcproxy = cargo::svcproxy()?;
    let mut tour = Tour {
        scene: Scene::new("tour", &svcproxy, &[vec![60], vec![60]])?,
        mode: args.mode.clone(),
        manifests: "examples",
        text: String::new(),
        failed: Vec::new(),
    };
    tour.say(&format!(
        "# A tour of the commands\n\n\
         Written by `cargo xtask tour`: each command was run on a node in a network namespace, in mode\n\
         `{}`. Process numbers, times and versions are those of that run. The log goes to standard\n\
         error, which is shown last.\n\n\
         ## With the examples\n",
        args.mode
    ));
    BEFORE.iter().try_for_each(|stop| tour.visit(stop))?;
    tour.runs(&RUNNING)?;
    AFTER.iter().try_for_each(|stop| tour.visit(stop))?;
    tour.say(&format!(
        "## With many Services\n\n{} of them with three endpoints each, in a hundred namespaces.\n",
        args.services
    ));
    tour.scene
        .write("many", "services.yaml", &many(args.services))?;
    tour.manifests = "many";
    tour.runs(&LARGE)?;
    let mut command = tour.scene.svcproxy(&["cleanup"]);
    crate::process::output(&mut command)?;
    if !tour.failed.is_empty() {
        bail!("{}", tour.failed.join("\n"));
    }
    let text = tour.text.trim_end().to_owned() + "\n";
    if !args.print {
        let path = paths::workspace().join("docs/tour.md");
        fs::write(&path, text).context("cannot write the tour")?;
        println!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

struct Tour {
    scene: Scene,
    mode: String,
    manifests: &'static str,
    text: String,
    /// Commands that ended with another exit code than expected.
    failed: Vec<String>,
}

impl Tour {
    fn say(&mut self, text: &str) {
        println!("{text}");
        self.text += text;
        self.text.push('\n');
    }

    /// Starts svcproxy, visits these stops, and ends it.
    fn runs(&mut self, stops: &[Stop]) -> Result<()> {
        let settings = Scene::settings(&self.mode, self.manifests);
        let running = self.scene.start(&settings)?;
        let log = self.scene.without_directory(&running.log());
        let log: Vec<_> = log.lines().map(without_time).collect();
        self.say("### Run it\n");
        self.show(
            &format!("svcproxy {}", settings.join(" ")),
            &log.join("\n"),
            12,
        );
        stops.iter().try_for_each(|stop| self.visit(stop))?;
        running.stop()
    }

    /// Runs a command and records what it prints.
    fn visit(&mut self, stop: &Stop) -> Result<()> {
        let settings = Scene::settings(&self.mode, self.manifests).join(" ");
        let line = stop.command.replace("SETTINGS", &settings);
        let line = line.replace("MODE", &self.mode);
        let words: Vec<_> = line.split(' ').collect();
        let Output {
            status,
            stdout,
            stderr,
        } = self.scene.svcproxy(&words).output()?;
        let [out, log] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if !status.code().is_some_and(|code| stop.codes.contains(&code)) {
            self.failed.push(format!(
                "`svcproxy {line}` ended with {status}:\n{out}{log}"
            ));
        }
        if !stop.question.is_empty() {
            self.say(&format!("### {}\n", stop.question));
        }
        let log: Vec<_> = log.lines().map(without_time).collect();
        let text = format!("{out}{}", log.join("\n"));
        let text = self.scene.without_directory(&text);
        self.show(&format!("svcproxy {line}"), &text, stop.lines);
        Ok(())
    }

    /// Shows a command and the beginning of what it printed.
    fn show(&mut self, command: &str, text: &str, most: usize) {
        let mut shown = format!("```console\n# {command}\n");
        let lines: Vec<_> = text.trim_end().lines().collect();
        for line in lines.iter().take(most) {
            let line = line.trim_end();
            let _ = match line.char_indices().nth(WIDTH) {
                Some((end, _)) => writeln!(shown, "{}…", line.get(..end).unwrap_or_default()),
                None => writeln!(shown, "{line}"),
            };
        }
        if let more @ 1.. = lines.len().saturating_sub(most) {
            let _ = writeln!(shown, "… {more} more lines");
        }
        self.say(&(shown + "```\n"));
    }
}

/// The longest line that is shown, in characters.
const WIDTH: usize = 160;

/// A line of the log without the time at its beginning.
fn without_time(line: &str) -> &str {
    match line.split_once(' ') {
        Some((time, rest)) if time.ends_with('Z') => rest.trim_start(),
        _ => line,
    }
}

/// Services `s0`, `s1`, … with three endpoints each.
fn many(count: usize) -> String {
    let mut text = String::new();
    for n in 0..count {
        let (namespace, name) = (format!("team-{}", n % 100), format!("s{n}"));
        let [high, low] = [n / 256, n % 256];
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{clusterIP: 10.96.{high}.{low}, ports: [{{name: http, port: 80}}]}}\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {name}-1, namespace: {namespace}, \
             labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 8080}}]\n\
             endpoints: [{{addresses: [10.244.1.{low}], nodeName: node-a}}, \
             {{addresses: [10.244.2.{low}], nodeName: node-b}}, \
             {{addresses: [10.244.3.{low}], nodeName: node-c}}]\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_left_out_of_a_log() {
        let line = "2026-11-30T20:33:34.695200Z  INFO synced full=true";
        assert_eq!(without_time(line), "INFO synced full=true");
        assert_eq!(without_time("svcproxy 0.1.0"), "svcproxy 0.1.0");
    }
}
