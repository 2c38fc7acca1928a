//! The page beside the metrics: what `svcproxy status`, `services`, `describe` and `top` show, in a
//! browser. It changes nothing, and needs no JavaScript.

mod drawing;
mod layout;
mod list;
mod overview;
mod reading;
mod service;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use maud::Markup;
use proxier::observe::metrics::{Document, NoAnswer, Request};

use self::list::{List, Query};
use self::overview::Overview;
use self::reading::{Reader, Reading};
use self::service::OneService;
use crate::args::Mode;
use crate::description::{self, Description};
use crate::history::History;
use crate::inventory::{Proxied, Wanted};
use crate::notices::{Condition, Conditions};
use crate::running::Running;
pub(crate) use list::{is_list, list};

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Changes that are shown.
const CHANGES: usize = 20;

/// The documents that never change, and the paths that do not exist.
pub(crate) fn fixed(path: &str) -> Option<Document> {
    match path {
        "/page.css" => Some(Document::new("text/css; charset=utf-8", STYLE)),
        "/page.js" => Some(Document::new("text/javascript; charset=utf-8", SCRIPT)),
        "/" | "/changes" => None,
        path if path.starts_with("/page/") => None,
        _ => Some(Document::new("text/plain; charset=utf-8", "404 page not found\n").not_found()),
    }
}

/// The page.
pub(crate) struct Page {
    node: Arc<str>,
    running: Box<dyn Fn() -> Running + Send + Sync>,
    conditions: Conditions,
    history: History,
    reader: Reader,
}

/// What every document shows.
struct Common {
    node: Arc<str>,
    running: Running,
    conditions: Vec<Condition>,
}

impl Page {
    pub(crate) fn new(
        node: Arc<str>,
        running: impl Fn() -> Running + Send + Sync + 'static,
        conditions: Conditions,
        history: History,
    ) -> Self {
        Self {
            node,
            running: Box::new(running),
            conditions,
            history,
            reader: Reader::default(),
        }
    }

    /// The document of a path. `None` if there is none.
    pub(crate) fn answer(&self, request: &Request<'_>) -> Option<Document> {
        match request.path() {
            "/" => Some(self.overview(request)),
            "/changes" => {
                let changes = self.history.latest(None, usize::MAX);
                let json = serde_json::to_string(&changes).ok()?;
                Some(Document::new("application/json", json))
            }
            path => {
                // A Service's name has no character that a browser encodes.
                let name = description::name(path.strip_prefix("/page/")?)?;
                Some(self.service(request, &name.to_string()))
            }
        }
    }

    fn common(&self) -> Common {
        Common {
            node: Arc::clone(&self.node),
            running: (self.running)(),
            conditions: self.conditions.list(&self.node),
        }
    }

    fn overview(&self, request: &Request<'_>) -> Document {
        let common = self.common();
        let query = Query::parse(request.query());
        let about = format!("?{}", query.at(query.from));
        let list = match ask::<List>(request, &about) {
            Ok(list) => list.unwrap_or_default(),
            Err(NoAnswer) => return busy(&common),
        };
        let names: BTreeSet<_> = list.rows.iter().map(|row| row.service.as_str()).collect();
        let reading = self.read(&about, &common, request, &|name| names.contains(name));
        let overview = Overview {
            common: &common,
            query: &query,
            list: &list,
            reading: reading.as_deref().map_err(ToString::to_string),
            changes: self.history.latest(None, CHANGES),
        };
        html(layout::document(&common, "", &overview.markup()))
    }

    fn service(&self, request: &Request<'_>, name: &str) -> Document {
        let common = self.common();
        let description = match ask::<Description>(request, name) {
            Ok(description) => description,
            Err(NoAnswer) => return busy(&common),
        };
        let reading = self.read(name, &common, request, &|of| of == name);
        let is_known = description.is_some()
            || reading
                .as_ref()
                .is_ok_and(|reading| !reading.inventory.services.is_empty());
        if let (false, Err(error)) = (is_known, &reading) {
            return html(layout::message(&common, "Not known", &error.to_string())).unavailable();
        }
        if !is_known {
            let text = format!("This node serves no Service {name}.");
            return html(layout::message(&common, "Not found", &text)).not_found();
        }
        let service = OneService {
            common: &common,
            name,
            description: description.as_ref(),
            reading: reading.as_deref().map_err(ToString::to_string),
            changes: self.history.latest(Some(name), CHANGES),
            conditions: self.conditions.of_service(&self.node, name),
        };
        html(layout::document(&common, name, &service.markup()))
    }

    fn read(
        &self,
        about: &str,
        common: &Common,
        request: &Request<'_>,
        wanted: &dyn Fn(&str) -> bool,
    ) -> anyhow::Result<Arc<Reading>> {
        let mode = common.mode();
        let mode = mode.ok_or_else(|| anyhow::anyhow!("the mode is not chosen yet"))?;
        let page = || ask::<Vec<Proxied>>(request, "").ok().flatten();
        let wanted = Wanted(wanted);
        self.reader
            .read(about, mode, page, &wanted)
            .map_err(|error| anyhow::anyhow!("cannot read what the kernel has: {error:#}"))
    }
}

impl Common {
    fn mode(&self) -> Option<Mode> {
        Mode::named(&self.running.mode)
    }
}

/// Asks the loop.
fn ask<T: serde::de::DeserializeOwned>(
    request: &Request<'_>,
    about: &str,
) -> Result<Option<T>, NoAnswer> {
    let answer = request.ask(about)?;
    Ok(answer.and_then(|text| serde_json::from_str(&text).ok()))
}

fn html(markup: Markup) -> Document {
    Document::new(HTML, markup.into_string())
}

fn busy(common: &Common) -> Document {
    let text = "svcproxy has not answered within 5 seconds: a large sync is under way, or too many \
                others ask. Reload the page in a moment.";
    html(layout::message(common, "Busy", text)).unavailable()
}
