use std::{
    io::Write,
    os::unix::fs::{FileExt, PermissionsExt},
    time::{Duration, Instant},
};

use super::*;
use crate::testing::{NGINX, Noise, compile, run, text, told};

const SIGNATURE: &str = "8,4,8,0000111111010111001110101111000110";

fn inspect(path: &Path) -> Result<Binary, BinaryError> {
    Binary::inspect(path, Path::new("/nonexistent"))
}

fn file(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("file");
    fs::write(&path, bytes).unwrap();
    path
}

/// The bytes where a function is said to stand.
fn bytes_at(path: &Path, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn debians_nginx_is_known() {
    let binary = Binary::inspect(Path::new(NGINX), Path::new("/nonexistent"))
        .expect("the package nginx is needed (`make setup`)");
    assert_eq!((binary.product.as_str(), binary.version.as_str()), ("nginx", "1.22.1"));
    assert_eq!(binary.signature, "8,4,8,0011111111010111001111111111111111");
    assert_eq!(binary.functions.keys().copied().collect::<Vec<_>>(), {
        let mut functions = FUNCTIONS.to_vec();
        functions.sort_unstable();
        functions
    });
    assert_eq!(binary.counters.len(), COUNTERS.len(), "{:?}", binary.counters);
    assert!(binary.position_independent);
    let Source::Table(row) = &binary.candidates[0].source else {
        panic!("{:?}", binary.candidates[0]);
    };
    assert_eq!((row.version, row.layout), ("1.22.1", &binary.candidates[0].layout));
    assert!(matches!(binary.candidates[1].source, Source::Near(_)), "what is near comes behind");
    assert_eq!(binary.remarks, Vec::<String>::new());
    let layouts: std::collections::HashSet<_> = binary.candidates.iter().map(|c| c.layout).collect();
    assert_eq!(layouts.len(), binary.candidates.len(), "no layout is tried twice");
    // x86-64's code of a function does not begin in the middle of another: what stands before is padding or a return.
    assert_ne!(binary.functions["ngx_http_process_request"], binary.functions["ngx_http_free_request"]);
    let key = FileKey::of(Path::new(NGINX)).unwrap();
    assert_eq!(binary.key, key);
}

#[test]
fn a_stripped_nginx_is_known_too() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("stripped");
    run("strip", &["-s", "-o", text(&copy), NGINX]);
    let (whole, stripped) = (inspect(Path::new(NGINX)).unwrap(), inspect(&copy).unwrap());
    assert_eq!(stripped.functions, whole.functions, "dynamic symbols stay");
    assert_eq!(stripped.counters, whole.counters);
    assert_eq!(stripped.version, whole.version);
    assert_ne!(stripped.key, whole.key);
}

#[test]
fn without_section_headers_it_is_known_or_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("bare");
    run("llvm-objcopy-16", &["--strip-sections", NGINX, text(&copy)]);
    match inspect(&copy) {
        Ok(binary) => assert_eq!(binary.version, "1.22.1"),
        Err(BinaryError::NoFunction { version, missing, .. }) => {
            assert_eq!((version.as_str(), missing), ("1.22.1", "ngx_http_process_request"));
        }
        Err(error) => panic!("the version stands in a segment, and yet: {error}"),
    }
}

#[test]
fn what_is_no_gateway_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let check = |path: &Path, expected: &str| {
        let error = inspect(path).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expected) && text.contains(&path.display().to_string()), "{text}");
        error
    };
    assert!(matches!(check(Path::new("/bin/true"), "is not nginx"), BinaryError::NotNginx { .. }));
    for bytes in [
        &b""[..],
        b"#!/bin/sh\nexec nginx/1.22.1 8,4,8,0011111111010111001111111111111111\n",
        b"\x7fELF",
        b"\x7fELF\x02\x01\x01\0",
        &[0; 4096],
        b"MZ\x90\0",
    ] {
        let path = file(dir.path(), bytes);
        assert!(matches!(check(&path, "not a readable ELF"), BinaryError::NotElf { .. }), "{bytes:?}");
    }
    let gone = dir.path().join("gone");
    assert!(matches!(check(&gone, "cannot be read"), BinaryError::Unreadable { .. }));
    assert!(inspect(dir.path()).is_err(), "a directory");
}

