//! Finding the node agents, and listening to them.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use tonic::transport::Endpoint;

use crate::{
    figures::Counts,
    picture::{Picture, Source, unix_ns},
    proto::demand::{Update, WatchRequest, demand_client::DemandClient},
    transport::{ClientTls, cause},
};

/// Names are resolved so often: a new node is found within it.
const RESOLVE: Duration = Duration::from_secs(2);
/// How long a resolver may take.
const RESOLVE_MAX: Duration = Duration::from_secs(5);
/// Nodes at most.
const NODES_MAX: usize = 10_000;
/// How long a node may take to accept.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A node gives a sign of life each five seconds. One that gave none for so long is lost.
const SILENCE_MAX: Duration = Duration::from_secs(12);
/// The first pause before a node is tried again, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long nodes have, when a scaler starts, until what they have not told counts as not being there.
const GATHERING: Duration = Duration::from_secs(5);
/// Services in the picture a node begins with, at most.
const PICTURE_MAX: usize = 65_536;

/// Who is told what goes wrong.
type Warn = Arc<dyn Fn(String) + Send + Sync>;

/// Follows all nodes behind `names` (`name:port` or `address:port`) for ever.
pub(crate) async fn follow(
    names: Vec<String>,
    tls: Option<ClientTls>,
    picture: Arc<Picture>,
    counts: Arc<Counts>,
    warn: Warn,
) {
    let started = Instant::now();
    let wanted = watch::Sender::new(HashSet::new());
    // Nodes that have told all they know, or could not.
    let met = watch::Sender::new(HashSet::new());
    let mut followers = JoinSet::new();
    let mut followed: HashMap<SocketAddr, AbortHandle> = HashMap::new();
    let mut first_round_over = false;
    let mut unresolved: Option<String> = None;
    let mut next = Instant::now();
    let mut meetings = met.subscribe();
    loop {
        let news = tokio::time::timeout_at(next, meetings.changed()).await.is_ok();
        if !news {
            match resolve(&names).await {
                Ok(found) => {
                    counts.nodes.set(found.len());
                    wanted.send_replace(found);
                    first_round_over = true;
                    unresolved = None;
                }
                Err(why) => {
                    counts.resolve_failures.one_more();
                    if unresolved.replace(why.clone()).is_none_or(|before| before != why) {
                        warn(why);
                    }
                }
            }
            followed.retain(|_, follower| !follower.is_finished());
            while followers.try_join_next().is_some() {}
            for address in wanted.borrow().iter() {
                followed.entry(*address).or_insert_with(|| {
                    let node = Node {
                        address: *address,
                        tls: tls.clone(),
                        picture: Arc::clone(&picture),
                        counts: Arc::clone(&counts),
                        met: met.clone(),
                        warn: Arc::clone(&warn),
                    };
                    followers.spawn(node.follow(wanted.subscribe()))
                });
            }
            picture.grow_old(unix_ns());
            next = Instant::now() + RESOLVE;
        }
        let all_met = first_round_over && wanted.borrow().is_subset(&meetings.borrow_and_update());
        if all_met || started.elapsed() > GATHERING {
            picture.set_gathered();
        }
    }
}

/// All addresses of all names, or why there are none: better those known before than too few.
async fn resolve(names: &[String]) -> Result<HashSet<SocketAddr>, String> {
    let mut all = HashSet::new();
    for name in names {
        let answer = tokio::time::timeout(RESOLVE_MAX, tokio::net::lookup_host(name)).await;
        let answer = answer.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
        let found = answer.map_err(|error| format!("cannot resolve {name}: {error}"))?;
        all.extend(found.take(NODES_MAX));
    }
    Ok(all.into_iter().take(NODES_MAX).collect())
}

struct Node {
    address: SocketAddr,
    tls: Option<ClientTls>,
    picture: Arc<Picture>,
    counts: Arc<Counts>,
    met: watch::Sender<HashSet<SocketAddr>>,
    warn: Warn,
}

impl Node {
    /// Listens as long as the address is wanted; one that is no longer, until its stream breaks.
    async fn follow(self, mut wanted: watch::Receiver<HashSet<SocketAddr>>) {
        let (shortest, longest) = BACKOFF;
        let mut pause = shortest;
        let mut warned = false;
        while wanted.borrow_and_update().contains(&self.address) {
            let began = Instant::now();
            let ended = self.listen().await;
            self.counts.node_failures.one_more();
            self.set_met();
            if began.elapsed() > longest {
                pause = shortest;
                warned = false;
            }
            if let (Err(why), false) = (ended, warned) {
                (self.warn)(format!("node agent {}: {}; it is tried again", self.address, cause(&why)));
                warned = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
        self.met.send_if_modified(|met| met.remove(&self.address));
    }

    fn set_met(&self) {
        self.met.send_if_modified(|met| met.insert(self.address));
    }

    /// One stream, from its beginning to its end.
    async fn listen(&self) -> Result<(), Failure> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{}", self.address))?
            .connect_timeout(CONNECT_MAX)
            .tcp_nodelay(true);
        if let Some(tls) = &self.tls {
            endpoint = endpoint.tls_config(tls.config())?;
        }
        let mut client = DemandClient::new(endpoint.connect().await?);
        let beginning = tokio::time::timeout(SILENCE_MAX, client.watch(WatchRequest {}));
        let mut updates = beginning.await??.into_inner();
        let mut stream: Option<Stream<'_>> = None;
        let mut all = Vec::new();
        loop {
            let update = tokio::time::timeout(SILENCE_MAX, updates.message()).await??;
            let Some(Update { node, epoch, now_unix_ns, more, services }) = update else { return Ok(()) };
            self.counts.updates.one_more();
            let now_ns = unix_ns();
            if let Some(Stream { source, .. }) = &stream {
                self.picture.update(source, now_unix_ns, services, now_ns);
                continue;
            }
            all.extend(services);
            if all.len() > PICTURE_MAX {
                return Err(Failure::TooMuch);
            }
            if !more {
                let source = Arc::new(Source { node, epoch });
                self.picture.begin(&source, now_unix_ns, std::mem::take(&mut all), now_ns);
                stream = Some(Stream { picture: &self.picture, source });
                self.set_met();
            }
        }
    }
}

/// A stream that has begun: the picture learns of its end, however that comes.
struct Stream<'a> {
    picture: &'a Picture,
    source: Arc<Source>,
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.picture.end(&self.source);
    }
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Transport(#[from] tonic::transport::Error),
    #[error("{}", .0.message())]
    Status(#[from] tonic::Status),
    #[error("the node says nothing")]
    Silence(#[from] tokio::time::error::Elapsed),
    #[error("the node tells of more Services than a scaler keeps")]
    TooMuch,
}
