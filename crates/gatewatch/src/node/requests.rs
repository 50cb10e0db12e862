//! HTTP read from the sockets of this node: pieces put together to requests, named, counted.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::Result;
use gatewatch_capture::{
    process::{ProcessChange, ProcessProbe},
    socket::{self, ConnectionId, Event, SocketProbe, Tallies},
    tls::TlsAttachment,
};
use gatewatch_config::{Config, RequestSource};
use gatewatch_decode::http::{Conversation, Counts, Decoder, Direction, HELD_MAX, Piece, Side};
use gatewatch_event::Exchange;
use gatewatch_insight::{
    exchanges::{Bounds, Exchanges, Received},
    health::HealthChecks,
};
use gatewatch_target::{process::ProcRoot, tls::Finder};

use super::cluster::Cluster;
use crate::settings;

/// Connections followed at once.
const CONNECTIONS_MAX: usize = 131_072;
/// A connection that has been silent for so long is let go; should it speak again, it is met anew.
const SILENT_NS: u64 = 3_600_000_000_000;
/// Pieces taken at once.
const BATCH: usize = 16_384;
/// Processes looked at for TLS in one turn.
const LOOKS: usize = 32;
/// How often all processes are looked at again: a library may be loaded long after the process began.
const LOOK_AGAIN_NS: u64 = 30_000_000_000;

/// Requests of this node.
pub struct Requests {
    probe: SocketProbe,
    open: HashMap<ConnectionId, Open>,
    decoder: Decoder,
    /// What is counted.
    pub exchanges: Exchanges,
    source: RequestSource,
    tls: Option<Tls>,
    /// Connections not followed because there were too many.
    pub turned_away: u64,
}

struct Open {
    conversation: Conversation,
    /// Positions at which it was met.
    base: [Option<u64>; 2],
    ends: Option<(SocketAddr, SocketAddr)>,
    comm: Arc<str>,
    network_namespace: u32,
    last_ns: u64,
}

/// Where TLS is done.
struct Tls {
    finder: Finder,
    attached: Vec<TlsAttachment>,
    processes: ProcessProbe,
    waiting: VecDeque<u32>,
    root: ProcRoot,
    looked_ns: u64,
}

impl Requests {
    /// Loads and attaches.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn new(config: &Config, pid_namespace: u32) -> Result<Self> {
        let wanted = &config.node.requests;
        let mut probe = SocketProbe::load(&socket::Settings {
            exclude_comms: wanted.exclude_comms.clone(),
            pid_namespace,
            ..socket::Settings::default()
        })?;
        probe.attach()?;
        let tls = match wanted.tls {
            true => Some(Tls {
                finder: Finder::default(),
                attached: Vec::new(),
                processes: ProcessProbe::load(pid_namespace)?,
                waiting: VecDeque::new(),
                root: ProcRoot::new("/proc"),
                looked_ns: 0,
            }),
            false => None,
        };
        let health = HealthChecks::new(wanted.filter_health_checks, wanted.health_check_paths.clone());
        let bounds = Bounds {
            series: usize::try_from(config.series.max).unwrap_or(usize::MAX),
            groups: usize::try_from(config.paths.max_groups).unwrap_or(usize::MAX),
        };
        Ok(Self {
            probe,
            open: HashMap::new(),
            decoder: Decoder::new(settings::masker(config)?, HELD_MAX),
            exchanges: Exchanges::new(bounds, health),
            source: wanted.source,
            tls,
            turned_away: 0,
        })
    }

    /// Reads what was moved since the last call; how many pieces there were.
    pub fn drain(&mut self, cluster: Option<&Cluster>) -> usize {
        let Self { probe, open, decoder, exchanges, source, turned_away, .. } = self;
        let source = *source;
        probe.drain(BATCH, |event| match event {
            Event::Piece(piece) => {
                let full = open.len() >= CONNECTIONS_MAX;
                let place = match open.entry(piece.connection) {
                    Entry::Occupied(place) => place.into_mut(),
                    Entry::Vacant(_) if full => {
                        *turned_away += 1;
                        return;
                    }
                    Entry::Vacant(place) => {
                        let met = Open::met(&piece);
                        exchanges.met(&met.comm, met.network_namespace);
                        place.insert(met)
                    }
                };
                place.read(&piece, decoder, |place, exchange| {
                    count(place, &exchange, exchanges, cluster, source)
                });
            }
            Event::End(end) => {
                // What was decrypted from a socket ends with it.
                for decrypted in [true, false] {
                    let id = ConnectionId { decrypted, ..end.connection };
                    if let Some(mut gone) = open.remove(&id) {
                        gone.close(end.at_ns, decoder, |place, exchange| {
                            count(place, &exchange, exchanges, cluster, source);
                        });
                    }
                }
            }
        })
    }

    /// Lets go what has long been silent, and looks for TLS in processes that are new.
    pub fn keep_house(&mut self, now_ns: u64, cluster: Option<&Cluster>) {
        let Self { open, decoder, exchanges, source, .. } = self;
        let source = *source;
        open.retain(|_, place| {
            let silent = now_ns.saturating_sub(place.last_ns) > SILENT_NS;
            if silent {
                place.close(now_ns, decoder, |place, exchange| {
                    count(place, &exchange, exchanges, cluster, source)
                });
            }
            !silent
        });
    }

    /// Looks for TLS in processes that are new; what could not be probed.
    pub fn find_tls(&mut self, now_ns: u64) -> Vec<String> {
        let Some(tls) = &mut self.tls else { return Vec::new() };
        let waiting = &mut tls.waiting;
        tls.processes.drain(|change| {
            if let ProcessChange::Exec { pid: pid @ 1.., .. } = change {
                waiting.push_back(pid);
            }
        });
        if now_ns.saturating_sub(tls.looked_ns) > LOOK_AGAIN_NS || tls.looked_ns == 0 {
            tls.looked_ns = now_ns;
            tls.waiting = tls.root.pids().into();
        }
        let mut failed = Vec::new();
        for _ in 0..LOOKS {
            let Some(pid) = tls.waiting.pop_front() else { break };
            for file in tls.finder.look(&tls.root, pid) {
                match self.probe.attach_tls(&file) {
                    Ok(attachment) => tls.attached.push(attachment),
                    Err(error) => failed.push(error.to_string()),
                }
            }
        }
        failed
    }

    /// What the kernel programs counted.
    pub fn tallies(&self) -> Tallies {
        self.probe.tallies()
    }

    /// The probe itself.
    pub fn probe(&self) -> &SocketProbe {
        &self.probe
    }

    /// What became of the bytes.
    pub fn counts(&self) -> Counts {
        self.decoder.counts
    }

    /// Connections followed now.
    pub fn connections(&self) -> usize {
        self.open.len()
    }
}

