//! Nodes and their addresses.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use super::{claims::Claims, names::Names};
use crate::change::{ADDRESSES_MAX, NodeRecord};

/// More than any cluster has.
const LIMIT: usize = 20_000;

#[derive(Debug)]
struct Known {
    addresses: Vec<IpAddr>,
    round: u32,
}

#[derive(Debug)]
pub(super) struct Nodes {
    nodes: HashMap<Arc<str>, Known>,
    by_address: Claims<IpAddr, Arc<str>>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self { nodes: HashMap::new(), by_address: Claims::new(LIMIT * ADDRESSES_MAX) }
    }
}

impl Nodes {
    /// Whether there was room for it.
    pub(super) fn put(&mut self, record: NodeRecord, round: u32, names: &mut Names) -> bool {
        let NodeRecord { mut name, addresses } = record;
        if let Some(known) = self.nodes.get_mut(&name)
            && known.addresses == addresses
        {
            known.round = round;
            return true;
        }
        self.remove(&name);
        if self.nodes.len() >= LIMIT {
            return false;
        }
        names.share(&mut name);
        for ip in &addresses {
            self.by_address.add(*ip, Arc::clone(&name));
        }
        self.nodes.insert(name, Known { addresses, round });
        true
    }

    pub(super) fn remove(&mut self, name: &Arc<str>) {
        for ip in self.nodes.remove(name).map(|known| known.addresses).unwrap_or_default() {
            self.by_address.remove(ip, name);
        }
    }

    pub(super) fn sweep(&mut self, round: u32) {
        let gone: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, known)| known.round != round)
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in gone {
            self.remove(&name);
        }
    }

    pub(super) fn at(&self, ip: IpAddr) -> Option<&Arc<str>> {
        self.by_address.at(&ip).first()
    }

    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.nodes.values().flat_map(|known| &known.addresses).copied()
    }

    pub(super) fn count(&self) -> usize {
        self.nodes.len()
    }
}
