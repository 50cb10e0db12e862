//! The compiled rules against the ruling's examples and against a naive walk over all rules.

use super::*;

fn rule(domain: &str, path: &str, service: &str, priority: i32) -> Rule {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Rule { domain: given(domain), path: given(path), service: service.to_owned(), priority }
}

fn contract() -> Vec<Rule> {
    vec![
        rule("api.example.com", "/v1/users/*", "user-service", 1),
        rule("api.example.com", "/v1/orders/*", "order-service", 1),
        rule("admin.example.com", "/*", "admin-service", 2),
        rule("static.example.com", "/*", "static-service", 3),
    ]
}

#[track_caller]
fn expect(rules: &[Rule], host: &str, path: &str, service: Option<&str>) {
    let routes = Routes::compile(rules).unwrap();
    let found = routes.service(host.as_bytes(), path.as_bytes()).map(|id| routes.name(id));
    assert_eq!(found, service, "{host}{path}");
}

/// G5.
#[test]
fn contract_rules() {
    for (host, path, service) in [
        ("api.example.com", "/v1/users/123", Some("user-service")),
        ("api.example.com", "/v1/users/1/orders", Some("user-service")),
        ("api.example.com", "/v1/users/", Some("user-service")),
        ("api.example.com", "/v1/users", None),
        ("API.Example.COM:8000", "/v1/orders/7", Some("order-service")),
        ("api.example.com.", "/v1/orders/7", Some("order-service")),
        ("api.example.com.:443", "/v1/orders/7", Some("order-service")),
        // The ruling: the path alone must not win over the domain.
        ("admin.example.com", "/v1/users/1", Some("admin-service")),
        ("static.example.com", "/", Some("static-service")),
        ("static.example.com", "/logo.png", Some("static-service")),
        ("other.example.com", "/v1/users/1", None),
        ("", "/v1/users/1", None),
    ] {
        expect(&contract(), host, path, service);
    }
}

/// Each class wins over the next one even with a worse priority.
#[test]
fn classes_in_order() {
    let mut rules = vec![
        rule("", "/v1/users/*", "path alone", 0),
        rule("a.example.com", "", "domain alone", 1),
        rule("*.example.com", "/v1/users/7", "wildcard domain", 2),
        rule("a.example.com", "/v1/*", "pattern", 3),
        rule("a.example.com", "/v1/users/7", "exact", 4),
    ];
    while let Some(best) = rules.last() {
        expect(&rules, "a.example.com", "/v1/users/7", Some(&best.service.clone()));
        rules.pop();
    }
}

#[test]
fn ties_inside_a_class() {
    let rules = [
        rule("a.b", "/x/*", "late", 5),
        rule("a.b", "/x/y/*", "longer", 5),
        rule("a.b", "/x/y/*", "second", 5),
        rule("a.b", "/*", "urgent", 1),
    ];
    expect(&rules[..3], "a.b", "/x/y/z", Some("longer"));
    expect(&rules[..3], "a.b", "/x/z", Some("late"));
    expect(&rules, "a.b", "/x/y/z", Some("urgent"));
    // Domain alone: the more literal domain.
    let rules = [
        rule("*", "", "any", 1),
        rule("*.b.c", "", "wide", 1),
        rule("*.a.b.c", "", "narrow", 1),
        rule("x.a.b.c", "", "exact", 1),
    ];
    expect(&rules, "x.a.b.c", "/", Some("exact"));
    expect(&rules, "y.a.b.c", "/", Some("narrow"));
    expect(&rules, "y.z.a.b.c", "/", Some("narrow"));
    expect(&rules, "a.b.c", "/", Some("wide"));
    expect(&rules, "b.c", "/", Some("any"));
    expect(&rules, "[::1]:80", "/", Some("any"));
    expect(&rules, "", "/", None);
}

