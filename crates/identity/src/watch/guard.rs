//! What an API server, or something in its place, can do to us: send nothing, send without end, send one byte a minute.
//! Each answer passes through here.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tower_layer::Layer;
use tower_service::Service;

use crate::change::Kind;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long and how much is waited for. Each bound is far from what a server at work needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// From a request to the head of its answer.
    pub answer: Duration,
    /// From the first byte of a list, or of one event, to its last.
    pub whole: Duration,
    /// Between two events of a watch. The API server sends a bookmark every minute.
    pub silence: Duration,
    /// The longest list or event, bytes. An object is at most about 1.5 MiB.
    pub longest: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(30),
            whole: Duration::from_secs(60),
            silence: Duration::from_secs(150),
            longest: 16 << 20,
        }
    }
}

/// Why an answer was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum GivenUp {
    #[error("the API server did not answer in time")]
    Late,
    #[error("the API server fell silent")]
    Silent,
    #[error("the API server's answer is too long")]
    TooLong,
}

/// What was seen of one kind since the last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// A watch brought something whole: a bookmark, or an event.
    pub(super) heard: AtomicBool,
    /// An answer was too long.
    pub(super) too_long: AtomicBool,
}

/// Of each kind.
#[derive(Debug, Default)]
pub(super) struct AllSeen([Seen; 4]);

impl AllSeen {
    pub(super) fn of(&self, kind: Kind) -> &Seen {
        let [service, slice, pod, node] = &self.0;
        match kind {
            Kind::Service => service,
            Kind::Slice => slice,
            Kind::Pod => pod,
            Kind::Node => node,
        }
    }

    fn of_path(&self, uri: &Uri) -> Option<&Seen> {
        let last = uri.path().rsplit('/').next()?;
        Kind::ALL.into_iter().find(|kind| kind.resource() == last).map(|kind| self.of(kind))
    }
}

/// Puts [`Guard`] around a client's service.
#[derive(Clone, Debug)]
pub(super) struct GuardLayer {
    pub(super) seen: Arc<AllSeen>,
    pub(super) patience: Patience,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, layer: self.clone() }
    }
}

#[derive(Debug)]
pub(super) struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

impl<S, Q, B> Service<Request<Q>> for Guard<S>
where
    S: Service<Request<Q>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<Guarded<B>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let uri = request.uri().clone();
        let watches = uri
            .query()
            .is_some_and(|query| query.split('&').any(|part| matches!(part, "watch=true" | "watch=1")));
        let answer = self.inner.call(request);
        let layer = self.layer.clone();
        Box::pin(async move {
            let response = timeout(layer.patience.answer, answer).await.map_err(|_| GivenUp::Late)??;
            Ok(response.map(|body| Guarded {
                body: Box::pin(body),
                // A list has begun; of a watch the first event may take its time.
                until: Box::pin(sleep(if watches { layer.patience.silence } else { layer.patience.whole })),
                line: 0,
                watches,
                uri,
                layer,
            }))
        })
    }
}

/// An answer's body, which ends with an error where it would go on for ever.
pub(super) struct Guarded<B> {
    body: Pin<Box<B>>,
    until: Pin<Box<Sleep>>,
    /// Bytes since the last event ended, or of the whole list.
    line: usize,
    watches: bool,
    uri: Uri,
    layer: GuardLayer,
}

impl<B> fmt::Debug for Guarded<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("uri", &self.uri).field("line", &self.line).finish_non_exhaustive()
    }
}

impl<B> Guarded<B> {
    fn pass(&mut self, data: &[u8]) -> Result<(), GivenUp> {
        let Patience { whole, silence, longest, .. } = self.layer.patience;
        let seen = self.layer.seen.of_path(&self.uri);
        let ended = if self.watches { data.iter().rposition(|byte| *byte == b'\n') } else { None };
        if let Some(at) = ended {
            self.line = data.len() - at - 1;
            if let Some(seen) = seen {
                seen.heard.store(true, Ordering::Relaxed);
            }
            self.until.as_mut().reset(Instant::now() + if self.line == 0 { silence } else { whole });
        } else {
            if self.watches && self.line == 0 {
                self.until.as_mut().reset(Instant::now() + whole);
            }
            self.line = self.line.saturating_add(data.len());
        }
        if self.line > longest {
            if let Some(seen) = seen {
                seen.too_long.store(true, Ordering::Relaxed);
            }
            return Err(GivenUp::TooLong);
        }
        Ok(())
    }
}

impl<B> Body for Guarded<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = match self.body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let over = self.until.as_mut().poll(cx);
                return over.map(|()| Some(Err(GivenUp::Silent.into())));
            }
        };
        let frame = frame.map(|frame| frame.map_err(Into::into));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && !data.is_empty()
        {
            let passed = self.pass(data);
            // A server that drips never lets the body be pending when the time is over.
            let over = self.until.deadline() <= Instant::now();
            if let Err(why) = if over { Err(GivenUp::Silent) } else { passed } {
                return Poll::Ready(Some(Err(why.into())));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
