//! The shapes of JSON lines.

use std::{borrow::Cow, collections::BTreeMap};

use gatewatch_event::request::{LUA_PHASES, Request};
use serde::Serialize;

use super::{Details, Level, TOP, host, milliseconds, timestamp};
use crate::snapshot::{Figures, Row, Statistics};

/// K6's line, its fields first and in its order.
#[derive(Serialize)]
pub(super) struct RequestLine<'a> {
    level: &'static str,
    msg: &'static str,
    method: Cow<'a, str>,
    host: Cow<'a, str>,
    path: &'a str,
    status_code: u16,
    response_time_ns: u64,
    error_code: u8,
    timestamp: String,
    gateway: &'a str,
    service: &'a str,
    route: &'a str,
    protocol: &'static str,
    tls: bool,
    remote_addr: &'a str,
    user_agent: &'a str,
    request_bytes: u64,
    response_bytes: u64,
    pid: u32,
    tid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_addr: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_tries: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_first_byte_ms: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    lua_ns: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    #[serde(flatten)]
    more: Option<More<'a>>,
}

/// Nanoseconds of the Lua phases that took any.
pub(super) fn lua_ns(request: &Request<'_>) -> BTreeMap<&'static str, u64> {
    LUA_PHASES.into_iter().zip(request.lua_ns).filter(|(_, ns)| *ns > 0).collect()
}

/// What `debug` adds.
#[derive(Serialize)]
pub(super) struct More<'a> {
    connection: u64,
    connection_request: u64,
    precise: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tries: Vec<TryLine<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cut_fields: Vec<&'static str>,
}

#[derive(Serialize)]
struct TryLine<'a> {
    addr: &'a str,
    status: u16,
    connect_ms: Option<u32>,
    first_byte_ms: Option<u32>,
    response_ms: Option<u32>,
    bytes_received: u64,
}

impl<'a> RequestLine<'a> {
    pub(super) fn new(
        request: &Request<'a>,
        details: &'a Details<'a>,
        timestamp: String,
        more: bool,
    ) -> Self {
        let tries = request.told_tries();
        let last = tries.last();
        Self {
            level: Level::Info.name(),
            msg: "HTTP Request",
            method: String::from_utf8_lossy(request.method_name),
            host: host(request, details),
            path: details.target,
            status_code: request.status,
            response_time_ns: request.duration_ns,
            error_code: request.error as u8,
            timestamp,
            gateway: details.gateway,
            service: details.service,
            route: details.route,
            protocol: request.protocol.name(),
            tls: request.tls,
            remote_addr: &details.remote,
            user_agent: details.user_agent,
            request_bytes: request.request_bytes,
            response_bytes: request.response_bytes,
            pid: request.pid,
            tid: request.tid,
            upstream_addr: details.peers.last().map(|peer| &**peer),
            upstream_status: last.map(|last| last.status),
            upstream_tries: last.map(|_| request.tries),
            upstream_ms: request.upstream_ms(),
            upstream_first_byte_ms: request.upstream_header_ms(),
            lua_ns: lua_ns(request),
            cut: request.cut.any(),
            more: more.then(|| More::new(request, details)),
        }
    }
}

impl<'a> More<'a> {
    pub(super) fn new(request: &Request<'a>, details: &'a Details<'a>) -> Self {
        let cut = request.cut;
        let cut_fields = [
            ("path", cut.target),
            ("host", cut.host),
            ("user_agent", cut.user_agent),
            ("upstream_addr", cut.upstream),
        ];
        Self {
            connection: request.connection,
            connection_request: request.connection_request,
            precise: request.precise,
            tries: request
                .told_tries()
                .iter()
                .zip(details.peers)
                .map(|(tried, peer)| TryLine {
                    addr: peer,
                    status: tried.status,
                    connect_ms: tried.connect_ms,
                    first_byte_ms: tried.header_ms,
                    response_ms: tried.response_ms,
                    bytes_received: tried.bytes_received,
                })
                .collect(),
            cut_fields: cut_fields.into_iter().filter(|(_, cut)| *cut).map(|(name, _)| name).collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct StatisticsLine<'a> {
    level: &'static str,
    msg: &'static str,
    timestamp: String,
    total_requests: u64,
    total_responses: u64,
    total_errors: u64,
    total_client_errors: u64,
    total_server_errors: u64,
    mean_response_time_ns: u64,
    requests_in_flight: Option<u64>,
    last_request: Option<String>,
    lost: u64,
    window_seconds: f64,
    window: FiguresLine,
    #[serde(flatten)]
    dimensions: BTreeMap<&'static str, BTreeMap<&'a str, FiguresLine>>,
}

/// Counts and percentiles, as they stand in JSON; milliseconds.
#[derive(Serialize)]
pub(crate) struct FiguresLine {
    requests: u64,
    client_errors: u64,
    server_errors: u64,
    request_bytes: u64,
    response_bytes: u64,
    mean_ms: f64,
    p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
}

impl From<&Figures> for FiguresLine {
    fn from(figures: &Figures) -> Self {
        let [p50, p90, p99] = figures.percentiles_ns;
        Self {
            requests: figures.requests,
            client_errors: figures.client_errors,
            server_errors: figures.server_errors,
            request_bytes: figures.request_bytes,
            response_bytes: figures.response_bytes,
            mean_ms: milliseconds(figures.mean_ns),
            p50_ms: milliseconds(p50),
            p90_ms: milliseconds(p90),
            p99_ms: milliseconds(p99),
        }
    }
}

impl<'a> StatisticsLine<'a> {
    pub(super) fn new(now_ns: u64, statistics: &'a Statistics, in_flight: Option<u64>, lost: u64) -> Self {
        let total = &statistics.all.total;
        let top =
            |rows: &'a [Row]| rows.iter().take(2 * TOP).map(|row| (row.name.as_str(), (&row.window).into()));
        Self {
            level: Level::Info.name(),
            msg: "Statistics",
            timestamp: timestamp(now_ns),
            total_requests: total.requests + in_flight.unwrap_or(0),
            total_responses: total.requests,
            total_errors: total.client_errors + total.server_errors,
            total_client_errors: total.client_errors,
            total_server_errors: total.server_errors,
            mean_response_time_ns: total.mean_ns,
            requests_in_flight: in_flight,
            last_request: (statistics.last_request_ns > 0).then(|| timestamp(statistics.last_request_ns)),
            lost,
            window_seconds: statistics.window_seconds,
            window: (&statistics.all.window).into(),
            dimensions: statistics
                .dimensions
                .iter()
                .map(|(name, rows)| (*name, top(rows).collect()))
                .collect(),
        }
    }
}
