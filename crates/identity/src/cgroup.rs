//! Which container and which pod a process belongs to, from the path of its control group.
//!
//! Kubelets, container runtimes and cgroup drivers each write it their own way; what they share is a container's id of 64
//! hexadecimal digits, and a segment `pod` with the pod's UID (with `_` for `-` where systemd would take `-` for a level).

use std::fmt;

/// A container's id, as containerd, CRI-O, Docker and Podman give it: 256 bits, written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId([u8; 32]);

/// A pod's UID: 128 bits. A static pod's is the hash of its file, written without `-`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid([u8; 16]);

/// Where in the cluster a process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Its pod, where a kubelet made the control group.
    pub pod: Option<Uid>,
    /// Its container, as the API knows it: in a pod the outermost one, elsewhere the innermost.
    pub container: Option<ContainerId>,
}

impl ContainerId {
    /// From 64 hexadecimal digits, with or without `containerd://` in front.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.rsplit_once("://").map_or(text, |(_, digits)| digits);
        hexadecimal(digits.bytes()).map(Self)
    }
}

impl Uid {
    /// From `f81d4fae-7dec-11d0-a765-00a0c91e6bf6`, with `-`, `_` or nothing in between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let separators = text.bytes().filter(|byte| matches!(byte, b'-' | b'_')).count();
        if separators != 0 && separators != 4 {
            return None;
        }
        hexadecimal(text.bytes().filter(|byte| !matches!(byte, b'-' | b'_'))).map(Self)
    }
}

/// Exactly `N` bytes' worth of digits.
fn hexadecimal<const N: usize>(mut digits: impl Iterator<Item = u8>) -> Option<[u8; N]> {
    let mut value = [0; N];
    let mut digit = || {
        let digit = char::from(digits.next()?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    for byte in &mut value {
        *byte = (digit()? << 4) | digit()?;
    }
    digits.next().is_none().then_some(value)
}

impl Origin {
    /// From a control group's path, of cgroup v1 or v2, absolute or relative to whatever root.
    #[must_use]
    pub fn of_path(path: &str) -> Self {
        let mut origin = Self::default();
        // Systemd's driver on a runtime with the other one: `…-pod<uid>.slice:cri-containerd:<id>` is one segment.
        for segment in path.split(['/', ':']) {
            if let Some(pod) = pod_of_segment(segment) {
                // Inside of a pod there may be a whole cluster (kind): its innermost pod is the one that is meant.
                origin = Self { pod: Some(pod), container: None };
            } else if let Some(container) = container_of_segment(segment)
                && (origin.pod.is_none() || origin.container.is_none())
            {
                origin.container = Some(container);
            }
        }
        origin
    }

    /// From what `/proc/PID/cgroup` holds: the line of cgroup v2, or those of each v1 hierarchy. The first that names a
    /// container counts, else the first that names a pod.
    #[must_use]
    pub fn of_process(text: &str) -> Self {
        let mut best = Self::default();
        for line in text.lines().take(64) {
            let path = line.splitn(3, ':').nth(2).unwrap_or_default();
            let origin = Self::of_path(path);
            if origin.container.is_some() {
                return origin;
            }
            if best.pod.is_none() {
                best = origin;
            }
        }
        best
    }

    /// Neither a pod's nor a container's.
    #[must_use]
    pub const fn is_host(&self) -> bool {
        self.pod.is_none() && self.container.is_none()
    }
}

/// The container a control group's path belongs to.
#[must_use]
pub fn container_of(path: &str) -> Option<ContainerId> {
    Origin::of_path(path).container
}

/// `pod<uid>`, or systemd's `kubepods[-burstable|-besteffort]-pod<uid>.slice`.
fn pod_of_segment(segment: &str) -> Option<Uid> {
    let name = segment.strip_suffix(".slice").unwrap_or(segment);
    // The UID is the last thing in it: a `pod` of `kubepods` before it does not matter.
    let (_, uid) = name.rsplit_once("pod")?;
    Uid::parse(uid)
}

/// `<id>`, or systemd's `<runtime>-<id>.scope`; not a runtime's own processes beside it.
fn container_of_segment(segment: &str) -> Option<ContainerId> {
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    match name.rsplit_once('-') {
        None => ContainerId::parse(name),
        Some((runtime, _)) if runtime.ends_with("conmon") => None,
        Some((_, id)) => ContainerId::parse(id),
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            let separator = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
            write!(f, "{separator}{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
