//! HTTP read from the sockets of this node: pieces put together to requests, named, counted.

mod tally;
mod tls;

use std::collections::{HashMap, hash_map::Entry};

use anyhow::Result;
use gatewatch_capture::{
    kernel,
    socket::{self, ConnectionId, Event, SocketProbe, Tallies},
};
use gatewatch_config::{Config, RequestSource};
use gatewatch_decode::{
    comm,
    http::{Conversation, Counts, Decoder, Direction, HELD_MAX, Piece, Side},
};
use gatewatch_event::Exchange;
use gatewatch_insight::{exchanges::Bounds, health::HealthChecks};

use super::cluster::Cluster;
use crate::settings;
pub use tally::Count;
use tally::Server;
use tls::Tls;

/// Connections followed at once.
const CONNECTIONS_MAX: usize = 131_072;
/// A connection that has been silent for so long is let go; should it speak again, it is met anew.
const SILENT_NS: u64 = 3_600_000_000_000;
/// Of the ring that pieces come by: half a second of a busy node, should this process wait for its turn so long.
const RING_BYTES: u32 = 16 << 20;
/// Pieces taken at once.
const BATCH: usize = 16_384;

/// Requests of this node.
pub struct Requests {
    probe: SocketProbe,
    open: HashMap<ConnectionId, Open>,
    decoder: Decoder,
    /// What is counted.
    pub count: Count,
    tls: Option<Tls>,
    /// To be said once.
    notes: Vec<String>,
    /// Connections not followed because there were too many.
    pub turned_away: u64,
}

struct Open {
    conversation: Conversation,
    /// Positions at which it was met.
    base: [Option<u64>; 2],
    server: Server,
    last_ns: u64,
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
            servers_only: true,
            ring_bytes: RING_BYTES,
            ..socket::Settings::default()
        })?;
        let mut notes = Vec::new();
        let tls = match wanted.tls {
            true if kernel::has_cookies() => Some(Tls::new(pid_namespace)?),
            true => {
                notes.push("requests within TLS are not read, those in the clear are: Linux 5.15 or newer is needed for TLS, or set node.requests.tls: false".to_owned());
                None
            }
            false => None,
        };
        let health = match wanted.filter_health_checks {
            true => HealthChecks::new(wanted.health_check_paths.iter().map(String::as_str)),
            false => HealthChecks::off(),
        };
        let series = usize::try_from(config.series.max).unwrap_or(usize::MAX);
        let bounds = Bounds {
            requests: series / 5,
            answers: series / 10,
            paths: usize::try_from(config.paths.max_groups).unwrap_or(usize::MAX),
            ..Bounds::default()
        };
        let decoder = Decoder::new(settings::masker(config)?, HELD_MAX);
        probe.attach()?;
        Ok(Self {
            probe,
            open: HashMap::new(),
            decoder,
            count: Count::new(bounds, health, wanted.source == RequestSource::Workload),
            tls,
            notes,
            turned_away: 0,
        })
    }

    /// Reads what was moved since the last call; how many pieces there were.
    pub fn drain(&mut self, now_ns: u64, cluster: Option<&Cluster>) -> usize {
        let Self { probe, open, decoder, count, turned_away, .. } = self;
        let mut ended = Vec::new();
        let drained = probe.drain(BATCH, |event| match event {
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
                        count.met(&met.server);
                        place.insert(met)
                    }
                };
                place.read(&piece, decoder, &mut ended);
                place.tell(&mut ended, now_ns, count, cluster);
            }
            Event::End(end) => {
                // What was decrypted from a socket ends with it.
                for decrypted in [true, false] {
                    let id = ConnectionId { decrypted, ..end.connection };
                    if let Some(mut gone) = open.remove(&id) {
                        gone.conversation.close(end.at_ns, decoder, &mut |exchange| ended.push(exchange));
                        gone.tell(&mut ended, now_ns, count, cluster);
                    }
                }
            }
        });
        count.tick(now_ns, cluster);
        drained
    }

    /// Lets go what has long been silent.
    pub fn keep_house(&mut self, now_ns: u64, cluster: Option<&Cluster>) {
        let Self { open, decoder, count, .. } = self;
        let mut ended = Vec::new();
        open.retain(|_, place| {
            let silent = now_ns.saturating_sub(place.last_ns) > SILENT_NS;
            if silent {
                place.conversation.close(now_ns, decoder, &mut |exchange| ended.push(exchange));
                place.tell(&mut ended, now_ns, count, cluster);
            }
            !silent
        });
        count.forget(now_ns);
    }

    /// Attaches to where TLS was found; what is to be said of it.
    pub fn attach_tls(&mut self) -> Vec<String> {
        let mut notes = std::mem::take(&mut self.notes);
        if let Some(tls) = &mut self.tls {
            notes.append(&mut tls.attach(&mut self.probe));
        }
        notes
    }

    /// Files in which TLS is read.
    pub fn tls_files(&self) -> usize {
        self.tls.as_ref().map_or(0, Tls::files)
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
        let mut server = Server::new(comm::clean(&piece.comm).into(), piece.network_namespace);
        if let Some((local, remote)) = piece.local.zip(piece.remote) {
            server.at(local, remote);
        }
        Self {
            conversation: Conversation::new(side, piece.joined),
            // Of one that was joined, positions count from where it was met.
            base: if piece.joined { [None; 2] } else { [Some(0); 2] },
            server,
            last_ns: piece.at_ns,
        }
    }

    fn read(&mut self, piece: &socket::Piece<'_>, decoder: &mut Decoder, ended: &mut Vec<Exchange>) {
        let (direction, index) = match piece.direction {
            socket::Direction::Received => (Direction::Received, 0),
            socket::Direction::Sent => (Direction::Sent, 1),
        };
        let position = match self.base.get_mut(index) {
            Some(base) => piece.position.saturating_sub(*base.get_or_insert(piece.position)),
            None => piece.position,
        };
        self.last_ns = piece.at_ns;
        if let (false, Some((local, remote))) = (self.server.has_ends(), piece.local.zip(piece.remote)) {
            self.server.at(local, remote);
            self.server.network_namespace = self.server.network_namespace.max(piece.network_namespace);
        }
        let (at_ns, bytes) = (piece.at_ns, piece.bytes);
        let piece = Piece { at_ns, direction, position, length: piece.length.into(), bytes };
        self.conversation.push(&piece, decoder, &mut |exchange| ended.push(exchange));
    }

    /// Counts what was received here; what was sent is counted where it is received.
    fn tell(&self, ended: &mut Vec<Exchange>, now_ns: u64, count: &mut Count, cluster: Option<&Cluster>) {
        let is_server = self.conversation.asks() == Some(Direction::Received);
        for exchange in ended.drain(..).filter(|_| is_server) {
            count.served(&self.server, exchange, now_ns, cluster);
        }
    }
}
