//! What ends an agent: a signal, or the time it was given.

use std::time::Duration;

/// What is to become of the counting when the agent ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Another agent comes after this one, and takes over what goes on counting.
    ForNow,
    /// A person has seen enough.
    ForGood,
}

/// A signal to end, or the end of the time given. SIGTERM is a supervisor's, who mostly starts another.
pub async fn ended(limit: Option<Duration>) -> End {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => End::ForGood,
        () = terminated => End::ForNow,
        () = over => End::ForGood,
    }
}
