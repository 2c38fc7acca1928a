//! A fake kernel whose `sendmsg` hangs while a gate is closed.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use ipvs::{AsyncClient, Client, FakeKernel, FakeSocket, Transport};

#[derive(Default)]
struct State {
    closed: bool,
    /// How many sends hang at the gate.
    hanging: usize,
    /// Sockets from this number on pass all the same.
    passing: Option<usize>,
    sockets: usize,
}

#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) async fn client(&self) -> AsyncClient<Gated> {
        let socket = Gated {
            gate: self.clone(),
            socket: FakeKernel::new().socket(),
            number: 0,
        };
        let client = Client::with_transport(socket).unwrap();
        AsyncClient::new(client).await.unwrap()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.0.1.notify_all();
    }

    pub(crate) fn close(&self) {
        self.change(|state| state.closed = true);
    }

    pub(crate) fn open(&self) {
        self.change(|state| state.closed = false);
    }

    /// Lets the sockets pass that are opened from now on.
    #[allow(dead_code)]
    pub(crate) fn open_for_new(&self) {
        self.change(|state| state.passing = Some(state.sockets + 1));
    }

    /// Waits until a send hangs at the gate.
    pub(crate) fn wait_until_entered(&self) {
        let state = self
            .0
            .1
            .wait_while(self.state(), |state| state.hanging == 0);
        drop(state.unwrap());
    }
}

pub(crate) struct Gated {
    gate: Gate,
    socket: FakeSocket,
    number: usize,
}

impl Transport for Gated {
    fn send(&mut self, packets: &[u8]) -> io::Result<()> {
        let gate = &self.gate.0;
        let mut state = self.gate.state();
        state.hanging += 1;
        gate.1.notify_all();
        let number = self.number;
        let hangs =
            |state: &mut State| state.closed && state.passing.is_none_or(|from| number < from);
        let mut state = gate.1.wait_while(state, hangs).unwrap();
        state.hanging -= 1;
        drop(state);
        self.socket.send(packets)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(buffer)
    }

    fn reopen(&self) -> io::Result<Self> {
        let mut state = self.gate.state();
        state.sockets += 1;
        Ok(Self {
            gate: self.gate.clone(),
            socket: self.socket.reopen()?,
            number: state.sockets,
        })
    }
}
