//! What a bake file of another machine may touch on this one: what lies below the current directory,
//! and what `--allow` grants (buildx: `bake/entitlements.go`).
//!
//! A bake file of this machine is as a Makefile: whoever runs it has read it, or could have. It may do
//! what the user may.

use std::path::{Component, Path, PathBuf};

use super::super::args::BuildArgs;
use super::super::cache::{self, Place};
use super::super::environment::Environment;
use super::super::options::{self, SecretSource};
use super::super::output;
use super::super::privilege;
use super::super::report::{Report, Result};
use super::super::sources;
use super::request::Asked;

/// Entitlements that concern this machine's files, and not steps.
const FILES: [&str; 3] = ["fs", "fs.read", "fs.write"];

/// Gives the entitlements that steps may have: those of `build`.
pub fn of_steps(allow: &[String]) -> Vec<String> {
    let is_ours = |text: &&String| {
        let key = text.split('=').next().unwrap_or_default();
        *text == "ssh" || (text.contains('=') && FILES.contains(&key))
    };
    allow.iter().filter(|text| !is_ours(text)).cloned().collect()
}

/// Refuses what nobody knows.
pub fn check_names(allow: &[String]) -> Result<()> {
    privilege::allow(&of_steps(allow)).map(|_| ()).map_err(|report| {
        report.with_hint("bake also knows ssh, fs.read=PATH, fs.write=PATH and fs=PATH")
    })
}

/// What was granted.
pub struct Grants {
    cwd: PathBuf,
    /// None: everything.
    read: Option<Vec<PathBuf>>,
    write: Option<Vec<PathBuf>>,
    ssh: bool,
}

impl Grants {
    /// Reads the `--allow`s.
    pub fn parse(allow: &[String], env: &Environment) -> Grants {
        let cwd = resolved(Path::new("/"), &env.cwd);
        let of = |keys: [&str; 2]| {
            let values = allow.iter().filter_map(|text| {
                let (key, value) = text.split_once('=')?;
                keys.contains(&key).then_some(value)
            });
            let mut paths = vec![cwd.clone()];
            for value in values {
                if value == "*" {
                    return None;
                }
                paths.push(resolved(&cwd, Path::new(value)));
            }
            Some(paths)
        };
        let ssh = allow.iter().any(|text| text == "ssh");
        Grants { read: of(["fs", "fs.read"]), write: of(["fs", "fs.write"]), ssh, cwd }
    }

    /// Refuses to read a file that was not granted.
    pub fn check_read(&self, target: &str, path: &Path) -> Result<()> {
        let mut missing = Missing::default();
        self.need(&self.read, "read", path, &mut missing);
        missing.refuse(target)
    }

    /// Refuses targets that want more than was granted.
    pub fn check(&self, asked: &[Asked], env: &Environment) -> Result<()> {
        let mut written: Vec<PathBuf> = Vec::new();
        for one in asked {
            let mut missing = Missing::default();
            let writes = self.paths(&one.args, env, &mut missing)?;
            missing.refuse(&one.name)?;
            written.extend(writes.iter().map(|path| resolved(&self.cwd, path)));
        }
        // What one leaves could be a link that leads the other out of here.
        for (outer, inner) in
            written.iter().flat_map(|one| written.iter().map(move |other| (one, other)))
        {
            if outer != inner && inner.starts_with(outer) {
                return Err(Report::usage(format!(
                    "the output {} lies within another one, {}",
                    inner.display(),
                    outer.display()
                ))
                .with_hint(
                    "give one of them another place: --set TARGET.output=type=local,dest=DIR",
                ));
            }
        }
        Ok(())
    }

