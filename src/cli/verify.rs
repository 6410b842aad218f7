//! `lapstrake verify`: reads images whole and hashes everything anew.

use crate::transport::{ImageName, Selector, layout, validate};
use crate::ui::text;

use super::copy::{Place, failed, parse_name};
use super::environment::Environment;
use super::image_args::VerifyArgs;
use super::report::{Exit, Report, Result};

/// Runs the command. Every image is read, also behind one that is damaged.
pub fn run(args: &VerifyArgs, env: &Environment) -> Result<()> {
    let mut names = Vec::new();
    for text in &args.images {
        names.push((text.clone(), parse_name(env, text)?));
    }
    let place = Place::open(env, &args.registry)?;
    let _held = super::copy::hold(&place.store)?;
    let mut wrong = Vec::new();
    for (shown, name) in names {
        for (shown, name) in each(&shown, name)? {
            let source = place.source(&name, &shown)?;
            // What cannot be found or reached is told as such, and is not damage.
            source.root().map_err(|error| failed(&format!("cannot verify {shown}"), &error))?;
            match validate::source(source.as_ref()) {
                Ok(summary) => {
                    let size: u64 = summary.reached.values().sum();
                    let platforms: Vec<String> =
                        summary.images.iter().map(|(_, platform)| platform.format_all()).collect();
                    let (root, _) = source
                        .root()
                        .map_err(|error| failed(&format!("cannot verify {shown}"), &error))?;
                    env.print(&format!(
                        "{shown}  {}  {}  {} in {} blobs\n",
                        root.digest,
                        platforms.join(","),
                        text::size(size),
                        summary.reached.len()
                    ));
                }
                Err(problems) => {
                    wrong.extend(
                        problems.0.into_iter().map(|problem| format!("{shown}: {problem}")),
                    );
                }
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let count = wrong.len();
    for problem in &wrong {
        let problem = text::printable(problem.as_bytes(), false);
        env.say(&format!("{problem}\n"));
    }
    Err(Report::new(Exit::Damaged, format!("{count} problems were found"))
        .with_hint("get the image again where it is whole, or build it again"))
}

/// Gives all images of a layout when none of them is named.
fn each(shown: &str, name: ImageName) -> Result<Vec<(String, ImageName)>> {
    let ImageName::Layout { path, selector } = &name else {
        return Ok(vec![(shown.to_owned(), name)]);
    };
    if !selector.is_empty() {
        return Ok(vec![(shown.to_owned(), name)]);
    }
    let entries = layout::entries_of(path)
        .map_err(|error| failed(&format!("cannot verify {shown}"), &error))?;
    let mut out: Vec<(String, ImageName)> = Vec::new();
    for entry in entries {
        let selector = Selector { name: None, digest: Some(entry.digest) };
        let shown = format!("{}@{}", shown.trim_end_matches('/'), entry.digest);
        let name = ImageName::Layout { path: path.clone(), selector };
        if !out.iter().any(|(other, _)| *other == shown) {
            out.push((shown, name));
        }
    }
    if out.is_empty() {
        return Err(Report::usage(format!("{shown} has no images")));
    }
    Ok(out)
}
