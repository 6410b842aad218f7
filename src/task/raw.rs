//! A task as it is written, before it is checked.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use serde::Deserialize;

use super::{Error, STEP_TIMEOUT, Step, TOTAL_TIMEOUT, Task, Work, docker, split};

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) version: Option<String>,
    step_timeout: Option<u64>,
    total_timeout: Option<u64>,
    working_directory: Option<String>,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    secrets: Vec<RawSecret>,
    #[serde(default)]
    networks: Vec<serde_yaml_ng::Value>,
    #[serde(default)]
    volumes: Vec<RawVolume>,
    pub(super) alias: Option<RawAlias>,
    steps: Vec<RawStep>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecret {
    id: String,
    keyvault: Option<String>,
    #[serde(rename = "clientID")]
    _client_id: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVolume {
    name: String,
    secret: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAlias {
    #[serde(default)]
    values: BTreeMap<String, String>,
    #[serde(default)]
    src: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawMount {
    name: String,
    mount_path: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawStep {
    id: Option<String>,
    build: Option<String>,
    push: Option<OneOrMany>,
    cmd: Option<String>,
    when: Option<Vec<String>>,
    timeout: Option<u64>,
    retries: Option<u32>,
    retry_delay: Option<u64>,
    #[serde(default)]
    retry_on_errors: Vec<String>,
    repeat: Option<u32>,
    start_delay: Option<u64>,
    #[serde(default)]
    env: Vec<String>,
    working_directory: Option<String>,
    #[serde(default)]
    ignore_errors: bool,
    entry_point: Option<String>,
    user: Option<String>,
    #[serde(default)]
    pull: bool,
    #[serde(default)]
    disable_working_directory_override: bool,
    #[serde(default)]
    volume_mounts: Vec<RawMount>,
    // Known, and refused where they ask for something.
    cache: Option<String>,
    #[serde(default)]
    detach: bool,
    #[serde(default)]
    keep: bool,
    #[serde(default)]
    privileged: bool,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    expose: Vec<String>,
    network: Option<String>,
    isolation: Option<String>,
    secret: Option<serde_yaml_ng::Value>,
}

/// Reads the YAML.
pub(super) fn read(text: &str) -> Result<Raw, Error> {
    serde_yaml_ng::from_str(text).map_err(|error| Error::new("", error.to_string()))
}

impl Raw {
    /// Gives the file's own aliases.
    pub(super) fn aliases(&self) -> Result<BTreeMap<String, String>, Error> {
        let Some(alias) = &self.alias else { return Ok(BTreeMap::new()) };
        if !alias.src.is_empty() {
            return Err(Error::new("alias", "src: is not supported")
                .hint("write the aliases into the task, under values:"));
        }
        Ok(alias.values.clone())
    }

    /// Refuses what only Azure has.
    pub(super) fn check(&self, secrets: &BTreeSet<String>) -> Result<(), Error> {
        if !self.networks.is_empty() {
            return Err(Error::new("networks", "steps have no network of their own to share")
                .hint("leave networks: out; steps see the host's network"));
        }
        for secret in &self.secrets {
            if !secrets.contains(&secret.id) {
                let why = match secret.keyvault {
                    Some(_) => "Azure Key Vault is not asked",
                    None => "it has no value",
                };
                return Err(Error::new(&format!("secret {}", secret.id), why)
                    .hint(format!("give its value: --set-secret {}=VALUE", secret.id)));
            }
        }
        Ok(())
    }

    /// Checks all else.
    pub(super) fn into_task(self, images: &BTreeMap<&str, &str>) -> Result<Task, Error> {
        if self.steps.is_empty() {
            return Err(Error::new("", "the task has no steps"));
        }
        let mut volumes = BTreeMap::new();
        for volume in &self.volumes {
            let mut files = BTreeMap::new();
            for (name, value) in &volume.secret {
                let place = format!("volume {}", volume.name);
                let bytes = base64::engine::general_purpose::STANDARD
                    .decode(value.trim())
                    .map_err(|_| {
                        Error::new(&place, format!("{name} is no base64"))
                            .hint("as in {{.Values.name | b64enc}}")
                    })?;
                if name.contains('/') || matches!(name.as_str(), "" | "." | "..") {
                    return Err(Error::new(&place, format!("{name:?} is no name of a file")));
                }
                files.insert(name.clone(), bytes);
            }
            volumes.insert(volume.name.clone(), files);
        }
        let ids: Vec<String> = self
            .steps
            .iter()
            .enumerate()
            .map(|(number, step)| step.id.clone().unwrap_or_else(|| format!("acb_step_{number}")))
            .collect();
        for (number, id) in ids.iter().enumerate() {
            if ids[..number].contains(id) {
                return Err(Error::new("", format!("two steps are called {id}")));
            }
        }
        let mut steps = Vec::new();
        for (number, step) in self.steps.iter().enumerate() {
            let place = format!("step {}", ids[number]);
            step.refuse(&place)?;
            let after = step.after(number, &ids, &place)?;
            let env: Vec<String> = self.env.iter().chain(&step.env).cloned().collect();
            if let Some(bad) = env.iter().find(|text| !text.contains('=') || text.starts_with('='))
            {
                return Err(Error::new(&place, format!("env: {bad:?} is not NAME=VALUE")));
            }
            for mount in &step.volume_mounts {
                if !volumes.contains_key(&mount.name) {
                    return Err(Error::new(&place, format!("there is no volume {:?}", mount.name)));
                }
                if !mount.mount_path.starts_with('/') {
                    return Err(Error::new(
                        &place,
                        format!("mountPath {:?} is not absolute", mount.mount_path),
                    ));
                }
            }
            steps.push(Step {
                id: ids[number].clone(),
                work: step.work(images, &place)?,
                after,
                timeout: step.timeout.or(self.step_timeout).unwrap_or(STEP_TIMEOUT),
                retries: step.retries.unwrap_or(0),
                retry_delay: step.retry_delay.unwrap_or(0),
                retry_on_errors: step.retry_on_errors.clone(),
                repeat: step.repeat.unwrap_or(0),
                start_delay: step.start_delay.unwrap_or(0),
                env,
                working_directory: step
                    .working_directory
                    .clone()
                    .or_else(|| self.working_directory.clone()),
                ignore_errors: step.ignore_errors,
                entry_point: step.entry_point.clone(),
                user: step.user.clone(),
                pull: step.pull,
                own_directory: step.disable_working_directory_override,
                mounts: step
                    .volume_mounts
                    .iter()
                    .map(|mount| (mount.name.clone(), mount.mount_path.clone()))
                    .collect(),
            });
        }
        no_circles(&steps)?;
        let total_timeout = self.total_timeout.unwrap_or(TOTAL_TIMEOUT);
        Ok(Task { total_timeout, volumes, steps })
    }
}

impl RawStep {
    fn refuse(&self, place: &str) -> Result<(), Error> {
        let refused: [(bool, &str, &str); 8] = [
            (
                self.detach,
                "detach: a step in the background would serve others over a network, and steps share none",
                "run what needs it in one step, or start the service outside of the task",
            ),
            (!self.ports.is_empty(), "ports: nothing is forwarded to a step", "leave it out"),
            (!self.expose.is_empty(), "expose: nothing is forwarded to a step", "leave it out"),
            (self.keep, "keep: nothing of a step is left that could be kept", "leave it out"),
            (
                self.privileged,
                "privileged: a step gets no rights that its user does not have",
                "leave it out",
            ),
            (
                self.network.as_deref().is_some_and(|network| network != "host"),
                "network: there are no networks to choose from",
                "leave it out; steps see the host's network",
            ),
            (
                self.isolation.as_deref().is_some_and(|kind| kind != "default"),
                "isolation: there is one kind only",
                "leave it out",
            ),
            (
                self.secret.is_some(),
                "secret: steps take secrets by volumeMounts and env",
                "leave it out",
            ),
        ];
        for (given, message, hint) in refused {
            if given {
                return Err(Error::new(place, message).hint(hint));
            }
        }
        match self.cache.as_deref() {
            None | Some("enabled" | "disabled") => Ok(()),
            Some(other) => {
                Err(Error::new(place, format!("cache: {other:?} is neither enabled nor disabled")))
            }
        }
    }

    fn after(&self, number: usize, ids: &[String], place: &str) -> Result<Vec<usize>, Error> {
        let Some(when) = &self.when else { return Ok(number.checked_sub(1).into_iter().collect()) };
        if when.iter().any(|id| id == "-") {
            if when.len() > 1 {
                return Err(Error::new(place, "when: \"-\" (at once) stands alone"));
            }
            return Ok(Vec::new());
        }
        let one = |id: &String| {
            let found = ids.iter().position(|known| known == id);
            found.filter(|&at| at != number).ok_or_else(|| {
                Error::new(place, format!("when: there is no other step {id:?}"))
                    .hint(format!("steps are {}", ids.join(", ")))
            })
        };
        when.iter().map(one).collect()
    }

    fn work(&self, images: &BTreeMap<&str, &str>, place: &str) -> Result<Work, Error> {
        let words = |text: &str| split(text).map_err(|error| Error::new(place, error));
        match (&self.build, &self.push, &self.cmd) {
            (Some(build), None, None) => {
                let mut words = docker::build_words(words(build)?);
                if self.cache.as_deref() == Some("disabled") {
                    words.insert(0, "--no-cache".to_owned());
                }
                Ok(Work::Build(words))
            }
            (None, Some(push), None) => {
                let names = match push {
                    OneOrMany::One(text) => words(text)?,
                    OneOrMany::Many(list) => {
                        list.iter().map(|name| name.trim().to_owned()).collect()
                    }
                };
                if names.is_empty() {
                    return Err(Error::new(place, "push: names nothing"));
                }
                Ok(Work::Push(names))
            }
            (None, None, Some(cmd)) => {
                let mut words = words(cmd)?;
                match words.first().map(String::as_str) {
                    None => Err(Error::new(place, "cmd: is empty")),
                    Some("docker") if !images.contains_key("docker") => {
                        docker::parse(&words[1..]).map(Work::Docker).map_err(|(message, hint)| {
                            Error::new(place, format!("docker: {message}")).hint(hint)
                        })
                    }
                    Some(flag) if flag.starts_with('-') => Err(Error::new(
                        place,
                        format!("cmd: the option {flag} of `docker run` is not supported"),
                    )
                    .hint("begin with the image; options are properties of the step: env, user, entryPoint, workingDirectory")),
                    Some(name) => {
                        if let Some(image) = images.get(name) {
                            words[0] = (*image).to_owned();
                        }
                        Ok(Work::Run(words))
                    }
                }
            }
            _ => Err(Error::new(place, "a step has one of build:, push: and cmd:")),
        }
    }
}

/// Refuses steps that wait for each other.
fn no_circles(steps: &[Step]) -> Result<(), Error> {
    let mut done = vec![false; steps.len()];
    loop {
        let next = (0..steps.len())
            .find(|&at| !done[at] && steps[at].after.iter().all(|&before| done[before]));
        match next {
            Some(at) => done[at] = true,
            None => break,
        }
    }
    let left: Vec<&str> =
        steps.iter().zip(&done).filter(|(_, done)| !**done).map(|(s, _)| s.id.as_str()).collect();
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::new("", format!("steps wait for each other: {}", left.join(", ")))
        .hint("look at their when:"))
}
