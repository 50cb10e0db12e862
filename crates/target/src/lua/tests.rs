use std::{fs, os::unix::fs::FileExt};

use super::*;
use crate::testing::{NGINX, run, text};

/// A module whose functions can be told by their bytes: their own names.
fn module(dir: &Path, functions: &[&str], static_ones: &[&str]) -> PathBuf {
    let mut source = String::from(".text\n");
    for name in functions {
        source += &format!(".globl {name}\n.type {name}, @function\n{name}: .ascii \"{name}\"\n");
    }
    for name in static_ones {
        source += &format!(".type {name}, @function\n{name}: .ascii \"{name}\"\n");
    }
    let (assembly, path) = (dir.join("module.s"), dir.join("ngx_http_lua_module.so"));
    fs::write(&assembly, source).unwrap();
    run("gcc", &["-shared", "-nostdlib", "-o", text(&path), text(&assembly)]);
    path
}

fn check_sites(path: &Path, expected: &[&str]) {
    let sites = sites(path).unwrap();
    assert_eq!(sites.len(), expected.len(), "{sites:?}");
    let file = File::open(path).unwrap();
    for name in expected {
        let (phase, _, argument) = FUNCTIONS.into_iter().find(|(_, known, _)| known == name).unwrap();
        let stands = |site: &&Site| {
            let mut bytes = vec![0; name.len()];
            file.read_exact_at(&mut bytes, site.offset).is_ok() && bytes == name.as_bytes()
        };
        let site = sites.iter().find(stands).unwrap_or_else(|| panic!("{name}: {sites:?}"));
        assert_eq!((site.phase, site.argument), (phase, argument), "{name}");
    }
}

#[test]
fn every_phase_is_found_once() {
    let dir = tempfile::tempdir().unwrap();
    let all = FUNCTIONS.map(|(_, name, _)| name);
    // Exported ones stand in both symbol tables.
    let path = module(dir.path(), &all, &[]);
    check_sites(&path, &all);
    run("strip", &["-s", text(&path)]);
    check_sites(&path, &all);
}

#[test]
fn static_functions_need_the_symbol_table() {
    let dir = tempfile::tempdir().unwrap();
    let (exported, hidden) = (["ngx_http_lua_run_thread"], ["ngx_http_lua_access_handler"]);
    let path = module(dir.path(), &exported, &hidden);
    check_sites(&path, &[exported[0], hidden[0]]);
    run("strip", &["-s", text(&path)]);
    check_sites(&path, &exported);
}

#[test]
fn names_that_are_near_are_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = module(dir.path(), &["ngx_http_lua_access_handler_inline", "ngx_http_lua_log"], &[]);
    check_sites(&path, &[]);
}

#[test]
fn what_has_no_lua_has_no_sites() {
    assert_eq!(sites(Path::new(NGINX)), Some(vec![]));
    assert_eq!(sites(Path::new("/nonexistent")), None);
    assert_eq!(find(&ProcRoot::new("/proc"), std::process::id()), None);
    assert_eq!(find(&ProcRoot::new("/proc"), u32::MAX), None);
}

#[test]
fn phases_and_arguments_are_those_of_the_event() {
    for (phase, name, argument) in FUNCTIONS {
        assert!(usize::from(phase) < 8, "{name}");
        assert!(matches!(argument, 1 | 2), "{name}");
    }
    let phases: std::collections::BTreeSet<_> = FUNCTIONS.iter().map(|(phase, ..)| *phase).collect();
    assert_eq!(phases.len(), 8, "a phase has no function");
}
