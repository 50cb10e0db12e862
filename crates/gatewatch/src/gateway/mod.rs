//! `gatewatch gateway`: every request of the gateways on this machine or in this pod.

mod agent;
mod fleet;
mod folding;
pub mod live;
mod lua;
mod memo;
mod prepared;
pub mod proof;
mod publish;
mod reaper;
mod reload;
mod status;
mod watch;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use gatewatch_capture::clock;
use gatewatch_export::{
    http::{self, Meeting},
    log::Level,
};

use crate::{
    ending::{End, ended},
    listen,
    source::{Loaded, Source},
};
use agent::{Agent, Ends};
use live::Live;
use prepared::Prepared;
use reload::Ask;

use crate::network::Network;

/// Runs until a signal or `limit` ends it.
///
/// # Errors
/// When the kernel, the address or the configuration refuse.
pub fn run(source: Source, limit: Option<Duration>) -> Result<()> {
    let Loaded { config, bytes } = source.load()?;
    let config = Arc::new(config);
    let meeting = Arc::new(Meeting::default());
    let stop = Arc::new(AtomicBool::new(false));
    let address: SocketAddr = config.listen.0;
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    // The address first: a second agent on it should fail before it attaches anything.
    let listener = runtime.block_on(listen::on(address, listen::METRICS))?;

    let lua_wanted = Arc::new(AtomicBool::new(config.gateway.lua_phases));
    let status = status::Slot::default();
    let live = Arc::new(Live::new(Arc::clone(&config)));
    // Before anything is attached: a second agent should fail first.
    let network = Network::start(live.subscribe(), Arc::clone(&meeting))?;
    let prepared = Prepared::new(Arc::clone(&config), &config)?;
    let (ask, news) = reload::start(source, bytes, config).context("cannot start")?;
    let hot = {
        let (lua_wanted, status) = (Arc::clone(&lua_wanted), Arc::clone(&status));
        let (meeting, stop, live) = (Arc::clone(&meeting), Arc::clone(&stop), Arc::clone(&live));
        // The agent is made by the thread that runs it: its rings stay there.
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("hot-loop".to_owned()).spawn(move || {
            match Agent::new(prepared, Ends { meeting, lua_wanted, status, news, live }) {
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

    let hot_thread = hot.thread().id();
    let for_good = Arc::new(AtomicBool::new(false));
    let stopped = {
        let (stop, for_good) = (Arc::clone(&stop), Arc::clone(&for_good));
        let (live, meeting) = (Arc::clone(&live), Arc::clone(&meeting));
        async move {
            let end = ended(limit).await;
            for_good.store(end == End::ForGood, Ordering::Relaxed);
            let config = live.now();
            if config.network.enabled && config.network.pin {
                let text = match end {
                    End::ForNow => {
                        "ends; what is pinned goes on counting packets and connections until the next agent takes it over, or `gatewatch unload` removes it"
                    }
                    End::ForGood => "ends, and nothing is left counting",
                };
                meeting.network.say(Level::Info, text.to_owned());
            }
            stop.store(true, Ordering::Relaxed);
        }
    };
    runtime.spawn(switch_on_signal(lua_wanted));
    runtime.spawn(answer_hangup(ask, Arc::clone(&meeting)));
    runtime.spawn(status::ask(live.subscribe(), Arc::clone(&meeting), status));
    runtime.block_on(http::serve(listener, meeting, clock::monotonic, stopped));
    stop.store(true, Ordering::Relaxed);
    network.finish(for_good.load(Ordering::Relaxed));
    hot.join().map_err(|_| {
        anyhow::anyhow!("the hot loop ({hot_thread:?}) ended by a defect of gatewatch: see above")
    })?;
    Ok(())
}

/// Each SIGUSR2 switches the Lua probes on or off.
async fn switch_on_signal(lua_wanted: Arc<AtomicBool>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut switch) = signal(SignalKind::user_defined2()) else { return };
    while switch.recv().await.is_some() {
        lua_wanted.fetch_xor(true, Ordering::Relaxed);
    }
}

/// SIGHUP asks to read the configuration's file now.
async fn answer_hangup(ask: Ask, meeting: Arc<Meeting>) {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return };
    while hangup.recv().await.is_some() {
        if !ask.now() {
            meeting.say("SIGHUP: there is no configuration file (--config) to be read anew".to_owned());
        }
    }
}
