//! The distribution protocol over HTTP: images out of registries and into them.
//!
//! A [`Client`] is cheap to clone and used from many threads. Its calls are blocking; whoever wants
//! several at once uses several threads. What every call does:
//!
//! - **Verification.** Bytes are counted and digested while they stream; what differs from its
//!   descriptor is an error and never reaches the caller as complete.
//! - **Retries.** Connection errors and 408, 429, 500, 502, 503, 504 are tried again, with pauses
//!   that double, a random part, and `Retry-After` where it is bearable. A blob goes on where it
//!   stopped (`Range`), and a stall counts as a failure.
//! - **Access.** See [`auth`]: no challenge, no credentials. They go to the registry's origin, to
//!   the token server that it names over https, and nowhere else.
//! - **Configuration.** Mirrors, blocked and insecure registries and short names ([`conf`]);
//!   certificates ([`Options::cert_dirs`]). Pushes go to no mirror ([`Client::direct`]).
//! - **Redirects.** Followed for downloads, never from https to http, never to this machine.
//! - **Offline.** With [`Options::offline`] no socket is opened; the error names what is missing.
//!
//! `urls` of descriptors are never fetched: they are a way to make a builder send requests to
//! places that only it can reach.
//!
//! Only the registry named by a reference is spoken to. This module reads no environment variable
//! itself; that proxies are taken from the environment is ureq's doing, on by [`Options::proxy`].
//!
//! Start reading at [`Client::resolve`] (pull) and [`Client::push_blob`] (push).

mod auth;
mod authfile;
pub mod conf;
pub mod credential;
pub mod download;
mod endpoint;
mod error;
mod http;
mod login;
mod pull;
mod push;
mod referrers;
mod tls;
mod url;

#[cfg(test)]
#[path = "../../tests/support/fake_registry.rs"]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upload_tests;
#[cfg(test)]
#[path = "../../tests/support/web.rs"]
pub(crate) mod web;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::oci::Reference;

pub use authfile::{AuthFile, Kept};
pub use conf::{ConfFile, ConfKind, Registries, ShortName};
pub use credential::{Credential, CredentialSource, Credentials, Secret};
pub use error::{ApiError, Error, Result};
pub use login::Welcome;
pub use pull::BlobReader;
pub use push::Pushed;
pub use referrers::referrers_tag;

use auth::{Access, Auth};
use endpoint::Experience;
use http::{Http, Payload, Request, Response};

/// How a client behaves. The defaults are for a person at a terminal and for CI alike.
#[derive(Debug)]
pub struct Options {
    /// Registries (`host` or `host:port`) that may use http or certificates that nobody signed.
    /// Loopback addresses always may.
    pub insecure: Vec<String>,
    /// More certificate authorities, as PEM.
    pub tls_ca: Vec<Vec<u8>>,
    /// Directories like containers-certs.d(5), with a directory `HOST[:PORT]` for each registry; the
    /// first that has one counts.
    pub cert_dirs: Vec<PathBuf>,
    /// Such a directory for all registries, in place of those.
    pub cert_dir: Option<PathBuf>,
    /// Mirrors, blocked and insecure registries, short names.
    pub registries: Registries,
    /// Files with names and passwords, in the format of Docker's config.json and Podman's auth.json;
    /// the first that knows a registry wins.
    pub auth_files: Vec<PathBuf>,
    /// More names and passwords, which go before the files.
    pub credentials: Vec<CredentialSource>,
    /// What to call ourselves.
    pub user_agent: String,
    /// Forbids every connection.
    pub offline: bool,
    /// Whether the proxy variables of the environment count.
    pub proxy: bool,
    /// How often a request is tried again. 4 retries with the default delay span about 4 seconds.
    pub retries: u32,
    /// The pause before the first retry; it doubles from one to the next.
    pub retry_delay: Duration,
    /// The longest `Retry-After` that is waited for; a longer one is an error that tells it.
    pub max_retry_after: Duration,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long a registry may think before it answers. Registries digest a whole blob between the
    /// last byte of an upload and the answer, which takes minutes for large ones.
    pub answer_timeout: Duration,
    /// How long a transfer may stand still, and the time in which at least
    /// [`Options::stall_bytes`] must come.
    pub stall_timeout: Duration,
    /// See [`Options::stall_timeout`]. The default is far below any modem, and far above the one
    /// byte a second of a server that wants to hold us.
    pub stall_bytes: u64,
    /// The most bytes of one request, once an upload goes in chunks: after it broke in the middle,
    /// or when all of it at once was refused.
    pub chunk_size: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            insecure: Vec::new(),
            tls_ca: Vec::new(),
            cert_dirs: Vec::new(),
            cert_dir: None,
            registries: Registries::default(),
            auth_files: Vec::new(),
            credentials: Vec::new(),
            user_agent: concat!("lapstrake/", env!("CARGO_PKG_VERSION")).to_owned(),
            offline: false,
            proxy: true,
            retries: 4,
            retry_delay: Duration::from_millis(250),
            max_retry_after: Duration::from_secs(60),
            connect_timeout: Duration::from_secs(15),
            answer_timeout: Duration::from_secs(300),
            stall_timeout: Duration::from_secs(30),
            stall_bytes: 16 << 10,
            chunk_size: 32 << 20,
        }
    }
}

