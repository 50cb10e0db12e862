//! From the configuration to what each part is given.

use std::{borrow::Cow, sync::Arc};

use anyhow::{Context, Result};
use gatewatch_capture::nginx;
use gatewatch_config::{Config, LogLevel};
use gatewatch_decode::mask::{MaskSettings, Masker};
use gatewatch_export::log::{self, Level};
use gatewatch_insight::{
    filter::{Filter, Net},
    routes::{Routes, Rule},
    traffic::{self, Analysis, BUCKETS, Bounds},
};
use gatewatch_target::process::{NameRule, ProcRoot};

/// Time series an endpoint has: its histogram's buckets, sum and count, its bytes each way, and mostly one status.
const SERIES_AN_ENDPOINT: usize = BUCKETS.len() + 1 + 2 + 2 + 1;

/// Names of gateway processes.
pub fn process_names(config: &Config) -> Vec<String> {
    config.gateway.process_name.clone()
}

/// What instances are called.
pub fn instance_names(config: &Config) -> Vec<NameRule> {
    let rule = |name: &gatewatch_config::InstanceName| NameRule {
        matches: name.matches.clone(),
        name: name.name.clone(),
    };
    config.gateway.names.iter().map(rule).collect()
}

/// The log.
pub fn log(config: &Config) -> log::Settings {
    let level = match config.log.level {
        LogLevel::Debug => Level::Debug,
        LogLevel::Info => Level::Info,
        LogLevel::Warn => Level::Warn,
        LogLevel::Error => Level::Error,
    };
    log::Settings { level, json: config.log.json, requests: config.log.requests }
}

/// The nginx probe's tables.
pub fn capture(config: &Config, root: &ProcRoot) -> nginx::Settings {
    nginx::Settings {
        ring_bytes: u32::try_from(config.capture.ring_bytes).unwrap_or(1 << 30),
        max_workers: config.capture.max_workers,
        starts_per_worker: config.capture.starts_per_worker,
        pid_namespace: root.pid_namespace(),
    }
}

/// What is hidden.
///
/// # Errors
/// A pattern that is none.
pub fn masker(config: &Config) -> Result<Masker> {
    let mask = &config.mask;
    let settings = MaskSettings {
        enabled: mask.enabled,
        query_values: mask.query_values,
        patterns: mask.patterns.clone(),
        user_agent: mask.user_agent,
        remote_addr: mask.remote_addr,
    };
    Masker::new(settings).context("`mask.patterns`")
}

/// Groups, routes and bounds.
///
/// # Errors
/// A rule that does not compile.
pub fn traffic(config: &Config) -> Result<traffic::Settings> {
    let rules: Vec<Rule> = if config.routing.enabled {
        config.routing.rules.iter().map(Rule::from).collect()
    } else {
        Vec::new()
    };
    let routes = Routes::compile(&rules).context("`routing.rules`")?;
    let rule_paths =
        rules.iter().map(|rule| rule.path.as_deref().and_then(names_a_group).map(Arc::from)).collect();
    let templates: Vec<Rule> =
        config.paths.templates.iter().map(|template| template_rule(template)).collect();
    let templates = Routes::compile(&templates).context("`paths.templates`")?;
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let bounds = Bounds {
        hosts: count(config.series.max_hosts),
        paths: count(config.paths.max_groups),
        endpoints: (count(config.series.max) / SERIES_AN_ENDPOINT).max(1),
    };
    let (domains, paths) = (&config.domain_analysis, &config.path_analysis);
    Ok(traffic::Settings {
        bounds,
        routes,
        rule_paths,
        templates,
        hosts: Analysis::of_hosts(domains.enabled, &domains.track_domains, &domains.exclude_domains)
            .context("`domain_analysis`")?,
        paths: Analysis::of_paths(paths.enabled, &paths.track_paths, &paths.exclude_paths)
            .context("`path_analysis`")?,
    })
}

/// Which requests are reported: what `monitoring.filters` says of requests, over all its entries.
///
/// # Errors
/// A pattern that is none.
pub fn filter(config: &Config) -> Result<Filter> {
    let entries = &config.monitoring.filters;
    let methods: Vec<String> = entries.iter().flat_map(|entry| entry.method.clone()).collect();
    let statuses = entries.iter().flat_map(|entry| &entry.status).map(|range| (range.first, range.last));
    let hosts: Vec<String> = entries.iter().flat_map(|entry| entry.host.clone()).collect();
    let networks = entries.iter().flat_map(|entry| &entry.network);
    let networks: Option<Vec<Net>> = networks.map(|network| Net::parse(network)).collect();
    let networks = networks.context("`monitoring.filters`: a network that is none")?;
    Filter::new(&methods, statuses.collect(), &hosts, networks).context("`monitoring.filters`")
}

/// A rule's path names the group of what it matches, unless it matches everything.
fn names_a_group(path: &str) -> Option<&str> {
    (!matches!(path, "/*" | "/**" | "*" | "**") && !path.starts_with('~')).then_some(path)
}

/// A template is a rule whose "service" is its own name, and each `{…}` one segment or part of one.
fn template_rule(template: &str) -> Rule {
    let mut pattern = String::from("~^");
    let mut rest = template;
    while let Some((literal, behind)) = rest.split_once('{') {
        let Some((_, behind)) = behind.split_once('}') else { break };
        pattern.push_str(&regex_literal(literal));
        pattern.push_str("[^/]+");
        rest = behind;
    }
    pattern.push_str(&regex_literal(rest));
    pattern.push('$');
    Rule { domain: None, path: Some(pattern), service: template.to_owned(), priority: 0 }
}

fn regex_literal(text: &str) -> String {
    // `\<` and `\>` are the ends of a word, and what is not ASCII takes no backslash.
    let plain = |c: char| !c.is_ascii_punctuation() || matches!(c, '/' | '<' | '>');
    let escape = |c: char| if plain(c) { vec![c] } else { vec!['\\', c] };
    text.chars().flat_map(escape).collect()
}

/// A host fit to be a label: lower case, and nothing in it that a host cannot have.
pub fn clean_host(host: Cow<'_, str>) -> Cow<'_, str> {
    let plain = |c: char| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']' | '*')
    };
    if host.chars().all(plain) {
        return host;
    }
    let clean = |c: char| match c.to_ascii_lowercase() {
        c if plain(c) => c,
        _ => '\u{fffd}',
    };
    Cow::Owned(host.chars().map(clean).collect())
}

#[cfg(test)]
mod tests;
