//! Where an image is asked for: mirrors in their order, then its registry.
//!
//! The name of an image stays what the user wrote; a request goes to an [`Endpoint`], which has a
//! reference of its own. Whatever is wrong with one endpoint (not there, no access, not reached, wrong
//! bytes), the next is asked. When all have failed, the failure is told place by place.
//!
//! Two things are remembered of what happened. An endpoint that could not be reached is asked after
//! those that could, so that a dead mirror costs its time-out once. And what belongs to an image
//! (manifests of its platforms, blobs) is first asked for where the image was found, because only
//! there it is certain to be.
//!
//! Nothing is ever pushed to a mirror, and what is read in order to be pushed again is not read from
//! one: see [`Client::direct`].

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::Client;
use super::conf::Endpoint;
use super::error::{Error, Result};
use crate::oci::Reference;

/// What is remembered of endpoints.
#[derive(Debug, Default)]
pub(super) struct Experience {
    /// Registries that could not be reached.
    dead: Mutex<HashSet<String>>,
    /// By repository as the user named it: where its image was found (registry and repository).
    found: Mutex<HashMap<String, String>>,
    /// Servers that do not answer `Expect: 100-continue`.
    pub(super) deaf: Mutex<HashSet<String>>,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// An image, as the user named it.
    Image,
    /// What belongs to an image that was asked for before; it has a digest.
    Part,
}

impl Client {
    /// Gives a client that asks registries themselves, never their mirrors: for what is pushed.
    #[must_use]
    pub fn direct(&self) -> Client {
        Client { direct: true, ..self.clone() }
    }

    /// Says what a name without a registry stands for, where configuration says so; see
    /// [`super::Registries::short_name`].
    pub fn short_name(&self, text: &str) -> Result<Option<super::ShortName>> {
        self.inner.options.registries.short_name(text)
    }

    /// Asks each endpoint of an image until one has it.
    pub(super) fn anywhere<T>(
        &self,
        reference: &Reference,
        about: About,
        mut ask: impl FnMut(&Endpoint) -> Result<T>,
    ) -> Result<T> {
        let mut endpoints = self.endpoints(reference, about)?;
        // Without mirrors errors stay what they are.
        if endpoints.len() == 1 {
            return ask(&endpoints.remove(0));
        }
        let Experience { dead, found, .. } = &self.inner.experience;
        let mut failures = Vec::new();
        let mut own = None;
        for endpoint in &endpoints {
            let error = match ask(endpoint) {
                Ok(value) => {
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    found.insert(reference.name(), endpoint.reference.name());
                    return Ok(value);
                }
                Err(error @ Error::Offline { .. }) => return Err(error),
                Err(error) => error,
            };
            if matches!(error, Error::Connection { .. }) {
                let mut dead = dead.lock().unwrap_or_else(PoisonError::into_inner);
                dead.insert(endpoint.reference.registry.clone());
            }
            // What the registry itself says is told last, and tells whether there is such an image.
            if endpoint.is_mirror {
                failures.push((endpoint.reference.name(), error))
            } else {
                own = Some((endpoint.reference.name(), error))
            }
        }
        failures.extend(own);
        Err(Error::Everywhere { what: reference.to_string(), failures })
    }

    /// Gives the endpoints in the order in which they are to be asked.
    fn endpoints(&self, reference: &Reference, about: About) -> Result<Vec<Endpoint>> {
        let all = if self.direct {
            vec![Endpoint::itself(reference)]
        } else {
            self.inner.options.registries.endpoints(reference)?
        };
        let Experience { dead, found, .. } = &self.inner.experience;
        let home = match about {
            About::Image => None,
            About::Part => {
                let found = found.lock().unwrap_or_else(PoisonError::into_inner);
                found.get(&reference.name()).cloned()
            }
        };
        let dead = dead.lock().unwrap_or_else(PoisonError::into_inner);
        let is_home = |endpoint: &Endpoint| Some(endpoint.reference.name()) == home;
        let mut chosen: Vec<Endpoint> =
            all.into_iter().filter(|endpoint| endpoint.eligible || is_home(endpoint)).collect();
        // A stable sort: the configured order stays among equals.
        chosen.sort_by_key(|endpoint| {
            (dead.contains(&endpoint.reference.registry), !is_home(endpoint))
        });
        Ok(chosen)
    }
}

#[cfg(test)]
#[path = "endpoint_tests.rs"]
mod tests;
