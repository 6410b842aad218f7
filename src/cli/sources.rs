//! Where a build reads from: the context and the Dockerfile in all their forms, named contexts,
//! secrets and agents.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::build::CaCerts;
use crate::build::bases::{Named, NamedSource, is_image};
use crate::context::{self, Context, IgnoreRules};
use crate::graph::Remote;
use crate::graph::remote::{self as name, UrlSource};
use crate::layer::archive;
use crate::registry::Client;
use crate::remote::{self, Agent, Origin, Remotes};
use crate::store::{Guard, Store, TmpDir};

use super::args::{BuildArgs, GivenDockerfile};
use super::environment::{Environment, threads};
use super::options::{self, SecretSource};
use super::privilege;
use super::report::{Exit, Report, Result};

/// The largest secret (BuildKit: `secrets.MaxSecretSize`).
const MAX_SECRET: u64 = 500 << 10;

/// The largest Dockerfile, in bytes.
const MAX_DOCKERFILE: u64 = crate::dockerfile::MAX_SOURCE as u64;

/// Names of a Dockerfile in a context, best first.
const DOCKERFILES: [&str; 3] = ["Dockerfile", "Containerfile", "dockerfile"];

/// A source that no step fetches: what the user named is wrong, rather than a step.
pub(super) fn failed(error: remote::Error) -> Report {
    let is_usage = error.kind() == remote::Kind::Usage;
    let mut report = Report::from(crate::build::remotes::failed(error));
    if is_usage {
        report.exit = Exit::Usage;
    }
    report
}

/// The store, and what fetches into it.
pub struct Opened {
    /// What fetches sources on other machines. Dropped first: its files lie in the store.
    pub remotes: Remotes,
    /// `--secret`, by id.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// `--ssh`, by id: sockets.
    pub ssh: BTreeMap<String, PathBuf>,
    /// `--ca-cert`.
    pub ca_certs: Option<CaCerts>,
    /// The registries.
    pub client: Arc<Client>,
    _agents: Vec<Agent>,
    /// Keeps a prune away.
    _in_use: Guard,
    /// The store.
    pub store: Store,
}

impl Opened {
    /// Opens the store, reads secrets and starts agents.
    pub fn new(args: &BuildArgs, env: &Environment) -> Result<Opened> {
        let secrets = secrets(args, env)?;
        let store = env.open_store()?;
        store.recall_id_map(env.user());
        let in_use = store
            .locks()
            .build(&|| env.cancel.is_cancelled())
            .map_err(|error| Report::of(Exit::Damaged, "cannot use the store", &error))?;
        let ca_certs = privilege::ca_certs(&env.cwd, &args.ca_cert)?;
        let mut registry = args.registry.clone();
        registry.tls_ca.extend_from_slice(&args.ca_cert);
        let client = env.registry_client(&registry, args.offline)?;
        let mut agents = Vec::new();
        let ssh = agent_sockets(args, env, &store, &mut agents)?;
        let options = remote::Options {
            offline: args.offline,
            path: env.search_path(),
            variables: env.proxy_variables(),
            known_hosts: env.known_hosts(),
            tls_ca: env.certificates(&registry)?,
            secrets: secrets.clone(),
            ssh: ssh.clone(),
            threads: threads(),
        };
        let cancel = env.cancel.clone();
        let cancelled: remote::Cancelled = Arc::new(move || cancel.is_cancelled());
        let remotes = Remotes::new(store.clone(), Arc::clone(&client), options, cancelled);
        Ok(Opened {
            remotes,
            secrets,
            ssh,
            ca_certs,
            client,
            _agents: agents,
            _in_use: in_use,
            store,
        })
    }
}

