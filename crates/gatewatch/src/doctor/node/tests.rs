use super::*;
use gatewatch_identity::watch::access::Right;

fn access(namespace: Option<(&str, Presence)>, refused: &[(&str, Kind)]) -> Result<Access, String> {
    let granted = |verb, kind| !refused.contains(&(verb, kind));
    let both = |kind| ["list", "watch"].map(move |verb| Right { verb, kind, granted: granted(verb, kind) });
    Ok(Access {
        server: "https://10.96.0.1/".to_owned(),
        version: "v1.34.1".to_owned(),
        rights: Kind::ALL.into_iter().flat_map(both).collect(),
        namespace: namespace.map(|(name, presence)| (name.to_owned(), presence)),
    })
}

fn told(asked: &Result<Access, String>) -> (usize, String) {
    let mut report = Report::default();
    cluster(&mut report, asked);
    (report.bad, report.text)
}

/// The line on this, from its mark on.
fn line<'a>(text: &'a str, what: &str) -> &'a str {
    let is = |line: &&str| line.get(4..).is_some_and(|rest| rest.trim_start().starts_with(what));
    text.lines().map(str::trim).find(is).unwrap_or_default()
}

#[test]
fn each_right_that_lacks_is_named_with_the_role_to_mend() {
    assert_eq!(told(&access(None, &[])).0, 0);
    let (bad, text) = told(&access(None, &[("watch", Kind::Slice), ("list", Kind::Node)]));
    assert_eq!(bad, 2);
    assert!(line(&text, "watch endpointslices").starts_with("BAD"), "{text}");
    assert!(line(&text, "list nodes").contains("ClusterRole"), "{text}");
    assert!(line(&text, "watch nodes").starts_with("ok"), "{text}");
}

#[test]
fn of_one_namespace_nodes_are_not_missed_and_the_namespace_is() {
    let refused = [("list", Kind::Node), ("watch", Kind::Node)];
    let (bad, text) = told(&access(Some(("shop", Presence::Untold)), &refused));
    assert_eq!(bad, 0, "{text}");
    assert!(line(&text, "list nodes").starts_with("less"), "{text}");
    let (bad, text) = told(&access(Some(("shpo", Presence::Missing)), &[("list", Kind::Pod)]));
    assert_eq!(bad, 2, "{text}");
    assert!(line(&text, "WATCH_NAMESPACE").starts_with("BAD"), "{text}");
    assert!(line(&text, "list pods").contains("Role in namespace shpo"), "{text}");
}

#[test]
fn an_api_server_that_is_not_reached_is_the_only_thing_told_of_it() {
    let (bad, text) = told(&Err("connection refused".to_owned()));
    assert_eq!((bad, text.lines().count()), (1, 1));
    assert!(text.contains("connection refused") && text.contains("MODE=local"), "{text}");
}

#[test]
fn what_is_lost_without_a_capability_depends_on_what_is_wanted() {
    let without = |config: &Config, lacks: Capability| {
        let mut report = Report::default();
        rights(&mut report, config, |capability| capability != lacks && capability != Capability::SysAdmin);
        line(&report.text, lacks.name()).chars().take(4).collect::<String>()
    };
    let mut config = Config::default();
    assert_eq!(without(&config, Capability::Bpf), "BAD ");
    assert_eq!(without(&config, Capability::NetAdmin), "BAD ");
    assert_eq!(without(&config, Capability::NetRaw), "less");
    assert_eq!(without(&config, Capability::SysPtrace), "ok  ", "no request is read");
    config.node.requests.enabled = true;
    assert_eq!(without(&config, Capability::SysPtrace), "BAD ");
    config.node.attempts.enabled = false;
    assert_eq!(without(&config, Capability::NetAdmin), "less", "the hold alone");
    config.node.mode = Mode::Local;
    assert_eq!(without(&config, Capability::NetAdmin), "ok  ");
    assert_eq!(without(&config, Capability::NetRaw), "ok  ");
}
