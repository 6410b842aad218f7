//! Git repositories: which commit a name means, a mirror in the store, a checkout.
//!
//! # Model
//!
//! [`resolve`] asks the server which commit a branch or tag is at, unless the name is a commit
//! already. [`checkout`] fetches that commit, without history, into a bare mirror that stays in the
//! store, and checks it out of there into a temporary directory. Servers that give no single commits
//! or no shallow ones are asked for the ref, then for everything.
//!
//! What ends in the directory depends on the commit alone: modes are 0644 and 0755 whatever the
//! umask, times are the commit's, and a `.git` that is kept holds no logs and no times of checkout.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::graph::remote::{GitSource, is_commit};
use crate::oci::Digest;
use crate::store::{RemoteRecord, TmpDir};
use crate::sys::dir;

use super::error::Kind;
use super::git::Git;
use super::{Error, Progress, Remotes, Result};

/// A commit that was found.
#[derive(Clone)]
pub(super) struct Commit {
    /// What is checked out.
    id: String,
    /// The tag object that names it, if one does.
    tag: Option<String>,
    /// Its full ref; None when the name was a commit id.
    reference: Option<String>,
}

impl Commit {
    /// Gives its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Says what a kept `.git` tells of where it came from.
    pub fn place(&self, source: &GitSource) -> String {
        let reference = self.reference.as_deref().unwrap_or_default();
        let remote = crate::graph::remote::redact(&source.remote);
        format!("{remote}#{reference}@{}", self.tag.as_deref().unwrap_or(&self.id))
    }
}

/// Finds the commit that a name means now.
pub(super) fn resolve(remotes: &Remotes, source: &GitSource) -> Result<Commit> {
    let git = Git::new(remotes, source)?;
    let wrong = |found: &str| {
        let checksum = source.checksum.as_deref().unwrap_or_default();
        git.error(
            Kind::Usage,
            format!("expected checksum to match {checksum}, got {found}"),
            Some("the branch or tag has moved; check what is in it, then correct the checksum"),
        )
    };
    let checksum = source.checksum.as_deref().map(str::to_ascii_lowercase);
    let matches = |id: &str| checksum.as_deref().is_none_or(|checksum| id.starts_with(checksum));
    if let Some(id) = source.reference.as_deref().filter(|name| is_commit(name)) {
        if !matches(id) {
            return Err(wrong(id));
        }
        return Ok(Commit { id: id.to_owned(), tag: None, reference: None });
    }
    if source.by_commit
        && let Some(id) = checksum.clone().filter(|id| is_commit(id))
    {
        let reference = source.reference.clone().map(|name| {
            if name.starts_with("refs/") { name } else { format!("refs/heads/{name}") }
        });
        return Ok(Commit { id, tag: None, reference });
    }
    if remotes.options.offline {
        // A full id says which commit it must be, so a mirror that has it needs no server.
        if let Some(id) = checksum.filter(|id| is_commit(id)) {
            return Ok(Commit { id, tag: None, reference: source.reference.clone() });
        }
        return Err(Error::Offline {
            what: git.shown().to_owned(),
            hint: "name the commit, as #<40 hex digits>, and fetch it once while online",
        });
    }
    let mut found = ask_server(&git, source)?;
    let tag_matches = found.tag.as_deref().is_some_and(&matches);
    if !matches(&found.id) && !tag_matches {
        return Err(wrong(&found.id));
    }
    if !source.keep_git_dir {
        // Two tags of one commit are the same files.
        found.tag = None;
    }
    Ok(found)
}

/// Asks for the ref. git-checkout prefers branches to tags, and so does BuildKit.
fn ask_server(git: &Git<'_>, source: &GitSource) -> Result<Commit> {
    let name = source.reference.as_deref().unwrap_or("HEAD");
    let peeled = format!("{name}^{{}}");
    let mut args = vec!["ls-remote"];
    if source.reference.is_none() {
        args.push("--symref");
    }
    args.extend(["--", git.url(), name, &peeled]);
    let listed = git.run(None, &args)?;
    let listed = String::from_utf8_lossy(&listed);
    let mut refs: Vec<(&str, &str)> = Vec::new();
    let mut default = None;
    for line in listed.lines() {
        match line.split_once('\t') {
            Some((target, "HEAD")) if target.starts_with("ref: ") => {
                default = Some(target["ref: ".len()..].to_owned());
            }
            Some((id, name)) if is_commit(id) => refs.push((name, id)),
            _ => {}
        }
    }
    let id_of = |wanted: &str| {
        refs.iter().find(|(name, _)| *name == wanted).map(|(_, id)| (*id).to_owned())
    };
    if source.reference.is_none() {
        let id = id_of("HEAD")
            .ok_or_else(|| git.error(Kind::Usage, "the repository is empty".into(), None))?;
        return Ok(Commit { id, tag: None, reference: default });
    }
    let bare = |prefix: &str| format!("{prefix}{}", name.strip_prefix(prefix).unwrap_or(name));
    for full in [bare("refs/"), bare("refs/heads/"), bare("refs/tags/")] {
        let Some(id) = id_of(&full) else { continue };
        // Annotated tags are objects of their own that point to the commit.
        return Ok(match id_of(&format!("{full}^{{}}")) {
            Some(commit) => Commit { id: commit, tag: Some(id), reference: Some(full) },
            None => Commit { id, tag: None, reference: Some(full) },
        });
    }
    Err(git.error(
        Kind::Usage,
        format!("repository does not contain ref {name}"),
        Some("name a branch, a tag, or a full commit id"),
    ))
}

