//! Arguments as typed. [`super::options`] checks them; nothing below sees strings from argv.
//!
//! Flags are those of `docker buildx build` wherever they exist there. A flag that buildx has and
//! lapstrake does not yet is parsed and refused with a reason, never ignored.
#![allow(missing_docs, reason = "hidden flags have no help, and help is what the doc comments are")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::image_args::{
    CopyArgs, DiffArgs, IndexArgs, LoadArgs, LoginArgs, LogoutArgs, PullArgs, VerifyArgs,
};

/// Build container images from Dockerfiles: no daemon, no root, every platform.
#[derive(Debug, Parser)]
#[command(
    name = "lapstrake",
    version,
    about = "Build container images from Dockerfiles, without a daemon and without root",
    after_help = "Examples:\n  lapstrake build -t app .\n  lapstrake build --platform linux/amd64,linux/arm64 -o app.oci .\n  lapstrake push registry.example/app:1\n\nExit codes: 0 done, 1 a build step failed, 2 usage or Dockerfile error, 3 the host lacks\nsomething (see `lapstrake doctor`), 4 network or registry, 5 the store or an image is damaged,\n130 interrupted",
    propagate_version = true,
    disable_help_subcommand = true
)]
pub struct Cli {
    /// Directory of the store [default: $XDG_DATA_HOME/lapstrake or ~/.local/share/lapstrake]
    #[arg(long, global = true, env = "LAPSTRAKE_ROOT", value_name = "DIR")]
    pub root: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build an image from a Dockerfile
    Build(Box<BuildArgs>),
    /// Send an image of the store to a registry
    Push(PushArgs),
    /// Show an image: platforms, digests, layers
    Inspect(InspectArgs),
    /// List the images of the store
    Images(ImagesArgs),
    /// Give an image of the store another name
    Tag(TagArgs),
    /// Remove names of images from the store
    Rmi(RmiArgs),
    /// Show what the store holds and how large it is
    Du(DuArgs),
    /// Remove what nothing needs from the store
    Prune(PruneArgs),
    /// Check what this host allows, and tell what to run for more
    Doctor(DoctorArgs),
    /// Open a shell in a stage, or in a failed step that was kept
    Shell(Box<ShellArgs>),
    /// Build targets of docker-bake.hcl, docker-bake.json or compose files, all in one graph
    Bake(Box<BakeArgs>),
    /// Copy an image between registries, layouts, archives and the store
    Copy(Box<CopyArgs>),
    /// Get an image from a registry into the store
    Pull(PullArgs),
    /// Make and change multi-platform images
    Index(IndexArgs),
    /// Compare the files and configs of two images
    Diff(DiffArgs),
    /// Read images whole and hash everything anew
    Verify(VerifyArgs),
    /// Tell what a code of an error or a check means
    Explain(ExplainArgs),
    /// Show the steps of a build, with what is cached and what is emulated; builds nothing
    Plan(Box<PlanArgs>),
    /// Load an image into Docker or Podman
    Load(Box<LoadArgs>),
    /// Run multi-step tasks of Azure Container Registry on this machine
    Task(Box<TaskArgs>),
    /// Keep name and password for a registry, where Docker or Podman reads them
    Login(LoginArgs),
    /// Forget name and password for a registry
    Logout(LogoutArgs),
}

/// `lapstrake task`
#[derive(Debug, Args)]
pub struct TaskArgs {
    #[command(subcommand)]
    pub command: TaskCommand,
}

/// `lapstrake task …`
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// Run a task file (acr-task.yaml)
    Run(Box<TaskRunArgs>),
    /// Run one image of a task; a part of `task run`
    #[command(hide = true)]
    Exec,
}

