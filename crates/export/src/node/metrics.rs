//! `/metrics` of the node, in OpenMetrics' text format. `docs/metrics-node.md` has a row for each family.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use gatewatch_insight::{
    demand::{Callee, OUTCOMES},
    exchanges::{Answers, To},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::Registry,
};

use super::{Snapshot, newborn::Newborn};
use crate::metrics::{agent, counter, gauge, network, programs, seconds};

/// Writes the snapshot as text. Series born after `seen_until_ns` are shown at 0.
///
/// # Errors
/// Those of `to`.
pub fn render(snapshot: &Arc<Snapshot>, seen_until_ns: u64, to: &mut impl Write) -> fmt::Result {
    let mut newborn = Newborn { to: &mut *to, seen_until_ns, offset_ns: snapshot.offset_ns };
    attempts(snapshot, &mut newborn)?;
    requests(snapshot, &mut newborn)?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(View(Arc::clone(snapshot))));
    text::encode(to, &registry)
}

fn attempts(snapshot: &Snapshot, to: &mut Newborn<'_, impl Write>) -> fmt::Result {
    const ATTEMPTS: &str = "internal_tcp_attempts";
    to.counters(ATTEMPTS, "Attempts to connect, by the address asked for.")?;
    for (callee, calls) in &snapshot.callees {
        for attempts in &calls.attempts {
            let [namespace, service, pod] = labels(callee);
            let labels = [namespace, service, pod, ("process_comm", &*attempts.comm)];
            to.counter(ATTEMPTS, &labels, attempts.count, attempts.born_ns)?;
        }
    }
    const ENDS: &str = "gatewatch_tcp_attempt_ends";
    to.counters(ENDS, "What became of attempts to connect.")?;
    for (callee, calls) in &snapshot.callees {
        for ((count, born_ns), (_, outcome)) in calls.outcomes.iter().zip(OUTCOMES) {
            if *count > 0 {
                let [namespace, service, pod] = labels(callee);
                to.counter(ENDS, &[namespace, service, pod, ("outcome", outcome)], *count, *born_ns)?;
            }
        }
    }
    const DURATIONS: &str = "gatewatch_tcp_connect_duration_seconds";
    to.histograms(DURATIONS, "From asking for a connection to having it.")?;
    for (callee, calls) in &snapshot.callees {
        if calls.durations.count() > 0 {
            to.histogram(DURATIONS, &labels(callee), &calls.durations, calls.durations_born_ns)?;
        }
    }
    Ok(())
}

fn requests(snapshot: &Snapshot, to: &mut Newborn<'_, impl Write>) -> fmt::Result {
    const REQUESTS: &str = "internal_http_requests";
    to.counters(REQUESTS, "HTTP requests received.")?;
    for series in &snapshot.requests {
        let [namespace, service, pod] = destination(&series.to);
        let (method, path) = (("method", series.method.name()), ("path", &*series.path));
        let (source, comm) = (("source_ip", &*series.source), ("process_comm", &*series.comm));
        let row = [source, namespace, service, pod, method, path, comm];
        to.counter(REQUESTS, &row, series.count, series.born_ns)?;
    }
    let counters: [(&str, &str, Of); 3] = [
        ("gatewatch_http_responses", "Answers to them, by status.", |answers| answers.count),
        ("gatewatch_http_received_bytes", "Bytes of requests received.", |answers| answers.request_bytes),
        ("gatewatch_http_sent_bytes", "Bytes of answers to them.", |answers| answers.response_bytes),
    ];
    for (name, help, of) in counters {
        to.counters(name, help)?;
        for answers in &snapshot.answers {
            to.counter(name, &answered(answers), of(answers), answers.born_ns)?;
        }
    }
    const DURATIONS: &str = "gatewatch_http_exchange_duration_seconds";
    to.histograms(DURATIONS, "From a request's first byte to its answer's last.")?;
    for answers in &snapshot.answers {
        to.histogram(DURATIONS, &answered(answers), &answers.duration, answers.born_ns)?;
    }
    Ok(())
}

/// A number of a series of answers.
type Of = fn(&Answers) -> u64;

