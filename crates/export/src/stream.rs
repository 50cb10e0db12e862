//! A large answer, written while it is sent: it is never in memory as a whole.

use std::{fmt, time::Duration};

use axum::body::Body;
use tokio::sync::mpsc;

/// What is sent at once.
const CHUNK: usize = 64 << 10;
/// How long a client may take to read a chunk.
const CLIENT_PATIENCE: Duration = Duration::from_secs(5);

/// What `write` writes, in a thread where it may wait for the client.
pub(crate) fn body(write: impl FnOnce(&mut Chunks) -> fmt::Result + Send + 'static) -> Body {
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        let mut chunks = Chunks { sender, buffer: String::with_capacity(CHUNK) };
        // It fails when the client has gone: nobody is left to tell.
        if write(&mut chunks).is_ok() {
            let _gone = chunks.send();
        }
    });
    let chunks = futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|chunk| (Ok::<_, std::convert::Infallible>(chunk), receiver))
    });
    Body::from_stream(chunks)
}

pub(crate) struct Chunks {
    sender: mpsc::Sender<String>,
    buffer: String,
}

impl Chunks {
    fn send(&mut self) -> fmt::Result {
        let chunk = std::mem::replace(&mut self.buffer, String::with_capacity(CHUNK));
        // A client that does not read must not keep others from their turn.
        let taken = tokio::time::timeout(CLIENT_PATIENCE, self.sender.send(chunk));
        match tokio::runtime::Handle::current().block_on(taken) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(fmt::Error),
        }
    }
}

impl fmt::Write for Chunks {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.buffer.len() + text.len() > CHUNK && !self.buffer.is_empty() {
            self.send()?;
        }
        self.buffer.push_str(text);
        Ok(())
    }
}
