//! What the type of a single key cannot say: ranges, patterns, and how keys fit together.

use std::fmt::Debug;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use gatewatch_insight::routes::{Field, Routes, Rule};

use crate::error::Problem;
use crate::model::{Config, Filter};
use crate::units::format_duration;

/// Most entries of `mask.patterns`.
pub const MAX_MASK_PATTERNS: usize = 64;
const MAX_MASK_PATTERN_BYTES: usize = 1024;
const MAX_MASK_COMPILED_BYTES: usize = 1 << 20;
/// The kernel keeps 15 bytes of a process's name.
const MAX_PROCESS_NAME: usize = 15;
const MAX_TEMPLATE_BYTES: usize = gatewatch_insight::routes::MAX_SERVICE_BYTES;
const MAX_LIST: usize = 10_000;
/// The kernel programs compare each.
const MAX_COMMS: usize = 16;

struct Checker(Vec<Problem>);

impl Checker {
    fn add(&mut self, key: impl Into<String>, message: impl std::fmt::Display) {
        self.0.push(Problem::new(key, message));
    }

    fn range<T: PartialOrd + Debug>(&mut self, key: &str, value: &T, range: RangeInclusive<T>) {
        if !range.contains(value) {
            self.add(
                key,
                format_args!("{value:?} is out of range: {:?} to {:?}", range.start(), range.end()),
            );
        }
    }

    fn duration(&mut self, key: &str, value: Duration, range: RangeInclusive<Duration>) {
        if !range.contains(&value) {
            let [value, start, end] = [value, *range.start(), *range.end()].map(format_duration);
            self.add(key, format_args!("{value} is out of range: {start} to {end}"));
        }
    }

    fn power_of_two(&mut self, key: &str, value: u64) {
        if !value.is_power_of_two() {
            let near = value.checked_next_power_of_two().unwrap_or(1 << 63);
            self.add(key, format_args!("{value} is not a power of two: the next one is {near}"));
        }
    }

    fn url(&mut self, key: &str, url: &str) {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let host = rest.and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
        if host.is_empty() || url.chars().any(|it| it.is_whitespace() || it.is_control()) || url.len() > 2048
        {
            self.add(key, "not a URL: write e.g. http://prometheus:9090");
        }
    }

    /// Patterns of domains or of paths, checked by what will match them.
    fn patterns(&mut self, key: &str, patterns: &[String], rule: fn(String) -> Rule) {
        if patterns.len() > MAX_LIST {
            self.add(key, format_args!("{} entries are too many: {MAX_LIST} at most", patterns.len()));
            return;
        }
        for (index, pattern) in patterns.iter().enumerate() {
            if let Err((_, problem)) = rule(pattern.clone()).check() {
                self.add(format!("{key}[{index}]"), problem);
            }
        }
    }
}

fn domain_rule(domain: String) -> Rule {
    Rule { domain: Some(domain), path: None, service: "-".to_owned(), priority: 0 }
}

fn path_rule(path: String) -> Rule {
    Rule { domain: None, path: Some(path), service: "-".to_owned(), priority: 0 }
}

