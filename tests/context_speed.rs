//! Time and memory of large contexts. In a debug build only a small tree is made, as a smoke test;
//! `LAPSTRAKE_SPEED_FILES=100000 cargo test --release --test context_speed -- --nocapture` measures.

use std::fs;
use std::time::{Duration, Instant};

use lapstrake::context::{Context, IgnoreRules, Options};

fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or("0 0");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// CPU time of all threads so far, in the kernel's ticks of 10 ms. On a shared machine this says
/// more than the wall clock.
fn cpu() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let ticks = after.split(' ').skip(11).take(2).filter_map(|text| text.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

#[test]
fn a_no_op_listing_is_fast_and_small() {
    let files: usize = std::env::var("LAPSTRAKE_SPEED_FILES")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(3000);
    let dir = tempfile::tempdir().unwrap();
    // An existing tree can be measured instead; then nothing is made.
    let given = std::env::var_os("LAPSTRAKE_SPEED_DIR");
    let root = given.as_ref().map_or(dir.path().join("c"), Into::into);
    let made = if given.is_some() { 0 } else { files };
    // 50 files a directory, as in node_modules; paths of about 50 bytes.
    for n in 0..made.div_ceil(50) {
        let path = root.join(format!("packages/scope-{:03}/module-{n:05}/lib/source", n % 97));
        fs::create_dir_all(&path).unwrap();
        for f in 0..50.min(made - n * 50) {
            fs::write(path.join(format!("file-{f:02}.js")), format!("{n} {f}")).unwrap();
        }
    }
    std::thread::sleep(Duration::from_millis(150));
    let base = peak_mib();
    // A stat cache that outlives the process shows the peak of a warm run alone.
    let stat = std::env::var_os("LAPSTRAKE_SPEED_STAT");
    let stat = stat.map_or(dir.path().join("stat"), Into::into);
    let run = |threads| {
        let rules = IgnoreRules::parse(b"**/*.log\n.git\n*.tmp\nnode_modules\n!keep").unwrap();
        let options = Options { stat_cache: Some(stat.clone()), scratch: None, threads };
        let (begun, cpu_before) = (Instant::now(), cpu());
        let context = Context::open(&root, rules, options).unwrap();
        let toc = context.listing().unwrap();
        let listed = begun.elapsed();
        context.digest_rows(0..toc.len()).unwrap();
        let digested = begun.elapsed();
        context.save_stat_cache().unwrap();
        let saved = begun.elapsed();
        println!(
            "{} rows, {threads} threads: listed {listed:?}, digested {digested:?}, saved {saved:?}, \
             CPU {:?}, peak {} MiB (of which {base} before)",
            toc.len(),
            cpu() - cpu_before,
            peak_mib()
        );
        (listed, digested)
    };
    run(2);
    let best = (0..5).map(|_| run(2).1).min().unwrap();
    run(1);
    // Loose: other tests share the machine. It only catches a cache that does not work.
    let limit = Duration::from_millis(200) + Duration::from_micros(20) * files as u32;
    assert!(best < limit, "{best:?} for {files} files");
}
