//! From exchanges on sockets to series: whose they are, whether they are requests at all, and each counted once.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use gatewatch_event::{Exchange, request::Method};
use gatewatch_insight::{
    demand::Callee,
    exchanges::{
        Bounds, Exchanges, Observation, Outcome,
        hops::{self, Counted, Hops},
    },
    health::HealthChecks,
};

use crate::node::cluster::Cluster;

/// Network namespaces remembered to have a sidecar.
const MESHED_MAX: usize = 10_000;
/// How long a series without requests is kept.
const IDLE_NS: u64 = 3_600_000_000_000;

/// Where exchanges are served.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its own address and the caller's, where a socket is known.
    ends: Option<(SocketAddr, SocketAddr)>,
    /// The caller's address as it is written, once for all requests of a connection.
    source: Arc<str>,
    /// Its process.
    pub comm: Arc<str>,
    /// The network namespace it is in; 0: not known.
    pub network_namespace: u32,
}

impl Server {
    /// A process of this name, in this network namespace.
    pub fn new(comm: Arc<str>, network_namespace: u32) -> Self {
        Self { ends: None, source: Arc::from(""), comm, network_namespace }
    }

    /// The addresses of its socket, its own and the caller's.
    pub fn at(&mut self, local: SocketAddr, remote: SocketAddr) {
        self.ends = Some((local, remote));
        self.source = remote.ip().to_string().into();
    }

    /// Its socket is known.
    pub fn has_ends(&self) -> bool {
        self.ends.is_some()
    }
}

/// What stands in no series of requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Apart {
    /// Health checks.
    pub health_checks: u64,
    /// Hops within a mesh.
    pub hops: u64,
    /// Answers whose requests were not seen.
    pub unseen: u64,
}

/// One that was served, until it is counted.
struct Served {
    server: Server,
    exchange: Exchange,
}

/// The count.
pub struct Count {
    /// The series.
    pub exchanges: Exchanges,
    /// What stands in none.
    pub apart: Apart,
    hops: Hops<Served>,
    health: HealthChecks,
    meshed: HashSet<u32>,
    by_workload: bool,
}

impl Count {
    /// Nothing yet. `by_workload`: sources are workloads, where they are known.
    pub fn new(bounds: Bounds, health: HealthChecks, by_workload: bool) -> Self {
        Self {
            exchanges: Exchanges::new(bounds),
            apart: Apart::default(),
            hops: Hops::default(),
            health,
            meshed: HashSet::new(),
            by_workload,
        }
    }

    /// A process that speaks HTTP was met.
    pub fn met(&mut self, server: &Server) {
        if hops::is_proxy(&server.comm) && self.meshed.len() < MESHED_MAX {
            self.meshed.insert(server.network_namespace);
        }
    }

    /// A request was served.
    pub fn served(&mut self, server: &Server, exchange: Exchange, now_ns: u64, cluster: Option<&Cluster>) {
        if self.health.is(&exchange) {
            self.apart.health_checks += 1;
            return;
        }
        let place = server.ends.map_or(hops::Place::Plain, |(local, remote)| {
            let meshed = self.meshed.contains(&server.network_namespace);
            hops::place(&server.comm, remote.ip(), &[local.ip()], meshed)
        });
        let served = Served { server: server.clone(), exchange };
        if place == hops::Place::Plain {
            self.count(served, None, now_ns, cluster);
            return;
        }
        let pod: Arc<str> = server.network_namespace.to_string().into();
        let exchange = served.exchange.clone();
        let mut counted = Vec::new();
        self.hops.add(&pod, place, &exchange, served, now_ns, &mut |one| counted.push(one));
        counted.into_iter().for_each(|one| self.settle(one, now_ns, cluster));
    }

    /// Time has passed.
    pub fn tick(&mut self, now_ns: u64, cluster: Option<&Cluster>) {
        if self.hops.waiting() > 0 {
            let mut counted = Vec::new();
            self.hops.tick(now_ns, &mut |one| counted.push(one));
            counted.into_iter().for_each(|one| self.settle(one, now_ns, cluster));
        }
    }

    /// Lets go of series that have long been quiet.
    pub fn forget(&mut self, now_ns: u64) {
        self.exchanges.forget(now_ns.saturating_sub(IDLE_NS));
    }

    fn settle(&mut self, counted: Counted<Served>, now_ns: u64, cluster: Option<&Cluster>) {
        match counted {
            Counted::Request(served) => self.count(served, None, now_ns, cluster),
            Counted::Both { inner, outer } => {
                self.apart.hops += 1;
                let source = outer.server.ends.map(|(_, remote)| remote.ip());
                self.count(inner, source, now_ns, cluster);
            }
            Counted::Hop(_) => self.apart.hops += 1,
        }
    }

    /// `source`: the caller, where the server itself does not know it.
    fn count(&mut self, served: Served, source: Option<IpAddr>, now_ns: u64, cluster: Option<&Cluster>) {
        let Served { server, exchange } = served;
        if exchange.method == Method::Unknown {
            self.apart.unseen += 1;
            return;
        }
        let remote = source.or(server.ends.map(|(_, remote)| remote.ip()));
        let workload = match self.by_workload {
            true => cluster.zip(remote).and_then(|(cluster, ip)| cluster.workload(ip)),
            false => None,
        };
        let written = workload.or_else(|| source.map(|ip| ip.to_string()));
        let callee: Callee = cluster
            .zip(server.ends)
            .map(|(cluster, (local, _))| cluster.server(local, server.network_namespace))
            .unwrap_or_default();
        let observation = Observation {
            source: written.as_deref().unwrap_or(&server.source),
            namespace: &callee.namespace,
            service: &callee.service,
            pod: &callee.pod,
            method: exchange.method,
            path: &exchange.path,
            comm: &server.comm,
            outcome: Outcome::of(&exchange),
            duration_ns: exchange.duration_ns(),
            request_bytes: exchange.request_bytes,
            response_bytes: exchange.response_bytes,
        };
        self.exchanges.observe(&observation, now_ns);
    }
}