/// Reads the `--secret`s.
pub(super) fn secrets(args: &BuildArgs, env: &Environment) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut secrets = BTreeMap::new();
    for text in &args.secret {
        let (id, source) = options::secret(text, &|name| env.variable(name))?;
        let value = match source {
            SecretSource::File(path) => {
                let cannot = |error: std::io::Error| {
                    Report::of(
                        Exit::Usage,
                        &format!("--secret {id}: cannot read {}", path.display()),
                        &error,
                    )
                };
                let mut bytes = Vec::new();
                std::fs::File::open(env.cwd.join(&path))
                    .and_then(|file| file.take(MAX_SECRET + 1).read_to_end(&mut bytes))
                    .map_err(cannot)?;
                bytes
            }
            SecretSource::Env(name) => env
                .variable(&name)
                .ok_or_else(|| {
                    Report::usage(format!("--secret {id}: the variable {name} is not set"))
                })?
                .into_bytes(),
        };
        if value.len() as u64 > MAX_SECRET {
            return Err(Report::usage(format!(
                "--secret {id}: a secret has at most {} KiB",
                MAX_SECRET >> 10
            ))
            .with_hint("mount a large file with --mount=type=bind from a named context"));
        }
        secrets.insert(id, value);
    }
    Ok(secrets)
}

/// Understands the `--ssh`s: sockets as they are, key files in an agent of our own.
fn agent_sockets(
    args: &BuildArgs,
    env: &Environment,
    store: &Store,
    agents: &mut Vec<Agent>,
) -> Result<BTreeMap<String, PathBuf>> {
    use std::os::unix::fs::FileTypeExt;
    let mut sockets = BTreeMap::new();
    for text in &args.ssh {
        let (id, paths) = options::ssh(text)?;
        let paths = if paths.is_empty() {
            let socket = env.variable("SSH_AUTH_SOCK").filter(|socket| !socket.is_empty());
            vec![PathBuf::from(socket.ok_or_else(|| {
                Report::usage(format!("--ssh {text}: SSH_AUTH_SOCK is not set"))
                    .with_hint("start an agent, or name a key: --ssh default=$HOME/.ssh/id_ed25519")
            })?)]
        } else {
            paths
        };
        let mut keys = Vec::new();
        for path in &paths {
            let path = env.cwd.join(path);
            let meta = std::fs::metadata(&path).map_err(|error| {
                Report::of(Exit::Usage, &format!("--ssh {id}: {}", path.display()), &error)
            })?;
            if !meta.file_type().is_socket() {
                keys.push(path);
            } else if paths.len() == 1 {
                sockets.insert(id.clone(), path);
            } else {
                return Err(Report::usage(format!("--ssh {text}: only one socket, or only keys")));
            }
        }
        if !keys.is_empty() {
            let agent = Agent::start(store, &id, &keys, &env.search_path()).map_err(failed)?;
            sockets.insert(id, agent.socket().to_owned());
            agents.push(agent);
        }
    }
    Ok(sockets)
}

/// What the last argument names.
pub enum Main {
    /// Nothing: `-f -` alone.
    Nothing,
    /// `-`: a Dockerfile or an archive on standard input.
    Stdin,
    /// A directory.
    Directory(PathBuf),
    /// An archive on this machine.
    Archive(PathBuf),
    /// A repository or a URL, and a directory inside of an archive.
    Remote(Remote, String),
}

impl Main {
    /// Understands the last argument.
    pub fn parse(args: &BuildArgs, env: &Environment) -> Result<Main> {
        let Some(text) = args.context.as_deref() else {
            if args.file.as_deref() == Some("-") {
                return Ok(Main::Nothing);
            }
            return Err(Report::usage("the context is missing")
                .with_hint("name the directory to build from: lapstrake build ."));
        };
        if text == "-" {
            return Ok(Main::Stdin);
        }
        let path = env.cwd.join(text);
        if text.starts_with("github.com/") && path.is_dir() {
            return Ok(Main::Directory(path));
        }
        if let Some((mut remote, dir)) = remote_context(text)? {
            let keep = "BUILDKIT_CONTEXT_KEEP_GIT_DIR=";
            if let Remote::Git(source) = &mut remote {
                let mut keeps = args.build_arg.iter().filter_map(|arg| arg.strip_prefix(keep));
                source.keep_git_dir |=
                    keeps.next_back().is_some_and(|value| value == "1" || value == "true");
            }
            return Ok(Main::Remote(remote, dir));
        }
        if path.is_dir() {
            return Ok(Main::Directory(path));
        }
        if !path.is_file() {
            return Err(Report::usage(format!("the context {text} does not exist")));
        }
        if is_archive(&path)? {
            return Ok(Main::Archive(path));
        }
        Err(Report::usage(format!("{text} is a file, a context is a directory or a tar archive"))
            .with_hint("a Dockerfile is named with -f FILE"))
    }