#[test]
fn globs() {
    for (glob, yes, no) in [
        ("/a", &["/a"][..], &["/a/", "/ab", "/A", ""][..]),
        ("/a/*", &["/a/", "/a/b", "/a/b/c"], &["/a", "/ab"]),
        ("/a*", &["/a", "/ab", "/a/b"], &["/b"]),
        ("/a/**", &["/a/", "/a/b/c"], &["/a"]),
        ("/a/*/c", &["/a/b/c", "/a/../c"], &["/a//c", "/a/b/b/c", "/a/c", "/a/b/c/"]),
        ("/a/x*y/c", &["/a/xy/c", "/a/x1y/c"], &["/a/x/y/c", "/a/x1/c"]),
        ("/a/*/", &["/a/b/"], &["/a/b", "/a//", "/a/b/c/"]),
        ("/a/*/c/*", &["/a/b/c/", "/a/b/c/d/e"], &["/a/b/c", "/a/b/d/c/"]),
        ("/**/b", &["/b", "/a/b", "/a/a/b"], &["/ab", "b", "/b/"]),
        ("/a/**/b", &["/a/b", "/a/x/b", "/a/x/y/b", "/a//b"], &["/a/xb", "/ab"]),
        ("**.png", &["/x.png", "/a/b.png"], &["/x.png/", "/xpng"]),
        ("*", &["/", "", "/a"], &[]),
        ("~^/v[0-9]+/", &["/v1/", "/v22/x"], &["/v/", "/a/v1/"]),
        ("~\\.php$", &["/a.php"], &["/a.php5"]),
        ("~foo|bar", &["/afoob", "/bar"], &["/fo"]),
        ("~(?i)^/ADMIN$", &["/admin"], &["/admin/"]),
    ] {
        let routes = Routes::compile(&[rule("", glob, "s", 0)]).unwrap();
        for path in yes {
            assert!(routes.service(b"h", path.as_bytes()).is_some(), "{glob} must match {path}");
        }
        for path in no {
            assert!(routes.service(b"h", path.as_bytes()).is_none(), "{glob} must not match {path}");
        }
    }
}

#[test]
fn bytes_that_are_no_text() {
    let rules = [rule("", "/a/*/c", "mid", 0), rule("", "~^/b.\\xff$", "regex", 0)];
    let routes = Routes::compile(&rules).unwrap();
    let name = |path: &[u8]| routes.service(b"\xff\xfe", path).map(|id| routes.name(id));
    assert_eq!(name(b"/a/\xff\x00\x80/c"), Some("mid"));
    assert_eq!(name(b"/b\x80\xff"), Some("regex"));
    assert_eq!(name(b"\xf0\x28"), None);
    assert_eq!(routes.find(&[b'a'; 70_000], &[b'/'; 70_000]), None);
}

#[test]
fn refused_with_a_reason() {
    for (domain, path, service, field, text) in [
        ("", "", "s", Field::Rule, "neither"),
        ("a", "/", "", Field::Service, "name"),
        ("a.*.b", "/", "s", Field::Domain, "`*.example.com`"),
        ("http://a/", "/", "s", Field::Domain, "without scheme"),
        ("a:80", "/", "s", Field::Domain, "without its port"),
        ("a..b", "/", "s", Field::Domain, "empty"),
        ("*.", "/", "s", Field::Domain, "1 to 255"),
        ("bücher.de", "/", "s", Field::Domain, "xn--"),
        ("", "v1/*", "s", Field::Path, "starts with `/`"),
        ("", "*.png", "s", Field::Path, "`**`"),
        ("", "/a?b=*", "s", Field::Path, "query"),
        ("", "~(", "s", Field::Path, "unclosed group"),
        ("", "~(a{500}){500}", "s", Field::Path, "exceeded limit"),
        ("", "~(((a{100}){100}){100}){100}", "s", Field::Path, "exceeded limit"),
    ] {
        let error =
            Routes::compile(&[rule("", "/fine", "s", 0), rule(domain, path, service, 0)]).unwrap_err();
        assert_eq!((error.rule, error.field), (1, field), "{error}");
        assert!(error.to_string().contains(text), "{error}");
        assert!(!error.to_string().contains('\n'), "{error}");
    }
    let nested = format!("~{}{}", "(".repeat(300), ")".repeat(300));
    assert!(Routes::compile(&[rule("", &nested, "s", 0)]).is_err());
    assert!(rule("", &"/".repeat(2000), "s", 0).check().is_err());
}

