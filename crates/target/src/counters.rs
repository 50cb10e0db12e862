//! The gateway's own count of its requests, read from its memory: what `stub_status` shows, without asking it.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid,
};

use crate::{binary::Binary, process::ProcRoot};

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Requests begun since the gateway was started; counts over reloads and workers.
    pub requests: u64,
    /// Of those, requests that have not ended.
    pub open: u64,
    /// The numbers were read twice and had not moved: they belong to one moment.
    pub settled: bool,
}

impl Reading {
    /// Requests that have ended.
    #[must_use]
    pub fn ended(self) -> u64 {
        self.requests.saturating_sub(self.open)
    }
}

/// The counters of one instance, in memory that its processes share.
#[derive(Debug)]
pub struct Counters {
    memory: Memory,
    requests: u64,
    reading: u64,
    writing: u64,
}

impl Counters {
    /// Finds the counters in a process of the instance.
    ///
    /// # Errors
    /// When the process may not be read (needs `CAP_SYS_PTRACE`), or the binary does not export its counters
    /// (built without `stub_status`).
    pub fn open(root: &ProcRoot, pid: u32, binary: &Binary) -> io::Result<Self> {
        let memory = Memory::open(root, pid)?;
        let base = if binary.position_independent { load_address(root, pid)? } else { 0 };
        let read = |name: &str| {
            let address = binary.counters.get(name).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "the gateway was built without stub_status")
            })?;
            memory.read_u64(base.wrapping_add(*address))
        };
        let (requests, reading, writing) =
            (read("ngx_stat_requests")?, read("ngx_stat_reading")?, read("ngx_stat_writing")?);
        Ok(Self { memory, requests, reading, writing })
    }

    /// Reads them now.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn read(&self) -> io::Result<Reading> {
        // Three numbers cannot be read at one moment: a request that begins, or turns from reading to writing,
        // between the reads would be counted wrong. So they are read until they stand still, if they do.
        let mut before = self.read_once()?;
        let mut settled = false;
        for _ in 0..16 {
            let now = self.read_once()?;
            settled = now == before;
            before = now;
            if settled {
                break;
            }
        }
        let (requests, open) = before;
        Ok(Reading { requests, open: if open > requests { 0 } else { open }, settled })
    }
}

impl Counters {
    fn read_once(&self) -> io::Result<(u64, u64)> {
        let requests = self.memory.read_u64(self.requests)?;
        let open = self.memory.read_u64(self.reading)?.wrapping_add(self.memory.read_u64(self.writing)?);
        Ok((requests, open))
    }
}

/// A process's memory, to be read.
#[derive(Debug)]
enum Memory {
    /// Its file in `/proc`: root may open it, whoever's process it is.
    File(File),
    /// By system call: asks for CAP_SYS_PTRACE only, but names the process as our own pid namespace does.
    Call(Pid),
}

impl Memory {
    fn open(root: &ProcRoot, pid: u32) -> io::Result<Self> {
        match File::open(root.path().join(pid.to_string()).join("mem")) {
            Ok(file) => Ok(Self::File(file)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && root.is_ours() => {
                i32::try_from(pid).map(|pid| Self::Call(Pid::from_raw(pid))).map_err(|_| error)
            }
            Err(error) => Err(error),
        }
    }

    fn read_u64(&self, address: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        match self {
            Self::File(file) => file.read_exact_at(&mut bytes, address)?,
            Self::Call(pid) => {
                let base = usize::try_from(address).map_err(io::Error::other)?;
                let remote = RemoteIoVec { base, len: bytes.len() };
                if process_vm_readv(*pid, &mut [IoSliceMut::new(&mut bytes)], &[remote])? != 8 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(u64::from_ne_bytes(bytes))
    }
}

fn load_address(root: &ProcRoot, pid: u32) -> io::Result<u64> {
    let gone = || io::Error::new(io::ErrorKind::NotFound, "the gateway's program is not mapped");
    let exe: PathBuf = std::fs::read_link(root.exe(pid))?;
    let mapped = root.mapped_programs(pid);
    let exact = mapped.get(&exe).copied();
    let by_name = || {
        let name = exe.file_name()?;
        mapped.iter().find(|(path, _)| Path::new(path).file_name() == Some(name)).map(|(_, base)| *base)
    };
    exact.or_else(by_name).ok_or_else(gone)
}
