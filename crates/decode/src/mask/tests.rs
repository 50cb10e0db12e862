//! G14, K10: tables of what is masked and what stays, and secrets planted in random surroundings.

use super::*;

const JWT: &str =
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U";

#[track_caller]
fn target(input: &str, expected: &str) {
    assert_eq!(Masker::default().mask_target(input.as_bytes()), expected, "{input}");
}

#[test]
fn stays_as_it_is() {
    for path in [
        "/",
        "",
        "*",
        "/v1/users/123",
        "/files/a.b.c/report-2024.pdf",
        "/users/550e8400-e29b-41d4-a716-446655440000",
        "/users/me@example.com",
        "/@scope/package",
        "/blog/how-to-write-a-very-long-slug-for-a-post-in-2024",
        "/top-100-films-of-2023-that-you-must-have-seen-once",
        "/pods/gatewatch-controller-manager-7d4b9c6f5-x2k9p",
        "/api/getUserAccountSettingsByOrganizationId",
        "/date=2024-01-15/hour=03",
        "/caf%C3%A9/a%20b",
        "/What%3F",
        "/disk-usage-of-2024-01-15-in-berlin",
        "/bearer",
        "api.example.com:443",
        "/12345678901234567890123456789012345",
        "/über/straße",
    ] {
        target(path, path);
    }
}

#[test]
fn queries() {
    target("/a?a=1&token=x", "/a?a=***&token=***");
    target("/a?", "/a?");
    target("/a?q=&x=1", "/a?q=&x=***");
    target("/a?deadbeef", "/a?***");
    target("/a?a=1&b&c=2", "/a?a=***&***&c=***");
    target("/a?a=1;token=x", "/a?a=***");
    target("/a?a=1?token=x", "/a?a=***");
    target("/a??token=x", "/a?***=***");
    target("/a?&&a=1&", "/a?&&a=***&");
    target("/a?filter%5Bname%5d=x&ids[]=1", "/a?filter%5Bname%5d=***&ids[]=***");
    target("/a?to%6Ben=x", "/a?***=***");
    target("/a?token%3Dx", "/a?***");
    target("/a?token%3Dx=1", "/a?***=***");
    target("/a?x%26token=1", "/a?***=***");
    target("/a?dXNlcjpwYXNzMQ==", "/a?***");
    target("/a?dXNlcjpwYXNzMTI=", "/a?***");
    target(&format!("/a?{}=1", "k".repeat(65)), "/a?***=***");
    target(&format!("/a?{JWT}=1"), "/a?***=***");
    target("/a?next=http%3A%2F%2Fx%3Ftoken%3Dabc&b=1", "/a?next=***&b=***");
    target("/a?next=http://u:p@h/x?token=abc", "/a?next=***");
    target("/a#access_token=x", "/a#***");
    target("/a?b=1#access_token=x", "/a?b=***");
}

#[test]
fn escaped_queries() {
    target("/r%3Ftoken%3Dabc%26b%3D1", "/r%3F***");
    target("/r%3ftoken=abc/x", "/r%3f***");
    target("/r%253Ftoken%253Dabc", "/r%253F***");
    target("/r%u003Ftoken=abc", "/r%u003F***");
    target("/r%3Fx?b=1", "/r%3F***?b=***");
    target("/r%23access_token=x", "/r%23***");
}

#[test]
fn credentials_in_urls() {
    target("http://user:pass@host/a", "http://***@host/a");
    target("http://user:p@ss@host/a?b=c", "http://***@host/a?b=***");
    target("http://user:p?s#s@host/a", "http://***");
    target("https://token@host/", "https://***@host/");
    target("http://host:80/a", "http://host:80/a");
    target("user:pass@host:443", "***@host:443");
    target("/proxy/http://user:pass@host/a", "/proxy/http://***@host/a");
    target("/proxy/http:/user:pass@host/a", "/proxy/http:/***@host/a");
    target("/proxy/http%3A%2F%2Fuser%3Apass%40host%2Fa", "/proxy/http%3A%2F%2F***%40host%2Fa");
    target("/proxy/http%253A%252F%252Fu%253Ap%2540host", "/proxy/http%253A%252F%252F***%2540host");
    target("/user%3Apass%40host", "/***%40host");
}

