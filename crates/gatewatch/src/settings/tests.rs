use gatewatch_event::request::{Method, Protocol};
use gatewatch_insight::traffic::{Observation, Traffic};

use super::*;

fn traffic(config: &Config) -> Result<Traffic> {
    super::traffic(config).map(Traffic::new)
}

fn config(yaml: &str) -> Config {
    Config::parse(yaml, "test").unwrap_or_else(|error| panic!("{yaml}\n{error}"))
}

/// The group and the service a request is counted under.
fn place(traffic: &mut Traffic, host: &str, path: &str) -> (String, String) {
    let seen = Observation {
        gateway: 1,
        method: Method::Get,
        host,
        path,
        protocol: Protocol::Http11,
        status: 200,
        duration_ns: 1,
        request_bytes: 1,
        response_bytes: 1,
    };
    let place = traffic.observe(&seen, 1);
    (traffic.path_name(place.path).to_string(), traffic.service_name(place.service).to_string())
}

/// Whether a path falls under a template, written as YAML text.
fn check_template(template: &str, path: &str, expected: bool) {
    let quoted = serde_json::to_string(template).unwrap();
    let config = config(&format!("paths:\n  templates: [{quoted}]\n"));
    let mut traffic = traffic(&config).unwrap_or_else(|error| panic!("{template}: {error:?}"));
    let (group, _) = place(&mut traffic, "h", path);
    // A path that is no secret and has no digits keeps its own name where no template takes it.
    assert_eq!(group == template, expected, "{path} and {template}: {group}");
}

#[test]
fn each_brace_of_a_template_is_one_segment() {
    check_template("/files/{name}", "/files/a", true);
    check_template("/files/{name}", "/files/a.b-c%20d", true);
    check_template("/files/{name}", "/files/", false);
    check_template("/files/{name}", "/files", false);
    check_template("/files/{name}", "/files/a/b", false);
    check_template("/files/{name}", "/files/a/", false);
    check_template("/files/{name}", "/x/files/a", false);
    check_template("/a/{x}/b/{y}", "/a/1/b/2", true);
    check_template("/a/{x}/b/{y}", "/a/1/c/2", false);
    check_template("/a/{x}/b", "/a/1/2/b", false);
    check_template("/{lang}", "/de", true);
    check_template("/plain", "/plain", true);
    check_template("/files/{name}", "/files/ä€", true);
}

/// What means something in a pattern means itself in a template.
#[test]
fn the_rest_of_a_template_is_literal() {
    check_template("/a.b/{x}", "/a.b/c", true);
    check_template("/a.b/{x}", "/aXb/c", false);
    check_template("/a*/{x}", "/abc/d", false);
    check_template("/a*/{x}", "/a*/d", true);
    let punctuation = "/!\"$%&'()*+,-.:;<=>@[\\]^_`|~ x/{x}";
    check_template(punctuation, &punctuation.replace("{x}", "y"), true);
    check_template("/<b>/{x}", "/<b>/y", true);
    check_template("/größe–€/{x}", "/größe–€/y", true);
    check_template("/größe–€/{x}", "/grösse–€/y", false);
}

#[test]
fn the_longest_template_compiles() {
    // As long as the configuration lets one be, of characters that must be escaped.
    let mut longest = None;
    for len in (16..5000).step_by(8) {
        let template = format!("/{}/{{x}}", "-".repeat(len));
        if Config::parse(&format!("paths:\n  templates: [\"{template}\"]\n"), "test").is_err() {
            break;
        }
        longest = Some(template);
    }
    let template = longest.unwrap();
    check_template(&template, &template.replace("{x}", "y"), true);
}

#[test]
fn rules_name_services_and_groups() {
    let config = config(
        "routing:
  enabled: true
  rules:
    - {domain: api.example.com, path: '/v1/users/*', service: users}
    - {domain: '*.example.com', path: '/*', service: web}
    - {domain: all.example.org, path: '/**', service: all}
    - {path: '~^/x[0-9]+$', service: regex}
    - {domain: only.example.net, service: domain}
paths:
  templates: ['/v1/users/me/{what}']
",
    );
    let mut traffic = traffic(&config).unwrap();
    for (host, path, group, service) in [
        ("api.example.com", "/v1/users/7", "/v1/users/*", "users"),
        // A template names the group, and the rule the service all the same.
        ("api.example.com", "/v1/users/me/photo", "/v1/users/me/{what}", "users"),
        // Patterns that take everything would make one group of a whole host, and regular expressions no name.
        ("www.example.com", "/about", "/about", "web"),
        ("all.example.org", "/about", "/about", "all"),
        ("only.example.net", "/about", "/about", "domain"),
        ("elsewhere", "/about", "/about", ""),
    ] {
        assert_eq!(place(&mut traffic, host, path), (group.to_owned(), service.to_owned()), "{host}{path}");
    }
    assert_eq!(place(&mut traffic, "elsewhere", "/x7").1, "regex");
}

