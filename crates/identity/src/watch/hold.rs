//! The annotation `gatewatch.io/hold` of a Service.

use std::time::Duration;

/// No caller is kept waiting for longer: it would rather be told.
pub const HOLD_MAX: Duration = Duration::from_secs(60);

/// How long, and what to say about it; or why it is nothing.
pub(super) fn hold(text: &str) -> Result<(Duration, Option<String>), String> {
    let shown = || text.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect::<String>();
    let asked = match text.trim() {
        "0" => Duration::ZERO,
        text if text.len() > 40 => return Err(bad(&shown())),
        text => humantime::parse_duration(text).map_err(|_| bad(&shown()))?,
    };
    let capped = asked > HOLD_MAX;
    let warning = capped.then(|| format!("gatewatch.io/hold: `{}` is more than 60s, 60s is taken", shown()));
    Ok((asked.min(HOLD_MAX), warning))
}

fn bad(shown: &str) -> String {
    format!("gatewatch.io/hold: `{shown}` is no duration, nothing is held: write e.g. 10s, 500ms, 1m")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_capped_and_the_rest_is_said() {
        for (text, millis) in
            [("10s", 10_000), ("500ms", 500), (" 1m ", 60_000), ("0", 0), ("0s", 0), ("1s500ms", 1_500)]
        {
            assert_eq!(hold(text), Ok((Duration::from_millis(millis), None)), "{text}");
        }
        let (capped, warning) = hold("1h").unwrap();
        assert_eq!(capped, HOLD_MAX);
        assert!(warning.unwrap().contains("1h"));
        for text in
            ["", "10", "-1s", "ten", "1e9s", "s", "99999999999999999999s", "\u{1b}[2J", &"1s".repeat(1000)]
        {
            let warning = hold(text).unwrap_err();
            assert!(warning.len() < 250 && !warning.contains('\u{1b}'), "{warning}");
        }
    }
}
