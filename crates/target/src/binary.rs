//! What a gateway binary is: version, build, functions, and the layouts it may have.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::linux::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use object::{BinaryFormat, Object, ObjectSection, ObjectSegment, ObjectSymbol, ReadCache};
use regex::bytes::Regex;

use crate::{dwarf, layout::Layout, table};

/// Functions the probes stand at; a symbol table of thousands is not kept.
const FUNCTIONS: [&str; 2] = ["ngx_http_process_request", "ngx_http_free_request"];

/// Pointers to nginx's own counters (with `stub_status` built in).
const COUNTERS: [&str; 3] = ["ngx_stat_requests", "ngx_stat_reading", "ngx_stat_writing"];

/// A section larger than this is not searched for strings.
const STRINGS_MAX: u64 = 64 << 20;

/// A binary larger than this is no gateway's.
const BINARY_MAX: u64 = 512 << 20;

/// A separate debug file larger than this is not read.
const DEBUG_FILE_MAX: u64 = 1 << 30;

/// One file, however it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey {
    /// The device it is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
}

impl FileKey {
    /// Follows links: `/proc/PID/exe` names the file that runs.
    ///
    /// # Errors
    /// When the file cannot be seen.
    pub fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        Ok(Self { device: meta.st_dev(), inode: meta.st_ino() })
    }
}

/// Where a layout came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// DWARF in the binary.
    Dwarf,
    /// DWARF in a separate file.
    DebugFile(PathBuf),
    /// The table, for this version and signature (which a distributor's patch may leave as they are and still
    /// move members).
    Table(&'static table::Row),
    /// The table, for a build that is near this one: to be proven with more care.
    Near(&'static table::Row),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dwarf => f.write_str("debug information in the binary"),
            Self::DebugFile(path) => write!(f, "debug information in {}", path.display()),
            Self::Table(row) => write!(f, "table row {} ({})", row.version, row.shipped_by),
            Self::Near(row) => write!(f, "the nearest table row, {} ({})", row.version, row.shipped_by),
        }
    }
}

/// A layout that may fit the binary; live requests decide.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The offsets.
    pub layout: Layout,
    /// Who says so.
    pub source: Source,
}

/// A gateway binary.
#[derive(Clone, Debug)]
pub struct Binary {
    /// The file.
    pub key: FileKey,
    /// "nginx" or "openresty".
    pub product: String,
    /// nginx's version ("1.22.1"), also for products built on it.
    pub version: String,
    /// nginx's module signature: encodes the build's flags.
    pub signature: String,
    /// Offset in the file of each known function found.
    pub functions: BTreeMap<&'static str, u64>,
    /// Address (before relocation) of each pointer to a counter found.
    pub counters: BTreeMap<&'static str, u64>,
    /// Loaded at an address chosen at start.
    pub position_independent: bool,
    /// Layouts to try, best first.
    pub candidates: Vec<Candidate>,
    /// What could not be read on the way, in words.
    pub remarks: Vec<String>,
}

/// Why a file cannot be watched as a gateway.
#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    /// It cannot be opened or read.
    #[error(
        "{path} cannot be read: {source}. Watching another user's process needs CAP_SYS_PTRACE, and a shared process namespace in a pod"
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not an ELF file, or a damaged one.
    #[error(
        "{path} is not a readable ELF program ({reason}): a script or another program that bears a gateway's name is passed over"
    )]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// An ELF file, but nginx's marks are not in it.
    #[error("{path} is not nginx: neither its version string nor its module signature is in the file")]
    NotNginx {
        /// The file.
        path: PathBuf,
    },
    /// The functions to probe have no symbol.
    #[error(
        "{path} (nginx {version}) has no symbol for {missing}: it was stripped of them. Install its debug symbols (a file under {debug_dir}/.build-id), or use a build that keeps dynamic symbols, as nginx does by default"
    )]
    NoFunction {
        /// The file.
        path: PathBuf,
        /// nginx's version.
        version: String,
        /// The function.
        missing: &'static str,
        /// Where debug files are looked for.
        debug_dir: PathBuf,
    },
    /// No layout is known.
    #[error(
        "{path} is nginx {version} with module signature {signature}, of which no layout is known. Install its debug symbols (a file under {debug_dir}/.build-id), or add a table row (docs/layouts.md)"
    )]
    NoLayout {
        /// The file.
        path: PathBuf,
        /// nginx's version.
        version: String,
        /// Its module signature.
        signature: String,
        /// Where debug files are looked for.
        debug_dir: PathBuf,
    },
}

