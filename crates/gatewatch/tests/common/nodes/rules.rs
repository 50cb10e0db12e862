//! A node's kube-proxy: its rules, and how it changes them. As the real one does it, a change is one transaction of one
//! family with nothing in it but what changed (nftables since Kubernetes 1.33, iptables since 1.27).

use std::{collections::BTreeMap, net::SocketAddr};

mod iptables;
mod nftables;

/// Which of kube-proxy's modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    Nftables,
    Iptables,
}

/// What answers for a Service without endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// ICMP port unreachable, kube-proxy's own.
    Port,
    /// ICMP host unreachable, or ICMPv6 address unreachable.
    Host,
    /// ICMP administratively prohibited.
    Prohibited,
    /// A TCP reset.
    Reset,
}

/// The endpoints of a Service; `None`: no rule knows it any more.
pub type Endpoints = Option<Vec<SocketAddr>>;

/// kube-proxy's part for one family. An address that is unspecified (`0.0.0.0`, `::`) stands for a node port.
pub struct Proxy {
    rules: Rules,
    reject: Reject,
    six: bool,
    services: BTreeMap<SocketAddr, Vec<SocketAddr>>,
}

impl Proxy {
    pub fn new(rules: Rules, reject: Reject, six: bool) -> Self {
        Self { rules, reject, six, services: BTreeMap::new() }
    }

    /// What reads the texts made here.
    pub fn program(&self) -> &'static [&'static str] {
        match (self.rules, self.six) {
            (Rules::Nftables, _) => &["nft", "-f", "-"],
            (Rules::Iptables, false) => &["iptables-restore", "-w", "5", "--noflush"],
            (Rules::Iptables, true) => &["ip6tables-restore", "-w", "5", "--noflush"],
        }
    }

    /// What stands before the first Service.
    pub fn base(&self) -> String {
        match self.rules {
            Rules::Nftables => nftables::base(self.six, self.reject),
            Rules::Iptables => iptables::base(),
        }
    }

    /// The transaction that makes it so; empty: it is so.
    pub fn sync(&mut self, changes: impl IntoIterator<Item = (SocketAddr, Endpoints)>) -> String {
        let before = self.services.clone();
        let mut changed = Vec::new();
        for (service, endpoints) in changes {
            if self.services.get(&service) != endpoints.as_ref() {
                changed.push(service);
            }
            match endpoints {
                Some(endpoints) => self.services.insert(service, endpoints),
                None => self.services.remove(&service),
            };
        }
        changed.sort_unstable();
        changed.dedup();
        if changed.is_empty() {
            return String::new();
        }
        match self.rules {
            Rules::Nftables => nftables::transaction(self.six, &before, &self.services, &changed),
            Rules::Iptables => {
                iptables::transaction(self.six, self.reject, &before, &self.services, &changed)
            }
        }
    }
}

/// By address and port; none: they refuse.
type Services = BTreeMap<SocketAddr, Vec<SocketAddr>>;

/// Where the pods are: who calls from elsewhere is masqueraded.
fn pods(six: bool) -> &'static str {
    if six { "fd00:244::/64" } else { "10.244.0.0/16" }
}

/// What tells chains of one kind apart, as kube-proxy's hashes of a Service's name do.
fn hash(of: &[SocketAddr]) -> u64 {
    let text: String = of.iter().map(|address| format!("{address} ")).collect();
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
