//! libFuzzer's end of the targets: which one runs is said by LAPSTRAKE_FUZZ_TARGET (see scripts/fuzz).
#![cfg_attr(fuzzing, no_main)]

#[path = "../meter.rs"]
mod meter;
#[path = "../targets.rs"]
mod targets;

#[global_allocator]
static METER: meter::Meter = meter::Meter;

/// The most memory that one input may take, bytes.
#[cfg(fuzzing)]
const MOST_MEMORY: usize = 64 << 20;

/// The most time of the processor that one input may take, seconds. Time on the wall says nothing on a
/// machine that others use.
#[cfg(fuzzing)]
const MOST_SECONDS: f64 = 2.0;

#[cfg(fuzzing)]
mod fuzz {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{MOST_MEMORY, MOST_SECONDS, meter, targets};

    static TARGET: OnceLock<&targets::Target> = OnceLock::new();
    static PEAK: AtomicUsize = AtomicUsize::new(0);

    libfuzzer_sys::fuzz_target!(|data: &[u8]| {
        let target = TARGET.get_or_init(|| {
            let name = std::env::var("LAPSTRAKE_FUZZ_TARGET").unwrap_or_default();
            targets::find(&name).unwrap_or_else(|| panic!("there is no fuzz target {name:?}"))
        });
        let (seconds, peak) = meter::measure(|| (target.run)(data));
        assert!(peak <= MOST_MEMORY, "{peak} bytes of memory for {} of input", data.len());
        assert!(seconds <= MOST_SECONDS, "{seconds:.1} s for {} bytes of input", data.len());
        if peak > PEAK.fetch_max(peak, Ordering::Relaxed) {
            eprintln!("#peak {peak} bytes of memory for {} of input", data.len());
        }
    });
}

/// Without libFuzzer: runs each file that is named through its target.
#[cfg(not(fuzzing))]
fn main() {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    let target = targets::find(&name).unwrap_or_else(|| panic!("there is no fuzz target {name:?}"));
    for file in args {
        let data = std::fs::read(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let (seconds, peak) = meter::measure(|| (target.run)(&data));
        println!("{file}: {seconds:.3} s, {peak} bytes of memory for {} of input", data.len());
    }
}
