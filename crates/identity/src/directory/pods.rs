//! Pods: by address, by UID and by container.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::Arc,
};

use smallvec::SmallVec;

use super::{Limits, Pod, names::Names};
use crate::{
    cgroup::{ContainerId, Uid},
    change::{ObjectKey, PodRecord},
};

/// More than Kubernetes says a cluster may have.
const LIMIT: usize = 200_000;

#[derive(Debug)]
struct Known {
    pod: Arc<Pod>,
    uid: Uid,
    static_uid: Option<Uid>,
    created: i64,
    version: u64,
    addresses: Box<[IpAddr]>,
    containers: Box<[ContainerId]>,
    round: u32,
}

/// What is still found by control group.
#[derive(Debug)]
struct Departed {
    gone_ns: u64,
    uids: [Option<Uid>; 2],
    containers: Box<[ContainerId]>,
}

#[derive(Debug, Default)]
pub(super) struct Pods {
    limits: Limits,
    pods: HashMap<ObjectKey, Known>,
    /// Each address has one owner or none.
    by_address: HashMap<IpAddr, Arc<Pod>>,
    by_uid: HashMap<Uid, Arc<Pod>>,
    by_container: HashMap<ContainerId, Arc<Pod>>,
    departed: VecDeque<Departed>,
}

impl Pods {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Whether there was room for it.
    pub(super) fn put(&mut self, record: PodRecord, round: u32, now_ns: u64, names: &mut Names) -> bool {
        let PodRecord { mut pod, uid, static_uid, created, version, addresses, containers } = record;
        names.share(&mut pod.namespace);
        names.share(&mut pod.node);
        names.share(&mut pod.workload.kind);
        names.share(&mut pod.workload.name);
        for (name, value) in &mut pod.labels {
            names.share(name);
            names.share(value);
        }
        let key = ObjectKey { namespace: Arc::clone(&pod.namespace), name: Arc::clone(&pod.name) };
        let before = self.pods.get(&key);
        let renewed = before.is_some_and(|known| known.uid != uid);
        let known_before = before.is_some() && !renewed;
        let had: SmallVec<[IpAddr; 2]> = before
            .filter(|_| known_before)
            .iter()
            .flat_map(|known| known.addresses.iter().copied())
            .collect();
        if renewed {
            self.remove(&key, None, now_ns);
        } else if let Some(known) = before {
            let replaced = known.containers.iter().filter(|id| !containers.contains(id)).copied().collect();
            let uids = [None, known.static_uid.filter(|_| known.static_uid != static_uid)];
            self.release(&key);
            self.depart(Departed { gone_ns: now_ns, uids, containers: replaced });
        }
        if self.pods.len() >= LIMIT && !self.pods.contains_key(&key) {
            return false;
        }
        let pod = match self.pods.remove(&key) {
            Some(known) if *known.pod == pod => known.pod,
            _ => Arc::new(pod),
        };
        for ip in &addresses {
            let gained = known_before && !had.contains(ip);
            self.claim(*ip, &pod, gained, (created, version));
        }
        self.by_uid.extend([Some(uid), static_uid].into_iter().flatten().map(|uid| (uid, Arc::clone(&pod))));
        self.by_container.extend(containers.iter().map(|id| (*id, Arc::clone(&pod))));
        let (addresses, containers) = (addresses.into(), containers.into());
        let known = Known { pod, uid, static_uid, created, version, addresses, containers, round };
        self.pods.insert(key, known);
        true
    }

    /// Of two pods that say an address is theirs one has not told its end yet. Right is who was seen to get it; where
    /// that was not seen, the newer one.
    fn claim(&mut self, ip: IpAddr, pod: &Arc<Pod>, gained: bool, age: (i64, u64)) {
        let owner = self.by_address.get(&ip).and_then(|owner| {
            let key = ObjectKey { namespace: Arc::clone(&owner.namespace), name: Arc::clone(&owner.name) };
            self.pods.get(&key)
        });
        if gained || owner.is_none_or(|owner| (owner.created, owner.version) <= age) {
            self.by_address.insert(ip, Arc::clone(pod));
        }
    }

    /// The pod's addresses are nobody's.
    fn release(&mut self, key: &ObjectKey) {
        let Some(known) = self.pods.get(key) else { return };
        for ip in &known.addresses {
            if self.by_address.get(ip).is_some_and(|owner| Arc::ptr_eq(owner, &known.pod)) {
                self.by_address.remove(ip);
            }
        }
    }

    /// `uid`: only if it is still this one.
    pub(super) fn remove(&mut self, key: &ObjectKey, uid: Option<Uid>, now_ns: u64) {
        if self.pods.get(key).is_none_or(|known| uid.is_some_and(|uid| uid != known.uid)) {
            return;
        }
        self.release(key);
        if let Some(known) = self.pods.remove(key) {
            let uids = [Some(known.uid), known.static_uid];
            self.depart(Departed { gone_ns: now_ns, uids, containers: known.containers });
        }
    }

    fn depart(&mut self, departed: Departed) {
        if departed.uids == [None; 2] && departed.containers.is_empty() {
            return;
        }
        self.departed.push_back(departed);
        while self.departed.len() > self.limits.capacity {
            self.forget();
        }
    }

    fn forget(&mut self) {
        let Some(departed) = self.departed.pop_front() else { return };
        // What is listed again lives: a static pod's UID is a hash of its file, and the same file has the same.
        let known = |pod: &Arc<Pod>| {
            let key = ObjectKey { namespace: Arc::clone(&pod.namespace), name: Arc::clone(&pod.name) };
            self.pods.get(&key)
        };
        for uid in departed.uids.into_iter().flatten() {
            let known = self.by_uid.get(&uid).and_then(known);
            if known.is_none_or(|known| known.uid != uid && known.static_uid != Some(uid)) {
                self.by_uid.remove(&uid);
            }
        }
        for id in departed.containers {
            let known = self.by_container.get(&id).and_then(known);
            if known.is_none_or(|known| !known.containers.contains(&id)) {
                self.by_container.remove(&id);
            }
        }
    }

    /// Forgets what is gone for longer than it is to be remembered.
    pub(super) fn expire(&mut self, now_ns: u64) {
        let ttl = u64::try_from(self.limits.ttl.as_nanos()).unwrap_or(u64::MAX);
        while self.departed.front().is_some_and(|oldest| now_ns.saturating_sub(oldest.gone_ns) > ttl) {
            self.forget();
        }
    }

    pub(super) fn sweep(&mut self, round: u32, now_ns: u64) {
        let gone: Vec<_> =
            self.pods.iter().filter(|(_, known)| known.round != round).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key, None, now_ns);
        }
    }

    pub(super) fn at(&self, ip: IpAddr) -> Option<&Arc<Pod>> {
        self.by_address.get(&ip)
    }

    pub(super) fn of_uid(&self, uid: &Uid) -> Option<&Arc<Pod>> {
        self.by_uid.get(uid)
    }

    pub(super) fn of_container(&self, id: &ContainerId) -> Option<&Arc<Pod>> {
        self.by_container.get(id)
    }

    pub(super) fn count(&self) -> usize {
        self.pods.len()
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty()
            && self.by_address.is_empty()
            && self.by_uid.is_empty()
            && self.by_container.is_empty()
    }

    pub(super) fn departed(&self) -> usize {
        self.departed.len()
    }
}