#[test]
fn secrets_in_paths() {
    target(&format!("/verify/{JWT}"), "/verify/***");
    target(&format!("/verify/x-{JWT}/y"), "/verify/x-***/y");
    target("/a;jsessionid=1A2B3C/b", "/a;jsessionid=***");
    target("/a;v=1.0/b;c", "/a;v=***/b;c");
    target("/a%3Bv%3D1.0/b", "/a%3Bv%3D***/b");
    target("/a&token=abc", "/a&token=***");
    target("/a&x=abc", "/a&x=***");
    target("/token=ab/cd+ef==", "/token=***");
    target("/Api_Key=abc", "/Api_Key=***");
    target("/to%6Ben=abc", "/to%6Ben=***");
    target("/auth/Bearer/abc/d", "/auth/Bearer/***/d");
    target("/auth/Bearer%20abc/d", "/auth/***/d");
    target("/keys/AKIAIOSFODNN7EXAMPLE", "/keys/***");
    target("/keys/x-AKIAIOSFODNN7EXAMPLE-y/z", "/keys/***/z");
    target("/t/ghp_16C7e42F292c6912E7710c838347Ae178B4a", "/t/***");
    target("/t/d41d8cd98f00b204e9800998ecf8427e", "/t/***");
    target("/t/main.d41d8cd98f00b204e9800998ecf8427e", "/t/main.***");
    target("/reset/Zk3vQ9xT2bLw8RpYc5NfHs7JdGm4Ae6U/now", "/reset/***/now");
    target("/reset/Zk3vQ9xT2bLw8RpY%63%35NfHs7JdGm4Ae6U", "/reset/***");
}

#[test]
fn headers() {
    let masker = Masker::default();
    let header = |value: &str| masker.mask_header(value.as_bytes()).into_owned();
    for same in [
        "api.example.com:8000",
        "[::1]:80",
        "",
        "10.0.0.1:8080, 10.0.0.2:8080",
        "Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/115.0",
        "Googlebot/2.1 (+http://www.google.com/bot.html)",
        "bot (mail me@example.com)",
        "bearer",
    ] {
        assert_eq!(header(same), same);
    }
    assert_eq!(header("user:pass@host:80"), "***@host:80");
    assert_eq!(header("http://u:p@10.0.0.1:80/x?a=b"), "http://***@10.0.0.1:80/x?a=***");
    assert_eq!(header("agent (http://u:p@h) Bearer abc, x"), "agent (http://***@h) Bearer ***, x");
    assert_eq!(header(&format!("x {JWT}")), "x ***");
    assert_eq!(masker.mask_user_agent(b"curl/8.5.0"), "curl/8.5.0");
}

