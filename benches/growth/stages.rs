//! Rows of the stages without I/O.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;
use proxier::Proxier;
use proxier::desired::{Config, DesiredState, Touched};
use proxier::mode::ipvs::plan::{self as ipvs, Scope};
use proxier::mode::ipvs::{FakeNode, Ipvs};
use proxier::mode::{iptables, nftables};
use proxier::reconcile::Standing;
use proxier::store::{Change, Store};
use svcproxy_benches::{Cluster, config};

use crate::measure::{Cost, measure};
use crate::row::{COMPARED, FLAT, GROWTH, LINEAR, Needs, Row, Sample, Size, of};
use crate::{Result, some};

/// Changes whose mean counts, after as many that do not: the allocator and the tables have grown then.
const CHANGES: usize = 200;

const SCALED: &[Size] = &[of(500), of(1_000), of(2_500), of(5_000)];
const RANGES: &[Size] = &[of(1_000), of(2_500), of(5_000), of(10_000)];

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "store-and-desired",
        about: "from a list's objects to the desired state",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: store_and_desired,
    },
    Row {
        name: "plan-ipvs",
        about: "first plan, mode ipvs",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: first_plan::<ForIpvs>,
    },
    Row {
        name: "plan-nftables",
        about: "first plan, mode nftables",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: first_plan::<ForNftables>,
    },
    Row {
        name: "plan-iptables",
        about: "first plan and its text, mode iptables",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: first_plan::<ForIptables>,
    },
    Row {
        name: "routes-ipvs",
        about: "first plan without Service CIDRs, mode ipvs: a route for each cluster IP",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: plan_with_routes,
    },
    Row {
        name: "right-ipvs",
        about: "plan onto a node that is right, mode ipvs",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: right::<ForIpvs>,
    },
    Row {
        name: "right-nftables",
        about: "plan onto a node that is right, mode nftables",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: right::<ForNftables>,
    },
    Row {
        name: "right-iptables",
        about: "plan onto a node that is right, mode iptables",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: right::<ForIptables>,
    },
    Row {
        name: "change-ipvs",
        about: "one endpoint of one Service, mode ipvs",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: FLAT,
        needs: Needs::Nothing,
        run: one_change::<ForIpvs>,
    },
    Row {
        name: "change-nftables",
        about: "one endpoint of one Service, mode nftables",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: FLAT,
        needs: Needs::Nothing,
        run: one_change::<ForNftables>,
    },
    Row {
        name: "change-iptables",
        about: "one endpoint of one Service, mode iptables",
        sizes_of: "Services × 3",
        sizes: GROWTH,
        goal: FLAT,
        needs: Needs::Nothing,
        run: one_change::<ForIptables>,
    },
    Row {
        name: "all-change-ipvs",
        about: "one endpoint of every Service in one sync, mode ipvs",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: all_change::<ForIpvs>,
    },
    Row {
        name: "all-change-nftables",
        about: "one endpoint of every Service in one sync, mode nftables",
        sizes_of: "Services × 3",
        sizes: COMPARED,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: all_change::<ForNftables>,
    },
    Row {
        name: "scale-ipvs",
        about: "one Service from no endpoint to all and back, slice by slice of 100, mode ipvs",
        sizes_of: "endpoints",
        sizes: SCALED,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: scale::<ForIpvs>,
    },
    Row {
        name: "scale-nftables",
        about: "one Service from no endpoint to all and back, slice by slice of 100, mode nftables",
        sizes_of: "endpoints",
        sizes: SCALED,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: scale::<ForNftables>,
    },
    Row {
        name: "jump-ipvs",
        about: "one Service from no endpoint to all and back, in one sync each, mode ipvs",
        sizes_of: "endpoints",
        sizes: SCALED,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: jump::<ForIpvs>,
    },
    Row {
        name: "jump-nftables",
        about: "one Service from no endpoint to all and back, in one sync each, mode nftables",
        sizes_of: "endpoints",
        sizes: SCALED,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: jump::<ForNftables>,
    },
    Row {
        name: "ranges-ipvs",
        about: "one source range more or less of a Service that has so many, mode ipvs",
        sizes_of: "source ranges",
        sizes: RANGES,
        goal: FLAT,
        needs: Needs::Nothing,
        run: one_range::<ForIpvs>,
    },
    Row {
        name: "ranges-nftables",
        about: "one source range more or less of a Service that has so many, mode nftables",
        sizes_of: "source ranges",
        sizes: RANGES,
        goal: FLAT,
        needs: Needs::Nothing,
        run: one_range::<ForNftables>,
    },
    Row {
        name: "claims",
        about: "all Services claim one external IP and port: first sync and its conditions",
        sizes_of: "Services",
        sizes: GROWTH,
        goal: LINEAR,
        needs: Needs::Nothing,
        run: claims,
    },
];

