//! From the configuration to what the network's watcher does.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use gatewatch_capture::network::{Filter, Ingress, Prefix, Protocol};
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

fn within(networks: &[Prefix], address: IpAddr) -> bool {
    let octets = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    networks.iter().any(|network| {
        let differs = u128::from_be_bytes(octets) ^ u128::from_be_bytes(network.address);
        network.ipv4 == address.is_ipv4() && differs.leading_zeros() >= network.bits
    })
}

/// `10.0.0.0/8` as the kernel's table has it: IPv4 as `::ffff:a.b.c.d`, its length 96 more.
fn prefix(network: &str) -> Option<Prefix> {
    let (address, bits) = match network.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u32>().ok()?)),
        None => (network, None),
    };
    Some(match address.parse().ok()? {
        IpAddr::V4(address) => Prefix {
            ipv4: true,
            bits: 96 + bits.unwrap_or(32).min(32),
            address: address.to_ipv6_mapped().octets(),
        },
        IpAddr::V6(address) => {
            Prefix { ipv4: false, bits: bits.unwrap_or(128).min(128), address: address.octets() }
        }
    })
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
        assert_eq!((networks[0].bits, networks[0].ipv4), (104, true));
        assert_eq!(networks[0].address[10..14], [0xff, 0xff, 10, 0]);
        assert_eq!((networks[1].bits, networks[1].ipv4), (128, false));
        let six = Wanted::new(&Config::parse("monitoring: {filters: [{network: '::/0'}]}", "test").unwrap());
        let any = |a: &str| six.passes([a.parse().unwrap(), "192.0.2.1:5".parse().unwrap()]);
        assert!(any("[2001:db8::1]:1") && !any("10.0.0.1:1"), "all of IPv6, and nothing else");
        let wanted = Wanted::new(&Config::parse(text, "test").unwrap());
        let passes = |a: &str, b: &str| wanted.passes([a.parse().unwrap(), b.parse().unwrap()]);
        assert!(passes("10.1.2.3:443", "192.0.2.1:5"));
        assert!(passes("[::1]:8080", "[::1]:5"));
        assert!(!passes("10.1.2.3:444", "192.0.2.1:5"), "port");
        assert!(!passes("11.1.2.3:443", "192.0.2.1:5"), "network");
    }
}
