//! The texts of history entries, as BuildKit writes them: Go's ways to print lists and durations.

use std::collections::HashMap;

use crate::dockerfile::Healthcheck;
use crate::dockerfile::expand::Env;
use crate::oci::config::Healthcheck as ConfigHealthcheck;

/// Writes a RUN as BuildKit's `runCommandString` does: `|N NAME=value … args`, of which `declared`
/// is what [`declared`] gives.
pub(super) fn run_history(declared: &str, args: &[String]) -> String {
    let mut text = String::with_capacity(declared.len() + 64);
    text.extend(["RUN ", declared]);
    for (index, arg) in args.iter().enumerate() {
        text.extend([if index > 0 { " " } else { "" }, arg]);
    }
    text.push_str(" # buildkit");
    text
}

/// Writes the ARGs that are declared where a RUN stands, each once: `|N NAME=value … `.
pub(super) fn declared(args: &[(String, Option<String>)], env: &dyn Env) -> String {
    let mut order: Vec<&str> = Vec::new();
    let mut values: HashMap<&str, &str> = HashMap::new();
    for (name, value) in args {
        let value = env.get(name).or(value.as_deref()).unwrap_or_default();
        if values.insert(name, value).is_none() {
            order.push(name);
        }
    }
    let mut text = String::new();
    if !order.is_empty() {
        text.push_str(&format!("|{} ", order.len()));
    }
    for name in order {
        text.extend([name, "=", values[name], " "]);
    }
    text
}

pub(super) fn summary(text: &str) -> String {
    let mut lines = text.trim().lines();
    let first = lines.next().unwrap_or_default().to_owned();
    if lines.next().is_some() { format!("{first}...") } else { first }
}

/// Writes words as Go's `%q` prints a slice of strings: `["a" "b"]`.
pub(super) fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| go_quote(word)).collect();
    format!("[{}]", words.join(" "))
}

fn go_quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                out.push_str(&format!("\\x{:02x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Writes nanoseconds as Go prints a duration: `1m30s`, `1.5s`, `500ms`.
pub(super) fn go_duration(nanoseconds: i64) -> String {
    let total = nanoseconds.unsigned_abs();
    let sign = if nanoseconds < 0 { "-" } else { "" };
    let fraction = |value: u64, unit: u64, name: &str| {
        let mut text = format!("{}", value / unit);
        let rest = value % unit;
        if rest > 0 {
            let digits = format!("{rest:0width$}", width = unit.ilog10() as usize);
            text.push('.');
            text.push_str(digits.trim_end_matches('0'));
        }
        text + name
    };
    let text = match total {
        0 => "0s".to_owned(),
        1..1_000 => format!("{total}ns"),
        1_000..1_000_000 => fraction(total, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(total, 1_000_000, "ms"),
        _ => {
            let (hours, rest) = (total / 3_600_000_000_000, total % 3_600_000_000_000);
            let (minutes, rest) = (rest / 60_000_000_000, rest % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000, "s");
            match (hours, minutes) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    };
    format!("{sign}{text}")
}

/// Understands a HEALTHCHECK: what the configuration says, and what history does.
pub(super) fn healthcheck(check: &Healthcheck) -> (Option<ConfigHealthcheck>, String) {
    let config = match check {
        Healthcheck::None => ConfigHealthcheck {
            test: Some(vec!["NONE".to_owned()]),
            ..ConfigHealthcheck::default()
        },
        Healthcheck::Check { test, interval, timeout, start_period, start_interval, retries } => {
            let mut words = vec![if test.is_exec() { "CMD" } else { "CMD-SHELL" }.to_owned()];
            words.extend(test.words());
            ConfigHealthcheck {
                test: Some(words),
                interval: interval.unwrap_or(0),
                timeout: timeout.unwrap_or(0),
                start_period: start_period.unwrap_or(0),
                start_interval: start_interval.unwrap_or(0),
                retries: retries.map_or(0, i64::from),
                ..ConfigHealthcheck::default()
            }
        }
    };
    let text = format!(
        "HEALTHCHECK {{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        config.test.as_deref().unwrap_or_default().join(" "),
        go_duration(config.interval),
        go_duration(config.timeout),
        go_duration(config.start_period),
        go_duration(config.start_interval),
        config.retries
    );
    (Some(config), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_go_does() {
        assert_eq!(quoted(&["a\"b".into(), "c\n".into()]), r#"["a\"b" "c\n"]"#);
        assert_eq!(quoted(&[]), "[]");
    }

    #[test]
    fn durations_print_as_go_does() {
        for (nanoseconds, expect) in [
            (0, "0s"),
            (1_500_000_000, "1.5s"),
            (90_000_000_000, "1m30s"),
            (3_600_000_000_000, "1h0m0s"),
            (500_000_000, "500ms"),
            (1_500, "1.5µs"),
        ] {
            assert_eq!(go_duration(nanoseconds), expect);
        }
    }

    #[test]
    fn run_history_names_build_args_once() {
        let args = ["/bin/sh".to_owned(), "-c".to_owned(), "x".to_owned()];
        let twice = [("A".to_owned(), Some("1".to_owned())), ("A".to_owned(), None)];
        let env = vec![("A".to_owned(), "2".to_owned())];
        let text = |list: &[(String, Option<String>)]| run_history(&declared(list, &env), &args);
        assert_eq!(text(&twice), "RUN |1 A=2 /bin/sh -c x # buildkit");
        assert_eq!(text(&[]), "RUN /bin/sh -c x # buildkit");
        let unset = [("B".to_owned(), None), ("C".to_owned(), Some("3".to_owned()))];
        assert_eq!(text(&unset), "RUN |2 B= C=3 /bin/sh -c x # buildkit");
    }
}
