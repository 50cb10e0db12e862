//! Ends the hot loop's sleep.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::event::{EventfdFlags, eventfd};

/// Rung by whoever has something for the hot loop.
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// # Errors
    /// When the process may open no more files.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Rings. One that has been ringing for long goes on ringing.
    pub fn ring(&self) {
        let _is_ringing = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Stops ringing.
    pub fn hush(&self) {
        let _was_silent = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
