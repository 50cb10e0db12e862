//! Follows the API server: Services, `EndpointSlices`, Pods and Nodes, each with a list and then a watch.
//!
//! What the agent must be allowed: `list` and `watch` of `services`, `pods` and `nodes` (core) and of `endpointslices`
//! (`discovery.k8s.io`). Of one namespace a role of that namespace does, and Nodes are left out if they are refused.
//!
//! Nothing is stored here: each object is parsed as far as its fields are read, told as a [`Change`], and dropped. The
//! channel is short; when nobody takes from it, the connections to the API server stand still.

use std::{
    path::PathBuf,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt, future::join_all};
use kube::{
    Api, Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
    runtime::{
        utils::Backoff,
        watcher::{self, DefaultBackoff, Event},
    },
};
use tokio::{sync::mpsc, time};

pub use guard::Patience;
pub use hold::HOLD_MAX;

use crate::change::{Change, Kind};
use guard::{AllSeen, GuardLayer};
use objects::Object;
use tell::{News, Tells, Told};

pub mod access;
mod guard;
mod hold;
mod objects;
mod owner;
mod records;
mod tell;
#[cfg(test)]
mod tests;

/// Changes that wait to be taken.
const WAITING: usize = 1024;
/// How many objects a list brings at once; fewer where they are so large that an answer would be too long.
const PAGE: u32 = 250;
/// Until we try again, at most.
const LATER: Duration = Duration::from_secs(30);
/// How often is told that the API server was heard.
const HEARD: Duration = Duration::from_secs(1);

/// What is watched, and how.
#[derive(Clone, Debug, Default)]
pub struct WatchSettings {
    /// Only this namespace; `None`: all.
    pub namespace: Option<String>,
    /// Labels of pods that are kept, by their keys.
    pub labels: Vec<Arc<str>>,
    /// This node's name: only of its pods are containers kept. `None`: of all.
    pub node: Option<String>,
    /// How to reach the API server; `None`: as a pod does, or as `KUBECONFIG` or `~/.kube/config` says.
    pub kubeconfig: Option<PathBuf>,
    /// How much of its time the API server is given.
    pub patience: Patience,
}

/// The end of the channel that the directory's owner keeps. When it is dropped the watch ends.
#[derive(Debug)]
pub struct Changes(mpsc::Receiver<Change>);

impl Changes {
    /// The next change, if one waits. Never blocks.
    #[must_use]
    pub fn take(&mut self) -> Option<Change> {
        self.0.try_recv().ok()
    }

    /// The next change; `None` when there will be none any more.
    pub async fn next(&mut self) -> Option<Change> {
        self.0.recv().await
    }
}

/// The watch, to be run on a tokio runtime with its timers and I/O enabled, and where its changes come out. It never ends
/// by itself: whatever fails is tried again, later and later, up to 30 seconds.
pub fn start(settings: WatchSettings) -> (impl Future<Output = ()> + Send + 'static, Changes) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (run(settings, sender), Changes(receiver))
}

/// Nobody takes the changes any more.
struct Closed;

async fn run(settings: WatchSettings, changes: mpsc::Sender<Change>) {
    let seen = Arc::new(AllSeen::default());
    let Ok(client) = connect(&settings, &seen, &changes).await else { return };
    let watch = Watch { client, settings, seen, changes };
    // Each in a task of its own: that one waits for the channel shall not keep another from hearing its server.
    let all = [
        tokio::spawn(watch.clone().follow::<objects::Service>()),
        tokio::spawn(watch.clone().follow::<objects::EndpointSlice>()),
        tokio::spawn(watch.clone().follow::<objects::Pod>()),
        tokio::spawn(watch.follow::<objects::Node>()),
    ];
    let _ended = join_all(all).await;
}

/// Until there is a configuration that can be read: a token may be mounted late.
async fn connect(
    settings: &WatchSettings,
    seen: &Arc<AllSeen>,
    changes: &mpsc::Sender<Change>,
) -> Result<Client, Closed> {
    let mut said = String::new();
    let mut backoff = DefaultBackoff::default();
    loop {
        let why = match configuration(settings).await {
            Ok(config) => match ClientBuilder::try_from(config) {
                Ok(builder) => {
                    let layer = GuardLayer { seen: Arc::clone(seen), patience: settings.patience };
                    return Ok(builder.with_layer(&layer).build());
                }
                Err(error) => error.to_string(),
            },
            Err(why) => why,
        };
        let why = format!("no way to the API server: {}", short(&why));
        if why != said {
            changes.send(Change::Notice(why.clone())).await.map_err(|_| Closed)?;
            said = why;
        }
        tokio::select! {
            () = time::sleep(backoff.next().unwrap_or(LATER)) => {}
            () = changes.closed() => return Err(Closed),
        }
    }
}

async fn configuration(settings: &WatchSettings) -> Result<Config, String> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| error.to_string())?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(file, &options).await.map_err(|error| error.to_string())?
        }
        None => Config::infer().await.map_err(|error| error.to_string())?,
    };
    // How long to wait, and when to try again, is decided here, not by what the server asks for.
    config.default_retry = false;
    Ok(config)
}

