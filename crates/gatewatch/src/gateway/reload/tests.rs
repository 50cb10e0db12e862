use std::os::unix::fs::symlink;

use super::*;
use crate::source::Flags;

fn eye(path: &Path) -> Eye {
    Eye::new(path.to_owned(), Content::of(path))
}

/// What the next look tells, as text.
fn seen(eye: &mut Eye) -> Option<String> {
    eye.look(false).map(|content| match content {
        Content::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Content::Gone => "gone".to_owned(),
        Content::Unreadable(why) => why.clone(),
    })
}

#[test]
fn every_way_to_change_a_file_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "a").unwrap();
    let mut eye = eye(&path);
    assert_eq!(seen(&mut eye), None);
    fs::write(&path, "b").unwrap();
    assert_eq!(seen(&mut eye).unwrap(), "b", "written in place");
    assert_eq!(seen(&mut eye), None, "told once");
    fs::write(dir.path().join("new"), "c").unwrap();
    fs::rename(dir.path().join("new"), &path).unwrap();
    assert_eq!(seen(&mut eye).unwrap(), "c", "another in its place");
    // As the kubelet does it.
    for version in ["1", "2"] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("file"), version).unwrap();
    }
    let swap = |version: &str| {
        symlink(version, dir.path().join("..data_tmp")).unwrap();
        fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).unwrap();
    };
    swap("1");
    fs::remove_file(&path).unwrap();
    symlink("..data/file", &path).unwrap();
    assert_eq!(seen(&mut eye).unwrap(), "1", "a link");
    swap("2");
    assert_eq!(seen(&mut eye).unwrap(), "2", "a link on the way");
    swap("1");
    swap("2");
    assert_eq!(seen(&mut eye), None, "there and back");
}

/// Times that say nothing: the file is read now and then all the same.
#[test]
fn a_file_whose_times_stand_still() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "a").unwrap();
    let mut eye = eye(&path);
    fs::write(&path, "b").unwrap();
    eye.stamp = Stamp::of(&path);
    eye.stamped = Instant::now().checked_sub(COARSE * 2).unwrap();
    let looks = (1..=DISTRUST).find(|_| seen(&mut eye).is_some());
    assert!(looks.is_some(), "after {DISTRUST} looks");
}

#[test]
fn gone_for_a_moment_is_no_alarm() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "a").unwrap();
    let mut eye = eye(&path);
    fs::remove_file(&path).unwrap();
    assert_eq!(seen(&mut eye), None, "the first look");
    fs::write(&path, "a").unwrap();
    assert_eq!(seen(&mut eye), None, "it is there again");
    fs::remove_file(&path).unwrap();
    assert_eq!(seen(&mut eye), None);
    assert_eq!(seen(&mut eye).unwrap(), "gone");
    assert_eq!(seen(&mut eye), None, "told once");
    fs::create_dir(&path).unwrap();
    assert_eq!(seen(&mut eye).unwrap(), "it is a directory, not a file");
    fs::remove_dir(&path).unwrap();
    fs::write(&path, "a").unwrap();
    assert_eq!(seen(&mut eye).unwrap(), "a");
}

/// What is still being written is not told.
#[test]
fn half_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "start").unwrap();
    let mut eye = eye(&path);
    let written = path.clone();
    let writer = thread::spawn(move || {
        for n in 0..60 {
            fs::write(&written, format!("part {n}")).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        fs::write(&written, "whole").unwrap();
    });
    let mut told = Vec::new();
    while told.last().map(String::as_str) != Some("whole") {
        told.extend(seen(&mut eye));
    }
    writer.join().unwrap();
    // A machine that keeps the writer from running for a while makes a part look whole.
    assert!(told.len() < 5, "{told:?}");
}

fn reader(file: &str) -> Reader {
    let source = Source { file: Some(file.into()), flags: Flags { lean: true, ..Flags::default() } };
    let config = Arc::new(source.configuration(None).unwrap());
    Reader { source, config, refused: None }
}

#[test]
fn good_and_bad_contents() {
    let mut reader = reader("/etc/gw.yaml");
    let bytes = |text: &str| Content::Bytes(text.as_bytes().to_vec());
    for bad in [
        "",
        " \n\n",
        "log: {",
        "log: { level: loud }",
        "nonsense: 1",
        "\0\u{1}",
        "- 1",
        "series: { max: 100 }",
    ] {
        let News::Refused(problems) = reader.read(&bytes(bad)) else { panic!("{bad:?} was taken") };
        assert!(
            !problems.is_empty() && problems.iter().all(|line| line.contains("/etc/gw.yaml")),
            "{problems:?}"
        );
        assert!(matches!(reader.again(), News::StillRefused(told) if told == problems));
    }
    assert!(matches!(reader.read(&Content::Gone), News::Refused(_)));
    assert!(matches!(reader.read(&bytes("# as before\n")), News::Unchanged));
    assert!(matches!(reader.again(), News::Unchanged));
    let News::New(prepared) = reader.read(&bytes("log: { requests: false }")) else { panic!() };
    assert_eq!(
        prepared.changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["`log.requests`: true → false"]
    );
    assert_eq!(prepared.config.gateway.detail, gatewatch_config::Detail::Lean, "flags stand over the file");
    assert!(matches!(reader.read(&bytes("log: { requests: false }\n")), News::Unchanged));
}