impl Binary {
    /// Reads what can be known of a binary without running it.
    ///
    /// `path` is best `/proc/PID/exe`, which names the file that runs even when it was replaced. `debug_dir` is
    /// where separate debug files stand, by build id (`/usr/lib/debug`).
    ///
    /// # Errors
    /// Why the file cannot be watched.
    pub fn inspect(path: &Path, debug_dir: &Path) -> Result<Self, BinaryError> {
        let unreadable = |source| BinaryError::Unreadable { path: path.to_owned(), source };
        let not_elf =
            |error: object::Error| BinaryError::NotElf { path: path.to_owned(), reason: error.to_string() };
        let key = FileKey::of(path).map_err(unreadable)?;
        let opened = File::open(path).map_err(unreadable)?;
        let size = opened.metadata().map_err(unreadable)?.len();
        if size > BINARY_MAX {
            let reason = format!("it is {size} bytes large");
            return Err(BinaryError::NotElf { path: path.to_owned(), reason });
        }
        let cache = ReadCache::new(opened);
        let file = object::File::parse(&cache).map_err(not_elf)?;
        if file.format() != BinaryFormat::Elf {
            return Err(BinaryError::NotElf {
                path: path.to_owned(),
                reason: format!("{:?}", file.format()),
            });
        }
        let marks = Marks::find(&file).ok_or_else(|| BinaryError::NotNginx { path: path.to_owned() })?;

        let mut found = Symbols::default();
        found.read(&file);
        let mut remarks = Vec::new();
        let mut candidates = Vec::new();
        match dwarf::layout(&file) {
            Ok(Some(layout)) => candidates.push(Candidate { layout, source: Source::Dwarf }),
            Ok(None) => {}
            Err(error) => remarks.push(format!("its debug information is damaged: {error}")),
        }
        // In a container the symbols are installed beside the gateway, not beside us.
        let inside = path
            .parent()
            .map(|process| process.join("root").join(debug_dir.strip_prefix("/").unwrap_or(debug_dir)));
        let found_at = [Some(debug_dir.to_owned()), inside]
            .into_iter()
            .flatten()
            .find_map(|dir| debug_file(&file, &dir));
        if let Some(debug) = found_at {
            match read_debug_file(&debug, &mut found) {
                Ok(Some(layout)) => candidates.push(Candidate { layout, source: Source::DebugFile(debug) }),
                Ok(None) => remarks.push(format!("{} does not describe nginx's structures", debug.display())),
                Err(reason) => remarks.push(format!("{} cannot be used: {reason}", debug.display())),
            }
        }
        // The flags move more members than a few releases do: rows of the same signature first.
        let mut rows: Vec<_> = table::nearest(&marks.version).collect();
        rows.sort_by_key(|row| row.signature != marks.signature);
        candidates.extend(rows.into_iter().map(|row| {
            let same = row.version == marks.version && row.signature == marks.signature;
            Candidate {
                layout: *row.layout,
                source: if same { Source::Table(row) } else { Source::Near(row) },
            }
        }));
        let mut seen = Vec::new();
        candidates.retain(|candidate| {
            let new = !seen.contains(&candidate.layout);
            seen.push(candidate.layout);
            new
        });

        let functions = found.file_offsets(&file);
        if let Some(missing) = FUNCTIONS.into_iter().find(|name| !functions.contains_key(name)) {
            return Err(BinaryError::NoFunction {
                path: path.to_owned(),
                version: marks.version,
                missing,
                debug_dir: debug_dir.to_owned(),
            });
        }
        if candidates.is_empty() {
            return Err(BinaryError::NoLayout {
                path: path.to_owned(),
                version: marks.version,
                signature: marks.signature,
                debug_dir: debug_dir.to_owned(),
            });
        }
        Ok(Self {
            key,
            product: marks.product,
            version: marks.version,
            signature: marks.signature,
            functions,
            counters: found.counters,
            position_independent: file.kind() == object::ObjectKind::Dynamic,
            candidates,
            remarks,
        })
    }
}

