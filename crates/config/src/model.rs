//! The configuration's types. The defaults stand here and nowhere else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::units;

/// The whole configuration; each field is a section of the file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What is watched, and how often figures are gathered.
    pub monitoring: Monitoring,
    /// Metrics offered and pushed.
    pub metrics: Metrics,
    /// Thresholds that raise alerts.
    pub alerts: Alerts,
    /// Which service a request belongs to.
    pub routing: Routing,
    /// Domains that get figures of their own.
    pub domain_analysis: DomainAnalysis,
    /// Paths that get figures of their own.
    pub path_analysis: PathAnalysis,
    /// The gateway that is watched.
    pub gateway: Gateway,
    /// Sizes of the kernel side.
    pub capture: Capture,
    /// Packets and connections.
    pub network: Network,
    /// What `gatewatch node` watches.
    pub node: Node,
    /// How paths are grouped.
    pub paths: Paths,
    /// Bounds on time series.
    pub series: Series,
    /// The watcher's own log.
    pub log: Log,
    /// The statistics line.
    pub stats: Stats,
    /// Where metrics and the API are served.
    pub listen: Listen,
    /// What is hidden before anything leaves the process.
    pub mask: Mask,
}

/// `monitoring`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Monitoring {
    /// Off: nothing is attached to the gateway.
    pub enabled: bool,
    /// How often figures are gathered from the kernel; 10ms to 1h.
    #[serde(with = "units::duration")]
    pub interval: Duration,
    /// What is watched. Entries of different kinds combine by AND, values of one kind by OR.
    pub filters: Vec<Filter>,
}

impl Default for Monitoring {
    fn default() -> Self {
        Self { enabled: true, interval: Duration::from_secs(1), filters: Vec::new() }
    }
}

/// One entry of `monitoring.filters`; usually a single key of it is given. Lists may be written as YAML
/// lists or as text with commas.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Transport protocols.
    #[serde(with = "units::list", skip_serializing_if = "Vec::is_empty")]
    pub protocol: Vec<Protocol>,
    /// TCP or UDP ports, 1 to 65535.
    #[serde(with = "units::list", skip_serializing_if = "Vec::is_empty")]
    pub port: Vec<u16>,
    /// Networks: `10.0.0.0/8`, `2001:db8::/32`, or single addresses.
    #[serde(with = "units::list", skip_serializing_if = "Vec::is_empty")]
    pub network: Vec<String>,
    /// Network interfaces by name.
    #[serde(with = "units::list", skip_serializing_if = "Vec::is_empty")]
    pub interface: Vec<String>,
    /// HTTP methods.
    #[serde(with = "units::list", skip_serializing_if = "Vec::is_empty")]
    pub method: Vec<String>,
    /// Status codes: `404`, `5xx`, `400-499`.
    #[serde(with = "units::list", skip_serializing_if = "Vec::is_empty")]
    pub status: Vec<StatusRange>,
    /// Host names, `*.example.com` for subdomains.
    #[serde(with = "units::list", skip_serializing_if = "Vec::is_empty")]
    pub host: Vec<String>,
}

/// A transport protocol in a filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Status codes from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct StatusRange {
    /// Lowest code.
    pub first: u16,
    /// Highest code.
    pub last: u16,
}

/// `metrics`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Off: no `/metrics`.
    pub enabled: bool,
    /// A Prometheus to push to (remote write at `/api/v1/write`); unset: nothing is pushed.
    pub endpoint: Option<String>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { enabled: true, endpoint: None }
    }
}

/// `alerts`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alerts {
    /// Off: thresholds are not looked at.
    pub enabled: bool,
    /// Limits; an unset one raises nothing.
    pub thresholds: Thresholds,
}

impl Default for Alerts {
    fn default() -> Self {
        Self { enabled: true, thresholds: Thresholds::default() }
    }
}

/// `alerts.thresholds`
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Share of 4xx and 5xx answers, 0 to 1.
    pub error_rate: Option<f64>,
    /// 99th percentile of the response time.
    #[serde(with = "units::optional_duration")]
    pub latency_p99: Option<Duration>,
}

/// `routing`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Routing {
    /// Off: requests get no service label.
    pub enabled: bool,
    /// The rules; at most 10,000.
    pub rules: Vec<RoutingRule>,
}

impl Default for Routing {
    fn default() -> Self {
        Self { enabled: true, rules: Vec::new() }
    }
}

/// One entry of `routing.rules`; see `gatewatch_insight::routes` for what patterns mean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingRule {
    /// Exact host name, `*.suffix` or `*`; unset: any.
    pub domain: Option<String>,
    /// Exact path, glob, or regular expression after `~`; unset: any.
    pub path: Option<String>,
    /// Label of the requests it matches; required.
    pub service: String,
    /// Lower wins among rules of the same class.
    pub priority: i32,
}

impl From<&RoutingRule> for gatewatch_insight::routes::Rule {
    fn from(rule: &RoutingRule) -> Self {
        Self {
            domain: rule.domain.clone(),
            path: rule.path.clone(),
            service: rule.service.clone(),
            priority: rule.priority,
        }
    }
}

