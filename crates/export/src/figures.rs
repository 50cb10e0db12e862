//! Metrics that need no type of their own; and the port of a command that has no others: few, and nobody whom a scrape
//! could hold up.
//!
//! | route | answer |
//! | --- | --- |
//! | `/metrics` | the figures, in OpenMetrics' text format |
//! | `/healthz` | 200 |
//! | `/readyz` | 200 when ready, else 503 and why |

use std::{fmt, future::Future, sync::Arc};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, text},
    registry::Registry,
};
use tokio::net::TcpListener;

use crate::{
    metrics::{self, CONTENT_TYPE},
    port::{self, Limits},
};

/// What a figure may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rise.
    Counter,
    /// Rise and fall.
    Gauge,
}

/// One metric: its values now, each with a label or one without.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Its name; of a counter without `_total`.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Values by label and its value.
    pub values: Vec<(Option<(&'static str, &'static str)>, u64)>,
}

impl Figure {
    /// A counter without a label.
    #[must_use]
    pub fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, kind: Kind::Counter, values: vec![(None, value)] }
    }

    /// A gauge without a label.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, kind: Kind::Gauge, values: vec![(None, value)] }
    }

    /// With a label, which has these values.
    #[must_use]
    pub fn by(
        label: &'static str,
        kind: Kind,
        name: &'static str,
        help: &'static str,
        values: impl IntoIterator<Item = (&'static str, u64)>,
    ) -> Self {
        let values = values.into_iter().map(|(of, value)| (Some((label, of)), value)).collect();
        Self { name, help, kind, values }
    }

    pub(crate) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self { name, help, kind, values } = self;
        let mut family = match kind {
            Kind::Counter => metrics::counter(encoder, name, help)?,
            Kind::Gauge => metrics::gauge(encoder, name, help)?,
        };
        for (label, value) in values {
            match (label, kind) {
                (Some(label), Kind::Counter) => family.counter(&[*label], *value)?,
                (Some(label), Kind::Gauge) => family.gauge(&[*label], *value)?,
                (None, Kind::Counter) => family.one_counter(*value)?,
                (None, Kind::Gauge) => family.one_gauge(*value)?,
            }
        }
        Ok(())
    }
}

/// What is asked: the figures, and whether the command is ready (else why it is not).
pub trait Source: Send + Sync + 'static {
    /// The figures as they are now.
    fn figures(&self) -> Vec<Figure>;
    /// Whether it does its work; if not, the sentence says why.
    ///
    /// # Errors
    /// What it lacks.
    fn ready(&self) -> Result<(), String>;
}

/// Serves until `stop` resolves.
pub async fn serve(listener: TcpListener, source: Arc<dyn Source>, stop: impl Future<Output = ()>) {
    let app = Router::new()
        .route("/metrics", get(serve_metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(source);
    port::serve(listener, app, Limits::USUAL, stop).await;
}

async fn serve_metrics(State(source): State<Arc<dyn Source>>) -> Response {
    match render(source.figures()) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(source): State<Arc<dyn Source>>) -> Response {
    match source.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n").into_response(),
    }
}

fn render(figures: Vec<Figure>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(View(figures)));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct View(Vec<Figure>);

impl Collector for View {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|figure| figure.encode(&mut encoder))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn figures_become_openmetrics() {
        let text = render(vec![
            Figure::gauge("x_streams", "Streams now.", 3),
            Figure::by(
                "method",
                Kind::Counter,
                "x_questions",
                "Questions.",
                [("IsActive", 7), ("GetMetrics", 0)],
            ),
        ]);
        let expected = "# HELP x_streams Streams now.\n# TYPE x_streams gauge\nx_streams 3\n\
                        # HELP x_questions Questions.\n# TYPE x_questions counter\n\
                        x_questions_total{method=\"IsActive\"} 7\nx_questions_total{method=\"GetMetrics\"} 0\n# EOF\n";
        assert_eq!(text.unwrap(), expected);
    }
}
