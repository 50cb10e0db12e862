//! gatewatch: shows, from the kernel, what a gateway really does.

mod connections;
mod cost;
mod doctor;
mod ending;
mod gateway;
mod listen;
mod network;
mod node;
mod scaler;
mod settings;
mod source;
mod unload;

use std::{io::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};
use gatewatch_config::{Config, Listen};
use source::{Flags, Source};

/// Shows, from the kernel by eBPF, what a Kong/nginx gateway really does. Nothing is changed in what it watches.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Watch the gateways of this machine or pod: a line a request, statistics, and metrics
    Gateway(GatewayArgs),
    /// Watch this node: who calls which Service, also one without pods, and what is answered
    Node(NodeArgs),
    /// Tell what this kernel, these rights and these gateways, or this cluster, allow, and what to do about each lack
    Doctor {
        /// For which command
        #[arg(value_enum, default_value = "gateway")]
        subject: Subject,
        /// The configuration file
        #[arg(long, value_name = "FILE", env = "GATEWATCH_CONFIG")]
        config: Option<PathBuf>,
        /// How long to wait for live requests to prove layouts on
        #[arg(long, value_name = "SECONDS", default_value_t = 3)]
        patience: u64,
        /// First mount what is missing and can be mounted: a BPF file system for what outlives the agent
        #[arg(long)]
        prepare: bool,
    },
    /// List the connections an agent on this machine sees, those with most bytes first
    Connections(connections::Args),
    /// Stop counting packets and connections, and remove what agents left in the kernel to go on with it
    Unload(unload::Args),
    /// Answer KEDA: which Services are called, as the node agents tell it
    Scaler(scaler::Args),
    /// Check a configuration file without starting anything
    #[command(subcommand)]
    Check(Check),
}

/// What the doctor looks at.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Subject {
    /// `gatewatch gateway`
    Gateway,
    /// `gatewatch node`
    Node,
}

#[derive(Subcommand)]
enum Check {
    /// A configuration file, as `gatewatch gateway --config` takes it
    Config {
        /// The file
        file: PathBuf,
    },
}

#[derive(clap::Args)]
struct GatewayArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "GATEWATCH_CONFIG")]
    config: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served [default: 0.0.0.0:9102, or METRICS_ADDR]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Log as text, for people, instead of JSON lines
    #[arg(long)]
    text: bool,
    /// debug, info, warn or error [default: info, or LOG_LEVEL]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// No line for each request: statistics and metrics only
    #[arg(long)]
    no_requests: bool,
    /// One trap a request instead of two: durations are nginx's own, to the millisecond
    #[arg(long)]
    lean: bool,
    /// Measure the Lua phases too: two traps more for each a request runs; SIGUSR2 switches it on and off
    #[arg(long)]
    lua_phases: bool,
    /// Do not watch packets and connections
    #[arg(long)]
    no_network: bool,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
}

#[derive(clap::Args)]
struct NodeArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "GATEWATCH_CONFIG")]
    config: Option<PathBuf>,
    /// Where /metrics, /healthz and /readyz are served [default: 0.0.0.0:9102, or METRICS_ADDR]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Log as text, for people, instead of JSON lines
    #[arg(long)]
    text: bool,
    /// debug, info, warn or error [default: info, or LOG_LEVEL]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Without a cluster: addresses have no names [default: as MODE=local|cluster says, else cluster]
    #[arg(long)]
    local: bool,
    /// End after so many seconds
    #[arg(long, value_name = "SECONDS")]
    duration: Option<u64>,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            // Messages may carry bytes of files and processes.
            for line in format!("{error:#}").lines() {
                eprintln!("gatewatch: {}", gatewatch_export::log::plain(line));
            }
            ExitCode::FAILURE
        }
    }
}

/// A line on standard output. Whoever reads it may have seen enough: no reason to fail.
pub(crate) fn say(text: &str) {
    let _gone = writeln!(std::io::stdout(), "{text}");
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Gateway(args) => {
            let limit = args.duration.map(Duration::from_secs);
            gateway::run(args.source(), limit)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Node(args) => {
            let limit = args.duration.map(Duration::from_secs);
            node::run(&args.source(), limit)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Check(Check::Config { file }) => {
            let config = Config::load(&file)?;
            say(&format!("{}: good", file.display()));
            for key in config.not_yet_effective() {
                say(&format!("  `{key}` is understood, but this version does nothing with it yet"));
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Connections(args) => {
            connections::run(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Scaler(args) => {
            scaler::run(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Unload(args) => {
            unload::run(&args)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Doctor { subject, config, patience, prepare } => {
            if prepare {
                doctor::prepare()?;
            }
            let config = Source { file: config, flags: Flags::default() }.load()?.config;
            let works = match subject {
                Subject::Gateway => doctor::run(&config, Duration::from_secs(patience)),
                Subject::Node => doctor::node::run(&config),
            };
            Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

impl GatewayArgs {
    fn source(self) -> Source {
        let flags = Flags {
            listen: self.listen.map(Listen),
            text: self.text,
            log_level: self.log_level,
            no_requests: self.no_requests,
            lean: self.lean,
            lua_phases: self.lua_phases,
            no_network: self.no_network,
            local: false,
        };
        Source { file: self.config, flags }
    }
}

impl NodeArgs {
    fn source(self) -> Source {
        let flags = Flags {
            listen: self.listen.map(Listen),
            text: self.text,
            log_level: self.log_level,
            local: self.local,
            ..Flags::default()
        };
        Source { file: self.config, flags }
    }
}
