//! From the API's objects to the records of [`crate::change`]: what is no address or no port is left out, what is too
//! long is cut, and nothing can fail.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;

use super::{
    hold::hold,
    objects::{Container, EndpointSlice, Meta, Node, Pod, Port, Service},
    owner::workload,
};
use crate::{
    cgroup::{ContainerId, Uid},
    change::{
        ADDRESSES_MAX, CONTAINERS_MAX, ENDPOINTS_MAX, NAME_MAX, NodeRecord, ObjectKey, PORTS_MAX, PodRecord,
        ServiceRecord, SliceRecord,
    },
    directory::{self, ServiceKey, ServicePort},
};

/// Which Service a slice belongs to.
const SERVICE_OF_SLICE: &str = "kubernetes.io/service-name";

/// An object whose name is none.
#[derive(Debug, thiserror::Error)]
#[error("its name is no name")]
pub(super) struct Nameless;

pub(super) fn key(meta: &Meta) -> Result<ObjectKey, Nameless> {
    Ok(ObjectKey { namespace: name(&meta.namespace)?, name: name(&meta.name)? })
}

pub(super) fn service_key(meta: &Meta) -> Result<ServiceKey, Nameless> {
    key(meta).map(|ObjectKey { namespace, name }| ServiceKey { namespace, name })
}

pub(super) fn name(text: &str) -> Result<Arc<str>, Nameless> {
    let good = (1..=NAME_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    good.then(|| text.into()).ok_or(Nameless)
}

/// The record, and what is wrong with the Service's annotation.
pub(super) fn service(object: &Service) -> Result<(ServiceRecord, Option<String>), Nameless> {
    let Service { metadata, spec, status } = object;
    let key = service_key(metadata)?;
    let (asked, warning) =
        match metadata.annotations.as_ref().and_then(|annotations| annotations.hold.as_deref()) {
            None => (None, None),
            Some(text) => match hold(text) {
                Ok((hold, warning)) => (Some(hold), warning),
                Err(warning) => (None, Some(warning)),
            },
        };
    // `ExternalName` is a name in DNS, and has no address of its own. What its other fields hold means nothing.
    let external_name = spec.kind == "ExternalName";
    let kept = |given: Option<&Vec<String>>| if external_name { Vec::new() } else { addresses(given) };
    let mut cluster_ips = kept(spec.cluster_ips.as_ref());
    if cluster_ips.is_empty() && !external_name {
        cluster_ips.extend(spec.cluster_ip.as_deref().and_then(address));
    }
    let ingress = status.load_balancer.ingress.iter().flatten().filter_map(|ingress| ingress.ip.as_deref());
    let balancer_ips = ingress.filter(|_| !external_name).filter_map(address).take(ADDRESSES_MAX).collect();
    let ports = spec.ports.iter().flatten().filter_map(service_port).take(PORTS_MAX).collect();
    let record = ServiceRecord {
        key,
        created: seconds(metadata.creation_timestamp.as_deref()),
        cluster_ips,
        external_ips: kept(spec.external_ips.as_ref()),
        balancer_ips,
        ports,
        hold: asked.filter(|hold| *hold > Duration::ZERO),
    };
    Ok((record, warning))
}

fn service_port(given: &Port) -> Option<ServicePort> {
    let port = port(given.port)?;
    Some(ServicePort { port, node_port: self::port(given.node_port).unwrap_or(0), tcp: is_tcp(given) })
}

/// `None`: of no Service.
pub(super) fn slice(object: &EndpointSlice) -> Result<Option<SliceRecord>, Nameless> {
    let key = key(&object.metadata)?;
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_OF_SLICE));
    let Some(service) = label.and_then(|label| name(label).ok()) else { return Ok(None) };
    let endpoints = object.endpoints.iter().flatten().flat_map(|endpoint| {
        // Kubernetes: a condition nobody tells of is to be taken as true. Only the first address is one to be called.
        let ready = endpoint.conditions.ready.unwrap_or(true);
        let first = endpoint.addresses.iter().flatten().next();
        first.and_then(|text| address(text)).map(|ip| (ip, ready))
    });
    let mut ports: Vec<u16> = match object.ports.as_deref() {
        // No ports are defined: a headless Service without any. Its endpoints can be called at each.
        None | Some([]) => vec![0],
        Some(ports) => {
            let tcp = ports.iter().filter(|port| is_tcp(port));
            // A port without a number is all ports.
            tcp.filter_map(|given| given.port.map_or(Some(0), |number| port(Some(number))))
                .take(PORTS_MAX)
                .collect()
        }
    };
    ports.sort_unstable();
    ports.dedup();
    Ok(Some(SliceRecord { key, service, endpoints: endpoints.take(ENDPOINTS_MAX).collect(), ports }))
}