/// Brings a commit into a temporary directory. Gives the directory of the files, and what holds it.
pub(super) fn checkout(
    remotes: &Remotes,
    source: &GitSource,
    commit: &Commit,
    progress: Progress<'_>,
) -> Result<(PathBuf, TmpDir)> {
    let git = Git::new(remotes, source)?;
    progress(git.shown(), 0, None);
    let key = Digest::of(format!("git\n{}\n{}", git.url(), commit.id.len()).as_bytes());
    let kept = remotes.store.remotes();
    let _lock = kept.lock(&key, &|| remotes.is_cancelled()).map_err(|error| {
        if remotes.is_cancelled() { Error::Cancelled } else { Error::Store(error) }
    })?;
    let mirror = mirror(remotes, &git, &key, commit)?;
    fetch(remotes, &git, &mirror, commit)?;

    let place = remotes.store.tmp().dir("git")?;
    let tree = place.path().join("tree");
    std::fs::create_dir(&tree).map_err(io("making a directory"))?;
    let keeps = source.keep_git_dir && source.subdir.is_empty();
    let dir = if keeps { tree.join(".git") } else { place.path().join("git") };
    let tree_text = text(&tree)?;
    let dir_text = text(&dir)?;
    let work = ["--work-tree", tree_text.as_str()];
    git.run(None, &init(commit, false, &dir_text))?;
    if keeps {
        keep(&git, &mirror, &dir, commit)?;
    } else {
        borrow(&mirror, &dir)?;
    }
    git.run(Some(&dir), &["config", "remote.origin.url", git.url()])?;
    let run = |args: &[&str]| {
        let all: Vec<&str> = work.iter().chain(args).copied().collect();
        git.run(Some(&dir), &all)
    };
    run(&["checkout", "--quiet", "--force", "--detach", &commit.id])?;
    if source.submodules && tree.join(".gitmodules").symlink_metadata().is_ok() {
        submodules(remotes, &git, &dir, &tree_text)?;
    }
    if keeps {
        tidy(&git, &dir, &tree_text, commit)?;
    }
    let time = match source.checkout_times {
        true => None,
        false => Some(commit_time(&git, &dir, commit)?),
    };
    drop_links_to_git(&tree, keeps)?;
    normalise(&tree, time, keeps)?;
    let files = subdirectory(&git, &tree, &source.subdir)?;
    Ok((files, place))
}

fn init<'a>(commit: &Commit, bare: bool, dir: &'a str) -> Vec<&'a str> {
    let mut args = vec!["init", "--quiet", "--template="];
    if bare {
        args.push("--bare");
    }
    if commit.id.len() == 64 {
        args.push("--object-format=sha256");
    }
    if bare {
        args.push(dir);
        return args;
    }
    // `init` of a directory named otherwise than .git makes it bare unless told so.
    let mut all = vec!["--git-dir", dir];
    all.extend(args);
    all
}

/// Finds the mirror, or makes an empty one.
fn mirror(remotes: &Remotes, git: &Git<'_>, key: &Digest, commit: &Commit) -> Result<PathBuf> {
    let kept = remotes.store.remotes();
    if let Some((_, dir)) = kept.get(key)
        && dir.join("mirror/HEAD").exists()
    {
        let mirror = dir.join("mirror");
        // Left by a git that was killed; the lock of the store says that none runs.
        for lock in ["shallow.lock", "packed-refs.lock", "config.lock"] {
            let _ = std::fs::remove_file(mirror.join(lock));
        }
        return Ok(mirror);
    }
    let staged = kept.staging()?;
    let path = text(&staged.path().join("mirror"))?;
    git.run(None, &init(commit, true, &path))?;
    let about = RemoteRecord { source: git.shown().to_owned(), ..RemoteRecord::default() };
    Ok(kept.put(key, staged, &about)?.join("mirror"))
}