    /// Says whether the context must be fetched or unpacked before the Dockerfile can be read.
    pub fn needs_store(&self, args: &BuildArgs) -> bool {
        let url = args.file.as_deref().is_some_and(is_url);
        url || !matches!(self, Main::Nothing | Main::Directory(_))
    }
}

fn is_url(text: &str) -> bool {
    matches!(name::classify(text), Ok(name::Named::Url))
}

/// Understands a context that is on another machine, and gives the directory inside of it that no
/// [`Remote`] names; None for a path.
pub fn remote_context(text: &str) -> Result<Option<(Remote, String)>> {
    let invalid = |error: String| {
        let text = name::redact(text);
        Report::usage(format!("invalid git context {text}: {}", name::redact(&error)))
            .with_hint("as https://host/repository.git#branch:directory")
    };
    Ok(match name::classify_context(text).map_err(invalid)? {
        name::Named::Path => None,
        name::Named::Url => {
            let (url, dir) = name::archive_dir(text).map_err(invalid)?;
            let source = UrlSource { url: url.to_owned(), name: None, checksum: None };
            Some((Remote::Url(source), dir))
        }
        name::Named::Git(name) => {
            let mut source = name.source;
            source.keep_git_dir = name.keep_git_dir.unwrap_or(false);
            Some((Remote::Git(source), String::new()))
        }
    })
}

/// Says what to fetch for a context, and of it which directory.
pub(super) fn origin(remote: Remote, dir: String) -> Origin {
    if dir.is_empty() { Origin::Context(remote) } else { Origin::Directory(remote, dir) }
}

fn is_archive(path: &Path) -> Result<bool> {
    std::fs::File::open(path).and_then(archive::is_archive).map_err(|error| {
        Report::of(Exit::Usage, &format!("cannot read {}", path.display()), &error)
    })
}

/// A Dockerfile that was read, and the context that goes with it.
pub struct DockerfileSource {
    /// Its text.
    pub bytes: Vec<u8>,
    /// As shown to the user.
    pub name: String,
    /// Where it lies; None for standard input and for files of remote contexts.
    pub path: Option<PathBuf>,
    /// The context directory; None when there is none, or when it is fetched.
    pub context: Option<PathBuf>,
    /// A context that was fetched or unpacked.
    pub fetched: Option<Arc<Context>>,
    /// Holds the files of an archive from standard input.
    _files: Option<TmpDir>,
}

impl DockerfileSource {
    /// Gives the path for programs that read the log: relative to where the command runs.
    pub fn shown_from(&self, cwd: &Path) -> String {
        let Some(path) = &self.path else { return self.name.clone() };
        path.strip_prefix(cwd).unwrap_or(path).display().to_string()
    }

    fn given(given: &GivenDockerfile) -> DockerfileSource {
        let source = DockerfileSource::new(given.bytes.clone(), given.name.clone());
        DockerfileSource { path: given.path.clone(), ..source }
    }

    fn new(bytes: Vec<u8>, name: String) -> DockerfileSource {
        DockerfileSource { bytes, name, path: None, context: None, fetched: None, _files: None }
    }
}

