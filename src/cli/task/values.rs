//! What the templates of a task are filled in with: the run, values, secrets.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::cli::args::TaskRunArgs;
use crate::cli::environment::Environment;
use crate::cli::options;
use crate::cli::report::{Exit, Report, Result};
use crate::cli::template::Template;
use crate::oci::Platform;

use super::WORKSPACE;

/// The values of `.Run`.
pub(super) fn variables(
    args: &TaskRunArgs,
    env: &Environment,
    workspace: &Path,
) -> BTreeMap<String, String> {
    let now = env.now();
    let date = jiff::Timestamp::from_second(now).unwrap_or_default();
    let date: String = date.to_string().chars().filter(|c| !"-:".contains(*c)).collect();
    let date = date.replace('T', "-").to_lowercase();
    let host = Platform::host();
    let mut out = BTreeMap::new();
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            out.insert(name.to_owned(), value);
        }
    };
    let id = || format!("lc{now:x}{:x}", std::process::id());
    set("ID", Some(args.run_id.clone().unwrap_or_else(id)));
    set("Registry", args.registry_name.clone());
    let short = args.registry_name.as_deref().and_then(|name| name.split(['.', ':']).next());
    set("RegistryName", short.map(str::to_owned));
    set("Date", Some(date));
    set("OS", Some(host.os));
    set("Architecture", Some(host.architecture));
    set("SharedVolume", Some(WORKSPACE.to_owned()));
    set("TriggeredBy", Some("Manual".to_owned()));
    let (commit, branch) = head(workspace);
    set("Commit", args.commit.clone().or(commit));
    set("Branch", args.branch.clone().or(branch));
    out
}

/// Reads commit and branch of a repository's checkout.
fn head(workspace: &Path) -> (Option<String>, Option<String>) {
    let git = workspace.join(".git");
    let read = |name: &str| std::fs::read_to_string(git.join(name)).ok();
    let Some(head) = read("HEAD") else { return (None, None) };
    let head = head.trim();
    let Some(reference) = head.strip_prefix("ref: ") else { return (Some(head.to_owned()), None) };
    let loose = read(reference).map(|text| text.trim().to_owned());
    let packed = || {
        let text = read("packed-refs")?;
        let line = text.lines().find(|line| line.ends_with(&format!(" {reference}")))?;
        line.split(' ').next().map(str::to_owned)
    };
    let branch = reference.strip_prefix("refs/heads/").map(str::to_owned);
    (loose.or_else(packed), branch)
}

/// Reads `--values` and `--set`; a dot in a name leads into an object.
pub(super) fn values(args: &TaskRunArgs, env: &Environment) -> Result<Value> {
    let mut out = json!({});
    if let Some(file) = &args.values {
        let cannot = format!("cannot read {}", file.display());
        let text = std::fs::read_to_string(env.cwd.join(file))
            .map_err(|error| Report::of(Exit::Usage, &cannot, &error))?;
        let read: Value = serde_yaml_ng::from_str(&text)
            .map_err(|error| Report::of(Exit::Usage, &cannot, &error))?;
        match read {
            Value::Object(_) => out = read,
            Value::Null => {}
            _ => {
                return Err(Report::usage(format!(
                    "{}: expected names and values",
                    file.display()
                )));
            }
        }
    }
    let lists = [("--set", &args.set), ("--set-secret", &args.set_secret)];
    for (flag, list) in lists {
        for (name, value) in options::pairs(flag, list)? {
            let mut place = &mut out;
            for part in name.split('.') {
                if !place.is_object() {
                    *place = json!({});
                }
                place = &mut place[part];
            }
            *place = json!(value);
        }
    }
    Ok(out)
}

/// Fills the templates in.
pub(super) fn render(
    file: &str,
    text: &str,
    variables: &BTreeMap<String, String>,
    values: &Value,
    secrets: &BTreeMap<String, String>,
) -> Result<String> {
    let failed = |error| Report::of(Exit::Usage, file, &error);
    let data = json!({ "Run": variables, "Values": values, "Secrets": secrets });
    let out = Template::parse(text).map_err(failed)?.render(&data).map_err(failed)?;
    if let Some(at) = out.lines().position(|line| line.contains("<no value>")) {
        let line = text.lines().nth(at).unwrap_or_default().trim();
        let mut report = Report::usage(format!("{file}: line {}: no value for {line:?}", at + 1));
        let fields = ["Registry", "RegistryName", "Commit", "Branch"];
        let field = fields.into_iter().find(|field| line.contains(&format!(".Run.{field}")));
        if let Some(hint) = field.and_then(crate::task::missing) {
            report.hints.push(hint.to_owned());
        } else if line.contains(".Secrets") {
            report.hints.push("no key vault is asked: --set-secret NAME=VALUE".to_owned());
        } else {
            report.hints.push("give it: --set NAME=VALUE, or --values FILE".to_owned());
        }
        return Err(report);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_filled_in_and_what_is_missing_is_told() {
        let variables: BTreeMap<_, _> = [("ID".to_owned(), "x1".to_owned())].into_iter().collect();
        let values = json!({ "tag": "v1", "a": { "b": "c" } });
        let secrets: BTreeMap<_, _> =
            [("token".to_owned(), "hunter2".to_owned())].into_iter().collect();
        let fill = |text: &str| render("f.yaml", text, &variables, &values, &secrets);
        for (text, want) in [
            ("-t {{.Run.ID}}:{{ .Values.tag }}", "-t x1:v1"),
            ("{{.Values.a.b}}", "c"),
            ("{{.Secrets.token | b64enc}}", "aHVudGVyMg=="),
            ("{{if eq .Values.tag \"v1\"}}yes{{else}}no{{end}}", "yes"),
        ] {
            assert_eq!(fill(text).expect(text), want);
        }
        for (text, message) in [
            ("a\nb: {{.Values.none}}", "line 2: no value"),
            ("{{.Run.Registry}}/x", "no value"),
            ("{{.Values.none | b64enc}}", "b64enc"),
            ("{{.Run.ID", "f.yaml"),
        ] {
            let report = fill(text).expect_err(text);
            assert!(report.message.contains(message), "{text}: {}", report.message);
        }
    }
}
