//! `cargo xtask bench`: the rows of `benches/growth` in one table, compared with the stored baseline.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::figures::Figures;
use super::plot;
use super::table::table;
use crate::vm::{Job, Machine, MachineArgs, Series};
use crate::{apt, cargo, paths, process, setup};

/// More than the default: a cluster of 50,000 Services as an API server has it.
const MEMORY: u32 = 6_144;

/// Arguments of `bench` without a subcommand.
#[derive(Args)]
pub(super) struct GrowthArgs {
    /// Measure only rows whose name begins with this; may be repeated.
    #[arg(long, value_name = "NAME")]
    row: Vec<String>,
    /// Measure only sizes up to this number.
    #[arg(long, value_name = "N", conflicts_with = "save_baseline")]
    largest: Option<u32>,
    /// Store the measured rows as the baseline.
    #[arg(long)]
    save_baseline: bool,
    /// Measure nothing: print the stored baseline, and draw docs/images/growth.svg of it.
    #[arg(long, conflicts_with_all = ["row", "largest", "save_baseline"])]
    stored: bool,
    /// How to print.
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Output {
    /// A table in Markdown.
    #[default]
    Table,
    /// All figures.
    Json,
}

fn baseline_file() -> PathBuf {
    paths::workspace().join("benches/baseline.json")
}

fn picture() -> PathBuf {
    paths::workspace().join("docs/images/growth.svg")
}

/// `cargo xtask bench`.
pub(super) fn run(args: &GrowthArgs, kernel: Series) -> Result<ExitCode> {
    let stored = stored()?;
    if args.stored {
        let stored = stored.context("no baseline is stored; --save-baseline stores one")?;
        let picture = picture();
        fs::write(&picture, plot::plot(&stored)?)
            .with_context(|| format!("cannot write {}", picture.display()))?;
        print(&stored, None, args.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let figures = measure(&arguments(args), kernel)?;
    print(&figures, stored.as_ref(), args.output)?;
    let baseline = stored.unwrap_or_default();
    let losses = figures.losses(&baseline);
    for row in &losses {
        eprintln!("{row}: failed, or its goal held in the baseline and does not hold any more");
    }
    if args.save_baseline {
        let mut baseline = baseline.clone();
        baseline.update(&figures);
        save(&baseline)?;
    }
    Ok(match losses.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Those of the program.
fn arguments(args: &GrowthArgs) -> Vec<String> {
    let largest = args.largest.map(|largest| format!("--largest={largest}"));
    args.row.iter().cloned().chain(largest).collect()
}

fn print(figures: &Figures, baseline: Option<&Figures>, output: Output) -> Result<()> {
    let text = match output {
        Output::Table => table(figures, baseline),
        Output::Json => serde_json::to_string_pretty(figures)? + "\n",
    };
    Ok(io::stdout().lock().write_all(text.as_bytes())?)
}

fn stored() -> Result<Option<Figures>> {
    let file = baseline_file();
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    let stored = serde_json::from_str(&text);
    stored.with_context(|| format!("cannot use the baseline {}", file.display()))
}

fn save(baseline: &Figures) -> Result<()> {
    let file = baseline_file();
    let text = serde_json::to_string_pretty(baseline)? + "\n";
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Measures in the VM, except for memory, which is measured on this machine.
fn measure(arguments: &[String], kernel: Series) -> Result<Figures> {
    let program = program()?;
    let compiler = process::output(Command::new("rustc").arg("--version"))?;
    let compiler = String::from_utf8_lossy(&compiler);
    let mut figures = Figures {
        machine: format!(
            "QEMU, one CPU that counts instructions, Linux {}, {}",
            kernel.name(),
            compiler.trim()
        ),
        rows: Vec::new(),
    };
    let mut output = Vec::new();
    let ran = in_the_vm(&program, arguments, kernel, &mut output);
    lines(&mut figures, &output)?;
    if let Err(error) = ran {
        // The last row may lack sizes.
        figures.rows.pop();
        eprintln!("skipped: the other rows that count instructions: {error:#}");
    }
    let mut here = Command::new(&program);
    lines(
        &mut figures,
        &output_of(here.arg("--here").args(arguments))?,
    )?;
    if figures.rows.is_empty() {
        bail!("no row was measured");
    }
    Ok(figures)
}

fn lines(figures: &mut Figures, output: &[u8]) -> Result<()> {
    let text = str::from_utf8(output).context("the benchmark printed something else than text")?;
    text.lines().try_for_each(|line| figures.add(line))
}

/// The output of a program that may fail: it says so in its output.
fn output_of(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stderr(std::process::Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot start `{}`", process::display(command)))?;
    Ok(output.stdout)
}

fn program() -> Result<PathBuf> {
    let build = [
        "bench",
        "--no-run",
        "--package",
        "svcproxy-benches",
        "--bench",
        "growth",
    ];
    cargo::executable(&build)
}

fn in_the_vm(
    program: &PathBuf,
    arguments: &[String],
    kernel: Series,
    output: &mut Vec<u8>,
) -> Result<()> {
    apt::ensure(&setup::TOOLS)?;
    let mut machine = MachineArgs::of(kernel);
    machine.icount = true;
    machine.memory = MEMORY;
    machine.timeout = 0;
    let mut command = vec![program.into()];
    command.extend(arguments.iter().map(Into::into));
    Machine::prepare(&machine)?.run(&Job::here(command)?, Copied(output), io::stderr())?;
    Ok(())
}

/// Keeps the output, and shows the names of rows as they come: a run takes minutes.
struct Copied<'a>(&'a mut Vec<u8>);

impl Write for Copied<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let ends = bytes.iter().filter(|byte| **byte == b'\n').count();
        eprint!("{}", ".".repeat(ends));
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
