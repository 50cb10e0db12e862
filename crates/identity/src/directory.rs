//! What is known of the cluster, and the answers the hot loop asks of it.
//!
//! Owned by one thread: changes are applied to it, nothing is locked, time is an argument.
//!
//! **No answer is ever given about what is gone**, with one exception: a process whose pod has just been deleted is still
//! told by its control group for [`Limits::ttl`], because neither a pod's UID nor a container's id is ever given twice. An
//! address is, so it loses its name the moment its pod ends or is deleted.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use crate::{
    cgroup::{ContainerId, Origin},
    change::{Change, Kind},
};

mod claims;
mod names;
mod nodes;
mod pods;
mod services;
#[cfg(test)]
mod tests;

/// A Service's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its bare name.
    pub name: Arc<str>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its number at the Service's addresses.
    pub port: u16,
    /// Its number on every node; 0: none.
    pub node_port: u16,
    /// TCP; otherwise UDP or SCTP.
    pub tcp: bool,
}

/// A Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub key: ServiceKey,
    /// Cluster IPs (none: headless).
    pub cluster_ips: Vec<IpAddr>,
    /// External and load-balancer IPs.
    pub external_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// Endpoints that are ready now, of the address family that has more of them.
    pub ready_endpoints: usize,
    /// How long a refusal may be held back from a caller while no endpoint is ready (`gatewatch.io/hold` on the
    /// Service, as `10s`); `None`: not at all.
    pub hold: Option<Duration>,
}

/// Who owns a pod: the first controller that is not a `ReplicaSet` or `Job` made by another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Workload {
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `CronJob`, …; `Pod` for one without an owner.
    pub kind: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its owner.
    pub workload: Workload,
    /// The node it runs on; empty: none yet.
    pub node: Arc<str>,
    /// The labels chosen by configuration.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// It is in its node's network namespace: its address is the node's.
    pub host_network: bool,
}

/// What an address and a port stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// The Service.
    pub service: Option<ServiceKey>,
    /// The pod, where the address is a pod's.
    pub pod: Option<Arc<Pod>>,
    /// The node, where the address is a node's.
    pub node: Option<Arc<str>>,
}

/// How much is remembered of what is gone. Neither bounds what exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a pod that is gone is still known by its control group.
    pub ttl: Duration,
    /// How many such pods at most.
    pub capacity: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(60), capacity: 2048 }
    }
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Services.
    pub services: usize,
    /// `EndpointSlices`.
    pub slices: usize,
    /// Pods that have not ended.
    pub pods: usize,
    /// Nodes.
    pub nodes: usize,
    /// Pods that are gone, and remembered.
    pub departed: usize,
    /// Objects that were not taken because there were too many: more than any cluster has.
    pub refused: u64,
}

/// How the watch of one kind fares.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Which telling of all objects is on: what bears an older number when it ends is gone.
    round: u32,
    /// When the map was last known to be right.
    right_ns: Option<u64>,
    /// We may not see this kind, or could not at some time.
    refused: bool,
}

/// The cluster, as far as it is known.
#[derive(Debug, Default)]
pub struct Directory {
    services: services::Services,
    pods: pods::Pods,
    nodes: nodes::Nodes,
    names: names::Names,
    changed: HashSet<ServiceKey>,
    progress: [Progress; 4],
    refused: u64,
}

