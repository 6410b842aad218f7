//! The image config (OCI image-spec, config.md), with the fields that Docker adds to it.
//!
//! Reading is lenient: Go programs write `null` for an empty list, and old Docker versions left
//! fields that nobody reads any more. Writing omits what is empty and sorts all keys, which is the
//! form that BuildKit writes, up to the order of keys. Reading and writing a config keeps every
//! field, known or not.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::descriptor::null_default;
use super::{DiffId, Platform, canonical};

/// The largest config that we read. Real ones have some kilobytes; one with 8 MiB of labels
/// exists in the wild, and containerd's limit is the same.
pub const MAX_SIZE: u64 = 8 << 20;

/// An image config.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The architecture, by Go's names.
    #[serde(default)]
    pub architecture: String,
    /// The operating system, by Go's names.
    #[serde(default)]
    pub os: String,
    /// The variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the operating system (Windows).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that the image needs (Windows).
    #[serde(
        default,
        rename = "os.features",
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
    /// How to run it.
    #[serde(default, deserialize_with = "null_default")]
    pub config: RuntimeConfig,
    /// The layers.
    #[serde(default, deserialize_with = "null_default")]
    pub rootfs: RootFs,
    /// How it came to be.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// The layers of an image, from the lowest up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers")]
    pub kind: String,
    /// The digests of their uncompressed tars.
    #[serde(default, deserialize_with = "null_default")]
    pub diff_ids: Vec<DiffId>,
}

/// How to run an image. Docker's `container.Config`, in the fields that images use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RuntimeConfig {
    /// `user[:group]`; empty means root.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `port/protocol`.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "no_keys")]
    pub exposed_ports: KeySet,
    /// `NAME=value`, in order.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// The program; `None` and an empty list are written alike.
    #[serde(default, skip_serializing_if = "none_or_empty")]
    pub entrypoint: Option<Vec<String>>,
    /// Its default arguments, or the program where there is no entrypoint.
    #[serde(default, skip_serializing_if = "none_or_empty")]
    pub cmd: Option<Vec<String>>,
    /// Paths that hold data of the container, not of the image.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "no_keys")]
    pub volumes: KeySet,
    /// The working directory.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free text by key.
    #[serde(
        default,
        deserialize_with = "null_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// The signal that stops it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How long to wait after that signal, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// How to see whether it is well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for builds that start from this image.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// The shell of the shell form of RUN, CMD and ENTRYPOINT.
    #[serde(default, skip_serializing_if = "none_or_empty")]
    pub shell: Option<Vec<String>>,
    /// Windows: the command line is one already escaped text.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// How to see whether a container is well (Docker's `HealthcheckConfig`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", args…]` or `["CMD-SHELL", command]`.
    #[serde(default, skip_serializing_if = "none_or_empty")]
    pub test: Option<Vec<String>>,
    /// Time between two checks, in nanoseconds; 0 means inherited.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time that a check may take, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time before failures count, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between two checks within the start period, in nanoseconds.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures until it counts as unwell.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// One step of how an image came to be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// When, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// By whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A remark; BuildKit writes `buildkit.dockerfile.v0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<Cow<'static, str>>,
    /// Whether the step made no layer.
    #[serde(default, deserialize_with = "null_default", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
    /// Fields that we do not know.
    #[serde(flatten)]
    pub extra: BTreeMap<String, Value>,
}

/// A set of texts that JSON holds as an object with empty values (`{"80/tcp":{}}`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeySet(pub BTreeSet<String>);

impl ImageConfig {
    /// Reads a config.
    pub fn parse(bytes: &[u8]) -> Result<ImageConfig, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Makes the config of an empty image for `platform`.
    pub fn empty(platform: &Platform) -> ImageConfig {
        let mut config = ImageConfig::default();
        config.set_platform(platform);
        config
    }

    /// Gives the canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        canonical::to_vec(self)
    }

    /// Gives the platform that the config states, normalised.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
            os_features: self.os_features.clone(),
        }
        .normalized()
    }

    /// Sets the platform. An os.version and os.features are replaced only when `platform` has
    /// some, so that a Windows base's own stay (BuildKit does the same).
    pub fn set_platform(&mut self, platform: &Platform) {
        self.os = platform.os.clone();
        self.architecture = platform.architecture.clone();
        self.variant = platform.variant.clone();
        if platform.os_version.is_some() {
            self.os_version = platform.os_version.clone();
        }
        if !platform.os_features.is_empty() {
            self.os_features = platform.os_features.clone();
        }
    }

    /// Drops the fields that told old Docker versions how the base was made and that would be
    /// wrong for an image built on top of it. BuildKit drops them too.
    pub fn drop_legacy(&mut self) {
        const LEGACY: [&str; 8] = [
            "container",
            "container_config",
            "docker_version",
            "id",
            "parent",
            "parent_id",
            "throwaway",
            "Size",
        ];
        for key in LEGACY {
            self.extra.remove(key);
        }
        const LEGACY_RUNTIME: [&str; 12] = [
            "Hostname",
            "Domainname",
            "AttachStdin",
            "AttachStdout",
            "AttachStderr",
            "Tty",
            "OpenStdin",
            "StdinOnce",
            "Image",
            "NetworkDisabled",
            "MacAddress",
            "PublishService",
        ];
        for key in LEGACY_RUNTIME {
            self.config.extra.remove(key);
        }
    }

    /// Counts the history entries that made a layer.
    pub fn history_layers(&self) -> usize {
        self.history.iter().filter(|entry| !entry.empty_layer).count()
    }
}

