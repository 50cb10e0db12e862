//! KEDA's questions, answered from the picture.

mod question;
mod stream;

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::{
    figures::Counts,
    picture::{Demand, Picture, unix_ns},
    proto::keda::{
        GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec,
        MetricValue, ScaledObjectRef, external_scaler_server::ExternalScaler,
    },
};
use question::Question;

/// The metric's name. KEDA puts the trigger's place before it.
const METRIC: &str = "gatewatch-attempts-per-second";

/// KEDA's external scaler.
pub(crate) struct Answers {
    pub(crate) picture: Arc<Picture>,
    pub(crate) counts: Arc<Counts>,
    /// Streams at most.
    pub(crate) streams: u64,
    /// Its sender goes when the scaler ends.
    pub(crate) halted: watch::Receiver<()>,
}

impl Answers {
    #[allow(clippy::result_large_err)] // tonic's
    fn question(&self, asked: Option<&ScaledObjectRef>) -> Result<Question, Status> {
        let asked = asked.ok_or("no ScaledObject is named").map_err(str::to_owned);
        asked.and_then(Question::read).map_err(|wrong| {
            self.counts.bad_questions.one_more();
            Status::invalid_argument(wrong)
        })
    }

    /// The demand, unless "no" might be wrong: to that KEDA would scale to zero what is called.
    #[allow(clippy::result_large_err)] // tonic's
    fn demand(&self, question: &Question) -> Result<Demand, Status> {
        let demand = self.picture.demand(&question.service, question.window, unix_ns());
        if demand.active || self.picture.is_sure() {
            return Ok(demand);
        }
        self.counts.unsure.one_more();
        Err(Status::unavailable(
            "no node agent tells its demand yet: are they running, and can they be reached?",
        ))
    }
}

#[tonic::async_trait]
impl ExternalScaler for Answers {
    async fn is_active(&self, asked: Request<ScaledObjectRef>) -> Result<Response<IsActiveResponse>, Status> {
        self.counts.is_active.one_more();
        let question = self.question(Some(asked.get_ref()))?;
        Ok(Response::new(IsActiveResponse { result: self.demand(&question)?.active }))
    }

    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn stream_is_active(
        &self,
        asked: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        self.counts.stream_is_active.one_more();
        let question = self.question(Some(asked.get_ref()))?;
        Ok(Response::new(Box::pin(stream::answers(self, question)?)))
    }

    async fn get_metric_spec(
        &self,
        asked: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        self.counts.get_metric_spec.one_more();
        let question = self.question(Some(asked.get_ref()))?;
        let spec = MetricSpec {
            metric_name: METRIC.to_owned(),
            target_size: whole(question.threshold),
            target_size_float: question.threshold,
        };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    async fn get_metrics(
        &self,
        asked: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        self.counts.get_metrics.one_more();
        let question = self.question(asked.get_ref().scaled_object_ref.as_ref())?;
        let rate = self.demand(&question)?.rate;
        let value = MetricValue {
            metric_name: METRIC.to_owned(),
            metric_value: whole(rate),
            metric_value_float: rate,
        };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

/// Rounded up: what is more than nothing must not become nothing.
#[allow(clippy::cast_possible_truncation)] // a float that is too large becomes the largest number
fn whole(value: f64) -> i64 {
    value.ceil() as i64
}