/// `lapstrake task run`
#[derive(Debug, Args)]
#[command(
    after_help = "Steps see CONTEXT as /workspace and may change it. `cmd: docker manifest …` works on the store;\nother commands are images that run in the sandbox, as the steps of a build do.\n\nExample:\n  lapstrake task run acr-task.yaml . --registry registry.example --set tag=v1"
)]
pub struct TaskRunArgs {
    /// The task; - reads standard input
    #[arg(value_name = "FILE")]
    pub file: String,
    /// Directory that steps share [default: .]
    #[arg(value_name = "CONTEXT")]
    pub context: Option<PathBuf>,
    /// What {{.Run.Registry}} is
    #[arg(long = "registry", value_name = "NAME")]
    pub registry_name: Option<String>,
    /// Value of {{.Values.NAME}} (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// The same for {{.Values.NAME}} and {{.Secrets.NAME}}, never shown (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub set_secret: Vec<String>,
    /// Values in YAML
    #[arg(long, value_name = "FILE")]
    pub values: Option<PathBuf>,
    /// What {{.Run.ID}} is [default: a new one]
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
    /// What {{.Run.Commit}} is [default: the checkout's]
    #[arg(long, value_name = "COMMIT")]
    pub commit: Option<String>,
    /// What {{.Run.Branch}} is [default: the checkout's]
    #[arg(long, value_name = "BRANCH")]
    pub branch: Option<String>,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake build`
#[derive(Debug, Args, Clone)]
#[command(
    after_help = "Outputs (-o):\n  DIR                                  OCI layout directory\n  type=oci,dest=DIR,tar=false          the same\n  type=oci,dest=FILE                   OCI archive (tar)\n  type=docker,dest=FILE                archive for `docker load` (one platform)\n  type=local,dest=DIR                  the root file system as files\n  type=tar,dest=FILE                   the root file system as a tar archive\n  type=registry,name=NAME              a registry (type=image,push=true is the same) [default: -t]\n  type=registry,…,push-by-digest=true  without a tag\n  type=image,name=NAME                 the store\n  …,compression=gzip|zstd|estargz|none of the layers [default: gzip]\n  …,compression-level=N                0 to 9 for gzip and estargz, 1 to 19 for zstd\n                                       [default: gzip 3, estargz 3, zstd 1]\n  …,force-compression=true             of the layers of the base image too\n  …,oci-mediatypes=false               Docker's media types (docker, registry)\n  …,annotation.NAME=VALUE              also annotation-index., annotation-manifest[linux/arm64]. …\n  …,rewrite-timestamp=true             needs SOURCE_DATE_EPOCH, which does the same\n\nCaches (--cache-from, --cache-to):\n  REPOSITORY                           type=registry,ref=REPOSITORY\n  type=registry,ref=REPOSITORY         a tag for each step; runners never overwrite each other\n  type=local,src=DIR                   an OCI layout directory (--cache-to: dest=DIR)\n  --cache-to type=inline               in the image; --cache-from NAME finds it there\n  --cache-to …,mode=min|max            layers of the result, or of all steps [default: min]\n  --cache-to …,ignore-error=true       a cache that cannot be written fails no build\n  --cache-to …,lease=30s                machines that build the same wait for each other (registry)\n  --cache-to …,compression=gzip|zstd|estargz|none,compression-level=N\n  --cache-mount id=ID,from=PLACE,to=PLACE\n                                       DIR, oci:DIR[:TAG] or docker://NAME, for RUN --mount=type=cache"
)]
pub struct BuildArgs {
    /// What to build from: a directory, a tar archive, a URL of one[#:DIRECTORY], a Git repository as
    /// URL[#REF[:DIRECTORY]], or - for a Dockerfile or a tar archive on standard input
    #[arg(value_name = "CONTEXT")]
    pub context: Option<String>,
    /// Dockerfile, relative to the current directory (in a context that is fetched: inside of it);
    /// - reads standard input [default: CONTEXT/Dockerfile]
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<String>,
    /// What is read in the place of a Dockerfile of the context: bake has it already.
    #[arg(skip)]
    pub given: Option<GivenDockerfile>,
    /// Contexts that other targets of a bake file make, NAME=TARGET, where nothing is built.
    #[arg(skip)]
    pub linked: Vec<String>,
    /// Name for the image in the store (repeatable)
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// Platforms to build for [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Value of an ARG; without =VALUE, taken from the environment (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// Stage to build [default: the last]
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// Named context: a directory, a tar archive, a URL of one, a Git repository,
    /// oci-layout://DIR[:TAG], docker-image://NAME; NAME::PLATFORM is for one platform (repeatable)
    #[arg(long, value_name = "NAME=SOURCE")]
    pub build_context: Vec<String>,
    /// Secret for RUN --mount=type=secret: id=ID[,src=FILE|,env=VARIABLE] (repeatable)
    #[arg(long, value_name = "SECRET")]
    pub secret: Vec<String>,
    /// SSH agent for RUN --mount=type=ssh and git: default, or ID=SOCKET, or ID=KEY[,KEY] (repeatable)
    #[arg(long, value_name = "ID[=SOCKET|KEY]")]
    pub ssh: Vec<String>,
    /// Label of the image (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub label: Vec<String>,
    /// Annotation of the manifest, or of index:, manifest-descriptor:, index-descriptor: (repeatable)
    #[arg(long, value_name = "[LEVEL:]NAME=VALUE")]
    pub annotation: Vec<String>,
    /// Run every step anew
    #[arg(long)]
    pub no_cache: bool,
    /// Run every step of these stages anew
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    pub no_cache_filter: Vec<String>,
    /// Look for results of steps here too (repeatable, see below)
    #[arg(long, value_name = "CACHE")]
    pub cache_from: Vec<String>,
    /// Write results of steps here too (repeatable, see below)
    #[arg(long, value_name = "CACHE")]
    pub cache_to: Vec<String>,
    /// Bring the contents of RUN --mount=type=cache,id=ID in, or write them (repeatable, see below)
    #[arg(long, value_name = "MOUNT")]
    pub cache_mount: Vec<String>,
    /// When to ask registries for base images: missing, always, never, newer; alone: always
    #[arg(long, value_name = "POLICY", num_args = 0..=1, require_equals = true, default_missing_value = "always")]
    pub pull: Option<Pull>,
    /// Open no socket
    #[arg(long)]
    pub offline: bool,
    /// Network of RUN steps
    #[arg(long, value_name = "MODE", default_value = "default")]
    pub network: NetworkMode,
    /// How RUN steps are isolated
    #[arg(long, value_name = "RUNG", default_value = "auto")]
    pub isolation: IsolationArg,
    /// Emulator for foreign platforms (repeatable) [default: qemu-ARCH-static or qemu-ARCH in PATH]
    #[arg(long, value_name = "ARCH=PATH")]
    pub emulator: Vec<String>,
    /// Where the result goes (repeatable): DIR, or type=…,dest=… (see below)
    #[arg(short, long, value_name = "OUTPUT")]
    pub output: Vec<String>,
    /// Send the image to its registry under every -t NAME
    #[arg(long)]
    pub push: bool,
    /// Load the image into the Docker or Podman that runs here
    #[arg(long)]
    pub load: bool,
    /// What becomes of a RUN that failed: fail, shell opens one in it, keep leaves it to `lapstrake shell`
    #[arg(long, value_name = "WHAT", default_value = "fail")]
    pub on_error: OnErrorArg,
    /// Steps that run at a time [default: number of cores]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Add a line to /etc/hosts of RUN steps: NAME:ADDRESS (repeatable)
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Size of /dev/shm of RUN steps, as 64m
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// Host name that RUN steps see [default: buildkitsandbox]
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,
    /// Limit of RUN steps (repeatable): nofile=SOFT[:HARD]
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Let the Dockerfile ask for this (repeatable): network.host, security.insecure
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Trust these certificates (PEM) in RUN steps, for ADD and for registries; in no layer (repeatable)
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Vec<PathBuf>,
    /// Check the Dockerfile and build nothing; short for --call=check
    #[arg(long)]
    pub check: bool,
    /// What to do with the Dockerfile: build, check, outline, targets; …,format=json for programs
    #[arg(long, value_name = "METHOD[,format=json]")]
    pub call: Option<String>,
    /// Tell for every step that ran why its result was not known
    #[arg(long)]
    pub explain: bool,
    /// How to show progress
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    pub progress: ProgressArg,
    /// What the log is for: text for people; github adds groups and annotations
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Show no progress; print only the image id
    #[arg(short, long)]
    pub quiet: bool,
    /// Write the image id (digest of the config) to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write digests and names as JSON to a file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[command(flatten)]
    pub resources: ResourceArgs,
    /// Look for specifications of devices (CDI) here (repeatable); /etc/cdi and /var/run/cdi otherwise
    #[arg(long, value_name = "DIR")]
    pub cdi_spec_dir: Vec<PathBuf>,
    #[command(flatten)]
    pub edits: EditArgs,
    #[command(flatten)]
    pub attest: AttestArgs,
    #[command(flatten)]
    pub refused: RefusedArgs,
}

/// What is stated about the image.
#[derive(Debug, Args, Clone, Default)]
pub struct AttestArgs {
    /// Attest how the image was made (SLSA provenance v1): true, false, mode=min, mode=max
    #[arg(long, value_name = "OPTIONS", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub provenance: Option<String>,
    /// Attest what is in the image (SPDX 2.3): true, false
    #[arg(long, value_name = "BOOLEAN", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub sbom: Option<String>,
    /// The same in one flag (repeatable): type=provenance,mode=max or type=sbom
    #[arg(long, value_name = "TYPE")]
    pub attest: Vec<String>,
    /// How attestations are attached [default: index, as buildx does]
    #[arg(long, value_name = "HOW")]
    pub attach: Option<AttachArg>,
}

/// `--attach`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AttachArg {
    /// Entries of the index, of the platform unknown/unknown
    Index,
    /// OCI 1.1 referrers; the image itself stays as it is without them
    Referrers,
}

/// What steps may use; needs a control group (v2) that is delegated to the user.
#[derive(Debug, Args, Clone, Default)]
pub struct ResourceArgs {
    /// Put steps into groups below this control group: /path, or name.slice
    #[arg(long, value_name = "GROUP")]
    pub cgroup_parent: Option<String>,
    /// Limit each step: memory=, memory-swap=, cpu-quota=, cpu-period=, cpu-shares=, cpuset-cpus=, cpuset-mems= (repeatable)
    #[arg(long, value_name = "KEY=VALUE,…")]
    pub resource: Vec<String>,
    /// The same as --resource memory=
    #[arg(short, long, value_name = "SIZE")]
    pub memory: Option<String>,
    #[arg(long, hide = true)]
    pub memory_swap: Option<String>,
    #[arg(long, hide = true)]
    pub cpu_quota: Option<String>,
    #[arg(long, hide = true)]
    pub cpu_period: Option<String>,
    #[arg(long, short = 'c', hide = true)]
    pub cpu_shares: Option<String>,
    #[arg(long, hide = true)]
    pub cpuset_cpus: Option<String>,
    #[arg(long, hide = true)]
    pub cpuset_mems: Option<String>,
}

/// What Buildah lets change without an edit of the Dockerfile.
#[derive(Debug, Args, Clone, Default)]
pub struct EditArgs {
    /// Read build arguments from a file of NAME=VALUE lines; --build-arg wins (repeatable)
    #[arg(long, value_name = "FILE")]
    pub build_arg_file: Vec<PathBuf>,
    /// Ignore file to use instead of the context's .dockerignore
    #[arg(long, value_name = "FILE")]
    pub ignorefile: Option<PathBuf>,
    /// Variable of the image, as an ENV at the end; without =VALUE, taken from the environment (repeatable)
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,
    /// Leave a variable out of the image (repeatable)
    #[arg(long, value_name = "NAME")]
    pub unsetenv: Vec<String>,
    /// Leave a label out of the image (repeatable)
    #[arg(long, value_name = "NAME")]
    pub unsetlabel: Vec<String>,
    /// Name server of RUN steps (repeatable) [default: the host's]
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<std::net::IpAddr>,
    /// Search domain of RUN steps (repeatable) [default: the host's]
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of resolv.conf(5) in RUN steps (repeatable) [default: the host's]
    #[arg(long, value_name = "OPTION")]
    pub dns_option: Vec<String>,
}

/// Flags of buildx that are known and not supported yet.
#[derive(Debug, Args, Clone)]
pub struct RefusedArgs {
    #[arg(long, hide = true)]
    pub builder: Option<String>,
}

/// How registries are reached.
#[derive(Debug, Args, Clone)]
pub struct RegistryArgs {
    /// Trust the certificates in this PEM file too (repeatable)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Vec<PathBuf>,
    /// Talk to this registry without TLS or with any certificate (repeatable); loopback always may
    #[arg(long, value_name = "HOST[:PORT]")]
    pub insecure_registry: Vec<String>,
    /// Certificates for registries: *.crt to trust, NAME.cert with NAME.key to show [default:
    /// certs.d/HOST[:PORT] of ~/.config/containers, /etc/containers and /etc/docker]
    #[arg(long, value_name = "DIR")]
    pub cert_dir: Option<PathBuf>,
    /// Mirrors, blocked registries and short names as in registries.conf(5), from this file alone
    #[arg(long, value_name = "FILE")]
    pub registries_conf: Option<PathBuf>,
    /// Pull from this mirror first, and from the registry what it lacks (repeatable) [default
    /// registry: docker.io]
    #[arg(long, value_name = "[HOST=]MIRROR")]
    pub registry_mirror: Vec<String>,
}

/// `lapstrake shell`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lapstrake shell builder .          the stage `builder`, built as far as it is not cached\n  lapstrake shell 3f2a90b1c4d5       the step that `build --on-error=keep` left\n\nWhat is changed in the shell is lost when it ends."
)]
pub struct ShellArgs {
    /// Name or number of a stage (then a CONTEXT follows), or the number of a kept step
    #[arg(value_name = "STAGE|STEP")]
    pub what: String,
    #[command(flatten)]
    pub build: BuildArgs,
}

/// `lapstrake explain`
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// Code or name, as E0201 or UndefinedVar [default: list all]
    pub code: Option<String>,
}

/// `lapstrake plan`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lapstrake plan .\n  lapstrake plan --platform linux/amd64,linux/arm64 --format dot . | dot -Tsvg > plan.svg\n\nStates of a step:\n  cached    its result is known\n  run       it would run\n  open      that depends on what a step before it makes\n  pull      layers of a base image would be fetched\n  unneeded  what stands on it is known"
)]
pub struct PlanArgs {
    /// How to show it
    #[arg(long, value_name = "FORMAT", default_value = "tree")]
    pub format: PlanFormat,
    #[command(flatten)]
    pub build: BuildArgs,
}

/// `plan --format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    /// For people
    Tree,
    /// For programs
    Json,
    /// A flow chart for Markdown pages
    Mermaid,
    /// For Graphviz
    Dot,
}

