//! What is told of an object.

use std::collections::HashSet;

use super::{
    WatchSettings,
    objects::{EndpointSlice, Node, Pod, Service, Watched},
    records::{self, Nameless},
};
use crate::{cgroup::Uid, change::Change};

/// A change, and something for the log.
#[derive(Debug, Default)]
pub(super) struct News {
    pub(super) change: Option<Change>,
    pub(super) notice: Option<String>,
}

impl From<Change> for News {
    fn from(change: Change) -> Self {
        Self { change: Some(change), notice: None }
    }
}

/// An object that cannot be is passed over.
impl<K: Watched> From<(&K, Nameless)> for News {
    fn from((_, why): (&K, Nameless)) -> Self {
        let notice = format!("one of the {} is passed over: {why}", K::KIND.resource());
        Self { change: None, notice: Some(notice) }
    }
}

/// What has been said for the log.
#[derive(Debug, Default)]
pub(super) struct Told(HashSet<String>);

impl Told {
    /// So many different things are said; then no more, for somebody makes them up.
    const MOST: usize = 1000;

    /// The text, if it is not said already.
    pub(super) fn once(&mut self, text: String) -> Option<String> {
        (self.0.len() < Self::MOST && self.0.insert(text.clone())).then_some(text)
    }
}

pub(super) trait Tells: Watched {
    /// Only objects with these fields.
    const FIELDS: Option<&'static str> = None;
    /// Only objects with these labels.
    const LABELS: Option<&'static str> = None;

    fn applied(&self, settings: &WatchSettings) -> News;
    fn gone(&self) -> News;
}

impl Tells for Service {
    fn applied(&self, _settings: &WatchSettings) -> News {
        match records::service(self) {
            Ok((record, warning)) => {
                let of = |warning| format!("Service {}/{}: {warning}", record.key.namespace, record.key.name);
                News { notice: warning.map(of), change: Some(Change::Service(Box::new(record))) }
            }
            Err(why) => (self, why).into(),
        }
    }

    fn gone(&self) -> News {
        records::service_key(&self.metadata)
            .map_or_else(|why| (self, why).into(), |key| Change::ServiceGone(key).into())
    }
}

impl Tells for EndpointSlice {
    const LABELS: Option<&'static str> = Some("kubernetes.io/service-name");

    fn applied(&self, _settings: &WatchSettings) -> News {
        match records::slice(self) {
            Ok(Some(record)) => Change::Slice(Box::new(record)).into(),
            Ok(None) => self.gone(),
            Err(why) => (self, why).into(),
        }
    }

    fn gone(&self) -> News {
        records::key(&self.metadata)
            .map_or_else(|why| (self, why).into(), |key| Change::SliceGone(key).into())
    }
}

impl Tells for Pod {
    // What has ended is told as deleted.
    const FIELDS: Option<&'static str> = Some("status.phase!=Succeeded,status.phase!=Failed");

    fn applied(&self, settings: &WatchSettings) -> News {
        match records::pod(self, settings.node.as_deref(), &settings.labels) {
            Ok(Some(record)) => Change::Pod(Box::new(record)).into(),
            Ok(None) => self.gone(),
            Err(why) => (self, why).into(),
        }
    }

    fn gone(&self) -> News {
        let key = records::key(&self.metadata);
        let uid = Uid::parse(&self.metadata.uid).ok_or(Nameless);
        let gone = key.and_then(|key| uid.map(|uid| Change::PodGone(key, uid)));
        gone.map_or_else(|why| (self, why).into(), News::from)
    }
}

impl Tells for Node {
    fn applied(&self, _settings: &WatchSettings) -> News {
        let record = records::node(self);
        record.map_or_else(|why| (self, why).into(), |record| Change::Node(Box::new(record)).into())
    }

    fn gone(&self) -> News {
        let name = records::name(&self.metadata.name);
        name.map_or_else(|why| (self, why).into(), |name| Change::NodeGone(name).into())
    }
}
