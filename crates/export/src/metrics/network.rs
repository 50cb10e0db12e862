//! The families of packets and connections.

use std::fmt;

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{counter, family, gauge, seconds};
use crate::network::{Amount, Doubling, Map, Picture};

pub(super) fn encode(picture: &Picture, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    amounts(
        encoder,
        ("gatewatch_network_packets", "Packets at each interface; on loopback each once, as it leaves."),
        ("gatewatch_network_bytes", "Bytes of those packets' frames."),
        &picture.packets,
        |(interface, direction, family, protocol, amount)| {
            let labels = vec![
                ("interface", interface.as_str()),
                ("direction", *direction),
                ("family", *family),
                ("protocol", *protocol),
            ];
            (labels, *amount)
        },
    )?;
    amounts(
        encoder,
        ("gatewatch_network_filtered_packets", "Packets that monitoring.filters keeps out."),
        ("gatewatch_network_filtered_bytes", "Bytes of those packets' frames."),
        &picture.filtered,
        |(interface, direction, amount)| {
            (vec![("interface", interface.as_str()), ("direction", *direction)], *amount)
        },
    )?;
    amounts(
        encoder,
        ("gatewatch_network_unaccounted_packets", "Packets counted, and accounted to no connection."),
        ("gatewatch_network_unaccounted_bytes", "Bytes of those packets' frames."),
        &picture.unaccounted,
        |(reason, amount)| (vec![("reason", *reason)], *amount),
    )?;
    amounts(
        encoder,
        ("gatewatch_application_packets", "Packets by what their connection carries."),
        ("gatewatch_application_bytes", "Bytes of those packets' frames."),
        &picture.applications,
        |(application, amount, _)| (vec![("application", *application)], *amount),
    )?;
    amounts(
        encoder,
        ("gatewatch_container_packets", "Packets by who sent them to whom, and what they carry."),
        ("gatewatch_container_bytes", "Bytes of those packets' frames."),
        &picture.containers,
        |(source, destination, application, amount)| {
            let labels = vec![
                ("source", source.as_str()),
                ("destination", destination.as_str()),
                ("application", *application),
            ];
            (labels, *amount)
        },
    )?;
    connections(picture, encoder)?;
    tcp(picture, encoder)?;
    health(picture, encoder)
}

/// Labels and their values.
type Labels<'a> = Vec<(&'static str, &'a str)>;

fn amounts<'a, T>(
    encoder: &mut DescriptorEncoder<'_>,
    (packets, packets_help): (&str, &str),
    (bytes, bytes_help): (&str, &str),
    rows: &'a [T],
    of: impl Fn(&'a T) -> (Labels<'a>, Amount),
) -> fmt::Result {
    let mut family = counter(encoder, packets, packets_help)?;
    for (labels, amount) in rows.iter().map(&of) {
        family.counter(&labels.as_slice(), amount.packets)?;
    }
    let mut family = counter(encoder, bytes, bytes_help)?;
    for (labels, amount) in rows.iter().map(&of) {
        family.counter(&labels.as_slice(), amount.bytes)?;
    }
    Ok(())
}

