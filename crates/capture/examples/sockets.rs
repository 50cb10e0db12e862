//! Shows what the socket probe sees: `cargo run -p gatewatch-capture --example sockets -- SECONDS COMM…`. Root.
//! Of the processes named, also what is within TLS; of all others only how much there was.

use std::{
    collections::BTreeMap,
    env,
    error::Error,
    time::{Duration, Instant},
};

use gatewatch_capture::socket::{Event, Settings, SocketProbe};
use gatewatch_target::{process::ProcRoot, tls::Finder};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = env::args().skip(1);
    let seconds = args.next().and_then(|seconds| seconds.parse().ok()).unwrap_or(10);
    let only: Vec<String> = args.collect();
    let mut probe = SocketProbe::load(&Settings::default())?;
    probe.attach()?;
    let (root, mut finder, mut attached) = (ProcRoot::default(), Finder::default(), Vec::new());
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut look_at = Instant::now();
    let mut counts: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    while Instant::now() < until {
        if Instant::now() >= look_at {
            look_at = Instant::now() + Duration::from_secs(1);
            let is_named = |pid: &u32| {
                let comm = std::fs::read_to_string(root.path().join(pid.to_string()).join("comm"));
                comm.is_ok_and(|comm| only.iter().any(|only| only == comm.trim_end()))
            };
            let pids = std::fs::read_dir(root.path())?
                .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
                .filter(is_named);
            for file in pids.flat_map(|pid| finder.look(&root, pid)) {
                println!("TLS in {}: {:?}", file.path.display(), file.sites);
                attached.push(probe.attach_tls(&file)?);
            }
        }
        probe.wait(Duration::from_millis(10));
        probe.drain(100_000, |event| {
            let Event::Piece(piece) = event else {
                return;
            };
            let comm = String::from_utf8_lossy(&piece.comm);
            let comm = comm.trim_end_matches('\0');
            let count =
                counts.entry(format!("{comm} {:?} {:?}", piece.content, piece.direction)).or_default();
            *count = (count.0 + 1, count.1 + u64::from(piece.length));
            if only.iter().any(|only| only == comm) {
                let text = String::from_utf8_lossy(piece.bytes.get(..60).unwrap_or(piece.bytes)).into_owned();
                println!(
                    "{comm} {:?} {:?} {:?} {:?}→{:?} at {} of {} copied {} joined {}: {text:?}",
                    piece.connection,
                    piece.content,
                    piece.direction,
                    piece.local,
                    piece.remote,
                    piece.position,
                    piece.length,
                    piece.bytes.len(),
                    piece.joined
                );
            }
        });
    }
    for (what, (pieces, bytes)) in counts {
        println!("{what}: {pieces} pieces, {bytes} bytes");
    }
    println!("{:#?}", probe.tallies());
    for (name, ns, runs) in probe.run_times() {
        if let Some(each) = ns.checked_div(runs) {
            println!("{name}: {runs} runs, {each} ns each");
        }
    }
    Ok(())
}
