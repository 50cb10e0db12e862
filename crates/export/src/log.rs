//! Log lines: a request, the statistics, or what the agent has to say; as JSON or text.

mod lines;

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use gatewatch_event::request::{Request, Try};
use jiff::Timestamp;
use serde::Serialize;

use lines::{More, RequestLine, StatisticsLine, lua_ns};

pub(crate) use lines::FiguresLine;

use crate::{
    snapshot::{Figures, Statistics},
    text::{Plain, is_unsafe},
};

/// How important a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

impl Level {
    /// As it stands in a line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// What is logged, and how.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Lines below are not written; `Debug` also adds detail to the lines of requests.
    pub level: Level,
    /// JSON, else text.
    pub json: bool,
    /// A line for each request (at `info`).
    pub requests: bool,
}

/// Texts of a request that were masked, and what was found out about it.
#[derive(Clone, Debug)]
pub struct Details<'a> {
    /// The gateway instance.
    pub gateway: &'a str,
    /// The service; empty: none.
    pub service: &'a str,
    /// The path's group.
    pub route: &'a str,
    /// The target, masked.
    pub target: &'a str,
    /// The host, masked.
    pub host: &'a str,
    /// The user agent, masked.
    pub user_agent: &'a str,
    /// The client's address, masked.
    pub remote: Cow<'a, str>,
    /// The upstream servers tried, masked.
    pub peers: &'a [Arc<str>],
    /// When it ended, in nanoseconds since 1970.
    pub ended_ns: u64,
}

/// Bytes of finished lines that go to the writer at once.
const CHUNK: usize = 64 << 10;
/// How long the end waits for the last lines to be read.
const PATIENCE: Duration = Duration::from_secs(2);
/// Chunks that may wait for a reader that does not read: 4 MiB.
const WAITING: usize = 64;

/// Collects lines and hands them to a thread that writes them, so that a blocked reader blocks nobody else.
#[derive(Debug)]
pub struct Log {
    settings: Settings,
    buffer: Vec<u8>,
    lines: u64,
    out: SyncSender<Vec<u8>>,
    lost: u64,
    failed: Arc<AtomicU64>,
    clock: Clock,
    /// Closed when all has been written.
    written: Receiver<()>,
}

