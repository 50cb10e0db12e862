//! Which requests are reported (`monitoring.filters`): kinds combine by AND, the values of one kind by OR.

use std::net::IpAddr;

use crate::routes::{RouteError, Routes, Rule};

/// A network, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net {
    address: IpAddr,
    bits: u8,
}

impl Net {
    /// Reads `10.0.0.0/8`, `2001:db8::/32`, `192.0.2.1`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Some(most), |bits| bits.parse().ok())?;
        (bits <= most).then_some(Self { address, bits })
    }

    /// The address is in it. An IPv4 address that came over an IPv6 socket is an IPv4 address.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let rest = |most: u32| most.saturating_sub(u32::from(self.bits));
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                (net.to_bits() ^ address.to_bits()).checked_shr(rest(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                (net.to_bits() ^ address.to_bits()).checked_shr(rest(128)).unwrap_or(0) == 0
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// What a filter looks at.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The method's name as sent.
    pub method: &'a [u8],
    /// Status sent; 0: none.
    pub status: u16,
    /// The host, without port.
    pub host: &'a [u8],
    /// The client's address, where it has one.
    pub client: Option<IpAddr>,
}

/// The values of all entries, by kind; a kind without values lets everything pass.
#[derive(Debug, Default)]
pub struct Filter {
    methods: Vec<Box<[u8]>>,
    /// Lowest and highest.
    statuses: Vec<(u16, u16)>,
    hosts: Routes,
    networks: Vec<Net>,
    any: bool,
}

impl Filter {
    /// `statuses` are the lowest and the highest of ranges, `hosts` patterns as in routing.
    ///
    /// # Errors
    /// A pattern of a host that is none.
    pub fn new(
        methods: &[String],
        statuses: Vec<(u16, u16)>,
        hosts: &[String],
        networks: Vec<Net>,
    ) -> Result<Self, RouteError> {
        let rule = |host: &String| Rule {
            domain: Some(host.clone()),
            path: None,
            // A rule needs a service; here only the match counts.
            service: "-".to_owned(),
            priority: 0,
        };
        let any = !(methods.is_empty() && statuses.is_empty() && hosts.is_empty() && networks.is_empty());
        Ok(Self {
            methods: methods.iter().map(|method| method.as_bytes().into()).collect(),
            statuses,
            hosts: Routes::compile(&hosts.iter().map(rule).collect::<Vec<_>>())?,
            networks,
            any,
        })
    }

    /// The kind that keeps a request out: a reason of the ledger's stage `filter`. `None`: it passes.
    #[must_use]
    pub fn refuses(&self, seen: &Seen<'_>) -> Option<&'static str> {
        if !self.any {
            return None;
        }
        let method = self.methods.is_empty() || self.methods.iter().any(|method| **method == *seen.method);
        let status = || {
            let within = |(first, last): &(u16, u16)| (*first..=*last).contains(&seen.status);
            self.statuses.is_empty() || self.statuses.iter().any(within)
        };
        let host = || self.hosts.is_empty() || self.hosts.find(seen.host, b"").is_some();
        let network = || {
            let inside = |address| self.networks.iter().any(|network| network.contains(address));
            self.networks.is_empty() || seen.client.is_some_and(inside)
        };
        match () {
            () if !method => Some("method"),
            () if !status() => Some("status"),
            () if !host() => Some("host"),
            () if !network() => Some("network"),
            () => None,
        }
    }
}

#[cfg(test)]
mod tests;