#[test]
fn marks_are_read_from_every_product() {
    let dir = tempfile::tempdir().unwrap();
    let check = |marks: &str, expected: Option<(&str, &str)>| {
        let define = format!("-DMARKS={marks}");
        let program = compile(dir.path(), "gcc", &["-g", &define]);
        let seen = inspect(&program);
        let seen = seen.as_ref().map(|binary| (binary.product.as_str(), binary.version.as_str()));
        match expected {
            Some(expected) => assert_eq!(seen.unwrap(), expected, "{marks}"),
            None => assert!(matches!(seen, Err(BinaryError::NotNginx { .. })), "{marks}: {seen:?}"),
        }
    };
    check(&format!("\"nginx/1.22.1\", \"{SIGNATURE}\""), Some(("nginx", "1.22.1")));
    check(&format!("\"openresty/1.25.3.2\", \"{SIGNATURE}\""), Some(("openresty", "1.25.3")));
    check(&format!("\"nginx version: tengine/1.2.3 (x)\", \"{SIGNATURE}\""), Some(("tengine", "1.2.3")));
    check(&format!("\"nginx/1.22\", \"{SIGNATURE}\""), None);
    check(&format!("\"mynginx/1.22.1\", \"{SIGNATURE}\""), None);
    check("\"nginx/1.22.1\", \"8,4,8,0101\"", None);
    check("\"nginx/1.22.1\", \"8,4,8,0000111111010111001110101111000112\"", None);
}

#[test]
fn functions_stand_where_uprobes_are_to_be_put() {
    let dir = tempfile::tempdir().unwrap();
    for (flag, independent) in [("-pie", true), ("-no-pie", false)] {
        let fixed: &[&str] = if independent { &["-fPIE"] } else { &["-fno-pie"] };
        let program = compile(dir.path(), "gcc", &[fixed, &["-g", flag]].concat());
        let binary = inspect(&program).unwrap();
        assert_eq!(binary.position_independent, independent);
        assert_eq!(bytes_at(&program, binary.functions["ngx_http_process_request"], 15), b"PROCESS-REQUEST");
        assert_eq!(bytes_at(&program, binary.functions["ngx_http_free_request"], 12), b"FREE-REQUEST");
        let first = &binary.candidates[0];
        assert_eq!((&first.source, first.layout), (&Source::Dwarf, told(&program)));
        assert!(binary.candidates.len() > 1, "the table's rows come behind");
        assert!(binary.candidates[1..].iter().all(|c| matches!(c.source, Source::Near(_))));
        // Counters are addresses, before relocation, of pointers in writable memory.
        let listed = run("readelf", &["-sW", text(&program)]);
        for name in COUNTERS {
            let line = listed.lines().find(|line| line.ends_with(name)).unwrap();
            let address = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            assert_eq!(binary.counters[name], address, "{name}");
        }
    }
}

fn build_id(path: &Path) -> String {
    let notes = run("readelf", &["-n", text(path)]);
    notes.split("Build ID: ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned()
}

#[test]
fn a_separate_debug_file_gives_layout_and_symbols() {
    let dir = tempfile::tempdir().unwrap();
    let program = compile(dir.path(), "gcc", &["-g"]);
    let (whole, layout) = (inspect(&program).unwrap(), told(&program));

    let id = build_id(&program);
    let debug_dir = dir.path().join("debug");
    let place = debug_dir.join(".build-id").join(&id[..2]);
    fs::create_dir_all(&place).unwrap();
    let debug = place.join(format!("{}.debug", &id[2..]));
    run("objcopy", &["--only-keep-debug", text(&program), text(&debug)]);
    let stripped = dir.path().join("stripped");
    run("strip", &["-s", "-o", text(&stripped), text(&program)]);

    let error = inspect(&stripped).unwrap_err();
    assert!(matches!(error, BinaryError::NoFunction { .. }), "{error}");
    assert!(error.to_string().contains("/nonexistent/.build-id"), "it says where: {error}");

    let binary = Binary::inspect(&stripped, &debug_dir).unwrap();
    let first = &binary.candidates[0];
    assert_eq!((&first.source, first.layout), (&Source::DebugFile(debug.clone()), layout));
    assert_eq!(binary.functions, whole.functions, "the debug file's addresses, the binary's segments");
    assert_eq!(binary.counters, whole.counters);

    // A debug file that is damaged or tells nothing is remarked upon, and no more than that.
    for bytes in [&b"no ELF"[..], b""] {
        fs::write(&debug, bytes).unwrap();
        let found = Binary::inspect(Path::new(&program), &debug_dir).unwrap();
        assert_eq!(found.remarks.len(), 1, "{:?}", found.remarks);
        assert!(found.remarks[0].contains("cannot be used"), "{:?}", found.remarks);
        assert_eq!(found.candidates[0].source, Source::Dwarf);
    }
    fs::copy("/bin/true", &debug).unwrap();
    let found = Binary::inspect(Path::new(&program), &debug_dir).unwrap();
    assert!(found.remarks[0].contains("does not describe"), "{:?}", found.remarks);
}

#[test]
fn a_version_without_any_layout_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let marks = format!("-DMARKS=\"nginx/3.0.0\", \"{SIGNATURE}\"");
    let program = compile(dir.path(), "gcc", &["-g0", &marks]);
    let error = inspect(&program).unwrap_err();
    assert!(matches!(&error, BinaryError::NoLayout { version, .. } if version == "3.0.0"), "{error}");
    assert!(error.to_string().contains(SIGNATURE), "{error}");
}

