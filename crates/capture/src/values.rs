//! Values of maps: bytes to generated types and back.

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