/// Everything that is wrong with a configuration whose single values are fine.
pub(crate) fn check(config: &Config) -> Vec<Problem> {
    let mut to = Checker(Vec::new());
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    to.duration("monitoring.interval", config.monitoring.interval, Duration::from_millis(10)..=hours(1));
    for (index, filter) in config.monitoring.filters.iter().enumerate() {
        check_filter(&mut to, &format!("monitoring.filters[{index}]"), filter);
    }
    let networks: usize = config.monitoring.filters.iter().map(|filter| filter.network.len()).sum();
    if networks > MAX_LIST {
        to.add("monitoring.filters", format_args!("{networks} networks are too many: {MAX_LIST} at most"));
    }
    if let Some(url) = &config.metrics.endpoint {
        to.url("metrics.endpoint", url);
    }
    if let Some(rate) = config.alerts.thresholds.error_rate {
        to.range("alerts.thresholds.error_rate", &rate, 0.0..=1.0);
    }
    if let Some(latency) = config.alerts.thresholds.latency_p99 {
        to.duration("alerts.thresholds.latency_p99", latency, Duration::from_micros(1)..=hours(24));
    }
    check_routing(&mut to, config);
    let domains = &config.domain_analysis;
    to.patterns("domain_analysis.track_domains", &domains.track_domains, domain_rule);
    to.patterns("domain_analysis.exclude_domains", &domains.exclude_domains, domain_rule);
    let paths = &config.path_analysis;
    to.patterns("path_analysis.track_paths", &paths.track_paths, path_rule);
    to.patterns("path_analysis.exclude_paths", &paths.exclude_paths, path_rule);
    check_gateway(&mut to, config);
    let capture = &config.capture;
    to.power_of_two("capture.ring_bytes", capture.ring_bytes);
    to.range("capture.ring_bytes", &capture.ring_bytes, 256 << 10..=1 << 30);
    to.range("capture.max_workers", &capture.max_workers, 1..=4096);
    to.power_of_two("capture.starts_per_worker", capture.starts_per_worker.into());
    to.range("capture.starts_per_worker", &capture.starts_per_worker, 64..=65_536);
    check_node(&mut to, config);
    let network = &config.network;
    to.range("network.max_connections", &network.max_connections, 1024..=4 << 20);
    to.duration("network.idle", network.idle, Duration::from_secs(1)..=hours(1));
    if !network.pin_dir.is_absolute() {
        to.add("network.pin_dir", "give an absolute path in a BPF file system, e.g. /sys/fs/bpf/gatewatch");
    }
    to.range("paths.max_groups", &config.paths.max_groups, 10..=100_000);
    check_templates(&mut to, &config.paths.templates);
    to.range("series.max", &config.series.max, 100..=1_000_000);
    to.range("series.max_hosts", &config.series.max_hosts, 1..=100_000);
    if config.series.max_hosts > config.series.max {
        to.add("series.max_hosts", "more than `series.max`: each host needs at least one series");
    }
    if !config.stats.interval.is_zero() {
        to.duration("stats.interval", config.stats.interval, Duration::from_secs(1)..=hours(24));
    }
    check_mask(&mut to, &config.mask.patterns);
    to.0
}

fn check_filter(to: &mut Checker, key: &str, filter: &Filter) {
    if *filter == Filter::default() {
        to.add(key, "the filter is empty: give protocol, port, network, interface, method, status or host");
    }
    for network in &filter.network {
        if !is_network(network) {
            let message = format!("bad network `{network}`: write e.g. 10.0.0.0/8 or 2001:db8::/32");
            to.add(format!("{key}.network"), message);
        }
    }
    for interface in &filter.interface {
        let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
        if interface.is_empty() || interface.len() > 15 || !interface.bytes().all(allowed) {
            to.add(
                format!("{key}.interface"),
                format_args!("bad interface `{interface}`: 1 to 15 bytes, as in `ip link`"),
            );
        }
    }
    for method in &filter.method {
        if method.is_empty() || method.len() > 32 || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            to.add(
                format!("{key}.method"),
                format_args!("bad method `{method}`: write it in capitals, e.g. GET"),
            );
        }
    }
    for host in &filter.host {
        if let Err((_, problem)) = domain_rule(host.clone()).check() {
            to.add(format!("{key}.host"), problem);
        }
    }
}

fn is_network(text: &str) -> bool {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return false;
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    bits.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| bits <= most))
}

fn check_routing(to: &mut Checker, config: &Config) {
    let rules: Vec<Rule> = config.routing.rules.iter().map(Rule::from).collect();
    let before = to.0.len();
    let key = |index: usize, field: Field| match field {
        Field::Rule => format!("routing.rules[{index}]"),
        Field::Domain | Field::Path | Field::Service => format!("routing.rules[{index}].{field}"),
    };
    for (index, rule) in rules.iter().enumerate().take(MAX_LIST) {
        if let Err((field, problem)) = rule.check() {
            to.add(key(index, field), problem);
        }
    }
    if to.0.len() == before
        && let Err(error) = Routes::compile(&rules)
    {
        to.add(key(error.rule, error.field), error.problem);
    }
}

fn check_gateway(to: &mut Checker, config: &Config) {
    let gateway = &config.gateway;
    if gateway.process_name.is_empty() {
        to.add("gateway.process_name", "no name is left: write e.g. \"kong,nginx\"");
    }
    for name in &gateway.process_name {
        if name.is_empty() || name.len() > MAX_PROCESS_NAME || name.chars().any(char::is_control) {
            let message =
                format!("bad name `{name}`: the kernel keeps {MAX_PROCESS_NAME} bytes of a process's name");
            to.add("gateway.process_name", message);
        }
    }
    for (index, name) in gateway.names.iter().enumerate() {
        let key = format!("gateway.names[{index}]");
        if name.matches.is_empty() {
            to.add(&key, "`match` is missing: give a part of the master's command line");
        }
        if name.name.is_empty() || name.name.len() > 128 || name.name.chars().any(char::is_control) {
            to.add(&key, "`name` needs 1 to 128 bytes without control characters");
        }
    }
    if let Some(url) = &gateway.status_url {
        to.url("gateway.status_url", url);
        if url.starts_with("https://") {
            let message = "it is asked without TLS: give an http:// URL, best of a listener on 127.0.0.1";
            to.add("gateway.status_url", message);
        }
    }
    if !gateway.debug_dir.is_absolute() {
        to.add("gateway.debug_dir", "give an absolute path, e.g. /usr/lib/debug");
    }
}