/// `domain_analysis`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DomainAnalysis {
    /// Off: no figures per domain.
    pub enabled: bool,
    /// Patterns as in routing; empty: all domains.
    #[serde(with = "units::list")]
    pub track_domains: Vec<String>,
    /// Patterns of domains left out, tracked or not.
    #[serde(with = "units::list")]
    pub exclude_domains: Vec<String>,
}

impl Default for DomainAnalysis {
    fn default() -> Self {
        Self { enabled: true, track_domains: Vec::new(), exclude_domains: Vec::new() }
    }
}

/// `path_analysis`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathAnalysis {
    /// Off: no figures per path.
    pub enabled: bool,
    /// Patterns as in routing; empty: all paths.
    pub track_paths: Vec<String>,
    /// Patterns of paths left out, tracked or not.
    pub exclude_paths: Vec<String>,
}

impl Default for PathAnalysis {
    fn default() -> Self {
        Self { enabled: true, track_paths: Vec::new(), exclude_paths: Vec::new() }
    }
}

/// `gateway`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// Names of the processes to find.
    #[serde(with = "units::list")]
    pub process_name: Vec<String>,
    /// How instances are called; the first entry that matches names one.
    pub names: Vec<InstanceName>,
    /// nginx's `stub_status` or Kong's `/status`, to compare counts with; unset: no comparison.
    pub status_url: Option<String>,
    /// Measure Lua phases too.
    pub lua_phases: bool,
    /// How much is seen of each request.
    pub detail: Detail,
    /// Directory with separate debug files, searched by build id.
    pub debug_dir: PathBuf,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            process_name: vec!["kong".to_owned(), "nginx".to_owned()],
            names: Vec::new(),
            status_url: None,
            lua_phases: false,
            detail: Detail::Full,
            debug_dir: PathBuf::from("/usr/lib/debug"),
        }
    }
}

/// One entry of `gateway.names`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct InstanceName {
    /// A part of the master process's command line.
    #[serde(rename = "match")]
    pub matches: String,
    /// Value of the label `gateway`.
    pub name: String,
}

/// How much is seen of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detail {
    /// Start and end of each request.
    Full,
    /// One trap per request, at its end.
    Lean,
}

/// `capture`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capture {
    /// Ring buffer between kernel and watcher, in bytes; a power of two, 256KiB to 1GiB.
    #[serde(with = "units::bytes")]
    pub ring_bytes: u64,
    /// Worker processes followed at once; 1 to 4096.
    pub max_workers: u32,
    /// Requests in flight remembered per worker; a power of two, 64 to 65536.
    pub starts_per_worker: u32,
}

impl Default for Capture {
    fn default() -> Self {
        Self { ring_bytes: 4 << 20, max_workers: 64, starts_per_worker: 4096 }
    }
}

/// `network`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Off: no packet and no connection is watched.
    pub enabled: bool,
    /// Where packets that come in are counted.
    pub ingress: Ingress,
    /// Connections accounted for at once; past it the one unused longest is evicted. 1,024 to 4,194,304.
    pub max_connections: u32,
    /// How long a flow without a close of its own (UDP and others) may be silent before it has ended; 1s to 1h.
    #[serde(with = "units::duration")]
    pub idle: Duration,
    /// Tell protocols by the first bytes of each connection.
    pub protocols: bool,
    /// Directory in a BPF file system where maps and links are kept, so that counting outlives the watcher.
    pub pin_dir: PathBuf,
    /// Off: nothing is pinned, and counting ends with the watcher.
    pub pin: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self {
            enabled: true,
            ingress: Ingress::Auto,
            max_connections: 65_536,
            idle: Duration::from_secs(30),
            protocols: true,
            pin_dir: PathBuf::from("/sys/fs/bpf/gatewatch"),
            pin: true,
        }
    }
}

/// Where packets that come in are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ingress {
    /// XDP where it changes nothing for the traffic, else TC.
    Auto,
    /// XDP: in the driver where it can, else the kernel's generic one.
    Xdp,
    /// TC.
    Tc,
}

/// `node`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Whether there is a cluster to ask. Environment: `MODE`.
    pub mode: Mode,
    /// The namespace whose Services and pods are known; empty: all. Environment: `WATCH_NAMESPACE`.
    pub watch_namespace: String,
    /// Bounds on what is known of the cluster.
    pub mapper: Mapper,
    /// Attempts to connect.
    pub attempts: Attempts,
    /// HTTP requests.
    pub requests: Requests,
    /// Demand, streamed to `gatewatch scaler`.
    pub demand: Demand,
    /// The first request's hold.
    pub hold: Hold,
}

/// Whether there is a cluster to ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Addresses are named by the cluster's API server.
    #[default]
    Cluster,
    /// There is none: addresses have no names.
    Local,
}

/// `node.mapper`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mapper {
    /// How long what is gone may still be named, for what was seen before it went; 1s to 1h. Environment: `MAPPER_TTL`.
    #[serde(with = "units::duration")]
    pub ttl: Duration,
    /// How much of what is gone is remembered at once; 16 to 1,000,000. Environment: `MAPPER_CAPACITY`.
    pub capacity: u32,
    /// Labels of pods that are kept.
    #[serde(with = "units::list")]
    pub labels: Vec<String>,
}

