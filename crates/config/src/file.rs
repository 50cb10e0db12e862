//! The file's bytes, read so that nothing in its place can hold the reader up.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use crate::yaml::MAX_FILE_BYTES;

/// Reads a file whole.
///
/// # Errors
/// What is no regular file, cannot be read, or is larger than [`MAX_FILE_BYTES`].
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // To open a device can set it going, so it is looked at first; the file may be another by the time it is open, so
    // it is looked at again, and opened so that a FIFO does not wait for a writer.
    regular(&std::fs::metadata(path)?)?;
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    regular(&file.metadata()?)?;
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to know that it is too large.
    let limit = u64::try_from(MAX_FILE_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_FILE_BYTES {
        return Err(io::Error::other(format!("it is larger than {} KiB", MAX_FILE_BYTES >> 10)));
    }
    Ok(bytes)
}

fn regular(found: &Metadata) -> io::Result<()> {
    let kind = found.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(io::Error::other(format!("it is {what}, not a file")))
}
