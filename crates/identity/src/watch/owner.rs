//! Which workload a pod belongs to, told by the pod alone.
//!
//! A `ReplicaSet`'s and a `Job`'s own owner would have to be asked of the API server: two more kinds to watch, and two more
//! that the agent may see. Their names tell as well: a Deployment writes its pods' template hash in a label and at the end
//! of the `ReplicaSet`'s name; a `CronJob` the scheduled minute at the end of the Job's.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    objects::{Meta, Owner},
    records::name,
};
use crate::directory::Workload;

/// A run that was missed may be made up for this much later.
const LATE_MINUTES: i64 = 7 * 24 * 60;

pub(super) fn workload(meta: &Meta) -> Workload {
    let owners = || meta.owner_references.iter().flatten();
    let owner = owners().find(|owner| owner.controller == Some(true));
    let (kind, name_of) = match owner {
        None => ("Pod", meta.name.as_str()),
        Some(Owner { kind, name, .. }) => above(kind, name, meta).unwrap_or((kind.as_str(), name.as_str())),
    };
    let known = |text: &str| name(text).unwrap_or_else(|_| "unknown".into());
    Workload { kind: Arc::clone(&known(kind)), name: known(name_of) }
}

fn above<'a>(kind: &str, name: &'a str, meta: &Meta) -> Option<(&'static str, &'a str)> {
    let (above, suffix) = name.rsplit_once('-').filter(|(above, _)| !above.is_empty())?;
    let label = |key: &str| meta.labels.as_ref().and_then(|labels| labels.get(key));
    match kind {
        "ReplicaSet" if label("pod-template-hash").is_some_and(|hash| hash == suffix) => {
            Some(("Deployment", above))
        }
        // Argo Rollouts.
        "ReplicaSet" if label("rollouts-pod-template-hash").is_some_and(|hash| hash == suffix) => {
            Some(("Rollout", above))
        }
        "Job" if suffix.bytes().all(|byte| byte.is_ascii_digit()) => {
            let scheduled: i64 = suffix.parse().ok()?;
            let created: Timestamp = meta.creation_timestamp.as_deref()?.parse().ok()?;
            let late = created.as_second() / 60 - scheduled;
            (-1..=LATE_MINUTES).contains(&late).then_some(("CronJob", above))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workload_is_who_made_the_replica_set_or_the_job() {
        let minute = 29_000_000_i64;
        let created = Timestamp::from_second(minute * 60 + 3).unwrap().to_string();
        let cases = [
            ("ReplicaSet", "web-7d9c", "pod-template-hash", "7d9c", "Deployment", "web"),
            ("ReplicaSet", "web-app-7d9c", "pod-template-hash", "7d9c", "Deployment", "web-app"),
            ("ReplicaSet", "web-7d9c", "rollouts-pod-template-hash", "7d9c", "Rollout", "web"),
            // Made by hand: nobody put the hash into the name.
            ("ReplicaSet", "web-7d9c", "app", "7d9c", "ReplicaSet", "web-7d9c"),
            ("ReplicaSet", "web-7d9c", "pod-template-hash", "other", "ReplicaSet", "web-7d9c"),
            ("ReplicaSet", "-7d9c", "pod-template-hash", "7d9c", "ReplicaSet", "-7d9c"),
            ("Job", "backup-29000000", "job-name", "x", "CronJob", "backup"),
            ("Job", "backup-28999990", "job-name", "x", "CronJob", "backup"),
            // Numbers, but no minute near the pod's creation.
            ("Job", "backup-2026", "job-name", "x", "Job", "backup-2026"),
            ("Job", "backup-29000002", "job-name", "x", "Job", "backup-29000002"),
            ("Job", "backup", "job-name", "x", "Job", "backup"),
            ("StatefulSet", "db", "a", "b", "StatefulSet", "db"),
            ("DaemonSet", "agent", "a", "b", "DaemonSet", "agent"),
            ("Node", "node-1", "a", "b", "Node", "node-1"),
        ];
        for (kind, name, label, value, wanted_kind, wanted) in cases {
            let owner = |name: &str, controller| Owner { kind: kind.into(), name: name.into(), controller };
            let meta = Meta {
                name: "pod".into(),
                creation_timestamp: Some(created.clone()),
                labels: Some([(label.into(), value.into())].into()),
                owner_references: Some(vec![owner("not-this", None), owner(name, Some(true))]),
                ..Meta::default()
            };
            let found = workload(&meta);
            assert_eq!((&*found.kind, &*found.name), (wanted_kind, wanted), "{kind} {name}");
        }
        let alone = workload(&Meta { name: "alone".into(), ..Meta::default() });
        assert_eq!((&*alone.kind, &*alone.name), ("Pod", "alone"));
    }
}