impl Directory {
    /// One that knows nothing yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { pods: pods::Pods::new(limits), ..Self::default() }
    }

    /// Takes one piece of news. `now_ns`: any clock that only goes forward, the same for each call.
    pub fn apply(&mut self, change: Change, now_ns: u64) {
        self.pods.expire(now_ns);
        let taken = match change {
            Change::Began(kind) => {
                let progress = self.progress_mut(kind);
                progress.round = progress.round.wrapping_add(1);
                true
            }
            Change::Complete(kind) => {
                self.sweep(kind, now_ns);
                let progress = self.progress_mut(kind);
                progress.right_ns = Some(now_ns);
                true
            }
            Change::Heard(kind) => {
                let progress = self.progress_mut(kind);
                if progress.right_ns.is_some() {
                    progress.right_ns = Some(now_ns);
                }
                true
            }
            Change::Refused(kind) => {
                self.progress_mut(kind).refused = true;
                true
            }
            Change::Service(record) => {
                let round = self.round(Kind::Service);
                self.services.put(*record, round, &mut self.names, &mut self.changed)
            }
            Change::ServiceGone(key) => {
                self.services.remove(&key, &mut self.changed);
                true
            }
            Change::Slice(record) => {
                let round = self.round(Kind::Slice);
                self.services.put_slice(*record, round, &mut self.names, &mut self.changed)
            }
            Change::SliceGone(key) => {
                self.services.remove_slice(&key, &mut self.changed);
                true
            }
            Change::Pod(record) => {
                let round = self.round(Kind::Pod);
                self.pods.put(*record, round, now_ns, &mut self.names)
            }
            Change::PodGone(key, uid) => {
                self.pods.remove(&key, Some(uid), now_ns);
                true
            }
            Change::Node(record) => {
                let round = self.round(Kind::Node);
                self.nodes.put(*record, round, &mut self.names)
            }
            Change::NodeGone(name) => {
                self.nodes.remove(&name);
                true
            }
            Change::Notice(_) => true,
        };
        if !taken {
            self.refused += 1;
        }
    }

    /// What has not been named since the telling began is gone.
    fn sweep(&mut self, kind: Kind, now_ns: u64) {
        let round = self.round(kind);
        match kind {
            Kind::Service => self.services.sweep(round, &mut self.changed),
            Kind::Slice => self.services.sweep_slices(round, &mut self.changed),
            Kind::Pod => self.pods.sweep(round, now_ns),
            Kind::Node => self.nodes.sweep(round),
        }
        self.names.sweep();
    }

    fn progress_mut(&mut self, kind: Kind) -> &mut Progress {
        let [service, slice, pod, node] = &mut self.progress;
        match kind {
            Kind::Service => service,
            Kind::Slice => slice,
            Kind::Pod => pod,
            Kind::Node => node,
        }
    }

    fn round(&mut self, kind: Kind) -> u32 {
        self.progress_mut(kind).round
    }

    /// Who a program in a pod reaches by TCP at this address: a Service by its cluster, external or load-balancer IP, or at
    /// a node's address by its node port; a pod by its own address, with the Service it serves at this port. A port that
    /// a Service does not have is not the Service's.
    #[must_use]
    pub fn destination(&self, to: SocketAddr) -> Destination {
        let (ip, port) = (to.ip().to_canonical(), to.port());
        if let Some(service) = self.services.at(ip, port) {
            return Destination { service: Some(service.clone()), ..Destination::default() };
        }
        if let Some(pod) = self.pods.at(ip) {
            let service = self.services.served_at(ip, port).cloned();
            return Destination { service, pod: Some(Arc::clone(pod)), node: None };
        }
        if let Some(node) = self.nodes.at(ip) {
            let service = self.services.at_node_port(port).or_else(|| self.services.served_at(ip, port));
            return Destination { service: service.cloned(), pod: None, node: Some(Arc::clone(node)) };
        }
        // An endpoint that is no pod of this cluster.
        let service = self.services.served_at(ip, port).cloned();
        Destination { service, ..Destination::default() }
    }

    /// The same for a program in the node's own network namespace, where loopback too has the node ports.
    #[must_use]
    pub fn destination_on_host(&self, to: SocketAddr) -> Destination {
        let ip = to.ip().to_canonical();
        if ip.is_loopback() || ip.is_unspecified() {
            let service = self.services.at_node_port(to.port()).cloned();
            return Destination { service, ..Destination::default() };
        }
        self.destination(to)
    }

    /// The pod whose own address this is. Never one in its node's network, never one that has ended.
    #[must_use]
    pub fn pod_of_address(&self, ip: IpAddr) -> Option<&Arc<Pod>> {
        self.pods.at(ip.to_canonical())
    }

    /// The pod a process of this node belongs to; also one that is gone since less than [`Limits::ttl`].
    #[must_use]
    pub fn pod_of(&self, origin: &Origin) -> Option<&Arc<Pod>> {
        let by_pod = origin.pod.as_ref().and_then(|uid| self.pods.of_uid(uid));
        by_pod.or_else(|| origin.container.as_ref().and_then(|id| self.pods.of_container(id)))
    }

    /// The pod that has this container: 64 hexadecimal digits, with or without `containerd://`. Only of this node.
    #[must_use]
    pub fn pod_of_container(&self, id: &str) -> Option<&Arc<Pod>> {
        self.pods.of_container(&ContainerId::parse(id)?)
    }

    /// The node whose address this is.
    #[must_use]
    pub fn node_of_address(&self, ip: IpAddr) -> Option<&Arc<str>> {
        self.nodes.at(ip.to_canonical())
    }

    /// The addresses of all nodes, in no order.
    pub fn node_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.addresses()
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.all()
    }

    /// One Service.
    #[must_use]
    pub fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key)
    }

    /// The Services of which something in [`Service`] has changed since the last call, that there is one or none included.
    pub fn take_changed(&mut self) -> Vec<ServiceKey> {
        self.changed.drain().collect()
    }

    /// For how long the map may have been wrong: since the API server was last heard on each kind that it lets us see. It
    /// says something about every minute, so up to that is right. `None`: the map is not complete yet.
    #[must_use]
    pub fn age_ns(&self, now_ns: u64) -> Option<u64> {
        // What could be seen once is part of the map, and grows old.
        let seen =
            || self.progress.iter().filter(|progress| !progress.refused || progress.right_ns.is_some());
        if seen().next().is_none() || seen().any(|progress| progress.right_ns.is_none()) {
            return None;
        }
        seen().filter_map(|progress| progress.right_ns).min().map(|right_ns| now_ns.saturating_sub(right_ns))
    }

    /// How much is known.
    #[must_use]
    pub fn size(&self) -> Size {
        Size {
            services: self.services.count(),
            slices: self.services.slices(),
            pods: self.pods.count(),
            nodes: self.nodes.count(),
            departed: self.pods.departed(),
            refused: self.refused,
        }
    }
}
