//! What TLS libraries encrypt and decrypt: the probes of `bpf/tls.h`, at the functions of one file after another. What they
//! see comes out of [`SocketProbe::drain`].

use std::path::Path;

use gatewatch_target::tls::{Call, Site, TlsFile};
use libbpf_rs::{Link, ProgramImpl, UprobeMultiOpts, UprobeOpts};

use crate::{CaptureError, clock, kernel, socket::SocketProbe};

/// A file whose functions are probed, in every process that runs them, now or later; ends when dropped, for which the
/// kernel may take a fifth of a second.
#[derive(Debug)]
pub struct TlsAttachment {
    _links: Vec<Link>,
}

/// In a cookie's low byte: see `enum tls_call_kind`. The rest is when the probe was attached.
const WRITE: u64 = 1;
const EXTENDED: u64 = 2;

type Program<'a> = ProgramImpl<'a, libbpf_rs::Mut>;

/// Offset in the file, cookie.
type Place = (u64, u64);

fn kind(call: Call) -> u64 {
    match call {
        Call::Read | Call::Free | Call::GoRead => 0,
        Call::Write | Call::GoWrite => WRITE,
        Call::ReadExtended => EXTENDED,
        Call::WriteExtended => WRITE | EXTENDED,
    }
}

impl SocketProbe {
    /// Probes the TLS functions of a file. Attach each file once: what passes two probes is told twice.
    ///
    /// # Errors
    /// A kernel before 5.15, or its refusal.
    pub fn attach_tls(&mut self, file: &TlsFile) -> Result<TlsAttachment, CaptureError> {
        if !kernel::has_cookies() {
            return Err(CaptureError::Lacks { what: "tell what is within TLS", needs: "5.15" });
        }
        let since = clock::monotonic() & !0xff;
        let of = |calls: &[Call]| -> Vec<&Site> {
            file.sites.iter().filter(|site| calls.contains(&site.call)).collect()
        };
        let entries = |sites: &[&Site]| -> Vec<Place> {
            sites.iter().map(|site| (site.entry, since | kind(site.call))).collect()
        };
        let returns = |sites: &[&Site]| -> Vec<Place> {
            sites.iter().flat_map(|site| &site.returns).map(|at| (*at, since)).collect()
        };
        let openssl = of(&[Call::Read, Call::Write, Call::ReadExtended, Call::WriteExtended]);
        let (free, go_read, go_write) = (of(&[Call::Free]), of(&[Call::GoRead]), of(&[Call::GoWrite]));
        // A return probe costs a fraction of a probe at a return instruction, which is stepped over.
        let by_return = kernel::return_probes_are_safe();
        let leaves = if by_return { entries(&openssl) } else { returns(&openssl) };

        let progs = &self.skel.progs;
        // What leaves first: a call that was seen to begin must be seen to end.
        let plan: [(&Program<'_>, Vec<Place>, bool); 6] = [
            (&progs.tls_leave, leaves, by_return),
            (&progs.tls_go_read_leave, returns(&go_read), false),
            (&progs.tls_free, entries(&free), false),
            (&progs.tls_enter, entries(&openssl), false),
            (&progs.tls_go_read_enter, entries(&go_read), false),
            (&progs.tls_go_write, entries(&go_write), false),
        ];
        let mut links = Vec::new();
        for (program, places, is_return) in plan {
            attach(program, &file.path, &places, is_return, &mut links)?;
        }
        self.set_tls_attached();
        Ok(TlsAttachment { _links: links })
    }
}

fn attach(
    program: &Program<'_>,
    path: &Path,
    places: &[Place],
    retprobe: bool,
    links: &mut Vec<Link>,
) -> Result<(), CaptureError> {
    let refused = |source| CaptureError::Attach { path: path.to_owned(), source };
    let offset = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
    if places.is_empty() {
        return Ok(());
    }
    if kernel::has_uprobe_multi() {
        let options = UprobeMultiOpts {
            offsets: places.iter().map(|(place, _)| offset(*place)).collect(),
            cookies: places.iter().map(|(_, cookie)| *cookie).collect(),
            retprobe,
            ..Default::default()
        };
        links.push(program.attach_uprobe_multi_with_opts(-1, path, "", options).map_err(refused)?);
        return Ok(());
    }
    for (place, cookie) in places {
        let options = UprobeOpts { cookie: *cookie, retprobe, ..Default::default() };
        links.push(program.attach_uprobe_with_opts(-1, path, offset(*place), options).map_err(refused)?);
    }
    Ok(())
}
