//! Builds, lists and runs the tests with cargo-nextest.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::vm::{self, Job, Machine, MachineArgs, quote};
use crate::{paths, process, tools};

/// The workspace's tests, built once. Every tier runs the same binaries, the VM too: it sees this
/// machine's files.
pub(super) struct Tests {
    /// What `cargo metadata` prints.
    metadata: PathBuf,
    /// Where the test binaries are.
    binaries: PathBuf,
    /// The program `svcproxy`.
    pub(super) svcproxy: PathBuf,
}

/// The tests of one profile of `.config/nextest.toml` to run.
pub(super) struct Selection<'a> {
    pub(super) profile: &'static str,
    /// Whether the profile's tests are marked `#[ignore]`.
    pub(super) ignored: bool,
    /// Only tests whose name contains this.
    pub(super) filter: Option<&'a str>,
    /// How often each test runs.
    pub(super) repeat: u32,
}

/// A test by the name of its binary and its own.
pub(super) type TestName = (String, String);

/// One run of one test.
#[derive(Debug)]
pub(super) struct TestRun {
    pub(super) passed: bool,
    pub(super) duration: Duration,
}

/// Every run of every test.
pub(super) type Results = BTreeMap<TestName, Vec<TestRun>>;

/// What `cargo nextest list --list-type=binaries-only` prints.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Binaries {
    rust_build_meta: BuildMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct BuildMeta {
    target_directory: PathBuf,
    non_test_binaries: BTreeMap<String, Vec<NonTestBinary>>,
}

#[derive(Deserialize)]
struct NonTestBinary {
    name: String,
    path: PathBuf,
}

/// What `cargo nextest list` prints.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct List {
    rust_suites: BTreeMap<String, Suite>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Suite {
    testcases: BTreeMap<String, Testcase>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Testcase {
    filter_match: FilterMatch,
}

#[derive(Deserialize)]
struct FilterMatch {
    status: String,
}

impl Tests {
    /// Builds the workspace's tests and the program that they run.
    pub(super) fn build() -> Result<Self> {
        tools::ensure("nextest")?;
        let directory = paths::workspace().join("target/nextest");
        fs::create_dir_all(&directory)?;
        let written = |name: &str, command: &mut Command| -> Result<PathBuf> {
            let path = directory.join(name);
            let file = fs::File::create(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
            process::run(command.stdout(file))?;
            Ok(path)
        };
        let binaries = written(
            "binaries.json",
            tools::cargo().args([
                "nextest",
                "list",
                "--locked",
                "--workspace",
                "--all-features",
                "--list-type=binaries-only",
                "--message-format=json",
            ]),
        )?;
        let metadata = written(
            "metadata.json",
            tools::cargo().args([
                "metadata",
                "--locked",
                "--all-features",
                "--no-deps",
                "--format-version=1",
            ]),
        )?;
        let Binaries { rust_build_meta } = serde_json::from_slice(&fs::read(&binaries)?)
            .context("cannot read nextest's list of binaries")?;
        let program = rust_build_meta
            .non_test_binaries
            .values()
            .flatten()
            .find(|binary| binary.name == "svcproxy")
            .context("the build has no program svcproxy")?;
        Ok(Self {
            metadata,
            svcproxy: rust_build_meta.target_directory.join(&program.path),
            binaries,
        })
    }

    /// The names of the selected tests.
    pub(super) fn list(&self, selection: &Selection<'_>) -> Result<Vec<TestName>> {
        let mut command = tools::cargo();
        command.args(["nextest", "list", "--message-format=json"]);
        let list = process::output(command.args(self.arguments(selection)))?;
        let List { rust_suites } =
            serde_json::from_slice(&list).context("cannot read nextest's list of tests")?;
        let names = rust_suites.into_iter().flat_map(|(binary, suite)| {
            let matching = suite
                .testcases
                .into_iter()
                .filter(|(_, test)| test.filter_match.status == "matches");
            matching.map(move |(name, _)| (binary.clone(), name))
        });
        Ok(names.collect())
    }

    /// Runs the selected tests on this machine.
    pub(super) fn run_here(&self, selection: &Selection<'_>) -> Result<Results> {
        let report = report_of(selection.profile);
        remove_stale(&report)?;
        let mut command = tools::cargo();
        command.args(["nextest", "run", "--no-tests=pass"]);
        let status = command
            .args(self.run_arguments(selection))
            .status()
            .context("cannot start cargo nextest")?;
        results(&report, status.code())
    }

    /// Runs the selected tests, whose names are `expected`, in the VM, in one boot.
    pub(super) fn run_in_vm(
        &self,
        selection: &Selection<'_>,
        expected: &[TestName],
        args: &MachineArgs,
    ) -> Result<Results> {
        let report = vm::out_dir().join("junit.xml");
        let machine = Machine::prepare(args)?;
        remove_stale(&report)?;
        let mut words: Vec<OsString> = ["cargo-nextest", "nextest", "run", "--no-tests=pass"]
            .map(Into::into)
            .into();
        words.extend(self.run_arguments(selection));
        // Nextest lists the tests of every binary before it runs any. There are tens of large
        // binaries, and the VM reads them over 9p: name the few that are needed.
        let binaries: BTreeSet<_> = expected.iter().map(|(binary, _)| binary).collect();
        let binaries: Vec<_> = binaries
            .into_iter()
            .map(|binary| format!("binary_id(={binary})"))
            .collect();
        words.extend(["--filterset".into(), binaries.join(" | ").into()]);
        let words: Vec<_> = words.iter().map(|word| quote(word)).collect();
        // The VM's own target/ is lost when it stops.
        let script = [
            &words.join(&b' ')[..],
            b"\nstatus=$?\ncp ",
            &quote(report_of(selection.profile).as_os_str()),
            b" ",
            &quote(report.as_os_str()),
            b"\nexit $status",
        ]
        .concat();
        let script = std::os::unix::ffi::OsStringExt::from_vec(script);
        let mut job = Job::here(vec!["sh".into(), "-c".into(), script])?;
        job.set("PATH", &tools::path());
        let status = machine.run(&job, std::io::stdout(), std::io::stderr())?;
        results(&report, Some(status.into()))
    }

    fn arguments(&self, selection: &Selection<'_>) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "--profile".into(),
            selection.profile.into(),
            "--run-ignored".into(),
            if selection.ignored { "only" } else { "default" }.into(),
            "--cargo-metadata".into(),
            self.metadata.clone().into(),
            "--binaries-metadata".into(),
            self.binaries.clone().into(),
        ];
        arguments.extend(selection.filter.map(Into::into));
        arguments
    }

    fn run_arguments(&self, selection: &Selection<'_>) -> Vec<OsString> {
        let mut arguments = self.arguments(selection);
        if selection.repeat > 1 {
            let count = format!("--stress-count={}", selection.repeat);
            arguments.push(count.into());
        }
        arguments
    }
}

/// Where nextest writes the results of `profile`.
fn report_of(profile: &str) -> PathBuf {
    let directory = paths::workspace().join("target/nextest");
    directory.join(profile).join("junit.xml")
}

/// A report of an earlier run must not count for this one.
fn remove_stale(report: &Path) -> Result<()> {
    match fs::remove_file(report) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", report.display()))
        }
        _ => Ok(()),
    }
}

