//! Rules, a line each (`domain path service priority`), then an empty line, then requests (`host path`).
#![no_main]

use gatewatch_insight::routes::{Routes, Rule};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let (rules, requests) = text.split_once("\n\n").unwrap_or((&text, "api.example.test /v1/users/1"));
    let rules: Vec<Rule> = rules.lines().take(50).map(rule).filter(|rule| rule.check().is_ok()).collect();
    // Each rule is good by itself; together they may still be too much for one set.
    let Ok(routes) = Routes::compile(&rules) else {
        return;
    };
    for line in requests.lines().take(50) {
        let (host, path) = line.split_once(' ').unwrap_or((line, "/"));
        let found = routes.find(host.as_bytes(), path.as_bytes());
        assert!(found.is_none() || !rules.is_empty());
        if let Some(service) = routes.service(host.as_bytes(), path.as_bytes()) {
            assert!(rules.iter().any(|rule| rule.service == routes.name(service)));
        }
    }
});

fn rule(line: &str) -> Rule {
    let mut words = line.splitn(4, ' ');
    let mut word = || words.next().filter(|word| *word != "-").map(str::to_owned);
    Rule {
        domain: word(),
        path: word(),
        service: word().unwrap_or_default(),
        priority: word().and_then(|word| word.parse().ok()).unwrap_or(0),
    }
}
