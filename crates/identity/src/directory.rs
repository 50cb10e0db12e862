//! What is known of the cluster, and the answers the hot loop asks of it.
//!
//! Owned by one thread: changes are applied to it, nothing is locked, time is an argument.

use std::{net::IpAddr, sync::Arc, time::Duration};

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
    /// Endpoints that are ready now.
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
