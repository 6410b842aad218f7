//! `lapstrake bake`: targets of bake files, built in one graph.
//!
//! `files.rs` finds and reads the files, `remote.rs` those of repositories and URLs, `request.rs`
//! turns a target into the arguments of `build`, `grants.rs` says what of this machine a target may
//! touch, `plan.rs` plans all targets into one graph, `run.rs` builds it.

mod files;
mod grants;
mod plan;
mod remote;
mod request;
mod run;

use crate::bake::{Chosen, Config};

use super::args::{BakeArgs, ListFormat};
use super::environment::Environment;
use super::report::{Report, Result};

/// Runs the command.
pub fn run(args: &BakeArgs, env: &Environment) -> Result<()> {
    let named = remote::named(&args.targets)?;
    let definition = named.definition;
    let files = files::read(args, definition.as_ref(), env)?;
    let config = files::config(&files, definition.as_ref(), named.context, args, env)?;
    definition.iter().for_each(remote::Definition::release);
    if let Some(list) = &args.list {
        return self::list(list, &config, env);
    }
    let lookup = |name: &str| env.variable(name);
    let mut chosen = config
        .choose(named.targets, &overrides(args), &lookup)
        .map_err(|error| files::report(&files, &error, env))?;
    if let Some(definition) = &definition {
        chosen.targets.values_mut().for_each(|target| definition.place(target));
    }
    if args.print {
        env.print(&format!("{:#}\n", printed(&chosen)));
        return Ok(());
    }
    run::build(&chosen, definition.as_ref(), args, env)
}

/// The `--set`s, and the flags that stand for some.
fn overrides(args: &BakeArgs) -> Vec<String> {
    let mut sets = args.set.clone();
    if args.no_cache {
        sets.push("*.no-cache=true".to_owned());
    }
    if args.pull {
        sets.push("*.pull=true".to_owned());
    }
    if args.push {
        sets.push("*.push=true".to_owned());
    }
    for (kind, value) in [("sbom", &args.sbom), ("provenance", &args.provenance)] {
        match value.as_deref() {
            None => {}
            Some("true" | "1" | "") => sets.push(format!("*.attest=type={kind}")),
            Some("false" | "0") => sets.push(format!("*.attest=type={kind},disabled=true")),
            Some(more) => sets.push(format!("*.attest=type={kind},{more}")),
        }
    }
    sets
}

fn printed(chosen: &Chosen) -> serde_json::Value {
    let groups = chosen.groups.iter();
    let groups: serde_json::Map<String, serde_json::Value> = groups
        .map(|(name, targets)| (name.clone(), serde_json::json!({ "targets": targets })))
        .collect();
    let targets: serde_json::Map<String, serde_json::Value> =
        chosen.targets.iter().map(|(name, target)| (name.clone(), target.to_json())).collect();
    serde_json::json!({ "group": groups, "target": targets })
}

/// Prints what the files define.
fn list(text: &str, config: &Config, env: &Environment) -> Result<()> {
    let wrong = || {
        Report::usage(format!("--list={text}: there is no such list"))
            .with_hint("as in --list=targets, --list=variables or --list=type=targets,format=json")
    };
    let (mut what, mut format) = (None, ListFormat::Table);
    for field in text.split(',') {
        match field.split_once('=') {
            None | Some(("type", _)) => what = field.rsplit('=').next(),
            Some(("format", "json")) => format = ListFormat::Json,
            Some(("format", "table")) => format = ListFormat::Table,
            Some(_) => return Err(wrong()),
        }
    }
    let (header, mut rows): (&[&str], Vec<Vec<Option<String>>>) = match what {
        Some("targets") => {
            let targets = config.targets.iter().map(|target| {
                vec![Some(target.name.clone()), target.text("description").map(str::to_owned)]
            });
            let groups = config
                .groups
                .iter()
                .filter(|group| !config.targets.iter().any(|target| target.name == group.name));
            let groups = groups.map(|group| {
                let members = group.targets.join(", ");
                vec![Some(group.name.clone()), group.description.clone().or(Some(members))]
            });
            (&["target", "description"], targets.chain(groups).collect())
        }
        Some("variables") => {
            let rows = config.variables.iter().map(|variable| {
                vec![
                    Some(variable.name.clone()),
                    variable.kind.clone(),
                    variable.value.clone(),
                    variable.description.clone(),
                ]
            });
            (&["variable", "type", "value", "description"], rows.collect())
        }
        _ => return Err(wrong()),
    };
    rows.sort();
    let text = match format {
        ListFormat::Json => {
            let object = |row: Vec<Option<String>>| {
                let members = header.iter().zip(row).filter_map(|(name, value)| {
                    // The first column is the name, whatever the list is of.
                    let name = if name == &header[0] { "name" } else { name };
                    value.map(|value| (name.to_owned(), value.into()))
                });
                serde_json::Value::Object(members.collect())
            };
            let all: Vec<serde_json::Value> = rows.into_iter().map(object).collect();
            format!("{:#}\n", serde_json::Value::Array(all))
        }
        ListFormat::Table => {
            let head = header.iter().map(|name| Some(name.to_uppercase())).collect();
            let all: Vec<Vec<Option<String>>> = std::iter::once(head).chain(rows).collect();
            let cell = |row: &Vec<Option<String>>, column: usize| {
                row.get(column).cloned().flatten().unwrap_or_default()
            };
            let width = |column: usize| {
                all.iter().map(|row| cell(row, column).chars().count()).max().unwrap_or(0)
            };
            let line = |row: &Vec<Option<String>>| {
                let cells: Vec<String> = (0..header.len())
                    .map(|column| format!("{:<1$}", cell(row, column), width(column)))
                    .collect();
                format!("{}\n", cells.join("  ").trim_end())
            };
            all.iter().map(line).collect()
        }
    };
    env.print(&text);
    Ok(())
}
