//! Small pieces of text: durations, sizes, bytes that must not reach a terminal raw.

use std::time::Duration;

/// Writes a duration with one decimal below a minute, as `1m03s` above.
pub fn duration(took: Duration) -> String {
    let seconds = took.as_secs();
    if seconds < 60 {
        return format!("{:.1}s", took.as_secs_f64());
    }
    if seconds < 3600 {
        return format!("{}m{:02}s", seconds / 60, seconds % 60);
    }
    format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60)
}

/// Writes a number of things, as `1 layer` or `2 layers`.
pub fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Writes a number of bytes in decimal units, as `12.3 MB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Writes a transfer rate with a space in front, as ` 12.3 MB/s`; nothing when it was over too soon
/// to tell.
pub fn rate(bytes: u64, took: Duration) -> String {
    if bytes == 0 || took < Duration::from_millis(100) {
        return String::new();
    }
    format!(" {}/s", size((bytes as f64 / took.as_secs_f64()) as u64))
}

/// Makes the output of a program safe to print: control characters (but tabs) become visible, bytes
/// that are not UTF-8 are replaced. With `colour` the codes that set colours stay.
pub fn printable(bytes: &[u8], colour: bool) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut rest = &text[..];
    while let Some(c) = rest.chars().next() {
        if c == '\u{1b}' {
            let code = sgr(rest);
            if code > 0 {
                if colour {
                    out.push_str(&rest[..code]);
                }
                rest = &rest[code..];
                continue;
            }
        }
        match c {
            '\t' => out.push('\t'),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    out
}

/// Gives the length of a colour code (`ESC [ … m`) at the start of `text`; 0 when there is none.
fn sgr(text: &str) -> usize {
    let Some(body) = text.strip_prefix("\u{1b}[") else { return 0 };
    match body.find(|c: char| !(c.is_ascii_digit() || c == ';')) {
        Some(end) if body[end..].starts_with('m') => end + 3,
        _ => 0,
    }
}

/// Cuts `text` to `width` columns (counting characters), with an ellipsis when something is cut.
pub fn fit(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut out: String = text.chars().take(width.saturating_sub(1)).collect();
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_well() {
        assert_eq!(duration(Duration::from_millis(1234)), "1.2s");
        assert_eq!(duration(Duration::from_secs(63)), "1m03s");
        assert_eq!(duration(Duration::from_secs(3720)), "1h02m");
        assert_eq!(size(999), "999 B");
        assert_eq!(size(12_345_678), "12.3 MB");
        assert_eq!([0, 1, 2].map(|n| count(n, "layer")), ["0 layers", "1 layer", "2 layers"]);
    }

    #[test]
    fn output_of_programs_cannot_drive_the_terminal() {
        assert_eq!(printable(b"a\x1b[31mred\x1b[0m", true), "a\u{1b}[31mred\u{1b}[0m");
        assert_eq!(printable(b"a\x1b[31mred\x1b[0m", false), "ared");
        assert_eq!(printable(b"\x1b[2J\x07x\xff", true), "\\u{1b}[2J\\u{7}x\u{fffd}");
    }

    #[test]
    fn long_names_are_cut() {
        assert_eq!(fit("abcdef", 4), "abc…");
        assert_eq!(fit("abc", 4), "abc");
    }
}
