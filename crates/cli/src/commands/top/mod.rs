//! `svcproxy top`.

mod draw;
#[cfg(test)]
mod picture;
#[cfg(test)]
mod tests;
mod view;

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde::Serialize;
use signal_hook::consts::SIGTERM;

use self::view::{Act, Key, View};
use crate::Ending;
use crate::args::{Mode, StatusFormat, TopArgs, usage_error};
use crate::commands::json;
use crate::figures::rate;
use crate::inventory::{self, Inventory, Totals, Wanted};
use crate::load::{EndpointLoad, Load, Loads, ServiceLoad};
use crate::logging::Shown;
use crate::notices::Condition;
use crate::running::{Client, Running};
use crate::table::Table;

/// How long a key may wait for its effect.
const BLINK: Duration = Duration::from_millis(100);

/// What was read at one moment.
#[derive(Debug)]
struct Reading {
    mode: Mode,
    inventory: Inventory,
    running: Option<Running>,
    conditions: Vec<Condition>,
    at: Instant,
    /// Why there is nothing newer.
    error: Option<String>,
}

/// Shows live what is busy, or with `--once` prints it.
pub(crate) fn top(args: &TopArgs) -> anyhow::Result<Ending> {
    if args.once {
        return once(args);
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        usage_error("top needs a terminal: use --once in scripts");
    }
    let reading = read(args)?;
    let mut terminal = ratatui::try_init().context("cannot set up the terminal")?;
    let outcome = live(args, reading, &mut terminal);
    ratatui::try_restore().context("cannot restore the terminal")?;
    outcome?;
    Ok(Ending::Done)
}

fn read(args: &TopArgs) -> anyhow::Result<Reading> {
    let selection = &args.selection;
    let is_wanted = |service: &str| selection.names(service);
    let client = Client::at(&args.from.metrics_bind_address);
    let wanted = Wanted(&is_wanted);
    let (mode, mut inventory) = inventory::read(args.from.mode, client.as_ref(), &wanted)?;
    if !selection.is_by_name() {
        inventory = inventory.with(|of| {
            of.vips.iter().any(|vip| {
                let endpoints = vip.real_servers.iter().map(|server| server.address);
                selection.has(&vip.key, endpoints)
            })
        });
    }
    let running = client.as_ref().and_then(Client::status);
    let conditions = client.as_ref().and_then(Client::conditions);
    let conditions = conditions.unwrap_or_default();
    inventory.explain(&conditions);
    Ok(Reading {
        mode,
        inventory,
        running,
        conditions,
        at: Instant::now(),
        error: None,
    })
}

/// One reading; two where the kernel has no rates but counts.
fn once(args: &TopArgs) -> anyhow::Result<Ending> {
    let mut reading = read(args)?;
    let mut loads = Loads::new(&reading.inventory, None);
    if matches!(reading.mode, Mode::Iptables | Mode::Userspace) {
        thread::sleep(args.interval);
        let next = read(args)?;
        let seconds = next.at.duration_since(reading.at).as_secs_f64();
        loads = Loads::new(&next.inventory, Some((&loads, seconds)));
        reading = next;
    }
    loads.sort(args.sort);
    match args.output {
        StatusFormat::Json => json(&Document::new(&reading, &loads))?,
        StatusFormat::Text => text(&loads)?,
    }
    Ok(Ending::Done)
}

/// The reading, for programs.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document<'a> {
    mode: &'static str,
    /// Sums over all Services.
    load: Load,
    totals: Totals,
    services: &'a [ServiceLoad],
    endpoints: &'a [EndpointLoad],
    conditions: &'a [Condition],
    /// `None` if no svcproxy answers.
    running: Option<&'a Running>,
}

