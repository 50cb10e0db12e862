use std::path::{Path, PathBuf};
use std::process::Command;

use super::shape::shape;
use super::*;

/// A small generator of numbers, the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn shapes() {
    fn check(segment: &str, want: &str) {
        assert_eq!(shape(segment.as_bytes()).placeholder(), want, "{segment}");
    }
    for word in [
        "users",
        "v1",
        "v1beta1",
        "2.0",
        "k8s.io",
        "enterprise-28-day",
        "es6",
        "größe",
        "me",
        "a%20b",
        "_all",
    ] {
        check(word, "{…}");
    }
    for number in ["0", "123", "-12", "1,2,3", "order-12345", "20260131", "ORD12345678"] {
        check(number, "{id}");
    }
    check("", "");
    check("550e8400-e29b-41d4-a716-446655440000", "{uuid}");
    check("550E8400-E29B-41D4-A716-446655440000", "{uuid}");
    check("da39a3ee5e6b4b0d3255bfef95601890afd80709", "{hash}");
    check("a1b2c3d4", "{hash}");
    check("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "{hash}");
    check("2026-01-31", "{date}");
    check("2026-01-31T10:00:00Z", "{date}");
    check("2026-01-31-a-title", "{…}");
    check("cus_NffrFeUfNV2Hib", "{token}");
    check("pod-7d9f8b6c5-x2x4z", "{token}");
    check("a\u{1}b", "{token}");
    check("a@b.org", "{email}");
    check("10.0.0.1", "{ip}");
    check("main...topic", "{range}");
}

#[test]
fn one_request() {
    fn check(target: &[u8], want: &str) {
        let mut groups = PathGroups::new(Limits::default());
        let id = groups.group(1, target);
        assert_eq!(groups.name(id), want, "{}", String::from_utf8_lossy(target));
    }
    check(b"", "/");
    check(b"/", "/");
    check(b"/users/123?x=/a/b", "/users/{id}");
    check(b"/users/123/#a", "/users/{id}/");
    check(b"/users?q", "/users");
    check(b"http://a.b:80/users/1", "/users/{id}");
    check(b"http://a.b", "/");
    check(b"*", "/*");
    check(b"//a", "//a");
    check(b"/a\xff/\0", "/{token}/{token}");
    check(b"/logo.png", "/logo.png");
    check(b"/files/17.json", "/files/{id}.json");
    check(b"/operations/17:cancel", "/operations/{id}:cancel");
    check(b"/Users(17)/Orders(name='x',day=2026-01-31)", "/Users({id})/Orders(name='{…}',day={date})");
    check("/größe".as_bytes(), "/größe");
}

#[test]
fn constants_become_parts() {
    let mut groups = PathGroups::new(Limits::default());
    for i in 0..200 {
        groups.group(1, format!("/2010-04-01/calls/{i}").as_bytes());
    }
    let id = groups.group(1, b"/2010-04-01/calls/7");
    assert_eq!(groups.name(id), "/2010-04-01/calls/{id}");
}

#[test]
fn ever_new_words_are_values_and_frequent_ones_stay() {
    let mut groups = PathGroups::new(Limits::default());
    for i in 0..4_000_u32 {
        // Letters only, so that the shape says nothing.
        let word: String =
            (0..5).map(|at| char::from(b'g' + u8::try_from((i / 7_u32.pow(at)) % 7).unwrap())).collect();
        groups.group(1, format!("/shops/{word}/offers").as_bytes());
        groups.group(1, b"/shops/nearest");
    }
    let id = groups.group(1, b"/shops/zebra/offers");
    assert_eq!(groups.name(id), "/shops/{…}/offers");
    let id = groups.group(1, b"/shops/nearest");
    assert_eq!(groups.name(id), "/shops/nearest");
    assert!(groups.len() < 60, "{}", groups.len());
}

#[test]
fn names_never_change_and_scopes_do_not_mix() {
    let mut groups = PathGroups::new(Limits::default());
    let mut numbers = Numbers(7);
    let mut seen: Vec<String> = Vec::new();
    let mut counts = vec![0_u32; 2_000];
    let mut other = 0;
    for i in 0..30_000_u32 {
        let word = numbers.next() % 3_000;
        let id = groups.group(i % 3, format!("/p/x{}/y{}", word % 977, word).as_bytes());
        match id.index() {
            Some(at) => counts[at] += 1,
            None => other += 1,
        }
        while seen.len() < groups.len() {
            seen.push(groups.name(GroupId(u32::try_from(seen.len()).unwrap())).to_owned());
        }
    }
    for (at, name) in seen.iter().enumerate() {
        assert_eq!(groups.name(GroupId(u32::try_from(at).unwrap())), name);
    }
    assert_eq!(counts.iter().sum::<u32>() + other, 30_000);
}

