//! Devices of the host by the names of the Container Device Interface (CDI), for `RUN --device`.
//!
//! Specifications are JSON or YAML files that drivers put into `/etc/cdi` and `/var/run/cdi`; each
//! says what a container needs to use a device: variables, device nodes, mounts. Nodes are bound from
//! the host, since a user namespace can't make any; so the device is usable as far as the user who
//! builds may open it.
//!
//! Hooks are programs of the host which runtimes run around a container's start; they are told and
//! not run. What else can't be done is an error.
//!
//! Format: CNCF `container-device-interface/SPEC.md`, up to version 1.0. Choice of devices as
//! BuildKit's `solver/llbsolver/cdidevices` does it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where specifications lie; the later directory wins (SPEC.md, "CDI JSON Specification").
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Picks several devices with one name (BuildKit: `deviceAnnotationClass`).
const CLASS: &str = "org.mobyproject.buildkit.device.class";

/// No specification is that large.
const MAX_FILE: u64 = 8 << 20;

/// Why a device can't be given to a step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is none of that name.
    #[error("no device is called {name}")]
    Unknown {
        /// As in the Dockerfile.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// A file that can't be read or understood.
    #[error("{path}: {reason}")]
    Bad {
        /// The specification.
        path: String,
        /// Why.
        reason: String,
    },
    /// The device wants something that a rootless sandbox can't do.
    #[error("the device {name} wants {what}, which can't be done here")]
    Impossible {
        /// Its name.
        name: String,
        /// What.
        what: String,
    },
}

impl Error {
    /// Gives what the user can do.
    pub fn hint(&self) -> String {
        match self {
            Error::Unknown { known, .. } if known.is_empty() => {
                "specifications of devices belong into /etc/cdi or /var/run/cdi; the driver's tools make \
                 them (as nvidia-ctk cdi generate)"
                    .to_owned()
            }
            Error::Unknown { known, .. } => format!("there are {}", known.join(", ")),
            Error::Bad { .. } => "make the file anew with the driver's tools".to_owned(),
            Error::Impossible { .. } => {
                "build this image as root with another builder, or without the device".to_owned()
            }
        }
    }
}

/// What a step gets for its devices.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    /// Variables.
    pub env: Vec<(String, String)>,
    /// Device nodes: path in the step, and on the host.
    pub nodes: Vec<(String, PathBuf)>,
    /// Files and directories.
    pub mounts: Vec<Mount>,
    /// Programs that a runtime would run, and we do not.
    pub hooks: Vec<String>,
}

/// A file or directory that a device needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// On the host.
    pub source: PathBuf,
    /// In the step.
    pub target: String,
    /// It may not be written.
    pub read_only: bool,
}

/// All devices of a host.
#[derive(Debug, Default)]
pub struct Devices(BTreeMap<String, Found>);

#[derive(Debug)]
struct Found {
    class: Option<String>,
    /// Of the whole file, then of the device.
    edits: [ContainerEdits; 2],
}

#[derive(Debug, Deserialize)]
struct Spec {
    #[serde(rename = "cdiVersion")]
    version: String,
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    devices: Vec<Device>,
    #[serde(default, rename = "containerEdits")]
    edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
struct Device {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default, rename = "containerEdits")]
    edits: ContainerEdits,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerEdits {
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    device_nodes: Vec<DeviceNode>,
    #[serde(default)]
    mounts: Vec<SpecMount>,
    #[serde(default)]
    hooks: Vec<Hook>,
    #[serde(default, rename = "additionalGids")]
    gids: Vec<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    #[serde(default)]
    host_path: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecMount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    #[serde(default)]
    hook_name: String,
    path: String,
}

