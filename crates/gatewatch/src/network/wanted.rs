//! From the configuration to what the network's watcher does.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use gatewatch_capture::network::{Filter, Ingress, Protocol};
use gatewatch_config::Config;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Anything at all.
    pub enabled: bool,
    /// How packets that come in are counted.
    pub ingress: Ingress,
    /// Names of the interfaces; empty: all.
    pub interfaces: Vec<String>,
    /// What else is watched.
    pub filter: Filter,
    /// How often accounts are gathered.
    pub interval: Duration,
    /// When silent flows have ended.
    pub idle: Duration,
    /// Protocols are told by first bytes.
    pub protocols: bool,
}

impl Wanted {
    /// As the configuration has it.
    pub fn new(config: &Config) -> Self {
        let filters = &config.monitoring.filters;
        let ports: Vec<u16> = filters.iter().flat_map(|filter| filter.port.iter().copied()).collect();
        let protocols = filters.iter().flat_map(|filter| &filter.protocol).fold(0, |bits, protocol| {
            bits | 1
                << match protocol {
                    gatewatch_config::Protocol::Tcp => Protocol::NETWORK_TCP.0,
                    gatewatch_config::Protocol::Udp => Protocol::NETWORK_UDP.0,
                }
        });
        let networks: Vec<_> =
            filters.iter().flat_map(|filter| &filter.network).filter_map(|network| prefix(network)).collect();
        Self {
            enabled: config.monitoring.enabled && config.network.enabled,
            ingress: match config.network.ingress {
                gatewatch_config::Ingress::Auto => Ingress::Auto,
                gatewatch_config::Ingress::Xdp => Ingress::Xdp,
                gatewatch_config::Ingress::Tc => Ingress::Tc,
            },
            interfaces: filters.iter().flat_map(|filter| filter.interface.iter().cloned()).collect(),
            filter: Filter {
                protocols: (protocols != 0).then_some(protocols),
                ports: (!ports.is_empty()).then_some(ports),
                networks: (!networks.is_empty()).then_some(networks),
            },
            interval: config.monitoring.interval,
            idle: config.network.idle,
            protocols: config.network.protocols,
        }
    }
}

impl Wanted {
    /// A TCP connection with these ends passes the filters, as its packets do in the kernel.
    pub fn passes(&self, ends: [SocketAddr; 2]) -> bool {
        let Filter { protocols, ports, networks } = &self.filter;
        let tcp = 1 << Protocol::NETWORK_TCP.0;
        protocols.is_none_or(|bits| bits & tcp != 0)
            && ports.as_ref().is_none_or(|ports| ends.iter().any(|end| ports.contains(&end.port())))
            && networks.as_ref().is_none_or(|networks| ends.iter().any(|end| within(networks, end.ip())))
    }
}

fn within(networks: &[(u32, [u8; 16])], address: IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let address = u128::from_be_bytes(octets);
    networks.iter().any(|(bits, network)| {
        let differs = address ^ u128::from_be_bytes(*network);
        differs.leading_zeros() >= *bits
    })
}

/// `10.0.0.0/8` as the kernel's table has it: its length and address among those of IPv6.
fn prefix(network: &str) -> Option<(u32, [u8; 16])> {
    let (address, bits) = match network.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
        None => (network, None),
    };
    match address.parse().ok()? {
        IpAddr::V4(address) => Some((96 + bits.unwrap_or(32).min(32), address.to_ipv6_mapped().octets())),
        IpAddr::V6(address) => Some((bits.unwrap_or(128).min(128), address.octets())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_gathered_over_all_entries() {
        let text = "monitoring: {filters: [{protocol: tcp}, {port: '80,443'}, {port: 8080, interface: lo}, {network: '10.0.0.0/8, ::1'}]}";
        let wanted = Wanted::new(&Config::parse(text, "test").unwrap());
        assert_eq!(wanted.filter.protocols, Some(1));
        assert_eq!(wanted.filter.ports, Some(vec![80, 443, 8080]));
        assert_eq!(wanted.interfaces, ["lo"]);
        let networks = wanted.filter.networks.unwrap();
        assert_eq!(networks.len(), 2);
        assert_eq!(networks[0].0, 104);
        assert_eq!(networks[0].1[10..14], [0xff, 0xff, 10, 0]);
        assert_eq!(networks[1], (128, std::net::Ipv6Addr::LOCALHOST.octets()));
        let wanted = Wanted::new(&Config::parse(text, "test").unwrap());
        let passes = |a: &str, b: &str| wanted.passes([a.parse().unwrap(), b.parse().unwrap()]);
        assert!(passes("10.1.2.3:443", "192.0.2.1:5"));
        assert!(passes("[::1]:8080", "[::1]:5"));
        assert!(!passes("10.1.2.3:444", "192.0.2.1:5"), "port");
        assert!(!passes("11.1.2.3:443", "192.0.2.1:5"), "network");
    }
}