#[test]
fn hostile_paths_stay_within_bounds() {
    let mut groups = PathGroups::new(Limits::default());
    let mut numbers = Numbers(1);
    let held = |groups: &mut PathGroups, path: &[u8], scope| {
        let id = groups.group(scope, path);
        let name = groups.name(id);
        assert!(name.len() <= 256 && !name.chars().any(char::is_control), "{name}");
    };
    held(&mut groups, &b"/a".repeat(10_000), 1);
    held(&mut groups, &b"/".repeat(65_536), 1);
    held(&mut groups, &vec![b'a'; 65_536], 1);
    held(&mut groups, &"/é".repeat(20).repeat(20).into_bytes(), 1);
    held(&mut groups, "/ééééééééééééééééééééééééééééééééééééééé".repeat(12).as_bytes(), 1);
    for _ in 0..50_000 {
        let len = usize::try_from(numbers.next() % 80).unwrap();
        let path: Vec<u8> = (0..len).map(|_| numbers.next().to_le_bytes()[3]).collect();
        held(&mut groups, &path, 1);
    }
    for i in 0..1_000_000_u64 {
        let word: String =
            (0..6).map(|_| char::from(b'g' + u8::try_from(numbers.next() % 20).unwrap())).collect();
        let path = match i % 3 {
            0 => format!("/{word}"),
            1 => format!("/a/{word}/b"),
            _ => format!("/{word}/{}/{word}", i % 97),
        };
        held(&mut groups, path.as_bytes(), 2);
    }
    let usage = groups.usage();
    assert!(usage.groups <= 1_000 && usage.nodes <= 28_672 && usage.bytes < 10 << 20, "{usage:?}");
}

#[test]
fn many_hosts_stay_within_ten_mebibytes() {
    let mut groups = PathGroups::new(Limits::default());
    let mut numbers = Numbers(3);
    for i in 0..400_000_u32 {
        let (a, b) = (numbers.next() % 10_000, numbers.next() % 50);
        let word: String =
            (0..4).map(|at| char::from(b'g' + u8::try_from(a / 10_u64.pow(at) % 10).unwrap())).collect();
        groups.group(i % 1_000, format!("/shop/part{b}x/{word}/view").as_bytes());
    }
    let usage = groups.usage();
    assert!(usage.groups <= 1_000 && usage.bytes < 10 << 20, "{usage:?}");
}

fn apis() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/paths/apis")
}

/// The share of 100,000 requests, after the first 10,000, that got the group of their template, in percent.
fn check(file: &Path, seed: u32, least: f64) {
    let made = Command::new("python3")
        .arg(apis().join("make-requests"))
        .arg(file)
        .args(["100000", &seed.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8(made.stdout).unwrap();
    let mut groups = PathGroups::new(Limits::default());
    let (mut right, mut all) = (0, 0);
    for (i, line) in text.lines().enumerate() {
        let mut fields = line.split('\t').skip(1);
        let (path, template) = (fields.next().unwrap(), fields.next().unwrap());
        let id = groups.group(1, path.as_bytes());
        if i >= 10_000 {
            all += 1;
            right += u32::from(normal(groups.name(id)) == normal(template));
        }
    }
    assert_eq!(all, 90_000, "{}", String::from_utf8_lossy(&made.stderr));
    let share = f64::from(right) * 100.0 / f64::from(all);
    assert!(share >= least, "{} seed {seed}: {share} % < {least} %", file.display());
    assert!(groups.len() <= 1_000, "{} seed {seed}: {} groups", file.display(), groups.len());
}

/// Each placeholder a wildcard, a trailing run of wildcard segments one.
fn normal(path: &str) -> String {
    let mut plain = String::new();
    let mut within = false;
    for c in path.chars() {
        match c {
            '{' => {
                within = true;
                plain.push('*');
            }
            '}' => within = false,
            _ if !within => plain.push(c),
            _ => {}
        }
    }
    while let Some(less) = plain.strip_suffix("/*/*") {
        plain = format!("{less}/*");
    }
    plain
}

#[test]
fn published_apis() {
    for seed in 1..=3 {
        check(&apis().join("github.tsv"), seed, 95.0);
        check(&apis().join("kubernetes.tsv"), seed, 95.0);
    }
}

/// Our own lists, of other character; the bounds are what is reached, less a little.
#[test]
fn made_up_apis() {
    let dir = apis();
    for seed in 1..=3 {
        for (name, least) in [
            ("chat", 99.0),
            ("forge", 99.0),
            ("odata", 99.0),
            ("shop", 99.0),
            ("telephony", 99.0),
            ("payments", 90.0),
            // Values and parts side by side from the first segment on, of any depth.
            ("objects", 70.0),
        ] {
            check(&dir.join(name).with_extension("tsv"), seed, least);
        }
    }
}
