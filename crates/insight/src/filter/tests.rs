use super::*;

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn seen<'a>(method: &'a str, status: u16, host: &'a str, client: &str) -> Seen<'a> {
    Seen { method: method.as_bytes(), status, host: host.as_bytes(), client: client.parse().ok() }
}

#[test]
fn without_values_everything_passes() {
    let filter = Filter::default();
    assert_eq!(filter.refuses(&seen("", 0, "", "")), None);
    let filter = Filter::new(&[], Vec::new(), &[], Vec::new()).unwrap();
    assert_eq!(filter.refuses(&seen("GET", 200, "h", "::1")), None);
}

#[test]
fn kinds_by_and_values_by_or() {
    let networks = ["10.0.0.0/8", "::1"].map(|net| Net::parse(net).unwrap()).to_vec();
    let hosts = words(&["*.example.com", "a.org"]);
    let filter =
        Filter::new(&words(&["GET", "PURGE"]), vec![(404, 404), (500, 599)], &hosts, networks).unwrap();
    let cases = [
        (("GET", 404, "a.org", "10.1.2.3"), None),
        (("PURGE", 599, "x.y.example.com", "::1"), None),
        (("GET", 500, "A.org.", "::ffff:10.0.0.1"), None),
        (("POST", 404, "a.org", "10.1.2.3"), Some("method")),
        (("get", 404, "a.org", "10.1.2.3"), Some("method")),
        (("", 404, "a.org", "10.1.2.3"), Some("method")),
        (("GET", 403, "a.org", "10.1.2.3"), Some("status")),
        (("GET", 0, "a.org", "10.1.2.3"), Some("status")),
        (("GET", 404, "example.com", "10.1.2.3"), Some("host")),
        (("GET", 404, "", "10.1.2.3"), Some("host")),
        (("GET", 404, "a.org", "11.0.0.1"), Some("network")),
        (("GET", 404, "a.org", "::2"), Some("network")),
        // A client on a Unix socket is in no network.
        (("GET", 404, "a.org", ""), Some("network")),
    ];
    for ((method, status, host, client), expected) in cases {
        let what = format!("{method} {status} {host} {client}");
        assert_eq!(filter.refuses(&seen(method, status, host, client)), expected, "{what}");
    }
}

#[test]
fn networks() {
    let cases = [
        ("10.0.0.0/8", "10.255.0.1", true),
        ("10.0.0.0/8", "11.0.0.0", false),
        ("0.0.0.0/0", "255.1.2.3", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("192.0.2.1", "192.0.2.1", true),
        ("192.0.2.1", "192.0.2.2", false),
        ("192.0.2.1/31", "192.0.2.0", true),
        ("::/0", "2001:db8::1", true),
        ("::/0", "::ffff:1.2.3.4", false),
        ("2001:db8::/33", "2001:db8:7fff::1", true),
        ("2001:db8::/33", "2001:db8:8000::1", false),
        ("::1", "::1", true),
    ];
    for (net, address, expected) in cases {
        let found = Net::parse(net).unwrap().contains(address.parse().unwrap());
        assert_eq!(found, expected, "{net} {address}");
    }
    for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1", "x"] {
        assert_eq!(Net::parse(bad), None, "{bad}");
    }
}