struct Marks {
    product: String,
    version: String,
    signature: String,
}

impl Marks {
    fn find<'a>(file: &object::File<'a, &'a ReadCache<File>>) -> Option<Self> {
        // The patterns are constants; a test compiles them.
        static VERSION: LazyLock<Option<Regex>> = LazyLock::new(|| {
            Regex::new(r"\b(nginx|openresty|tengine|freenginx|angie)/(\d{1,3}\.\d{1,3}\.\d{1,3})").ok()
        });
        static SIGNATURE: LazyLock<Option<Regex>> =
            LazyLock::new(|| Regex::new(r"\b\d,\d,\d,[01]{24,48}\b").ok());
        let (mut version, mut signature) = (None, None);
        let mut search = |data: &[u8]| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            if version.is_none() {
                version = VERSION
                    .as_ref()
                    .and_then(|r| r.captures(data))
                    .and_then(|found| Some((text(found.get(1)?.as_bytes()), text(found.get(2)?.as_bytes()))));
            }
            if signature.is_none() {
                signature = SIGNATURE.as_ref().and_then(|r| r.find(data)).map(|found| text(found.as_bytes()));
            }
        };
        let strings =
            |kind| matches!(kind, object::SectionKind::ReadOnlyData | object::SectionKind::ReadOnlyString);
        for section in file.sections().filter(|s| strings(s.kind()) && s.size() <= STRINGS_MAX) {
            search(section.data().unwrap_or_default());
        }
        if file.sections().next().is_none() {
            // Section headers can be stripped away; segments cannot.
            for segment in file.segments().filter(|s| s.file_range().1 <= STRINGS_MAX) {
                search(segment.data().unwrap_or_default());
            }
        }
        let (product, version) = version?;
        Some(Self { product, version, signature: signature? })
    }
}

#[derive(Default)]
struct Symbols {
    /// Addresses, as the file is linked.
    functions: BTreeMap<&'static str, u64>,
    counters: BTreeMap<&'static str, u64>,
}

impl Symbols {
    fn read<'a>(&mut self, file: &impl Object<'a>) {
        for symbol in file.dynamic_symbols().chain(file.symbols()) {
            let (Ok(name), address) = (symbol.name(), symbol.address()) else {
                continue;
            };
            if address == 0 {
                continue;
            }
            if let Some(known) = FUNCTIONS.into_iter().find(|known| *known == name) {
                self.functions.entry(known).or_insert(address);
            } else if let Some(known) = COUNTERS.into_iter().find(|known| *known == name) {
                self.counters.entry(known).or_insert(address);
            }
        }
    }

    /// Uprobes stand at offsets in the file, not at addresses.
    fn file_offsets<'a>(&self, file: &impl Object<'a>) -> BTreeMap<&'static str, u64> {
        self.functions
            .iter()
            .filter_map(|(name, address)| Some((*name, file_offset(file, *address)?)))
            .collect()
    }
}

/// Where what is loaded at an address stands in the file.
pub(crate) fn file_offset<'a>(file: &impl Object<'a>, address: u64) -> Option<u64> {
    file.segments().find_map(|segment| {
        let inside = address.checked_sub(segment.address())?;
        let (offset, size) = segment.file_range();
        // A damaged file may place a segment anywhere.
        if inside < size { offset.checked_add(inside) } else { None }
    })
}

fn debug_file<'a>(file: &impl Object<'a>, debug_dir: &Path) -> Option<PathBuf> {
    let id = file.build_id().ok()??;
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (first, rest) = id.split_first()?;
    let path = debug_dir.join(".build-id").join(hex(&[*first])).join(hex(rest) + ".debug");
    path.exists().then_some(path)
}

fn read_debug_file(path: &Path, symbols: &mut Symbols) -> Result<Option<Layout>, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > DEBUG_FILE_MAX {
        return Err(format!("it is {size} bytes large"));
    }
    let cache = ReadCache::new(File::open(path).map_err(|error| error.to_string())?);
    let file = object::File::parse(&cache).map_err(|error| error.to_string())?;
    symbols.read(&file);
    dwarf::layout(&file).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests;
