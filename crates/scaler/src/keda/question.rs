//! What a ScaledObject asks for, read from the metadata of its trigger.

use std::time::Duration;

use jiff::SignedDuration;

use crate::{history::KEPT, proto::keda::ScaledObjectRef, service::Service};

/// Metadata KEDA itself reads and passes on.
const KEDAS: [&str; 4] = ["scalerAddress", "enableTLS", "unsafeSsl", "tlsCertFile"];
/// The shortest window: below it a pause between two packets would end it.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// The window where none is given.
const WINDOW: Duration = Duration::from_mins(1);
/// As much of a wrong value as a message shows.
const SHOWN: usize = 60;

/// One trigger's question.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Question {
    /// Which Service.
    pub(super) service: Service,
    /// Active while its last attempt is younger; its rate is the mean of so long.
    pub(super) window: Duration,
    /// Attempts per second that one replica is to have.
    pub(super) threshold: f64,
}

impl Question {
    /// Reads it.
    ///
    /// # Errors
    /// A sentence that says what to write instead.
    pub(super) fn read(asked: &ScaledObjectRef) -> Result<Self, String> {
        let (mut name, mut namespace) = (None, asked.namespace.as_str());
        let (mut window, mut threshold) = (WINDOW, 1.0);
        for (key, value) in &asked.scaler_metadata {
            match key.as_str() {
                "service" => name = Some(value.as_str()),
                "namespace" => namespace = value,
                "window" => window = read_window(value)?,
                "threshold" => threshold = read_threshold(value)?,
                other if KEDAS.contains(&other) => {}
                other => {
                    return Err(format!(
                        "unknown trigger metadata {:?}: gatewatch reads service, namespace, window and threshold",
                        shown(other)
                    ));
                }
            }
        }
        let name = name.ok_or("trigger metadata needs `service`: the name of the Service to scale for")?;
        let service = Service::new(namespace, name).ok_or_else(|| {
            format!(
                "no Service can have this name: service {:?} in namespace {:?}. Write the bare names, such as \
                 `service: shop`, and `namespace: market` if it is not the ScaledObject's",
                shown(name),
                shown(namespace)
            )
        })?;
        Ok(Self { service, window, threshold })
    }
}

fn read_window(text: &str) -> Result<Duration, String> {
    let wrong = || {
        let (min, max) = (WINDOW_MIN.as_secs(), KEPT.as_secs() / 60);
        format!("bad `window` {:?}: write a time from {min}s to {max}m, such as 60s", shown(text))
    };
    let seconds = || text.trim().parse().ok().map(SignedDuration::from_secs);
    let window = text.trim().parse().ok().or_else(seconds).ok_or_else(wrong)?;
    let window = Duration::try_from(window).map_err(|_| wrong())?;
    if (WINDOW_MIN..=KEPT).contains(&window) { Ok(window) } else { Err(wrong()) }
}

fn read_threshold(text: &str) -> Result<f64, String> {
    let threshold = text.trim().parse().ok().filter(|it| (0.001..=1e9).contains(it));
    threshold.ok_or_else(|| {
        format!(
            "bad `threshold` {:?}: write how many attempts per second one replica is to have, at least 0.001",
            shown(text)
        )
    })
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(metadata: &[(&str, &str)]) -> ScaledObjectRef {
        let scaler_metadata = metadata.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        ScaledObjectRef { name: "so".into(), namespace: "market".into(), scaler_metadata }
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let question = Question::read(&asked(&[("service", "shop"), ("scalerAddress", "x:1")])).unwrap();
        assert_eq!(question.service, Service::new("market", "shop").unwrap());
        assert_eq!(question.window, Duration::from_secs(60));
        assert_eq!(question.threshold, 1.0);
    }

    #[test]
    fn all_can_be_said() {
        let said = [("service", "shop"), ("namespace", "b"), ("window", "1m30s"), ("threshold", "0.5")];
        let question = Question::read(&asked(&said)).unwrap();
        assert_eq!(question.service, Service::new("b", "shop").unwrap());
        assert_eq!(question.window, Duration::from_secs(90));
        assert_eq!(question.threshold, 0.5);
        let question = Question::read(&asked(&[("service", "shop"), ("window", "90")])).unwrap();
        assert_eq!(question.window, Duration::from_secs(90));
    }

    #[test]
    fn what_is_wrong_is_answered_with_what_to_write() {
        let long = "x".repeat(100_000);
        for (metadata, says) in [
            (vec![], "needs `service`"),
            (vec![("servce", "shop")], "reads service, namespace, window and threshold"),
            (vec![("service", "")], "bare names"),
            (vec![("service", "shop.market.svc")], "bare names"),
            (vec![("service", &long)], "bare names"),
            (vec![("service", "shop"), ("namespace", "A B")], "bare names"),
            (vec![("service", "shop"), ("window", "soon")], "such as 60s"),
            (vec![("service", "shop"), ("window", "-5s")], "such as 60s"),
            (vec![("service", "shop"), ("window", "0")], "such as 60s"),
            (vec![("service", "shop"), ("window", "99999999999999999999h")], "such as 60s"),
            (vec![("service", "shop"), ("window", "11m")], "such as 60s"),
            (vec![("service", "shop"), ("threshold", "0")], "at least 0.001"),
            (vec![("service", "shop"), ("threshold", "NaN")], "at least 0.001"),
            (vec![("service", "shop"), ("threshold", "inf")], "at least 0.001"),
            (vec![("service", "shop"), ("threshold", "1 per second")], "at least 0.001"),
        ] {
            let message = Question::read(&asked(&metadata)).unwrap_err();
            assert!(message.contains(says), "{message}");
            assert!(message.len() < 400, "{}", message.len());
        }
    }
}