impl<'a> Document<'a> {
    fn new(reading: &'a Reading, loads: &'a Loads) -> Self {
        Self {
            mode: reading.mode.name(),
            load: loads.all,
            totals: reading.inventory.totals,
            services: &loads.services,
            endpoints: &loads.endpoints,
            conditions: &reading.conditions,
            running: reading.running.as_ref(),
        }
    }
}

fn text(loads: &Loads) -> anyhow::Result<()> {
    let header = [
        "SERVICE",
        "ENDPOINTS",
        "DRAINING",
        "ACTIVE",
        "INACTIVE",
        "CONN/S",
        "PACKETS/S",
        "BYTES/S",
        "TOTAL",
    ];
    let rows = loads.services.iter().map(|of| {
        let load = &of.load;
        vec![
            Shown(&of.service).to_string(),
            of.endpoints.to_string(),
            of.draining.to_string(),
            load.active_connections.to_string(),
            load.inactive_connections.to_string(),
            rate(load.connections_per_second),
            load.packets_per_second.to_string(),
            load.bytes_per_second.to_string(),
            load.total_connections.to_string(),
        ]
    });
    let header = header.map(str::to_owned).to_vec();
    let lines: Vec<_> = [header].into_iter().chain(rows).collect();
    let mut out = io::stdout().lock();
    Table::default().print(&mut out, &lines)?;
    out.flush()?;
    Ok(())
}

/// Reads in a thread of its own, so that a slow reading delays no key.
fn live(
    args: &TopArgs,
    mut reading: Reading,
    terminal: &mut ratatui::DefaultTerminal,
) -> anyhow::Result<()> {
    let is_over = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGTERM, Arc::clone(&is_over))?;
    let mut view = View::new(args.sort);
    view.take(Loads::new(&reading.inventory, None));
    let (ask, readings) = reader(args)?;
    let mut next = Some(Instant::now() + args.interval);
    while !is_over.load(Ordering::Relaxed) {
        terminal.draw(|frame| draw::draw(frame, &view, &reading))?;
        if let Some(key) = pressed(BLINK)?
            && view.press(key) == Act::Quit
        {
            break;
        }
        if let Ok(new) = readings.try_recv() {
            take(&mut view, &mut reading, new);
            // Half of the time is the terminal's, however long a reading takes.
            next = Some(Instant::now() + args.interval);
        }
        if !view.is_paused && next.is_some_and(|next| Instant::now() >= next) {
            next = None;
            // The reader waits for it: it reads only when asked.
            if ask.send(()).is_err() {
                break;
            }
        }
    }
    Ok(())
}

fn take(view: &mut View, reading: &mut Reading, new: anyhow::Result<Reading>) {
    match new {
        Ok(new) => {
            let seconds = new.at.duration_since(reading.at).as_secs_f64();
            let loads = Loads::new(&new.inventory, Some((&view.loads, seconds)));
            view.take(loads);
            *reading = new;
        }
        Err(error) => reading.error = Some(format!("{error:#}")),
    }
}

/// A thread that reads whenever it is asked.
fn reader(args: &TopArgs) -> io::Result<(Sender<()>, Receiver<anyhow::Result<Reading>>)> {
    let (ask, asked) = mpsc::channel();
    let (deliver, readings) = mpsc::channel();
    let args = args.clone();
    thread::Builder::new()
        .name("reader".to_owned())
        .spawn(
            move || {
                while asked.recv().is_ok() && deliver.send(read(&args)).is_ok() {}
            },
        )?;
    Ok((ask, readings))
}

/// The next key, if one comes in time. A change of the window's size is none, but ends the waiting.
fn pressed(within: Duration) -> io::Result<Option<Key>> {
    if !event::poll(within)? {
        return Ok(None);
    }
    Ok(match event::read()? {
        Event::Key(key) if key.kind != KeyEventKind::Release => key_of(key),
        _ => None,
    })
}

fn key_of(key: KeyEvent) -> Option<Key> {
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(c) => Key::Char(c),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::Backspace => Key::Backspace,
        _ => return None,
    })
}
