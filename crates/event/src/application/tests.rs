use std::collections::BTreeSet;

use super::*;

#[test]
fn names_are_labels_and_few() {
    let mut names: BTreeSet<&str> = [
        Application::Http1,
        Application::Http2,
        Application::Grpc,
        Application::WebSocket,
        Application::Tls,
        Application::Dns,
        Application::Unknown,
    ]
    .into_iter()
    .map(Application::as_str)
    .collect();
    assert_eq!(names.len(), 7);
    for port in 0..=u16::MAX {
        for transport in [Transport::Tcp, Transport::Udp] {
            names.insert(Application::by_port(transport, port).as_str());
        }
    }
    assert!(names.len() < 64, "bounded: {}", names.len());
    assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())));
}

#[test]
fn ports_name_what_is_usual() {
    for (transport, port, name) in [
        (Transport::Tcp, 5432, "postgres"),
        (Transport::Tcp, 3306, "mysql"),
        (Transport::Tcp, 6379, "redis"),
        (Transport::Tcp, 9092, "kafka"),
        (Transport::Tcp, 27017, "mongodb"),
        (Transport::Tcp, 5672, "amqp"),
        (Transport::Tcp, 11211, "memcached"),
        (Transport::Tcp, 22, "ssh"),
        (Transport::Tcp, 25, "smtp"),
        (Transport::Udp, 123, "ntp"),
        (Transport::Tcp, 2379, "etcd"),
        (Transport::Udp, 53, "dns"),
        // The other transport's port says nothing.
        (Transport::Udp, 5432, "unknown"),
        (Transport::Tcp, 123, "unknown"),
        // Known by their bytes or not at all.
        (Transport::Tcp, 80, "unknown"),
        (Transport::Tcp, 443, "unknown"),
    ] {
        assert_eq!(Application::by_port(transport, port).as_str(), name, "{transport:?} {port}");
    }
}

#[test]
fn versions_by_number() {
    assert_eq!(TlsVersion::of(0x0304).map(TlsVersion::as_str), Some("1.3"));
    for number in [0, 0x0300, 0x0305, 0x7f1c, 0x0a0a, u16::MAX] {
        assert_eq!(TlsVersion::of(number), None, "{number:#x}");
    }
    assert!(TlsVersion::Tls10 < TlsVersion::Tls13);
}
