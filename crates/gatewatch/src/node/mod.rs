//! `gatewatch node`: who calls which Service of the cluster from this node, and what is answered on it.

mod agent;
mod bell;
pub mod hold;
mod publish;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use gatewatch_capture::clock;
use gatewatch_export::node::http::{self, Exchange};

use crate::{
    ending::ended,
    listen,
    source::{Loaded, Source},
};
use agent::{Agent, Ends};
use bell::Bell;

/// Runs until a signal or `limit` ends it.
///
/// # Errors
/// When the kernel, the address or the configuration refuse.
pub fn run(source: &Source, limit: Option<Duration>) -> Result<()> {
    let Loaded { config, .. } = source.load()?;
    let config = Arc::new(config);
    let bell = Arc::new(Bell::new().context("cannot start")?);
    let exchange = {
        let bell = Arc::clone(&bell);
        Arc::new(Exchange::new(move || bell.ring()))
    };
    let stop = Arc::new(AtomicBool::new(false));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    // The address first: a second agent on it should fail before it attaches anything.
    let listener = runtime.block_on(listen::on(config.listen.0))?;
    let hot = {
        let (config, stop) = (Arc::clone(&config), Arc::clone(&stop));
        let ends = Ends { exchange: Arc::clone(&exchange), bell: Arc::clone(&bell) };
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
    let served = runtime.block_on(http::serve(listener, exchange, clock::monotonic, stopped));
    stop.store(true, Ordering::Relaxed);
    bell.ring();
    hot.join().map_err(|_| anyhow!("the hot loop ended by a defect of gatewatch: see above"))?;
    served.context("the HTTP server failed")
}
