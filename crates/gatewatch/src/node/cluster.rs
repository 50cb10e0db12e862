//! What the hot loop knows of the cluster.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    os::linux::fs::MetadataExt as _,
    sync::Arc,
    time::Duration,
};

use gatewatch_config::{Config, Mode};
use gatewatch_event::Attempt;
use gatewatch_export::node;
use gatewatch_identity::{
    change::{Change, Kind},
    directory::{Destination, Directory, Limits, Service, ServiceKey},
    watch::{self, WatchSettings},
};
use gatewatch_insight::demand::Callee;
use tokio::sync::mpsc;

use super::{bell::Bell, hold::Wanted};

/// Changes that wait for the hot loop.
const WAITING: usize = 4096;
/// Changes taken at once: attempts are waiting, too.
const BATCH: usize = 8192;
/// Node ports held at most, each counted at each node's address: half of what the kernel programs have room for.
const NODE_PORTS: usize = 4096;

/// The cluster, as far as it is known.
pub struct Cluster {
    directory: Directory,
    changes: mpsc::Receiver<Change>,
    /// The only one that is watched.
    namespace: Option<String>,
    host_namespace: u32,
    began_ns: u64,
}

/// What is new.
#[derive(Debug, Default)]
pub struct News {
    /// Services that came, went or changed.
    pub services: Vec<ServiceKey>,
    /// Nodes may have come, gone or changed.
    pub nodes: bool,
    /// For the log.
    pub notices: Vec<String>,
    /// There may be more at once.
    pub more: bool,
}

impl Cluster {
    /// Begins to follow the API server, in tasks of `runtime`; `None`: there is no cluster.
    pub fn follow(config: &Config, bell: &Arc<Bell>, runtime: &tokio::runtime::Handle) -> Option<Self> {
        let node = &config.node;
        if node.mode == Mode::Local {
            return None;
        }
        let settings = watch_settings(config);
        let namespace = settings.namespace.clone();
        let (watch, mut told) = watch::start(settings);
        runtime.spawn(watch);
        let (sender, changes) = mpsc::channel(WAITING);
        let bell = Arc::clone(bell);
        runtime.spawn(async move {
            while let Some(change) = told.next().await {
                if sender.send(change).await.is_err() {
                    return;
                }
                bell.ring();
            }
        });
        let limits = Limits {
            ttl: node.mapper.ttl,
            capacity: usize::try_from(node.mapper.capacity).unwrap_or(usize::MAX),
        };
        // The machine's own network namespace is that of its first process.
        let of = |path: &str| std::fs::metadata(path).ok().and_then(|meta| u32::try_from(meta.st_ino()).ok());
        let host_namespace = of("/proc/1/ns/net").or_else(|| of("/proc/self/ns/net")).unwrap_or_default();
        Some(Self {
            directory: Directory::new(limits),
            changes,
            namespace,
            host_namespace,
            began_ns: gatewatch_capture::clock::monotonic(),
        })
    }

    /// Takes what the API server told.
    pub fn catch_up(&mut self, now_ns: u64) -> News {
        let mut news = News::default();
        for taken in 0..=BATCH {
            let Ok(change) = self.changes.try_recv() else { break };
            news.nodes |=
                matches!(change, Change::Node(_) | Change::NodeGone(_) | Change::Complete(Kind::Node));
            if let Change::Notice(text) = change {
                news.notices.push(text);
            } else {
                self.directory.apply(change, now_ns);
            }
            news.more = taken == BATCH;
        }
        news.services = self.directory.take_changed();
        news
    }

    /// All of the cluster has been read once.
    pub fn is_known(&self, now_ns: u64) -> bool {
        self.directory.age_ns(now_ns).is_some()
    }

    /// The namespace to be watched, when there is nothing in it: the API server lists one that does not exist as empty.
    pub fn empty_namespace(&self) -> Option<&str> {
        let size = self.directory.size();
        self.namespace.as_deref().filter(|_| size.services == 0 && size.pods == 0)
    }

