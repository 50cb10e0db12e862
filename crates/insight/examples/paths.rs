//! How well and how fast paths are grouped: `paths [--groups] FILE...`, each a list of path templates as
//! `src/paths/apis/make-requests` reads them; without arguments the two published APIs there, under the seeds 1 to 3.
//! Prints, for each, the share of requests after the first 10,000 that got the group of their template, the groups
//! handed out, and the nanoseconds a request took.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use gatewatch_insight::paths::{Limits, PathGroups};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let apis = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/paths/apis");
    let mut files: Vec<PathBuf> = Vec::new();
    let mut show = false;
    for argument in std::env::args().skip(1) {
        if argument == "--groups" { show = true } else { files.push(argument.into()) }
    }
    if files.is_empty() {
        files = ["github.tsv", "kubernetes.tsv"].map(|f| apis.join(f)).to_vec();
    }
    for file in &files {
        for seed in ["1", "2", "3"] {
            let made = Command::new("python3")
                .arg(apis.join("make-requests"))
                .args([file.as_os_str(), "100000".as_ref(), seed.as_ref()])
                .output()?;
            let text = String::from_utf8(made.stdout)?;
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            measure(&name, seed, &text, show);
        }
    }
    Ok(())
}

fn measure(name: &str, seed: &str, text: &str, show: bool) {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let requests: Vec<(&str, &str)> =
        lines.iter().filter_map(|line| Some((*line.get(1)?, *line.get(2)?))).collect();
    let mut groups = PathGroups::new(Limits { max_groups: 1_000, ..Limits::default() });
    let (mut right, mut all, mut worst) = (0_u32, 0_u32, 0_u128);
    let mut wrong: HashMap<(&str, String), u32> = HashMap::new();
    let mut names: Vec<String> = Vec::new();
    for (i, (path, template)) in requests.iter().enumerate() {
        let start = Instant::now();
        let id = groups.group(1, path.as_bytes());
        if names.len() < groups.len() {
            names.push(groups.name(id).to_owned());
        }
        worst = worst.max(start.elapsed().as_nanos());
        if i >= 10_000 {
            all += 1;
            if normal(groups.name(id)) == normal(template) {
                right += 1;
            } else if show {
                *wrong.entry((template, groups.name(id).to_owned())).or_default() += 1;
            }
        }
    }
    let mut times = [0.0; 7];
    for time in &mut times {
        let mut fresh = PathGroups::new(Limits::default());
        let start = Instant::now();
        for (path, _) in &requests {
            std::hint::black_box(fresh.group(1, path.as_bytes()));
        }
        *time = start.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(requests.len()).unwrap_or(1));
    }
    times.sort_by(f64::total_cmp);
    let [least, _, _, median, ..] = times;
    let usage = groups.usage();
    println!(
        "{name} seed {seed}: {:.2} % right, {} groups, {median:.0} ns a request (least {least:.0}), worst {:.2} ms, {} nodes, {} KiB",
        f64::from(right) * 100.0 / f64::from(all.max(1)),
        usage.groups,
        worst as f64 / 1e6,
        usage.nodes,
        usage.bytes / 1024,
    );
    if show {
        let truth: std::collections::HashSet<String> = requests.iter().map(|(_, t)| normal(t)).collect();
        for name in (0..groups.len()).filter_map(|i| names.get(i)) {
            if !truth.contains(&normal(name)) {
                println!("  no template: {name}");
            }
        }
        let mut wrong: Vec<_> = wrong.into_iter().collect();
        wrong.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        for ((template, group), n) in wrong.iter().take(40) {
            println!("  {n:6} {template}  as  {group}");
        }
    }
}

/// A template or a name to compare: each placeholder segment a wildcard, a trailing run of them one.
fn normal(path: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    for segment in path.split('/') {
        let mut plain = String::new();
        let mut depth = 0;
        for c in segment.chars() {
            match c {
                '{' => {
                    depth += 1;
                    plain.push('*');
                }
                '}' => depth -= 1,
                _ if depth == 0 => plain.push(c),
                _ => {}
            }
        }
        out.push(plain);
    }
    while out.len() > 1 && out.ends_with(&["*".to_owned(), "*".to_owned()]) {
        out.pop();
    }
    out.join("/")
}
