//! Which files are read, and what the user hears when one is wrong.

use std::collections::BTreeMap;
use std::io::Read;

use crate::bake::{self, Config, File, Format, Given, World};
use crate::oci::Platform;
use crate::ui::diagnostic::Painter;

use super::super::args::BakeArgs;
use super::super::environment::Environment;
use super::super::report::{Exit, Report, Result};
use super::remote::{Definition, HERE};

/// What is read when no `-f` is given: all of these that there are, in this order (buildx:
/// `defaultFilenames`).
const DEFAULT: [&str; 8] = [
    "compose.yaml",
    "compose.yml",
    "docker-compose.yml",
    "docker-compose.yaml",
    "docker-bake.json",
    "docker-bake.hcl",
    "docker-bake.override.json",
    "docker-bake.override.hcl",
];

/// Reads the files: those of the definition first, then those of this machine.
pub fn read(
    args: &BakeArgs,
    definition: Option<&Definition>,
    env: &Environment,
) -> Result<Vec<File>> {
    let text = |name: &str, bytes: Vec<u8>| {
        String::from_utf8(bytes).map(|text| File { name: name.to_owned(), text }).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            Report::usage(format!("{name} is not UTF-8: byte {at} begins no character"))
        })
    };
    let read = |name: &str| -> Result<Vec<u8>> {
        // One byte more than is allowed tells a large file from one that fits.
        let limit = bake::MAX_JSON as u64 + 1;
        let mut bytes = Vec::new();
        let result = match name {
            "-" => std::io::stdin().take(limit).read_to_end(&mut bytes),
            name => std::fs::File::open(env.cwd.join(name))
                .and_then(|file| file.take(limit).read_to_end(&mut bytes)),
        };
        result.map_err(|error| Report::of(Exit::Usage, &format!("cannot read {name}"), &error))?;
        Ok(bytes)
    };
    let mut files = Vec::new();
    // Only cwd:// says that a file is here when the others are not.
    let (here, there): (Vec<&str>, Vec<&str>) = args
        .file
        .iter()
        .map(String::as_str)
        .partition(|name| definition.is_none() || name.starts_with(HERE));
    let here: Vec<&str> =
        here.into_iter().map(|name| name.strip_prefix(HERE).unwrap_or(name)).collect();
    if let Some(definition) = definition {
        for (name, bytes) in definition.read(&there, &DEFAULT, args, env)? {
            files.push(text(&name, bytes)?);
        }
    } else if here.is_empty() {
        for name in DEFAULT {
            if env.cwd.join(name).is_file() {
                files.push(text(name, read(name)?)?);
            }
        }
        if files.is_empty() {
            return Err(Report::usage("there is no bake file here")
                .with_hint(format!("name one with -f; looked for are {}", DEFAULT.join(", "))));
        }
        return Ok(files);
    }
    if here.iter().filter(|name| **name == "-").count() > 1 {
        return Err(Report::usage("-f - is given twice, and standard input can be read once"));
    }
    for name in here {
        files.push(text(name, read(name)?)?);
    }
    Ok(files)
}

/// Evaluates the files. `context` is what BAKE_CMD_CONTEXT is.
pub fn config(files: &[File], context: &str, args: &BakeArgs, env: &Environment) -> Result<Config> {
    let mut variables = BTreeMap::new();
    for text in &args.var {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Report::usage(format!("--var {text}: expected NAME=VALUE")))?;
        variables.insert(name.to_owned(), value.to_owned());
    }
    let compose = files.iter().any(|file| file.format() == Format::Compose);
    let dotenv = match std::fs::read_to_string(env.cwd.join(".env")) {
        Ok(text) if compose => dotenv(&text),
        _ => BTreeMap::new(),
    };
    let builtins = BTreeMap::from([
        ("BAKE_CMD_CONTEXT".to_owned(), context.to_owned()),
        ("BAKE_LOCAL_PLATFORM".to_owned(), Platform::host().to_string()),
    ]);
    let random = || {
        use std::hash::{BuildHasher, Hasher};
        let mut bytes = [0; 16];
        for half in bytes.chunks_mut(8) {
            // The standard library has no other source of randomness, and a name needs no better one.
            let hasher = std::collections::hash_map::RandomState::new().build_hasher();
            half.copy_from_slice(&hasher.finish().to_ne_bytes());
        }
        bytes
    };
    let world = World {
        variable: &|name: &str| std::env::var(name).ok(),
        now: env.now(),
        home: env.variable("HOME"),
        random: &random,
    };
    let given = Given { variables, builtins, dotenv };
    bake::read(files, &given, &world).map_err(|error| report(files, &error, env))
}

/// Draws an error of a bake file.
pub fn report(files: &[File], error: &bake::Error, env: &Environment) -> Report {
    let diagnostic = &error.diagnostic;
    let Some(file) = error.file.and_then(|id| files.get(id)) else {
        let mut report = Report::usage(diagnostic.message.clone());
        report.hints.extend(diagnostic.help.clone());
        return report;
    };
    let name = if file.name == "-" { "standard input" } else { &file.name };
    if diagnostic.span.is_empty() && diagnostic.span.start == 0 {
        // Only the file is known: a member of JSON or YAML has no place.
        let mut report = Report::usage(format!("{name}: {}", diagnostic.message));
        report.hints.extend(diagnostic.help.clone());
        return report;
    }
    let mut report = Report::new(Exit::Usage, "");
    report.excerpt = Some(Painter::new(name, &file.text, env.colour).paint(diagnostic));
    report
}

/// Reads a file of variables: `NAME=value`, in quotes or not, with comments.
fn dotenv(text: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let value = value.trim();
        let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
        let value = quoted('"')
            .or_else(|| quoted('\''))
            .unwrap_or_else(|| value.split_once(" #").map_or(value, |(value, _)| value).trim_end());
        out.insert(name.trim().to_owned(), value.to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn dotenv_files() {
        let text = "# c\nA=1\nexport B = \"x # y\"\nC='z'\nD=v # c\nnothing\n";
        let found: Vec<(String, String)> = super::dotenv(text).into_iter().collect();
        let expected = [("A", "1"), ("B", "x # y"), ("C", "z"), ("D", "v")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected);
    }
}