/// Reads the Dockerfile. `opened` is there when [`Main::needs_store`] says so.
pub fn read_dockerfile(
    main: &Main,
    args: &BuildArgs,
    env: &Environment,
    opened: Option<&Opened>,
) -> Result<DockerfileSource> {
    let source = read_any(main, args, env, opened)?;
    if source.bytes.len() as u64 > MAX_DOCKERFILE {
        return Err(Report::usage(format!(
            "{} is no Dockerfile: it has more than {} MiB",
            source.name,
            MAX_DOCKERFILE >> 20
        ))
        .with_hint("put data into files of the context, and COPY them"));
    }
    Ok(source)
}

fn read_any(
    main: &Main,
    args: &BuildArgs,
    env: &Environment,
    opened: Option<&Opened>,
) -> Result<DockerfileSource> {
    let store = || Report::new(Exit::Damaged, "a context was fetched before the store was opened");
    let context = match main {
        Main::Nothing => None,
        Main::Directory(dir) => {
            let mut source = match (&args.given, args.file.as_deref()) {
                (Some(given), _) => DockerfileSource::given(given),
                (None, Some("-")) => from_stdin()?,
                (None, Some(url)) if is_url(url) => from_url(url, opened.ok_or_else(store)?)?,
                (None, file) => local(dir, file, args, env)?,
            };
            source.context = Some(dir.clone());
            return Ok(source);
        }
        Main::Stdin => return stdin_context(args, env, opened.ok_or_else(store)?),
        Main::Archive(path) => {
            let origin = Origin::Archive(path.clone());
            Some(
                opened
                    .ok_or_else(store)?
                    .remotes
                    .context(&origin, &|_, _, _| {})
                    .map_err(failed)?,
            )
        }
        Main::Remote(remote, dir) => {
            let opened = opened.ok_or_else(store)?;
            if !args.quiet {
                env.say(&format!("loading the context {}\n", name::printable(&remote.shown())));
            }
            if let Remote::Url(source) = remote
                && args.given.is_none()
                && let Some(bytes) =
                    opened.remotes.plain_file(source, &|_, _, _| {}).map_err(failed)?
            {
                if args.file.is_some() {
                    return Err(Report::usage(format!(
                        "{} is a Dockerfile, and -f names another one",
                        remote.shown()
                    ))
                    .with_hint("leave -f out, or name a URL of a tar archive as context"));
                }
                if !dir.is_empty() {
                    return Err(Report::usage(format!(
                        "{} is a file and no archive: it has no directory {dir}",
                        remote.shown()
                    )));
                }
                return Ok(DockerfileSource::new(bytes, remote.shown()));
            }
            let origin = origin(remote.clone(), dir.clone());
            Some(opened.remotes.context(&origin, &|_, _, _| {}).map_err(failed)?)
        }
    };
    let mut source = match (&args.given, args.file.as_deref(), &context) {
        (Some(given), ..) => DockerfileSource::given(given),
        (None, Some("-"), _) | (None, None, None) => from_stdin()?,
        (None, Some(url), _) if is_url(url) => from_url(url, opened.ok_or_else(store)?)?,
        (None, file, Some(context)) => inside(context, file)?,
        (None, Some(file), None) => local(&env.cwd, Some(file), args, env)?,
    };
    source.fetched = context;
    Ok(source)
}

fn from_stdin() -> Result<DockerfileSource> {
    let mut bytes = Vec::new();
    std::io::stdin()
        .take(MAX_DOCKERFILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Report::of(Exit::Usage, "cannot read standard input", &error))?;
    Ok(DockerfileSource::new(bytes, "Dockerfile".to_owned()))
}

fn from_url(url: &str, opened: &Opened) -> Result<DockerfileSource> {
    let source = UrlSource { url: url.to_owned(), name: None, checksum: None };
    let shown = name::redact(url);
    match opened.remotes.plain_file(&source, &|_, _, _| {}).map_err(failed)? {
        Some(bytes) => Ok(DockerfileSource::new(bytes, shown)),
        None => Err(Report::usage(format!("{shown} is an archive and no Dockerfile"))
            .with_hint("name it as the context instead of with -f")),
    }
}

