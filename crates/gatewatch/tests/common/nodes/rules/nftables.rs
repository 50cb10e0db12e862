//! kube-proxy's nftables mode.

use std::{fmt::Write as _, net::SocketAddr};

use super::{Reject, Services, hash, pods};

fn family(six: bool) -> &'static str {
    if six { "ip6" } else { "ip" }
}

fn reject(with: Reject, six: bool) -> &'static str {
    match (with, six) {
        (Reject::Port, _) => "reject",
        (Reject::Host, false) => "reject with icmp type host-unreachable",
        (Reject::Host, true) => "reject with icmpv6 type addr-unreachable",
        (Reject::Prohibited, false) => "reject with icmp type admin-prohibited",
        (Reject::Prohibited, true) => "reject with icmpv6 type admin-prohibited",
        (Reject::Reset, _) => "meta l4proto tcp reject with tcp reset",
    }
}

fn is_node_port(service: SocketAddr) -> bool {
    service.ip().is_unspecified()
}

fn name(service: SocketAddr) -> String {
    format!("{:08X}-ns/svc/tcp/p{}", hash(&[service]) >> 32, service.port())
}

fn service_chain(service: SocketAddr) -> String {
    format!("service-{}", name(service))
}

fn external_chain(service: SocketAddr) -> String {
    format!("external-{}", name(service))
}

fn endpoint_chain(service: SocketAddr, endpoint: SocketAddr) -> String {
    let ip: String = endpoint.ip().to_string().chars().map(|c| if c == ':' { '.' } else { c }).collect();
    let hash = hash(&[service, endpoint]) >> 32;
    format!("endpoint-{hash:08X}-ns/svc/tcp/p{}__{ip}/{}", service.port(), endpoint.port())
}

/// All chains of a Service with these endpoints.
fn chains(service: SocketAddr, endpoints: &[SocketAddr]) -> Vec<String> {
    if endpoints.is_empty() {
        return Vec::new();
    }
    let own = std::iter::once(service_chain(service));
    let external = is_node_port(service).then(|| external_chain(service));
    own.chain(external).chain(endpoints.iter().map(|endpoint| endpoint_chain(service, *endpoint))).collect()
}

/// The element of a map that leads on from a Service's address: map, key, verdict.
fn element(service: SocketAddr, endpoints: &[SocketAddr]) -> (&'static str, String, String) {
    let (port, node_port) = (service.port(), is_node_port(service));
    let map = match (endpoints.is_empty(), node_port) {
        (true, false) => "no-endpoint-services",
        (true, true) => "no-endpoint-nodeports",
        (false, false) => "service-ips",
        (false, true) => "service-nodeports",
    };
    let key = if node_port { format!("tcp . {port}") } else { format!("{} . tcp . {port}", service.ip()) };
    let to = match (endpoints.is_empty(), node_port) {
        (true, _) => "reject-chain".to_owned(),
        (false, false) => service_chain(service),
        (false, true) => external_chain(service),
    };
    (map, key, format!("goto {to}"))
}

/// First chains, then elements, then rules, and what is stale at the end. A chain that is stale is emptied only;
/// kube-proxy deletes it a little later.
pub(super) fn transaction(six: bool, before: &Services, after: &Services, changed: &[SocketAddr]) -> String {
    let family = family(six);
    let (mut text, mut stale) = (String::new(), String::new());
    for service in changed {
        let (old, new) = (before.get(service), after.get(service));
        let chains_of = |of: Option<&Vec<SocketAddr>>| of.map_or(Vec::new(), |of| chains(*service, of));
        let new_chains = chains_of(new);
        for chain in &new_chains {
            let _ = writeln!(
                text,
                "add chain {family} kube-proxy {chain}\nflush chain {family} kube-proxy {chain}"
            );
        }
        for chain in chains_of(old).iter().filter(|chain| !new_chains.contains(chain)) {
            let _ = writeln!(stale, "flush chain {family} kube-proxy {chain}");
        }
        let element_of = |of: Option<&Vec<SocketAddr>>| of.map(|of| element(*service, of));
        let (old_element, new_element) = (element_of(old), element_of(new));
        let known = |services: &Services| services.keys().any(|other| other.ip() == service.ip());
        let ip = service.ip();
        if !is_node_port(*service) && known(before) != known(after) {
            match known(after) {
                true => writeln!(text, "add element {family} kube-proxy cluster-ips {{ {ip} }}"),
                // Two Services of one address may go at once.
                false => writeln!(
                    stale,
                    "add element {family} kube-proxy cluster-ips {{ {ip} }}\ndelete element {family} kube-proxy cluster-ips {{ {ip} }}"
                ),
            }
            .unwrap();
        }
        if old_element != new_element {
            if let Some((map, key, verdict)) = new_element {
                let _ = writeln!(text, "add element {family} kube-proxy {map} {{ {key} : {verdict} }}");
            }
            if let Some((map, key, _)) = old_element {
                let _ = writeln!(stale, "delete element {family} kube-proxy {map} {{ {key} }}");
            }
        }
        if let Some(endpoints) = new.filter(|endpoints| !endpoints.is_empty()) {
            text += &rules(family, *service, endpoints);
        }
    }
    text + &stale
}

