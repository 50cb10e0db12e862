//! The configuration's file is looked at while we run, by a thread of its own: a file system may keep its reader waiting.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use gatewatch_config::{Config, read_file};

use super::prepared::Prepared;
use crate::source::Source;

/// How often the file is looked at. Looked at, not listened to: notices do not come from every file system, nor through
/// every mount.
const LOOK: Duration = Duration::from_millis(500);
/// How long a content must stand still before it is believed: an editor may be in the middle of writing it.
const SETTLE: Duration = Duration::from_millis(50);
/// How often it is read again in the hope that it stands still, at one look.
const SETTLE_READS: u32 = 20;
/// For how long after a change the file is read at each look: file times may be as coarse as two seconds.
const COARSE: Duration = Duration::from_secs(3);
/// Each so many looks it is read though its times say that nothing has happened.
const DISTRUST: u32 = 20;

/// What the hot loop is told.
pub enum News {
    /// A new configuration, to be applied.
    New(Box<Prepared>),
    /// The file is no configuration: what is wrong with it, a line each.
    Refused(Vec<String>),
    /// The same once more, because somebody asked: not another refusal.
    StillRefused(Vec<String>),
    /// Another content, or somebody asked, and the configuration is the one in use.
    Unchanged,
}

/// Asks for a look at once.
#[derive(Clone)]
pub struct Ask(SyncSender<()>);

impl Ask {
    /// Never waits. `false`: nobody looks.
    pub fn now(&self) -> bool {
        // Full: it is asked already.
        !matches!(self.0.try_send(()), Err(mpsc::TrySendError::Disconnected(())))
    }
}

/// Begins to look at the source's file, whose bytes were `known` when `config` was made of it. Without a file nobody
/// looks.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(
    source: Source,
    known: Option<Vec<u8>>,
    config: Arc<Config>,
) -> io::Result<(Ask, Receiver<News>)> {
    let (ask, asked) = mpsc::sync_channel(1);
    let (tell, news) = mpsc::channel();
    if let (Some(path), Some(known)) = (source.file.clone(), known) {
        thread::Builder::new().name("config".to_owned()).spawn(move || {
            let mut eye = Eye::new(path, Content::Bytes(known));
            let mut reader = Reader { source, config, refused: None };
            loop {
                let asked = match asked.recv_timeout(LOOK) {
                    Ok(()) => true,
                    Err(RecvTimeoutError::Timeout) => false,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
                let news = match eye.look(asked) {
                    Some(content) => Some(reader.read(content)),
                    None if asked => Some(reader.again()),
                    None => None,
                };
                if news.is_some_and(|news| tell.send(news).is_err()) {
                    return;
                }
            }
        })?;
    }
    Ok((Ask(ask), news))
}

/// What stands in the file's place.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Bytes(Vec<u8>),
    /// Nothing, for now.
    Gone,
    /// Nothing that can be read; why.
    Unreadable(String),
}

impl Content {
    fn of(path: &Path) -> Self {
        match read_file(path) {
            Ok(bytes) => Self::Bytes(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Gone,
            Err(error) => Self::Unreadable(error.to_string()),
        }
    }
}

/// What tells without reading that a file is another, or was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Of what a path leads to, through all links. `None`: nothing.
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Notices that the content is another.
struct Eye {
    path: PathBuf,
    stamp: Option<Stamp>,
    /// When the stamp was another the last time.
    stamped: Instant,
    looks: u32,
    known: Content,
    /// It was not there at the last look: while files are exchanged there may be none for a moment.
    missing: bool,
}

impl Eye {
    fn new(path: PathBuf, known: Content) -> Self {
        Self { path, stamp: None, stamped: Instant::now(), looks: 0, known, missing: false }
    }

    /// The content, if it is another than the last told and stands still.
    fn look(&mut self, asked: bool) -> Option<&Content> {
        self.looks = self.looks.wrapping_add(1);
        let stamp = Stamp::of(&self.path);
        if stamp != self.stamp {
            (self.stamp, self.stamped) = (stamp, Instant::now());
        }
        let may_differ = self.stamped.elapsed() < COARSE || self.looks.is_multiple_of(DISTRUST);
        if !asked && !may_differ && !self.missing {
            return None;
        }
        let content = self.settled()?;
        let missing = content == Content::Gone;
        if content == self.known || (missing && !std::mem::replace(&mut self.missing, true)) {
            self.missing = missing;
            return None;
        }
        self.missing = missing;
        self.known = content;
        Some(&self.known)
    }

    /// The content, once two readings agree.
    fn settled(&self) -> Option<Content> {
        let mut content = Content::of(&self.path);
        for _ in 0..SETTLE_READS {
            if content == self.known {
                return Some(content);
            }
            thread::sleep(SETTLE);
            let again = Content::of(&self.path);
            if again == content {
                return Some(content);
            }
            content = again;
        }
        None
    }
}

/// Makes configurations of contents.
struct Reader {
    source: Source,
    /// The one in use, as soon as the hot loop has turned.
    config: Arc<Config>,
    /// Why the last content was refused.
    refused: Option<Vec<String>>,
}

impl Reader {
    fn read(&mut self, content: &Content) -> News {
        match self.prepare(content) {
            Ok(None) => {
                self.refused = None;
                News::Unchanged
            }
            Ok(Some(prepared)) => {
                self.refused = None;
                self.config = Arc::clone(&prepared.config);
                News::New(Box::new(prepared))
            }
            Err(problems) => {
                self.refused = Some(problems.clone());
                News::Refused(problems)
            }
        }
    }

    fn again(&self) -> News {
        match &self.refused {
            Some(problems) => News::StillRefused(problems.clone()),
            None => News::Unchanged,
        }
    }

    fn prepare(&self, content: &Content) -> Result<Option<Prepared>, Vec<String>> {
        let name = self.source.file.as_deref().unwrap_or(Path::new("")).display();
        let bytes = match content {
            Content::Bytes(bytes) => bytes,
            Content::Gone => return Err(vec![format!("{name} is gone")]),
            Content::Unreadable(why) => return Err(vec![format!("cannot read {name}: {why}")]),
        };
        // Whoever writes a file begins with an empty one; as a configuration it would mean all defaults.
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Err(vec![format!("{name} is empty: write `{{}}` for a configuration of defaults only")]);
        }
        let lines = |error: String| error.lines().map(str::to_owned).collect::<Vec<_>>();
        let config = self.source.configuration(Some(bytes)).map_err(|error| lines(error.to_string()))?;
        if config == *self.config {
            return Ok(None);
        }
        let prepared = Prepared::new(Arc::new(config), &self.config);
        prepared.map(Some).map_err(|error| lines(format!("{error:#}")))
    }
}

#[cfg(test)]
mod tests;