/// Makes sure that the mirror has a commit with all its files.
fn fetch(remotes: &Remotes, git: &Git<'_>, mirror: &Path, commit: &Commit) -> Result<()> {
    // The ref is set when everything has come, so it alone says that nothing is missing.
    let mark = format!("refs/lapstrake/{}", commit.tag.as_deref().unwrap_or(&commit.id));
    let object = format!("{}^{{commit}}", commit.id);
    if git.ask(Some(mirror), &["show-ref", "--verify", "--quiet", &mark])?
        && git.ask(Some(mirror), &["cat-file", "-e", &object])?
    {
        return Ok(());
    }
    if remotes.options.offline {
        return Err(Error::Offline {
            what: format!("commit {} of {}", commit.id, git.shown()),
            hint: "build once while online with the same store, or clone it into the context",
        });
    }
    let wanted = commit.tag.as_deref().unwrap_or(&commit.id);
    let one = format!("+{wanted}:{mark}");
    let by_ref = commit.reference.as_deref().map(|name| format!("+{name}:{mark}"));
    let all = ["+refs/heads/*:refs/lapstrake/heads/*", "+refs/tags/*:refs/lapstrake/tags/*"];
    let mut attempts: Vec<(bool, Vec<&str>)> = vec![(true, vec![&one])];
    if let Some(by_ref) = &by_ref {
        attempts.push((true, vec![by_ref]));
    }
    attempts.push((false, vec![&one]));
    attempts.push((false, all.to_vec()));
    let mut first = None;
    for (shallow, refspecs) in attempts {
        let mut args = vec!["fetch", "--quiet", "--no-tags", "--force", "--no-write-fetch-head"];
        args.push("--no-recurse-submodules");
        if shallow {
            args.push("--depth=1");
        } else if mirror.join("shallow").exists() {
            args.push("--unshallow");
        }
        args.extend(["--", git.url()]);
        args.extend(refspecs);
        match git.run(Some(mirror), &args) {
            Ok(_) => {}
            Err(error @ (Error::Cancelled | Error::Io { .. })) => return Err(error),
            Err(error) if is_hopeless(&error) => return Err(error),
            Err(error) => {
                first.get_or_insert(error);
                continue;
            }
        }
        // The branch may have moved on since it was asked.
        if git.ask(Some(mirror), &["cat-file", "-e", &object])? {
            git.run(Some(mirror), &["update-ref", &mark, wanted])?;
            return Ok(());
        }
    }
    let gone = format!("commit {} can not be found in the repository", commit.id);
    Err(first.unwrap_or_else(|| git.error(Kind::Network, gone, None)))
}

/// Says whether another way of asking can't help: nobody answers, or refuses whatever is asked.
fn is_hopeless(error: &Error) -> bool {
    let Error::Git { message, hint, .. } = error else { return true };
    hint.is_some()
        || ["Could not resolve host", "Connection refused", "Failed to connect", "timed out"]
            .iter()
            .any(|text| message.contains(text))
}

/// Lets a git directory use the objects of the mirror.
fn borrow(mirror: &Path, dir: &Path) -> Result<()> {
    let objects = text(&mirror.join("objects"))?;
    let info = dir.join("objects/info");
    std::fs::create_dir_all(&info)
        .and_then(|()| std::fs::write(info.join("alternates"), format!("{objects}\n")))
        .map_err(io("preparing a checkout"))?;
    match std::fs::copy(mirror.join("shallow"), dir.join("shallow")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(io("preparing a checkout")(error))
        }
        _ => Ok(()),
    }
}