    /// Looks at all paths of a target, and gives those that it writes.
    fn paths(
        &self,
        args: &BuildArgs,
        env: &Environment,
        missing: &mut Missing,
    ) -> Result<Vec<PathBuf>> {
        let mut reads: Vec<PathBuf> = Vec::new();
        let mut read = |path: &Path| reads.push(path.to_owned());
        let is_remote = |text: &str| -> Result<bool> {
            // A directory of that name comes before the repository.
            let may_be_here = text.starts_with("github.com/");
            Ok(!may_be_here && sources::remote_context(text)?.is_some())
        };
        if let Some(context) = &args.context
            && !is_remote(context)?
        {
            read(Path::new(context));
            if let Some(file) = &args.file
                && !is_remote(file)?
            {
                read(Path::new(file));
            }
        }
        for context in options::named_contexts(&args.build_context)? {
            let source = context.source.as_str();
            match source.strip_prefix("oci-layout://") {
                Some(layout) => read(Path::new(layout_dir(layout))),
                None if source.starts_with("docker-image:") || is_remote(source)? => {}
                None => read(Path::new(source)),
            }
        }
        for text in &args.secret {
            if let (_, SecretSource::File(path)) =
                options::secret(text, &|name| env.variable(name))?
            {
                read(&path);
            }
        }
        for spec in cache::sources(&args.cache_from)? {
            if let Place::Local(path) = &spec.place {
                read(path);
            }
        }
        for text in &args.ssh {
            let (_, paths) = options::ssh(text)?;
            paths.iter().for_each(|path| read(path));
            if paths.is_empty() && !self.ssh {
                missing.ask("forward the ssh agent".to_owned(), "ssh".to_owned());
            }
        }
        for path in reads {
            self.need(&self.read, "read", &path, missing);
        }
        let mut writes = Vec::new();
        for text in &args.output {
            let output = output::output(text)?;
            if !output.kind.is_named() && output.dest.as_os_str() != "-" {
                writes.push(output.dest);
            }
        }
        for spec in cache::targets(&args.cache_to)? {
            if let Place::Local(path) = spec.place {
                writes.push(path);
            }
        }
        for path in &writes {
            self.need(&self.write, "write", path, missing);
        }
        Ok(writes)
    }

    fn need(&self, granted: &Option<Vec<PathBuf>>, way: &str, path: &Path, missing: &mut Missing) {
        let Some(granted) = granted else { return };
        let path = resolved(&self.cwd, path);
        if !granted.iter().any(|granted| path.starts_with(granted)) {
            let shown = path.display();
            missing.ask(format!("{way} {shown}"), format!("fs.{way}={shown}"));
        }
    }
}

/// Takes tag and digest off: `dir:tag@digest`.
fn layout_dir(layout: &str) -> &str {
    let dir = layout.split('@').next().unwrap_or_default();
    match dir.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') => dir,
        _ => dir,
    }
}

/// What a target wants and was not granted.
#[derive(Default)]
struct Missing {
    wants: Vec<String>,
    flags: Vec<String>,
}

impl Missing {
    fn ask(&mut self, want: String, flag: String) {
        if !self.wants.contains(&want) {
            self.wants.push(want);
            self.flags.push(format!("--allow {flag}"));
        }
    }

    fn refuse(self, target: &str) -> Result<()> {
        if self.wants.is_empty() {
            return Ok(());
        }
        let wants = self.wants.join(", ");
        Err(Report::usage(format!(
            "target {target}: its bake file is not of this machine, and wants to {wants}"
        ))
        .with_hint(format!("grant it, if you trust the file: {}", self.flags.join(" "))))
    }
}

/// Makes a path absolute, with the links that there are followed.
fn resolved(cwd: &Path, path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in cwd.join(path).components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::Normal(name) => {
                out.push(name);
                // What does not exist yet has no links.
                if let Ok(real) = out.canonicalize() {
                    out = real;
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_they_lead_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let cwd = dir.path().canonicalize().expect("it is there");
        std::fs::create_dir_all(cwd.join("a/b")).expect("made");
        std::os::unix::fs::symlink("a/b", cwd.join("link")).expect("made");
        std::os::unix::fs::symlink("/etc", cwd.join("out")).expect("made");
        for (path, expected) in [
            (".", cwd.clone()),
            ("./a/../a", cwd.join("a")),
            ("link/new", cwd.join("a/b/new")),
            ("link/..", cwd.join("a")),
            ("new/../..", cwd.parent().expect("no root").to_owned()),
            ("out/passwd", PathBuf::from("/etc/passwd")),
            ("/..", PathBuf::from("/")),
        ] {
            assert_eq!(resolved(&cwd, Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn entitlements_of_steps_are_told_apart() {
        let all =
            ["network.host", "fs=*", "fs.read=/a", "fs.write=/b", "ssh", "device=a/b=c", "fs"];
        let all: Vec<String> = all.map(str::to_owned).to_vec();
        // The last one is nothing: `build` says so.
        assert_eq!(of_steps(&all), ["network.host", "device=a/b=c", "fs"]);
    }

    #[test]
    fn tags_are_no_part_of_a_layouts_path() {
        for (text, dir) in
            [("a", "a"), ("/a/b:c", "/a/b"), ("a:b/c", "a:b/c"), ("a:t@sha256:0", "a")]
        {
            assert_eq!(layout_dir(text), dir);
        }
    }
}