#[test]
fn sources_are_told_in_words() {
    let binary = inspect(Path::new(NGINX)).unwrap();
    assert!(binary.candidates[0].source.to_string().starts_with("table row 1.22.1 ("));
    assert!(binary.candidates[1].source.to_string().starts_with("the nearest table row, "));
    assert_eq!(Source::Dwarf.to_string(), "debug information in the binary");
    assert!(Source::DebugFile("/x.debug".into()).to_string().ends_with("/x.debug"));
}

/// Looks at damaged bytes: any answer will do, in time.
fn survive(path: &Path, bytes: &[u8], what: &dyn Fn() -> String) -> bool {
    fs::write(path, bytes).unwrap();
    let begun = Instant::now();
    let result = std::panic::catch_unwind(|| (inspect(path).is_ok(), crate::lua::sites(path)));
    assert!(begun.elapsed() < Duration::from_secs(5), "{}: {:?}", what(), begun.elapsed());
    match result {
        Ok((known, _)) => known,
        Err(_) => panic!("{} panics", what()),
    }
}

#[test]
fn truncated_programs_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let small = fs::read(compile(dir.path(), "gcc", &["-g"])).unwrap();
    let large = fs::read(NGINX).unwrap();
    let path = dir.path().join("cut");
    for (whole, step) in [(&small, 61), (&large, 7919)] {
        for len in (0..600).chain((600..whole.len()).step_by(step)) {
            survive(&path, &whole[..len], &|| format!("{len} of {} bytes", whole.len()));
        }
        assert!(survive(&path, whole, &|| "all of it".to_owned()));
    }
}

#[test]
fn damaged_programs_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let plain = fs::read(compile(dir.path(), "gcc", &["-g"])).unwrap();
    let packed = fs::read(compile(dir.path(), "gcc", &["-g", "-gz"])).unwrap();
    let nginx = fs::read(NGINX).unwrap();
    let path = dir.path().join("damaged");
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let mut damaged = 0;
    let mut flip = |whole: &[u8], rounds: usize, choose: &dyn Fn(&mut Noise, &[u8]) -> usize| {
        for round in 0..rounds {
            let mut bytes = whole.to_vec();
            for _ in 0..=noise.below(6) {
                let at = choose(&mut noise, whole);
                bytes[at] = match noise.below(4) {
                    0 => 0,
                    1 => 0xff,
                    2 => bytes[at] ^ (1 << noise.below(8)),
                    _ => u8::try_from(noise.below(256)).unwrap(),
                };
            }
            let known = survive(&path, &bytes, &|| format!("round {round} of {} bytes", whole.len()));
            damaged += usize::from(!known);
        }
    };
    // ELF header, program headers and what follows; section headers, which stand at the end; anything.
    let head = |noise: &mut Noise, whole: &[u8]| noise.below(whole.len().min(4096));
    let sections = |noise: &mut Noise, whole: &[u8]| {
        let from = usize::try_from(u64::from_le_bytes(whole[0x28..0x30].try_into().unwrap())).unwrap();
        from + noise.below(whole.len() - from)
    };
    let anywhere = |noise: &mut Noise, whole: &[u8]| noise.below(whole.len());
    for whole in [&plain, &packed] {
        flip(whole, 250, &head);
        flip(whole, 250, &sections);
        flip(whole, 500, &anywhere);
    }
    flip(&nginx, 100, &head);
    flip(&nginx, 100, &sections);
    assert!(damaged > 50, "the damage hardly reached anything: {damaged}");
}

/// Program headers that end beyond what a number can hold.
#[test]
fn segments_out_of_this_world_are_survived() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(compile(dir.path(), "gcc", &["-g"])).unwrap();
    let number = |at: usize, len: usize| {
        let mut bytes = [0; 8];
        bytes[..len].copy_from_slice(&whole[at..at + len]);
        usize::try_from(u64::from_le_bytes(bytes)).unwrap()
    };
    let (headers, count) = (number(0x20, 8), number(0x38, 2));
    let path = dir.path().join("damaged");
    // p_offset, p_vaddr, p_filesz
    for (field, value) in [(8, u64::MAX), (8, u64::MAX - 8), (16, u64::MAX), (32, u64::MAX), (32, 0)] {
        let mut bytes = whole.clone();
        for header in 0..count {
            let at = headers + header * 56 + field;
            bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        survive(&path, &bytes, &|| format!("{field} set to {value:#x}"));
    }
}

#[test]
fn one_file_has_one_key() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b, link) = (dir.path().join("a"), dir.path().join("b"), dir.path().join("link"));
    File::create(&a).unwrap().write_all(b"a").unwrap();
    fs::copy(&a, &b).unwrap();
    std::os::unix::fs::symlink(&a, &link).unwrap();
    fs::set_permissions(&a, fs::Permissions::from_mode(0o755)).unwrap();
    let key = |path: &Path| FileKey::of(path).unwrap();
    assert_eq!(key(&a), key(&link), "/proc/PID/exe is a link");
    assert_ne!(key(&a), key(&b));
    assert!(FileKey::of(&dir.path().join("gone")).is_err());
}
