//! Any text as kube-proxy's configuration: it is applied, or rejected with errors that name fields; the
//! settings that it leads to are accepted again and lead to themselves.
#![no_main]
#![allow(dead_code, unused_imports)]

// svcproxy's program is no library. These modules of it need no other one.
#[path = "../../crates/cli/src/args/mod.rs"]
mod args;
#[path = "../../crates/cli/src/component_config/mod.rs"]
mod component_config;
#[path = "../../crates/cli/src/kube_proxy/mod.rs"]
mod kube_proxy;

use std::cell::OnceCell;

use clap::{CommandFactory, FromArgMatches};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

thread_local! {
    /// The settings of an empty command line, which take longer to make than to use.
    static DEFAULT: OnceCell<args::NodeArgs> = const { OnceCell::new() };
}

fn settings() -> args::NodeArgs {
    let parse = || {
        let matches = args::Cli::command().get_matches_from(["svcproxy"]);
        let mut cli = args::Cli::from_arg_matches(&matches).expect("an empty command line");
        cli.node_mut().expect("the command that runs").clone()
    };
    DEFAULT.with(|default| default.get_or_init(parse).clone())
}

/// The configuration that is kept, as the page `/configz` shows it.
fn kept(settings: &args::NodeArgs) -> Value {
    serde_json::to_value(&settings.kube_proxy.file).expect("a configuration")
}

fuzz_target!(|text: &str| {
    let mut first = settings();
    match component_config::survey(text, "given.yaml".into(), &mut first) {
        Ok(survey) => {
            for note in &survey.notes {
                let _ = note.parts();
            }
            let mut second = settings();
            component_config::adopt(&kept(&first), &mut second).expect("accepted settings");
            assert_eq!(kept(&first), kept(&second));
        }
        Err(error) => assert!(error.to_string().starts_with("given.yaml: ")),
    }
});