/// `lapstrake bake`
#[derive(Debug, Args)]
#[command(
    after_help = "Without -f, these are read where they are: compose.yaml, compose.yml, docker-compose.yml,\ndocker-compose.yaml, docker-bake.json, docker-bake.hcl, docker-bake.override.json, docker-bake.override.hcl\n\nExamples:\n  lapstrake bake                                   the group or target `default`\n  lapstrake bake --print app                       what would be built, as JSON\n  lapstrake bake --set '*.platform=linux/arm64' --set app.args.VERSION=2 app\n  lapstrake bake --set 'app.tags+=registry.example/app:2' --push app\n  lapstrake bake https://git.example/app.git#v2 app  the bake file and the contexts of a repository"
)]
pub struct BakeArgs {
    /// Targets and groups to build, also as patterns [default: default]; before them a Git
    /// repository or URL to read the bake files from, and another one for BAKE_CMD_CONTEXT
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
    /// Bake file (repeatable; later ones override); - reads standard input; cwd://FILE is here when
    /// the others are in a repository [default: see below]
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<String>,
    /// Override an attribute of targets (repeatable): TARGET.KEY=VALUE; += adds to a list
    #[arg(long, value_name = "PATTERN.KEY=VALUE")]
    pub set: Vec<String>,
    /// Give a variable a value (repeatable) [default: from the environment]
    #[arg(long, value_name = "NAME=VALUE")]
    pub var: Vec<String>,
    /// Print what would be built as JSON, and build nothing
    #[arg(long)]
    pub print: bool,
    /// List what the files define: targets, variables; with ,format=json for programs
    #[arg(long, value_name = "WHAT")]
    pub list: Option<String>,
    /// Send the images to their registries
    #[arg(long)]
    pub push: bool,
    /// Load the images of targets without outputs into the Docker or Podman that runs here
    #[arg(long)]
    pub load: bool,
    /// Run every step anew
    #[arg(long)]
    pub no_cache: bool,
    /// Always ask registries for base images
    #[arg(long)]
    pub pull: bool,
    /// Check the Dockerfiles of the targets, and build nothing
    #[arg(long)]
    pub check: bool,
    /// Answer a question of each target instead of building it: check, outline, targets
    #[arg(long, value_name = "WHAT")]
    pub call: Option<String>,
    /// Let targets ask for this (repeatable): network.host, security.insecure, device; bake files of
    /// another machine also ssh, fs.read=PATH, fs.write=PATH, fs=PATH
    #[arg(long, value_name = "ENTITLEMENT", value_delimiter = ',')]
    pub allow: Vec<String>,
    /// Open no socket
    #[arg(long)]
    pub offline: bool,
    /// How RUN steps are isolated
    #[arg(long, value_name = "RUNG", default_value = "auto")]
    pub isolation: IsolationArg,
    /// Emulator for foreign platforms (repeatable) [default: qemu-ARCH-static or qemu-ARCH in PATH]
    #[arg(long, value_name = "ARCH=PATH")]
    pub emulator: Vec<String>,
    /// What becomes of a RUN that failed: fail, shell opens one in it, keep leaves it to `lapstrake shell`
    #[arg(long, value_name = "WHAT", default_value = "fail")]
    pub on_error: OnErrorArg,
    /// Steps of all targets that run at a time [default: number of cores]
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Trust these certificates (PEM) in RUN steps, for ADD and for registries; in no layer (repeatable)
    #[arg(long, value_name = "FILE")]
    pub ca_cert: Vec<PathBuf>,
    /// How to show progress
    #[arg(long, value_name = "STYLE", default_value = "auto")]
    pub progress: ProgressArg,
    /// What the log is for: text for people; github adds groups and annotations
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Show no progress; print only image ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Write digests and names of all targets as JSON to a file
    #[arg(long, value_name = "FILE")]
    pub metadata_file: Option<PathBuf>,
    #[command(flatten)]
    pub registry: RegistryArgs,
    #[arg(long, hide = true)]
    pub sbom: Option<String>,
    #[arg(long, hide = true)]
    pub provenance: Option<String>,
}