/// Reads a Dockerfile on this machine.
fn local(
    dir: &Path,
    file: Option<&str>,
    args: &BuildArgs,
    env: &Environment,
) -> Result<DockerfileSource> {
    let path = match file {
        Some(file) => env.cwd.join(file),
        None => {
            let found = DOCKERFILES.iter().map(|name| dir.join(name)).find(|path| path.is_file());
            found.ok_or_else(|| no_dockerfile(args.context.as_deref().unwrap_or(".")))?
        }
    };
    let name = file.map(str::to_owned).unwrap_or_else(|| {
        path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
    });
    let bytes = read_local(&path)
        .map_err(|error| Report::of(Exit::Usage, &format!("cannot read {name}"), &error))?;
    Ok(DockerfileSource { path: Some(path), ..DockerfileSource::new(bytes, name) })
}

/// Reads a Dockerfile on this machine, whatever the context is.
pub fn read_local(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    bytes.reserve(file.metadata()?.len().min(MAX_DOCKERFILE) as usize + 1);
    file.take(MAX_DOCKERFILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn no_dockerfile(place: &str) -> Report {
    Report::usage(format!("no Dockerfile in {place}"))
        .with_hint("name it with -f FILE, or read it from standard input with -f -")
}

/// Reads the Dockerfile of a context that was fetched. Its links can't lead out of the context.
fn inside(context: &Context, file: Option<&str>) -> Result<DockerfileSource> {
    let names: Vec<&str> = match file {
        Some(file) => vec![file],
        None => DOCKERFILES.to_vec(),
    };
    for name in names {
        let found = context::locate::read_inside(context.dir(), Path::new(name))
            .map_err(|error| Report::of(Exit::Usage, "", &error))?;
        if let Some(bytes) = found {
            return Ok(DockerfileSource::new(bytes, name.to_owned()));
        }
    }
    Err(match file {
        Some(file) => Report::usage(format!("no file {file} in the context"))
            .with_hint("-f names a file inside of a context that is fetched or unpacked"),
        None => no_dockerfile("the context"),
    })
}

/// Reads what stands on standard input: an archive, or a Dockerfile without a context.
fn stdin_context(args: &BuildArgs, env: &Environment, opened: &Opened) -> Result<DockerfileSource> {
    if args.file.as_deref() == Some("-") {
        return Err(Report::usage("-f - and a context of - exclude each other")
            .with_hint("- as context reads a Dockerfile or a tar archive from standard input"));
    }
    let cannot =
        |error: std::io::Error| Report::of(Exit::Usage, "cannot read standard input", &error);
    let mut stdin = std::io::stdin();
    let mut head = Vec::new();
    (&mut stdin).take(archive::DETECT_LEN as u64).read_to_end(&mut head).map_err(cannot)?;
    if archive::detect(&head) == archive::Detected::Other {
        if args.file.is_some() {
            return Err(Report::usage("standard input is a Dockerfile, and -f names another one")
                .with_hint("leave -f out, or send a tar archive"));
        }
        stdin.take(MAX_DOCKERFILE + 1).read_to_end(&mut head).map_err(cannot)?;
        return Ok(DockerfileSource::new(head, "Dockerfile".to_owned()));
    }
    let files = opened
        .store
        .tmp()
        .dir("context")
        .map_err(|error| Report::of(Exit::Damaged, "cannot unpack the context", &error))?;
    let cancel = env.cancel.clone();
    let cancelled: remote::Cancelled = Arc::new(move || cancel.is_cancelled());
    let all = std::io::Cursor::new(head).chain(stdin);
    remote::unpack(all, files.path(), "the context from standard input", &cancelled)
        .map_err(failed)?;
    let options = context::Options { threads: threads(), ..context::Options::default() };
    let context = Context::open(files.path(), IgnoreRules::default(), options)
        .map_err(|error| Report::of(Exit::Usage, "", &error))?;
    let mut source = match args.file.as_deref() {
        Some(url) if is_url(url) => from_url(url, opened)?,
        file => inside(&context, file)?,
    };
    source.fetched = Some(Arc::new(context));
    source._files = Some(files);
    Ok(source)
}

/// All contexts of a build.
#[derive(Default)]
pub struct Contexts {
    /// Directories, by name; the main one has none.
    pub open: BTreeMap<String, Arc<Context>>,
    /// Those that are fetched or unpacked when a step wants them.
    pub lazy: BTreeMap<String, Origin>,
    /// What planning looks names up in.
    pub named: Vec<Named>,
}

/// Opens the context directories, and says what the others are.
pub fn contexts(
    args: &BuildArgs,
    env: &Environment,
    store: &Store,
    source: &DockerfileSource,
) -> Result<Contexts> {
    let mut out = Contexts::default();
    type Given<'p> = Option<&'p Path>;
    let opened = |dir: &Path, dockerfile: Given<'_>, own: Given<'_>| -> Result<Arc<Context>> {
        let failed = |error: context::Error| Report::of(Exit::Usage, "", &error);
        let rules = match own {
            Some(own) => context::locate::ignore_file(own),
            None => context::locate::ignore_rules(dir, dockerfile).map(|(rules, _)| rules),
        };
        let rules = rules.map_err(failed)?;
        let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
        let options = context::Options {
            stat_cache: Some(store.stat_cache(&real, "")),
            scratch: store.tmp().path().ok(),
            threads: threads(),
        };
        Context::open(dir, rules, options).map(Arc::new).map_err(failed)
    };
    if let Some(dir) = &source.context {
        let file = args.edits.ignorefile.as_ref().map(|file| env.cwd.join(file));
        let context = opened(dir, source.path.as_deref(), file.as_deref())?;
        out.open.insert(String::new(), context);
    } else if let Some(file) = &args.edits.ignorefile {
        return Err(Report::usage(format!(
            "--ignorefile {}: only a context that is a directory has an ignore file",
            file.display()
        )));
    }
    if let Some(context) = &source.fetched {
        out.open.insert(String::new(), Arc::clone(context));
    }
    for context in options::named_contexts(&args.build_context)? {
        let key = match &context.platform {
            Some(platform) => format!("{}::{platform}", context.name),
            None => context.name.clone(),
        };
        let about = |message: String| {
            let shown = name::redact(&context.source);
            Report::usage(format!("--build-context {}={shown}: {message}", context.name))
        };
        let path = env.cwd.join(&context.source);
        let kind = if is_image(&context.source) {
            NamedSource::Image(context.source.clone())
        } else if context.source.starts_with("target:") {
            return Err(about("targets are known to bake only".into())
                .with_hint("name what the target builds: a layout as oci-layout://DIR"));
        } else if let Some((remote, dir)) = remote_context(&context.source)? {
            out.lazy.insert(key.clone(), origin(remote, dir));
            NamedSource::Directory(key)
        } else if path.is_dir() {
            out.open.insert(key.clone(), opened(&path, None, None)?);
            NamedSource::Directory(key)
        } else if path.is_file() && is_archive(&path)? {
            out.lazy.insert(key.clone(), Origin::Archive(path));
            NamedSource::Directory(key)
        } else {
            let what =
                if path.exists() { "no directory and no archive" } else { "no such directory" };
            return Err(about(what.into())
                .with_hint("an image is named as docker-image://NAME or oci-layout://DIR"));
        };
        out.named.push(Named { name: context.name, platform: context.platform, source: kind });
    }
    for link in options::named_contexts(&args.linked)? {
        let source = NamedSource::Target(link.source);
        out.named.push(Named { name: link.name, platform: link.platform, source });
    }
    Ok(out)
}
