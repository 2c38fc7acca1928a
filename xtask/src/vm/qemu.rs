//! One run of the emulator.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::{Job, Machine, out_dir};
use crate::{paths, process};

/// The emulated CPU, without what costs the emulator more than it saves the guest.
///
/// - `erms`, `fsrm`: the kernel would clear and copy pages byte by byte (`rep stosb`), each byte an
///   iteration for the emulator.
/// - `avx`, `avx2`, `xsave`: the C library's functions for strings would use them, and each context
///   switch would save them.
/// - `smap`: two translations of what touches user memory.
/// - `la57`: a fifth level of page tables.
const EMULATED_CPU: &str = "max,-erms,-fsrm,-avx,-avx2,-xsave,-smap,-la57";

/// Parameters of the emulated machine's kernel.
///
/// - `norandmaps`: the emulator keeps translated code by its address, so a program at another address
///   each time is translated anew each time. This halves the time of most tests.
/// - `tsc=reliable`: the kernel does not trust the TSC of two CPUs that run apart, and would read the
///   time from the HPET, which one CPU at a time can.
/// - `init_on_alloc=0`: no page is cleared twice.
const EMULATED_KERNEL: &str = " norandmaps tsc=reliable init_on_alloc=0";

/// A machine about to run, and the directory it shares with this process.
pub(super) struct Run<'a> {
    machine: &'a Machine,
    shared: tempfile::TempDir,
}

impl<'a> Run<'a> {
    pub(super) fn new(machine: &'a Machine) -> Result<Self> {
        // Not below target/: a socket's path must be short.
        let shared = tempfile::tempdir().context("cannot make a temporary directory")?;
        Ok(Self { machine, shared })
    }

    pub(super) fn piped(
        self,
        job: &Job,
        mut stdout: impl Write + Send,
        mut stderr: impl Write + Send,
    ) -> Result<u8> {
        self.write_script(job, false)?;
        let listen = |name| UnixListener::bind(self.socket(name)).context("cannot make a socket");
        let (out, err) = (listen("stdout")?, listen("stderr")?);
        let mut command = self.command();
        command.stdin(Stdio::null());
        command.args(["-device", "virtio-serial-pci,id=streams"]);
        for (number, name) in ["stdout", "stderr"].into_iter().enumerate() {
            let socket = self.socket(name);
            command
                .arg("-chardev")
                .arg(format!("socket,id={name},path={}", socket.display()));
            command.arg("-device").arg(format!(
                "virtserialport,bus=streams.0,nr={},chardev={name},name={name}",
                number + 1, // 0 is kept for consoles
            ));
        }
        let child = self.spawn(&mut command)?;
        thread::scope(|scope| {
            scope.spawn(|| copy(&out, &mut stdout));
            scope.spawn(|| copy(&err, &mut stderr));
            let ended = self.wait(child);
            // Ends the copies of streams that the machine never connected to.
            for name in ["stdout", "stderr"] {
                let _ = std::os::unix::net::UnixStream::connect(self.socket(name));
            }
            ended
        })?;
        self.status()
    }

    pub(super) fn interactive(self, job: &Job) -> Result<u8> {
        self.write_script(job, true)?;
        let mut command = self.command();
        command.args(["-chardev", "stdio,id=terminal,signal=off"]);
        command.args(["-device", "virtio-serial-pci,id=streams"]);
        command.args(["-device", "virtconsole,bus=streams.0,chardev=terminal"]);
        let child = self.spawn(&mut command)?;
        self.wait(child)?;
        self.status()
    }

    fn write_script(&self, job: &Job, terminal: bool) -> Result<()> {
        let script = job.script(&self.machine.kernel, terminal);
        fs::write(self.shared.path().join("start"), script).context("cannot write the start script")
    }

    fn socket(&self, name: &str) -> PathBuf {
        self.shared.path().join(name)
    }

    fn console(&self) -> PathBuf {
        self.shared.path().join("console.log")
    }

