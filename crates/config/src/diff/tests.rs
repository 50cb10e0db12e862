use super::*;

fn config(yaml: &str) -> Config {
    Config::parse(yaml, "test").unwrap_or_else(|error| panic!("{yaml}\n{error}"))
}

/// Each change as it is logged.
fn told(old: &str, new: &str) -> Vec<String> {
    diff(&config(old), &config(new)).iter().map(ToString::to_string).collect()
}

#[test]
fn nothing_differs() {
    assert!(told("", "").is_empty());
    assert!(told("log: { level: info }", "# the default\n").is_empty());
    let contract = include_str!("../../tests/contract.yaml");
    assert!(told(contract, contract).is_empty());
}

#[test]
fn values() {
    let cases = [
        ("log: { level: debug }", "`log.level`: info → debug"),
        ("log: { requests: false }", "`log.requests`: true → false"),
        ("stats: { interval: 90s }", "`stats.interval`: 30s → 90s"),
        ("listen: ':9000'", "`listen`: 0.0.0.0:9102 → 0.0.0.0:9000"),
        ("series: { max: 1000 }", "`series.max`: 50000 → 1000"),
        ("alerts: { thresholds: { error_rate: 0.05 } }", "`alerts.thresholds.error_rate`: unset → 0.05"),
        ("gateway: { process_name: kong }", "`gateway.process_name`: [kong, nginx] → [kong]"),
        ("mask: { patterns: ['[0-9]+'] }", "`mask.patterns`: [] → [[0-9]+]"),
        (
            "routing: { rules: [{ path: /a, service: s }] }",
            "`routing.rules[0]`: unset → {path: /a, priority: 0, service: s}",
        ),
        ("monitoring: { filters: [{ port: 80 }] }", "`monitoring.filters[0]`: unset → {port: [80]}"),
    ];
    for (new, expected) in cases {
        assert_eq!(told("", new), [expected], "{new}");
    }
}

/// An entry put in before others changes those no more than in the file.
#[test]
fn entries_of_lists() {
    let rules = |rules: &[(&str, &str)]| {
        let rules: Vec<String> =
            rules.iter().map(|(path, service)| format!("{{ path: {path}, service: {service} }}")).collect();
        format!("routing: {{ rules: [{}] }}", rules.join(", "))
    };
    let (a, b, c) = (("/a", "a"), ("/b", "b"), ("/c", "c"));
    let all = rules(&[a, b, c]);
    assert_eq!(told(&all, &rules(&[a, b, ("/c", "z")])), ["`routing.rules[2].service`: c → z"]);
    assert_eq!(
        told(&rules(&[b, c]), &all),
        ["`routing.rules[0]`: unset → {path: /a, priority: 0, service: a}"]
    );
    assert_eq!(
        told(&all, &rules(&[a, c])),
        ["`routing.rules[1]`: {path: /b, priority: 0, service: b} → unset"]
    );
    assert_eq!(told(&rules(&[a, b]), &rules(&[b, a])).len(), 4, "two entries, two keys each");
    assert_eq!(
        told("monitoring: { filters: [{ port: 80 }] }", "monitoring: { filters: [{ method: GET }] }"),
        ["`monitoring.filters[0].method`: unset → [GET]", "`monitoring.filters[0].port`: [80] → unset"]
    );
}

#[test]
fn no_secret_and_no_control_character() {
    let cases = [
        ("http://user:secret@h:1/p", "http://***@h:1/p"),
        ("http://u@p@secret@h", "http://***@h"),
        ("http://h/p?token=secret", "http://h/p?***"),
        ("https://h:9", "https://h:9"),
    ];
    for (url, expected) in cases {
        let change = told("", &format!("metrics: {{ endpoint: \"{url}\" }}"));
        assert_eq!(change, [format!("`metrics.endpoint`: unset → {expected}")]);
    }
    let hostile = told("", "mask: { patterns: [\"a\\x1b[31m]\\u202eb\"] }").concat();
    assert_eq!(hostile, "`mask.patterns`: [] → [a\\u{1b}[31m]\\u{202e}b]");
}

#[test]
fn long_values_are_cut() {
    let many: Vec<String> = (0..10_000).map(|n| format!("/path/{n}")).collect();
    let change = told("", &format!("path_analysis: {{ track_paths: [{}] }}", many.join(", "))).concat();
    assert!(change.ends_with('…') && change.chars().count() < 140, "{change}");
}

#[test]
fn what_waits_for_the_next_start() {
    let waits = |yaml: &str| diff(&Config::default(), &config(yaml)).iter().all(Change::waits_for_next_start);
    assert!(waits("listen: ':9000'"));
    assert!(waits("capture: { max_workers: 8, ring_bytes: 1MiB }"));
    assert!(!waits("log: { level: debug }"));
    let change = &diff(&Config::default(), &config("mask: { patterns: [a] }"))[0];
    assert!(change.is_of("mask") && change.is_of("mask.patterns"));
    assert!(!change.is_of("mask.pat") && !change.is_of("mask.enabled"));
}
