//! Services, their addresses, and their endpoints.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use super::{Service, ServiceKey, claims::Claims, names::Names};
use crate::change::{ObjectKey, ServiceRecord, SliceRecord};

/// More than any cluster has.
const LIMIT: usize = 100_000;
const SLICES: usize = 200_000;
/// Pairs of address and port.
const CLAIMS: usize = 1_000_000;

/// How good a Service's right to an address is. The API server gives cluster IPs; anybody who may write a Service can name
/// another's address as external, and shall not get its calls' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Right {
    Cluster,
    Balancer,
    External,
}

/// At one right, the older Service has the better one.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    right: Right,
    created: i64,
    key: ServiceKey,
}

/// An address and a port. (A `SocketAddr` takes 32 bytes, this 20.)
type Place = (IpAddr, u16);

#[derive(Debug)]
struct Known {
    service: Service,
    created: i64,
    claims: Box<[(Place, Right)]>,
    round: u32,
}

/// One slice, kept with the others of its Service.
#[derive(Debug)]
struct Slice {
    endpoints: Box<[(IpAddr, bool)]>,
    ports: Box<[u16]>,
    ready: [usize; 2],
    round: u32,
}

#[derive(Debug)]
pub(super) struct Services {
    services: HashMap<ServiceKey, Known>,
    at: Claims<Place, Claim>,
    node_ports: Claims<u16, Claim>,
    /// Slices by the Service they name, which may not be known (yet).
    slices: HashMap<ServiceKey, BTreeMap<Arc<str>, Slice>>,
    /// Which Service a slice names.
    named: HashMap<ObjectKey, Arc<str>>,
    served: Claims<Place, ServiceKey>,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            services: HashMap::new(),
            at: Claims::new(CLAIMS),
            node_ports: Claims::new(CLAIMS),
            slices: HashMap::new(),
            named: HashMap::new(),
            served: Claims::new(CLAIMS),
        }
    }
}

impl Services {
    /// Whether there was room for it.
    pub(super) fn put(
        &mut self,
        record: ServiceRecord,
        round: u32,
        names: &mut Names,
        changed: &mut HashSet<ServiceKey>,
    ) -> bool {
        let ServiceRecord { mut key, created, cluster_ips, mut external_ips, balancer_ips, ports, hold } =
            record;
        names.share(&mut key.namespace);
        let rights = [
            (Right::Cluster, &cluster_ips),
            (Right::Balancer, &balancer_ips),
            (Right::External, &external_ips),
        ];
        let tcp = || ports.iter().filter(|port| port.tcp);
        let claims: Box<[(Place, Right)]> = rights
            .iter()
            .flat_map(|(right, ips)| ips.iter().map(|ip| (*right, *ip)))
            .flat_map(|(right, ip)| tcp().map(move |port| ((ip, port.port), right)))
            .collect();
        external_ips.extend(balancer_ips);
        let ready_endpoints = self.ready(&key);
        let service = Service { key: key.clone(), cluster_ips, external_ips, ports, ready_endpoints, hold };
        if let Some(known) = self.services.get_mut(&key)
            && known.service == service
            && known.claims == claims
            && known.created == created
        {
            known.round = round;
            return true;
        }
        self.drop_claims(&key);
        if self.services.len() >= LIMIT && !self.services.contains_key(&key) {
            return false;
        }
        for (place, right) in &claims {
            self.at.add(*place, Claim { right: *right, created, key: key.clone() });
        }
        for port in service.ports.iter().filter(|port| port.tcp && port.node_port != 0) {
            self.node_ports.add(port.node_port, Claim { right: Right::Cluster, created, key: key.clone() });
        }
        changed.insert(key.clone());
        self.services.insert(key, Known { service, created, claims, round });
        true
    }

    fn drop_claims(&mut self, key: &ServiceKey) {
        let Some(known) = self.services.get(key) else { return };
        for (place, right) in &known.claims {
            self.at.remove(*place, &Claim { right: *right, created: known.created, key: key.clone() });
        }
        for port in &known.service.ports {
            let claim = Claim { right: Right::Cluster, created: known.created, key: key.clone() };
            self.node_ports.remove(port.node_port, &claim);
        }
    }

    pub(super) fn remove(&mut self, key: &ServiceKey, changed: &mut HashSet<ServiceKey>) {
        self.drop_claims(key);
        if self.services.remove(key).is_some() {
            changed.insert(key.clone());
        }
    }