    fn command(&self) -> Command {
        let Machine {
            kernel,
            initramfs,
            args,
        } = self.machine;
        // QEMU must not outlive this process, however it ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ]);
        let mut parameters = "console=ttyS0 quiet panic=-1 mitigations=off".to_owned();
        if args.kvm {
            command.args(["-accel", "kvm", "-cpu", "host", "-smp", "2"]);
        } else if args.icount {
            command.args(["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1"]);
            command.args(["-icount", "shift=0,sleep=off"]);
        } else {
            command.args(["-accel", "tcg,thread=multi", "-smp", "2"]);
            command.args(["-cpu", EMULATED_CPU]);
            parameters.push_str(EMULATED_KERNEL);
        }
        command.args(["-m", &format!("{}M", args.memory)]);
        command
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(initramfs);
        command.args(["-append", &parameters]);
        command
            .arg("-serial")
            .arg(format!("file:{}", self.console().display()));
        share(&mut command, "root", Path::new("/"), true);
        share(&mut command, "modules", &kernel.modules, true);
        share(&mut command, "run", self.shared.path(), false);
        share(&mut command, "out", &out_dir(), false);
        command
    }

    fn spawn(&self, command: &mut Command) -> Result<Guard> {
        let child = command
            .spawn()
            .with_context(|| format!("cannot start `{}`", process::display(command)))?;
        Ok(Guard(child))
    }

    fn wait(&self, mut qemu: Guard) -> Result<()> {
        let interrupt = Interrupt::catch()?;
        let start = Instant::now();
        loop {
            if let Some(status) = qemu.0.try_wait()? {
                if !status.success() {
                    bail!("QEMU ended with {status}{}", self.console_tail());
                }
                return Ok(());
            }
            if interrupt.came() {
                bail!("interrupted: the machine was stopped");
            }
            if let Some(limit) = self
                .machine
                .timeout()
                .filter(|limit| start.elapsed() > *limit)
            {
                bail!(
                    "the command did not end within {} s; the machine was stopped{}",
                    limit.as_secs(),
                    self.console_tail()
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn status(&self) -> Result<u8> {
        let text = fs::read_to_string(self.shared.path().join("status"));
        let code = text.ok().and_then(|text| text.trim().parse().ok());
        let Some(code) = code else {
            bail!(
                "the machine ended before its command did{}",
                self.console_tail()
            );
        };
        Ok(code)
    }

    /// The end of the kernel's console output, for an error message.
    fn console_tail(&self) -> String {
        let text = fs::read(self.console()).unwrap_or_default();
        if text.is_empty() {
            return String::new();
        }
        let kept = paths::vm().join("console.log");
        let _ = fs::write(&kept, &text);
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let tail = lines
            .get(lines.len().saturating_sub(40)..)
            .unwrap_or_default()
            .join("\n");
        format!("\n--- console, all of it in {} ---\n{tail}", kept.display())
    }
}

/// A running QEMU, killed when dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// While one exists, the signals that would end this process wait until the machine is stopped.
struct Interrupt(&'static Signals);

struct Signals {
    came: Arc<AtomicBool>,
    released: Arc<AtomicBool>,
}

impl Interrupt {
    fn catch() -> Result<Self> {
        static SIGNALS: OnceLock<Signals> = OnceLock::new();
        if SIGNALS.get().is_none() {
            let (came, released) = (Arc::default(), Arc::default());
            for signal in [SIGINT, SIGTERM, SIGHUP] {
                signal_hook::flag::register_conditional_default(signal, Arc::clone(&released))?;
                signal_hook::flag::register(signal, Arc::clone(&came))?;
            }
            let _ = SIGNALS.set(Signals { came, released });
        }
        let signals = SIGNALS.get().context("signals are not set up")?;
        signals.released.store(false, Ordering::Relaxed);
        Ok(Self(signals))
    }

    fn came(&self) -> bool {
        self.0.came.load(Ordering::Relaxed)
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.0.released.store(true, Ordering::Relaxed);
    }
}

/// Shares `directory` over 9p under the name `tag`.
fn share(command: &mut Command, tag: &str, directory: &Path, read_only: bool) {
    let read_only = if read_only { "on" } else { "off" };
    // A comma separates options, unless it is doubled.
    let path = directory.display().to_string().replace(',', ",,");
    command.arg("-fsdev").arg(format!(
        "local,id={tag},path={path},security_model=none,multidevs=remap,readonly={read_only}"
    ));
    command
        .arg("-device")
        .arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
}

/// Copies what the first to connect sends, as it comes.
fn copy(listener: &UnixListener, to: &mut impl Write) {
    let Ok((mut stream, _)) = listener.accept() else {
        return;
    };
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        let written = to.write_all(buffer.get(..length).unwrap_or_default());
        if written.and_then(|()| to.flush()).is_err() {
            // The reader is gone: drain the pipe, or the machine would block.
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
    }
}
