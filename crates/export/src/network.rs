//! What the network's watcher publishes, and the desk at which it meets the server: counts at each scrape, connections
//! one by one when somebody asks.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{log::Level, snapshot::Program};

/// How long a question waits for the watcher; past that it gets the last picture.
const PATIENCE: Duration = Duration::from_millis(1000);

/// Messages that wait to be logged.
const MESSAGES_MAX: usize = 100;

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Packets.
    pub packets: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// A histogram by powers of two: bucket `i` counts values up to 2^`i` µs.
#[derive(Clone, Debug, Default)]
pub struct Doubling {
    /// Counts, not cumulated.
    pub counts: Vec<u64>,
    /// Sum of all values in µs.
    pub sum_us: u64,
}

/// How an interface is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// The hook.
    pub mode: &'static str,
}

/// Kernel memory of a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// Most entries; of a ring, its bytes.
    pub max_entries: u64,
}

/// Everything about packets and connections, at one moment. Counters only grow.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// Whether each probe counts: its name, and yes or no.
    pub probes: Vec<(&'static str, bool)>,
    /// By interface, direction, family, protocol.
    pub packets: Vec<(String, &'static str, &'static str, &'static str, Amount)>,
    /// What the filters keep out, by interface and direction.
    pub filtered: Vec<(String, &'static str, Amount)>,
    /// Packets counted at an interface and accounted to no connection, by reason.
    pub unaccounted: Vec<(&'static str, Amount)>,
    /// Interfaces watched.
    pub attachments: Vec<Attachment>,
    /// Connections now, by protocol and state.
    pub connections: Vec<(&'static str, &'static str, u64)>,
    /// Connections opened and closed, by protocol.
    pub opened: Vec<(&'static str, u64)>,
    /// See `opened`.
    pub closed: Vec<(&'static str, u64)>,
    /// TCP connections that failed, by reason.
    pub failed: Vec<(&'static str, u64)>,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// TCP resets, `sent` and `received`.
    pub resets: Vec<(&'static str, u64)>,
    /// Smoothed round-trip times of connections that ended.
    pub rtt: Doubling,
    /// How long they lasted.
    pub duration: Doubling,
    /// Packets the kernel dropped, by its reason.
    pub dropped: Vec<(String, u64)>,
    /// Connections refused because a listener's queue was full; `None` where the kernel does not tell.
    pub listen_overflows: Option<u64>,
    /// By application: traffic, and connections begun.
    pub applications: Vec<(&'static str, Amount, u64)>,
    /// By sender, receiver and application.
    pub containers: Vec<(String, String, &'static str, Amount)>,
    /// Connections the kernel's table had no room for any longer.
    pub evicted: u64,
    /// Beginnings of connections that found no room in their ring.
    pub samples_lost: u64,
    /// Repairs made, by what was broken.
    pub repairs: Vec<(&'static str, u64)>,
    /// Nanoseconds for which an interface may have gone uncounted, all together.
    pub blind_ns: u64,
    /// Nanoseconds for which no agent ran, since counting began.
    pub absent_ns: u64,
    /// Kernel memory.
    pub maps: Vec<Map>,
    /// The programs' run times.
    pub programs: Vec<Program>,
}

/// A process at an end of a connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its container, or the unit it runs in; empty where neither.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub container: String,
    /// The gateway instance it works for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
}

/// A connection that lives. In and out are as seen from `local`; inside this namespace, from the end that opened it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// `tcp`, `udp`, `icmp`, `sctp`, `other`.
    pub protocol: String,
    /// What it carries, as far as is known.
    pub application: String,
    /// Of TCP its state; else `active`.
    pub state: String,
    /// `incoming`, `outgoing`, or `inner`: both ends are in this network namespace.
    pub direction: String,
    /// Address and port.
    pub local: String,
    /// The other end's.
    pub remote: String,
    /// Where its packets are counted; empty while there are none.
    pub interface: String,
    /// Packets since it is watched.
    pub packets_out: u64,
    /// Likewise.
    pub packets_in: u64,
    /// Bytes of their frames.
    pub bytes_out: u64,
    /// Likewise.
    pub bytes_in: u64,
    /// Bytes carried: of TCP since the connection began, else since it is watched.
    pub payload_out: u64,
    /// Likewise.
    pub payload_in: u64,
    /// Microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    /// Segments sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retransmits: Option<u32>,
    /// Seconds since it was opened, or since its first packet; unset where it is older than the counting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<f64>,
    /// Host of its first request, or TLS' server name, or DNS' question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Path of its first request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// TLS' version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls_version: Option<String>,
    /// What TLS' handshake agreed to speak.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alpn: Option<String>,
    /// Who has the local end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    /// Who has the other, where it is in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Process>,
}

/// Where watcher and server meet.
#[derive(Debug)]
pub struct Desk {
    picture: watch::Sender<Arc<Picture>>,
    connections: watch::Sender<Arc<Vec<Connection>>>,
    asked: AtomicBool,
    asked_for_connections: AtomicBool,
    watcher: Mutex<Option<Thread>>,
    messages: Mutex<Vec<(Level, String)>>,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            picture: watch::Sender::new(Arc::default()),
            connections: watch::Sender::new(Arc::default()),
            asked: AtomicBool::new(false),
            asked_for_connections: AtomicBool::new(false),
            watcher: Mutex::new(None),
            messages: Mutex::default(),
        }
    }
}

impl Desk {
    /// For the watcher: it is the thread that answers from now on.
    pub fn open(&self, watcher: Thread) {
        if let Ok(mut seat) = self.watcher.lock() {
            *seat = Some(watcher);
        }
    }

    /// For the watcher: nobody answers any longer.
    pub fn close(&self) {
        if let Ok(mut seat) = self.watcher.lock() {
            *seat = None;
        }
    }

    /// For the watcher: a message for the log, which is the hot loop's.
    pub fn say(&self, level: Level, message: String) {
        if let Ok(mut messages) = self.messages.lock()
            && messages.len() < MESSAGES_MAX
        {
            messages.push((level, message));
        }
    }

    /// For the hot loop: what the watcher had to say.
    pub fn messages(&self) -> Vec<(Level, String)> {
        self.messages.try_lock().map(|mut messages| std::mem::take(&mut *messages)).unwrap_or_default()
    }

    /// For the watcher: somebody waits for a picture.
    pub fn is_asked(&self) -> bool {
        self.asked.swap(false, Ordering::AcqRel)
    }

    /// For the watcher: somebody waits for the connections.
    pub fn is_asked_for_connections(&self) -> bool {
        self.asked_for_connections.swap(false, Ordering::AcqRel)
    }

    /// For the watcher.
    pub fn publish(&self, picture: Picture) {
        self.picture.send_replace(Arc::new(picture));
    }

    /// For the watcher.
    pub fn publish_connections(&self, connections: Vec<Connection>) {
        self.connections.send_replace(Arc::new(connections));
    }

    /// Wakes the watcher; false where there is none.
    fn wake(&self) -> bool {
        let seat = self.watcher.lock().ok();
        let watcher = seat.as_ref().and_then(|seat| seat.as_ref());
        watcher.map(Thread::unpark).is_some()
    }

    /// The last picture, however old.
    #[must_use]
    pub fn last(&self) -> Arc<Picture> {
        Arc::clone(&self.picture.borrow())
    }

    /// A picture not older than this call, if the watcher gives one in time, else the last.
    pub async fn fresh(&self) -> Arc<Picture> {
        let mut latest = self.picture.subscribe();
        latest.mark_unchanged();
        self.asked.store(true, Ordering::Release);
        if self.wake() {
            let _in_time = tokio::time::timeout(PATIENCE, latest.changed()).await;
        }
        Arc::clone(&latest.borrow())
    }

    /// The connections now; `None` where nobody watches them.
    pub async fn connections(&self) -> Option<Arc<Vec<Connection>>> {
        let mut latest = self.connections.subscribe();
        latest.mark_unchanged();
        self.asked_for_connections.store(true, Ordering::Release);
        if !self.wake() {
            return None;
        }
        let _in_time = tokio::time::timeout(PATIENCE * 5, latest.changed()).await;
        Some(Arc::clone(&latest.borrow()))
    }
}
