//! One agent a network namespace: two would pay twice for the same counts.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
};

use anyhow::{Result, bail};

/// Abstract names belong to a network namespace, and go with their process, however it ends.
const NAME: &str = "gatewatch/network";

/// Held while this agent counts.
#[derive(Debug)]
pub struct Lock {
    _name: UnixListener,
}

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// When another agent has it; the message names its process.
    pub fn take() -> Result<Self> {
        let address = SocketAddr::from_abstract_name(NAME)?;
        match UnixListener::bind_addr(&address) {
            Ok(name) => Ok(Self { _name: name }),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                let who = holder().unwrap_or_else(|| "another process".to_owned());
                bail!(
                    "another gatewatch ({who}) already counts the packets of this network namespace. Stop it, or start this one with --no-network (network.enabled: false)"
                )
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Who counts in this network namespace now, in words.
pub fn holder() -> Option<String> {
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(NAME).ok()?).ok()?;
    Some(peer(&stream).map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))
}

/// The process at the other end; `None` where it is in a pid namespace that ours does not see.
fn peer(stream: &UnixStream) -> Option<u32> {
    let credentials = rustix::net::sockopt::socket_peercred(stream).ok()?;
    u32::try_from(credentials.pid.as_raw_nonzero().get()).ok()
}
