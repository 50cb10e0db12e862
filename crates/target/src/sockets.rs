//! Which process has which socket, and in which container it runs.

use std::{collections::HashMap, fs};

use crate::process::ProcRoot;

/// A process that has a socket open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// As the procfs names it.
    pub pid: u32,
    /// Its name (`comm`).
    pub name: String,
    /// Its container's short id, or the unit of the system it belongs to; empty where neither.
    pub container: String,
}

impl ProcRoot {
    /// All sockets open in processes that this process may look into, by inode. Of several owners (a worker
    /// inherits its master's listeners) the one that began first.
    #[must_use]
    pub fn socket_owners(&self) -> HashMap<u64, Owner> {
        let mut owners = HashMap::new();
        let numbers = fs::read_dir(self.path()).into_iter().flatten().flatten();
        let mut pids: Vec<u32> =
            numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        for pid in pids {
            let directory = self.path().join(pid.to_string());
            let Ok(files) = fs::read_dir(directory.join("fd")) else { continue };
            let mut owner = None;
            for file in files.flatten() {
                let Some(inode) = fs::read_link(file.path()).ok().and_then(|target| socket(target.to_str()?))
                else {
                    continue;
                };
                let owner: &Owner = owner.get_or_insert_with(|| {
                    let text = |name: &str| fs::read(directory.join(name)).unwrap_or_default();
                    let name = String::from_utf8_lossy(&text("comm")).trim_end_matches('\n').to_owned();
                    Owner { pid, name, container: container(&String::from_utf8_lossy(&text("cgroup"))) }
                });
                owners.entry(inode).or_insert_with(|| owner.clone());
            }
        }
        owners
    }
}

/// Connections refused in this network namespace because a listener's queue was full; `None` where the kernel does
/// not tell.
#[must_use]
pub fn listen_overflows() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/net/netstat").ok()?;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut both = names.split(' ').zip(values.split(' '));
    both.find(|(name, _)| *name == "ListenOverflows")?.1.parse().ok()
}

/// `socket:[4026]`
fn socket(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// What `/proc/PID/cgroup` tells of the container: the last part of the path that names one, else the last part.
fn container(text: &str) -> String {
    // The unified hierarchy first: `0::/path`; on version 1 any controller's.
    let paths = || text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let unified = text.lines().find_map(|line| line.strip_prefix("0::"));
    let parts = |path: &str| path.split('/').rev().find_map(container_id).map(str::to_owned);
    if let Some(id) = unified.and_then(parts).or_else(|| paths().find_map(parts)) {
        return id;
    }
    let path = unified.filter(|path| !path.trim_matches('/').is_empty()).or_else(|| paths().next());
    let last = path.unwrap_or_default().rsplit('/').find(|part| !part.is_empty() && *part != "..");
    // Whoever may make control groups chooses their names: they become labels.
    let printable = |c: &char| !c.is_control();
    last.unwrap_or_default().chars().filter(printable).take(63).collect()
}

/// `docker-<64 hex>.scope`, `cri-containerd-<64 hex>.scope`, or the bare number: its first twelve digits, as runtimes
/// show it.
fn container_id(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let id = part.rsplit('-').next()?;
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| id.get(..12))?
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn containers() {
        let id = "3f4e".repeat(16);
        let short = "3f4e3f4e3f4e";
        for (text, expected) in [
            (format!("0::/kubepods.slice/kubepods-pod1.slice/cri-containerd-{id}.scope\n"), short),
            (format!("0::/../crio-{id}.scope/container\n"), short),
            (format!("12:cpu:/docker/{id}\n0::/\n"), short),
            (format!("0::/kubepods/besteffort/pod1/{id}\n"), short),
            ("0::/system.slice/nginx.service\n".to_owned(), "nginx.service"),
            ("0::/\n".to_owned(), ""),
            ("3:cpu:/a/b\n0::/\n".to_owned(), "b"),
            (String::new(), ""),
            ("0::/x\u{1b}[2Jy".to_owned(), "x[2Jy"),
        ] {
            assert_eq!(container(&text), expected, "{text}");
        }
    }

    #[test]
    fn our_own_socket() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = super::socket(link.to_str().unwrap()).unwrap();
        let owner = ProcRoot::new("/proc").socket_owners().remove(&inode).unwrap();
        assert_eq!(owner.pid, std::process::id());
    }
}