/// The results in `report`, given nextest's exit code.
fn results(report: &Path, code: Option<i32>) -> Result<Results> {
    /// Nextest's exit code when tests failed.
    const TESTS_FAILED: i32 = 100;
    match code {
        Some(0 | TESTS_FAILED) => {}
        Some(code) => bail!("nextest exited with {code}"),
        None => bail!("nextest was killed"),
    }
    let text = match fs::read_to_string(report) {
        // Without tests there is no report.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && code == Some(0) => {
            return Ok(Results::new());
        }
        text => text.with_context(|| format!("cannot read {}", report.display()))?,
    };
    let results = parse(&text).with_context(|| format!("cannot read {}", report.display()))?;
    let any_failed = results.values().flatten().any(|run| !run.passed);
    if any_failed != (code == Some(TESTS_FAILED)) {
        bail!("nextest's exit code and its report disagree");
    }
    Ok(results)
}

/// Reads a report in JUnit's format.
fn parse(text: &str) -> Result<Results> {
    let document = roxmltree::Document::parse(text)?;
    let mut results = Results::new();
    for case in document
        .descendants()
        .filter(|node| node.has_tag_name("testcase"))
    {
        let text = |name| {
            case.attribute(name)
                .with_context(|| format!("a testcase without {name}"))
        };
        let seconds: f64 = text("time")?.parse()?;
        let failed = case
            .children()
            .any(|child| child.has_tag_name("failure") || child.has_tag_name("error"));
        let run = TestRun {
            passed: !failed,
            duration: Duration::try_from_secs_f64(seconds)?,
        };
        // The n-th repetition has the name `binary@stress-n`.
        let binary = text("classname")?.split('@').next().unwrap_or_default();
        let name = (binary.to_owned(), text("name")?.to_owned());
        results.entry(name).or_default().push(run);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="3" failures="2" errors="0" time="1.5">
    <testsuite name="a::kernel@stress-0" tests="2" failures="1" errors="0">
        <testcase name="m::b" classname="a::kernel@stress-0" time="1.250">
            <failure type="test timeout"/>
        </testcase>
        <testcase name="m::c" classname="a::kernel@stress-0" time="0.001"/>
    </testsuite>
    <testsuite name="a::kernel@stress-1" tests="1" failures="1" errors="0">
        <testcase name="m::b" classname="a::kernel@stress-1" time="0.010"/>
    </testsuite>
</testsuites>"#;

    #[test]
    fn repetitions_of_a_test_are_runs_of_one() {
        let results = parse(REPORT).unwrap();
        let name = |test: &str| ("a::kernel".to_owned(), test.to_owned());
        let passed = |test| -> Vec<_> { results[&name(test)].iter().map(|r| r.passed).collect() };
        assert_eq!(passed("m::b"), [false, true]);
        assert_eq!(passed("m::c"), [true]);
        let first = &results[&name("m::b")][0];
        assert_eq!(first.duration, Duration::from_millis(1250));
    }

    #[test]
    fn a_run_that_broke_off_has_no_results() {
        let directory = tempfile::tempdir().unwrap();
        let report = directory.path().join("junit.xml");
        // Cannot set up, no report, report of another run than the exit code's.
        assert!(results(&report, Some(96)).is_err());
        assert!(results(&report, Some(100)).is_err());
        assert!(results(&report, None).is_err());
        fs::write(&report, REPORT).unwrap();
        assert!(results(&report, Some(0)).is_err());
        assert!(results(&report, Some(100)).is_ok());
    }
}
