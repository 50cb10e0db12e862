//! Values of maps: bytes to generated types and back.

use std::os::fd::AsRawFd as _;

use libbpf_rs::{MapCore, MapFlags};

use crate::CaptureError;

/// A type the kernel programs declare, made of integers without padding: any bytes are a value of it, and all its
/// bytes are initialised.
///
/// # Safety
/// Only for such types.
pub(crate) unsafe trait Plain: Copy + Default {}

macro_rules! plain {
    ($($name:ty),* $(,)?) => { $(
        // SAFETY: generated from C structures of integers whose padding is declared as members.
        unsafe impl $crate::values::Plain for $name {}
    )* };
}
pub(crate) use plain;

plain!(u32, u64);

/// The value `bytes` begin with; `None` where they are too short.
pub(crate) fn value<T: Plain>(bytes: &[u8]) -> Option<T> {
    let bytes = bytes.get(..size_of::<T>())?;
    // SAFETY: the length was checked; `T` is `Plain`, and `read_unaligned` asks for no alignment.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

pub(crate) fn bytes<T: Plain>(value: &T) -> &[u8] {
    // SAFETY: `T` is `Plain`: all its bytes are initialised.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

pub(crate) fn lookup<T: Plain>(map: &impl MapCore, key: u32) -> Option<T> {
    value(&map.lookup(&key.to_ne_bytes(), MapFlags::ANY).ok()??)
}

/// One for each CPU.
pub(crate) fn lookup_percpu<T: Plain>(map: &impl MapCore, key: u32) -> Vec<T> {
    let rows = map.lookup_percpu(&key.to_ne_bytes(), MapFlags::ANY).ok().flatten();
    rows.unwrap_or_default().iter().filter_map(|row| value(row)).collect()
}

/// Hands every entry of a hash map to `sink`, in batches. libbpf-rs' own iterator takes a batch that is not full for the
/// last one; the kernel gives such whenever the next bucket does not fit.
pub(crate) fn walk<K: Plain, V: Plain>(
    map: &impl MapCore,
    mut sink: impl FnMut(&K, &V),
) -> Result<(), std::io::Error> {
    let sizes = [map.key_size(), map.value_size()].map(|size| usize::try_from(size).unwrap_or(0));
    if sizes != [size_of::<K>(), size_of::<V>()] {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    const ENTRIES: usize = 4096;
    /// Of the largest table; a bucket holds one or two on average.
    const ENTRIES_MAX: usize = 1 << 22;
    let mut entries = ENTRIES;
    let mut keys = vec![K::default(); entries];
    let mut found = vec![V::default(); entries];
    // The kernel's place in the table: opaque, and no larger than this.
    let (mut place, mut next) = ([0u64; 16], [0u64; 16]);
    let mut begun = false;
    loop {
        let mut count = u32::try_from(entries).unwrap_or(u32::MAX);
        let options = libbpf_rs::libbpf_sys::bpf_map_batch_opts {
            sz: size_of::<libbpf_rs::libbpf_sys::bpf_map_batch_opts>().try_into().unwrap_or_default(),
            ..Default::default()
        };
        // SAFETY: the descriptor is open; keys and values have room for `count` entries of the map's sizes, which
        // were compared above; the places are larger than the kernel's.
        let failed = unsafe {
            libbpf_rs::libbpf_sys::bpf_map_lookup_batch(
                map.as_fd().as_raw_fd(),
                if begun { place.as_mut_ptr().cast() } else { std::ptr::null_mut() },
                next.as_mut_ptr().cast(),
                keys.as_mut_ptr().cast(),
                found.as_mut_ptr().cast(),
                &raw mut count,
                &raw const options,
            )
        };
        let error = (failed != 0).then(|| std::io::Error::from_raw_os_error(-failed));
        match error.as_ref().and_then(std::io::Error::raw_os_error) {
            // ENOENT: the last batch; what it holds counts.
            None | Some(2) => {}
            // EINTR, EAGAIN, EBUSY: once more.
            Some(4 | 11 | 16) => continue,
            // ENOSPC: one bucket holds more than there is room for.
            Some(28) if entries < ENTRIES_MAX => {
                entries *= 2;
                keys.resize(entries, K::default());
                found.resize(entries, V::default());
                continue;
            }
            Some(_) => return Err(error.unwrap_or_else(|| std::io::ErrorKind::Other.into())),
        }
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        keys.iter().zip(&found).take(count).for_each(|(key, value)| sink(key, value));
        if error.is_some() {
            return Ok(());
        }
        place = next;
        begun = true;
    }
}

pub(crate) fn map_error(action: &'static str) -> impl FnOnce(libbpf_rs::Error) -> CaptureError {
    move |source| CaptureError::Map { action, source }
}

/// What a map holds in kernel memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapMemory {
    /// Its name.
    pub name: String,
    /// Most entries it can have; of a ring, its bytes.
    pub max_entries: u32,
    /// Bytes of kernel memory, as the kernel accounts for them.
    pub bytes: u64,
}

/// The memory of one map; `None` where the kernel does not tell.
pub(crate) fn memory(map: &impl MapCore) -> Option<MapMemory> {
    let told = map.query_fdinfo().ok()?;
    Some(MapMemory {
        name: map.name().to_string_lossy().into_owned(),
        max_entries: told.max_entries,
        bytes: told.memlock?,
    })
}
