//! Where the Lua module runs each phase: functions of `ngx_http_lua_module`, in the gateway's binary or beside it.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use object::{Object, ObjectSymbol, ReadCache};

use crate::{binary::file_offset, process::ProcRoot};

/// Phase (by its index in the event's list), function, which of its arguments is the request.
///
/// The handlers of rewrite and access are entered anew when a phase that waited goes on; content goes on in
/// `ngx_http_lua_wev_handler`, or after a sleep in `ngx_http_lua_run_thread` alone, which all of them run.
const FUNCTIONS: [(u8, &str, u8); 11] = [
    (0, "ngx_http_lua_server_rewrite_handler", 1),
    (0, "ngx_http_lua_rewrite_handler", 1),
    (1, "ngx_http_lua_access_handler", 1),
    (2, "ngx_http_lua_content_handler", 1),
    (2, "ngx_http_lua_wev_handler", 1),
    (3, "ngx_http_lua_balancer_handler_inline", 1),
    (3, "ngx_http_lua_balancer_handler_file", 1),
    (4, "ngx_http_lua_header_filter_by_chunk", 2),
    (5, "ngx_http_lua_body_filter_by_chunk", 2),
    (6, "ngx_http_lua_log_handler", 1),
    (7, "ngx_http_lua_run_thread", 2),
];

/// One function that runs a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// The phase's index.
    pub phase: u8,
    /// The argument that is the request: 1 or 2.
    pub argument: u8,
    /// Where it stands in the file, in bytes.
    pub offset: u64,
}

/// The file that holds the Lua module of a process, and where its phases are run in it; `None` where the process
/// has none.
#[must_use]
pub fn find(root: &ProcRoot, pid: u32) -> Option<(PathBuf, Vec<Site>)> {
    let module = root.mapped_programs(pid).into_keys().find(|path| path.ends_with("ngx_http_lua_module.so"));
    let path = match module {
        // The path is one in the process's own mount namespace.
        Some(module) => {
            root.path().join(pid.to_string()).join("root").join(module.strip_prefix("/").unwrap_or(&module))
        }
        None => root.exe(pid),
    };
    let sites = sites(&path)?;
    (!sites.is_empty()).then_some((path, sites))
}

pub(crate) fn sites(path: &Path) -> Option<Vec<Site>> {
    let cache = ReadCache::new(File::open(path).ok()?);
    let file = object::File::parse(&cache).ok()?;
    let mut sites = Vec::new();
    for symbol in file.dynamic_symbols().chain(file.symbols()) {
        let (Ok(name), address) = (symbol.name(), symbol.address()) else { continue };
        let Some((phase, _, argument)) = FUNCTIONS.into_iter().find(|(_, function, _)| *function == name)
        else {
            continue;
        };
        let Some(offset) = file_offset(&file, address).filter(|_| address != 0) else { continue };
        let site = Site { phase, argument, offset };
        if !sites.contains(&site) {
            sites.push(site);
        }
    }
    Some(sites)
}

#[cfg(test)]
mod tests;
