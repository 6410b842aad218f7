//! `build --check` and `build --call`: what a Dockerfile says, without building it.
//!
//! The JSON has the shape that buildx prints: `lint.LintResults`, `outline.Outline` and
//! `targets.List` of BuildKit's `frontend/subrequests`. No step runs, no namespace is entered, and no
//! registry is asked unless `--pull` says so; a base image that is not at hand is taken as unknown,
//! and what depends on it is not checked.
//!
//! `check` ends with exit code 2 (that of Dockerfile errors) when it found something.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::build::advice;
use crate::build::bases::{Bases, Pull};
use crate::context::Context;
use crate::dockerfile::{CheckOptions, Diagnostic, Dockerfile, LineIndex, Parsed, Span};
use crate::graph::outline::Outline;
use crate::graph::{
    self, BaseImage, Graph, Request, ResolveError, ResolveExit, Resolved, Resolver, UNKNOWN,
};
use crate::oci::{Digest, ImageConfig, Platform};

use super::args::BuildArgs;
use super::environment::Environment;
use super::options;
use super::report::{Exit, Report, Result};

/// What is asked of the Dockerfile instead of building it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    method: Method,
    json: bool,
    /// End with exit code 0 whatever was found.
    ignore_status: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Check,
    Outline,
    Targets,
}

/// The file that is asked about, and where answers go.
pub struct Page<'a> {
    /// The command's surroundings.
    pub env: &'a Environment,
    /// The name of the file as shown.
    pub name: &'a str,
    /// What it says.
    pub dockerfile: &'a Dockerfile,
    /// Draws a diagnostic.
    pub draw: &'a dyn Fn(&Diagnostic) -> String,
}

/// Reads `--check` and `--call`; None is a build.
pub fn requested(args: &BuildArgs) -> Result<Option<Call>> {
    let text = match (&args.call, args.check) {
        (Some(text), _) => text.as_str(),
        (None, true) => "check",
        (None, false) => return Ok(None),
    };
    let mut call = Call { method: Method::Check, json: false, ignore_status: false };
    let mut build = true;
    for (key, value) in options::fields(text) {
        let wrong = |what: &str| {
            Report::usage(format!("--call {text}: {what}")).with_hint(
                "write --call=check, --call=outline or --call=targets, with ,format=json for programs",
            )
        };
        match (key.as_str(), value.as_str()) {
            ("check" | "lint", "") => build = false,
            ("outline", "") => (call.method, build) = (Method::Outline, false),
            ("targets", "") => (call.method, build) = (Method::Targets, false),
            ("build", "") => {}
            ("format", "json") => call.json = true,
            ("format", "text") => call.json = false,
            ("format", _) => return Err(wrong("the formats are json and text")),
            ("ignorestatus", "" | "true") => call.ignore_status = true,
            ("ignorestatus", "false") => call.ignore_status = false,
            (other, "") => return Err(wrong(&format!("there is no method {other:?}"))),
            (other, _) => return Err(wrong(&format!("there is no option {other:?}"))),
        }
    }
    if build && args.check {
        build = false;
    }
    Ok((!build).then_some(call))
}

/// Reads the build argument that takes the place of the check directive.
pub fn checks(build_args: &BTreeMap<String, String>) -> Result<Option<CheckOptions>> {
    const NAME: &str = "BUILDKIT_DOCKERFILE_CHECK";
    let Some(text) = build_args.get(NAME) else { return Ok(None) };
    let options = CheckOptions::parse(text).map_err(|why| {
        Report::usage(format!("--build-arg {NAME}={text}: {why}"))
            .with_hint(format!("as {NAME}='skip=UndefinedVar;error=true'"))
    })?;
    Ok(Some(options))
}

/// Puts all findings together that are made before a step runs.
pub fn warnings(
    dockerfile: &Dockerfile,
    parsed: Vec<Diagnostic>,
    graph: &mut Graph,
    contexts: &BTreeMap<String, Arc<Context>>,
) -> Vec<Diagnostic> {
    let mut planned = std::mem::take(&mut graph.warnings);
    planned.extend(advice::ahead(dockerfile, graph, contexts));
    graph::check::settle(dockerfile, parsed, &graph.checks, planned)
}