/// Tables that would grow exponentially are built lazily and give the same answers.
#[test]
fn hostile_sets_stay_small() {
    let rules: Vec<Rule> =
        (0..40).map(|i| rule("", &format!("/**/k{i}/**/z"), &format!("s{i}"), i)).collect();
    let routes = Routes::compile(&rules).unwrap();
    assert!(routes.any_domain.automaton.as_ref().unwrap().is_lazy());
    let path: String = (0..40).rev().map(|i| format!("/k{i}")).collect::<String>() + "/z";
    assert_eq!(routes.find(b"", path.as_bytes()).map(|found| found.rule), Some(0));
    assert_eq!(routes.find(b"", b"/a/k17/k20/k21/z").map(|found| found.rule), Some(17));
    assert_eq!(routes.find(b"", b"/a/k17/k20/k21").map(|found| found.rule), None);
}

/// A walk over all rules with its own, backtracking matcher: slow and obvious.
mod naive {
    use super::{Routes, Rule};
    use std::cmp::Reverse;

    fn glob(pattern: &[u8], path: &[u8]) -> bool {
        fn go(pattern: &[u8], path: &[u8], before: u8) -> bool {
            let Some(&first) = pattern.first() else {
                return path.is_empty();
            };
            if first != b'*' {
                return path.first() == Some(&first) && go(&pattern[1..], &path[1..], first);
            }
            let stars = pattern.iter().take_while(|&&byte| byte == b'*').count();
            let rest = &pattern[stars..];
            let whole = before == b'/' && rest.first() == Some(&b'/');
            if stars > 1 && whole && go(&rest[1..], path, b'/') {
                return true;
            }
            let crosses = stars > 1 || rest.is_empty();
            for taken in 0..=path.len() {
                if !crosses && path[..taken].contains(&b'/') {
                    return false;
                }
                let enough = taken > 0 || !whole || stars > 1;
                if enough && go(rest, &path[taken..], b'*') {
                    return true;
                }
            }
            false
        }
        go(pattern, path, 0)
    }

    fn applies(rule: &Rule, host: &[u8], path: &[u8]) -> Option<u8> {
        let mut host = String::from_utf8_lossy(host).to_ascii_lowercase();
        if let Some((name, port)) = host.rsplit_once(':')
            && port.bytes().all(|byte| byte.is_ascii_digit())
        {
            host = name.to_owned();
        }
        let host = host.strip_suffix('.').unwrap_or(&host);
        let domain = match rule.domain.as_deref() {
            None => 'n',
            Some(_) if host.is_empty() => return None,
            Some("*") => 'w',
            Some(wild) if wild.starts_with('*') => {
                host.ends_with(&wild[1..].to_ascii_lowercase()).then_some('w')?
            }
            Some(exact) => exact.eq_ignore_ascii_case(host).then_some('e')?,
        };
        let kind = match rule.path.as_deref() {
            None => 'n',
            Some(regex) if regex.starts_with('~') => {
                // The few expressions the test uses, by hand.
                let hit = match regex {
                    "~^/a" => path.starts_with(b"/a"),
                    "~b/" => path.windows(2).any(|two| two == b"b/"),
                    "~c$" => path.ends_with(b"c"),
                    other => unreachable!("{other}"),
                };
                hit.then_some('p')?
            }
            Some(text) if text.contains('*') => glob(text.as_bytes(), path).then_some('p')?,
            Some(text) => (text.as_bytes() == path).then_some('e')?,
        };
        Some(match (domain, kind) {
            ('e', 'e') => 0,
            ('e', 'p') => 1,
            ('w', 'e' | 'p') => 2,
            ('e' | 'w', _) => 3,
            _ => 4,
        })
    }

