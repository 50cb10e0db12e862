//! A connect that no system call of that name begins.

#![allow(clippy::unwrap_used)]

use std::{
    net::TcpListener,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use gatewatch_capture::attempt::{AttemptProbe, Stage};
use io_uring::{IoUring, opcode, types::Fd};

#[test]
fn a_connect_by_io_uring_is_one_attempt() {
    let probe = AttemptProbe::load(gatewatch_capture::kernel::pid_namespace()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // SAFETY: no pointer is given; the result is checked and owned at once.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        assert!(fd >= 0);
        OwnedFd::from_raw_fd(fd)
    };
    // SAFETY: all zeros are a value of it.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = 2;
    address.sin_port = port.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    let mut ring = IoUring::new(4).unwrap();
    let connect =
        opcode::Connect::new(Fd(socket.as_raw_fd()), std::ptr::from_ref(&address).cast(), 16).build();
    // SAFETY: the address lives until the operation is complete, which is waited for below.
    unsafe { ring.submission().push(&connect).unwrap() };
    ring.submit_and_wait(1).unwrap();
    assert_eq!(ring.completion().next().unwrap().result(), 0);
    let mut stages = Vec::new();
    while probe.drain(|record| {
        if record.pid == std::process::id() && record.asked_port == port {
            stages.push(u32::from(record.stage));
        }
    }) > 0
    {}
    assert_eq!(stages, [Stage::ATTEMPT_BEGAN.0, Stage::ATTEMPT_ENDED.0]);
}