    /// The names.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Who is called by an attempt.
    pub fn callee(&self, attempt: &Attempt) -> Callee {
        let on_host = attempt.caller.network_namespace == self.host_namespace;
        callee(match on_host {
            true => self.directory.destination_on_host(attempt.asked),
            false => self.directory.destination(attempt.asked),
        })
    }

    /// Who serves at this address of a socket.
    pub fn server(&self, at: SocketAddr, network_namespace: u32) -> Callee {
        callee(match network_namespace == self.host_namespace {
            true => self.directory.destination_on_host(at),
            false => self.directory.destination(at),
        })
    }

    /// The workload whose pod has this address, as `namespace/name`.
    pub fn workload(&self, ip: IpAddr) -> Option<String> {
        let pod = self.directory.pod_of_address(ip)?;
        Some(format!("{}/{}", pod.namespace, pod.workload.name))
    }

    /// The addresses whose Services ask for the first request's hold.
    pub fn wanted_holds(&self) -> Vec<Wanted> {
        holds(&self.directory)
    }

    /// For the metrics.
    pub fn told(&self, now_ns: u64) -> node::Cluster {
        let size = self.directory.size();
        let age_ns = self.directory.age_ns(now_ns);
        node::Cluster {
            synced: age_ns.is_some(),
            // One that was never heard is as old as we are.
            age_ns: age_ns.unwrap_or_else(|| now_ns.saturating_sub(self.began_ns)),
            services: size.services,
            pods: size.pods,
        }
    }
}

/// The addresses whose Services ask for the hold: cluster, external and load balancer IPs, and node ports at all nodes.
fn holds(directory: &Directory) -> Vec<Wanted> {
    let asks = |service: &&Service| service.hold.is_some_and(|limit| limit > Duration::ZERO);
    let (mut wanted, mut node_ports) = (Vec::new(), Vec::new());
    for service in directory.services().filter(asks) {
        let (limit, ready) = (service.hold.unwrap_or_default(), service.ready_endpoints > 0);
        let at = |ip: IpAddr, port| Wanted { address: (ip, port).into(), limit, ready };
        for port in service.ports.iter().filter(|port| port.tcp) {
            let ips = service.cluster_ips.iter().chain(&service.external_ips);
            wanted.extend(ips.map(|ip| at(*ip, port.port)));
            if port.node_port != 0 {
                node_ports.push((port.node_port, limit, ready));
            }
        }
    }
    let nodes: BTreeSet<IpAddr> = directory.node_addresses().collect();
    if nodes.len().saturating_mul(node_ports.len()) <= NODE_PORTS {
        let at = |ip: IpAddr| {
            let held = move |&(port, limit, ready)| Wanted { address: (ip, port).into(), limit, ready };
            node_ports.iter().map(held)
        };
        wanted.extend(nodes.into_iter().flat_map(at));
    }
    wanted.sort_unstable_by_key(|wanted| wanted.address);
    wanted
}

/// What is followed of the cluster.
pub fn watch_settings(config: &Config) -> WatchSettings {
    let node = &config.node;
    WatchSettings {
        namespace: (!node.watch_namespace.is_empty()).then(|| node.watch_namespace.clone()),
        labels: node.mapper.labels.iter().map(|label| Arc::from(label.as_str())).collect(),
        node: std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty()),
        ..WatchSettings::default()
    }
}

/// A Service's series, by its name.
pub fn service(key: &ServiceKey) -> Callee {
    Callee { namespace: Arc::clone(&key.namespace), service: Arc::clone(&key.name), pod: Arc::default() }
}

/// What a destination is called in series.
fn callee(destination: Destination) -> Callee {
    let Destination { service, pod, node: _ } = destination;
    let namespace = service.as_ref().map(|key| &key.namespace).or(pod.as_ref().map(|pod| &pod.namespace));
    Callee {
        namespace: namespace.cloned().unwrap_or_default(),
        service: service.as_ref().map(|key| Arc::clone(&key.name)).unwrap_or_default(),
        pod: pod.as_ref().map(|pod| Arc::clone(&pod.name)).unwrap_or_default(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]
mod tests;
