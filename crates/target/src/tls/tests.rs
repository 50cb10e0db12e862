use super::{Call, code::Code, *};

#[test]
fn finds_the_functions_of_this_machines_openssl() {
    let path = ["/usr/lib/x86_64-linux-gnu/libssl.so.3", "/usr/lib/aarch64-linux-gnu/libssl.so.3"]
        .into_iter()
        .map(Path::new)
        .find(|path| path.exists());
    let Some(path) = path else { return };
    let found = inspect(path).unwrap();
    let calls: Vec<_> = found.sites.iter().map(|site| site.call).collect();
    assert_eq!(calls, [Call::Read, Call::Write, Call::ReadExtended, Call::WriteExtended, Call::Free]);
    for site in &found.sites[..4] {
        assert!(!site.returns.is_empty(), "{site:?}");
        assert!(site.returns.iter().all(|at| *at > site.entry));
    }
}

#[test]
fn a_program_without_tls_has_none() {
    assert_eq!(inspect(Path::new("/proc/self/exe")), None);
    assert_eq!(inspect(Path::new("/no/such/file")), None);
    assert_eq!(inspect(Path::new("/etc/passwd")), None);
}

#[test]
fn the_processes_program_is_among_its_files() {
    let files = files_of(&ProcRoot::new("/proc"), std::process::id());
    assert!(files.iter().any(|path| path.ends_with("exe")), "{files:?}");
}

#[test]
fn returns_and_the_place_behind_gos_prologue() {
    // cmp rsp,[r14+16]; jbe; push rbp; mov rbp,rsp; mov eax,0xc3; pop rbp; ret; ret 8
    let bytes = b"\x49\x3b\x66\x10\x76\x20\x55\x48\x89\xe5\xb8\xc3\0\0\0\x5d\xc3\xc2\x08\x00";
    let code = Code { bytes, x86: true };
    assert_eq!(code.behind_go_prologue(), 6);
    assert_eq!(code.returns(), [16, 17]);
    // A function that uses its arguments at once: its first instruction.
    assert_eq!(Code { bytes: b"\x48\x89\xc3\x55\xc3", x86: true }.behind_go_prologue(), 0);
    let arm = [0xf940_0b90u32, 0xd65f_03c0, 0xd503_201f, 0xd65f_0bff].map(u32::to_le_bytes).concat();
    assert_eq!(Code { bytes: &arm, x86: false }.returns(), [4, 12]);
    for cut in 0..bytes.len() {
        let code = Code { bytes: &bytes[..cut], x86: true };
        let _any = (code.returns(), code.behind_go_prologue());
    }
}
