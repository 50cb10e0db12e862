//! The gateway's own count asked for over HTTP (`gateway.status_url`), where it cannot be read from its memory.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use gatewatch_export::{http::Meeting, snapshot::Snapshot};
use gatewatch_target::counters::Reading;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use super::live::Newest;

/// How often it is asked. Each question is a request of the gateway's, and is reported as such.
const INTERVAL: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests that may end while it is asked, and still tell the two counts apart from a loss.
const SLACK_MAX: u64 = 64;
/// A status page is a few hundred bytes.
const ANSWER_MAX: usize = 64 << 10;

/// What was learned last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Learned {
    /// Requests that ended by the gateway's count, while we watched.
    pub counted: u64,
    /// Requests reported or filtered out, over `counted`.
    pub coverage: Option<f64>,
}

/// Shared with the hot loop, which only ever reads it.
pub type Slot = Arc<Mutex<Option<Learned>>>;

/// Asks for ever, at the address the newest configuration names.
pub async fn ask(mut newest: Newest, meeting: Arc<Meeting>, slot: Slot) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let mut base = None;
    let (mut asked, mut told): (Option<String>, Option<String>) = (None, None);
    loop {
        let url = newest.borrow_and_update().gateway.status_url.clone();
        if url != asked {
            (base, told) = (None, None);
            asked.clone_from(&url);
        }
        let learned = match &url {
            None => None,
            Some(url) => match compare(&client, url, &meeting, &mut base).await {
                Ok(learned) => {
                    told = None;
                    learned
                }
                Err(error) => {
                    let text = format!("gateway.status_url is of no use now: {error:#}");
                    // The same each 10 s would say no more.
                    if told.as_ref() != Some(&text) {
                        meeting.say(text.clone());
                        told = Some(text);
                    }
                    base = None;
                    None
                }
            },
        };
        if let Ok(mut slot) = slot.lock() {
            *slot = learned;
        }
        let until = tokio::time::Instant::now() + INTERVAL;
        while let Ok(changed) = tokio::time::timeout_at(until, newest.changed()).await {
            // Without a sender there will be no other configuration, and soon no agent.
            if changed.is_err() {
                return;
            }
            if newest.borrow_and_update().gateway.status_url != asked {
                break;
            }
        }
    }
}

fn seen(snapshot: &Snapshot) -> u64 {
    snapshot.gateways.iter().map(|gateway| gateway.seen).sum()
}

/// Our count before and after: the gateway's lies between them, if nothing was missed.
async fn compare(
    client: &Client<HttpConnector, Empty<&'static [u8]>>,
    url: &str,
    meeting: &Meeting,
    base: &mut Option<i128>,
) -> Result<Option<Learned>> {
    let low = seen(&*meeting.hot_loop.fresh().await);
    let reading = tokio::time::timeout(PATIENCE, fetch(client, url)).await.context("no answer in time")??;
    let after = meeting.hot_loop.fresh().await;
    let high = seen(&after);
    let ended = i128::from(reading.ended());
    let Some(base) = *base else {
        // The first reading tells what had ended before; under load a later, quieter moment serves better.
        *base = (high - low <= SLACK_MAX).then_some(ended - i128::from(high));
        return Ok(None);
    };
    let counted = u64::try_from(ended - base).unwrap_or(0);
    let ours = counted + SLACK_MAX >= low && counted <= high + SLACK_MAX;
    let counted = if ours { high } else { counted };
    let reported: u64 = after.gateways.iter().map(|gateway| gateway.reported + gateway.filtered).sum();
    #[allow(clippy::cast_precision_loss)] // a ratio for people
    let coverage = (counted > 0).then(|| reported as f64 / counted as f64);
    Ok(Some(Learned { counted, coverage }))
}

async fn fetch(client: &Client<HttpConnector, Empty<&'static [u8]>>, url: &str) -> Result<Reading> {
    let answer = client.get(url.parse().context("it is not a URL")?).await.context("it cannot be reached")?;
    if !answer.status().is_success() {
        bail!("it answers {}", answer.status());
    }
    let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("its answer cannot be read: {error}"))?.to_bytes();
    parse(&body).context("its answer is neither stub_status nor Kong's /status")
}

/// nginx's `stub_status` page, or the JSON of Kong's `/status`.
fn parse(body: &[u8]) -> Option<Reading> {
    let text = std::str::from_utf8(body).ok()?;
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(text) {
        let server = json.get("server")?;
        let number = |key: &str| server.get(key)?.as_u64();
        let open = number("connections_reading")?.checked_add(number("connections_writing")?)?;
        return Some(Reading { requests: number("total_requests")?, open, settled: true });
    }
    let mut lines = text.lines().skip_while(|line| !line.starts_with("server accepts handled requests"));
    let requests = lines.nth(1)?.split_whitespace().nth(2)?.parse().ok()?;
    let words: Vec<&str> = lines.next()?.split_whitespace().collect();
    let after = |name: &str| -> Option<u64> {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1)?.parse().ok()
    };
    let open = after("Reading:")?.checked_add(after("Writing:")?)?;
    Some(Reading { requests, open, settled: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_formats_and_refuses_others() {
        let stub = "Active connections: 3 \nserver accepts handled requests\n 16 16 31 \nReading: 1 Writing: 2 Waiting: 0 \n";
        let kong = r#"{"server":{"total_requests":31,"connections_reading":1,"connections_writing":2},"database":{}}"#;
        let good = Some(Reading { requests: 31, open: 3, settled: true });
        for (body, want) in [
            (stub.as_bytes(), good),
            (kong.as_bytes(), good),
            (b"<html>404</html>", None),
            (b"", None),
            (b"\xff\xfe", None),
            (b"server accepts handled requests\n", None),
            (b"server accepts handled requests\n1 1 99999999999999999999999\nReading: 0 Writing: 0", None),
            (br#"{"server":{"total_requests":-1}}"#, None),
        ] {
            assert_eq!(parse(body), want, "{}", String::from_utf8_lossy(body));
        }
    }
}
