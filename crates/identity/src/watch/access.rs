//! What the API server lets this agent do: asked once, for who sets it up. Nothing is listed.

use std::time::Duration;

use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1,
};
use kube::{Api, Client, api::PostParams};
use tokio::time::timeout;

use super::{WatchSettings, configuration, short};
use crate::change::Kind;

/// For all questions together.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a watch would find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// The API server's address.
    pub server: String,
    /// Its version, as it tells.
    pub version: String,
    /// What the watch needs, and whether it is granted.
    pub rights: Vec<Right>,
    /// The namespace that is to be watched; `None`: all are.
    pub namespace: Option<(String, Presence)>,
}

/// One thing to be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Right {
    /// `list` or `watch`.
    pub verb: &'static str,
    /// What.
    pub kind: Kind,
    /// It is.
    pub granted: bool,
}

/// Whether a namespace exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It does.
    There,
    /// It does not.
    Missing,
    /// The role does not let us ask: the watch itself does not need that.
    Untold,
}

/// Asks.
///
/// # Errors
/// In words, when there is no way to the API server or it does not answer.
pub async fn ask(settings: &WatchSettings) -> Result<Access, String> {
    let config = configuration(settings).await.map_err(|why| short(&why))?;
    let server = short(&config.cluster_url.to_string());
    let client = Client::try_from(config).map_err(|error| short(&error.to_string()))?;
    let asked = timeout(PATIENCE, questions(&client, settings));
    match asked.await {
        Ok(Ok((version, rights, namespace))) => Ok(Access { server, version, rights, namespace }),
        Ok(Err(error)) => Err(format!("{server}: {}", short(&error.to_string()))),
        Err(_late) => Err(format!("{server} does not answer")),
    }
}

type Answers = (String, Vec<Right>, Option<(String, Presence)>);

async fn questions(client: &Client, settings: &WatchSettings) -> kube::Result<Answers> {
    let version = short(&client.apiserver_version().await?.git_version);
    let mut rights = Vec::new();
    for kind in Kind::ALL {
        for verb in ["list", "watch"] {
            rights.push(right(client, settings, verb, kind).await?);
        }
    }
    let namespace = match &settings.namespace {
        Some(name) => Some((name.clone(), presence(client, name).await?)),
        None => None,
    };
    Ok((version, rights, namespace))
}

async fn right(
    client: &Client,
    settings: &WatchSettings,
    verb: &'static str,
    kind: Kind,
) -> kube::Result<Right> {
    let attributes = ResourceAttributes {
        group: Some(if kind == Kind::Slice { "discovery.k8s.io" } else { "" }.to_owned()),
        namespace: if kind == Kind::Node { None } else { settings.namespace.clone() },
        resource: Some(kind.resource().to_owned()),
        verb: Some(verb.to_owned()),
        ..ResourceAttributes::default()
    };
    let spec = SelfSubjectAccessReviewSpec {
        resource_attributes: Some(attributes),
        ..SelfSubjectAccessReviewSpec::default()
    };
    let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
    let reviewed = Api::all(client.clone()).create(&PostParams::default(), &review).await?;
    Ok(Right { verb, kind, granted: reviewed.status.is_some_and(|status| status.allowed) })
}

async fn presence(client: &Client, name: &str) -> kube::Result<Presence> {
    match Api::<v1::Namespace>::all(client.clone()).get_metadata(name).await {
        Ok(_) => Ok(Presence::There),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Presence::Missing),
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(Presence::Untold),
        Err(error) => Err(error),
    }
}
