//! `gatewatch connections`: what a running agent's `/api/v1/connections` tells, as a table or as JSON lines.

use std::{
    io::{self, IsTerminal, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use gatewatch_export::{
    log::plain,
    network::{Connection, Process},
};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::source::{Flags, Source};

const PATIENCE: Duration = Duration::from_secs(10);

/// Its arguments.
#[derive(clap::Args)]
pub struct Args {
    /// The agent's configuration file: tells where it listens
    #[arg(long, value_name = "FILE", env = "GATEWATCH_CONFIG")]
    config: Option<PathBuf>,
    /// Where the agent listens [default: 127.0.0.1:9102, or what METRICS_ADDR says]
    #[arg(long, value_name = "ADDRESS:PORT")]
    agent: Option<SocketAddr>,
    /// As a table for people, or one JSON object a line
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Asks and prints.
///
/// # Errors
/// When no agent answers.
pub fn run(args: &Args) -> Result<()> {
    let address = match args.agent {
        Some(address) => address,
        None => Source { file: args.config.clone(), flags: Flags::default() }.load()?.config.listen.0,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(ask(reachable(address)))?;
    let mut out = io::stdout().lock();
    let written = match args.output {
        Format::Json => out.write_all(&answer),
        Format::Table => {
            let rows: Vec<Connection> = answer
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(serde_json::from_slice)
                .collect::<Result<_, _>>()
                .context("the agent's answer is not of this version")?;
            table(&rows, &mut out)
        }
    };
    match written {
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write"),
    }
}

/// An agent that listens at all addresses is asked at the local one.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}

async fn ask(address: SocketAddr) -> Result<Vec<u8>> {
    let client: Client<HttpConnector, Empty<&[u8]>> = Client::builder(TokioExecutor::new()).build_http();
    let url = format!("http://{address}/api/v1/connections");
    let answer = tokio::time::timeout(PATIENCE, async {
        let answer = client.get(url.parse()?).await.with_context(|| {
            format!(
                "no agent answers at {address}: is `gatewatch gateway` running? --agent names another address"
            )
        })?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes().to_vec();
        if !status.is_success() {
            bail!("the agent at {address}: {}", plain(String::from_utf8_lossy(&body).trim()));
        }
        Ok(body)
    });
    answer.await.with_context(|| format!("the agent at {address} did not answer in {PATIENCE:?}"))?
}

const TITLES: [&str; 11] =
    ["PROTO", "STATE", "DIR", "LOCAL", "REMOTE", "CARRIES", "IN", "OUT", "RTT", "AGE", "PROCESS"];

fn table(rows: &[Connection], out: &mut impl Write) -> io::Result<()> {
    let cells: Vec<[String; 11]> = rows.iter().map(cells).collect();
    let mut widths = TITLES.map(str::len);
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: [&str; 11]| {
        let padded = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    writeln!(out, "{}", line(TITLES))?;
    for row in &cells {
        writeln!(out, "{}", line(row.each_ref().map(String::as_str)))?;
    }
    if io::stdout().is_terminal() {
        writeln!(out, "{} connections", rows.len())?;
    }
    Ok(())
}

fn cells(row: &Connection) -> [String; 11] {
    let host = row.host.as_deref().unwrap_or_default();
    let path = row.path.as_deref().unwrap_or_default();
    let carries = match (host, path) {
        ("", "") => row.application.clone(),
        _ => format!("{} {host}{path}", row.application),
    };
    let rtt = row.rtt_us.map(|us| match us {
        us if us < 10_000 => format!("{us}µs"),
        us => format!("{}ms", us / 1000),
    });
    let who = |process: &Option<Process>| {
        process.as_ref().map_or("?".to_owned(), |process| {
            let gateway = process.gateway.as_ref().map(|name| format!(" [{name}]")).unwrap_or_default();
            let place = match process.container.as_str() {
                "" => String::new(),
                container => format!("@{container}"),
            };
            format!("{}({}){place}{gateway}", process.name, process.pid)
        })
    };
    let processes = match (&row.process, &row.peer, row.direction.as_str()) {
        (None, None, _) => String::new(),
        (process, peer, "inner") => format!("{} -> {}", who(process), who(peer)),
        (process, ..) => who(process),
    };
    let cells = [
        row.protocol.clone(),
        row.state.clone(),
        row.direction.clone(),
        row.local.clone(),
        row.remote.clone(),
        carries.chars().take(60).collect(),
        amount(row.payload_in),
        amount(row.payload_out),
        rtt.unwrap_or_default(),
        row.age_seconds.map_or("older".to_owned(), age),
        processes,
    ];
    // Names come from processes and from the network.
    cells.map(|cell| plain(&cell))
}

fn amount(bytes: u64) -> String {
    let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match units.into_iter().find(|(size, _)| bytes >= *size) {
        Some((size, unit)) => format!("{}.{}{unit}", bytes / size, bytes % size * 10 / size),
        None => format!("{bytes}B"),
    }
}

fn age(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.1}s"),
        s if s < 6000.0 => format!("{:.0}m", s / 60.0),
        s => format!("{:.1}h", s / 3600.0),
    }
}