impl Default for Mapper {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(60), capacity: 2048, labels: Vec::new() }
    }
}

/// `node.attempts`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attempts {
    /// Off: no attempt is seen. Environment: `ENABLE_L4`.
    pub enabled: bool,
    /// Processes whose attempts do not count. Environment: `EXCLUDE_COMMS`.
    #[serde(with = "units::list")]
    pub exclude_comms: Vec<String>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self { enabled: true, exclude_comms: vec!["kubelet".to_owned()] }
    }
}

/// `node.requests`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Requests {
    /// Whether HTTP is read from sockets. Environment: `ENABLE_L7_HTTP`.
    pub enabled: bool,
    /// Processes whose sockets are not read. Environment: `L7_EXCLUDE_COMMS`.
    #[serde(with = "units::list")]
    pub exclude_comms: Vec<String>,
    /// Whether health checks are left out. Environment: `FILTER_HEALTHCHECK`.
    pub filter_health_checks: bool,
    /// Paths of health checks besides those known: exact, or with `*` at the end. Environment: `HEALTHCHECK_PATHS`.
    #[serde(with = "units::list")]
    pub health_check_paths: Vec<String>,
    /// What the label `source_ip` holds.
    pub source: RequestSource,
    /// Read what TLS libraries encrypt, too.
    pub tls: bool,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            enabled: false,
            exclude_comms: vec!["agent".to_owned()],
            filter_health_checks: true,
            health_check_paths: Vec::new(),
            source: RequestSource::Ip,
            tls: true,
        }
    }
}

/// What the label `source_ip` holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestSource {
    /// The caller's address.
    #[default]
    Ip,
    /// The caller's workload, `namespace/name`; its address where that is unknown.
    Workload,
}

/// `node.demand`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Demand {
    /// Off: no demand is streamed.
    pub enabled: bool,
    /// Address and port of the stream.
    pub listen: Listen,
    /// Certificate chain and key in PEM, for TLS; unset: plaintext.
    pub tls_cert: Option<PathBuf>,
    /// The key.
    pub tls_key: Option<PathBuf>,
    /// Certificates of those whose clients are let in; unset: any client.
    pub tls_client_ca: Option<PathBuf>,
}

impl Default for Demand {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: Listen(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9103)),
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
        }
    }
}

/// `node.hold`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Hold {
    /// Off: no refusal is held back, whatever a Service's annotation says.
    pub enabled: bool,
}

impl Default for Hold {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// `paths`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Paths {
    /// Most groups paths are gathered into; 10 to 100,000.
    pub max_groups: u32,
    /// Groups known beforehand, `/files/{name}`: each `{…}` stands for one segment.
    pub templates: Vec<String>,
}

impl Default for Paths {
    fn default() -> Self {
        Self { max_groups: 1000, templates: Vec::new() }
    }
}

/// `series`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Series {
    /// Most time series kept; 100 to 1,000,000.
    pub max: u32,
    /// Most host names with series of their own; 1 to 100,000, and not above `max`.
    pub max_hosts: u32,
}

impl Default for Series {
    fn default() -> Self {
        Self { max: 50_000, max_hosts: 1000 }
    }
}

/// `log`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// What is logged at least. Environment: `LOG_LEVEL`.
    pub level: LogLevel,
    /// JSON lines instead of text. Environment: `ENABLE_JSON_LOG`.
    pub json: bool,
    /// One line per request.
    pub requests: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, json: true, requests: true }
    }
}

/// A log level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// Requests, statistics and what is below.
    Info,
    /// What needs attention.
    Warn,
    /// What failed.
    Error,
}

impl LogLevel {
    pub(crate) const NAMES: [(&'static str, Self); 4] =
        [("debug", Self::Debug), ("info", Self::Info), ("warn", Self::Warn), ("error", Self::Error)];

    /// The name as written in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// `stats`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stats {
    /// Time between two statistics lines; 1s to 24h, or 0s for none. Environment: `STATS_INTERVAL`.
    #[serde(with = "units::duration")]
    pub interval: Duration,
}

impl Default for Stats {
    fn default() -> Self {
        Self { interval: Duration::from_secs(30) }
    }
}

/// `listen`: address and port of the HTTP server. Environment: `METRICS_ADDR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Listen(pub SocketAddr);

impl Default for Listen {
    fn default() -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 9102))
    }
}

/// `mask`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mask {
    /// Off: nothing is hidden.
    pub enabled: bool,
    /// Hide all query values; off: only those that look like secrets.
    pub query_values: bool,
    /// Regular expressions; each match is hidden.
    pub patterns: Vec<String>,
    /// Hide user agents wholly.
    pub user_agent: bool,
    /// Shorten client addresses to their network (/24, /48).
    pub remote_addr: bool,
}

impl Default for Mask {
    fn default() -> Self {
        Self {
            enabled: true,
            query_values: true,
            patterns: Vec::new(),
            user_agent: false,
            remote_addr: false,
        }
    }
}