/// `None`: it has ended. `node`: whose containers are of interest (all, if not known). `labels`: which are kept.
pub(super) fn pod(
    object: &Pod,
    node: Option<&str>,
    labels: &[Arc<str>],
) -> Result<Option<PodRecord>, Nameless> {
    let Pod { metadata, spec, status } = object;
    let ObjectKey { namespace, name: own } = key(metadata)?;
    let uid = Uid::parse(&metadata.uid).ok_or(Nameless)?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return Ok(None);
    }
    let statuses = || {
        let lists = [
            &status.init_container_statuses,
            &status.container_statuses,
            &status.ephemeral_container_statuses,
        ];
        lists.into_iter().flat_map(|list| list.iter().flatten())
    };
    // Its address is given back once its last container has stopped, which is some time before it is deleted.
    let stopped = |container: &Container| container.state.terminated.is_some();
    let leaving = metadata.deletion_timestamp.is_some();
    let left = leaving && statuses().next().is_some() && statuses().all(stopped);
    let host_network = spec.host_network.unwrap_or(false);
    let mut own_addresses: Vec<IpAddr> = Vec::new();
    if !host_network && !left {
        let several = status.pod_ips.iter().flatten().filter_map(|ip| ip.ip.as_deref());
        for ip in several.chain(status.pod_ip.as_deref()).filter_map(address) {
            if !own_addresses.contains(&ip) && own_addresses.len() < ADDRESSES_MAX {
                own_addresses.push(ip);
            }
        }
    }
    let runs_on = spec.node_name.as_deref().and_then(|node| name(node).ok()).unwrap_or_else(|| "".into());
    let here = node.is_none_or(|node| *node == *runs_on);
    let containers =
        statuses().filter(|_| here).filter_map(|status| ContainerId::parse(status.id.as_deref()?));
    let containers = containers.take(CONTAINERS_MAX).collect();
    let given = metadata.labels.as_ref();
    let chosen = labels.iter().filter_map(|wanted| {
        let value = given?.get(&**wanted)?;
        Some((Arc::clone(wanted), name(value).ok()?))
    });
    let pod = directory::Pod {
        workload: workload(metadata),
        labels: chosen.collect(),
        namespace,
        name: own,
        node: runs_on,
        host_network,
    };
    let config_hash =
        metadata.annotations.as_ref().and_then(|annotations| annotations.config_hash.as_deref());
    Ok(Some(PodRecord {
        pod,
        uid,
        static_uid: config_hash.and_then(Uid::parse).filter(|hash| *hash != uid),
        created: seconds(metadata.creation_timestamp.as_deref()),
        version: metadata.resource_version.parse().unwrap_or(0),
        addresses: own_addresses,
        containers,
    }))
}

pub(super) fn node(object: &Node) -> Result<NodeRecord, Nameless> {
    let given = object.status.addresses.iter().flatten();
    let ips = given.filter(|given| matches!(given.kind.as_str(), "InternalIP" | "ExternalIP"));
    let addresses = ips.filter_map(|given| address(&given.address)).take(ADDRESSES_MAX).collect();
    Ok(NodeRecord { name: name(&object.metadata.name)?, addresses })
}

fn addresses(given: Option<&Vec<String>>) -> Vec<IpAddr> {
    given.into_iter().flatten().filter_map(|text| address(text)).take(ADDRESSES_MAX).collect()
}

/// One that somebody can be called at: no loopback, no broadcast, none for many. (`None` is what a headless Service has.)
fn address(text: &str) -> Option<IpAddr> {
    let ip = text.parse::<IpAddr>().ok()?.to_canonical();
    let broadcast = ip == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    let callable = !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !broadcast;
    callable.then_some(ip)
}

/// `None`: no port. (0 is none either.)
fn port(number: Option<i64>) -> Option<u16> {
    number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
}

fn is_tcp(port: &Port) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}

/// Since 1970; 0 where it is no time.
fn seconds(text: Option<&str>) -> i64 {
    text.and_then(|text| text.parse::<Timestamp>().ok()).map_or(0, Timestamp::as_second)
}
