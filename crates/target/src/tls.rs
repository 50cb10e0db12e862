//! Where programs encrypt and decrypt: the functions of TLS libraries, in a library or in the program itself.

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    path::{Path, PathBuf},
};

use memchr::memmem;
use object::{Architecture, Object, ObjectSection, ObjectSegment, ObjectSymbol, ReadCache};

use crate::{
    binary::{FileKey, file_offset},
    process::ProcRoot,
};

mod code;

/// A file larger than this is not looked into.
const FILE_MAX: u64 = 1 << 30;
/// A function longer than this is not searched for its returns.
const FUNCTION_MAX: u64 = 1 << 20;

/// Files remembered; above it, those without TLS are looked at once more.
const LOOKED_AT_MAX: usize = 65_536;
/// Files with TLS that are told of; a machine has a few dozen.
const FOUND_MAX: usize = 1024;

/// What a function does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Call {
    /// `SSL_read`.
    Read,
    /// `SSL_write`.
    Write,
    /// `SSL_read_ex`.
    ReadExtended,
    /// `SSL_write_ex`.
    WriteExtended,
    /// `SSL_free`.
    Free,
    /// Go's `crypto/tls.(*Conn).Read`.
    GoRead,
    /// Go's `crypto/tls.(*Conn).Write`.
    GoWrite,
}

const FUNCTIONS: [(&str, Call); 7] = [
    ("SSL_read", Call::Read),
    ("SSL_write", Call::Write),
    ("SSL_read_ex", Call::ReadExtended),
    ("SSL_write_ex", Call::WriteExtended),
    ("SSL_free", Call::Free),
    ("crypto/tls.(*Conn).Read", Call::GoRead),
    ("crypto/tls.(*Conn).Write", Call::GoWrite),
];

/// A function, by offsets in its file, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// What it does.
    pub call: Call,
    /// Where a probe finds its arguments: its first instruction, of Go's one that is cheaper to probe.
    pub entry: u64,
    /// Its return instructions, as far as they could be told.
    pub returns: Vec<u64>,
}

/// A file in which TLS is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFile {
    /// The file.
    pub key: FileKey,
    /// How it can be reached from here.
    pub path: PathBuf,
    /// Its functions.
    pub sites: Vec<Site>,
}

/// The files a process may do TLS in: its program, and libraries that are named like one that does.
#[must_use]
pub fn files_of(root: &ProcRoot, pid: u32) -> Vec<PathBuf> {
    let inside = root.path().join(pid.to_string()).join("root");
    let is_named_so = |path: &PathBuf| {
        path.file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.contains(".so") && (name.contains("ssl") || name.contains("tcnative")))
    };
    let libraries = root
        .mapped_programs(pid)
        .into_keys()
        .filter(is_named_so)
        .map(|path| inside.join(path.strip_prefix("/").unwrap_or(&path)));
    libraries.chain([root.exe(pid)]).collect()
}

/// Looks through processes; each file once.
#[derive(Debug, Default)]
pub struct Finder {
    looked_at: HashSet<FileKey>,
    found: HashSet<FileKey>,
}

impl Finder {
    /// Files of this process in which TLS is done, and which were not found before. A library may be loaded long after
    /// the process began: look again now and then.
    #[must_use]
    pub fn look(&mut self, root: &ProcRoot, pid: u32) -> Vec<TlsFile> {
        if self.looked_at.len() >= LOOKED_AT_MAX {
            self.looked_at.clear();
        }
        files_of(root, pid)
            .into_iter()
            .filter(|path| FileKey::of(path).is_ok_and(|key| self.looked_at.insert(key)))
            .filter_map(|path| inspect(&path))
            .filter(|file| self.found.len() < FOUND_MAX && self.found.insert(file.key))
            .collect()
    }
}

impl Finder {
    /// Looks at this file again when it is met.
    pub fn forget(&mut self, key: FileKey) {
        self.found.remove(&key);
        self.looked_at.remove(&key);
    }

    /// Files that were found and that none of these processes has any more. They are forgotten.
    #[must_use]
    pub fn unused(&mut self, root: &ProcRoot, pids: &[u32]) -> Vec<FileKey> {
        if self.found.is_empty() {
            return Vec::new();
        }
        let keys =
            pids.iter().flat_map(|pid| files_of(root, *pid)).filter_map(|path| FileKey::of(&path).ok());
        let used: HashSet<FileKey> = keys.collect();
        let unused: Vec<_> = self.found.difference(&used).copied().collect();
        unused.iter().for_each(|key| self.forget(*key));
        unused
    }
}

/// Looks for TLS in a file; `None` where there is none, or the file cannot be read.
#[must_use]
pub fn inspect(path: &Path) -> Option<TlsFile> {
    let key = FileKey::of(path).ok()?;
    let opened = File::open(path).ok()?;
    if opened.metadata().ok()?.len() > FILE_MAX {
        return None;
    }
    let cache = ReadCache::new(opened);
    let file = object::File::parse(&cache).ok()?;
    let mut found = BTreeMap::new();
    // Few files name any of the functions: their strings are searched at once, not symbol by symbol.
    let names_one = |section: &str| {
        let strings =
            file.section_by_name(section).and_then(|section| section.data().ok()).unwrap_or_default();
        ["SSL_", "crypto/tls."].iter().any(|name| memmem::find(strings, name.as_bytes()).is_some())
    };
    let dynamic = names_one(".dynstr").then(|| file.dynamic_symbols());
    let own = names_one(".strtab").then(|| file.symbols());
    for symbol in dynamic.into_iter().flatten().chain(own.into_iter().flatten()) {
        let (Ok(name), address) = (symbol.name(), symbol.address()) else { continue };
        let Some((_, call)) = FUNCTIONS.into_iter().find(|(function, _)| *function == name) else { continue };
        if address != 0 && symbol.is_definition() {
            found.entry(call).or_insert((address, symbol.size()));
        }
    }
    if found.is_empty() {
        found = code::go_functions(&file, &FUNCTIONS);
    }
    let sites: Vec<_> =
        found.into_iter().filter_map(|(call, (address, size))| site(&file, call, address, size)).collect();
    let reads = sites.iter().any(|site| !matches!(site.call, Call::Free));
    reads.then(|| TlsFile { key, path: path.to_owned(), sites })
}

fn site<'a>(
    file: &object::File<'a, &'a ReadCache<File>>,
    call: Call,
    address: u64,
    size: u64,
) -> Option<Site> {
    let entry = file_offset(file, address)?;
    let size = size.min(FUNCTION_MAX);
    let bytes = file.segments().find_map(|segment| segment.data_range(address, size).ok().flatten());
    let code =
        code::Code { bytes: bytes.unwrap_or_default(), x86: file.architecture() == Architecture::X86_64 };
    let is_go = matches!(call, Call::GoRead | Call::GoWrite);
    let into = if is_go { code.behind_go_prologue() } else { 0 };
    Some(Site {
        call,
        entry: entry.checked_add(into)?,
        returns: code.returns().into_iter().filter_map(|at| entry.checked_add(at)).collect(),
    })
}

#[cfg(test)]
mod tests;
