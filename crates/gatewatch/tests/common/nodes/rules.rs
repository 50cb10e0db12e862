//! The rules of a node's Services, in the shape kube-proxy gives them.

use std::{fmt::Write as _, net::SocketAddr};

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

impl Reject {
    fn nft(self, six: bool) -> &'static str {
        match (self, six) {
            (Self::Port, _) => "reject",
            (Self::Host, false) => "reject with icmp type host-unreachable",
            (Self::Host, true) => "reject with icmpv6 type addr-unreachable",
            (Self::Prohibited, false) => "reject with icmp type admin-prohibited",
            (Self::Prohibited, true) => "reject with icmpv6 type admin-prohibited",
            (Self::Reset, _) => "meta l4proto tcp reject with tcp reset",
        }
    }

    fn iptables(self, six: bool) -> &'static str {
        match (self, six) {
            (Self::Port, false) => "icmp-port-unreachable",
            (Self::Port, true) => "icmp6-port-unreachable",
            (Self::Host, false) => "icmp-host-unreachable",
            (Self::Host, true) => "icmp6-addr-unreachable",
            (Self::Prohibited, false) => "icmp-admin-prohibited",
            (Self::Prohibited, true) => "icmp6-adm-prohibited",
            (Self::Reset, _) => "tcp-reset",
        }
    }
}

/// A name for the chains of an address.
fn tag(address: SocketAddr) -> String {
    let ip: String = address.ip().to_string().chars().map(|c| if c == ':' { '_' } else { c }).collect();
    format!("{ip}-{}", address.port())
}

fn family(six: bool) -> &'static str {
    if six { "ip6" } else { "ip" }
}

/// A chain name for iptables, which takes 28 characters.
fn short(prefix: &str, address: SocketAddr) -> String {
    let hash = tag(address)
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{prefix}-{hash:016X}")
}

impl Rules {
    /// What reads the texts made here.
    pub fn program(self) -> &'static [&'static str] {
        match self {
            Self::Nftables => &["nft", "-f", "-"],
            Self::Iptables => &["sh", "-es"],
        }
    }

    /// What stands before the first Service.
    pub fn base(self, reject: Reject) -> String {
        [false, true]
            .map(|six| if self == Self::Nftables { nft_base(six, reject) } else { iptables_base(six) })
            .concat()
    }

    /// The Service refuses.
    pub fn without(self, service: SocketAddr, reject: Reject) -> String {
        let six = service.is_ipv6();
        if self == Self::Nftables {
            let (family, element) = (family(six), element(service));
            // What is not there cannot be deleted: it is added first.
            return format!(
                "add chain {family} kube-proxy service-{tag}\n\
                 add element {family} kube-proxy service-ips {{ {element} : goto service-{tag} }}\n\
                 delete element {family} kube-proxy service-ips {{ {element} }}\n\
                 flush chain {family} kube-proxy service-{tag}\n\
                 add element {family} kube-proxy no-endpoint-services {{ {element} : goto reject-chain }}\n",
                tag = tag(service),
            );
        }
        iptables(
            six,
            "filter",
            &format!(
                ":{refuse} -\n-A {refuse} {} -j REJECT --reject-with {}\n",
                matches(service),
                reject.iptables(six),
                refuse = short("NOEP", service)
            ),
        ) + &iptables(six, "nat", &format!(":{} -\n", short("SVC", service)))
            + &iptables_jumps(service)
    }

    /// The Service's connections go to these, each as likely as the others.
    pub fn with(self, service: SocketAddr, endpoints: &[SocketAddr]) -> String {
        let six = service.is_ipv6();
        let family = family(six);
        if self == Self::Iptables {
            let svc = short("SVC", service);
            let mut rules = format!(":{svc} -\n-A {svc} ! -s {} -j KUBE-MARK-MASQ\n", pods(six));
            for (i, endpoint) in endpoints.iter().enumerate() {
                let sep = short("SEP", *endpoint);
                let left = endpoints.len() - i;
                let chance = (left > 1)
                    .then(|| format!("-m statistic --mode random --probability {:.5} ", 1.0 / left as f64));
                let chance = chance.unwrap_or_default();
                let _ = write!(
                    rules,
                    ":{sep} -\n-A {sep} -s {ip} -j KUBE-MARK-MASQ\n-A {sep} -p tcp -j DNAT --to-destination {endpoint}\n-A {svc} {chance}-j {sep}\n",
                    ip = endpoint.ip(),
                );
            }
            return iptables(six, "nat", &rules)
                + &iptables(six, "filter", &format!(":{} -\n", short("NOEP", service)))
                + &iptables_jumps(service);
        }
        let (element, tag_of_service) = (element(service), tag(service));
        let mut text = format!(
            "add chain {family} kube-proxy service-{tag_of_service}\nflush chain {family} kube-proxy service-{tag_of_service}\n"
        );
        let mut targets = Vec::new();
        for (i, endpoint) in endpoints.iter().enumerate() {
            let name = format!("endpoint-{tag_of_service}-{}", tag(*endpoint));
            let _ = write!(
                text,
                "add chain {family} kube-proxy {name}\nflush chain {family} kube-proxy {name}\n\
                 add rule {family} kube-proxy {name} {family} saddr {} jump mark-for-masquerade\n\
                 add rule {family} kube-proxy {name} meta l4proto tcp dnat to {endpoint}\n",
                endpoint.ip(),
            );
            targets.push(format!("{i} : goto {name}"));
        }
        let _ = write!(
            text,
            "add element {family} kube-proxy no-endpoint-services {{ {element} : goto reject-chain }}\n\
             delete element {family} kube-proxy no-endpoint-services {{ {element} }}\n\
             add element {family} kube-proxy service-ips {{ {element} : goto service-{tag_of_service} }}\n",
        );
        if !targets.is_empty() {
            let _ = write!(
                text,
                "add rule {family} kube-proxy service-{tag_of_service} {family} saddr != {} jump mark-for-masquerade\n\
                 add rule {family} kube-proxy service-{tag_of_service} numgen random mod {} vmap {{ {} }}\n",
                pods(six),
                targets.len(),
                targets.join(", "),
            );
        }
        text
    }
}