/// Fails the build when checks found something and `error=true` is set.
pub fn refuse_findings(dockerfile: &Dockerfile, found: &[Diagnostic]) -> Result<()> {
    let rules: BTreeSet<&str> =
        found.iter().filter_map(|finding| finding.rule).map(|rule| rule.name()).collect();
    if !dockerfile.directives.check.error || rules.is_empty() {
        return Ok(());
    }
    let names = rules.into_iter().collect::<Vec<_>>().join(", ");
    Err(Report::usage(format!("checks found something, and error=true forbids that: {names}"))
        .with_hint("mend it, or take the check out: # check=skip=NAME;error=true"))
}

/// Answers what needs nothing but the file; None when more is needed.
pub fn of_file(call: &Call, page: &Page<'_>, parsed: &Parsed) -> Option<Result<()>> {
    let broken = parsed.has_errors();
    match call.method {
        Method::Targets if !broken => Some(targets(call, page)),
        Method::Check if broken => Some(check(call, page, parsed.diagnostics.clone())),
        _ => None,
    }
}

/// Answers what needs a plan.
pub fn of_plan(
    call: &Call,
    page: &Page<'_>,
    parsed: Vec<Diagnostic>,
    request: &Request,
    bases: &mut Bases<'_>,
    ask: bool,
    contexts: &BTreeMap<String, Arc<Context>>,
) -> Result<()> {
    if call.method == Method::Outline {
        let outline = graph::outline::outline(page.dockerfile, request).map_err(|found| {
            let mut report = Report::new(Exit::Usage, "");
            report.excerpt = Some((page.draw)(&found));
            report
        })?;
        return print_outline(call, page, &outline);
    }
    if !ask {
        bases.pull = Pull::Never;
    }
    let mut resolver = Lenient { inner: bases, unknown: BTreeMap::new() };
    let planned = graph::plan(page.dockerfile, request, &mut resolver);
    let unknown = resolver.unknown;
    for (name, why) in &unknown {
        page.env.say(&format!(
            "note: {name}: {why}; what depends on its config is not checked (--pull asks its registry)\n"
        ));
    }
    let found = match planned {
        Ok(mut graph) => {
            let found = warnings(page.dockerfile, parsed, &mut graph, contexts);
            // The process is about to end; freeing each name of thousands of steps takes time.
            std::mem::forget(graph);
            found
        }
        Err(failure) => {
            let mut all = parsed;
            all.push(failure.diagnostic);
            all
        }
    };
    check(call, page, found)
}

/// Resolves what is at hand, and takes everything else as unknown.
struct Lenient<'r, 's> {
    inner: &'r mut Bases<'s>,
    unknown: BTreeMap<String, String>,
}

impl Lenient<'_, '_> {
    fn guess(&mut self, name: &str, platform: &Platform, why: ResolveError) -> BaseImage {
        self.unknown.insert(name.to_owned(), why.message);
        BaseImage {
            name: name.to_owned(),
            handle: UNKNOWN,
            platform: platform.clone(),
            digest: Digest::of(name.as_bytes()),
            config: ImageConfig::empty(platform),
        }
    }
}

