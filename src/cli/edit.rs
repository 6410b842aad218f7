//! What Buildah lets change from the command line: build arguments of a file, variables and labels
//! of the result, name servers of steps.

use std::collections::BTreeMap;
use std::path::Path;

use crate::graph::Edits;

use super::args::EditArgs;
use super::options;
use super::report::{Report, Result};

/// Reads the `--build-arg-file`s: NAME=VALUE lines, and NAME lines whose value is of the
/// environment. Later ones win. Lines that begin with `#` are comments.
pub fn build_arg_files(
    args: &EditArgs,
    cwd: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for file in &args.build_arg_file {
        let shown = file.display();
        let text = std::fs::read_to_string(cwd.join(file))
            .map_err(|error| Report::usage(format!("--build-arg-file {shown}: {error}")))?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let flag = format!("--build-arg-file {shown}, line {number}:");
            out.extend(options::assignments(&flag, &[line.to_owned()], env)?);
        }
    }
    Ok(out)
}

/// Adds the inline cache that BUILDKIT_INLINE_CACHE=1 asks for (buildx: `build/opt.go`).
pub fn cache_to(given: &[String], build_args: &BTreeMap<String, String>) -> Vec<String> {
    let mut out = given.to_vec();
    let asked = build_args
        .get("BUILDKIT_INLINE_CACHE")
        .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "True" | "TRUE"));
    if asked && !given.iter().any(|text| text == "inline" || text.contains("type=inline")) {
        out.push("type=inline".to_owned());
    }
    out
}

/// Reads --env, --unsetenv and --unsetlabel.
pub fn edits(args: &EditArgs, env: &dyn Fn(&str) -> Option<String>) -> Result<Edits> {
    let names = |flag: &str, list: &[String]| -> Result<Vec<String>> {
        match list.iter().find(|name| name.is_empty() || name.contains('=')) {
            Some(name) => Err(Report::usage(format!("{flag} {name}: expected a name"))),
            None => Ok(list.to_vec()),
        }
    };
    Ok(Edits {
        env: options::assignments("--env", &args.env, env)?,
        unset_env: names("--unsetenv", &args.unsetenv)?,
        unset_labels: names("--unsetlabel", &args.unsetlabel)?,
    })
}

/// Gives the resolv.conf of steps: the host's, with the lines replaced that --dns, --dns-search and
/// --dns-option are about. `--dns-search .` stands for none.
pub fn resolv_conf(args: &EditArgs, host: Vec<u8>) -> Result<Vec<u8>> {
    for (flag, list) in [("--dns-search", &args.dns_search), ("--dns-option", &args.dns_option)] {
        let is_odd = |word: &&String| {
            word.is_empty() || word.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if let Some(word) = list.iter().find(is_odd) {
            return Err(Report::usage(format!("{flag} {word:?}: expected one word")));
        }
    }
    let mut replaced: Vec<&str> = Vec::new();
    let mut lines = String::new();
    if !args.dns.is_empty() {
        replaced.push("nameserver");
        args.dns.iter().for_each(|address| lines.push_str(&format!("nameserver {address}\n")));
    }
    if !args.dns_search.is_empty() {
        replaced.extend(["search", "domain"]);
        if args.dns_search != ["."] {
            lines.push_str(&format!("search {}\n", args.dns_search.join(" ")));
        }
    }
    if !args.dns_option.is_empty() {
        replaced.push("options");
        lines.push_str(&format!("options {}\n", args.dns_option.join(" ")));
    }
    if replaced.is_empty() {
        return Ok(host);
    }
    let kept: String = String::from_utf8_lossy(&host)
        .lines()
        .filter(|line| line.split_whitespace().next().is_none_or(|word| !replaced.contains(&word)))
        .map(|line| format!("{line}\n"))
        .collect();
    Ok((lines + &kept).into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inline_cache_is_asked_for_once() {
        let with = |value: &str, given: &[&str]| {
            let given: Vec<String> = given.iter().map(|text| (*text).to_owned()).collect();
            cache_to(&given, &BTreeMap::from([("BUILDKIT_INLINE_CACHE".into(), value.into())]))
        };
        assert_eq!(with("1", &[]), ["type=inline"]);
        assert_eq!(with("true", &["a/b"]), ["a/b", "type=inline"]);
        assert_eq!(with("1", &["inline"]), ["inline"]);
        assert!(with("0", &[]).is_empty() && cache_to(&[], &BTreeMap::new()).is_empty());
    }

    #[test]
    fn only_the_lines_of_resolv_conf_that_are_named_change() {
        let host = || b"# mine\nnameserver 1.1.1.1\nsearch a b\noptions ndots:2\n".to_vec();
        let show = |args: &EditArgs| String::from_utf8(resolv_conf(args, host()).unwrap()).unwrap();
        assert_eq!(show(&EditArgs::default()).into_bytes(), host());
        let dns = vec!["9.9.9.9".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(
            show(&EditArgs { dns, ..Default::default() }),
            "nameserver 9.9.9.9\nnameserver ::1\n# mine\nsearch a b\noptions ndots:2\n"
        );
        let dns_option = vec!["rotate".to_owned()];
        let dns_search = vec![".".to_owned()];
        assert_eq!(
            show(&EditArgs { dns_search, dns_option, ..Default::default() }),
            "options rotate\n# mine\nnameserver 1.1.1.1\n"
        );
        let dns_search = vec!["a\nnameserver 6.6.6.6".to_owned()];
        assert!(resolv_conf(&EditArgs { dns_search, ..Default::default() }, host()).is_err());
    }
}
