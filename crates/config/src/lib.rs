//! The configuration: one YAML file, environment variables over it, flags over those.
//!
//! [`diff`] tells two of them apart in words.
//!
//! [`Config::load`] reads a file, [`Config::apply_env`] lays the environment over it, the caller sets what
//! its flags say, and [`Config::validate`] checks the result as a whole. Everything that is wrong is listed
//! at once, each with its place and what to write instead; nothing unknown is ignored.
//!
//! Every key with its default and unit: `docs/configuration.md`, held against the types by a test.

mod check;
mod de;
mod diff;
mod env;
mod error;
mod file;
mod model;
mod units;
mod yaml;

use std::path::Path;

pub use check::MAX_MASK_PATTERNS;
pub use diff::{Change, diff};
pub use error::{ConfigError, Place, Problem};
pub use file::read_file;
pub use model::{
    Alerts, Attempts, Capture, Config, Demand, Detail, DomainAnalysis, Filter, Gateway, Hold, Ingress,
    InstanceName, Listen, Log, LogLevel, Mapper, Mask, Metrics, Mode, Monitoring, Network, Node,
    PathAnalysis, Paths, Protocol, RequestSource, Requests, Routing, RoutingRule, Series, Stats, StatusRange,
    Thresholds,
};
pub use yaml::MAX_FILE_BYTES;

impl Config {
    /// Reads and checks a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let bytes = read_file(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
        Self::parse_bytes(&bytes, &name)
    }

    /// Parses and checks a text; `name` is what errors call it.
    pub fn parse(text: &str, name: &str) -> Result<Self, ConfigError> {
        let root = yaml::parse(text, name).map_err(|problem| ConfigError::Invalid(vec![problem]))?;
        let (config, mut problems) = de::read::<Self>(&root, name);
        if problems.is_empty() {
            problems = check::check(&config).into_iter().map(|problem| problem.locate(&root, name)).collect();
        }
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// As [`Self::parse`], from bytes that may be no text at all.
    pub fn parse_bytes(bytes: &[u8], name: &str) -> Result<Self, ConfigError> {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::parse(text, name),
            Err(error) => {
                let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let line = valid.iter().filter(|&&byte| byte == b'\n').count().saturating_add(1);
                let place = Place { file: name.to_owned(), line, column: 1 };
                let message = "this line is not UTF-8: save the file as UTF-8".to_owned();
                Err(ConfigError::Invalid(vec![Problem { place: Some(place), key: String::new(), message }]))
            }
        }
    }

    /// Checks what one key alone cannot tell; to be called again after flags have been set.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let problems = check::check(self);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// Keys that are set, accepted and checked, but without effect in this version.
    pub fn not_yet_effective(&self) -> Vec<&'static str> {
        let set = [
            ("metrics.endpoint", self.metrics.endpoint.is_some()),
            ("alerts.thresholds", self.alerts.enabled && self.alerts.thresholds != Thresholds::default()),
        ];
        set.into_iter().filter_map(|(key, set)| set.then_some(key)).collect()
    }
}
