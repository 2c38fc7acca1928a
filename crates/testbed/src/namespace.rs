//! Network namespaces, each of which is one host.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{io, panic, thread};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
#[expect(deprecated, reason = "see where it is used")]
use rustix::thread::unshare;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::command::{Error, ip, run};

/// Where ip-netns(8) keeps the names of namespaces.
const DIRECTORY: &str = "/run/netns";

/// A network namespace with `lo` up, removed when dropped.
///
/// It has a name under `/run/netns`, so that `ip netns exec NAME` reaches it from a shell.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    handle: File,
}

impl Namespace {
    /// Makes a namespace whose name starts with `prefix` and is unique on this machine.
    ///
    /// # Errors
    ///
    /// Without root or without `ip`.
    pub fn new(prefix: &str) -> Result<Self, Error> {
        let namespace = Self::bare(prefix)?;
        namespace.ip(&["link set lo up"])?;
        Ok(namespace)
    }

    /// As [`Namespace::new`], with `lo` still down.
    pub(crate) fn bare(prefix: &str) -> Result<Self, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}-{}-{number}", std::process::id());
        let handle =
            create(&name).map_err(Error::system(format!("make network namespace {name}")))?;
        let namespace = Self { name, handle };
        // Duplicate address detection would delay IPv6 addresses for a second. The other sysctls
        // have different defaults on different machines, limit ICMP errors to one per second, or
        // let a router redirect clients to another path.
        for (name, value) in [
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
            ("net/ipv4/conf/all/accept_redirects", "0"),
            ("net/ipv4/conf/default/accept_redirects", "0"),
            ("net/ipv6/conf/all/accept_redirects", "0"),
            ("net/ipv6/conf/default/accept_redirects", "0"),
            ("net/ipv4/icmp_ratelimit", "0"),
            ("net/ipv6/icmp/ratelimit", "0"),
        ] {
            namespace.sysctl(name, value)?;
        }
        Ok(namespace)
    }

    /// The name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `action` on a separate thread inside the namespace.
    ///
    /// Sockets made there stay in the namespace and can be used from anywhere. `/proc/self/net`
    /// is still the caller's there, `/proc/thread-self/net` is the namespace's.
    ///
    /// # Panics
    ///
    /// If `action` does, or if the namespace cannot be joined.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            #[expect(clippy::panic, reason = "running the action elsewhere would be worse")]
            if let Err(errno) =
                move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
            {
                panic!("cannot join network namespace {}: {errno}", self.name);
            }
            action()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    }

    /// A command that will run in the namespace.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={DIRECTORY}/{}", self.name))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a command line in the namespace to its end and returns its standard output.
    ///
    /// # Errors
    ///
    /// If it cannot be started, or exits with a code other than 0.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        command_line: impl IntoIterator<Item = S>,
    ) -> Result<String, Error> {
        self.run_with_input(command_line, "")
    }

    /// As [`Namespace::run`], with `input` as standard input.
    ///
    /// # Errors
    ///
    /// As [`Namespace::run`].
    pub fn run_with_input<S: AsRef<OsStr>>(
        &self,
        command_line: impl IntoIterator<Item = S>,
        input: &str,
    ) -> Result<String, Error> {
        let mut words = command_line.into_iter();
        let program = words
            .next()
            .map(|word| word.as_ref().to_owned())
            .unwrap_or_default();
        run(self.command(program).args(words), input)
    }

    /// Executes `lines`, one command of ip(8) each, without the word `ip`.
    ///
    /// # Errors
    ///
    /// At the first line that fails.
    pub fn ip<S: ToString>(&self, lines: &[S]) -> Result<(), Error> {
        let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
        ip(Some(&self.name), &lines)
    }

    /// Sets a variable of the namespace, for instance `net/ipv4/ip_forward`.
    ///
    /// # Errors
    ///
    /// If the kernel does not know it, or rejects the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<(), Error> {
        let path = PathBuf::from("/proc/sys").join(name);
        self.enter(|| fs::write(&path, value))
            .map_err(Error::system(format!("set {name} to {value}")))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Ignores errors: the name is unique, so leftovers do no harm.
        let path = Path::new(DIRECTORY).join(&self.name);
        let _ = unmount(&path, UnmountFlags::DETACH);
        let _ = fs::remove_file(path);
    }
}

/// Does what `ip netns add` does, without starting a program: creates a namespace, and mounts it,
/// which keeps it alive and gives it a name.
fn create(name: &str) -> io::Result<File> {
    fs::create_dir_all(DIRECTORY)?;
    let path = Path::new(DIRECTORY).join(name);
    File::create_new(&path)?;
    let mounted = thread::scope(|scope| {
        let create = || {
            #[expect(
                deprecated,
                reason = "the unsafe one is for flags that break Rust's promises"
            )]
            unshare(UnshareFlags::NEWNET)?;
            mount_bind("/proc/thread-self/ns/net", &path)
        };
        scope
            .spawn(create)
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    });
    let handle = mounted
        .map_err(io::Error::from)
        .and_then(|()| File::open(&path));
    if handle.is_err() {
        let _ = fs::remove_file(&path);
    }
    handle
}
