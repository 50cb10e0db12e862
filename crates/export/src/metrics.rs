//! `/metrics`: the snapshot in OpenMetrics' text format. `docs/metrics.md` has a row for each family.

use std::{fmt, sync::Arc};

use gatewatch_insight::traffic::{BUCKETS, Histogram};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
        text,
    },
    metrics::MetricType,
    registry::Registry,
};

use crate::{network::Picture, snapshot::Snapshot};

pub(crate) mod network;

/// The content type of what [`render`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Writes the snapshot as text. It may be many megabytes: best into something that passes it on.
///
/// # Errors
/// Those of `to`.
pub fn render(snapshot: Arc<Snapshot>, network: Arc<Picture>, to: &mut impl fmt::Write) -> fmt::Result {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(View(snapshot, network)));
    text::encode(to, &registry)
}

#[derive(Debug)]
struct View(Arc<Snapshot>, Arc<Picture>);

/// One family while it is written.
pub(crate) struct Family<'a>(MetricEncoder<'a>);

impl Family<'_> {
    pub(crate) fn counter(
        &mut self,
        labels: &impl EncodeLabelSet,
        value: impl EncodeCounterValue,
    ) -> fmt::Result {
        self.0.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    pub(crate) fn gauge(
        &mut self,
        labels: &impl EncodeLabelSet,
        value: impl EncodeGaugeValue,
    ) -> fmt::Result {
        self.0.encode_family(labels)?.encode_gauge(&value)
    }

    pub(crate) fn one_counter(&mut self, value: impl EncodeCounterValue) -> fmt::Result {
        self.0.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    pub(crate) fn one_gauge(&mut self, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_gauge(&value)
    }

    fn histogram(&mut self, labels: &impl EncodeLabelSet, histogram: &Histogram) -> fmt::Result {
        let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(histogram.counts).collect();
        let sum = seconds(histogram.sum_ns);
        self.0.encode_family(labels)?.encode_histogram::<NoLabelSet>(sum, histogram.count(), &buckets, None)
    }
}

#[allow(clippy::cast_precision_loss)] // sums of nanoseconds, shown as seconds: exact to 104 days
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

impl Collector for View {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let mut buffer = String::new();
        requests(
            &self.0,
            counter(encoder, "gatewatch_http_requests", "Requests that ended, by endpoint.")?,
            &mut buffer,
        )?;
        bytes(
            &self.0,
            counter(encoder, "gatewatch_http_request_bytes", "Bytes of requests, header and body.")?,
            |e| e.request_bytes,
        )?;
        bytes(
            &self.0,
            counter(encoder, "gatewatch_http_response_bytes", "Bytes of responses, header and body.")?,
            |e| e.response_bytes,
        )?;
        seen(
            &self.0,
            counter(
                encoder,
                "gatewatch_http_requests_seen",
                "Requests that ended, by the kernel programs' count.",
            )?,
        )?;
        lost(
            &self.0,
            counter(encoder, "gatewatch_lost", "What was seen and not reported, by stage and reason.")?,
        )?;
        folded(
            &self.0,
            counter(
                encoder,
                "gatewatch_folded",
                "Requests counted under `other` because a bound was reached.",
            )?,
        )?;
        overflow(
            &self.0,
            counter(
                encoder,
                "gatewatch_http_overflow_requests",
                "Requests whose detail was lost to a full ring, by status.",
            )?,
        )?;
        programs(self.0.programs.iter().chain(&self.1.programs), encoder)?;
        lua(
            &self.0,
            counter(encoder, "gatewatch_lua_phase_seconds", "Time spent in Lua, by phase, while probed.")?,
            |(_, ns, _)| seconds(*ns),
        )?;
        lua(
            &self.0,
            counter(encoder, "gatewatch_lua_phase_calls", "Times Lua was run, by phase, while probed.")?,
            |(_, _, calls)| *calls,
        )?;
        counted(
            &self.0,
            counter(
                encoder,
                "gatewatch_gateway_requests",
                "Requests that ended by the gateway's own count, since gatewatch watches it.",
            )?,
        )?;
        counter(
            encoder,
            "gatewatch_http_coarse_starts",
            "Requests whose duration is to the millisecond, because the table of starts was full.",
        )?
        .one_counter(self.0.coarse_starts)?;
        reloads(
            &self.0,
            counter(
                encoder,
                "gatewatch_config_reloads",
                "New configurations while running, by what became of them.",
            )?,
        )?;
        agent(self.0.agent, encoder)?;

        network::encode(&self.1, encoder)?;
        network::maps(self.0.maps.iter().chain(&self.1.maps), encoder)?;
        histograms(&self.0, encoder)?;
        gauges(&self.0, encoder)
    }
}