impl Devices {
    /// Reads the specifications of directories, later ones over earlier ones. A directory that is not
    /// there has none.
    pub fn read(directories: &[PathBuf]) -> Result<Devices, Error> {
        let mut all = Devices::default();
        for directory in directories {
            let Ok(entries) = std::fs::read_dir(directory) else { continue };
            let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            files.sort();
            for file in files {
                let extension = file.extension().and_then(|extension| extension.to_str());
                if matches!(extension, Some("json" | "yaml" | "yml")) {
                    all.add(&file)?;
                }
            }
        }
        Ok(all)
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        use std::io::Read;
        let bad = |reason: String| Error::Bad { path: path.display().to_string(), reason };
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE).read_to_string(&mut text))
            .map_err(|error| bad(error.to_string()))?;
        // JSON is YAML, too; its own reader gives better errors.
        let spec: Spec = if path.extension().is_some_and(|extension| extension == "json") {
            serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?
        } else {
            serde_yaml_ng::from_str(&text).map_err(|error| bad(error.to_string()))?
        };
        if !spec.version.starts_with("0.") && !spec.version.starts_with("1.") {
            return Err(bad(format!("unknown cdiVersion {}", spec.version)));
        }
        if !is_kind(&spec.kind) {
            return Err(bad(format!("{:?} is no kind of device, as vendor.com/class", spec.kind)));
        }
        for device in spec.devices {
            let class = device.annotations.get(CLASS).or_else(|| spec.annotations.get(CLASS));
            let found = Found { class: class.cloned(), edits: [spec.edits.clone(), device.edits] };
            self.0.insert(format!("{}={}", spec.kind, device.name), found);
        }
        Ok(())
    }

    /// Gives the full names that a name stands for: the first device of a kind, all of it (`=*`), one
    /// by name, or those of a class. Empty when there is none.
    pub fn select(&self, name: &str) -> Vec<&str> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let prefix = format!("{kind}=");
        let mut of_kind =
            self.0.keys().map(String::as_str).filter(|full| full.starts_with(&prefix));
        match device {
            "" => of_kind.next().into_iter().collect(),
            "*" => of_kind.collect(),
            _ => match self.0.get_key_value(name) {
                Some((full, _)) => vec![full.as_str()],
                None => of_kind
                    .filter(|full| {
                        self.0.get(*full).and_then(|found| found.class.as_deref()) == Some(device)
                    })
                    .collect(),
            },
        }
    }

    /// Gives what a step needs for these devices: name, and whether the step fails without it.
    pub fn edits(&self, wanted: &[(String, bool)]) -> Result<Edits, Error> {
        let mut names: Vec<&str> = Vec::new();
        let mut seen = BTreeSet::new();
        for (name, required) in wanted {
            let found = self.select(name);
            if found.is_empty() && *required {
                let known = self.0.keys().cloned().collect();
                return Err(Error::Unknown { name: name.clone(), known });
            }
            names.extend(found.into_iter().filter(|name| seen.insert(*name)));
        }
        let mut out = Edits::default();
        let mut kinds = BTreeSet::new();
        for name in names {
            let Some(found) = self.0.get(name) else { continue };
            let kind = name.split('=').next().unwrap_or_default();
            // What a file says of all its devices counts once.
            let whole = kinds.insert(kind);
            for (edits, counts) in found.edits.iter().zip([whole, true]) {
                if counts {
                    out.add(name, edits)?;
                }
            }
        }
        Ok(out)
    }
}

impl Edits {
    fn add(&mut self, name: &str, edits: &ContainerEdits) -> Result<(), Error> {
        let impossible = |what: String| Error::Impossible { name: name.to_owned(), what };
        if !edits.gids.is_empty() {
            return Err(impossible("additional groups".to_owned()));
        }
        for text in &edits.env {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            self.env.push((key.to_owned(), value.to_owned()));
        }
        for node in &edits.device_nodes {
            let host = node.host_path.as_deref().filter(|path| !path.is_empty());
            self.nodes.push((node.path.clone(), PathBuf::from(host.unwrap_or(&node.path))));
        }
        for mount in &edits.mounts {
            if !matches!(mount.kind.as_deref(), None | Some("" | "bind" | "none")) {
                return Err(impossible(format!(
                    "a mount of type {}",
                    mount.kind.as_deref().unwrap_or_default()
                )));
            }
            self.mounts.push(Mount {
                source: PathBuf::from(&mount.host_path),
                target: mount.container_path.clone(),
                read_only: mount.options.iter().any(|option| option == "ro"),
            });
        }
        for hook in &edits.hooks {
            self.hooks.push(format!("{} ({})", hook.path, hook.hook_name));
        }
        Ok(())
    }
}

