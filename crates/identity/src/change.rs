//! What the watch tells the directory: slim copies of the cluster's objects, and how the watch itself fares.
//!
//! What crosses is bounded and checked: addresses are addresses, no list is longer than the limits here, whatever an API
//! server sends.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::{
    cgroup::{ContainerId, Uid},
    directory::{Pod, ServiceKey, ServicePort},
};

/// The longest name of anything in Kubernetes.
pub const NAME_MAX: usize = 253;
/// Addresses kept of one object.
pub const ADDRESSES_MAX: usize = 64;
/// Ports kept of one Service or `EndpointSlice`.
pub const PORTS_MAX: usize = 1024;
/// Endpoints kept of one `EndpointSlice`: as many as Kubernetes allows.
pub const ENDPOINTS_MAX: usize = 1000;
/// Containers kept of one pod.
pub const CONTAINERS_MAX: usize = 256;

/// The kinds of object that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Services.
    Service,
    /// `discovery.k8s.io/v1` `EndpointSlices`.
    Slice,
    /// `v1` Pods.
    Pod,
    /// `v1` Nodes.
    Node,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Service, Self::Slice, Self::Pod, Self::Node];

    /// As in an API path and in a role's rules.
    #[must_use]
    pub const fn resource(self) -> &'static str {
        match self {
            Self::Service => "services",
            Self::Slice => "endpointslices",
            Self::Pod => "pods",
            Self::Node => "nodes",
        }
    }
}

/// An object of a namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// A Service as its object tells of it. What its endpoints are is told by slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Its name.
    pub key: ServiceKey,
    /// Seconds since 1970 at which it was created.
    pub created: i64,
    /// Cluster IPs (none: headless, or `ExternalName`).
    pub cluster_ips: Vec<IpAddr>,
    /// External IPs: anybody who may write a Service can claim any address with these.
    pub external_ips: Vec<IpAddr>,
    /// What its load balancer says it has.
    pub balancer_ips: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The annotation, understood and capped.
    pub hold: Option<Duration>,
}

/// Some of a Service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceRecord {
    /// The slice's own name.
    pub key: ObjectKey,
    /// The Service's bare name, in the same namespace.
    pub service: Arc<str>,
    /// Address, and whether it is ready.
    pub endpoints: Vec<(IpAddr, bool)>,
    /// TCP ports of each; 0: every port.
    pub ports: Vec<u16>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRecord {
    /// What is told of it to others.
    pub pod: Pod,
    /// By this it is told apart from an earlier pod of the same name.
    pub uid: Uid,
    /// What its control group is named by, where that is not `uid`: a static pod's.
    pub static_uid: Option<Uid>,
    /// Seconds since 1970 at which it was created.
    pub created: i64,
    /// Grows with each change of an object.
    pub version: u64,
    /// Its own addresses: none while it has none, none in the node's network, none when it has ended.
    pub addresses: Vec<IpAddr>,
    /// Its containers, where it runs on this node.
    pub containers: Vec<ContainerId>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// Its name.
    pub name: Arc<str>,
    /// Internal and external addresses.
    pub addresses: Vec<IpAddr>,
}

/// One piece of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// All objects of a kind are told anew, for the first time or because the thread was lost.
    Began(Kind),
    /// They have all been told: what was not named since is gone.
    Complete(Kind),
    /// The API server was heard on this kind, and had nothing more to say.
    Heard(Kind),
    /// The API server does not let us see this kind. The rest goes on.
    Refused(Kind),
    /// A Service is new or has changed.
    Service(Box<ServiceRecord>),
    /// A Service is gone.
    ServiceGone(ServiceKey),
    /// A slice is new or has changed.
    Slice(Box<SliceRecord>),
    /// A slice is gone.
    SliceGone(ObjectKey),
    /// A pod is new or has changed.
    Pod(Box<PodRecord>),
    /// A pod is gone, or has ended.
    PodGone(ObjectKey, Uid),
    /// A node is new or has changed.
    Node(Box<NodeRecord>),
    /// A node is gone.
    NodeGone(Arc<str>),
    /// For the log; changes nothing. Said once for each cause, not for each time.
    Notice(String),
}