pub(crate) fn family<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
    kind: MetricType,
) -> Result<Family<'a>, fmt::Error> {
    encoder.encode_descriptor(name, help, None, kind).map(Family)
}

pub(crate) fn counter<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<Family<'a>, fmt::Error> {
    family(encoder, name, help, MetricType::Counter)
}

pub(crate) fn gauge<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    name: &'a str,
    help: &str,
) -> Result<Family<'a>, fmt::Error> {
    family(encoder, name, help, MetricType::Gauge)
}

fn requests(snapshot: &Snapshot, mut family: Family<'_>, status_text: &mut String) -> fmt::Result {
    use fmt::Write;
    for endpoint in &snapshot.endpoints {
        let labels = &endpoint.labels;
        for (status, protocol, count) in &endpoint.requests {
            status_text.clear();
            write!(status_text, "{status}")?;
            family.counter(
                &[
                    ("gateway", &*labels.gateway),
                    ("method", labels.method.name()),
                    ("host", &*labels.host),
                    ("path", &*labels.path),
                    ("service", &*labels.service),
                    ("status", status_text.as_str()),
                    ("protocol", protocol.name()),
                ],
                *count,
            )?;
        }
    }
    Ok(())
}

fn endpoint_labels(labels: &gatewatch_insight::traffic::Labels) -> [(&'static str, &str); 5] {
    [
        ("gateway", &*labels.gateway),
        ("method", labels.method.name()),
        ("host", &*labels.host),
        ("path", &*labels.path),
        ("service", &*labels.service),
    ]
}

fn bytes(
    snapshot: &Snapshot,
    mut family: Family<'_>,
    of: impl Fn(&gatewatch_insight::traffic::Endpoint) -> u64,
) -> fmt::Result {
    snapshot
        .endpoints
        .iter()
        .try_for_each(|endpoint| family.counter(&endpoint_labels(&endpoint.labels), of(endpoint)))
}

fn seen(snapshot: &Snapshot, mut family: Family<'_>) -> fmt::Result {
    let mut gateways = snapshot.gateways.iter();
    gateways.try_for_each(|gateway| family.counter(&[("gateway", gateway.name.as_str())], gateway.seen))
}

fn lost(snapshot: &Snapshot, mut family: Family<'_>) -> fmt::Result {
    snapshot
        .ledger
        .rows()
        .try_for_each(|(stage, reason, n)| family.counter(&[("stage", stage.name()), ("reason", reason)], n))
}

fn folded(snapshot: &Snapshot, mut family: Family<'_>) -> fmt::Result {
    let folded = snapshot.folded;
    [("host", folded.hosts), ("path", folded.paths), ("endpoint", folded.endpoints)]
        .into_iter()
        .try_for_each(|(what, n)| family.counter(&[("what", what)], n))
}

fn reloads(snapshot: &Snapshot, mut family: Family<'_>) -> fmt::Result {
    let reloads = snapshot.reloads;
    [("applied", reloads.applied), ("refused", reloads.refused), ("unchanged", reloads.unchanged)]
        .into_iter()
        .try_for_each(|(result, n)| family.counter(&[("result", result)], n))
}

fn overflow(snapshot: &Snapshot, mut family: Family<'_>) -> fmt::Result {
    for gateway in &snapshot.gateways {
        for (status, count) in &gateway.overflow {
            family.counter(
                &[("gateway", gateway.name.as_str()), ("status", status.to_string().as_str())],
                *count,
            )?;
        }
    }
    Ok(())
}

fn lua<V: EncodeCounterValue>(
    snapshot: &Snapshot,
    mut family: Family<'_>,
    of: impl Fn(&(&'static str, u64, u64)) -> V,
) -> fmt::Result {
    for gateway in &snapshot.gateways {
        for phase in &gateway.lua {
            family.counter(&[("gateway", gateway.name.as_str()), ("phase", phase.0)], of(phase))?;
        }
    }
    Ok(())
}

fn counted(snapshot: &Snapshot, mut family: Family<'_>) -> fmt::Result {
    for gateway in &snapshot.gateways {
        if let Some(count) = gateway.counted_by_gateway {
            family.counter(&[("gateway", gateway.name.as_str())], count)?;
        }
    }
    Ok(())
}

fn histograms(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut durations = family(
        encoder,
        "gatewatch_http_request_duration_seconds",
        "From the request's complete header to its end.",
        MetricType::Histogram,
    )?;
    for endpoint in &snapshot.endpoints {
        durations.histogram(&endpoint_labels(&endpoint.labels), &endpoint.duration)?;
    }
    overflow_durations(snapshot, encoder)?;
    let mut tries = family(
        encoder,
        "gatewatch_http_upstream_duration_seconds",
        "One try at an upstream server, to the millisecond.",
        MetricType::Histogram,
    )?;
    for upstream in &snapshot.upstreams {
        tries.histogram(
            &[
                ("gateway", &*upstream.gateway),
                ("service", &*upstream.service),
                ("upstream", &*upstream.peer),
            ],
            &upstream.duration,
        )?;
    }
    Ok(())
}

/// What is kept of requests that found no room, by powers of two.
fn overflow_durations(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut family = family(
        encoder,
        "gatewatch_http_overflow_duration_seconds",
        "Durations of the requests whose detail was lost to a full ring.",
        MetricType::Histogram,
    )?;
    for gateway in snapshot.gateways.iter().filter(|gateway| !gateway.overflow.is_empty()) {
        let last = gateway.overflow_durations.len().saturating_sub(1);
        let bound = |power: usize| match u32::try_from(power) {
            Ok(power) if usize::try_from(power) != Ok(last) => seconds(1_u64.wrapping_shl(power)),
            _ => f64::INFINITY,
        };
        // Below 131 µs one bucket is enough.
        let split = gateway.overflow_durations.split_at_checked(17);
        let (small, rest) = split.unwrap_or((&[], &gateway.overflow_durations));
        let small_sum: u64 = small.iter().sum();
        let mut buckets: Vec<(f64, u64)> =
            rest.iter().enumerate().map(|(i, n)| (bound(i + small.len()), *n)).collect();
        if let Some((_, first)) = buckets.first_mut() {
            *first += small_sum;
        }
        let count = gateway.overflow_durations.iter().sum();
        family.0.encode_family(&[("gateway", gateway.name.as_str())])?.encode_histogram::<NoLabelSet>(
            seconds(gateway.overflow_duration_ns),
            count,
            &buckets,
            None,
        )?;
    }
    Ok(())
}

fn gauges(snapshot: &Snapshot, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut family = gauge(encoder, "gatewatch_http_requests_in_flight", "Requests begun and not ended.")?;
    for gateway in &snapshot.gateways {
        if let Some(in_flight) = gateway.in_flight {
            family.gauge(&[("gateway", gateway.name.as_str())], in_flight)?;
        }
    }
    let mut family = gauge(
        encoder,
        "gatewatch_capture_coverage_ratio",
        "Requests reported or filtered out, over requests the gateway counted.",
    )?;
    for gateway in &snapshot.gateways {
        if let Some(coverage) = gateway.coverage {
            family.gauge(&[("gateway", gateway.name.as_str())], coverage)?;
        }
    }
    let mut family =
        gauge(encoder, "gatewatch_gateway_workers", "Worker processes alive that have served requests.")?;
    for gateway in &snapshot.gateways {
        family.gauge(&[("gateway", gateway.name.as_str())], gateway.workers)?;
    }
    let mut family = gauge(
        encoder,
        "gatewatch_gateway_layout_proven",
        "1: live requests have proven the layout; 0: not (yet).",
    )?;
    for gateway in &snapshot.gateways {
        family.gauge(
            &[
                ("gateway", gateway.name.as_str()),
                ("version", gateway.version.as_str()),
                ("layout", gateway.layout.as_str()),
            ],
            u64::from(gateway.proven),
        )?;
    }
    gauge(
        encoder,
        "gatewatch_config_last_applied_timestamp_seconds",
        "When the configuration in use was applied, in seconds since 1970.",
    )?
    .one_gauge(seconds(snapshot.reloads.last_applied_ns))?;
    Ok(())
}

/// What the process and its programs cost.
pub(crate) fn agent(agent: crate::snapshot::Agent, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    counter(encoder, "gatewatch_agent_cpu_seconds", "CPU time of this process.")?
        .one_counter(seconds(agent.cpu_ns))?;
    gauge(encoder, "gatewatch_agent_resident_bytes", "Memory of this process, its rings included.")?
        .one_gauge(agent.resident_bytes)?;
    gauge(encoder, "gatewatch_build_info", "The version of gatewatch; always 1.")?
        .gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1u64)
}

/// What the kernel programs cost.
pub(crate) fn programs<'a>(
    programs: impl Iterator<Item = &'a crate::snapshot::Program> + Clone,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut family = counter(
        encoder,
        "gatewatch_program_run_seconds",
        "Run time of the kernel programs (kernel.bpf_stats_enabled).",
    )?;
    programs
        .clone()
        .try_for_each(|program| family.counter(&[("program", program.name)], seconds(program.run_ns)))?;
    let mut family = counter(
        encoder,
        "gatewatch_program_runs",
        "Runs of the kernel programs (kernel.bpf_stats_enabled).",
    )?;
    let mut programs = programs;
    programs.try_for_each(|program| family.counter(&[("program", program.name)], program.runs))
}

#[cfg(test)]
mod tests;
