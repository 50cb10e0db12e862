//! From the watch's state to what the exporters show; and the sums that must agree.

use gatewatch_capture::{
    connection::{self, ConnectionProbe},
    network::{Class, FAMILIES, NetworkProbe, PROTOCOLS, Tally},
};
use gatewatch_event::connection::TcpState;
use gatewatch_export::{
    network::{Amount, Attachment, Doubling, Map, Picture},
    snapshot::Program,
};
use gatewatch_insight::connections::Connections;

use super::{listing, watch::Watch};

const DIRECTIONS: [&str; 2] = ["ingress", "egress"];
const FAMILY_NAMES: [&str; 3] = ["ipv4", "ipv6", "other"];
const PROTOCOL_NAMES: [&str; 5] = ["tcp", "udp", "icmp", "sctp", "other"];
/// Every state a TCP connection can be in; shown also at 0.
const STATES: [TcpState; 9] = [
    TcpState::SynSent,
    TcpState::SynRecv,
    TcpState::Established,
    TcpState::FinWait1,
    TcpState::FinWait2,
    TcpState::CloseWait,
    TcpState::Closing,
    TcpState::LastAck,
    TcpState::TimeWait,
];

/// What the programs counted, all interfaces together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    total: Amount,
    not_ip: Amount,
    malformed: Amount,
    no_room: Amount,
    begun: u64,
}

impl Counted {
    /// As it stands.
    pub fn now(probe: &NetworkProbe) -> Self {
        let mut total = Amount::default();
        probe.counts(|_, _, class, count| {
            if class < FAMILIES * PROTOCOLS {
                total.packets += count.packets;
                total.bytes += count.bytes;
            }
        });
        let amount = |packets, bytes| Amount { packets: probe.tally(packets), bytes: probe.tally(bytes) };
        Self {
            total,
            not_ip: amount(Tally::NETWORK_NO_FLOW, Tally::NETWORK_NO_FLOW_BYTES),
            malformed: amount(Tally::NETWORK_MALFORMED, Tally::NETWORK_MALFORMED_BYTES),
            no_room: amount(Tally::NETWORK_NO_ROOM, Tally::NETWORK_NO_ROOM_BYTES),
            begun: [Tally::NETWORK_FLOWS_TCP, Tally::NETWORK_FLOWS_UDP, Tally::NETWORK_FLOWS_OTHER]
                .map(|tally| probe.tally(tally))
                .iter()
                .sum(),
        }
    }

    /// What of it is accounted to no connection that is known, and to no reason either.
    pub fn beyond(&self, connections: &Connections) -> Amount {
        let accounted = connections.applications().fold(Amount::default(), |sum, (_, share)| Amount {
            packets: sum.packets + share.packets,
            bytes: sum.bytes + share.bytes,
        });
        let known = [self.not_ip, self.malformed, self.no_room, accounted];
        known.iter().fold(self.total, |rest, known| Amount {
            packets: rest.packets.saturating_sub(known.packets),
            bytes: rest.bytes.saturating_sub(known.bytes),
        })
    }
}

/// What is accounted to no connection that is known, and why.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beyond {
    /// Accounted by an earlier agent, to connections that had ended before this one came.
    pub inherited: Amount,
    /// Of connections the kernel's table gave up for want of room.
    pub evicted: Amount,
    /// How many those are.
    pub evictions: u64,
    begun_before: Option<u64>,
}

impl Beyond {
    /// After a walk that found `live` connections; `before` was read before it. So a packet on its way may be missing
    /// here, never be here twice; at rest the sums are exact.
    pub fn update(&mut self, before: &Counted, connections: &Connections, live: u64) {
        let (ended, _) = connections.ended_counts();
        let begun_before = *self.begun_before.get_or_insert(before.begun.saturating_sub(live + ended));
        let evictions = before.begun.saturating_sub(begun_before + ended + live);
        self.evictions = self.evictions.max(evictions);
        let beyond = before.beyond(connections);
        let more = |known: u64, other: u64, all: u64| known.max(all.saturating_sub(other));
        let (inherited, evicted) = (self.inherited, self.evicted);
        if self.evictions == 0 {
            self.inherited.packets = more(inherited.packets, evicted.packets, beyond.packets);
            self.inherited.bytes = more(inherited.bytes, evicted.bytes, beyond.bytes);
        } else {
            self.evicted.packets = more(evicted.packets, inherited.packets, beyond.packets);
            self.evicted.bytes = more(evicted.bytes, inherited.bytes, beyond.bytes);
        }
    }
}