impl Default for RootFs {
    fn default() -> RootFs {
        RootFs { kind: layers(), diff_ids: Vec::new() }
    }
}

impl Deref for KeySet {
    type Target = BTreeSet<String>;

    fn deref(&self) -> &BTreeSet<String> {
        &self.0
    }
}

impl DerefMut for KeySet {
    fn deref_mut(&mut self) -> &mut BTreeSet<String> {
        &mut self.0
    }
}

impl FromIterator<String> for KeySet {
    fn from_iter<I: IntoIterator<Item = String>>(keys: I) -> KeySet {
        KeySet(keys.into_iter().collect())
    }
}

impl Serialize for KeySet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|key| (key, Value::Object(Default::default()))))
    }
}

impl<'de> Deserialize<'de> for KeySet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeySet, D::Error> {
        let map = BTreeMap::<String, serde::de::IgnoredAny>::deserialize(deserializer)?;
        Ok(KeySet(map.into_keys().collect()))
    }
}

fn layers() -> String {
    "layers".to_owned()
}

fn none_or_empty(list: &Option<Vec<String>>) -> bool {
    list.as_ref().is_none_or(Vec::is_empty)
}

fn no_keys(keys: &KeySet) -> bool {
    keys.0.is_empty()
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    /// As Docker wrote it, with nulls, fields of its own and one that nobody knows.
    const DOCKERS: &str = r#"{"architecture":"amd64","config":{"Hostname":"","User":"app",
        "ExposedPorts":{"80/tcp":{},"443/tcp":{}},"Env":["PATH=/bin","A=<b>"],"Cmd":null,
        "Image":"sha256:0","Volumes":null,"WorkingDir":"/srv","Entrypoint":["/app"],"OnBuild":null,
        "Labels":{"z":"1","a":"2"},"ArgsEscaped":true,"Healthcheck":{"Test":["CMD-SHELL","true"],
        "Interval":30000000000},"Shell":["/bin/ash","-c"],"StopSignal":"SIGQUIT"},
        "container":"abc","created":"2020-01-01T00:00:00Z","future":{"x":[1,null]},
        "history":[{"created_by":"a"},{"created_by":"b","empty_layer":true}],"os":"linux",
        "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;

    #[test]
    fn dockers_config_round_trips() {
        let config = ImageConfig::parse(DOCKERS.as_bytes()).unwrap();
        assert_eq!(config.config.user, "app");
        assert!(config.config.exposed_ports.contains("443/tcp"));
        assert_eq!(config.config.cmd, None);
        assert_eq!(config.config.healthcheck.as_ref().unwrap().interval, 30_000_000_000);
        assert_eq!(config.history_layers(), 1);
        let again = ImageConfig::parse(&config.encode()).unwrap();
        assert_eq!(again, config);
        assert_eq!(again.extra["future"]["x"][0], 1);
        let mut clean = config.clone();
        clean.drop_legacy();
        insta::assert_snapshot!(String::from_utf8(clean.encode()).unwrap(), @r#"{"architecture":"amd64","config":{"ArgsEscaped":true,"Entrypoint":["/app"],"Env":["PATH=/bin","A=<b>"],"ExposedPorts":{"443/tcp":{},"80/tcp":{}},"Healthcheck":{"Interval":30000000000,"Test":["CMD-SHELL","true"]},"Labels":{"a":"2","z":"1"},"Shell":["/bin/ash","-c"],"StopSignal":"SIGQUIT","User":"app","WorkingDir":"/srv"},"created":"2020-01-01T00:00:00Z","future":{"x":[1,null]},"history":[{"created_by":"a"},{"created_by":"b","empty_layer":true}],"os":"linux","rootfs":{"diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],"type":"layers"}}"#);
    }

    #[test]
    fn golden_digests() {
        let check = |config: &ImageConfig, want: &str| {
            assert_eq!(Digest::of(&config.encode()).hex(), want, "{:?}", config);
        };
        let empty = ImageConfig::empty(&"linux/arm/v7".parse().unwrap());
        assert_eq!(
            String::from_utf8(empty.encode()).unwrap(),
            r#"{"architecture":"arm","config":{},"os":"linux","rootfs":{"diff_ids":[],"type":"layers"},"variant":"v7"}"#
        );
        check(&empty, "0f1453c8e57e0f0b3c2b6928c3c2bffe93fae202573c5faa423ebd31f1e5db11");
        let mut clean = ImageConfig::parse(DOCKERS.as_bytes()).unwrap();
        clean.drop_legacy();
        check(&clean, "7e5821657bb076109b54c7161bb71714717ad4ca51fcf6cf828c6b48961fcba7");
    }

    #[test]
    fn empty_lists_are_omitted() {
        let config = RuntimeConfig {
            cmd: Some(Vec::new()),
            entrypoint: Some(Vec::new()),
            ..RuntimeConfig::default()
        };
        assert_eq!(canonical::to_vec(&config), b"{}");
    }
}