    pub(super) fn sweep(&mut self, round: u32, changed: &mut HashSet<ServiceKey>) {
        let old = self.services.iter().filter(|(_, known)| known.round != round);
        let gone: Vec<_> = old.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key, changed);
        }
    }

    /// Whether there was room for it.
    pub(super) fn put_slice(
        &mut self,
        record: SliceRecord,
        round: u32,
        names: &mut Names,
        changed: &mut HashSet<ServiceKey>,
    ) -> bool {
        let SliceRecord { mut key, service: mut name, endpoints, ports } = record;
        names.share(&mut key.namespace);
        names.share(&mut name);
        let service = ServiceKey { namespace: Arc::clone(&key.namespace), name };
        let ready = |v4: bool| endpoints.iter().filter(|(ip, ready)| *ready && ip.is_ipv4() == v4).count();
        let slice = Slice {
            ready: [ready(true), ready(false)],
            endpoints: endpoints.into(),
            ports: ports.into(),
            round,
        };
        if let Some(known) = self.slices.get_mut(&service).and_then(|slices| slices.get_mut(&key.name))
            && known.endpoints == slice.endpoints
            && known.ports == slice.ports
        {
            known.round = round;
            return true;
        }
        if let Some(before) = self.take_slice(&key)
            && before != service
        {
            self.count_ready(&before, changed);
        }
        if self.named.len() >= SLICES {
            self.count_ready(&service, changed);
            return false;
        }
        let mut taken = true;
        for place in places(&slice) {
            taken &= self.served.add(place, service.clone());
        }
        self.named.insert(key.clone(), Arc::clone(&service.name));
        self.slices.entry(service.clone()).or_default().insert(key.name, slice);
        self.count_ready(&service, changed);
        taken
    }

    pub(super) fn remove_slice(&mut self, key: &ObjectKey, changed: &mut HashSet<ServiceKey>) {
        if let Some(service) = self.take_slice(key) {
            self.count_ready(&service, changed);
        }
    }

    /// The Service it named.
    fn take_slice(&mut self, key: &ObjectKey) -> Option<ServiceKey> {
        let service = ServiceKey { namespace: Arc::clone(&key.namespace), name: self.named.remove(key)? };
        let slices = self.slices.get_mut(&service)?;
        if let Some(slice) = slices.remove(&key.name) {
            // While endpoints move from one slice to another they stand in both.
            let others: HashSet<Place> = slices.values().flat_map(places).collect();
            for place in places(&slice).filter(|place| !others.contains(place)) {
                self.served.remove(place, &service);
            }
        }
        if slices.is_empty() {
            self.slices.remove(&service);
        }
        Some(service)
    }

    pub(super) fn sweep_slices(&mut self, round: u32, changed: &mut HashSet<ServiceKey>) {
        let old = |(service, slices): (&ServiceKey, &BTreeMap<Arc<str>, Slice>)| {
            let namespace = Arc::clone(&service.namespace);
            let names =
                slices.iter().filter(|(_, slice)| slice.round != round).map(|(name, _)| Arc::clone(name));
            names.map(move |name| ObjectKey { namespace: Arc::clone(&namespace), name }).collect::<Vec<_>>()
        };
        let gone: Vec<_> = self.slices.iter().flat_map(old).collect();
        for key in gone {
            self.remove_slice(&key, changed);
        }
    }

    fn ready(&self, service: &ServiceKey) -> usize {
        let slices = self.slices.get(service).into_iter().flat_map(BTreeMap::values);
        let (v4, v6) =
            slices.fold((0, 0), |(v4, v6), Slice { ready: [more4, more6], .. }| (v4 + more4, v6 + more6));
        v4.max(v6)
    }

    fn count_ready(&mut self, service: &ServiceKey, changed: &mut HashSet<ServiceKey>) {
        let ready = self.ready(service);
        if let Some(known) = self.services.get_mut(service)
            && known.service.ready_endpoints != ready
        {
            known.service.ready_endpoints = ready;
            changed.insert(service.clone());
        }
    }

    pub(super) fn at(&self, ip: IpAddr, port: u16) -> Option<&ServiceKey> {
        self.at.at(&(ip, port)).first().map(|claim| &claim.key)
    }

    pub(super) fn at_node_port(&self, port: u16) -> Option<&ServiceKey> {
        self.node_ports.at(&port).first().map(|claim| &claim.key)
    }

    /// The Service that has this endpoint, ready or not. Of several, one that names this very port; then one that can be
    /// called at an address of its own; then the first by name.
    pub(super) fn served_at(&self, ip: IpAddr, port: u16) -> Option<&ServiceKey> {
        let best = |claims: &[ServiceKey]| {
            let known = claims.iter().filter_map(|key| self.services.get(key));
            known.map(|known| (known.service.cluster_ips.is_empty(), &known.service.key)).min()
        };
        // The key that is handed out is the Service's own, so that it lives as long as the answer.
        best(self.served.at(&(ip, port)))
            .or_else(|| best(self.served.at(&(ip, 0))))
            .and_then(|(_, key)| self.services.get(key))
            .map(|known| &known.service.key)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Service> {
        self.services.values().map(|known| &known.service)
    }

    pub(super) fn get(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key).map(|known| &known.service)
    }

    pub(super) fn count(&self) -> usize {
        self.services.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.slices.is_empty()
            && self.named.is_empty()
            && self.at.is_empty()
            && self.node_ports.is_empty()
            && self.served.is_empty()
    }

    pub(super) fn slices(&self) -> usize {
        self.named.len()
    }
}

fn places(slice: &Slice) -> impl Iterator<Item = Place> {
    slice.endpoints.iter().flat_map(|(ip, _)| slice.ports.iter().map(move |port| (*ip, *port)))
}
