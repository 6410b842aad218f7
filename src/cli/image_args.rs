//! Arguments of the commands on images, as typed: copy, pull, index, verify, diff, load, login.
#![allow(missing_docs, reason = "hidden flags have no help, and help is what the doc comments are")]

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::args::RegistryArgs;

/// `lapstrake copy`
#[derive(Debug, Args)]
#[command(
    after_help = "Images:\n  docker://NAME[:TAG|@DIGEST]   of a registry\n  oci:DIR[:TAG|@DIGEST]         of an OCI layout\n  oci-archive:FILE[:TAG]        of an OCI layout in a tar\n  docker-archive:FILE[:NAME]    as `docker save` writes it (one platform)\n  dir:DIR                       as files\n  NAME[:TAG]                    of the store\n\nAll platforms are copied unless --platform names some; digests stay the same.\n\nExamples:\n  lapstrake copy docker://quay.io/team/app:1 docker://registry.example/app:1 --referrers\n  lapstrake copy app:1 oci-archive:app.tar\n  lapstrake copy --platform linux/arm64 docker://alpine:3 docker-archive:alpine.tar:alpine:3\n  lapstrake copy --compression zstd oci:in:1 oci:out:1"
)]
pub struct CopyArgs {
    /// Image to copy
    #[arg(value_name = "SRC")]
    pub source: String,
    /// Where to
    #[arg(value_name = "DST")]
    pub destination: String,
    /// Copy only these platforms
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Compress layers anew: gzip, zstd, estargz or none (digests change)
    #[arg(long, value_name = "ALGORITHM")]
    pub compression: Option<CompressionArg>,
    /// Level of --compression: 1 to 9 for gzip and estargz, 1 to 19 for zstd
    #[arg(long, value_name = "N", requires = "compression")]
    pub compression_level: Option<u32>,
    /// Take along what refers to the image: signatures, SBOMs (OCI 1.1 referrers)
    #[arg(long)]
    pub referrers: bool,
    /// Another tag for the copy, in a registry or the store (repeatable)
    #[arg(long, value_name = "TAG")]
    pub additional_tag: Vec<String>,
    /// Show no progress; print only the result
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `--compression`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompressionArg {
    /// gzip, which every engine reads
    Gzip,
    /// zstd, for engines of 2022 and later
    Zstd,
    /// gzip that lazy pullers read file by file
    Estargz,
    /// No compression
    #[value(alias = "uncompressed")]
    None,
}

/// `lapstrake pull`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lapstrake pull alpine:3\n  lapstrake pull --platform linux/arm64,linux/amd64 registry.example/team/app@sha256:…"
)]
pub struct PullArgs {
    /// Images of registries (repeatable)
    #[arg(value_name = "NAME[:TAG|@DIGEST]", required = true)]
    pub names: Vec<String>,
    /// Get only these platforms [default: all]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Take along what refers to the image: signatures, SBOMs
    #[arg(long)]
    pub referrers: bool,
    /// Show no progress; print only the result
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake index`
#[derive(Debug, Args)]
pub struct IndexArgs {
    #[command(subcommand)]
    pub command: IndexCommand,
}

/// `lapstrake index …`
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Make one multi-platform image of several images
    Create(IndexCreateArgs),
    /// Add images to an index; one of the same platform is replaced
    Append(IndexCreateArgs),
    /// Change platform or annotations of an entry, or annotations of the index
    Annotate(IndexAnnotateArgs),
    /// Join OCI layouts (the artifacts of a CI matrix): same names become one image each
    Merge(IndexMergeArgs),
    /// Take entries out of an index
    Remove(IndexRemoveArgs),
}

/// `lapstrake index create|append`
#[derive(Debug, Args)]
#[command(
    after_help = "A SRC may say more of its entry, after commas:\n  app:win22,os.version=10.0.20348.1,os.features=win32k,annotation.KEY=VALUE\n  keys: platform, os, arch, variant, os.version, os.features (joined by +), annotation.KEY\n\nThe network is used only where a docker:// name is given.\n\nExamples:\n  lapstrake index create app:latest app:amd64 app:arm64\n  lapstrake index create docker://registry.example/app:1 oci:linux docker://registry.example/app:win\n  lapstrake index append app:latest app:riscv64"
)]
pub struct IndexCreateArgs {
    /// The index: a name in the store, oci:DIR[:TAG], oci-archive:FILE, docker://NAME
    #[arg(value_name = "DST")]
    pub destination: String,
    /// Images and indexes that go into it
    #[arg(value_name = "SRC[,KEY=VALUE…]", required = true)]
    pub sources: Vec<String>,
    /// Annotation of the index (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Take entries whose config says another platform
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake index annotate`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lapstrake index annotate app:latest linux/arm --variant v7\n  lapstrake index annotate app:latest --annotation org.opencontainers.image.vendor=Example"
)]
pub struct IndexAnnotateArgs {
    /// The index
    #[arg(value_name = "DST")]
    pub destination: String,
    /// The entry, by platform or digest; without it, --annotation is for the index
    #[arg(value_name = "PLATFORM|DIGEST")]
    pub entry: Option<String>,
    /// Operating system
    #[arg(long)]
    pub os: Option<String>,
    /// Architecture
    #[arg(long)]
    pub arch: Option<String>,
    /// Variant of the architecture; empty takes it away
    #[arg(long)]
    pub variant: Option<String>,
    /// Version of the operating system; empty takes it away
    #[arg(long)]
    pub os_version: Option<String>,
    /// Features of the operating system
    #[arg(long, value_delimiter = ',')]
    pub os_features: Vec<String>,
    /// Annotation; an empty value takes it away (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<String>,
    /// Claim a platform that the config does not say
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake index remove`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  lapstrake index remove app:latest linux/s390x 'windows(10.0.17763.1)/amd64'"
)]
pub struct IndexRemoveArgs {
    /// The index
    #[arg(value_name = "DST")]
    pub destination: String,
    /// Entries, by platform or digest
    #[arg(value_name = "PLATFORM|DIGEST", required = true)]
    pub entries: Vec<String>,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake index merge`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lapstrake index merge amd64/ arm64/ -o out/\n  lapstrake index merge amd64.tar arm64.tar -o docker://registry.example/app:1"
)]
pub struct IndexMergeArgs {
    /// OCI layouts: directories, or archives
    #[arg(value_name = "LAYOUT", required = true)]
    pub layouts: Vec<PathBuf>,
    /// Where to: a directory, or a name as `copy` has them
    #[arg(short, long, value_name = "DST")]
    pub output: String,
    /// Take entries whose config says another platform
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake login`
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Registry, as registry.example:5000 [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    pub registry_name: Option<String>,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,
    /// Read the password from standard input [default: ask on the terminal]
    #[arg(long)]
    pub password_stdin: bool,
    /// Talk to this registry without TLS or with any certificate
    #[arg(long)]
    pub insecure: bool,
    /// File to write [default: where Docker or Podman reads]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake logout`
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// Registry [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    pub registry_name: Option<String>,
    /// File to change [default: every one that Docker or Podman reads]
    #[arg(long, value_name = "FILE")]
    pub authfile: Option<PathBuf>,
}