    fn literal(path: &str) -> usize {
        match path {
            "~^/a" => 2,
            _ if path.starts_with('~') => 0,
            _ => path.find('*').unwrap_or(path.len()),
        }
    }

    pub(super) fn find(rules: &[Rule], host: &[u8], path: &[u8]) -> Option<usize> {
        let key = |(index, rule): (usize, &Rule)| {
            let class = applies(rule, host, path)?;
            let path_literal = rule.path.as_deref().map_or(0, literal);
            let domain =
                rule.domain.as_deref().unwrap_or("").trim_start_matches("*.").trim_matches('*').len();
            Some((class, rule.priority, Reverse(path_literal), Reverse(domain), index))
        };
        rules.iter().enumerate().filter_map(key).min().map(|best| best.4)
    }

    #[test]
    fn agrees_with_itself() {
        assert!(glob(b"/a/**/b", b"/a/b") && !glob(b"/a/*/c", b"/a//c"));
        assert!(Routes::compile(&super::contract()).is_ok());
    }
}

/// A small fixed generator: failures repeat.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap() % limit
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn joined(&mut self, parts: &[&str], most: usize) -> String {
        (0..=self.below(most)).map(|_| self.pick(parts)).collect()
    }
}

#[test]
fn same_as_the_naive_walk() {
    let domains = ["", "", "*", "a.b", "*.b", "*.a.b", "c.a.b", "B", "a.b.", "*.c.a.b"];
    let hosts = ["", "a.b", "A.B:80", "c.a.b", "x.a.b", "x.c.a.b.", "b", "a.b.:1", "zz", "\u{fffd}", ".b"];
    let parts = ["/", "/a", "/b", "a", "b", "c", "/ab", "*", "/*", "**", "/**/", "/*/"];
    let text = ["/", "/a", "/b", "a", "b", "c", "/ab", "//", "*"];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut lookups, mut hits) = (0, 0);
    for _ in 0..600 {
        let mut rules = Vec::new();
        while rules.len() < 1 + random.below(40) {
            let path = match random.below(10) {
                0 => String::new(),
                1 => random.pick(&["~^/a", "~b/", "~c$"]).to_owned(),
                _ => "/".to_owned() + random.joined(&parts, 5).trim_start_matches('/'),
            };
            let priority = i32::try_from(random.below(3)).unwrap();
            let mut domain = random.pick(&domains).to_owned();
            if domain.ends_with('.') {
                domain.pop();
            }
            let one = rule(&domain, &path, random.pick(&["s1", "s2", "s3"]), priority);
            if one.check().is_ok() {
                rules.push(one);
            }
        }
        let routes = Routes::compile(&rules).unwrap();
        for _ in 0..50 {
            let host = random.pick(&hosts);
            let path = random.joined(&text, 6);
            let found = routes.find(host.as_bytes(), path.as_bytes());
            let expected = naive::find(&rules, host.as_bytes(), path.as_bytes());
            assert_eq!(found.map(|found| found.rule), expected, "{host} {path} {rules:#?}");
            if let Some(found) = found {
                assert_eq!(routes.name(found.service), rules[found.rule].service);
                hits += 1;
            }
            lookups += 1;
        }
    }
    assert!(hits * 4 > lookups, "the random requests must hit rules: {hits} of {lookups}");
}

/// Random bytes as rules: refused or compiled, never a panic.
#[test]
fn any_text_as_a_rule() {
    let parts =
        ["/", "*", "~", "^", "(", ")", "[", "]", "{9}", "|", "a", ".", "\\", "?", "é", "\u{0}", "-", "$"];
    let mut random = Random(7);
    let mut compiled = 0;
    for _ in 0..3000 {
        let (domain, path) = (random.joined(&parts, 6), random.joined(&parts, 12));
        if let Ok(routes) = Routes::compile(&[rule(&domain, &path, "s", 0), rule("", &path, "t", 0)]) {
            routes.find(domain.as_bytes(), path.as_bytes());
            compiled += 1;
        }
    }
    assert!(compiled > 10, "{compiled}");
}