/// A mode without its kernel.
trait Mode {
    type Node: Default;

    /// Plans and records. Returns the number of steps.
    fn sync(desired: &DesiredState, node: &mut Self::Node, scope: Scope<'_>) -> usize;
}

struct ForIpvs;

impl Mode for ForIpvs {
    type Node = ipvs::NodeState;

    fn sync(desired: &DesiredState, node: &mut Self::Node, scope: Scope<'_>) -> usize {
        let plan = ipvs::Plan::new(desired, node, scope);
        node.record(&plan, &[]);
        plan.steps().len()
    }
}

struct ForNftables;

impl Mode for ForNftables {
    type Node = nftables::NodeState;

    fn sync(desired: &DesiredState, node: &mut Self::Node, scope: Scope<'_>) -> usize {
        let plan = nftables::Plan::new(desired, node, scope);
        node.record(&plan, &[]);
        plan.steps().len()
    }
}

struct ForIptables;

impl Mode for ForIptables {
    type Node = iptables::NodeState;

    /// Writes the texts for iptables-restore, too.
    fn sync(desired: &DesiredState, node: &mut Self::Node, scope: Scope<'_>) -> usize {
        let plan = iptables::Plan::new(desired, node, scope);
        let lines = plan.steps().iter().map(|step| match step {
            iptables::Step::Restore(transaction) => transaction.to_string().lines().count(),
            _ => 1,
        });
        let lines = lines.sum();
        node.record(&plan, &[]);
        lines
    }
}

/// A cluster that is in effect on a node.
struct World<M: Mode> {
    cluster: Cluster,
    store: Store,
    desired: DesiredState,
    node: M::Node,
}

impl<M: Mode> World<M> {
    fn new(Size { count, endpoints }: Size) -> Result<Self> {
        Ok(Self::of(Cluster::new(count, endpoints)?))
    }

    fn of(cluster: Cluster) -> Self {
        let store = cluster.store();
        let desired = DesiredState::from_store(config(), &store);
        let mut node = M::Node::default();
        M::sync(&desired, &mut node, Scope::Full);
        Self {
            cluster,
            store,
            desired,
            node,
        }
    }

    /// Applies changes in one sync. Returns the number of steps.
    fn handle(&mut self, changes: impl IntoIterator<Item = Change>) -> usize {
        let mut touched = Touched::default();
        for change in changes {
            self.store.apply(change);
        }
        for name in self.store.take_touched() {
            let service = self.store.get(&name);
            self.desired.update(&name, service, &mut touched);
        }
        M::sync(&self.desired, &mut self.node, Scope::Touched(&touched))
    }