fn destination(to: &To) -> [(&'static str, &str); 3] {
    [
        ("destination_namespace", &*to.namespace),
        ("destination_service", &*to.service),
        ("destination_pod", &*to.pod),
    ]
}

fn answered(answers: &Answers) -> [(&'static str, &str); 6] {
    let [namespace, service, pod] = destination(&answers.to);
    let protocol = if answers.outcome.is_grpc() { "grpc" } else { "http" };
    let (method, status) = (("method", answers.method.name()), ("status", answers.outcome.name()));
    [namespace, service, pod, method, ("protocol", protocol), status]
}

fn labels(callee: &Callee) -> [(&'static str, &str); 3] {
    [
        ("destination_namespace", &*callee.namespace),
        ("destination_service", &*callee.service),
        ("destination_pod", &*callee.pod),
    ]
}

#[derive(Debug)]
struct View(Arc<Snapshot>);

impl Collector for View {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (snapshot, encoder) = (&*self.0, &mut encoder);
        counter(encoder, "gatewatch_attempts_seen", "Attempts to connect, by the kernel programs' count.")?
            .one_counter(snapshot.attempts_seen)?;
        counter(encoder, "gatewatch_attempts_reported", "Those of them that stand in a series.")?
            .one_counter(snapshot.attempts_reported)?;
        counter(
            encoder,
            "gatewatch_attempts_excluded",
            "Those left out because of the process that made them (EXCLUDE_COMMS).",
        )?
        .one_counter(snapshot.attempts_excluded)?;
        counter(
            encoder,
            "gatewatch_attempts_folded",
            "Those counted under another process or destination because a bound was reached.",
        )?
        .one_counter(snapshot.attempts_folded)?;
        let mut family =
            counter(encoder, "gatewatch_lost", "What was seen and not reported, by stage and reason.")?;
        for (stage, reason, n) in &snapshot.lost {
            family.counter(&[("stage", *stage), ("reason", *reason)], *n)?;
        }
        snapshot.figures.iter().try_for_each(|figure| figure.encode(encoder))?;
        programs(snapshot.programs.iter(), encoder)?;
        network::maps(snapshot.maps.iter(), encoder)?;
        if let Some(cluster) = &snapshot.cluster {
            gauge(encoder, "gatewatch_cluster_synced", "1: all of the cluster has been read once.")?
                .one_gauge(u64::from(cluster.synced))?;
            gauge(
                encoder,
                "gatewatch_cluster_age_seconds",
                "Since the API server was last heard: how old what is known of the cluster may be.",
            )?
            .one_gauge(seconds(cluster.age_ns))?;
            gauge(encoder, "gatewatch_cluster_services", "Services known.")?
                .one_gauge(u64::try_from(cluster.services).unwrap_or(u64::MAX))?;
            gauge(encoder, "gatewatch_cluster_pods", "Pods known.")?
                .one_gauge(u64::try_from(cluster.pods).unwrap_or(u64::MAX))?;
        }
        if !snapshot.attempts_tier.is_empty() {
            gauge(encoder, "gatewatch_attempts_tier", "How the address asked for is learnt; always 1.")?
                .gauge(&[("tier", snapshot.attempts_tier)], 1u64)?;
        }
        for durations in &snapshot.durations {
            encoder
                .encode_descriptor(durations.name, durations.help, None, MetricType::Histogram)?
                .encode_histogram::<NoLabelSet>(
                durations.sum_seconds,
                durations.count,
                &durations.buckets,
                None,
            )?;
        }
        agent(snapshot.agent, encoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatewatch_insight::demand::{Bounds, Demand};

    #[test]
    fn a_service_nobody_called_has_its_series_at_zero_and_a_call_is_zero_once() {
        let mut demand = Demand::new(Bounds::default());
        let cart = Callee { namespace: "shop".into(), service: "cart".into(), pod: "".into() };
        demand.known(&cart, 5);
        demand.called(cart, "curl", 50);
        let callees = demand.callees().map(|(callee, calls)| (callee.clone(), calls.clone())).collect();
        let snapshot = Arc::new(Snapshot { callees, ..Snapshot::default() });
        let at = |seen_until| {
            let mut text = String::new();
            render(&snapshot, seen_until, &mut text).expect("a string takes all");
            assert!(text.ends_with("# EOF\n"));
            text
        };
        let series = |comm, value| {
            format!(
                "internal_tcp_attempts_total{{destination_namespace=\"shop\",destination_service=\"cart\",destination_pod=\"\",process_comm=\"{comm}\"}} {value}\n"
            )
        };
        assert!(at(49).contains(&series("", 0)));
        assert!(at(49).contains(&series("curl", 0)));
        assert!(at(50).contains(&series("curl", 1)));
    }
}
