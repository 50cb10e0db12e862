//! Cost of masking one value: `cargo run --release --example mask`.

use std::hint::black_box;
use std::time::Instant;

use gatewatch_decode::mask::Masker;

fn main() {
    let masker = Masker::default();
    let long = format!("/a/{}", "segment/".repeat(63));
    for target in [
        "/",
        "/v1/users/123",
        "/v1/users/123/orders/456/items",
        "/users/550e8400-e29b-41d4-a716-446655440000",
        "/v1/users?page=2&per_page=50&token=abcdef",
        "/caf%C3%A9/menu",
        "http://user:pass@host/a",
        long.as_str(),
    ] {
        println!(
            "{:>7.1} ns  {target}",
            best(|| drop(black_box(masker.mask_target(black_box(target.as_bytes())))))
        );
    }
    for header in
        ["api.example.com:8000", "Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0"]
    {
        println!(
            "{:>7.1} ns  {header}",
            best(|| drop(black_box(masker.mask_header(black_box(header.as_bytes())))))
        );
    }
}

/// The best of many short batches: what remains when nothing else ran in between.
fn best(mut work: impl FnMut()) -> f64 {
    let rounds = 2_000_u32;
    (0..300)
        .map(|_| {
            let started = Instant::now();
            (0..rounds).for_each(|_| work());
            started.elapsed().as_secs_f64() * 1e9 / f64::from(rounds)
        })
        .fold(f64::INFINITY, f64::min)
}
