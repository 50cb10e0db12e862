//! `gatewatch node`: who calls which Service of the cluster from this node, and what is answered on it.

mod agent;
mod bell;
mod cluster;
pub mod hold;
mod publish;
mod requests;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use gatewatch_capture::clock;
use gatewatch_config::Config;
use gatewatch_export::{
    hot_loop::HotLoop,
    node::{Snapshot, http},
};
use gatewatch_scaler::{
    ServerTls,
    demand::{self, Board},
};
use tokio::runtime::Runtime;

use crate::{
    ending::ended,
    listen,
    source::{Loaded, Source},
};
use agent::{Agent, Ends};
use bell::Bell;
use cluster::Cluster;
pub use cluster::watch_settings;

/// How often is looked whether the cluster is known.
const UNKNOWN: Duration = Duration::from_millis(20);

/// Runs until a signal or `limit` ends it.
///
/// # Errors
/// When the kernel, the address or the configuration refuse.
pub fn run(source: &Source, limit: Option<Duration>) -> Result<()> {
    let Loaded { config, .. } = source.load()?;
    let config = Arc::new(config);
    let bell = Arc::new(Bell::new().context("cannot start")?);
    let hot_loop = {
        let bell = Arc::clone(&bell);
        Arc::new(HotLoop::new(move || bell.ring()))
    };
    let stop = Arc::new(AtomicBool::new(false));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    // The address first: a second agent on it should fail before it attaches anything.
    let listener = runtime.block_on(listen::on(config.listen.0, listen::METRICS))?;
    let cluster = Cluster::follow(&config, &bell, runtime.handle());
    let demand = match config.node.demand.enabled && cluster.is_some() {
        true => Some(demand(&config, &runtime, Arc::clone(&hot_loop))?),
        false => None,
    };
    let (board, served_demand) = demand.unzip();
    let hot = {
        let (config, stop) = (Arc::clone(&config), Arc::clone(&stop));
        let ends = Ends { hot_loop: Arc::clone(&hot_loop), bell: Arc::clone(&bell), cluster, board };
        // The agent is made by the thread that runs it: its rings stay there.
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("hot-loop".to_owned()).spawn(move || {
            match Agent::new(&config, ends) {
                Ok(mut agent) => {
                    let _waiting = started.send(Ok(()));
                    while !stop.load(Ordering::Relaxed) {
                        agent.turn();
                    }
                    agent.finish();
                }
                Err(error) => {
                    let _waiting = started.send(Err(error));
                }
            }
        })?;
        start.recv().context("the hot loop ended before it began")??;
        thread
    };
    let stopped = {
        let stop = Arc::clone(&stop);
        async move {
            let _either = ended(limit).await;
            stop.store(true, Ordering::Relaxed);
        }
    };
    let served = runtime.block_on(async {
        let metrics = http::serve(listener, hot_loop, clock::monotonic, stopped);
        tokio::spawn(pass_over_signals());
        match served_demand {
            Some(demand) => tokio::select! {
                () = metrics => Ok(()),
                failed = demand => failed.context("the demand stream failed"),
            },
            None => {
                metrics.await;
                Ok(())
            }
        }
    });
    stop.store(true, Ordering::Relaxed);
    bell.ring();
    hot.join().map_err(|_| anyhow!("the hot loop ended by a defect of gatewatch: see above"))?;
    served
}

/// The board the hot loop writes demand on, and what serves it to scalers until it fails.
fn demand(
    config: &Config,
    runtime: &Runtime,
    hot_loop: Arc<HotLoop<Snapshot>>,
) -> Result<(Board, impl Future<Output = Result<()>>)> {
    let settings = &config.node.demand;
    let name = std::env::var("NODE_NAME").ok().filter(|name| !name.is_empty());
    let name = name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let (board, feed) = demand::board(demand::Settings::new(name, clock::realtime()));
    let listener =
        runtime.block_on(listen::on(settings.listen.0, "`node.demand.listen` in the configuration file"))?;
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(certificate), Some(key)) => Some(ServerTls {
            certificate: read(certificate)?,
            key: read(key)?,
            client_authority: settings.tls_client_ca.as_deref().map(read).transpose()?,
        }),
        _ => None,
    };
    let served = demand::serve(listener, feed, tls, std::future::pending());
    let known = async move {
        // Who asks a node that knows no Services yet would hear that none is called.
        while !hot_loop.is_ready() {
            tokio::time::sleep(UNKNOWN).await;
        }
        Ok(served.await?)
    };
    Ok((board, known))
}

/// What has a meaning for `gatewatch gateway` ends nothing here: the node's configuration is read at its start only.
async fn pass_over_signals() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut hangup), Ok(mut switch)) =
        (signal(SignalKind::hangup()), signal(SignalKind::user_defined2()))
    else {
        return;
    };
    loop {
        tokio::select! {
            _ = hangup.recv() => {}
            _ = switch.recv() => {}
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("`node.demand`: cannot read {}", file.display()))
}
