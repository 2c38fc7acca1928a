//! Any bytes as a kubeconfig, with its certificates, keys and proxy: it can be used, or an error that is
//! safe to print says why not.
#![no_main]

use libfuzzer_sys::fuzz_target;
use proxier::source::kube::fuzzing::kubeconfig;

fuzz_target!(|data: &[u8]| {
    // Files that it names are read. Those of devices and processes may have no end, and YAML can write
    // their names with a backslash.
    let text = String::from_utf8_lossy(data);
    if ["/dev", "/proc", "/sys", "..", "\\"]
        .iter()
        .any(|part| text.contains(part))
    {
        return;
    }
    if let Err(error) = kubeconfig(data) {
        fuzz::check(&error.to_string());
    }
});
