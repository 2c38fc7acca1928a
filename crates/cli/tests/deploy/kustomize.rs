//! The kustomize base.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::objects;
use crate::{deploy, read, yaml};

fn base() -> PathBuf {
    deploy().join("kustomize/base")
}

/// The objects of the base, by file.
pub(crate) fn all() -> Vec<(String, Value)> {
    let kustomization = yaml(&read(base().join("kustomization.yaml")));
    let files = kustomization["resources"].as_array().unwrap().iter();
    files
        .map(|file| {
            let file = file.as_str().unwrap();
            (file.to_owned(), yaml(&read(base().join(file))))
        })
        .collect()
}

pub(crate) fn one(kind: &str) -> Value {
    let mut all = all().into_iter().map(|(_, object)| object);
    all.find(|object| object["kind"] == kind).unwrap()
}

#[test]
fn kustomization_names_all_files_there_are() {
    let named: BTreeSet<_> = all().into_iter().map(|(file, _)| file).collect();
    let there: BTreeSet<_> = std::fs::read_dir(base())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|file| file != "kustomization.yaml")
        .collect();
    assert_eq!(named, there);
}

#[test]
fn every_object_is_valid() {
    for (file, object) in all() {
        assert_eq!(objects::fault(&object), None, "{file}");
    }
}

#[test]
fn references_of_objects_exist() {
    let pod = &one("DaemonSet")["spec"]["template"]["spec"];
    let name = |kind: &str| one(kind)["metadata"]["name"].clone();
    assert_eq!(pod["serviceAccountName"], name("ServiceAccount"));
    let binding = one("ClusterRoleBinding");
    assert_eq!(binding["roleRef"]["name"], name("ClusterRole"));
    assert_eq!(binding["subjects"][0]["name"], name("ServiceAccount"));

    let volumes = pod["volumes"].as_array().unwrap();
    assert_eq!(volumes[0]["configMap"]["name"], name("ConfigMap"));
    let names = |list: &Value| -> BTreeSet<String> {
        let list = list.as_array().unwrap().iter();
        list.map(|item| item["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let mounts = &pod["containers"][0]["volumeMounts"];
    assert_eq!(names(mounts), names(&pod["volumes"]));

    // Files that flags and other files refer to.
    let directory = mounts[0]["mountPath"].as_str().unwrap();
    let config_map = one("ConfigMap");
    let is_there = |path: &str| {
        let file = path.strip_prefix(directory).unwrap();
        config_map["data"][&file[1..]].is_string()
    };
    let arguments = arguments();
    let config = arguments.iter().find_map(|a| a.strip_prefix("--config="));
    assert!(is_there(config.unwrap()));
    let config = yaml(config_map["data"]["config.conf"].as_str().unwrap());
    let kubeconfig = config["clientConnection"]["kubeconfig"].as_str();
    assert!(is_there(kubeconfig.unwrap()));
}

fn arguments() -> Vec<String> {
    let daemon_set = one("DaemonSet");
    let container = &daemon_set["spec"]["template"]["spec"]["containers"][0];
    let image = container["image"].as_str().unwrap();
    assert_eq!(image, concat!("svcproxy:", env!("CARGO_PKG_VERSION")));
    let arguments = container["args"].as_array().unwrap().iter();
    arguments.map(|a| a.as_str().unwrap().to_owned()).collect()
}

#[test]
fn flags_are_svcproxys() {
    // `--help` is reached only if the flags before it are valid.
    let output = Command::new(env!("CARGO_BIN_EXE_svcproxy"))
        .args(arguments())
        .arg("--help")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
}