#[test]
fn settings() {
    let set = |change: fn(&mut MaskSettings)| {
        let mut settings = MaskSettings::default();
        change(&mut settings);
        Masker::new(settings).unwrap()
    };
    let off = set(|it| it.enabled = false);
    assert_eq!(off.mask_target(b"/a?token=x\xff"), "/a?token=x\u{fffd}");
    assert_eq!(off.mask_header(b"u:p@h"), "u:p@h");
    let values = set(|it| it.query_values = false);
    let shown = values.mask_target(b"/a?page=2&token=ab/cd&next=http%3A%2F%2Fu%3Ap%40h&k=http://u:p@h/x");
    assert_eq!(
        shown,
        "/a?page=2&token=***&next=***%40h&k=***@h/x"
            .replace("next=***", "next=http%3A%2F%2F***")
            .replace("k=***", "k=http://***")
    );
    for nested in ["/x?next=%2Fcb?token=SECRET", "/x?next=/cb?token=SECRET", "/x?next=%2Fcb%3ftoken%3DSECRET"]
    {
        assert!(!values.mask_target(nested.as_bytes()).contains("SECRET"), "{nested}");
    }
    let agent = set(|it| it.user_agent = true);
    assert_eq!(agent.mask_user_agent(b"curl/8.5.0"), "***");
    assert_eq!(agent.mask_user_agent(b""), "");
    let addr = set(|it| it.remote_addr = true);
    assert_eq!(addr.mask_remote_addr("203.0.113.77"), "203.0.113.0/24");
    assert_eq!(addr.mask_remote_addr("::ffff:203.0.113.77"), "203.0.113.0/24");
    assert_eq!(addr.mask_remote_addr("2001:db8:1:2::9"), "2001:db8:1::/48");
    assert_eq!(addr.mask_remote_addr("unix:"), "***");
    assert_eq!(Masker::default().mask_remote_addr("203.0.113.77"), "203.0.113.77");
}

#[test]
fn patterns() {
    let masker = |patterns: &[&str]| {
        Masker::new(MaskSettings {
            patterns: patterns.iter().map(|it| (*it).to_owned()).collect(),
            ..MaskSettings::default()
        })
    };
    let digits = masker(&["[0-9]{4,}", "x*"]).unwrap();
    assert_eq!(digits.mask_target(b"/card/41111111/a"), "/card/***/a");
    assert_eq!(digits.mask_target(b"/a?n=12345"), "/a?n=***");
    assert_eq!(digits.mask_header(b"host12345"), "host***");
    // Overlapping matches of two patterns: neither leaves a rest of the other.
    assert_eq!(masker(&["abc", "bcd"]).unwrap().mask_target(b"/abcd/"), "/***/");
    // A pattern that eats the `?` cannot lay the query open.
    assert_eq!(masker(&["a\\?"]).unwrap().mask_target(b"/a?token=x"), "/***token=***");
    let error = masker(&["fine", "("]).unwrap_err();
    assert!(matches!(error, MaskError::Pattern { index: 1, .. }), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
    assert!(masker(&["(a{500}){500}"]).is_err());
    assert!(masker(&["a"; 65]).is_err());
    assert!(masker(&[""]).is_err());
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap() % limit
    }

    fn joined(&mut self, parts: &[&[u8]], most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).flat_map(|_| parts[self.below(parts.len())].to_vec()).collect()
    }
}

/// Any eight characters of the secret would be a leak.
fn leaks(output: &str, secret: &[u8]) -> bool {
    secret.windows(8).any(|part| memchr::memmem::find(output.as_bytes(), part).is_some())
}

#[test]
fn planted_secrets_never_appear() {
    let noise: &[&[u8]] = &[
        b"/",
        b"a",
        b"zz",
        b"?",
        b"&",
        b";",
        b"=",
        b"%",
        b"%3F",
        b"%253f",
        b"%26",
        b"%3D",
        b"#",
        b"@",
        b":",
        b"//",
        b"http://",
        b"\xff",
        b"\0",
        b"%2",
        b"%25",
        b"%u003",
        b"bearer",
        b" ",
        b"\xc3\xa9",
        b"%40",
        b"+",
        b"..",
        b"%00",
    ];
    let keys: &[&[u8]] = &[
        b"token=",
        b"q=",
        b"to%6Ben=",
        b"a%3Db=",
        b"x[]=",
        b"=",
        b"a?b=",
        b"%3Fk=",
        b"k%253D=",
        b"&;k=",
        b"\xff=",
        b"a=b=",
        b"token%3D=",
        b"a;b=",
        b"a==",
    ];
    let alphabet = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789-_";
    let mut random = Random(0x5eed);
    let masker = Masker::default();
    for round in 0..200_000 {
        let len = 8 + random.below(40);
        let secret: Vec<u8> = (0..len).map(|_| alphabet[random.below(alphabet.len())]).collect();
        let mut text = random.joined(noise, 6);
        text.push(b'?');
        text.extend(random.joined(noise, 6));
        let bare = random.below(8) == 0;
        text.extend(b"&");
        if !bare {
            text.extend(keys[random.below(keys.len())]);
        }
        text.extend(&secret);
        text.extend(if bare { &b"&"[..] } else { &b""[..] });
        text.extend(random.joined(noise, 8));
        let output = masker.mask_target(&text);
        assert!(!leaks(&output, &secret), "round {round}: {} -> {output}", String::from_utf8_lossy(&text));
    }
}

