//! What is shown, and what keys do. Pure.

use crate::args::TopSort;
use crate::load::{EndpointLoad, Loads, ServiceLoad};

/// A key, independent of the terminal library.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Tab,
    Backspace,
    /// Control and C.
    Interrupt,
}

/// A list that is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum List {
    #[default]
    Services,
    Endpoints,
}

/// The longest filter.
const LONGEST: usize = 64;
/// Lines that a page key moves.
const PAGE: usize = 10;

/// The orders, as the key `s` goes through them.
const ORDERS: [(TopSort, &str); 7] = [
    (TopSort::Rate, "connections/s"),
    (TopSort::Active, "active"),
    (TopSort::Packets, "packets/s"),
    (TopSort::Bytes, "bytes/s"),
    (TopSort::Total, "total"),
    (TopSort::Draining, "draining"),
    (TopSort::Name, "name"),
];

/// The state of the screen.
#[derive(Debug)]
pub(super) struct View {
    pub(super) list: List,
    pub(super) sort: TopSort,
    pub(super) filter: String,
    /// Whether keys go into the filter.
    pub(super) is_typing: bool,
    pub(super) is_paused: bool,
    pub(super) shows_help: bool,
    /// The Service whose VIPs and endpoints are shown.
    pub(super) open: Option<String>,
    /// The selected line.
    pub(super) selected: usize,
    pub(super) loads: Loads,
}

/// What a key asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Continue,
    Quit,
}

impl View {
    pub(super) fn new(sort: TopSort) -> Self {
        Self {
            list: List::default(),
            sort,
            filter: String::new(),
            is_typing: false,
            is_paused: false,
            shows_help: false,
            open: None,
            selected: 0,
            loads: Loads::default(),
        }
    }

    /// Takes over a reading; the selected Service stays selected.
    pub(super) fn take(&mut self, loads: Loads) {
        let selected = self.selected_name();
        self.loads = loads;
        self.loads.sort(self.sort);
        self.select(selected);
    }

    pub(super) fn order(&self) -> &'static str {
        let mut orders = ORDERS.iter();
        orders
            .find(|(sort, _)| *sort == self.sort)
            .map_or("", |(_, name)| name)
    }

    /// Handles a key.
    pub(super) fn press(&mut self, key: Key) -> Act {
        if key == Key::Interrupt {
            return Act::Quit;
        }
        if self.is_typing {
            self.type_in(key);
            return Act::Continue;
        }
        match key {
            Key::Char('q') => return Act::Quit,
            Key::Char('?' | 'h') => self.shows_help = !self.shows_help,
            Key::Escape if self.shows_help => self.shows_help = false,
            Key::Escape if self.open.is_some() => self.open = None,
            Key::Escape => self.set_filter(String::new()),
            Key::Enter => self.open = self.selected_service(),
            Key::Tab => {
                self.list = match self.list {
                    List::Services => List::Endpoints,
                    List::Endpoints => List::Services,
                };
                self.selected = 0;
            }
            Key::Char('/') => self.is_typing = true,
            Key::Char('p' | ' ') => self.is_paused = !self.is_paused,
            Key::Char('s') => self.next_order(1),
            Key::Char('S') => self.next_order(ORDERS.len() - 1),
            Key::Up | Key::Char('k') => self.selected = self.selected.saturating_sub(1),
            Key::Down | Key::Char('j') => self.selected += 1,
            Key::PageUp => self.selected = self.selected.saturating_sub(PAGE),
            Key::PageDown => self.selected += PAGE,
            Key::Home => self.selected = 0,
            Key::End => self.selected = usize::MAX,
            Key::Char(_) | Key::Backspace | Key::Interrupt => {}
        }
        self.selected = self.selected.min(self.count().saturating_sub(1));
        Act::Continue
    }

    fn type_in(&mut self, key: Key) {
        let mut filter = self.filter.clone();
        match key {
            Key::Enter => self.is_typing = false,
            Key::Escape => {
                self.is_typing = false;
                filter.clear();
            }
            Key::Backspace => _ = filter.pop(),
            Key::Char(c) if filter.chars().count() < LONGEST => filter.push(c),
            _ => {}
        }
        self.set_filter(filter);
    }

    fn set_filter(&mut self, filter: String) {
        if filter != self.filter {
            self.filter = filter;
            self.selected = 0;
        }
    }

    fn next_order(&mut self, steps: usize) {
        let selected = self.selected_name();
        let mut orders = ORDERS.iter();
        let place = orders.position(|(sort, _)| *sort == self.sort);
        let next = (place.unwrap_or_default() + steps) % ORDERS.len();
        self.sort = ORDERS.get(next).map_or(TopSort::Rate, |(sort, _)| *sort);
        self.loads.sort(self.sort);
        self.select(selected);
    }

    /// The Services that match the filter.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceLoad> {
        let all = self.loads.services.iter();
        all.filter(|of| of.service.contains(&self.filter))
    }

    /// The endpoints that match the filter, by Service or address.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &EndpointLoad> {
        let all = self.loads.endpoints.iter();
        all.filter(|of| {
            of.service.contains(&self.filter) || of.address.to_string().contains(&self.filter)
        })
    }

    fn count(&self) -> usize {
        match self.list {
            List::Services => self.services().count(),
            List::Endpoints => self.endpoints().count(),
        }
    }

    fn selected_service(&self) -> Option<String> {
        let (service, _) = self.selected_name()?;
        Some(service)
    }

    /// The Service of the selected line, and the endpoint if it is one.
    fn selected_name(&self) -> Option<(String, Option<String>)> {
        match self.list {
            List::Services => {
                let of = self.services().nth(self.selected)?;
                Some((of.service.clone(), None))
            }
            List::Endpoints => {
                let of = self.endpoints().nth(self.selected)?;
                Some((of.service.clone(), Some(of.address.to_string())))
            }
        }
    }

    fn select(&mut self, name: Option<(String, Option<String>)>) {
        let place = name.and_then(|(service, endpoint)| match self.list {
            List::Services => self.services().position(|of| of.service == service),
            List::Endpoints => self
                .endpoints()
                .position(|of| of.service == service && Some(of.address.to_string()) == endpoint),
        });
        let last = self.count().saturating_sub(1);
        // The first line is followed, not the Service that was in it.
        self.selected = match place {
            Some(place) if self.selected > 0 => place,
            _ => self.selected.min(last),
        };
    }
}