fn counts(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    rows: &[(&'static str, u64)],
) -> fmt::Result {
    let mut family = counter(encoder, name, help)?;
    rows.iter().try_for_each(|(value, n)| family.counter(&[(label, *value)], *n))
}

fn connections(picture: &Picture, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut family = gauge(encoder, "gatewatch_connections", "Connections now; each once.")?;
    for (protocol, state, n) in &picture.connections {
        family.gauge(&[("protocol", *protocol), ("state", *state)], *n)?;
    }
    counts(
        encoder,
        "gatewatch_connections_opened",
        "Connections established, or begun where there is no handshake.",
        "protocol",
        &picture.opened,
    )?;
    counts(
        encoder,
        "gatewatch_connections_closed",
        "Connections that ended; without a close of their own, by silence.",
        "protocol",
        &picture.closed,
    )?;
    counts(
        encoder,
        "gatewatch_connections_failed",
        "TCP connections asked for from here and not had.",
        "reason",
        &picture.failed,
    )?;
    let mut family =
        counter(encoder, "gatewatch_application_connections", "Connections begun, by what they carry.")?;
    for (application, _, n) in &picture.applications {
        family.counter(&[("application", *application)], *n)?;
    }
    counter(
        encoder,
        "gatewatch_connections_evicted",
        "Accounts of connections that gave way to others, because network.max_connections was reached.",
    )?
    .one_counter(picture.evicted)?;
    counter(
        encoder,
        "gatewatch_connection_samples_lost",
        "First bytes of connections that found no room in their ring: the protocol may stay unknown.",
    )?
    .one_counter(picture.samples_lost)
}

fn tcp(picture: &Picture, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    counter(encoder, "gatewatch_tcp_retransmits", "TCP segments sent again.")?
        .one_counter(picture.retransmits)?;
    counts(encoder, "gatewatch_tcp_resets", "TCP resets.", "direction", &picture.resets)?;
    let mut family = counter(
        encoder,
        "gatewatch_listen_overflows",
        "Connections refused because a listener's queue was full.",
    )?;
    if let Some(overflows) = picture.listen_overflows {
        family.one_counter(overflows)?;
    }
    let mut family =
        counter(encoder, "gatewatch_packets_dropped", "Packets the kernel dropped, by its own reason.")?;
    for (reason, n) in &picture.dropped {
        family.counter(&[("reason", reason.as_str())], *n)?;
    }
    doubling(
        encoder,
        "gatewatch_tcp_rtt_seconds",
        "Smoothed round-trip time of each connection, as it ended.",
        &picture.rtt,
        (4, 24),
    )?;
    doubling(
        encoder,
        "gatewatch_connection_duration_seconds",
        "How long TCP connections that ended were established.",
        &picture.duration,
        (7, 37),
    )
}

/// Buckets from 2^`from` to 2^`to` µs; what is below or above is in the first and in the last.
fn doubling(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    histogram: &Doubling,
    (from, to): (usize, usize),
) -> fmt::Result {
    let mut buckets: Vec<(f64, u64)> =
        (from..=to).map(|power| (seconds((1u64 << power) * 1000), 0)).collect();
    buckets.push((f64::INFINITY, 0));
    for (power, n) in histogram.counts.iter().enumerate() {
        let index = power.saturating_sub(from).min(buckets.len() - 1);
        if let Some((_, count)) = buckets.get_mut(index) {
            *count += n;
        }
    }
    let count = histogram.counts.iter().sum();
    let sum = seconds(histogram.sum_us.saturating_mul(1000));
    family(encoder, name, help, MetricType::Histogram)?
        .0
        .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

fn health(picture: &Picture, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let mut family =
        gauge(encoder, "gatewatch_probe_up", "1: the probe counts; 0: it does not, see the log.")?;
    for (probe, up) in &picture.probes {
        family.gauge(&[("probe", *probe)], u64::from(*up))?;
    }
    let mut family = gauge(encoder, "gatewatch_network_attached", "Where packets are counted; always 1.")?;
    for attachment in &picture.attachments {
        let labels = [
            ("interface", attachment.interface.as_str()),
            ("direction", attachment.direction),
            ("mode", attachment.mode),
        ];
        family.gauge(&labels, 1u64)?;
    }
    counts(encoder, "gatewatch_repairs", "What was found broken, and mended.", "what", &picture.repairs)?;
    counter(
        encoder,
        "gatewatch_network_blind_seconds",
        "Time for which an interface may have gone uncounted, at most.",
    )?
    .one_counter(seconds(picture.blind_ns))?;
    counter(
        encoder,
        "gatewatch_agent_absent_seconds",
        "Time since counting began for which no agent ran: packets were counted, requests were not.",
    )?
    .one_counter(seconds(picture.absent_ns))?;
    Ok(())
}

/// Kernel memory, of the requests' maps and of these.
pub(crate) fn maps<'a>(
    maps: impl Iterator<Item = &'a Map> + Clone,
    encoder: &mut DescriptorEncoder<'_>,
) -> fmt::Result {
    let mut family = gauge(encoder, "gatewatch_map_bytes", "Kernel memory of each map.")?;
    for map in maps.clone() {
        family.gauge(&[("map", map.name.as_str())], map.bytes)?;
    }
    let mut family =
        gauge(encoder, "gatewatch_map_max_entries", "Most entries of each map; of a ring, its bytes.")?;
    for map in maps {
        family.gauge(&[("map", map.name.as_str())], map.max_entries)?;
    }
    Ok(())
}