    /// The mean cost of changes that alternate.
    fn mean(&mut self, changes: impl Iterator<Item = Change>) -> Result<Cost> {
        let mut changes = changes.take(2 * CHANGES).collect::<Vec<_>>().into_iter();
        let mut steps = 0;
        for change in changes.by_ref().take(CHANGES) {
            steps += self.handle([change]);
        }
        let (counted, cost) = measure(|| changes.map(|change| self.handle([change])).sum());
        some(steps.min(counted))?;
        Ok(cost.each(u64::try_from(CHANGES)?))
    }
}

fn store_and_desired(Size { count, endpoints }: Size) -> Result<Sample> {
    let changes = Cluster::new(count, endpoints)?.changes();
    let (state, cost) = measure(|| {
        let mut store = Store::default();
        changes.into_iter().for_each(|change| store.apply(change));
        let desired = DesiredState::from_store(config(), &store);
        (store, desired)
    });
    some(state.1.frontends().count())?;
    Ok(cost.into())
}

fn first_plan<M: Mode>(Size { count, endpoints }: Size) -> Result<Sample> {
    let store = Cluster::new(count, endpoints)?.store();
    plan_of::<M>(&DesiredState::from_store(config(), &store))
}

fn plan_with_routes(Size { count, endpoints }: Size) -> Result<Sample> {
    let store = Cluster::new(count, endpoints)?.store();
    let mut config = Config::clone(&config());
    config.service_cidrs.clear();
    plan_of::<ForIpvs>(&DesiredState::from_store(Arc::new(config), &store))
}

fn plan_of<M: Mode>(desired: &DesiredState) -> Result<Sample> {
    let mut node = M::Node::default();
    let (steps, cost) = measure(|| M::sync(desired, &mut node, Scope::Full));
    some(steps)?;
    Ok(cost.into())
}

fn right<M: Mode>(size: Size) -> Result<Sample> {
    let mut world = World::<M>::new(size)?;
    let (steps, cost) = measure(|| M::sync(&world.desired, &mut world.node, Scope::Full));
    if steps > 0 {
        return Err(format!("{steps} steps on a node that is right").into());
    }
    Ok(cost.into())
}

fn one_change<M: Mode>(size: Size) -> Result<Sample> {
    let mut world = World::<M>::new(size)?;
    let changes = world.cluster.flapping();
    let changes = changes.take(2 * CHANGES).collect::<Vec<_>>().into_iter();
    Ok(world.mean(changes)?.into())
}

fn all_change<M: Mode>(size: Size) -> Result<Sample> {
    let mut world = World::<M>::new(size)?;
    let changes = world.cluster.slices.iter().map(|slice| {
        let mut slice = slice.clone();
        slice.endpoints = slice.endpoints.iter().skip(1).cloned().collect();
        Change::EndpointSliceApplied(slice)
    });
    let changes: Vec<_> = changes.collect();
    let (steps, cost) = measure(|| world.handle(changes));
    some(steps)?;
    Ok(cost.into())
}

/// One Service of a cluster, and its slices of a hundred endpoints.
fn giant<M: Mode>(endpoints: u32) -> Result<(World<M>, Vec<Change>)> {
    const EACH: usize = 100;
    let mut cluster = Cluster::new(1, endpoints)?;
    let all = cluster.slices.pop().ok_or("the cluster has no slice")?;
    let parts = all.endpoints.chunks(EACH).enumerate().map(|(n, part)| {
        let name = format!("giant-{n}");
        let name = proxier::model::ObjectName::new("team-0", &name)?;
        let mut slice = all.clone();
        slice.name = name;
        slice.endpoints = part.into();
        Ok(Change::EndpointSliceApplied(slice))
    });
    let parts = parts.collect::<Result<_>>()?;
    Ok((World::of(cluster), parts))
}

/// The opposite of a change of [`giant`].
fn removal(change: &Change) -> Option<Change> {
    match change {
        Change::EndpointSliceApplied(slice) => {
            Some(Change::EndpointSliceDeleted(slice.name.clone()))
        }
        _ => None,
    }
}

fn scale<M: Mode>(size: Size) -> Result<Sample> {
    let (mut world, there) = giant::<M>(size.count)?;
    let back: Vec<_> = there.iter().rev().filter_map(removal).collect();
    let changes = there.into_iter().chain(back);
    let changes = changes.collect::<Vec<_>>().into_iter();
    let (steps, cost) = measure(|| changes.map(|change| world.handle([change])).sum());
    some(steps)?;
    Ok(cost.into())
}

fn jump<M: Mode>(size: Size) -> Result<Sample> {
    let (mut world, there) = giant::<M>(size.count)?;
    let back: Vec<_> = there.iter().filter_map(removal).collect();
    let (steps, cost) = measure(|| world.handle(there) + world.handle(back));
    some(steps)?;
    Ok(cost.into())
}

fn one_range<M: Mode>(size: Size) -> Result<Sample> {
    let mut cluster = Cluster::new(1, 3)?;
    let ranges = (0..size.count).map(|n| {
        // Not adjacent: those would be one.
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(20, 0, 0, 0).to_bits() + 2 * n);
        IpNet::from(IpAddr::from(address))
    });
    let ranges: Vec<_> = ranges.collect();
    let all = cluster.services.iter_mut().map(|service| {
        service.load_balancer_ips = [Ipv4Addr::new(203, 0, 113, 1).into()].into();
        service.load_balancer_source_ranges = ranges.clone().into();
        let mut less = service.clone();
        less.load_balancer_source_ranges = ranges.iter().skip(1).copied().collect();
        [less, service.clone()]
    });
    let versions: Vec<_> = all.flatten().map(Change::ServiceApplied).collect();
    let mut world = World::<M>::of(cluster);
    Ok(world.mean(versions.into_iter().cycle())?.into())
}

fn claims(size: Size) -> Result<Sample> {
    let mut cluster = Cluster::new(size.count, 0)?;
    let external = IpAddr::from(Ipv4Addr::new(203, 0, 113, 9));
    for service in &mut cluster.services {
        service.external_ips = [external].into();
    }
    let changes = cluster.changes();
    let kernel = FakeNode::default().kernel()?;
    let mut proxier = Proxier::new(config(), Ipvs::new(kernel));
    let mut standing = Standing::default();
    let (conditions, cost) = measure(|| {
        let report = proxier.handle(changes)?;
        let report = report.ok_or("nothing was synced")?;
        Result::Ok(standing.follow(&proxier, &report.concerned).len())
    });
    let others = usize::try_from(size.count)?.saturating_sub(1);
    let conditions = conditions?;
    if conditions != others {
        return Err(format!("{conditions} conditions of {others}").into());
    }
    Ok(cost.into())
}
