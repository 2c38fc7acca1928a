//! Processes that may make the system calls of a profile alone, as a container runtime confines them.

use std::error::Error;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Starts a command of [`Namespace::command`](crate::Namespace::command) with the system calls that a
/// profile of the Open Container Initiative allows, and with its standard error piped.
///
/// A filter cannot be applied before `nsenter`, which needs more than a profile allows: so a thread
/// of this process enters the namespace, and the new process inherits the thread's filter.
///
/// # Errors
///
/// If the profile cannot be read or applied, or the command cannot be started.
pub fn spawn_confined(profile: &Path, command: &Command) -> Result<Child> {
    let arguments: Vec<_> = command.get_args().collect();
    let [namespace, separator, program, arguments @ ..] = arguments.as_slice() else {
        return Err("not a command in a network namespace".into());
    };
    let namespace = namespace.to_str().unwrap_or_default();
    let namespace = namespace.strip_prefix("--net=");
    let namespace = namespace.filter(|_| *separator == "--");
    let namespace = namespace.ok_or("not a command in a network namespace")?;
    let namespace = File::open(namespace)?;
    let filter = filter(profile)?;
    let mut confined = Command::new(program);
    confined.args(arguments).stderr(Stdio::piped());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => confined.env(name, value),
            None => confined.env_remove(name),
        };
    }
    thread::spawn(move || {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        apply_filter(&filter)?;
        Ok(confined.spawn()?)
    })
    .join()
    .map_err(|_| "the thread has panicked")?
}

fn filter(profile: &Path) -> Result<BpfProgram> {
    let profile: Value = serde_json::from_str(&fs::read_to_string(profile)?)?;
    let field = |of: &Value, name: &str| of.get(name).cloned().unwrap_or_default();
    let groups = field(&profile, "syscalls");
    let groups = groups.as_array().ok_or("no system calls")?;
    let is_list = |group: &Value| {
        field(group, "action") == "SCMP_ACT_ALLOW" && field(group, "args").is_null()
    };
    let is_closed = field(&profile, "defaultAction") == "SCMP_ACT_ERRNO";
    if !is_closed || !groups.iter().all(is_list) {
        return Err("not a list of allowed system calls".into());
    }
    let allowed = groups
        .iter()
        .flat_map(|group| group.get("names").and_then(Value::as_array))
        .flatten();
    // Like container runtimes, leaves out calls that this architecture does not have.
    let known: Vec<_> = allowed
        .filter(|name| compile(std::slice::from_ref(name)).is_ok())
        .collect();
    compile(&known)
}

fn compile(names: &[&Value]) -> Result<BpfProgram> {
    let rules: Vec<_> = names.iter().map(|name| json!({"syscall": name})).collect();
    let text = json!({"all": {
        "mismatch_action": {"errno": 1},
        "match_action": "allow",
        "filter": rules,
    }});
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut programs = compile_from_json(text.to_string().as_bytes(), arch)?;
    programs.remove("all").ok_or_else(|| "no filter".into())
}
