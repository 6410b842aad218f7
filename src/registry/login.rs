//! Asking a registry whether a name and password are good, before they are kept.

use super::Client;
use super::auth::Verdict;
use super::credential::Credential;
use super::error::{Error, Result};
use super::http::{Method, Payload, Request};
use crate::oci::Reference;

/// What a registry says to a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Welcome {
    /// It is good.
    Accepted,
    /// The registry lets everybody in, and cannot tell.
    NotAsked,
}

impl Client {
    /// Tries a credential on a registry's `/v2/`, as `docker login` does. One that is not accepted
    /// is [`Error::LoginRefused`].
    pub fn check_login(&self, registry: &str, credential: &Credential) -> Result<Welcome> {
        let http = &self.inner.http;
        let insecure = self.inner.options.registries.admit(registry)?;
        let base = http.retry(|| http.base(registry, insecure, registry))?;
        let ask = |authorization: Option<String>| {
            http.retry(|| {
                let mut request = Request::new(Method::Get, base.clone());
                request.authorization = authorization.clone();
                super::pull::temporary_as_error(http.exchange(
                    &request,
                    &mut Payload::None,
                    registry,
                )?)
            })
        };
        let refused = |errors| Error::LoginRefused { registry: registry.to_owned(), errors };
        let first = ask(None)?;
        match first.status {
            200 => return Ok(Welcome::NotAsked),
            401 => {}
            _ => return Err(first.into_error()),
        }
        // The token server is told of a repository only for its messages; no scope is asked for.
        let named = Reference {
            registry: registry.to_owned(),
            repository: "login".to_owned(),
            tag: None,
            digest: None,
        };
        let header = match super::auth::answer_login(http, &base, &first, &named, credential) {
            Ok(Verdict::Header(header)) => header,
            Ok(Verdict::NoChallenge) => return Err(first.into_error()),
            Err(Error::Denied { errors, .. }) => return Err(refused(errors)),
            Err(error) => return Err(error),
        };
        let second = ask(Some(header))?;
        match second.status {
            200 => Ok(Welcome::Accepted),
            401 | 403 => match second.into_error() {
                Error::Status { errors, .. } => Err(refused(errors)),
                other => Err(other),
            },
            _ => Err(second.into_error()),
        }
    }
}
