//! From a record to counts and a log line.

use gatewatch_capture::{
    clock,
    nginx::{self, NginxProbe},
};
use gatewatch_decode::{
    mask::Masker,
    nginx::{Undecodable, request, started_by_nginx},
};
use gatewatch_event::request::{Request, path_of};
use gatewatch_export::log::{Details, Level, Log};
use gatewatch_insight::{
    filter::{Filter, Seen},
    ledger::{Ledger, Stage},
    traffic::{Observation, Traffic},
};
use gatewatch_target::process::ProcRoot;

use super::{
    fleet::Fleet,
    memo::Memo,
    proof::{Outcome, Watched},
};
use crate::settings;

/// What a record needs on its way to being counted: apart from the probe, so that both can be borrowed.
pub struct Folding {
    pub root: ProcRoot,
    pub fleet: Fleet,
    pub traffic: Traffic,
    pub masker: Masker,
    pub filter: Filter,
    pub memos: Memos,
    pub log: Log,
    pub ledger: Ledger,
    /// From the monotonic clock to the calendar.
    pub clock_offset: u64,
}

/// Masked texts that come again and again.
#[derive(Default)]
pub struct Memos {
    hosts: Memo,
    agents: Memo,
    peers: Memo,
}

impl Folding {
    pub fn say(&mut self, level: Level, text: &str) {
        self.log.say(level, clock::realtime(), text);
    }

    pub fn join(&mut self, row: u32, worker: &nginx::Worker, watched: &[Option<Watched>]) {
        let place = usize::try_from(worker.layout).ok().and_then(|layout| watched.get(layout));
        let binary = place.and_then(Option::as_ref).map(|watched| &*watched.binary);
        let traffic = &mut self.traffic;
        self.fleet.join(row, worker, binary, |name| traffic.gateway(name));
    }

    /// One record from the ring. Whether a layout must be set anew.
    pub fn record(&mut self, probe: &NginxProbe, watched: &mut [Option<Watched>], bytes: &[u8]) -> bool {
        let Some(raw) = nginx::RawRecord::new(bytes) else {
            self.ledger.lose(Stage::Decode, "malformed_record", 1);
            return false;
        };
        let (row, layout) = (raw.head.worker, usize::from(raw.head.layout));
        if !self.fleet.has(row)
            && let Some(worker) = probe.worker(row)
        {
            self.join(row, &worker, watched);
        }
        let binary = watched.get_mut(layout).and_then(Option::as_mut);
        if let Some(instance) = self.fleet.instance_of(row) {
            instance.drained += 1;
        }
        let Some(binary) = binary else {
            self.ledger.lose(Stage::Decode, "layout_unproven", 1);
            return false;
        };
        let now = raw.head.end_ns + self.clock_offset;
        let parsed = request(bytes);
        match binary.judge(bytes, &parsed, now) {
            Outcome::Report => self.report(bytes, parsed),
            Outcome::Held => {}
            Outcome::Implausible => self.ledger.lose(Stage::Decode, "not_a_request", 1),
            Outcome::NoRoom | Outcome::NoLayout => self.ledger.lose(Stage::Decode, "layout_unproven", 1),
            Outcome::Proven(held) => {
                let text = format!("the layout from {} is proven by live requests", binary.describe());
                self.log.say(Level::Info, now, &text);
                held.iter().for_each(|bytes| self.report(bytes, request(bytes)));
            }
            Outcome::Refuted { lost, why } => {
                self.ledger.lose(Stage::Decode, "layout_unproven", lost);
                let next = match binary.candidate() {
                    Some(candidate) => format!("trying the one from {}", candidate.source),
                    None => "there is no other: its requests are counted as lost (docs/layouts.md tells how to add one)".to_owned(),
                };
                self.log.say(
                    Level::Warn,
                    now,
                    &format!(
                        "a layout does not fit {} {}: {why}; {next}",
                        binary.binary.product, binary.binary.version
                    ),
                );
                return true;
            }
        }
        false
    }

    fn report(&mut self, bytes: &[u8], parsed: Result<Request<'_>, Undecodable>) {
        let mut request = match parsed {
            Ok(request) => request,
            Err(error) => return self.ledger.lose(Stage::Decode, error.reason(), 1),
        };
        let ended_ns = request.ended_ns + self.clock_offset;
        if !request.precise {
            let started = started_by_nginx(bytes).unwrap_or(ended_ns);
            request.duration_ns = ended_ns.saturating_sub(started);
        }
        let Some(instance) = self.fleet.instance_of(request.worker) else {
            return self.ledger.lose(Stage::Decode, "layout_unproven", 1);
        };
        let seen = Seen {
            method: request.method_name,
            status: request.status,
            host: request.host,
            client: request.remote.ip(),
        };
        if let Some(kind) = self.filter.refuses(&seen) {
            instance.filtered += 1;
            return self.ledger.lose(Stage::Filter, kind, 1);
        }
        instance.reported += 1;
        let gateway = instance.id;
        let masker = &self.masker;
        let host =
            self.memos.hosts.get(request.host, |host| settings::clean_host(masker.mask_header(host)).into());
        let target = masker.mask_target(request.target);
        let path = String::from_utf8_lossy(path_of(target.as_bytes()));
        let place = self.traffic.observe(
            &Observation {
                gateway,
                method: request.method,
                host: &host,
                path: &path,
                protocol: request.protocol,
                status: request.status,
                duration_ns: request.duration_ns,
                request_bytes: request.request_bytes,
                response_bytes: request.response_bytes,
            },
            ended_ns,
        );
        let mut peers = Vec::new();
        for tried in request.told_tries() {
            let peer = self.memos.peers.get(tried.peer, |peer| self.masker.mask_header(peer).into());
            let duration = u64::from(tried.response_ms.unwrap_or(0)) * 1_000_000;
            self.traffic.observe_upstream(gateway, place.service, &peer, duration);
            peers.push(peer);
        }
        if !self.log.writes_requests() {
            return;
        }
        let masker = &self.masker;
        let agent = self.memos.agents.get(request.user_agent, |agent| masker.mask_user_agent(agent).into());
        let remote = request.remote.to_string();
        let Some(instance) = self.fleet.instance_of(request.worker) else { return };
        let details = Details {
            gateway: &instance.name,
            service: &self.traffic.service_name(place.service),
            route: &self.traffic.path_name(place.path),
            target: &target,
            host: &host,
            user_agent: &agent,
            remote: masker.mask_remote_addr(&remote),
            peers: &peers,
            ended_ns,
        };
        self.log.request(&request, &details);
    }
}
