//! One agent a network namespace: two would pay twice for the same counts.

use std::{fs, os::fd::OwnedFd};

use anyhow::{Result, bail};
use gatewatch_target::process::ProcRoot;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with},
};

/// Abstract names belong to a network namespace, and go with their process, however it ends.
const NAME: &str = "gatewatch/network";

/// Held while this agent counts. A name only: nobody can connect to it, so nobody can fill a queue.
#[derive(Debug)]
pub struct Lock {
    _name: OwnedFd,
}

impl Lock {
    /// Takes it.
    ///
    /// # Errors
    /// When another agent has it; the message names its process.
    pub fn take() -> Result<Self> {
        let name = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        match bind(&name, &SocketAddrUnix::new_abstract_name(NAME.as_bytes())?) {
            Ok(()) => Ok(Self { _name: name }),
            Err(Errno::ADDRINUSE) => {
                let who = holder().unwrap_or_else(|| "another process".to_owned());
                bail!(
                    "another gatewatch ({who}) already counts the packets of this network namespace. Stop it, or start this one with --no-network (network.enabled: false)"
                )
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Who counts in this network namespace now, in words; `None`: nobody.
pub fn holder() -> Option<String> {
    let all = fs::read_to_string("/proc/self/net/unix").ok()?;
    let line =
        all.lines().find(|line| line.split_whitespace().nth(7) == Some(concat!("@", "gatewatch/network")))?;
    let inode: u64 = line.split_whitespace().nth(6)?.parse().ok()?;
    // In a pid namespace that ours does not see it has no number.
    let owner = ProcRoot::new("/proc").socket_owners().remove(&inode);
    Some(owner.map_or_else(|| "another process".to_owned(), |owner| format!("process {}", owner.pid)))
}
