//! A ring buffer whose records go to whoever drains it.

use std::{cell::Cell, os::fd::BorrowedFd, rc::Rc, time::Duration};

use libbpf_rs::{MapCore, RingBuffer, RingBufferBuilder};
use rustix::{
    event::{PollFd, PollFlags, poll},
    time::Timespec,
};

type Sink<'a> = dyn FnMut(&[u8]) + 'a;

/// libbpf-rs binds a callback for the buffer's whole life; this one lends it anew at each drain, so that the
/// caller's state needs no cell of its own.
pub(crate) struct Ring {
    buffer: RingBuffer<'static>,
    sink: Rc<Cell<Option<*mut Sink<'static>>>>,
}

impl Ring {
    pub(crate) fn new(map: &dyn MapCore) -> libbpf_rs::Result<Self> {
        let sink: Rc<Cell<Option<*mut Sink<'static>>>> = Rc::default();
        let lent = Rc::clone(&sink);
        let mut builder = RingBufferBuilder::new();
        builder.add(map, move |bytes| {
            if let Some(sink) = lent.get() {
                // SAFETY: the pointer is set only inside `drain`, for the time of the consuming call, from a
                // `&mut` that outlives it; the callback runs on the same thread, inside that call, and once
                // at a time.
                unsafe { (*sink)(bytes) }
            }
            0
        })?;
        Ok(Self { buffer: builder.build()?, sink })
    }

    /// Has something to read when the kernel has woken the reader.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor belongs to the buffer and is open as long as that lives, which is longer than the
        // borrow.
        unsafe { BorrowedFd::borrow_raw(self.buffer.epoll_fd()) }
    }

    /// Hands up to `limit` waiting records to `sink`; how many there were.
    pub(crate) fn drain(&self, limit: usize, sink: &mut Sink<'_>) -> usize {
        let sink: *mut Sink<'_> = sink;
        // SAFETY: only the lifetime changes; `Lent` takes the pointer back before this function returns or
        // unwinds, so it is never used past the borrow.
        let sink = unsafe { std::mem::transmute::<*mut Sink<'_>, *mut Sink<'static>>(sink) };
        struct Lent<'a>(&'a Cell<Option<*mut Sink<'static>>>);
        impl Drop for Lent<'_> {
            fn drop(&mut self) {
                self.0.set(None);
            }
        }
        self.sink.set(Some(sink));
        let _lent = Lent(&self.sink);
        usize::try_from(self.buffer.consume_raw_n(limit)).unwrap_or(0)
    }
}

/// Sleeps for `timeout`, or less when one of `descriptors` has something to read.
pub fn wait(timeout: Duration, descriptors: &[Option<BorrowedFd<'_>>]) {
    let watched = descriptors.iter().flatten().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN));
    let mut watched: Vec<_> = watched.collect();
    // No such timeout is refused; an interruption by a signal only ends the sleep early.
    let timeout = Timespec::try_from(timeout).ok();
    let _early = poll(&mut watched, timeout.as_ref());
}

/// Sleeps until the ring has something or `other` can be read; at most for `timeout`.
pub(crate) fn wait_beside(timeout: Option<Duration>, ring: Option<&Ring>, other: BorrowedFd<'_>) {
    let ring = ring.map(|ring| {
        // SAFETY: the descriptor belongs to the ring's buffer and is open as long as that lives, which is longer
        // than this call.
        unsafe { BorrowedFd::borrow_raw(ring.buffer.epoll_fd()) }
    });
    let mut watched: Vec<_> = [Some(other), ring]
        .into_iter()
        .flatten()
        .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
        .collect();
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    // An interruption by a signal only ends the sleep early.
    let _early = poll(&mut watched, timeout.as_ref());
}