fn name(names: &[&'static str], index: u32) -> &'static str {
    usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or("other")
}

/// Everything, now.
pub fn take(watch: &Watch<'_>) -> Picture {
    let probe = &watch.packets;
    let mut picture = Picture {
        probes: vec![
            ("packets", watch.is_enabled()),
            ("connections", watch.is_enabled() && watch.tcp.is_some()),
        ],
        repairs: watch.repairs.iter().map(|(what, n)| (*what, *n)).collect(),
        blind_ns: watch.blind_ns,
        absent_ns: probe.absent_ns(),
        evicted: watch.beyond.evictions,
        samples_lost: probe.tally(Tally::NETWORK_NO_SAMPLE),
        ..Picture::default()
    };
    probe.counts(|interface, direction, class, count| {
        let amount = Amount { packets: count.packets, bytes: count.bytes };
        let direction = name(&DIRECTIONS, direction);
        if class == Class::NETWORK_FILTERED.0 {
            picture.filtered.push((interface.to_owned(), direction, amount));
        } else {
            let (family, protocol) =
                (name(&FAMILY_NAMES, class / PROTOCOLS), name(&PROTOCOL_NAMES, class % PROTOCOLS));
            picture.packets.push((interface.to_owned(), direction, family, protocol, amount));
        }
    });
    let counted = Counted::now(probe);
    picture.unaccounted = vec![
        ("not_ip", counted.not_ip),
        ("malformed", counted.malformed),
        ("no_room", counted.no_room),
        ("evicted", watch.beyond.evicted),
        ("earlier_agent", watch.beyond.inherited),
    ];
    for (interface, modes) in probe.watched() {
        for (direction, mode) in DIRECTIONS.into_iter().zip([modes.ingress, modes.egress]) {
            if let Some(mode) = mode {
                let interface = interface.name.clone();
                picture.attachments.push(Attachment { interface, direction, mode: mode.as_str() });
            }
        }
    }
    for (application, share) in watch.connections.applications() {
        let amount = Amount { packets: share.packets, bytes: share.bytes };
        picture.applications.push((application.as_str(), amount, share.connections));
    }
    containers(watch, &mut picture);
    let memory = probe.memory().into_iter().chain(watch.tcp.iter().flat_map(ConnectionProbe::memory));
    picture.maps = memory
        .map(|map| Map { name: map.name, bytes: map.bytes, max_entries: map.max_entries.into() })
        .collect();
    let programs = probe.run_times().into_iter().chain(watch.tcp.iter().flat_map(ConnectionProbe::run_times));
    picture.programs = programs.map(|(name, run_ns, runs)| Program { name, run_ns, runs }).collect();
    let udp_begun = probe.tally(Tally::NETWORK_FLOWS_UDP);
    let (_, udp_ended) = watch.connections.ended_counts();
    picture.opened.push(("udp", udp_begun));
    picture.closed.push(("udp", probe.ended_udp_before() + udp_ended));
    for protocol in ["udp", "icmp", "sctp", "other"] {
        let of_it = watch.connections.live().filter(|(it, ..)| it.as_str() == protocol);
        picture.connections.push((protocol, "active", of_it.map(|(_, _, n)| n).sum()));
    }
    if let Some(tcp) = &watch.tcp {
        of_tcp(watch, tcp, &mut picture);
    }
    picture
}

fn containers(watch: &Watch<'_>, picture: &mut Picture) {
    let name = |cgroup: u64| match cgroup {
        0 => "outside".to_owned(),
        cgroup => watch.containers.get(&cgroup).cloned().unwrap_or_else(|| "unknown".to_owned()),
    };
    let mut rows = std::collections::BTreeMap::<_, Amount>::new();
    // Several control groups may bear one name.
    for ((from, to, application), share) in watch.connections.pairs() {
        let sum = rows.entry((name(from), name(to), application.as_str())).or_default();
        sum.packets += share.packets;
        sum.bytes += share.bytes;
    }
    picture.containers =
        rows.into_iter().map(|((from, to, application), amount)| (from, to, application, amount)).collect();
}

fn of_tcp(watch: &Watch<'_>, tcp: &ConnectionProbe, picture: &mut Picture) {
    use connection::Tally;
    let states = listing::by_state(&watch.sockets());
    for state in STATES {
        let n = states.get(&state).copied().unwrap_or(0);
        picture.connections.push(("tcp", state.as_str(), n));
    }
    picture.opened.push(("tcp", tcp.tally(Tally::CONNECTION_OPENED)));
    picture.closed.push(("tcp", tcp.tally(Tally::CONNECTION_CLOSED)));
    picture.failed = [
        ("refused", Tally::CONNECTION_REFUSED),
        ("timeout", Tally::CONNECTION_TIMED_OUT),
        ("unreachable", Tally::CONNECTION_UNREACHABLE),
        ("reset", Tally::CONNECTION_RESET),
        ("abandoned", Tally::CONNECTION_ABANDONED),
        ("other", Tally::CONNECTION_FAILED),
    ]
    .map(|(reason, tally)| (reason, tcp.tally(tally)))
    .to_vec();
    picture.retransmits = tcp.tally(Tally::CONNECTION_RETRANSMITS);
    picture.resets = vec![
        ("sent", tcp.tally(Tally::CONNECTION_RESETS_SENT)),
        ("received", tcp.tally(Tally::CONNECTION_RESETS_RECEIVED)),
    ];
    picture.rtt = Doubling { counts: tcp.rtts(), sum_us: tcp.tally(Tally::CONNECTION_RTT_SUM) };
    picture.duration =
        Doubling { counts: tcp.durations(), sum_us: tcp.tally(Tally::CONNECTION_DURATION_SUM) };
    picture.dropped = tcp
        .drops()
        .into_iter()
        .map(|(reason, n)| {
            let name = watch.drop_reasons.get(&reason).filter(|_| reason != connection::DROPS - 1);
            (name.cloned().unwrap_or_else(|| "other".to_owned()), n)
        })
        .collect();
    picture.listen_overflows = gatewatch_target::sockets::listen_overflows();
}
