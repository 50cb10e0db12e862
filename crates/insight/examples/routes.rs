//! Cost of one route lookup for growing rule sets: `cargo run --release --example routes`.

use std::hint::black_box;
use std::time::Instant;

use gatewatch_insight::routes::{Routes, Rule};

/// A set as found in practice: mostly `host + prefix/*`, some wildcards, some patterns with a star inside.
fn rules(count: usize) -> Vec<Rule> {
    (0..count)
        .map(|i| {
            let (domain, path) = match i % 10 {
                0 => (Some("*.example.com".to_owned()), format!("/v1/items{i}/*")),
                1 => (None, format!("/static/{i}/*")),
                2 => (Some("api.example.com".to_owned()), format!("/v1/users/*/kind{i}")),
                3 => (Some("api.example.com".to_owned()), format!("~^/v2/r{i}/[0-9]+$")),
                4 => (Some(format!("host{i}.example.com")), "/*".to_owned()),
                _ => (Some("api.example.com".to_owned()), format!("/v1/thing{i}/*")),
            };
            Rule { domain, path: Some(path), service: format!("service-{}", i % 50), priority: 1 }
        })
        .collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let requests = [
        ("api.example.com", "/v1/thing5/123456"),
        ("api.example.com:8000", "/v1/users/123456/kind2"),
        ("api.example.com", "/v2/r3/77"),
        ("host4.example.com", "/index.html"),
        ("shop.example.com", "/v1/items0/9"),
        ("other.test", "/static/1/logo.png"),
        ("other.test", "/nothing/matches/this/longer/path/at/all"),
    ];
    for count in [10, 100, 1000] {
        let set = rules(count);
        let started = Instant::now();
        let routes = Routes::compile(&set)?;
        let compiled = started.elapsed();
        println!("{count:>5} rules, compiled in {compiled:?}");
        for (host, path) in requests {
            // The best of many short batches: what remains when nothing else ran in between.
            let rounds = 2_000_u32;
            let mut each = f64::INFINITY;
            for _ in 0..300 {
                let started = Instant::now();
                for _ in 0..rounds {
                    black_box(routes.find(black_box(host.as_bytes()), black_box(path.as_bytes())));
                }
                each = each.min(started.elapsed().as_secs_f64() * 1e9 / f64::from(rounds));
            }
            let service = routes.service(host.as_bytes(), path.as_bytes()).map_or("-", |id| routes.name(id));
            println!("      {each:>6.1} ns  {host}{path} -> {service}");
        }
    }
    Ok(())
}