impl Log {
    /// Writes to `sink`, in a thread of its own.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn new(settings: Settings, mut sink: impl Write + Send + 'static) -> io::Result<Self> {
        let (out, chunks) = mpsc::sync_channel::<Vec<u8>>(WAITING);
        let failed = Arc::new(AtomicU64::new(0));
        let failures = Arc::clone(&failed);
        let (writing, written) = mpsc::channel();
        thread::Builder::new().name("log".to_owned()).spawn(move || {
            let _writing: mpsc::Sender<()> = writing;
            for chunk in chunks {
                if sink.write_all(&chunk).and_then(|()| sink.flush()).is_err() {
                    let lines = chunk.iter().filter(|byte| **byte == b'\n').count();
                    failures.fetch_add(u64::try_from(lines).unwrap_or(0), Ordering::Relaxed);
                }
            }
        })?;
        Ok(Self {
            settings,
            buffer: Vec::with_capacity(CHUNK),
            lines: 0,
            out,
            lost: 0,
            failed,
            clock: Clock::default(),
            written,
        })
    }

    /// Writes by other settings from now on.
    pub fn set(&mut self, settings: Settings) {
        self.settings = settings;
    }

    /// Lines of this level are written.
    #[must_use]
    pub fn writes(&self, level: Level) -> bool {
        level >= self.settings.level
    }

    /// Lines for requests are written.
    #[must_use]
    pub fn writes_requests(&self) -> bool {
        self.settings.requests && self.writes(Level::Info)
    }

    /// Lines that were lost because nobody read them, or the reader was gone.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost + self.failed.load(Ordering::Relaxed)
    }

    /// Something the agent has to say.
    pub fn say(&mut self, level: Level, now_ns: u64, msg: &str) {
        if !self.writes(level) {
            return;
        }
        if self.settings.json {
            #[derive(Serialize)]
            struct Line<'a> {
                level: &'static str,
                msg: &'a str,
                timestamp: String,
            }
            self.json(&Line { level: level.name(), msg, timestamp: timestamp(now_ns) });
        } else {
            let time = timestamp(now_ns);
            self.text(format_args!("{time} {:5} {}", level.name(), Plain(msg)));
        }
    }

    /// A finished request.
    pub fn request(&mut self, request: &Request<'_>, details: &Details<'_>) {
        if !self.writes_requests() {
            return;
        }
        if self.settings.json {
            let stamp = self.clock.stamp(details.ended_ns);
            let line = RequestLine::new(request, details, stamp, self.writes(Level::Debug));
            self.json(&line);
        } else {
            self.request_text(request, details);
        }
    }

    fn request_text(&mut self, request: &Request<'_>, details: &Details<'_>) {
        let time = self.clock.stamp(details.ended_ns);
        let service =
            if details.service.is_empty() { String::new() } else { format!(" [{}]", Plain(details.service)) };
        let method = String::from_utf8_lossy(request.method_name);
        let tls = if request.tls { "+tls" } else { "" };
        let host = host(request, details);
        let group = if details.route == details.target { "" } else { details.route };
        let protocol = request.protocol.name();
        self.text(format_args!(
            "{time} info  {} {} {} {}{}{} {:.3}ms {}{tls} {}{service}{}{}{}",
            Plain(details.gateway),
            request.status,
            Plain(if method.is_empty() { "-" } else { &method }),
            Plain(if host.is_empty() { "-" } else { &host }),
            Plain(if details.target.is_empty() { " (not parsed)" } else { details.target }),
            if request.cut.target { "… (cut)" } else { "" },
            milliseconds(request.duration_ns),
            if protocol.is_empty() { "-" } else { protocol },
            Plain(&details.remote),
            if group.is_empty() { "" } else { " as " },
            Plain(group),
            Tries(request.told_tries(), details.peers),
        ));
        if self.writes(Level::Debug) {
            let rest = serde_json::to_string(&More::new(request, details)).unwrap_or_default();
            let lua = lua_ns(request);
            let lua =
                if lua.is_empty() { String::new() } else { serde_json::to_string(&lua).unwrap_or_default() };
            self.text(format_args!("{time} debug {} {}", Plain(&rest), Plain(&lua)));
        }
    }

    /// The statistics of a window.
    pub fn statistics(&mut self, now_ns: u64, statistics: &Statistics, in_flight: Option<u64>, lost: u64) {
        if !self.writes(Level::Info) {
            return;
        }
        if self.settings.json {
            self.json(&StatisticsLine::new(now_ns, statistics, in_flight, lost));
            return;
        }
        let (window, total) = (&statistics.all.window, &statistics.all.total);
        let time = timestamp(now_ns);
        let in_flight = in_flight.map_or_else(|| "?".to_owned(), |n| n.to_string());
        self.text(format_args!(
            "{time} stats {} requests in {:.0} s, {:.1}/s, 4xx {}, 5xx {}, mean {:.3} ms, p50 {:.3}, p90 {:.3}, p99 {:.3}; in all {}, 4xx {}, 5xx {}; in flight {in_flight}; lost {lost}",
            window.requests,
            statistics.window_seconds,
            rate(window, statistics.window_seconds),
            window.client_errors,
            window.server_errors,
            milliseconds(window.mean_ns),
            milliseconds(window.percentiles_ns[0]),
            milliseconds(window.percentiles_ns[1]),
            milliseconds(window.percentiles_ns[2]),
            total.requests,
            total.client_errors,
            total.server_errors,
        ));
        for (dimension, rows) in &statistics.dimensions {
            for row in rows.iter().take(TOP).filter(|row| row.window.requests > 0 && !row.name.is_empty()) {
                self.text(format_args!(
                    "{time} stats   {dimension:8} {:7} requests  4xx {:5}  5xx {:5}  p50 {:9.3} ms  p99 {:9.3} ms  {}",
                    row.window.requests,
                    row.window.client_errors,
                    row.window.server_errors,
                    milliseconds(row.window.percentiles_ns[0]),
                    milliseconds(row.window.percentiles_ns[2]),
                    Plain(&row.name),
                ));
            }
        }
    }

    fn json(&mut self, line: &impl Serialize) {
        // Writing to a vector cannot fail, nor can the types written.
        let from = self.buffer.len();
        let _infallible = serde_json::to_writer(&mut self.buffer, line);
        escape_unsafe(&mut self.buffer, from);
        self.buffer.push(b'\n');
        self.finished();
    }

    fn text(&mut self, line: std::fmt::Arguments<'_>) {
        let _infallible = writeln!(self.buffer, "{line}");
        self.finished();
    }

    fn finished(&mut self) {
        self.lines += 1;
        if self.buffer.len() >= CHUNK {
            self.flush();
        }
    }

    /// Hands the finished lines to the writer. Call it at each turn of the loop.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.out.try_send(chunk) {
            self.lost += self.lines;
        }
        self.lines = 0;
    }
}

