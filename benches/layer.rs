//! Speed of packing: `cargo bench --bench layer [-- FILTER]`.
//!
//! Prints medians of five runs: MB/s of uncompressed data, and compressed size over uncompressed.
//! Text is a mix of what images hold (sources found under a directory given as LAYER_BENCH_TEXT, or
//! generated); random data comes from a generator; LAYER_BENCH_FILE names a file to be taken as it is.

use std::io::{self, Read, Write};
use std::time::Instant;

use lapstrake::layer::compress::Encoder;
use lapstrake::layer::{Compression, Entry, Kind, PackOptions, RootPath, Toc, pack};

/// MiB of data, unless LAYER_BENCH_MIB says otherwise.
const SIZE_MIB: usize = 512;
const RUNS: usize = 5;

/// CPU seconds of this process, all threads, as far as the kernel counts them (1/100 s).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

struct Count(u64);

impl Write for Count {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0 += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn random(len: usize) -> Vec<u8> {
    let mut state = 88172645463325252u64;
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.wrapping_mul(0x2545F4914F6CDD1D).to_le_bytes());
    }
    data.truncate(len);
    data
}

/// Reads files below a directory until there is enough, else repeats them.
fn text(len: usize) -> Vec<u8> {
    let root = std::env::var_os("LAYER_BENCH_TEXT").unwrap_or_else(|| "/usr".into());
    let mut data = Vec::with_capacity(len);
    let files = walkdir::WalkDir::new(root).sort_by_file_name().into_iter().flatten();
    for file in files.filter(|file| file.file_type().is_file()) {
        let Ok(bytes) = std::fs::read(file.path()) else { continue };
        if bytes.len() < 200_000 && std::str::from_utf8(&bytes).is_ok() {
            data.extend_from_slice(&bytes);
        }
        if data.len() >= len {
            break;
        }
    }
    let have = data.len().max(1);
    while data.len() < len {
        let more = (len - data.len()).min(have);
        data.extend_from_within(..more);
    }
    data.truncate(len);
    data
}

fn median(mut run: impl FnMut() -> f64) -> f64 {
    let mut times: Vec<f64> = (0..RUNS).map(|_| run()).collect();
    times.sort_by(f64::total_cmp);
    times[RUNS / 2]
}

fn entry(path: &str, size: u64) -> Entry {
    Entry {
        path: RootPath::from(path),
        kind: Kind::File { size, digest: None },
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: 0,
        xattrs: Default::default(),
    }
}

/// Packs `data` cut into files of `file` bytes.
fn pack_files(data: &[u8], file: usize, compression: Compression, threads: usize) -> (f64, u64) {
    let pieces: Vec<&[u8]> = data.chunks(file).collect();
    let toc: Toc = pieces
        .iter()
        .enumerate()
        .map(|(i, piece)| entry(&format!("d{:03}/f{i:07}", i / 100), piece.len() as u64))
        .collect();
    let mut size = 0;
    let time = median(|| {
        let mut out = Count(0);
        let mut open = |entry: &lapstrake::layer::EntryRef<'_>| -> io::Result<Box<dyn Read>> {
            let name = String::from_utf8_lossy(entry.file_name()).into_owned();
            let index: usize = name[1..].parse().map_err(io::Error::other)?;
            // Copied once more, as reading a file would.
            Ok(Box::new(io::Cursor::new(pieces[index].to_vec())))
        };
        let options = PackOptions { compression, threads, epoch: None };
        let start = Instant::now();
        let packed = pack(&toc, &mut open, options, &mut out).expect("pack");
        size = packed.size;
        start.elapsed().as_secs_f64()
    });
    (time, size)
}

fn encode(data: &[u8], compression: Compression, threads: usize) -> (f64, u64) {
    let mut size = 0;
    let time = median(|| {
        let start = Instant::now();
        let mut encoder = Encoder::new(Count(0), compression, threads);
        encoder.write_all(data).expect("write");
        size = encoder.finish().expect("finish").0;
        start.elapsed().as_secs_f64()
    });
    (time, size)
}

/// CPU seconds of the main thread, to the nanosecond.
fn thread_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or_default() / 1e9
}