/// A Dockerfile that is no file of the context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenDockerfile {
    /// As shown to the user.
    pub name: String,
    /// Its text.
    pub bytes: Vec<u8>,
    /// Where it lies on this machine, if it does.
    pub path: Option<PathBuf>,
}

/// `format=` of `bake --list`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListFormat {
    /// Columns for people.
    Table,
    /// JSON for programs.
    Json,
}

/// `lapstrake push`
#[derive(Debug, Args)]
pub struct PushArgs {
    /// Images of the store; their names say which registries they go to
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// Take along what refers to the image: signatures, SBOMs (OCI 1.1 referrers)
    #[arg(long)]
    pub referrers: bool,
    /// Show no progress; print only the result
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake inspect`
#[derive(Debug, Args)]
#[command(
    after_help = "A template has Go's form and sees what docker image inspect, imagetools inspect and skopeo inspect show:\n  Id Digest RepoTags RepoDigests Created Author Architecture Variant Os OsVersion Platform Platforms Size\n  Config RootFS History Labels Env Layers LayersData Manifest Image Provenance SBOM\nIt is about --platform, else this machine's image, else the first. Size is what the layers have in a registry.\n\nExamples:\n  lapstrake inspect docker://alpine:3\n  lapstrake inspect app:1 --format '{{.Os}}/{{.Architecture}}'\n  lapstrake inspect oci:out --format '{{json .Config.Labels}}' --platform linux/arm64\n  lapstrake inspect app:1 --layers"
)]
pub struct InspectArgs {
    /// Image: a name in the store, oci:DIR[:TAG], oci-archive:FILE, docker-archive:FILE, dir:DIR, docker://NAME
    pub image: String,
    /// json prints everything for programs; a template such as '{{.Os}}' what it asks for
    #[arg(short, long, value_name = "FORMAT")]
    pub format: Option<String>,
    /// Print the manifest or index as it is stored
    #[arg(long, conflicts_with = "format")]
    pub raw: bool,
    /// List the files of each layer, what they overwrite, and the bytes wasted
    #[arg(long, conflicts_with = "raw")]
    pub layers: bool,
    /// Show only these platforms
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake images`
#[derive(Debug, Args)]
pub struct ImagesArgs {
    /// json prints a list for programs
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<InspectFormat>,
    /// Print only names
    #[arg(short, long)]
    pub quiet: bool,
}

/// `lapstrake tag`
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Image of the store
    pub source: String,
    /// The name that it gets too (repeatable)
    #[arg(required = true)]
    pub target: Vec<String>,
}