/// A client for all registries.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
    /// Mirrors are not asked.
    direct: bool,
}

#[derive(Debug)]
struct Inner {
    options: Arc<Options>,
    credentials: Credentials,
    http: Http,
    auth: Auth,
    experience: Experience,
}

impl Client {
    /// Makes a client. Nobody is asked yet, and credential files are read when one is needed; but
    /// certificates that cannot be used are told now.
    pub fn new(mut options: Options) -> Result<Client> {
        let mut sources = std::mem::take(&mut options.credentials);
        sources.extend(options.auth_files.iter().cloned().map(CredentialSource::File));
        let credentials = Credentials::new(sources);
        let options = Arc::new(options);
        let http = Http::new(Arc::clone(&options))?;
        let (auth, experience) = (Auth::default(), Experience::default());
        let inner = Arc::new(Inner { options, credentials, http, auth, experience });
        Ok(Client { inner, direct: false })
    }

    /// Tells whether connections are forbidden.
    pub fn is_offline(&self) -> bool {
        self.inner.options.offline
    }

    /// Sends one request about a repository, answering a 401 once. Every other status comes back.
    fn call(
        &self,
        repository: &Reference,
        access: Access,
        scopes: &[String],
        make: &dyn Fn(&url::Url) -> Request,
        payload: &mut Payload<'_>,
    ) -> Result<Response> {
        let place = conf::Endpoint::itself(repository);
        self.call_at(&place, access, scopes, make, payload)
    }

    /// The same in a place that configuration may have led to.
    fn call_at(
        &self,
        place: &conf::Endpoint,
        access: Access,
        scopes: &[String],
        make: &dyn Fn(&url::Url) -> Request,
        payload: &mut Payload<'_>,
    ) -> Result<Response> {
        let Inner { options, credentials, http, auth, .. } = &*self.inner;
        let repository = &place.reference;
        let what = repository.to_string();
        let insecure = options.registries.admit(&what)? || place.insecure;
        let base = http.base(&repository.registry, insecure, &what)?;
        let mut answered = false;
        loop {
            let mut request = make(&base);
            // A signed upload URL on another host must not get the registry's credentials.
            if request.url.same_origin(&base) {
                request.authorization =
                    auth.header(http, credentials, &base, repository, access, scopes)?;
            }
            let response = http.exchange(&request, payload, &what)?;
            if response.status != 401 {
                return Ok(response);
            }
            let sent_all = matches!(payload, Payload::Stream(..));
            let learnt = auth.learn(&response, repository, access, scopes);
            // A stream is used up, so whoever owns it must start again; a 401 that comes as an
            // error status tells so.
            if answered || !learnt || sent_all {
                return Ok(response);
            }
            answered = true;
        }
    }

    /// Makes the error for a status that was not wanted, with what it means for `what`.
    fn refused(&self, response: Response, repository: &Reference, what: &str) -> Error {
        match response.into_error() {
            Error::Status { status: 404, errors, .. } => {
                Error::NotFound { what: what.to_owned(), errors }
            }
            Error::Status { status: 401 | 403, errors, .. } => {
                let found = self.inner.credentials.find(repository);
                Error::Denied {
                    what: repository.name(),
                    anonymous: !matches!(found, Ok(Some(_))),
                    errors,
                }
            }
            other => other,
        }
    }
}