/// Says whether a text is `vendor/class`, as CDI writes it.
pub fn is_kind(text: &str) -> bool {
    let is_name = |name: &str, extra: &[u8]| {
        name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && name.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || extra.contains(&byte))
    };
    text.split_once('/')
        .is_some_and(|(vendor, class)| is_name(vendor, b"_-.") && is_name(class, b"_-."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(files: &[(&str, &str)]) -> Result<Devices, Error> {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("written");
        }
        Devices::read(&[dir.path().to_owned(), dir.path().join("none")])
    }

    const GPU: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
annotations: {org.mobyproject.buildkit.device.class: fast}
containerEdits:
  env: [DRIVER=1]
  hooks: [{hookName: createContainer, path: /usr/bin/hook}]
devices:
  - name: "0"
    containerEdits:
      deviceNodes: [{path: /dev/gpu0, hostPath: /dev/null}, {path: /dev/zero}]
      mounts: [{hostPath: /usr/lib/gpu, containerPath: /lib/gpu, options: [ro, nosuid]}]
  - name: "1"
    annotations: {org.mobyproject.buildkit.device.class: slow}
    containerEdits: {env: [SECOND=yes]}
"#;

    #[test]
    fn names_stand_for_devices() {
        let all = devices(&[("a.yaml", GPU), ("notes.txt", "no specification")]).expect("read");
        for (name, wanted) in [
            ("vendor.com/gpu", &["vendor.com/gpu=0"][..]),
            ("vendor.com/gpu=1", &["vendor.com/gpu=1"]),
            ("vendor.com/gpu=*", &["vendor.com/gpu=0", "vendor.com/gpu=1"]),
            ("vendor.com/gpu=fast", &["vendor.com/gpu=0"]),
            ("vendor.com/gpu=slow", &["vendor.com/gpu=1"]),
            ("vendor.com/gpu=2", &[]),
            ("vendor.com/g", &[]),
        ] {
            assert_eq!(all.select(name), wanted, "{name}");
        }
    }

    #[test]
    fn what_a_file_says_of_all_its_devices_counts_once() {
        let all = devices(&[("a.yaml", GPU)]).expect("read");
        let wanted = [("vendor.com/gpu=*".to_owned(), true), ("vendor.com/gpu=0".to_owned(), true)];
        let edits = all.edits(&wanted).expect("both are there");
        let env = [("DRIVER", "1"), ("SECOND", "yes")];
        assert_eq!(edits.env, env.map(|(key, value)| (key.to_owned(), value.to_owned())));
        assert_eq!(edits.nodes[0], ("/dev/gpu0".to_owned(), PathBuf::from("/dev/null")));
        assert_eq!(edits.nodes[1], ("/dev/zero".to_owned(), PathBuf::from("/dev/zero")));
        assert!(edits.mounts[0].read_only && edits.mounts.len() == 1);
        assert_eq!(edits.hooks, ["/usr/bin/hook (createContainer)"]);
    }

    #[test]
    fn missing_devices_fail_when_required() {
        let all = devices(&[("a.yaml", GPU)]).expect("read");
        assert_eq!(all.edits(&[("x.org/y".into(), false)]).expect("optional"), Edits::default());
        let error = all.edits(&[("x.org/y".into(), true)]).expect_err("required");
        assert!(error.hint().contains("vendor.com/gpu=0, vendor.com/gpu=1"), "{}", error.hint());
    }

    #[test]
    fn later_files_win_and_bad_ones_are_named() {
        let json = r#"{"cdiVersion":"1.0.0","kind":"vendor.com/gpu","devices":[{"name":"0"}]}"#;
        let all = devices(&[("a.yaml", GPU), ("b.json", json)]).expect("read");
        let edits = all.edits(&[("vendor.com/gpu=0".into(), true)]).expect("there");
        assert_eq!(edits, Edits::default());
        for (name, text, word) in [
            ("a.json", "{", "EOF"),
            ("a.yaml", "kind: x", "cdiVersion"),
            ("a.yaml", "cdiVersion: 0.6.0\nkind: x\ndevices: []", "vendor.com/class"),
            ("a.yaml", "cdiVersion: 9.0.0\nkind: v.com/x\ndevices: []", "cdiVersion"),
        ] {
            let error = devices(&[(name, text)]).expect_err(text).to_string();
            assert!(error.contains(name) && error.contains(word), "{error}");
        }
        let gids = "cdiVersion: 0.7.0\nkind: v.com/x\ndevices: [{name: a, containerEdits: {additionalGids: [5]}}]";
        let all = devices(&[("a.yaml", gids)]).expect("read");
        let error = all.edits(&[("v.com/x=a".into(), true)]).expect_err("groups");
        assert!(error.to_string().contains("additional groups"), "{error}");
    }

    #[test]
    fn kinds() {
        for (text, wanted) in [
            ("nvidia.com/gpu", true),
            ("a/b", true),
            ("a", false),
            ("a/", false),
            ("/b", false),
            ("a b/c", false),
            ("a/b/c", false),
        ] {
            assert_eq!(is_kind(text), wanted, "{text}");
        }
    }
}
