//! Environment variables over the file.

use crate::error::{ConfigError, Problem};
use crate::model::{Config, LogLevel, Mode};
use crate::units;

impl Config {
    /// Applies the variables that are set; an empty one counts as unset.
    ///
    /// `get` is `|name| std::env::var(name).ok()` outside tests. On an error nothing has been changed.
    pub fn apply_env(&mut self, get: impl Fn(&str) -> Option<String>) -> Result<(), ConfigError> {
        let get =
            |name: &str| get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let mut next = self.clone();
        let mut problems = Vec::new();
        let mut apply = |name: &str, set: &mut dyn FnMut(&str) -> Result<(), String>| {
            if let Some(value) = get(name)
                && let Err(message) = set(&value)
            {
                problems.push(Problem::new(name, message));
            }
        };
        apply("LOG_LEVEL", &mut |value| {
            let lower = value.to_lowercase();
            let level = LogLevel::NAMES.iter().find(|(name, _)| *name == lower);
            let (_, level) = level.ok_or_else(|| {
                format!("unknown level `{}`: write debug, info, warn or error", short(value))
            })?;
            next.log.level = *level;
            Ok(())
        });
        apply("ENABLE_JSON_LOG", &mut |value| {
            next.log.json = switch(value)?;
            Ok(())
        });
        apply("KONG_PROCESS_NAME", &mut |value| {
            next.gateway.process_name = list(value);
            Ok(())
        });
        apply("STATS_INTERVAL", &mut |value| {
            next.stats.interval = units::parse_duration(value)?;
            Ok(())
        });
        apply("METRICS_ADDR", &mut |value| {
            next.listen = units::parse_listen(value)?;
            Ok(())
        });
        apply("MODE", &mut |value| {
            next.node.mode = match value.to_lowercase().as_str() {
                "cluster" => Mode::Cluster,
                "local" => Mode::Local,
                _ => return Err(format!("expected cluster or local, found `{}`", short(value))),
            };
            Ok(())
        });
        apply("WATCH_NAMESPACE", &mut |value| {
            value.clone_into(&mut next.node.watch_namespace);
            Ok(())
        });
        apply("MAPPER_TTL", &mut |value| {
            next.node.mapper.ttl = units::parse_duration(value)?;
            Ok(())
        });
        apply("MAPPER_CAPACITY", &mut |value| {
            let number = value.parse().map_err(|_| format!("expected a number, found `{}`", short(value)))?;
            next.node.mapper.capacity = number;
            Ok(())
        });
        apply("EXCLUDE_COMMS", &mut |value| {
            next.node.attempts.exclude_comms = list(value);
            Ok(())
        });
        apply("L7_EXCLUDE_COMMS", &mut |value| {
            next.node.requests.exclude_comms = list(value);
            Ok(())
        });
        apply("HEALTHCHECK_PATHS", &mut |value| {
            next.node.requests.health_check_paths = list(value);
            Ok(())
        });
        apply("ENABLE_L4", &mut |value| {
            next.node.attempts.enabled = switch(value)?;
            Ok(())
        });
        apply("ENABLE_L7_HTTP", &mut |value| {
            next.node.requests.enabled = switch(value)?;
            Ok(())
        });
        apply("FILTER_HEALTHCHECK", &mut |value| {
            next.node.requests.filter_health_checks = switch(value)?;
            Ok(())
        });
        if problems.is_empty() {
            // Ranges are checked once more: a key that was fine in the file may not be in the environment.
            for mut problem in crate::check::check(&next) {
                let variable = match problem.key.split('[').next() {
                    Some("gateway.process_name") => "KONG_PROCESS_NAME",
                    Some("stats.interval") => "STATS_INTERVAL",
                    Some("listen") => "METRICS_ADDR",
                    Some("node.watch_namespace") => "WATCH_NAMESPACE",
                    Some("node.mapper.ttl") => "MAPPER_TTL",
                    Some("node.mapper.capacity") => "MAPPER_CAPACITY",
                    Some("node.attempts.exclude_comms") => "EXCLUDE_COMMS",
                    Some("node.requests.exclude_comms") => "L7_EXCLUDE_COMMS",
                    Some("node.requests.health_check_paths") => "HEALTHCHECK_PATHS",
                    _ => continue,
                };
                if get(variable).is_some() {
                    problem.key = variable.to_owned();
                    problems.push(problem);
                }
            }
        }
        if problems.is_empty() {
            *self = next;
            Ok(())
        } else {
            Err(ConfigError::Invalid(problems))
        }
    }
}

fn switch(value: &str) -> Result<bool, String> {
    match value.to_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("expected true or false, found `{}`", short(value))),
    }
}

fn list(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

fn short(value: &str) -> String {
    value.chars().take(40).collect()
}