/// Copies the commit into a git directory that will be kept, under the name of its ref.
fn keep(git: &Git<'_>, mirror: &Path, dir: &Path, commit: &Commit) -> Result<()> {
    let mark = format!("refs/lapstrake/{}", commit.tag.as_deref().unwrap_or(&commit.id));
    let name = commit.reference.clone().unwrap_or_else(|| "refs/heads/lapstrake".to_owned());
    let refspec = format!("+{mark}:{name}");
    let from = format!("file://{}", text(mirror)?);
    let args = ["fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "-u", "--"];
    let args: Vec<&str> = args.into_iter().chain([from.as_str(), refspec.as_str()]).collect();
    // The one place where a local repository is read: our own mirror, by upload-pack.
    git.run_with(Some(dir), &args, &[("GIT_ALLOW_PROTOCOL", "file")])?;
    if commit.reference.is_none() {
        git.run(Some(dir), &["update-ref", "--no-deref", "HEAD", &commit.id])?;
        git.run(Some(dir), &["update-ref", "-d", &name])?;
    }
    Ok(())
}

/// Fetches submodules. Which transports they may use is held by `GIT_ALLOW_PROTOCOL`.
fn submodules(remotes: &Remotes, git: &Git<'_>, dir: &Path, tree: &str) -> Result<()> {
    if remotes.options.offline {
        return Err(Error::Offline {
            what: format!("submodules of {}", git.shown()),
            hint: "leave them out with ?submodules=false, or clone the repository into the context",
        });
    }
    // `submodule` is a script that wants to stand in the work tree.
    let base = ["-C", tree, "--work-tree", tree];
    let update = ["submodule", "--quiet", "update", "--init", "--recursive"];
    let shallow: Vec<&str> = base.iter().chain(&update).copied().chain(["--depth=1"]).collect();
    match git.run(Some(dir), &shallow) {
        Ok(_) => Ok(()),
        Err(error) if is_hopeless(&error) => Err(error),
        Err(_) => {
            let whole: Vec<&str> = base.iter().chain(&update).copied().collect();
            git.run(Some(dir), &whole).map(drop)
        }
    }
}

/// Removes from a kept git directory what says when and where it was made.
fn tidy(git: &Git<'_>, dir: &Path, tree: &str, commit: &Commit) -> Result<()> {
    for name in ["logs", "index", "FETCH_HEAD", "ORIG_HEAD", "hooks", "description"] {
        let path = dir.join(name);
        let removed = match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(_) => Ok(()),
        };
        removed.map_err(io("tidying a git directory"))?;
    }
    // An index made by read-tree has no times in it.
    git.run(Some(dir), &["--work-tree", tree, "read-tree", &commit.id])?;
    Ok(())
}

fn commit_time(git: &Git<'_>, dir: &Path, commit: &Commit) -> Result<i64> {
    let out = git.run(Some(dir), &["show", "--no-patch", "--format=%ct", &commit.id])?;
    String::from_utf8_lossy(&out)
        .trim()
        .parse()
        .map_err(|_| git.error(Kind::Network, format!("commit {} has no time", commit.id), None))
}

/// Removes the `.git` files of submodules, which lead to a directory that goes away.
fn drop_links_to_git(tree: &Path, keeps: bool) -> Result<()> {
    if keeps {
        return Ok(());
    }
    for entry in walkdir::WalkDir::new(tree).min_depth(1) {
        let entry = entry.map_err(|error| io("reading a checkout")(error.into()))?;
        if entry.file_name() == ".git" && entry.file_type().is_file() {
            std::fs::remove_file(entry.path()).map_err(io("removing .git"))?;
        }
    }
    Ok(())
}

/// Gives files the modes that git knows, and all the time of the commit.
fn normalise(tree: &Path, time: Option<i64>, keeps: bool) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::PermissionsExt;
    let failed = |error: crate::sys::Error| io("setting modes of a checkout")(error.into());
    for entry in walkdir::WalkDir::new(tree).contents_first(true) {
        let entry = entry.map_err(|error| io("reading a checkout")(error.into()))?;
        let meta = entry.metadata().map_err(|error| io("reading a checkout")(error.into()))?;
        if !meta.file_type().is_symlink() {
            let runs = meta.is_dir() || meta.permissions().mode() & 0o100 != 0;
            // Object files are read-only by convention of git.
            let is_object = keeps && meta.permissions().mode() & 0o200 == 0;
            let mode = match (runs, is_object) {
                (true, _) => 0o755,
                (false, true) => 0o444,
                (false, false) => 0o644,
            };
            if meta.permissions().mode() & 0o7777 != mode {
                std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(mode))
                    .map_err(io("setting modes of a checkout"))?;
            }
        }
        if let Some(time) = time {
            let parent = entry.path().parent().unwrap_or(tree);
            let parent = dir::open(parent).map_err(failed)?;
            let name = entry.file_name().as_bytes();
            dir::utimens(parent.as_fd(), name, time, 0).map_err(failed)?;
        }
    }
    Ok(())
}

/// Finds the directory that is wanted. A link on the way could lead anywhere (CVE-2026-33748), so
/// every part must be a directory itself.
fn subdirectory(git: &Git<'_>, tree: &Path, subdir: &str) -> Result<PathBuf> {
    let mut path = tree.to_owned();
    for part in subdir.split('/').filter(|part| !part.is_empty()) {
        path.push(part);
        let is_dir = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if !is_dir || part == ".." || part == ".git" {
            let message = format!("{subdir:?} is no directory of the repository");
            return Err(git.error(
                Kind::Usage,
                message,
                Some("symbolic links are not followed here; name the directory itself"),
            ));
        }
    }
    Ok(path)
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        io("using the store for git")(std::io::Error::other("its path is not UTF-8"))
    })
}

fn io(doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { doing: doing.to_owned(), source }
}