/// What stands in the chains of a Service.
fn rules(family: &str, service: SocketAddr, endpoints: &[SocketAddr]) -> String {
    let (mut text, svc) = (String::new(), service_chain(service));
    let mut rule = |chain: &str, rule: &str| {
        let _ = writeln!(text, "add rule {family} kube-proxy {chain} {rule}");
    };
    if is_node_port(service) {
        rule(&external_chain(service), "jump mark-for-masquerade");
        rule(&external_chain(service), &format!("goto {svc}"));
    } else {
        let (ip, port, pods) = (service.ip(), service.port(), pods(service.is_ipv6()));
        let foreign = format!("{family} daddr {ip} tcp dport {port} {family} saddr != {pods}");
        rule(&svc, &format!("{foreign} jump mark-for-masquerade"));
    }
    let to =
        |(i, endpoint): (usize, &SocketAddr)| format!("{i} : goto {}", endpoint_chain(service, *endpoint));
    let targets: Vec<String> = endpoints.iter().enumerate().map(to).collect();
    rule(&svc, &format!("numgen random mod {} vmap {{ {} }}", targets.len(), targets.join(" , ")));
    for endpoint in endpoints {
        let chain = endpoint_chain(service, *endpoint);
        rule(&chain, &format!("{family} saddr {} jump mark-for-masquerade", endpoint.ip()));
        rule(&chain, &format!("meta l4proto tcp dnat to {endpoint}"));
    }
    text
}

pub(super) fn base(six: bool, with: Reject) -> String {
    let (family, kind) = (family(six), if six { "ipv6_addr" } else { "ipv4_addr" });
    let loopback = if six { "::1" } else { "127.0.0.0/8" };
    format!(
        "table {family} kube-proxy {{
  set cluster-ips {{ type {kind}
  }}
  map service-ips {{ type {kind} . inet_proto . inet_service : verdict
  }}
  map no-endpoint-services {{ type {kind} . inet_proto . inet_service : verdict
  }}
  map service-nodeports {{ type inet_proto . inet_service : verdict
  }}
  map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict
  }}
  chain reject-chain {{
    {reject}
  }}
  chain mark-for-masquerade {{
    meta mark set meta mark or 0x4000
  }}
  chain masquerading {{
    meta mark and 0x4000 == 0 return
    meta mark set meta mark xor 0x4000
    masquerade fully-random
  }}
  chain services {{
    {family} daddr . meta l4proto . th dport vmap @service-ips
    fib daddr type local {family} daddr != {loopback} meta l4proto . th dport vmap @service-nodeports
  }}
  chain service-endpoints-check {{
    {family} daddr . meta l4proto . th dport vmap @no-endpoint-services
  }}
  chain nodeport-endpoints-check {{
    {family} daddr != {loopback} meta l4proto . th dport vmap @no-endpoint-nodeports
  }}
  chain cluster-ips-check {{
    {family} daddr @cluster-ips reject
  }}
  chain filter-input {{
    type filter hook input priority -110; policy accept;
    ct state new jump nodeport-endpoints-check
    ct state new jump service-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority -110; policy accept;
    ct state new jump service-endpoints-check
    ct state new jump cluster-ips-check
  }}
  chain filter-output {{
    type filter hook output priority -110; policy accept;
    ct state new jump service-endpoints-check
  }}
  chain filter-output-post-dnat {{
    type filter hook output priority -90; policy accept;
    ct state new jump cluster-ips-check
  }}
  chain nat-prerouting {{
    type nat hook prerouting priority -100; policy accept;
    jump services
  }}
  chain nat-output {{
    type nat hook output priority -100; policy accept;
    jump services
  }}
  chain nat-postrouting {{
    type nat hook postrouting priority 100; policy accept;
    jump masquerading
  }}
}}
",
        reject = reject(with, six),
    )
}
