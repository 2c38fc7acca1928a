//! Processes that may make the system calls of a profile alone, as a container runtime confines them.

use std::error::Error;
use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use seccompiler::{BpfProgram, TargetArch, apply_filter, compile_from_json};
use serde::Deserialize;
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
    let filters = filters(profile)?;
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
        for filter in &filters {
            apply_filter(filter)?;
        }
        Ok(confined.spawn()?)
    })
    .join()
    .map_err(|_| "the thread has panicked")?
}

/// The filters. All of them are asked (seccomp(2)), so what one forbids with an error of its own, the last
/// one allows. It must be applied last, because it does not allow to apply filters.
fn filters(profile: &Path) -> Result<Vec<BpfProgram>> {
    let profile: Profile = serde_json::from_str(&fs::read_to_string(profile)?)?;
    if profile.default_action != "SCMP_ACT_ERRNO" {
        return Err("the profile does not forbid what it does not name".into());
    }
    let (mut allowed, mut filters) = (Vec::new(), Vec::new());
    for group in &profile.syscalls {
        let rules = group.names.iter().map(|name| group.rule(name));
        // Like container runtimes, leaves out calls that this architecture does not have.
        let forbidden = json!({"errno": 1});
        let rules = rules.filter(|rule| compile(&[rule], &forbidden, &json!("allow")).is_ok());
        match (group.action.as_str(), group.errno_ret) {
            ("SCMP_ACT_ALLOW", None) => allowed.extend(rules),
            ("SCMP_ACT_ERRNO", Some(errno)) => {
                let rules: Vec<_> = rules.collect();
                let error = json!({ "errno": errno });
                let all: Vec<_> = rules.iter().collect();
                filters.push(compile(&all, &json!("allow"), &error)?);
                allowed.extend(rules);
            }
            (other, _) => return Err(format!("unknown action {other}").into()),
        }
    }
    let allowed: Vec<_> = allowed.iter().collect();
    filters.push(compile(&allowed, &json!({"errno": 1}), &json!("allow"))?);
    Ok(filters)
}

/// A profile, as the runtime specification of the Open Container Initiative has it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    syscalls: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Vec<Argument>,
}

/// Some bits of an argument must have a value: `SCMP_CMP_MASKED_EQ`, the only comparison that is known
/// here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u8,
    value: u64,
    value_two: u64,
}

impl Group {
    fn rule(&self, name: &str) -> Value {
        let args = self.args.iter().map(|argument| {
            json!({
                "index": argument.index,
                "type": "qword",
                "op": {"masked_eq": argument.value},
                "val": argument.value_two,
            })
        });
        match self.args.is_empty() {
            true => json!({ "syscall": name }),
            false => json!({"syscall": name, "args": args.collect::<Vec<_>>()}),
        }
    }
}

/// A filter with one answer for calls that match a rule, and another one for all others.
fn compile(rules: &[&Value], others: &Value, matching: &Value) -> Result<BpfProgram> {
    let text = json!({"all": {
        "mismatch_action": others,
        "match_action": matching,
        "filter": rules,
    }});
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let mut programs = compile_from_json(text.to_string().as_bytes(), arch)?;
    programs.remove("all").ok_or_else(|| "no filter".into())
}
