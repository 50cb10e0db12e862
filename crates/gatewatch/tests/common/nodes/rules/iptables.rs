//! kube-proxy's iptables mode.

use std::{fmt::Write as _, net::SocketAddr};

use super::{Reject, Services, hash, pods};

fn reject(with: Reject, six: bool) -> &'static str {
    match (with, six) {
        (Reject::Port, false) => "icmp-port-unreachable",
        (Reject::Port, true) => "icmp6-port-unreachable",
        (Reject::Host, false) => "icmp-host-unreachable",
        (Reject::Host, true) => "icmp6-addr-unreachable",
        (Reject::Prohibited, false) => "icmp-admin-prohibited",
        (Reject::Prohibited, true) => "icmp6-adm-prohibited",
        (Reject::Reset, _) => "tcp-reset",
    }
}

fn chain(kind: &str, of: &[SocketAddr]) -> String {
    format!("KUBE-{kind}-{:016X}", hash(of))
}

fn is_node_port(service: SocketAddr) -> bool {
    service.ip().is_unspecified()
}

fn matches(service: SocketAddr) -> String {
    match is_node_port(service) {
        true => format!("-p tcp -m tcp --dport {}", service.port()),
        false => format!("-d {} -p tcp -m tcp --dport {}", service.ip(), service.port()),
    }
}

/// The chains of all Services together are written anew each time, those of one Service as it changes. What is stale is
/// emptied.
pub(super) fn transaction(
    six: bool,
    with: Reject,
    before: &Services,
    after: &Services,
    changed: &[SocketAddr],
) -> String {
    let mut filter = ":KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n".to_owned();
    let mut nat = ":KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n".to_owned();
    for service in changed {
        let endpoints = before.get(service).into_iter().chain(after.get(service)).flatten();
        let mut chains = vec![chain("SVC", &[*service]), chain("EXT", &[*service])];
        chains.extend(endpoints.map(|endpoint| chain("SEP", &[*service, *endpoint])));
        chains.sort();
        chains.dedup();
        chains.iter().for_each(|chain| writeln!(nat, ":{chain} - [0:0]").unwrap());
    }
    for (service, endpoints) in after {
        let (to, node_port) = (matches(*service), is_node_port(*service));
        let _ = match (endpoints.is_empty(), node_port) {
            (true, false) => {
                writeln!(filter, "-A KUBE-SERVICES {to} -j REJECT --reject-with {}", reject(with, six))
            }
            (true, true) => writeln!(
                filter,
                "-A KUBE-EXTERNAL-SERVICES -m addrtype --dst-type LOCAL {to} -j REJECT --reject-with {}",
                reject(with, six)
            ),
            (false, false) => writeln!(nat, "-A KUBE-SERVICES {to} -j {}", chain("SVC", &[*service])),
            (false, true) => writeln!(nat, "-A KUBE-NODEPORTS {to} -j {}", chain("EXT", &[*service])),
        };
    }
    nat += "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n";
    for service in changed {
        if let Some(endpoints) = after.get(service) {
            nat += &rules(six, *service, endpoints);
        }
    }
    format!("*filter\n{filter}COMMIT\n*nat\n{nat}COMMIT\n")
}

/// What stands in the chains of a Service: each endpoint is as likely as the others.
fn rules(six: bool, service: SocketAddr, endpoints: &[SocketAddr]) -> String {
    let (mut text, svc) = (String::new(), chain("SVC", &[service]));
    if endpoints.is_empty() {
        return text;
    }
    let _ = match is_node_port(service) {
        true => {
            let ext = chain("EXT", &[service]);
            writeln!(text, "-A {ext} -j KUBE-MARK-MASQ\n-A {ext} -j {svc}")
        }
        false => writeln!(text, "-A {svc} {} ! -s {} -j KUBE-MARK-MASQ", matches(service), pods(six)),
    };
    for (i, endpoint) in endpoints.iter().enumerate() {
        let (sep, left) = (chain("SEP", &[service, *endpoint]), endpoints.len() - i);
        let chance = match left {
            1 => String::new(),
            _ => format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64),
        };
        let _ = writeln!(
            text,
            "-A {svc} {chance}-j {sep}\n-A {sep} -s {} -j KUBE-MARK-MASQ\n-A {sep} -p tcp -m tcp -j DNAT --to-destination {endpoint}",
            endpoint.ip()
        );
    }
    text
}

pub(super) fn base() -> String {
    "*filter\n\
     :KUBE-SERVICES - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\n\
     -A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
     -A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES\n\
     -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
     -A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
     COMMIT\n\
     *nat\n\
     :KUBE-SERVICES - [0:0]\n:KUBE-NODEPORTS - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\n\
     -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
     -A PREROUTING -j KUBE-SERVICES\n\
     -A OUTPUT -j KUBE-SERVICES\n\
     -A POSTROUTING -j KUBE-POSTROUTING\n\
     -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
     -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
     -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n\
     COMMIT\n"
        .to_owned()
}
