//! Requests folded into counts: by endpoint for the metrics, by dimension and window for people.

mod analysis;
mod endpoint;
mod names;
mod summary;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use gatewatch_event::request::{Method, Protocol};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

pub use analysis::{Analysis, UNTRACKED};
pub use endpoint::{BUCKETS, Endpoint, EndpointKey, Histogram, Labels, Upstream};
pub use names::{Names, OTHER};
pub use summary::{Sample, Summary, Windowed, class};

use crate::{
    paths::{Limits, PathGroups},
    routes::{Routes, ServiceId},
};

/// How much is told apart.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Hosts.
    pub hosts: usize,
    /// Path groups over all hosts.
    pub paths: usize,
    /// Endpoints: gateway, host, path, service, method together.
    pub endpoints: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { hosts: 1000, paths: 4000, endpoints: 2000 }
    }
}

/// By what requests are told apart. May be exchanged while they are counted: see [`Traffic::configure`].
#[derive(Debug, Default)]
pub struct Settings {
    /// How much.
    pub bounds: Bounds,
    /// Services.
    pub routes: Routes,
    /// The paths of the routing rules, by rule, that are to name the groups of what they match.
    pub rule_paths: Vec<Option<Arc<str>>>,
    /// Routes whose "service" is a template of paths.
    pub templates: Routes,
    /// Hosts that have figures of their own.
    pub hosts: Analysis,
    /// Paths likewise.
    pub paths: Analysis,
}

/// A request as it is folded; its texts are masked already.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Id of the gateway instance, from [`Traffic::gateway`].
    pub gateway: u32,
    /// The method.
    pub method: Method,
    /// The host, lower case, without port.
    pub host: &'a str,
    /// The path, without query.
    pub path: &'a str,
    /// The protocol.
    pub protocol: Protocol,
    /// Status sent; 0: none.
    pub status: u16,
    /// Duration in nanoseconds.
    pub duration_ns: u64,
    /// Of the request.
    pub request_bytes: u64,
    /// Of the response.
    pub response_bytes: u64,
}

/// Where a request was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The path's group, for [`Traffic::path_name`].
    pub path: u32,
    /// The service, for [`Traffic::service_name`]; 0: none.
    pub service: u32,
}

/// Requests that were counted, but with less detail than asked for, because a bound was reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Folded {
    /// Under host `other`.
    pub hosts: u64,
    /// Under path `other`.
    pub paths: u64,
    /// Under host and path `other`, for want of a further endpoint.
    pub endpoints: u64,
}

/// One value of a dimension, with its counts.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<Windowed>,
}

impl Table {
    fn row(&mut self, index: usize) -> Option<&mut Windowed> {
        if index >= self.rows.len() {
            self.rows.resize_with(index + 1, Windowed::default);
        }
        self.rows.get_mut(index)
    }

    fn rotate(&mut self) {
        self.rows.iter_mut().for_each(Windowed::rotate);
    }
}

/// A dimension of the statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Dimension {
    Gateway,
    Method,
    Host,
    /// Host and path group.
    Path,
    StatusClass,
    Service,
    Protocol,
}

/// Upstream servers told apart.
const UPSTREAMS_MAX: usize = 256;

/// Services ever told apart; what exceeds this is `other`.
const SERVICES_MAX: usize = 20_000;

/// Hosts whose folding is remembered.
const FOLDED_HOSTS: usize = 4096;

/// Stands for requests that were never understood so far as to have a path.
const NO_PATH: u32 = u32::MAX;

/// Stands for paths without figures of their own.
const FOLDED_PATH: u32 = u32::MAX - 1;

/// No group of its own.
const OTHER_PATH: u32 = u32::MAX;

/// All that is known of the traffic.
pub struct Traffic {
    settings: Settings,
    groups: PathGroups,
    gateways: Names,
    hosts: Names,
    /// What hosts are counted under, while not each is counted under itself.
    host_memo: HashMap<Box<str>, u32, FxBuildHasher>,
    /// Paths of the learner, of templates and of rules: name, host.
    paths: Vec<(Arc<str>, u32)>,
    /// The same by host and name: a template may take over what was learned, and has its counts go on.
    path_ids: HashMap<(u32, Arc<str>), u32, FxBuildHasher>,
    by_group: Vec<u32>,
    by_template: HashMap<(u32, u32), u32, FxBuildHasher>,
    /// Paths that templates and rules named, under this configuration and those before it.
    named: usize,
    services: Vec<Arc<str>>,
    service_index: HashMap<Arc<str>, u32, FxBuildHasher>,
    /// By the routes' own numbers; 0: not met yet.
    service_ids: Vec<u32>,
    endpoints: Vec<Endpoint>,
    index: HashMap<EndpointKey, usize, FxBuildHasher>,
    peers: Names,
    upstreams: Vec<Upstream>,
    upstream_index: HashMap<(u32, u32, u32), usize, FxBuildHasher>,
    all: Windowed,
    gateway_table: Table,
    method_table: Table,
    host_table: Table,
    path_table: Table,
    class_table: Table,
    service_table: Table,
    protocol_table: Table,
    folded: Folded,
    last_ended_ns: u64,
}

