//! Tries and measures with packets, in a network namespace made for it.
//!
//! * `yardstick inject INTERFACE N [FLOWS]`: lets N IPv4 datagrams come in, of FLOWS connections (1) in turn; prints
//!   how many a second.
//! * `yardstick run INTERFACE SECONDS xdp|ingress|egress|counter`: attaches a program that does nothing, or the
//!   least; prints nanoseconds and times it was run (`kernel.bpf_stats_enabled`).

use std::{env, process::ExitCode, thread, time::Duration};

use gatewatch_capture::yardstick::{Way, Which, Yardstick};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["inject", interface, n] => inject(interface, n, "1"),
        ["inject", interface, n, flows] => inject(interface, n, flows),
        ["run", interface, seconds, which] => run(interface, seconds, which),
        _ => Err("usage: yardstick inject INTERFACE N [FLOWS] | run INTERFACE SECONDS WHICH".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("yardstick: {error}");
            ExitCode::FAILURE
        }
    }
}

fn index(interface: &str) -> Result<u32, Box<dyn std::error::Error>> {
    let found = gatewatch_target::interfaces::interfaces()?;
    let found = found.into_iter().find(|it| it.name == interface);
    Ok(found.ok_or_else(|| format!("there is no interface {interface}"))?.index)
}

/// A datagram of 60 bytes from 198.18.x.y to 198.19.0.1, which nobody has.
fn datagram() -> Vec<u8> {
    let mut frame = vec![0u8; 60];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    frame[26..34].copy_from_slice(&[198, 18, 0, 0, 198, 19, 0, 1]);
    frame[34..42].copy_from_slice(&[0x9c, 0x40, 0x1f, 0x90, 0, 26, 0, 0]);
    frame
}

fn inject(interface: &str, n: &str, flows: &str) -> Outcome {
    let (index, n, flows): (u32, u32, u32) = (index(interface)?, n.parse()?, flows.parse()?);
    let took = Yardstick::load()?.inject(Way::In, index, &datagram(), n, flows)?;
    println!("{n} frames in {:.3} s: {:.0} a second", took.as_secs_f64(), f64::from(n) / took.as_secs_f64());
    Ok(())
}

fn run(interface: &str, seconds: &str, which: &str) -> Outcome {
    let which = match which {
        "xdp" => Which::Xdp,
        "ingress" => Which::Ingress,
        "egress" => Which::Egress,
        "counter" => Which::Counter,
        other => return Err(format!("no program {other}").into()),
    };
    let mut yardstick = Yardstick::load()?;
    let mode = yardstick.attach(which, index(interface)?)?;
    eprintln!("attached by {}", mode.as_str());
    thread::sleep(Duration::from_secs_f64(seconds.parse()?));
    let (ns, runs) = yardstick.run_time(which).ok_or("the kernel does not tell")?;
    println!("{ns} {runs}");
    Ok(())
}