/// Where the pods are: who calls from elsewhere is masqueraded.
fn pods(six: bool) -> &'static str {
    if six { "fd00:244::/64" } else { "10.244.0.0/16" }
}

fn element(service: SocketAddr) -> String {
    format!("{} . tcp . {}", service.ip(), service.port())
}

fn nft_base(six: bool, reject: Reject) -> String {
    let (family, kind) = (family(six), if six { "ipv6_addr" } else { "ipv4_addr" });
    format!(
        "table {family} kube-proxy {{
  map service-ips {{ type {kind} . inet_proto . inet_service : verdict
  }}
  map no-endpoint-services {{ type {kind} . inet_proto . inet_service : verdict
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
  }}
  chain service-endpoints-check {{
    {family} daddr . meta l4proto . th dport vmap @no-endpoint-services
  }}
  chain filter-input {{
    type filter hook input priority -110; policy accept;
    ct state new jump service-endpoints-check
  }}
  chain filter-forward {{
    type filter hook forward priority -110; policy accept;
    ct state new jump service-endpoints-check
  }}
  chain filter-output {{
    type filter hook output priority -110; policy accept;
    ct state new jump service-endpoints-check
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
        reject = reject.nft(six),
    )
}

/// Rules for one table of `iptables-restore`, as a piece of shell.
fn iptables(six: bool, table: &str, rules: &str) -> String {
    let program = if six { "ip6tables-restore" } else { "iptables-restore" };
    format!("{program} -w --noflush <<'END'\n*{table}\n{rules}COMMIT\nEND\n")
}

fn matches(service: SocketAddr) -> String {
    format!("-d {} -p tcp -m tcp --dport {}", service.ip(), service.port())
}

fn iptables_base(six: bool) -> String {
    iptables(
        six,
        "filter",
        ":KUBE-SERVICES -\n\
         -A INPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n\
         -A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES\n",
    ) + &iptables(
        six,
        "nat",
        ":KUBE-SERVICES -\n:KUBE-MARK-MASQ -\n:KUBE-POSTROUTING -\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
         -A PREROUTING -j KUBE-SERVICES\n\
         -A OUTPUT -j KUBE-SERVICES\n\
         -A POSTROUTING -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -j MASQUERADE --random-fully\n",
    )
}

/// The service's jumps, once.
fn iptables_jumps(service: SocketAddr) -> String {
    let program = if service.is_ipv6() { "ip6tables" } else { "iptables" };
    let to = matches(service);
    let jump = |table: &str, chain: &str, rule: &str| {
        format!(
            "{program} -w -t {table} -C {chain} {rule} 2>/dev/null || {program} -w -t {table} -A {chain} {rule}\n"
        )
    };
    jump("filter", "KUBE-SERVICES", &format!("-j {}", short("NOEP", service)))
        + &jump("nat", "KUBE-SERVICES", &format!("{to} -j {}", short("SVC", service)))
}
