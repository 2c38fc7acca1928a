//! Removing what kube-proxy left, in network namespaces of this machine.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use proxier::backend::KubeProxy;
use testbed::Namespace;

fn namespace() -> Namespace {
    Namespace::new("kube-proxy").unwrap()
}

#[test]
#[ignore = "netns: needs root"]
fn tables_of_the_nftables_mode_go_and_others_stay() {
    let namespace = namespace();
    let others = "table ip kube-proxy-like {\n}\ntable inet kube-proxy {\n}\n";
    namespace
        .run_with_input(["nft", "-f", "-"], others)
        .unwrap();
    let before = namespace.run(["nft", "list", "ruleset"]).unwrap();
    let theirs = "table ip kube-proxy {\n chain nat-prerouting {\n type nat hook prerouting priority -100;\n }\n}\ntable ip6 kube-proxy {\n}\n";
    namespace
        .run_with_input(["nft", "-f", "-"], theirs)
        .unwrap();
    let removal = namespace.enter(|| KubeProxy::open().unwrap().remove());
    assert!(removal.is_complete(), "{removal:?}");
    assert_eq!(removal.removed.nftables_tables, 2);
    assert_eq!(namespace.run(["nft", "list", "ruleset"]).unwrap(), before);
    let removal = namespace.enter(|| KubeProxy::open().unwrap().remove());
    assert!(removal.is_complete(), "{removal:?}");
    assert_eq!(removal.removed, Default::default());
}