fn check_templates(to: &mut Checker, templates: &[String]) {
    if templates.len() > MAX_LIST {
        to.add(
            "paths.templates",
            format_args!("{} entries are too many: {MAX_LIST} at most", templates.len()),
        );
        return;
    }
    for (index, template) in templates.iter().enumerate() {
        let segment_is_fine = |segment: &str| match segment.strip_prefix('{') {
            Some(name) => {
                name.strip_suffix('}').is_some_and(|name| !name.is_empty() && !name.contains(['{', '}']))
            }
            None => !segment.contains(['{', '}']),
        };
        let fine = template.starts_with('/')
            && template.len() <= MAX_TEMPLATE_BYTES
            && !template.contains(['?', '#'])
            && template.split('/').all(segment_is_fine);
        if !fine {
            let message =
                "bad template: write a path in which `{name}` stands for whole segments, e.g. /files/{name}";
            to.add(format!("paths.templates[{index}]"), message);
        }
    }
}

/// The masker compiles them again; here it is only asked whether it can, with the same limits.
fn check_mask(to: &mut Checker, patterns: &[String]) {
    if patterns.len() > MAX_MASK_PATTERNS {
        let message = format!("{} patterns are too many: {MAX_MASK_PATTERNS} at most", patterns.len());
        to.add("mask.patterns", message);
        return;
    }
    for (index, pattern) in patterns.iter().enumerate() {
        let key = format!("mask.patterns[{index}]");
        if pattern.is_empty() || pattern.len() > MAX_MASK_PATTERN_BYTES {
            to.add(key, format_args!("a pattern has 1 to {MAX_MASK_PATTERN_BYTES} bytes"));
            continue;
        }
        let built = regex::RegexBuilder::new(pattern)
            .size_limit(MAX_MASK_COMPILED_BYTES)
            .dfa_size_limit(MAX_MASK_COMPILED_BYTES)
            .build();
        if let Err(error) = built {
            // The parser draws over several lines; the last one says what is wrong.
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default().trim();
            let why = last.strip_prefix("error: ").unwrap_or(last);
            to.add(key, format_args!("bad regular expression: {why}"));
        }
    }
}

fn check_node(to: &mut Checker, config: &Config) {
    let node = &config.node;
    let seconds = Duration::from_secs;
    to.duration("node.mapper.ttl", node.mapper.ttl, seconds(1)..=seconds(3600));
    to.range("node.mapper.capacity", &node.mapper.capacity, 16..=1_000_000);
    let namespace = &node.watch_namespace;
    let is_label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if namespace.len() > 63 || !namespace.chars().all(is_label) {
        to.add(
            "node.watch_namespace",
            "not the name of a namespace: small letters, digits and `-`, at most 63",
        );
    }
    let lists = [
        ("node.attempts.exclude_comms", &node.attempts.exclude_comms),
        ("node.requests.exclude_comms", &node.requests.exclude_comms),
    ];
    for (key, comms) in lists {
        if comms.len() > MAX_COMMS {
            to.add(key, format_args!("{} names are too many: {MAX_COMMS} at most", comms.len()));
        }
        for (index, comm) in comms.iter().enumerate() {
            if comm.is_empty() || comm.len() > MAX_PROCESS_NAME {
                let key = format!("{key}[{index}]");
                to.add(
                    key,
                    format_args!("the kernel keeps 1 to {MAX_PROCESS_NAME} bytes of a process's name"),
                );
            }
        }
    }
    for (index, path) in node.requests.health_check_paths.iter().enumerate() {
        if !path.starts_with('/') {
            to.add(format!("node.requests.health_check_paths[{index}]"), "a path begins with `/`");
        }
    }
    if node.requests.health_check_paths.len() > MAX_LIST {
        to.add("node.requests.health_check_paths", format_args!("too many: {MAX_LIST} at most"));
    }
    let demand = &node.demand;
    if demand.tls_cert.is_some() != demand.tls_key.is_some() {
        to.add("node.demand.tls_cert", "certificate and key go together: give `tls_cert` and `tls_key`");
    }
    if demand.tls_client_ca.is_some() && demand.tls_cert.is_none() {
        to.add(
            "node.demand.tls_client_ca",
            "clients show certificates under TLS only: give `tls_cert` and `tls_key`",
        );
    }
}
