//! A director with health checks and a sorry server.
//!
//! Connects to each backend every two seconds. Healthy ones are the real servers of the virtual
//! server; if none is healthy, the sorry server is.
//!
//! `cargo run --example director -- 10.96.0.1:80 10.244.0.9:80 10.244.0.1:80 10.244.0.2:80`
//! (virtual server, sorry server, backends)
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::env::args;
use std::error::Error;
use std::net::{SocketAddr, TcpStream};
use std::thread::{sleep, spawn};
use std::time::Duration;

use ipvs::{Client, Plan, RealServer, Scheduler, VirtualServer, VirtualServerKey, Wanted};

const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct Director {
    pub(crate) virtual_server: SocketAddr,
    pub(crate) sorry_server: SocketAddr,
    pub(crate) backends: Vec<SocketAddr>,
}

impl Director {
    /// Checks all backends at once, so that a pass takes no longer than the slowest of them.
    fn healthy(&self) -> Vec<SocketAddr> {
        let check = |&address: &SocketAddr| {
            spawn(move || TcpStream::connect_timeout(&address, TIMEOUT).is_ok())
        };
        let checks: Vec<_> = self.backends.iter().map(check).collect();
        let results = self.backends.iter().zip(checks);
        results
            .filter_map(|(address, check)| check.join().unwrap_or(false).then_some(*address))
            .collect()
    }

    fn wanted(&self, healthy: &[SocketAddr]) -> Wanted {
        let key = VirtualServerKey::tcp(self.virtual_server);
        let server = VirtualServer::new(key).with_scheduler(Scheduler::LeastConnection);
        let addresses = if healthy.is_empty() {
            std::slice::from_ref(&self.sorry_server)
        } else {
            healthy
        };
        let real_servers = addresses
            .iter()
            .map(|&address| RealServer::new(address.into()));
        Wanted::new(server, real_servers)
    }

    /// Checks once and makes the kernel's table agree. Other virtual servers are left alone.
    pub(crate) fn pass(&self, client: &mut Client) -> ipvs::Result<Plan> {
        let wanted = [self.wanted(&self.healthy())];
        let key = VirtualServerKey::tcp(self.virtual_server);
        let (plan, outcomes) = client.reconcile(&wanted, |entry| entry.server.key == key)?;
        outcomes.into_result()?;
        Ok(plan)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut addresses = args().skip(1).map(|text| text.parse::<SocketAddr>());
    let usage = "usage: director VIRTUAL-SERVER SORRY-SERVER BACKEND...";
    let director = Director {
        virtual_server: addresses.next().ok_or(usage)??,
        sorry_server: addresses.next().ok_or(usage)??,
        backends: addresses.collect::<Result<_, _>>()?,
    };
    let mut client = Client::open()?;
    loop {
        match director.pass(&mut client) {
            Ok(plan) => plan
                .changes()
                .iter()
                .for_each(|change| println!("{change}")),
            // Try again: another program may have changed the table in between.
            Err(error) => eprintln!("{error}"),
        }
        sleep(INTERVAL);
    }
}
