//! Which files are read, and what the user hears when one is wrong.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::bake::{self, Config, File, Format, Given, World, dotenv};
use crate::context::locate;
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
pub fn config(
    files: &[File],
    definition: Option<&Definition>,
    context: &str,
    args: &BakeArgs,
    env: &Environment,
) -> Result<Config> {
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
    let there = definition.map(Definition::dir);
    let file = |name: &str| -> Result<String, String> {
        let bytes = match &there {
            None => {
                let mut bytes = Vec::new();
                std::fs::File::open(env.cwd.join(name))
                    .and_then(|file| file.take(bake::MAX_FILE as u64 + 1).read_to_end(&mut bytes))
                    .map_err(|error| error.to_string())?;
                bytes
            }
            Some(Some(dir)) => locate::read_inside(dir, Path::new(name))
                .map_err(|error| error.to_string())?
                .ok_or("there is no such file")?,
            Some(None) => return Err("the bake file stands alone, behind a URL".to_owned()),
        };
        if bytes.len() > bake::MAX_FILE {
            return Err(format!("it has more than {} KiB", bake::MAX_FILE >> 10));
        }
        String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
    };
    let world = World {
        variable: &|name: &str| std::env::var(name).ok(),
        now: env.now(),
        home: env.variable("HOME"),
        random: &random,
        file: &file,
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