impl Open {
    fn met(piece: &socket::Piece<'_>) -> Self {
        let side = match piece.side {
            Some(socket::Side::Server) => Side::Server,
            Some(socket::Side::Client) => Side::Client,
            None => Side::Unknown,
        };
        let name = piece.comm.split(|byte| *byte == 0).next().unwrap_or_default();
        let comm: String = String::from_utf8_lossy(name)
            .chars()
            .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
            .collect();
        // Of one that was joined, positions count from where it was met.
        let base = if piece.joined { [None; 2] } else { [Some(0); 2] };
        Self {
            conversation: Conversation::new(side, piece.joined),
            base,
            ends: piece.local.zip(piece.remote),
            comm: comm.into(),
            network_namespace: piece.network_namespace,
            last_ns: piece.at_ns,
        }
    }

    fn read(
        &mut self,
        piece: &socket::Piece<'_>,
        decoder: &mut Decoder,
        mut out: impl FnMut(&Self, Exchange),
    ) {
        let (direction, index) = match piece.direction {
            socket::Direction::Received => (Direction::Received, 0),
            socket::Direction::Sent => (Direction::Sent, 1),
        };
        let position = match self.base.get_mut(index) {
            Some(base) => piece.position.saturating_sub(*base.get_or_insert(piece.position)),
            None => piece.position,
        };
        self.last_ns = piece.at_ns;
        if self.ends.is_none() {
            self.ends = piece.local.zip(piece.remote);
            self.network_namespace = self.network_namespace.max(piece.network_namespace);
        }
        let piece = Piece {
            at_ns: piece.at_ns,
            direction,
            position,
            length: piece.length.into(),
            bytes: piece.bytes,
        };
        let mut ended = Vec::new();
        self.conversation.push(&piece, decoder, &mut |exchange| ended.push(exchange));
        ended.into_iter().for_each(|exchange| out(self, exchange));
    }

    fn close(&mut self, at_ns: u64, decoder: &mut Decoder, mut out: impl FnMut(&Self, Exchange)) {
        let mut ended = Vec::new();
        self.conversation.close(at_ns, decoder, &mut |exchange| ended.push(exchange));
        ended.into_iter().for_each(|exchange| out(self, exchange));
    }
}

/// Counts a request that was received here; those that were sent are counted where they are received.
fn count(
    place: &Open,
    exchange: &Exchange,
    exchanges: &mut Exchanges,
    cluster: Option<&Cluster>,
    source: RequestSource,
) {
    if place.conversation.asks() != Some(Direction::Received) {
        return;
    }
    let remote = place.ends.map(|(_, remote)| remote.ip());
    let workload = match source {
        RequestSource::Workload => cluster.zip(remote).and_then(|(cluster, ip)| cluster.workload(ip)),
        RequestSource::Ip => None,
    };
    let source = workload.or_else(|| remote.map(|ip| ip.to_string())).unwrap_or_default();
    let callee = cluster
        .zip(place.ends)
        .map(|(cluster, (local, _))| cluster.server(local, place.network_namespace))
        .unwrap_or_default();
    let received = Received {
        source: source.into(),
        ends: place.ends.map(|(local, remote)| (remote.ip(), local.ip())),
        callee,
        comm: &place.comm,
        network_namespace: place.network_namespace,
    };
    exchanges.received(&received, exchange);
}
