//! The cases.

use std::time::Instant;

use lapstrake::sandbox::Status;

use super::bench::{Bench, Done};

/// A case: gets the kind of user it runs as.
pub type Case = fn(&str) -> Done;

/// All of them.
pub const ALL: &[(&str, Case)] = &[("a_run_runs", a_run_runs), ("speed", speed)];

fn a_run_runs(_: &str) -> Done {
    let bench = Bench::new()?;
    let ran = bench.sh("echo out; echo err >&2; id; cat /proc/self/mountinfo; exit 3");
    eprintln!("{ran:?}");
    assert_eq!(ran.outcome.status, Status::Exited(3));
    Ok(())
}

fn speed(_: &str) -> Done {
    let bench = Bench::new()?;
    let mut times: Vec<_> = (0..40)
        .map(|_| {
            let mut spec = bench.spec("");
            spec.args = vec!["/bin/true".into()];
            let start = Instant::now();
            bench.run_spec(&spec).ok();
            start.elapsed()
        })
        .collect();
    times.sort();
    eprintln!("min {:?} median {:?} max {:?}", times[0], times[20], times[39]);
    Ok(())
}
