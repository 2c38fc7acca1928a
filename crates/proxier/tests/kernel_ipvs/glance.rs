//! The look at all real servers, in `/proc/net/ip_vs`.

use super::*;

#[path = "../glance/mod.rs"]
mod both;

#[test]
#[ignore = "kernel: needs IPVS"]
fn a_look_finds_what_another_program_changed() {
    load_modules();
    let topology = Topology::new("glance", &[1]).unwrap();
    topology.node().host.enter(|| {
        let mut kernel = IpvsKernel::open().unwrap();
        both::finds_changes(&mut kernel, &mut ipvs::Client::open().unwrap());
    });
    // The same virtual servers in another network namespace do not count.
    let other = Topology::new("glances", &[1]).unwrap();
    other.node().host.enter(|| {
        let mut kernel = IpvsKernel::open().unwrap();
        both::finds_changes(&mut kernel, &mut ipvs::Client::open().unwrap());
    });
}