/// CPU times of tables of contents of 100,000 and 1,000,000 files.
fn tables() {
    let digest = lapstrake::oci::Digest::of(b"content");
    for rows in [100_000usize, 1_000_000] {
        let build = || {
            let mut builder = lapstrake::layer::TocBuilder::new();
            for i in 0..rows as u64 {
                let kind = Kind::File { size: i, digest: Some(digest) };
                let path =
                    format!("usr/lib/node_modules/package-{:05}/dist/file-{i:07}.js", i / 20);
                builder.push(Entry { kind, ..entry(&path, 0) });
            }
            builder.finish()
        };
        let timed = |what: &str, run: &mut dyn FnMut()| {
            let time = median(|| {
                let start = thread_seconds();
                run();
                thread_seconds() - start
            });
            println!("toc {rows:>8} {what:<24} {:>8.2} ms", time * 1e3);
        };
        let toc = build();
        println!("toc {rows:>8} bytes a row {}", toc.heap_size() / rows);
        timed("build", &mut || drop(build()));
        let mut bytes = Vec::new();
        toc.write_to(&mut bytes).expect("write");
        println!("toc {rows:>8} bytes on disk {}", bytes.len());
        timed("write", &mut || toc.write_to(&mut io::sink()).expect("write"));
        timed("read", &mut || drop(Toc::read_from(&mut &bytes[..]).expect("read")));
        timed("digest", &mut || _ = std::hint::black_box(toc.digest()));
        let paths: Vec<RootPath> = toc.iter().step_by(10).map(|row| row.root_path()).collect();
        let toc = std::sync::Arc::new(toc);
        let layers = vec![toc.clone(), std::sync::Arc::default(), toc];
        let tree = lapstrake::layer::Tree::new(layers);
        timed("walk of 3 layers", &mut || {
            assert!(tree.walk(&RootPath::root()).count() > rows);
        });
        timed("a tenth looked up", &mut || {
            assert!(paths.iter().all(|path| tree.lookup(path).is_some()));
        });
    }
}

fn main() {
    let mib = std::env::var("LAYER_BENCH_MIB").ok().and_then(|mib| mib.parse().ok());
    let size: usize = mib.unwrap_or(SIZE_MIB) << 20;
    let filter = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let wanted = |name: &str| name.contains(&filter);
    let show = |name: &str, len: usize, run: &dyn Fn() -> (f64, u64)| {
        let before = cpu_seconds();
        let (time, size) = run();
        let megabytes = len as f64 / 1e6;
        println!(
            "{name:<36} {:>8.1} MB/s {:>8.1} MB/CPU-s  {:.4}",
            megabytes / time,
            megabytes * RUNS as f64 / (cpu_seconds() - before),
            size as f64 / len as f64
        );
    };
    if wanted("toc") {
        tables();
    }
    if !filter.is_empty() && "toc".contains(&filter) {
        return;
    }
    let text = text(size);
    let random = random(size);
    let mixed: Vec<u8> = {
        let (a, b) = (text.chunks(25_600), random.chunks(25_600));
        a.zip(b).flat_map(|(a, b)| [a, b].concat()).take(size).collect()
    };
    let file = std::env::var_os("LAYER_BENCH_FILE").map(std::fs::read);
    let file = file.transpose().expect("LAYER_BENCH_FILE is readable").unwrap_or_default();
    let mut levels: Vec<(String, Compression)> =
        (1..=6).map(|level| (format!("gzip -{level}"), Compression::Gzip { level })).collect();
    levels.extend((1..=3).map(|level| (format!("zstd -{level}"), Compression::Zstd { level })));
    levels.push(("none".to_owned(), Compression::None));
    for (name, compression) in levels {
        for (kind, data) in
            [("text", &text), ("random", &random), ("mixed", &mixed), ("file", &file)]
        {
            if data.is_empty() {
                continue;
            }
            for threads in [1, 2] {
                let title = format!("encode {kind} {name} {threads} threads");
                if wanted(&title) {
                    show(&title, data.len(), &|| encode(data, compression, threads));
                }
                let title = format!("pack {kind} {name} {threads} threads");
                if wanted(&title) {
                    show(&title, data.len(), &|| pack_files(data, 1 << 20, compression, threads));
                }
            }
        }
    }
    for compression in [Compression::GZIP, Compression::ZSTD, Compression::None] {
        let title = format!("tiny {compression:?}");
        if wanted(&title) {
            let toc: Toc =
                ["etc/a", "etc/b", "etc/c"].map(|path| entry(path, 1000)).into_iter().collect();
            let options = PackOptions { compression, threads: 2, epoch: None };
            let mut times: Vec<f64> = (0..1001)
                .map(|_| {
                    let start = Instant::now();
                    let mut open =
                        |_: &lapstrake::layer::EntryRef<'_>| -> io::Result<Box<dyn Read>> {
                            Ok(Box::new(io::Cursor::new(vec![b'x'; 1000])))
                        };
                    pack(&toc, &mut open, options, &mut Count(0)).expect("pack");
                    start.elapsed().as_secs_f64()
                })
                .collect();
            times.sort_by(f64::total_cmp);
            println!("{title:<40} {:>8.3} ms", times[500] * 1e3);
        }
    }
}
