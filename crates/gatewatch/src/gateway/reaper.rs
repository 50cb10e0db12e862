//! Ends probes, in a thread of its own: the kernel waits until no program runs any more, for two seconds where many probes
//! end, and the hot loop waits for nobody.

use std::{
    io,
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use gatewatch_capture::nginx::Attachment;

/// The hot loop's end.
pub struct Reaper {
    give: Sender<Vec<Attachment>>,
    gone: Receiver<()>,
    waiting: usize,
}

impl Reaper {
    /// Nothing to end yet.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start() -> io::Result<Self> {
        let (give, given) = mpsc::channel::<Vec<Attachment>>();
        let (tell, gone) = mpsc::channel();
        thread::Builder::new().name("reaper".to_owned()).spawn(move || {
            for attachments in given {
                drop(attachments);
                if tell.send(()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { give, gone, waiting: 0 })
    }

    /// Ends these.
    pub fn end(&mut self, attachments: Vec<Attachment>) {
        // Without its thread they are dropped here with what could not be sent: slower, and ended all the same.
        if !attachments.is_empty() && self.give.send(attachments).is_ok() {
            self.waiting += 1;
        }
    }

    /// Whether all that were given have ended.
    pub fn is_done(&mut self) -> bool {
        while self.waiting > 0 && self.gone.try_recv().is_ok() {
            self.waiting -= 1;
        }
        self.waiting == 0
    }
}