/// `lapstrake rmi`
#[derive(Debug, Args)]
pub struct RmiArgs {
    /// Names to remove
    #[arg(required = true)]
    pub names: Vec<String>,
}

/// `lapstrake du`
#[derive(Debug, Args)]
pub struct DuArgs {
    /// json prints numbers for programs
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<InspectFormat>,
}

/// `lapstrake prune`
#[derive(Debug, Args)]
pub struct PruneArgs {
    /// Remove the whole build cache and all cache mounts; images that have a name stay
    #[arg(short, long)]
    pub all: bool,
    /// Remove only what was not used for this long, as 24h or 7d
    #[arg(long, value_name = "DURATION")]
    pub until: Option<String>,
    /// Remove the oldest until the cache is at most this large, as 10GB
    #[arg(long, value_name = "SIZE")]
    pub keep_storage: Option<String>,
}

/// `lapstrake doctor`
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// json prints the report for programs
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<InspectFormat>,
}

/// `--pull`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pull {
    /// Only what is not in the store
    Missing,
    /// Always ask the registry (alias: true)
    #[value(alias = "true")]
    Always,
    /// Never ask a registry
    Never,
    /// Ask, and go on with the store's when the registry can't be reached
    Newer,
    /// As missing, for scripts that write --pull=false
    #[value(name = "false", hide = true)]
    No,
}

