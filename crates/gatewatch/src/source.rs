//! Where the configuration comes from: a file, the environment over it, flags over those. The same at the start and
//! each time the file is read anew.

use std::path::{Path, PathBuf};

use anyhow::Result;
use gatewatch_config::{Config, ConfigError, Detail, Listen, Mode, read_file};

/// The file and the flags.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file; none: defaults.
    pub file: Option<PathBuf>,
    /// What stands over file and environment.
    pub flags: Flags,
}

/// What flags say; `None` and `false`: nothing.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `listen`
    pub listen: Option<Listen>,
    /// `log.json` off
    pub text: bool,
    /// `log.level`
    pub log_level: Option<String>,
    /// `log.requests` off
    pub no_requests: bool,
    /// `gateway.detail: lean`
    pub lean: bool,
    /// `gateway.lua_phases` on
    pub lua_phases: bool,
    /// `network.enabled` off
    pub no_network: bool,
    /// `node.mode: local`
    pub local: bool,
}

impl Source {
    /// Reads the file, and what follows from it.
    ///
    /// # Errors
    /// A file that cannot be read, or anything in it, the environment or the flags that is not accepted.
    pub fn load(&self) -> Result<Loaded> {
        let bytes = self.file.as_deref().map(read).transpose()?;
        let config = self.configuration(bytes.as_deref())?;
        Ok(Loaded { config, bytes })
    }

    /// What follows from the file's bytes.
    ///
    /// # Errors
    /// Anything in them, the environment or the flags that is not accepted.
    pub fn configuration(&self, bytes: Option<&[u8]>) -> Result<Config, ConfigError> {
        let name = self.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        let mut config = match bytes {
            Some(bytes) => Config::parse_bytes(bytes, &name)?,
            None => Config::default(),
        };
        let flags = &self.flags;
        let flag = |name: &str| if name == "LOG_LEVEL" { flags.log_level.clone() } else { None };
        config.apply_env(|name| flag(name).or_else(|| std::env::var(name).ok()))?;
        if let Some(listen) = flags.listen {
            config.listen = listen;
        }
        config.log.json &= !flags.text;
        config.log.requests &= !flags.no_requests;
        if flags.lean {
            config.gateway.detail = Detail::Lean;
        }
        config.gateway.lua_phases |= flags.lua_phases;
        config.network.enabled &= !flags.no_network;
        if flags.local {
            config.node.mode = Mode::Local;
        }
        config.validate()?;
        Ok(config)
    }
}

/// A configuration, and the bytes it was read from.
pub struct Loaded {
    /// It.
    pub config: Config,
    /// The file's, if there is one.
    pub bytes: Option<Vec<u8>>,
}

fn read(file: &Path) -> Result<Vec<u8>, ConfigError> {
    read_file(file).map_err(|source| ConfigError::Read { path: file.display().to_string(), source })
}