#[test]
fn routing_that_is_off_names_nothing() {
    let config = config("routing:\n  enabled: false\n  rules:\n    - {path: '/a/*', service: a}\n");
    let seen = place(&mut traffic(&config).unwrap(), "h", "/a/b");
    assert_eq!(seen, ("/a/b".to_owned(), String::new()));
}

#[test]
fn series_bound_endpoints_and_hosts() {
    let hosts = |yaml: &str| {
        let mut traffic = traffic(&config(yaml)).unwrap();
        for n in 0..200 {
            place(&mut traffic, &format!("h{n}"), "/");
        }
        traffic.endpoints().len()
    };
    assert_eq!(hosts(""), 200);
    assert_eq!(hosts("series: {max_hosts: 10}\n"), 11, "ten and `other`");
    // Each endpoint has 24 series or more: of 1200, 50 endpoints and what is left over.
    assert_eq!(hosts("series: {max: 1200}\n"), 51);
    assert_eq!(hosts("series: {max: 100, max_hosts: 100}\n"), 5);
}

#[test]
fn names_and_log_are_handed_on() {
    let all = config(
        "gateway:
  process_name: [kong, my-nginx]
  names: [{match: '-p /edge', name: edge}]
log: {level: warn, requests: false}
",
    );
    assert_eq!(process_names(&all), ["kong", "my-nginx"]);
    let names = instance_names(&all);
    assert_eq!(names, [NameRule { matches: "-p /edge".to_owned(), name: "edge".to_owned() }]);
    for (text, level) in
        [("debug", Level::Debug), ("info", Level::Info), ("warn", Level::Warn), ("error", Level::Error)]
    {
        assert_eq!(log(&config(&format!("log: {{level: {text}}}\n"))).level, level);
    }
    assert!(!log(&all).requests && log(&config("log: {requests: true}\n")).requests);
    assert!(log(&config("log: {json: true}\n")).json && !log(&config("log: {json: false}\n")).json);
}

#[test]
fn capture_sizes_are_handed_on() {
    let config = config("capture: {ring_bytes: 1MiB, max_workers: 7, starts_per_worker: 128}\n");
    let root = ProcRoot::new("/proc");
    let settings = capture(&config, &root);
    assert_eq!((settings.ring_bytes, settings.max_workers, settings.starts_per_worker), (1 << 20, 7, 128));
    assert_eq!(settings.pid_namespace, root.pid_namespace());
}

#[test]
fn masks_are_handed_on() {
    let check = |yaml: &str, target: &str, expected: &str| {
        let masker = masker(&config(yaml)).unwrap();
        assert_eq!(masker.mask_target(target.as_bytes()), expected, "{yaml}");
    };
    check("", "/a?b=c", "/a?b=***");
    check("mask: {enabled: false}\n", "/a?b=c", "/a?b=c");
    check("mask: {query_values: false}\n", "/a?b=c", "/a?b=c");
    check("mask: {patterns: ['cust-[0-9]+']}\n", "/a/cust-17", "/a/***");
    let agent = |yaml: &str| masker(&config(yaml)).unwrap().mask_user_agent(b"curl").into_owned();
    assert_eq!([agent(""), agent("mask: {user_agent: true}\n")], ["curl", "***"]);
    let remote = |yaml: &str| masker(&config(yaml)).unwrap().mask_remote_addr("192.0.2.7").into_owned();
    assert_eq!([remote(""), remote("mask: {remote_addr: true}\n")], ["192.0.2.7", "192.0.2.0/24"]);
}

#[test]
fn hosts_are_clean_labels() {
    for (host, expected) in [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM", "api.example.com"),
        ("[2001:db8::1]", "[2001:db8::1]"),
        ("*.example.com", "*.example.com"),
        ("a_b-c.9", "a_b-c.9"),
        ("", ""),
        ("a b\n\x1b\u{202e}/?\"\\", "a b\n\x1b\u{202e}/?\"\\"),
        ("münchen", "m\u{fffd}nchen"),
    ] {
        let clean = clean_host(host.into());
        let expected: String = expected
            .chars()
            .map(|c| if " \n\x1b\u{202e}/?\"\\".contains(c) { '\u{fffd}' } else { c })
            .collect();
        assert_eq!(clean, expected, "{host:?}");
    }
    assert!(matches!(clean_host("plain".into()), Cow::Borrowed("plain")), "without a copy");
}

/// Values of one kind are gathered over the whole list.
#[test]
fn filters_over_the_whole_list() {
    use gatewatch_insight::filter::Seen;
    let yaml = "monitoring:\n  filters:\n    - { method: GET, port: 80 }\n    - { method: POST }\n    - { status: 5xx, network: 10.0.0.0/8 }\n";
    let filter = filter(&config(yaml)).unwrap();
    let refuses = |method: &str, status| {
        let client = "10.0.0.1".parse().ok();
        filter.refuses(&Seen { method: method.as_bytes(), status, host: b"h", client })
    };
    assert_eq!(refuses("GET", 500), None);
    assert_eq!(refuses("POST", 503), None);
    assert_eq!(refuses("PUT", 500), Some("method"));
    assert_eq!(refuses("GET", 404), Some("status"));
}