/// `--network`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum NetworkMode {
    /// The host's network, as rootless builders do
    Default,
    /// Loopback only
    None,
    /// The host's network
    Host,
}

/// `--isolation`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IsolationArg {
    /// The best that this host allows
    Auto,
    /// A user namespace with a full range of ids
    Userns,
    /// A user namespace with one id
    UsernsSingle,
    /// Not supported yet
    #[value(hide = true)]
    Chroot,
}

/// `--progress`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ProgressArg {
    /// A live list on a terminal, lines elsewhere
    Auto,
    /// A live list
    Tty,
    /// Lines
    Plain,
    /// One JSON object a line
    Rawjson,
    /// Nothing
    #[value(alias = "none")]
    Quiet,
}

/// `--on-error`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnErrorArg {
    /// It goes
    Fail,
    /// A shell is opened in its root file system, with its mounts and environment
    Shell,
    /// It stays in the store, for `lapstrake shell`
    Keep,
}

/// `--log-format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// As --progress says
    Text,
    /// For GitHub Actions: a group a step, ::error and ::warning with file and line
    Github,
}

/// `--format`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InspectFormat {
    /// JSON
    Json,
}

/// Keeps clap's derive honest in tests.
#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Every command that docs/migrate.md shows is one that is understood.
    #[test]
    fn the_page_on_other_tools_is_right() {
        let page = include_str!("../../docs/migrate.md");
        let indented = page.lines().filter_map(|line| line.strip_prefix("    "));
        // The counterpart is the last cell of a row; what stands between backticks is typed.
        let cells = page.lines().filter(|line| line.starts_with("| ")).filter_map(|line| {
            line.trim_end_matches([' ', '|']).rsplit_once(" | ").map(|(_, cell)| cell)
        });
        let spans = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        let mut count = 0;
        for text in indented.chain(spans).filter(|text| text.starts_with("lapstrake ")) {
            // Nothing but single quotes around templates; bare `lapstrake load` names the command.
            let words: Vec<String> = text
                .split('\'')
                .enumerate()
                .flat_map(|(at, part)| match at % 2 {
                    0 => part.split_whitespace().map(str::to_owned).collect(),
                    _ => vec![part.to_owned()],
                })
                .collect();
            if words == ["lapstrake", "load"] {
                continue;
            }
            Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{text}: {error}"));
            for word in &words[2..] {
                if let Some(template) = Some(word).filter(|word| word.contains("{{")) {
                    super::super::template::Template::parse(template).expect(template);
                } else if word.contains(':') && !word.contains('=') {
                    crate::transport::ImageName::parse(word).expect(word);
                }
            }
            count += 1;
        }
        assert!(count > 60, "only {count} commands were found");
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn pull_alone_means_always() {
        let pull = |args: &[&str]| {
            let all = ["lapstrake", "build"].iter().chain(args);
            match Cli::parse_from(all).command {
                Command::Build(build) => build.pull,
                _ => None,
            }
        };
        assert_eq!(pull(&["."]), None);
        assert_eq!(pull(&["--pull", "."]), Some(Pull::Always));
        assert_eq!(pull(&["--pull=never", "."]), Some(Pull::Never));
    }
}
