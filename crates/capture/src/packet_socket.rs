//! Frames sent out of an interface as they are.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::CaptureError;

/// One that sends frames as they are, and receives none.
pub(crate) fn packet_socket() -> Result<OwnedFd, CaptureError> {
    // SAFETY: no memory is handed over; the descriptor that comes back is nobody else's.
    unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            let source = std::io::Error::last_os_error();
            return Err(CaptureError::Os { action: "open a packet socket", source });
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Sends a frame out of an interface; does not wait.
pub(crate) fn send(socket: &OwnedFd, ifindex: u32, frame: &[u8]) -> std::io::Result<()> {
    let kind = frame.get(12..14).and_then(|kind| kind.try_into().ok()).map_or(0, u16::from_ne_bytes);
    let family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    // SAFETY: all zeroes is a value of the structure.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = family;
    to.sll_protocol = kind;
    to.sll_ifindex = i32::try_from(ifindex).unwrap_or(i32::MAX);
    let length = u32::try_from(size_of::<libc::sockaddr_ll>()).unwrap_or_default();
    // SAFETY: the descriptor is open; frame and address live through the call and have the lengths told.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const to).cast(),
            length,
        )
    };
    if sent < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