impl Log {
    /// Hands over what is left and waits until it is written.
    pub fn finish(&mut self) {
        self.flush();
        // Without a sender the writer ends when it has written all.
        let (closed, _) = mpsc::sync_channel(0);
        self.out = closed;
        // Its end shows as the channel's; a reader that does not read is not waited for.
        if let Err(mpsc::RecvTimeoutError::Timeout) = self.written.recv_timeout(PATIENCE) {
            self.lost += self.lines;
        }
    }
}

/// `serde_json` escapes what JSON asks for; a terminal asks for more.
fn escape_unsafe(buffer: &mut Vec<u8>, from: usize) {
    let tail = buffer.get(from..).unwrap_or(&[]);
    if tail.is_ascii() && !tail.contains(&0x7f) {
        return;
    }
    let line = String::from_utf8_lossy(tail).into_owned();
    buffer.truncate(from);
    for c in line.chars() {
        let mut units = [0; 2];
        if is_unsafe(c) {
            for unit in c.encode_utf16(&mut units) {
                let _infallible = write!(buffer, "\\u{unit:04x}");
            }
        } else {
            let mut bytes = [0; 4];
            buffer.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
        }
    }
}

/// Upstream servers in the order they were tried; with their statuses where one was not enough.
struct Tries<'a>(&'a [Try<'a>], &'a [Arc<str>]);

impl std::fmt::Display for Tries<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (tried, peer) in self.0.iter().zip(self.1) {
            write!(f, " -> {}", Plain(peer))?;
            if self.0.len() > 1 {
                write!(f, " ({})", tried.status)?;
            }
        }
        Ok(())
    }
}

/// Lines a dimension has in the text statistics.
const TOP: usize = 5;

#[allow(clippy::cast_precision_loss)] // for reading, to three places
fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

#[allow(clippy::cast_precision_loss)] // for reading, to one place
fn rate(figures: &Figures, seconds: f64) -> f64 {
    if seconds > 0.0 { figures.requests as f64 / seconds } else { 0.0 }
}

/// RFC 3339, UTC, to the millisecond.
fn timestamp(ns: u64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    format!("{time:.3}")
}

/// Writes timestamps; the calendar is asked once a second only.
#[derive(Debug, Default)]
struct Clock {
    second: u64,
    /// Up to the point before the milliseconds.
    text: String,
}

impl Clock {
    fn stamp(&mut self, ns: u64) -> String {
        let (second, ms) = (ns / 1_000_000_000, ns / 1_000_000 % 1000);
        if second != self.second || self.text.is_empty() {
            let whole = timestamp(second * 1_000_000_000);
            self.text.clear();
            self.text.push_str(whole.trim_end_matches("000Z"));
            self.second = second;
        }
        let mut text = String::with_capacity(24);
        text.push_str(&self.text);
        for digit in [ms / 100, ms / 10 % 10, ms % 10] {
            text.push(char::from(b'0' + u8::try_from(digit).unwrap_or(0)));
        }
        text.push('Z');
        text
    }
}

fn host<'a>(request: &Request<'_>, details: &'a Details<'_>) -> Cow<'a, str> {
    match request.host_port {
        Some(port) => Cow::Owned(format!("{}:{port}", details.host)),
        None => Cow::Borrowed(details.host),
    }
}

/// A line for people, without a log: used by commands that print and end.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut line = String::new();
    let _infallible = write!(line, "{}", Plain(text));
    line
}

#[cfg(test)]
mod tests;