/// Without a raw `?`: behind an escaped one, in telling keys, as the password of a URL.
#[test]
fn planted_outside_the_query() {
    let before: &[&[u8]] = &[b"/", b"/a", b"/b.c", b"/%C3%A9", b"/a-b", b"/\xff", b"//", b"/a;b", b"/%2F"];
    let after: &[&[u8]] = &[b"/", b"a", b"&b=1", b";c", b"%26", b"%2F", b"?x=1", b"#y", b"\xff", b"@"];
    let alphabet = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
    let mut random = Random(0xfeed);
    let masker = Masker::default();
    for round in 0..100_000 {
        let len = 8 + random.below(40);
        let secret: Vec<u8> = (0..len).map(|_| alphabet[random.below(alphabet.len())]).collect();
        let marks: &[(&[u8], &[u8])] = &[
            (b"%3Ftoken%3D", b""),
            (b"%3fx=", b""),
            (b"%253Fa%253D1%2526b%253D", b""),
            (b";jsessionid=", b""),
            (b"%3Bjsessionid%3D", b""),
            (b"/token=", b""),
            (b"&password=", b""),
            (b"/pass%77ord%3D", b""),
            (b"/http://user:", b"@host"),
            (b"/http%3A%2F%2Fuser%3A", b"%40host"),
            (b"/bearer/", b"/"),
        ];
        let (open, close) = marks[random.below(marks.len())];
        let mut text = random.joined(before, 4);
        text.extend(open);
        text.extend(&secret);
        text.extend(close);
        text.extend(random.joined(after, 4));
        let output = masker.mask_target(&text);
        assert!(!leaks(&output, &secret), "round {round}: {} -> {output}", String::from_utf8_lossy(&text));
    }
}

#[test]
fn hostile_input_is_cheap_and_safe() {
    let masker = Masker::default();
    let large: Vec<Vec<u8>> = [
        &b"%25"[..],
        b"%",
        b"%2",
        b"?",
        b"&",
        b"=",
        b";",
        b"@",
        b"/",
        b"eyJ",
        b"eyJ.",
        b"AKIA",
        b"//@:",
        b"\xff",
        b"a1B",
    ]
    .iter()
    .map(|part| part.repeat(65_536 / part.len()))
    .collect();
    let started = std::time::Instant::now();
    for text in &large {
        for prefix in [&b""[..], b"/", b"/?", b"/a?b=", b"http://"] {
            let text = [prefix, text].concat();
            assert!(masker.mask_target(&text).len() <= text.len() * 4 + 16);
            assert!(masker.mask_header(&text).len() <= text.len() * 4 + 16);
        }
    }
    // 150 texts of 64 KiB: milliseconds each even unoptimised; quadratic work would take minutes.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    let mut random = Random(3);
    for _ in 0..50_000 {
        let len = random.below(64);
        let bytes: Vec<u8> = (0..len).map(|_| u8::try_from(random.below(256)).unwrap()).collect();
        masker.mask_target(&bytes);
        masker.mask_header(&bytes);
    }
}

/// The list is searched by halves.
#[test]
fn telling_keys_are_sorted() {
    assert!(
        token::is_telling_key(b"X-API-Key")
            && token::is_telling_key(b"token")
            && !token::is_telling_key(b"date")
    );
    assert!(token::TELLING_KEYS.is_sorted());
}
