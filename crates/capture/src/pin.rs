//! Maps and links kept in a BPF file system, so that counting outlives the agent.
//!
//! A directory holds the maps of one object under their names, and its links as `link_…`. A later agent takes both
//! over, if the layout of what is in the maps is the one it knows.

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use libbpf_rs::{Link, MapCore, MapFlags, MapHandle, Object, OpenObject};

use crate::{CaptureError, attach};

const LINK: &str = "link_";
/// `BPF_FS_MAGIC`
const BPF_FS: u32 = 0xcafe_4a11;

/// A directory of pins.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    directory: PathBuf,
}

fn os_error(action: &'static str) -> impl FnOnce(io::Error) -> CaptureError {
    move |source| CaptureError::Os { action, source }
}

impl Pins {
    /// Makes the directory, readable by its owner only.
    pub(crate) fn open(directory: PathBuf) -> Result<Self, CaptureError> {
        let root = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
        let told = rustix::fs::statfs(root)
            .map_err(|error| os_error("look at the directory for pins")(error.into()))?;
        if u32::try_from(told.f_type) != Ok(BPF_FS) {
            return Err(CaptureError::NoBpfFs { path: directory });
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&directory)
            .map_err(|source| CaptureError::CannotPin { path: directory.clone(), source })?;
        Ok(Self { directory })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.directory.join(name).exists()
    }

    pub(crate) fn map(&self, name: &str) -> Option<MapHandle> {
        MapHandle::from_pinned_path(self.directory.join(name)).ok()
    }

    /// Lets the object use the maps that are pinned, where they are of the shape it wants; those of another shape are
    /// unpinned. The names of the maps that were kept.
    pub(crate) fn reuse(&self, object: &mut OpenObject) -> Result<Vec<String>, CaptureError> {
        let mut kept = Vec::new();
        for mut map in object.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if is_private(&name) {
                continue;
            }
            let path = self.directory.join(&name);
            let Ok(pinned) = MapHandle::from_pinned_path(&path) else { continue };
            let same = pinned.map_type() == map.map_type()
                && pinned.key_size() == map.key_size()
                && pinned.value_size() == map.value_size()
                && pinned.max_entries() == map.max_entries();
            if same {
                map.reuse_pinned_map(&path)
                    .map_err(|source| CaptureError::Map { action: "take a pinned map over", source })?;
                kept.push(name);
            } else {
                fs::remove_file(&path).map_err(os_error("unpin a map of another shape"))?;
            }
        }
        Ok(kept)
    }

    /// Pins the maps that are not pinned yet.
    pub(crate) fn keep(&self, object: &mut Object) -> Result<(), CaptureError> {
        for mut map in object.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            let path = self.directory.join(&name);
            if !is_private(&name) && !path.exists() {
                map.pin(&path).map_err(|source| CaptureError::Map { action: "pin a map", source })?;
            }
        }
        Ok(())
    }

    /// The pinned link of this name.
    pub(crate) fn link(&self, name: &str) -> Option<Link> {
        Link::open(self.directory.join(format!("{LINK}{name}"))).ok()
    }

    /// The names of the pinned links.
    pub(crate) fn links(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.strip_prefix(LINK).map(str::to_owned))
            .collect()
    }

    pub(crate) fn keep_link(&self, name: &str, link: &mut Link) -> Result<(), CaptureError> {
        let path = self.directory.join(format!("{LINK}{name}"));
        link.pin(&path).map_err(|source| CaptureError::Map { action: "pin a link", source })
    }

    /// Removes a link's pin; gone already is as good.
    pub(crate) fn drop_link(&self, name: &str) {
        let _gone = fs::remove_file(self.directory.join(format!("{LINK}{name}")));
    }

    /// Removes everything; the kernel frees what nobody else holds.
    pub(crate) fn clear(&self) -> io::Result<()> {
        remove(&self.directory)?;
        if let Some(instance) = self.directory.parent() {
            // It stays as long as another object has pins in it.
            let _last = fs::remove_dir(instance);
        }
        Ok(())
    }
}

/// libbpf's own sections belong to one load of the programs.
fn is_private(name: &str) -> bool {
    name.starts_with('.') || name.contains(".rodata") || name.contains(".bss") || name.contains(".data")
}

/// Removes a directory of pins; links first, so that nothing counts into maps that are on their way out.
fn remove(directory: &Path) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(directory)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(|entry| !entry.file_name().to_string_lossy().starts_with(LINK));
    for entry in entries {
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(directory)
}

/// What is pinned for one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its directory.
    pub directory: PathBuf,
    /// Links at interfaces that are still there, and at tracepoints.
    pub live_links: usize,
    /// It has attachments at interfaces, and none of those interfaces is there any longer: its network namespace is
    /// gone, and nobody will take it over.
    pub abandoned: bool,
}

/// Everything pinned under `root`; nothing where there is no such directory.
///
/// # Errors
/// When a directory cannot be read.
pub fn instances(root: &Path) -> io::Result<Vec<Instance>> {
    let entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut instances = Vec::new();
    for entry in entries {
        let entry = entry?;
        // What others put here is not ours to touch.
        if !entry.file_name().to_string_lossy().starts_with("net-") {
            continue;
        }
        let directory = entry.path();
        let (mut live_links, mut at_interfaces, mut gone) = (0, 0, 0);
        for object in fs::read_dir(&directory)? {
            let pins = Pins { directory: object?.path() };
            for link in pins.links().iter().filter_map(|name| pins.link(name)) {
                let live = crate::network::is_live(&link);
                live_links += usize::from(live);
                at_interfaces += usize::from(attach::is_at_interface(&link));
                gone += usize::from(!live);
            }
        }
        let abandoned = at_interfaces > 0 && gone == at_interfaces;
        let instance = Instance { directory, live_links, abandoned };
        instances.push(instance);
    }
    Ok(instances)
}

/// Detaches and removes everything pinned for one network namespace.
///
/// # Errors
/// When something cannot be removed.
pub fn unload(instance: &Instance) -> io::Result<()> {
    remove(&instance.directory)
}

/// Reads one value of a pinned array map.
pub(crate) fn first_value<T: crate::values::Plain>(map: &MapHandle) -> Option<T> {
    crate::values::value(&map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok()??)
}
