//! What a scaler knows: all Services' demand, as all nodes told it.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::sync::watch;

use crate::{
    history::{History, KEPT, SLICE_NS},
    proto::demand::ServiceDemand,
    service::Service,
};

/// Services of one node at most.
const SERVICES_MAX: usize = 65_536;

/// Who tells: one start of the agent on one node. Demand of an agent that ended counts until its window ends, beside
/// that of the one after it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Source {
    pub(crate) node: String,
    pub(crate) epoch: u64,
}

/// A Service's demand over a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Demand {
    /// Whether it was called within the window.
    pub(crate) active: bool,
    /// When it turns inactive, if nobody calls, in nanoseconds since 1970.
    pub(crate) until_ns: u64,
    /// Attempts per second.
    pub(crate) rate: f64,
}

/// Counts of the picture, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) connected: usize,
    /// Sources that tell no more, and whose demand still counts.
    pub(crate) lost: usize,
    pub(crate) services: usize,
}

/// The picture, shared by those who paint it and those who look.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    table: Mutex<Table>,
    gathered: AtomicBool,
}

#[derive(Debug, Default)]
struct Table {
    services: HashMap<Service, HashMap<Arc<Source>, Heard>>,
    sources: HashMap<Arc<Source>, State>,
    waiting: HashMap<Service, watch::Sender<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// Streams that come from it: two where it is known by two addresses.
    streams: usize,
    services: usize,
    /// The node's clock less ours, in nanoseconds.
    ahead_ns: i64,
}

#[derive(Debug, Default)]
struct Heard {
    last_call_ns: u64,
    history: History,
}

impl Picture {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Whoever panicked left a table that is whole: each change is one insertion.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every node that could be found has told, or had its time.
    pub(crate) fn set_gathered(&self) {
        self.gathered.store(true, Ordering::Relaxed);
    }

    /// Whether what is not in the picture is not there: the nodes were given time to tell, and at least one does.
    pub(crate) fn is_sure(&self) -> bool {
        self.gathered.load(Ordering::Relaxed) && self.table().sources.values().any(|it| it.streams > 0)
    }

    /// A stream begins with all the source knows: it takes the place of what was known of it.
    pub(crate) fn begin(&self, source: &Arc<Source>, node_ns: u64, all: Vec<ServiceDemand>, now_ns: u64) {
        let mut table = self.table();
        table.sources.entry(Arc::clone(source)).or_default().streams += 1;
        let told: HashSet<_> = all.iter().filter_map(|it| Service::new(&it.namespace, &it.name)).collect();
        let untold = table
            .services
            .iter()
            .filter(|(service, heard)| heard.contains_key(source) && !told.contains(*service));
        let untold: Vec<_> = untold.map(|(service, _)| service.clone()).collect();
        for service in untold {
            table.remove(&service, source);
        }
        table.apply(source, node_ns, all, now_ns);
    }

    /// News of the source.
    pub(crate) fn update(&self, source: &Arc<Source>, node_ns: u64, news: Vec<ServiceDemand>, now_ns: u64) {
        self.table().apply(source, node_ns, news, now_ns);
    }

    /// A stream has ended. What the source told counts until it is old.
    pub(crate) fn end(&self, source: &Arc<Source>) {
        if let Some(state) = self.table().sources.get_mut(source) {
            state.streams = state.streams.saturating_sub(1);
        }
    }

    /// Forgets what no window shows any more. To be called now and then.
    pub(crate) fn grow_old(&self, now_ns: u64) {
        let mut table = self.table();
        let Table { services, sources, .. } = &mut *table;
        services.retain(|_, heard| {
            heard.retain(|source, heard| {
                let Some(state) = sources.get_mut(source) else { return false };
                let kept = heard.last_call_ns.saturating_add(kept_ns()) > state.node_ns(now_ns);
                if !kept {
                    state.services = state.services.saturating_sub(1);
                }
                kept
            });
            !heard.is_empty()
        });
        sources.retain(|_, state| state.streams > 0 || state.services > 0);
    }