/// `lapstrake verify`
#[derive(Debug, Args)]
#[command(
    after_help = "Manifests, configs and layers are hashed, layers also uncompressed, and compared with what names them,\nas strictly as the OCI specification allows. Exit code 5 when something is wrong.\n\nExamples:\n  lapstrake verify app:1\n  lapstrake verify oci:out docker://registry.example/app:1"
)]
pub struct VerifyArgs {
    /// Images, as `copy` takes them; every platform is read. Of oci:DIR without a tag, all images
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake diff`
#[derive(Debug, Args)]
#[command(
    after_help = "Files are compared by content, mode, owner, links and attributes; times are not. Nothing is unpacked.\n\nExamples:\n  lapstrake diff app:1 app:2\n  lapstrake diff docker://alpine:3.20 docker://alpine:3.21 --platform linux/arm64"
)]
pub struct DiffArgs {
    /// The image before
    pub before: String,
    /// The image after
    pub after: String,
    /// Platform of both [default: the only one, else this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<String>,
    /// json prints lists for programs
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<super::args::InspectFormat>,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `lapstrake load`
#[derive(Debug, Args)]
#[command(
    after_help = "Docker is found by DOCKER_HOST or its socket, else by the program `docker`; then comes `podman`. A Docker with\nthe containerd image store gets all platforms, any other engine its own.\n\nExamples:\n  lapstrake load app:1\n  lapstrake load app.tar --tag app:1 --engine podman\n  lapstrake load oci:out:1 --platform linux/arm64 --tag app:arm64"
)]
pub struct LoadArgs {
    /// Image, as `copy` takes it, or an archive file; - reads an archive from standard input
    #[arg(value_name = "FILE|NAME|-")]
    pub image: String,
    /// Name in the engine [default: the names that the image has] (repeatable)
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// Platforms to load [default: all where the engine can, else its own]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Engine to load into [default: the first that runs]
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineArg>,
    /// Show no progress; print only the result
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// `--engine`
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// Docker, by its socket or program
    Docker,
    /// Podman
    Podman,
}