/// What is kept of one kind from list to list.
struct Course {
    page: u32,
    backoff: DefaultBackoff,
    told: Told,
    /// What was said last about what does not work.
    trouble: Option<String>,
}

#[derive(Clone)]
struct Watch {
    client: Client,
    settings: WatchSettings,
    seen: Arc<AllSeen>,
    changes: mpsc::Sender<Change>,
}

impl Watch {
    async fn follow<K: Tells>(self) {
        let mut course =
            Course { page: PAGE, backoff: DefaultBackoff::default(), told: Told::default(), trouble: None };
        while self.list_and_watch::<K>(&mut course).await.is_ok() {}
    }

    /// Ends when all has to be listed anew, or when nobody listens.
    async fn list_and_watch<K: Tells>(&self, course: &mut Course) -> Result<(), Closed> {
        let api: Api<Object<K>> = match &self.settings.namespace {
            Some(namespace) if K::KIND != Kind::Node => Api::namespaced(self.client.clone(), namespace),
            _ => Api::all(self.client.clone()),
        };
        let mut config = watcher::Config::default().page_size(course.page);
        config.field_selector = K::FIELDS.map(str::to_owned);
        config.label_selector = K::LABELS.map(str::to_owned);
        let mut events = pin!(watcher::watcher(api, config));
        let mut heard = time::interval(HEARD);
        heard.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        let seen = self.seen.of(K::KIND);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                _tick = heard.tick() => {
                    if seen.heard.swap(false, Ordering::Relaxed) {
                        course.backoff.reset();
                        self.recovered(K::KIND, course).await?;
                        self.tell(Change::Heard(K::KIND)).await?;
                    }
                    continue;
                }
                () = self.changes.closed() => return Err(Closed),
            };
            match event {
                Some(Ok(event)) => self.event(event, &mut course.told).await?,
                Some(Err(error)) => {
                    self.failed(K::KIND, &error, course).await?;
                    if seen.too_long.swap(false, Ordering::Relaxed) {
                        course.page = (course.page / 4).max(1);
                        return Ok(());
                    }
                    // An event that nobody understands may have been that something is gone.
                    if matches!(error, watcher::Error::WatchFailed(kube::Error::SerdeError(_))) {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            }
        }
    }

    /// Says so, and waits.
    async fn failed(&self, kind: Kind, error: &watcher::Error, course: &mut Course) -> Result<(), Closed> {
        let refused = is_refused(error);
        let why = if refused { refusal(kind) } else { failure(kind, error) };
        if refused {
            self.tell(Change::Refused(kind)).await?;
        }
        // Nodes belong to no namespace: who watches one of them is seldom let see them, and does nearly as well.
        let usual = refused && kind == Kind::Node && self.settings.namespace.is_some();
        if !usual && course.trouble.as_ref() != Some(&why) {
            self.tell(Change::Notice(why.clone())).await?;
            course.trouble = Some(why);
        }
        // Also who is refused asks again: an API server that has just started refuses until it has read its roles.
        let pause = course.backoff.next().unwrap_or(LATER);
        tokio::select! {
            () = time::sleep(pause) => Ok(()),
            () = self.changes.closed() => Err(Closed),
        }
    }

    async fn event<K: Tells>(&self, event: Event<Object<K>>, told: &mut Told) -> Result<(), Closed> {
        let news = match event {
            Event::Init => News::from(Change::Began(K::KIND)),
            Event::InitDone => News::from(Change::Complete(K::KIND)),
            Event::InitApply(object) | Event::Apply(object) => object.body.applied(&self.settings),
            Event::Delete(object) => object.body.gone(),
        };
        if let Some(notice) = news.notice.and_then(|notice| told.once(notice)) {
            self.tell(Change::Notice(notice)).await?;
        }
        match news.change {
            Some(change) => self.tell(change).await,
            None => Ok(()),
        }
    }

    async fn recovered(&self, kind: Kind, course: &mut Course) -> Result<(), Closed> {
        match course.trouble.take() {
            Some(_) => self.tell(Change::Notice(format!("{} are heard of again", kind.resource()))).await,
            None => Ok(()),
        }
    }

    async fn tell(&self, change: Change) -> Result<(), Closed> {
        self.changes.send(change).await.map_err(|_| Closed)
    }
}

fn is_refused(error: &watcher::Error) -> bool {
    use watcher::Error;
    match error {
        Error::InitialListFailed(kube::Error::Api(status))
        | Error::WatchStartFailed(kube::Error::Api(status))
        | Error::WatchFailed(kube::Error::Api(status))
        | Error::WatchError(status) => status.code == 403,
        Error::InitialListFailed(_)
        | Error::WatchStartFailed(_)
        | Error::WatchFailed(_)
        | Error::NoResourceVersion => false,
    }
}

fn refusal(kind: Kind) -> String {
    format!(
        "the API server refuses {0}: the role needs list and watch of {0}; the rest goes on",
        kind.resource()
    )
}

fn failure(kind: Kind, error: &watcher::Error) -> String {
    format!(
        "{} are not heard of, what is known goes on being used: {}",
        kind.resource(),
        short(&error.to_string())
    )
}

/// Part of what others have said, for the log.
fn short(text: &str) -> String {
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