const METHODS: [Method; 11] = [
    Method::Get,
    Method::Head,
    Method::Post,
    Method::Put,
    Method::Delete,
    Method::Patch,
    Method::Options,
    Method::Connect,
    Method::Trace,
    Method::Other,
    Method::Unknown,
];

const PROTOCOLS: [Protocol; 6] = [
    Protocol::Http09,
    Protocol::Http10,
    Protocol::Http11,
    Protocol::Http2,
    Protocol::Http3,
    Protocol::Unknown,
];

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl Traffic {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let mut traffic = Self {
            groups: PathGroups::new(Limits { max_groups: settings.bounds.paths, ..Limits::default() }),
            gateways: Names::new(64),
            hosts: Names::new(settings.bounds.hosts),
            host_memo: HashMap::default(),
            settings: Settings::default(),
            paths: Vec::new(),
            path_ids: HashMap::default(),
            by_group: Vec::new(),
            by_template: HashMap::default(),
            named: 0,
            services: vec![Arc::from("")],
            service_index: HashMap::default(),
            service_ids: Vec::new(),
            endpoints: Vec::new(),
            index: HashMap::default(),
            peers: Names::new(UPSTREAMS_MAX),
            upstreams: Vec::new(),
            upstream_index: HashMap::default(),
            all: Windowed::default(),
            gateway_table: Table::default(),
            method_table: Table::default(),
            host_table: Table::default(),
            path_table: Table::default(),
            class_table: Table::default(),
            service_table: Table::default(),
            protocol_table: Table::default(),
            folded: Folded::default(),
            last_ended_ns: 0,
        };
        traffic.configure(settings);
        traffic
    }

    /// Tells requests apart by other settings from now on. What was counted stays where it was counted, under names
    /// that mean the same as before.
    pub fn configure(&mut self, settings: Settings) {
        self.hosts.set_max(settings.bounds.hosts);
        self.groups.set_max_groups(settings.bounds.paths);
        // These are by numbers of rules and templates, which are others now.
        self.host_memo.clear();
        self.by_template.clear();
        self.service_ids = vec![0; settings.routes.service_count()];
        self.settings = settings;
    }

    /// The id of a gateway instance.
    pub fn gateway(&mut self, name: &str) -> u32 {
        self.gateways.id(name)
    }

    /// Counts one request. `now` is its end, in nanoseconds of any clock that does not go back.
    pub fn observe(&mut self, seen: &Observation<'_>, now: u64) -> Place {
        let host = self.host(seen.host);
        if host == 0 {
            self.folded.hosts += 1;
        }
        let route = self.settings.routes.find(seen.host.as_bytes(), seen.path.as_bytes());
        let service = route.map_or(0, |route| self.service(route.service));
        let path = self.path(host, seen, route.map(|route| route.rule));
        if path == OTHER_PATH {
            self.folded.paths += 1;
        }
        self.last_ended_ns = self.last_ended_ns.max(now);
        self.count_endpoint(
            seen,
            EndpointKey { gateway: seen.gateway, host, path, service, method: seen.method },
        );
        self.count_tables(seen, host, path, service);
        Place { path, service }
    }

    fn host(&mut self, host: &str) -> u32 {
        if self.settings.hosts.takes_all() {
            return self.hosts.id(host);
        }
        if let Some(id) = self.host_memo.get(host) {
            return *id;
        }
        let id = match self.settings.hosts.fold(host, "") {
            Some(folded) => self.hosts.reserved(folded),
            None => self.hosts.id(host),
        };
        if self.host_memo.len() >= FOLDED_HOSTS {
            self.host_memo.clear();
        }
        self.host_memo.insert(host.into(), id);
        id
    }

    fn service(&mut self, found: ServiceId) -> u32 {
        let known = self.service_ids.get(found.index()).copied().unwrap_or(0);
        if known != 0 {
            return known;
        }
        let mut name = self.settings.routes.name(found);
        if self.services.len() > SERVICES_MAX && !self.service_index.contains_key(name) {
            name = OTHER;
        }
        let id = match self.service_index.get(name) {
            Some(id) => *id,
            None => {
                let Ok(id) = u32::try_from(self.services.len()) else { return 0 };
                let name: Arc<str> = Arc::from(name);
                self.services.push(Arc::clone(&name));
                self.service_index.insert(name, id);
                id
            }
        };
        if let Some(place) = self.service_ids.get_mut(found.index()) {
            *place = id;
        }
        id
    }

    fn path(&mut self, host: u32, seen: &Observation<'_>, rule: Option<usize>) -> u32 {
        if let Some(folded) = self.settings.paths.fold("", seen.path) {
            let id = if folded.is_empty() { NO_PATH } else { FOLDED_PATH };
            return match self.by_template.get(&(host, id)) {
                Some(path) => *path,
                None => {
                    let path = self.add_path(Arc::from(folded), host);
                    self.by_template.insert((host, id), path);
                    path
                }
            };
        }
        if let Some(template) = self.settings.templates.service(seen.host.as_bytes(), seen.path.as_bytes()) {
            let name: Arc<str> = Arc::from(self.settings.templates.name(template));
            let id = u32::try_from(template.index()).unwrap_or(0);
            return self.named_path(host, id, &name);
        }
        if let Some(name) = rule.and_then(|rule| self.settings.rule_paths.get(rule)?.clone()) {
            let id = rule.and_then(|rule| u32::try_from(rule).ok()).unwrap_or(0) | 1 << 31;
            return self.named_path(host, id, &name);
        }
        if seen.path.is_empty() {
            return self.named_path(host, NO_PATH, &Arc::from(""));
        }
        let group = self.groups.group(host, seen.path.as_bytes());
        let Some(index) = group.index() else {
            return OTHER_PATH;
        };
        if let Some(path) = self.by_group.get(index).copied().filter(|path| *path != OTHER_PATH) {
            return path;
        }
        let name = Arc::from(self.groups.name(group));
        let path = self.add_path(name, host);
        if index >= self.by_group.len() {
            self.by_group.resize(index + 1, OTHER_PATH);
        }
        if let Some(place) = self.by_group.get_mut(index) {
            *place = path;
        }
        path
    }

    fn named_path(&mut self, host: u32, id: u32, name: &Arc<str>) -> u32 {
        if let Some(path) = self.by_template.get(&(host, id)) {
            return *path;
        }
        let known = self.path_ids.get(&(host, Arc::clone(name))).copied();
        let path = match known {
            Some(path) => path,
            None if self.named >= self.settings.bounds.paths => return OTHER_PATH,
            None => {
                self.named += 1;
                self.add_path(Arc::clone(name), host)
            }
        };
        self.by_template.insert((host, id), path);
        path
    }

    /// The path of this name: two of one would be two series with the same labels.
    fn add_path(&mut self, name: Arc<str>, host: u32) -> u32 {
        let new = u32::try_from(self.paths.len()).unwrap_or(OTHER_PATH);
        let id = *self.path_ids.entry((host, Arc::clone(&name))).or_insert(new);
        if id == new {
            self.paths.push((name, host));
        }
        id
    }

    fn count_endpoint(&mut self, seen: &Observation<'_>, key: EndpointKey) {
        let index = match self.index.get(&key) {
            Some(index) => *index,
            None => self.new_endpoint(key),
        };
        let Some(endpoint) = self.endpoints.get_mut(index) else {
            return;
        };
        endpoint.count(seen.status, seen.protocol);
        endpoint.duration.add(seen.duration_ns);
        endpoint.request_bytes = endpoint.request_bytes.wrapping_add(seen.request_bytes);
        endpoint.response_bytes = endpoint.response_bytes.wrapping_add(seen.response_bytes);
    }

    fn new_endpoint(&mut self, key: EndpointKey) -> usize {
        let mut key = key;
        if self.endpoints.len() >= self.settings.bounds.endpoints {
            let other = EndpointKey { host: 0, path: OTHER_PATH, ..key };
            self.folded.endpoints += u64::from(other != key);
            key = other;
            if let Some(index) = self.index.get(&key) {
                return *index;
            }
        }
        let labels = Labels {
            gateway: self.gateways.name(key.gateway),
            host: self.hosts.name(key.host),
            path: self.path_name(key.path),
            service: self.service_name(key.service),
            method: key.method,
        };
        self.endpoints.push(Endpoint::new(labels));
        self.index.insert(key, self.endpoints.len() - 1);
        self.endpoints.len() - 1
    }

    fn count_tables(&mut self, seen: &Observation<'_>, host: u32, path: u32, service: u32) {
        let sample = Sample {
            status: seen.status,
            duration_ns: seen.duration_ns,
            request_bytes: seen.request_bytes,
            response_bytes: seen.response_bytes,
        };
        self.all.add(sample);
        let index = |id: u32| usize::try_from(id).unwrap_or(0);
        // `other` paths are the first row, so that ids stand one further.
        let path = if path == OTHER_PATH { 0 } else { index(path) + 1 };
        let rows = [
            self.gateway_table.row(index(seen.gateway)),
            self.method_table.row(seen.method as usize),
            self.host_table.row(index(host)),
            self.path_table.row(path),
            self.class_table.row(class(seen.status)),
            self.service_table.row(index(service)),
            self.protocol_table.row(seen.protocol as usize),
        ];
        for row in rows.into_iter().flatten() {
            row.add(sample);
        }
    }

    /// Counts one try at an upstream server.
    pub fn observe_upstream(&mut self, gateway: u32, service: u32, peer: &str, duration_ns: u64) {
        let peer = self.peers.id(peer);
        let key = (gateway, service, peer);
        let index = match self.upstream_index.get(&key) {
            Some(index) => *index,
            None => {
                self.upstreams.push(Upstream {
                    gateway: self.gateways.name(gateway),
                    service: self.service_name(service),
                    peer: self.peers.name(peer),
                    duration: Histogram::default(),
                });
                self.upstream_index.insert(key, self.upstreams.len() - 1);
                self.upstreams.len() - 1
            }
        };
        if let Some(upstream) = self.upstreams.get_mut(index) {
            upstream.duration.add(duration_ns);
        }
    }

    /// A path group's name.
    #[must_use]
    pub fn path_name(&self, path: u32) -> Arc<str> {
        let name = usize::try_from(path).ok().and_then(|index| self.paths.get(index));
        name.map_or_else(|| Arc::from(OTHER), |(name, _)| Arc::clone(name))
    }

    /// A service's name; empty for none.
    #[must_use]
    pub fn service_name(&self, service: u32) -> Arc<str> {
        let name = usize::try_from(service).ok().and_then(|index| self.services.get(index));
        name.map_or_else(|| Arc::from(""), Arc::clone)
    }

    /// Ends a window of the statistics.
    pub fn rotate(&mut self) {
        self.all.rotate();
        for table in [
            &mut self.gateway_table,
            &mut self.method_table,
            &mut self.host_table,
            &mut self.path_table,
            &mut self.class_table,
            &mut self.service_table,
            &mut self.protocol_table,
        ] {
            table.rotate();
        }
    }

    /// Everything together.
    #[must_use]
    pub fn all(&self) -> &Windowed {
        &self.all
    }

    /// The values of a dimension that had requests, with their names.
    pub fn rows(&self, dimension: Dimension) -> impl Iterator<Item = (String, &Windowed)> {
        let table = match dimension {
            Dimension::Gateway => &self.gateway_table,
            Dimension::Method => &self.method_table,
            Dimension::Host => &self.host_table,
            Dimension::Path => &self.path_table,
            Dimension::StatusClass => &self.class_table,
            Dimension::Service => &self.service_table,
            Dimension::Protocol => &self.protocol_table,
        };
        let named = move |index: usize| {
            let id = u32::try_from(index).unwrap_or(0);
            match dimension {
                Dimension::Gateway => self.gateways.name(id).to_string(),
                Dimension::Method => METHODS.get(index).map_or("", |method| method.name()).to_owned(),
                Dimension::Host => self.hosts.name(id).to_string(),
                Dimension::Path => match index.checked_sub(1).and_then(|index| self.paths.get(index)) {
                    Some((path, host)) => format!("{}{path}", self.hosts.name(*host)),
                    None => OTHER.to_owned(),
                },
                Dimension::StatusClass => CLASSES.get(index).copied().unwrap_or("none").to_owned(),
                Dimension::Service => self.service_name(id).to_string(),
                Dimension::Protocol => PROTOCOLS.get(index).map_or("", |protocol| protocol.name()).to_owned(),
            }
        };
        table
            .rows
            .iter()
            .enumerate()
            .filter(|(_, row)| row.requests() > 0)
            .map(move |(index, row)| (named(index), row))
    }

    /// The endpoints, for export.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Tries at upstream servers, for export.
    #[must_use]
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// What was counted with less detail.
    #[must_use]
    pub fn folded(&self) -> Folded {
        self.folded
    }

    /// When the last request ended, on the caller's clock; 0: none yet.
    #[must_use]
    pub fn last_ended_ns(&self) -> u64 {
        self.last_ended_ns
    }

    /// What path grouping holds.
    #[must_use]
    pub fn path_usage(&self) -> crate::paths::Usage {
        self.groups.usage()
    }
}
