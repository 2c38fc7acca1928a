//! Follows changes of the `--config` file.

mod fields;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proxier::desired::Config;
use proxier::reconcile::{Intervals, Settings};
use proxier::source::watch::{Watch, WatchError};

use self::fields::{Field, fields};
use crate::args::{self, Cli, Mode, Periods};
use crate::component_config::{self, Note};
use crate::logging::chain;
use crate::node;

/// Shortest health timeout: kube-proxy's, which is twice its default syncPeriod.
const LEAST_HEALTH_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a change may be pending before the proxy counts as unhealthy: as in kube-proxy, twice
/// the time between full syncs.
pub(crate) fn health_timeout(audit_interval: Duration) -> Duration {
    LEAST_HEALTH_TIMEOUT.max(audit_interval.saturating_mul(2))
}

/// The intervals of the loop.
pub(crate) fn intervals(periods: Periods) -> Intervals {
    let mut intervals = Intervals::default();
    intervals.audit = periods.audit;
    intervals.min_sync = periods.min_sync;
    intervals
}

/// Sets the OOM score adjustment of this process.
pub(crate) fn set_oom_score(score: Option<i16>) {
    let write = |score: i16| fs::write("/proc/self/oom_score_adj", score.to_string());
    if let Some(Err(error)) = score.map(write) {
        tracing::warn!("oom_score_adj stays as it is: {error}");
    }
}

/// Follows the file as long as the watch lives. Calls `apply` with the new settings.
pub(crate) fn follow(
    file: &Path,
    cli: &Cli,
    node_name: &Arc<str>,
    mut apply: impl FnMut(Cli, Settings) + Send + 'static,
) -> Result<Watch, WatchError> {
    let mut reload = Reload::new(cli, node_name);
    let mut last = None;
    let path = file.to_owned();
    let read = move || {
        let text = fs::read(&path).map_err(|error| error.kind());
        if last.as_ref() == Some(&text) {
            return;
        }
        last = Some(text);
        let mut cli = args::parse();
        let loaded = component_config::ingest(&mut cli);
        let loaded = loaded.map(|notes| (cli, notes)).map_err(Into::into);
        if let Some((cli, settings)) = reload.ingest(loaded, node::config) {
            apply(cli, settings);
        }
    };
    Watch::start("configuration", vec![file.to_owned()], |_| false, read)
}

/// The names of the settings that need a restart.
pub(crate) fn taking_a_restart(cli: &Cli) -> impl Iterator<Item = &'static str> {
    let all = fields(cli, cli.run.mode()).into_iter();
    all.filter(|field| field.wants_restart)
        .map(|field| field.name)
}

/// The last valid settings.
struct Reload {
    in_effect: Vec<Field>,
    mode: Mode,
    node_name: Arc<str>,
    /// None before the first reading, whose notes were logged at the start.
    notes: Option<Vec<Note>>,
    /// Why the current file is not used.
    error: Option<String>,
}

impl Reload {
    fn new(cli: &Cli, node_name: &Arc<str>) -> Self {
        Self {
            in_effect: fields(cli, cli.run.mode()),
            mode: cli.run.mode(),
            node_name: Arc::clone(node_name),
            notes: None,
            error: None,
        }
    }

    /// Processes a reading of the file, and logs what changed. None if there is nothing to apply.
    fn ingest(
        &mut self,
        loaded: anyhow::Result<(Cli, Vec<Note>)>,
        config: impl FnOnce(&args::NodeArgs) -> anyhow::Result<Config>,
    ) -> Option<(Cli, Settings)> {
        let checked = loaded.and_then(|(cli, notes)| Ok((config(&cli.run.node)?, cli, notes)));
        let (mut config, cli, notes) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                let error = chain(error.as_ref());
                if self.error.as_ref() != Some(&error) {
                    tracing::error!("{error}; the previous settings stay in effect");
                }
                self.error = Some(error);
                return None;
            }
        };
        if self.error.take().is_some() {
            tracing::info!("the configuration file is valid again");
        }
        if let Some(before) = self.notes.replace(notes.clone()) {
            let new = notes.iter().filter(|note| !before.contains(note));
            new.for_each(Note::log);
        }
        let mut is_changed = false;
        for (before, now) in self.in_effect.iter_mut().zip(fields(&cli, self.mode)) {
            let (name, old, new) = (now.name, &before.value, &now.value);
            if old == new {
                continue;
            }
            if now.wants_restart {
                tracing::warn!("{name}: {old} stays in effect; {new} needs a restart");
            } else {
                tracing::info!("{name}: changed from {old} to {new}");
                is_changed = true;
                *before = now;
            }
        }
        // The source filters by the node name, so it cannot change.
        config.node_name = Arc::clone(&self.node_name);
        let intervals = intervals(cli.run.node.sync.periods(self.mode));
        is_changed.then(|| (cli, Settings::new(Arc::new(config), intervals)))
    }
}
