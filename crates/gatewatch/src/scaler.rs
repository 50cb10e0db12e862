//! `gatewatch scaler`: KEDA's external scaler, fed by the node agents.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result};
use gatewatch_capture::clock;
use gatewatch_export::{
    figures::{self, Figure, Kind, Source},
    log::{self, Level, Log},
};
use gatewatch_scaler::{ClientTls, Limits, Scaler, ServerTls, Settings, Tls};
use tokio::net::TcpListener;

use crate::listen;

/// How often certificates are read again.
const RENEW: Duration = Duration::from_secs(30);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where KEDA asks, over gRPC: the `scalerAddress` of its triggers
    #[arg(long, value_name = "ADDRESS:PORT", env = "SCALER_ADDR", default_value = "0.0.0.0:9104")]
    listen: SocketAddr,
    /// Where the node agents tell their demand: a headless Service's name and port, or several, or addresses
    #[arg(long, value_name = "NAME:PORT", env = "SCALER_NODES", value_delimiter = ',', required = true)]
    nodes: Vec<String>,
    /// Where /metrics, /healthz and /readyz are served
    #[arg(long, value_name = "ADDRESS:PORT", env = "METRICS_ADDR", default_value = "0.0.0.0:9102")]
    metrics: SocketAddr,
    /// Own certificate towards KEDA, PEM; read again when it changes. Without: plaintext
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let in only clients with a certificate of this authority, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_client_ca: Option<PathBuf>,
    /// The authority of the node agents' certificates, PEM. Without: plaintext
    #[arg(long, value_name = "FILE", requires = "node_name")]
    node_ca: Option<PathBuf>,
    /// The name in the node agents' certificates
    #[arg(long, value_name = "NAME", requires = "node_ca")]
    node_name: Option<String>,
    /// Own certificate towards node agents that ask for one, PEM
    #[arg(long, value_name = "FILE", requires_all = ["node_key", "node_ca"])]
    node_cert: Option<PathBuf>,
    /// Its private key, PEM
    #[arg(long, value_name = "FILE", requires = "node_cert")]
    node_key: Option<PathBuf>,
    /// Log as text, for people, instead of JSON lines
    #[arg(long)]
    text: bool,
}

/// Runs until a signal ends it.
///
/// # Errors
/// When an address or a certificate is unfit.
pub(crate) fn run(args: &Args) -> Result<()> {
    let settings = log::Settings { level: Level::Info, json: !args.text, requests: false };
    let log = Log::new(settings, std::io::stdout()).context("cannot start")?;
    let log = Arc::new(Mutex::new(log));
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(serve(args, &log));
    if let Ok(mut log) = log.lock() {
        log.finish();
    }
    result
}

async fn serve(args: &Args, log: &Arc<Mutex<Log>>) -> Result<()> {
    let scaler = Settings { nodes: args.nodes.clone(), limits: Limits::default() };
    let scaler = Arc::new(Scaler::new(scaler));
    let listener = listen::on(args.listen, "--listen or SCALER_ADDR").await?;
    let listener = listener.into_std().context("cannot listen")?;
    let metrics = listen::on(args.metrics, "--metrics or METRICS_ADDR").await?;
    let source = Arc::new(Watched(Arc::clone(&scaler)));
    tokio::spawn(figures::serve(metrics, source, std::future::pending()));
    say(log, Level::Info, &format!("KEDA is answered on {}; nodes: {}", args.listen, args.nodes.join(", ")));
    let mut ended = std::pin::pin!(ended());
    loop {
        let tls = args.tls()?;
        let listener = listener.try_clone().and_then(TcpListener::from_std).context("cannot listen")?;
        let warn = {
            let log = Arc::clone(log);
            move |warning: String| say(&log, Level::Warn, &warning)
        };
        let mut over = false;
        scaler
            .run(listener, tls.clone(), warn, async {
                tokio::select! {
                    () = &mut ended => over = true,
                    () = args.renewed(&tls) => say(log, Level::Info, "certificates have changed: begun anew"),
                }
            })
            .await?;
        if over {
            return Ok(());
        }
    }
}

impl Args {
    fn tls(&self) -> Result<Tls> {
        let keda = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(ServerTls {
                certificate: read(certificate)?,
                key: read(key)?,
                client_authority: self.tls_client_ca.as_deref().map(read).transpose()?,
            }),
            _ => None,
        };
        let identity = match (&self.node_cert, &self.node_key) {
            (Some(certificate), Some(key)) => Some((read(certificate)?, read(key)?)),
            _ => None,
        };
        let nodes = match (&self.node_ca, &self.node_name) {
            (Some(authority), Some(name)) => {
                Some(ClientTls { authority: read(authority)?, name: name.clone(), identity })
            }
            _ => None,
        };
        Ok(Tls { keda, nodes })
    }

    /// Resolves when the files hold something else than `known`. Files that cannot be read may be about to be replaced.
    async fn renewed(&self, known: &Tls) {
        loop {
            tokio::time::sleep(RENEW).await;
            if self.tls().is_ok_and(|now| now != *known) {
                return;
            }
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

fn say(log: &Mutex<Log>, level: Level, text: &str) {
    if let Ok(mut log) = log.lock() {
        log.say(level, clock::realtime(), text);
        log.flush();
    }
}

async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The scaler, as its metrics show it. `docs/scaler.md` has a row for each.
struct Watched(Arc<Scaler>);

impl Source for Watched {
    fn ready(&self) -> Result<(), String> {
        if self.0.is_ready() {
            return Ok(());
        }
        Err("no node agent tells its demand yet: are they running, and does --nodes name them?".to_owned())
    }

    fn figures(&self) -> Vec<Figure> {
        let figures = self.0.figures();
        let (counter, gauge) = (Figure::counter, Figure::gauge);
        vec![
            gauge("gatewatch_scaler_nodes", "Addresses of node agents, as last resolved.", figures.nodes),
            gauge(
                "gatewatch_scaler_nodes_connected",
                "Node agents that tell their demand now.",
                figures.nodes_connected,
            ),
            gauge(
                "gatewatch_scaler_nodes_lost",
                "Node agents that tell no more, and whose last word still counts.",
                figures.nodes_lost,
            ),
            counter(
                "gatewatch_scaler_node_failures",
                "Streams of node agents that broke or could not begin.",
                figures.node_failures,
            ),
            counter(
                "gatewatch_scaler_resolve_failures",
                "Times the node agents' name was not resolved.",
                figures.resolve_failures,
            ),
            counter("gatewatch_scaler_updates", "Messages of node agents.", figures.updates),
            gauge("gatewatch_scaler_services", "Services called in the last ten minutes.", figures.services),
            gauge("gatewatch_scaler_streams", "Streams on which KEDA waits now.", figures.streams),
            counter(
                "gatewatch_scaler_refused_streams",
                "Streams refused because of too many.",
                figures.refused_streams,
            ),
            counter(
                "gatewatch_scaler_activations",
                "Times a stream was told that a Service is called that was not before.",
                figures.activations,
            ),
            Figure::by(
                "method",
                Kind::Counter,
                "gatewatch_scaler_questions",
                "Questions of KEDA.",
                figures.questions,
            ),
            counter(
                "gatewatch_scaler_bad_questions",
                "Questions whose trigger metadata was wrong.",
                figures.bad_questions,
            ),
            counter(
                "gatewatch_scaler_unsure",
                "Questions not answered because no node agent tells its demand.",
                figures.unsure,
            ),
        ]
    }
}