    /// The Service's demand over the window up to now.
    pub(crate) fn demand(&self, service: &Service, window: Duration, now_ns: u64) -> Demand {
        let window_ns = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX);
        let table = self.table();
        let mut demand = Demand { active: false, until_ns: 0, rate: 0.0 };
        for (source, heard) in table.services.get(service).into_iter().flatten() {
            let Some(state) = table.sources.get(source) else { continue };
            let node_ns = state.node_ns(now_ns);
            // A call in the node's future is one of now.
            let age_ns = node_ns.saturating_sub(heard.last_call_ns);
            demand.until_ns = demand.until_ns.max(now_ns.saturating_sub(age_ns).saturating_add(window_ns));
            demand.rate += heard.history.attempts(node_ns.saturating_sub(window_ns));
        }
        demand.active = demand.until_ns > now_ns;
        demand.rate /= window.as_secs_f64();
        demand
    }

    /// Wakes at each news of the Service.
    pub(crate) fn follow(self: &Arc<Self>, service: &Service) -> Following {
        let mut table = self.table();
        let sender = table.waiting.entry(service.clone()).or_default();
        let news = sender.subscribe();
        drop(table);
        Following { picture: Arc::clone(self), service: service.clone(), news }
    }

    pub(crate) fn sizes(&self) -> Sizes {
        let table = self.table();
        let connected = table.sources.values().filter(|it| it.streams > 0).count();
        Sizes { connected, lost: table.sources.len() - connected, services: table.services.len() }
    }
}

impl State {
    fn node_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_add_signed(self.ahead_ns)
    }
}

impl Table {
    fn apply(&mut self, source: &Arc<Source>, node_ns: u64, told: Vec<ServiceDemand>, now_ns: u64) {
        let Some(state) = self.sources.get_mut(source) else { return };
        state.ahead_ns = i64::try_from(i128::from(node_ns) - i128::from(now_ns)).unwrap_or_default();
        for ServiceDemand { namespace, name, gone, last_call_unix_ns, slices } in told {
            let Some(service) = Service::new(&namespace, &name) else { continue };
            if gone {
                self.remove(&service, source);
                continue;
            }
            if !self.services.get(&service).is_some_and(|heard| heard.contains_key(source)) {
                let Some(state) = self.sources.get_mut(source) else { return };
                if state.services >= SERVICES_MAX {
                    continue;
                }
                state.services += 1;
            }
            let sources = self.services.entry(service.clone()).or_default();
            let heard = sources.entry(Arc::clone(source)).or_default();
            heard.last_call_ns = last_call_unix_ns.min(node_ns);
            let slice_max = node_ns / SLICE_NS + 1;
            for slice in slices.iter().filter(|it| it.number <= slice_max) {
                heard.history.set(slice.number, slice.attempts);
            }
            if let Some(waiting) = self.waiting.get(&service) {
                waiting.send_replace(());
            }
        }
    }

    fn remove(&mut self, service: &Service, source: &Arc<Source>) {
        let Some(heard) = self.services.get_mut(service) else { return };
        if heard.remove(source).is_some()
            && let Some(state) = self.sources.get_mut(source)
        {
            state.services = state.services.saturating_sub(1);
        }
        if heard.is_empty() {
            self.services.remove(service);
        }
        if let Some(waiting) = self.waiting.get(service) {
            waiting.send_replace(());
        }
    }
}

/// Somebody who waits for news of a Service.
#[derive(Debug)]
pub(crate) struct Following {
    picture: Arc<Picture>,
    service: Service,
    news: watch::Receiver<()>,
}

impl Following {
    /// Resolves at the next news that came since it did last.
    pub(crate) async fn news(&mut self) {
        if self.news.changed().await.is_err() {
            // The sender stays as long as there is somebody who waits.
            std::future::pending().await
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let mut table = self.picture.table();
        if table.waiting.get(&self.service).is_some_and(|it| it.receiver_count() <= 1) {
            table.waiting.remove(&self.service);
        }
    }
}

fn kept_ns() -> u64 {
    u64::try_from(KEPT.as_nanos()).unwrap_or(u64::MAX)
}

/// Now, in nanoseconds since 1970.
pub(crate) fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
