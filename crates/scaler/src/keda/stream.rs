//! The stream on which KEDA waits for a Service's first call.
//!
//! What KEDA 2.20 does with it: `true` scales from zero at once; `false` is passed over, since going to zero is left to
//! its polling. A `true` that finds the ScaledObject not ready yet, or fails against the API server, is lost on it, and
//! so it is said again while the Service is active, less and less often. A stream that ends well is opened anew after two
//! seconds; one that fails, after up to a minute.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{sync::watch, time::Instant};
use tonic::Status;

use super::{Answers, question::Question};
use crate::{
    figures::Counts,
    picture::{Following, Picture, unix_ns},
    proto::keda::IsActiveResponse,
};

/// After how long `true` is said again: first, and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often to look whether a scaler that knows too little knows enough.
const UNSURE: Duration = Duration::from_millis(500);

/// Answers for as long as the scaler runs: the present state, then each change.
#[allow(clippy::result_large_err)] // tonic's
pub(super) fn answers(
    answers: &Answers,
    question: Question,
) -> Result<impl Stream<Item = Result<IsActiveResponse, Status>> + use<>, Status> {
    if !answers.counts.streams.one_more_within(answers.streams) {
        answers.counts.refused_streams.one_more();
        return Err(Status::resource_exhausted("as many streams are open already as this scaler allows"));
    }
    let place = Place(Arc::clone(&answers.counts));
    let watcher = Watcher {
        following: answers.picture.follow(&question.service),
        picture: Arc::clone(&answers.picture),
        question,
        halted: answers.halted.clone(),
        place,
        said: None,
        pause: AGAIN.0,
        again: Instant::now(),
    };
    Ok(stream::unfold(watcher, async |mut watcher| {
        let result = watcher.next().await?;
        Some((Ok(IsActiveResponse { result }), watcher))
    }))
}

/// One of the streams that may be open at once.
struct Place(Arc<Counts>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.streams.one_less();
    }
}

struct Watcher {
    question: Question,
    picture: Arc<Picture>,
    following: Following,
    halted: watch::Receiver<()>,
    place: Place,
    said: Option<bool>,
    /// When `true` is said again, and the pause before that.
    again: Instant,
    pause: Duration,
}

impl Watcher {
    /// The next thing to say; nothing when the scaler ends.
    async fn next(&mut self) -> Option<bool> {
        loop {
            let now_ns = unix_ns();
            let demand = self.picture.demand(&self.question.service, self.question.window, now_ns);
            let now = Instant::now();
            if demand.active {
                if self.said != Some(true) {
                    self.said = Some(true);
                    self.place.0.activations.one_more();
                    self.pause = AGAIN.0;
                    self.again = now + self.pause;
                    return Some(true);
                }
                if now >= self.again {
                    self.pause = (self.pause * 2).min(AGAIN.1);
                    self.again = now + self.pause;
                    return Some(true);
                }
                let end = now + Duration::from_nanos(demand.until_ns - now_ns);
                self.sleep_until(end.min(self.again)).await?;
            } else if self.said == Some(false) {
                self.news().await?;
            } else if self.picture.is_sure() {
                self.said = Some(false);
                return Some(false);
            } else {
                // Not called, as far as is known: not worth saying.
                let _either = tokio::time::timeout(UNSURE, self.news()).await;
                self.halted.has_changed().ok()?;
            }
        }
    }

    /// Nothing when the scaler ends meanwhile.
    async fn sleep_until(&mut self, end: Instant) -> Option<()> {
        tokio::select! {
            () = tokio::time::sleep_until(end) => Some(()),
            _ = self.halted.changed() => None,
        }
    }

    /// Waits for news of the Service. Nothing when the scaler ends meanwhile.
    async fn news(&mut self) -> Option<()> {
        tokio::select! {
            () = self.following.news() => Some(()),
            _ = self.halted.changed() => None,
        }
    }
}
