//! One binary being watched, and whether its layout is true.

use std::{fs::File, os::fd::AsRawFd, path::PathBuf, sync::Arc};

use gatewatch_capture::nginx::Attachment;
use gatewatch_decode::{
    nginx::Undecodable,
    proof::{Verdict, judge_parsed},
};
use gatewatch_event::request::Request;
use gatewatch_target::binary::{Binary, Candidate, Source};

/// Records held back while a layout is being proven; beyond, they are lost and counted.
const HELD_MAX: usize = 10_000;
/// Requests that must agree: for a layout that names this very build, and for one that was guessed.
const AGREEING: (u32, u32) = (1, 5);
/// Of a proven layout's records, how many may disagree before the proof is taken back: the first so many, and
/// then one in so many.
const DISAGREEING: (u64, u64) = (100, 1000);

/// What becomes of a record.
#[derive(Debug)]
pub enum Outcome {
    /// Report it.
    Report,
    /// It is held back until the layout is proven.
    Held,
    /// It is lost: there was no room to hold it.
    NoRoom,
    /// The layout is proven by it: report what was held, this one included.
    Proven(Vec<Vec<u8>>),
    /// The layout is refuted: so many records are lost with it; the next candidate, if any, is to be set.
    Refuted {
        /// Records that were held, and this one.
        lost: u64,
        /// What could not be.
        why: &'static str,
    },
    /// The layout was refuted before and there is no other: lost.
    NoLayout,
    /// Its layout is proven, and still it cannot be: lost.
    Implausible,
}

#[derive(Debug)]
enum State {
    Proving { agreed: u32, held: Vec<Vec<u8>> },
    Proven { judged: u64, disagreed: u64 },
    Refused,
}

/// A binary being probed.
#[derive(Debug)]
pub struct Watched {
    /// What it is.
    pub binary: Arc<Binary>,
    /// Its file, held open: the processes that run it may come and go.
    file: File,
    /// Its probes; `None`: they are being ended, and its last records read.
    attachment: Option<Attachment>,
    candidate: usize,
    state: State,
}

impl State {
    const BEGIN: Self = Self::Proving { agreed: 0, held: Vec::new() };
}

/// A path that leads to an open file, whatever has become of its name.
pub fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

impl Watched {
    /// Begins with the first candidate.
    pub fn new(binary: Arc<Binary>, file: File, attachment: Attachment) -> Self {
        Self { binary, file, attachment: Some(attachment), candidate: 0, state: State::BEGIN }
    }

    /// Begins anew with other candidates for the same file.
    pub fn retry(&mut self, binary: Arc<Binary>) {
        (self.binary, self.candidate, self.state) = (binary, 0, State::BEGIN);
    }

    /// There is no layout that fits.
    pub fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused)
    }

    /// Its file and its probes.
    pub fn attachment(&mut self) -> Option<(PathBuf, &mut Attachment)> {
        let path = path_of(&self.file);
        self.attachment.as_mut().map(|attachment| (path, attachment))
    }

    /// Its probes, to be ended; records of it may still come.
    pub fn detach(&mut self) -> Option<Attachment> {
        self.attachment.take()
    }

    /// Its probes have ended or are about to.
    pub fn is_detached(&self) -> bool {
        self.attachment.is_none()
    }

    /// Records that wait for the proof.
    pub fn held(&self) -> u64 {
        match &self.state {
            State::Proving { held, .. } => u64::try_from(held.len()).unwrap_or(0),
            State::Proven { .. } | State::Refused => 0,
        }
    }

    /// The layout in use.
    pub fn candidate(&self) -> Option<&Candidate> {
        match self.state {
            State::Proving { .. } | State::Proven { .. } => self.binary.candidates.get(self.candidate),
            State::Refused => None,
        }
    }

    /// Requests are reported.
    pub fn is_proven(&self) -> bool {
        matches!(self.state, State::Proven { .. })
    }

    /// Where the layout came from, for people.
    pub fn describe(&self) -> String {
        self.candidate().map_or_else(|| "none that fits".to_owned(), |candidate| candidate.source.to_string())
    }

    /// Judges a record and what was read in it; `now_ns` is in nanoseconds since 1970.
    pub fn judge(&mut self, bytes: &[u8], parsed: &Result<Request<'_>, Undecodable>, now_ns: u64) -> Outcome {
        match &mut self.state {
            State::Refused => Outcome::NoLayout,
            State::Proven { judged, disagreed } => {
                *judged += 1;
                let Verdict::Disagrees(why) = judge_parsed(bytes, parsed, now_ns) else {
                    return Outcome::Report;
                };
                *disagreed += 1;
                if *disagreed > DISAGREEING.0 && *disagreed > *judged / DISAGREEING.1 {
                    return self.refute(why, 1);
                }
                Outcome::Implausible
            }
            State::Proving { agreed, held } => {
                let verdict = judge_parsed(bytes, parsed, now_ns);
                if let Verdict::Disagrees(why) = verdict {
                    let lost = u64::try_from(held.len()).unwrap_or(0) + 1;
                    return self.refute(why, lost);
                }
                if held.len() >= HELD_MAX {
                    return Outcome::NoRoom;
                }
                held.push(bytes.to_vec());
                if verdict != Verdict::Agrees {
                    return Outcome::Held;
                }
                *agreed += 1;
                let source = self.binary.candidates.get(self.candidate).map(|candidate| &candidate.source);
                let needed = if matches!(source, Some(Source::Near(_))) { AGREEING.1 } else { AGREEING.0 };
                if *agreed < needed {
                    return Outcome::Held;
                }
                let held = std::mem::take(held);
                self.state = State::Proven { judged: 0, disagreed: 0 };
                Outcome::Proven(held)
            }
        }
    }

    fn refute(&mut self, why: &'static str, lost: u64) -> Outcome {
        self.candidate += 1;
        self.state = if self.candidate < self.binary.candidates.len() {
            State::Proving { agreed: 0, held: Vec::new() }
        } else {
            State::Refused
        };
        Outcome::Refuted { lost, why }
    }
}