impl Resolver for Lenient<'_, '_> {
    fn named_context(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> std::result::Result<Option<Resolved>, ResolveError> {
        match self.inner.named_context(name, platform) {
            Err(why) if why.exit != ResolveExit::Damaged => {
                Ok(Some(Resolved::Image(Box::new(self.guess(name, platform, why)))))
            }
            other => other,
        }
    }

    fn image(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> std::result::Result<BaseImage, ResolveError> {
        match self.inner.image(name, platform) {
            Err(why) if why.exit != ResolveExit::Damaged => Ok(self.guess(name, platform, why)),
            other => other,
        }
    }
}

/// Prints what the checks found.
fn check(call: &Call, page: &Page<'_>, found: Vec<Diagnostic>) -> Result<()> {
    let error = found.iter().find(|finding| finding.is_error() && finding.rule.is_none());
    let warnings: Vec<&Diagnostic> = found.iter().filter(|found| found.rule.is_some()).collect();
    if call.json {
        let places = Places::new(page.dockerfile);
        let lines = LineIndex::new(&page.dockerfile.source);
        let listed: Vec<Value> = warnings
            .iter()
            .filter_map(|finding| Some((finding.rule?, finding)))
            .map(|(rule, finding)| {
                let mut value =
                    json!({ "ruleName": rule.name(), "description": rule.description() });
                if let Some(url) = rule.url() {
                    value["url"] = url.into();
                }
                value["detail"] = match &finding.help {
                    Some(help) => format!("{} ({help})", finding.message).into(),
                    None => finding.message.clone().into(),
                };
                value["location"] = places.location(&lines, finding.span);
                value
            })
            .collect();
        let mut result = json!({ "warnings": listed, "sources": [source(page)] });
        if let Some(error) = error {
            result["buildError"] = json!({
                "message": error.message,
                "location": places.location(&lines, error.span),
            });
        }
        page.env.print(&format!("{result:#}\n"));
    } else {
        for finding in found.iter().filter(|finding| !finding.is_error() || finding.rule.is_some())
        {
            page.env.print(&format!("{}\n\n", (page.draw)(finding)));
        }
        if let Some(error) = error {
            page.env.print(&format!("{}\n\n", (page.draw)(error)));
        }
        page.env.print(&match (warnings.len(), error) {
            (0, None) => "checked: nothing found\n".to_owned(),
            (0, Some(_)) => "checked: the file can not be built\n".to_owned(),
            (1, _) => "checked: 1 warning\n".to_owned(),
            (count, _) => format!("checked: {count} warnings\n"),
        });
    }
    if call.ignore_status || (warnings.is_empty() && error.is_none()) {
        return Ok(());
    }
    let mut report = Report::new(Exit::Usage, "");
    report.annotation = Some(String::new());
    Err(report)
}

/// Prints the stages that can be built.
fn targets(call: &Call, page: &Page<'_>) -> Result<()> {
    let stages = page.dockerfile.stages();
    let lines = LineIndex::new(&page.dockerfile.source);
    let places = Places::new(page.dockerfile);
    if call.json {
        let listed: Vec<Value> = stages
            .iter()
            .map(|stage| {
                let mut value = json!({});
                if let Some(name) = stage.name() {
                    value["name"] = name.into();
                }
                if stage.index + 1 == stages.len() {
                    value["default"] = true.into();
                }
                let doc = stage.from.alias.as_ref().and_then(|alias| alias.doc.as_ref());
                if let Some(doc) = doc.filter(|doc| !doc.is_empty()) {
                    value["description"] = doc.as_str().into();
                }
                value["base"] = stage.from.image.text.as_str().into();
                if let Some(platform) = &stage.from.platform {
                    value["platform"] = platform.text.as_str().into();
                }
                value["location"] = places.location(&lines, stage.instruction.span);
                value
            })
            .collect();
        let result = json!({ "targets": listed, "sources": [data(page)] });
        page.env.print(&format!("{result:#}\n"));
        return Ok(());
    }
    let mut rows = vec![["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for stage in &stages {
        let name = match (stage.name(), stage.index + 1 == stages.len()) {
            (Some(name), true) => format!("{name} (default)"),
            (None, true) => "(default)".to_owned(),
            (Some(name), false) => name.to_owned(),
            // Such a stage can be named by its number.
            (None, false) => stage.index.to_string(),
        };
        let doc = stage.from.alias.as_ref().and_then(|alias| alias.doc.clone());
        rows.push([name, doc.unwrap_or_default()]);
    }
    page.env.print(&table(&rows));
    Ok(())
}

fn print_outline(call: &Call, page: &Page<'_>, outline: &Outline) -> Result<()> {
    if call.json {
        let lines = LineIndex::new(&page.dockerfile.source);
        let places = Places::new(page.dockerfile);
        let mut result = json!({});
        let mut set = |key: &str, value: Value, empty: bool| {
            if !empty {
                result[key] = value;
            }
        };
        set("name", json!(outline.name), outline.name.is_empty());
        set("description", json!(outline.description), outline.description.is_empty());
        let args: Vec<Value> = outline
            .args
            .iter()
            .map(|arg| {
                let mut value = json!({ "name": arg.name });
                if !arg.description.is_empty() {
                    value["description"] = json!(arg.description);
                }
                if !arg.value.is_empty() {
                    value["value"] = json!(arg.value);
                }
                value["location"] = places.location(&lines, arg.span);
                value
            })
            .collect();
        set("args", json!(args), args.is_empty());
        for (key, list) in [("secrets", &outline.secrets), ("ssh", &outline.ssh)] {
            let listed: Vec<Value> = list
                .iter()
                .map(|needed| {
                    let mut value = json!({ "name": needed.name });
                    if needed.required {
                        value["required"] = true.into();
                    }
                    value["location"] = places.location(&lines, needed.span);
                    value
                })
                .collect();
            set(key, json!(listed), listed.is_empty());
        }
        set("sources", json!([data(page)]), false);
        page.env.print(&format!("{result:#}\n"));
        return Ok(());
    }
    let mut text = String::new();
    if !outline.name.is_empty() {
        text.push_str(&format!("TARGET:      {}\n", outline.name));
    }
    if !outline.description.is_empty() {
        text.push_str(&format!("DESCRIPTION: {}\n", outline.description));
    }
    let mut section = |rows: Vec<Vec<String>>| {
        if rows.len() > 1 {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&table(&rows));
        }
    };
    let heading = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let mut rows = vec![heading(&["BUILD ARG", "VALUE", "DESCRIPTION"])];
    for arg in &outline.args {
        rows.push(vec![arg.name.clone(), arg.value.clone(), arg.description.clone()]);
    }
    section(rows);
    for (title, list) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        let mut rows = vec![heading(&[title, "REQUIRED"])];
        for needed in list {
            let required = if needed.required { "true" } else { "" };
            rows.push(vec![needed.name.clone(), required.to_owned()]);
        }
        section(rows);
    }
    page.env.print(&text);
    Ok(())
}

/// Lines columns up, three blanks apart.
fn table<R: AsRef<[String]>>(rows: &[R]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (at, cell) in row.as_ref().iter().enumerate() {
            if widths.len() <= at {
                widths.push(0);
            }
            widths[at] = widths[at].max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.as_ref().iter().zip(&widths) {
            line.push_str(&format!("{cell:width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn source(page: &Page<'_>) -> Value {
    json!({ "filename": page.name, "language": "Dockerfile", "data": data(page) })
}

fn data(page: &Page<'_>) -> String {
    STANDARD.encode(page.dockerfile.source.as_bytes())
}

/// Finds the lines of instructions: BuildKit's locations are whole instructions, a range a line.
struct Places {
    instructions: Vec<Span>,
}

impl Places {
    fn new(dockerfile: &Dockerfile) -> Places {
        Places { instructions: dockerfile.instructions.iter().map(|one| one.span).collect() }
    }

    fn location(&self, lines: &LineIndex, span: Span) -> Value {
        let whole = self
            .instructions
            .iter()
            .find(|one| one.start <= span.start && span.start < one.end)
            .copied()
            .unwrap_or(span);
        let (first, last) = (lines.line(whole.start), lines.line(whole.end.max(1) - 1));
        let ranges: Vec<Value> = (first..=last.max(first))
            .map(|line| json!({ "start": { "line": line }, "end": { "line": line } }))
            .collect();
        json!({ "ranges": ranges })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [["A".to_owned(), "B".to_owned()], ["long".to_owned(), String::new()]];
        assert_eq!(table(&rows), "A      B\nlong\n");
    }

    #[test]
    fn a_location_is_the_whole_instruction() {
        let parsed = crate::dockerfile::parse(b"FROM a\nRUN x \\\n  y\n");
        let lines = LineIndex::new(&parsed.dockerfile.source);
        let places = Places::new(&parsed.dockerfile);
        let found = places.location(&lines, Span::new(9, 10));
        assert_eq!(
            found,
            json!({"ranges": [
                {"start": {"line": 2}, "end": {"line": 2}},
                {"start": {"line": 3}, "end": {"line": 3}},
            ]})
        );
    }
}
