//! Getting in: challenges, tokens and the headers that carry them.
//!
//! A registry says with a 401 how it wants to be asked (`WWW-Authenticate`). `Basic` wants name and
//! password with each request; `Bearer` names a token server (the realm), which hands out a token
//! for a scope (distribution, docs/spec/auth/token.md). Tokens are kept by registry and scope until
//! shortly before they end; a 401 in the middle drops the token and gets a new one, once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::credential::{Credential, Credentials, Secret};
use super::error::{Error, Result};
use super::http::{Http, Method, Payload, Request, Response};
use super::url::{Scheme, Url};
use crate::oci::Reference;

/// A token without `expires_in` lives so long (token.md).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// A token is not used any more so long before its end, so that it does not end on its way.
const MARGIN: Duration = Duration::from_secs(10);
/// Tokens have some kilobytes; those of cloud registries up to 20.
const MAX_ANSWER: u64 = 1 << 20;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Access {
    Pull,
    Push,
}

impl Access {
    fn actions(self) -> &'static str {
        match self {
            Access::Pull => "pull",
            Access::Push => "pull,push",
        }
    }
}

/// How a registry wants to be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Debug)]
struct Token {
    value: Secret,
    end: Instant,
}

/// What is known of the registries.
#[derive(Debug, Default)]
pub(super) struct Auth {
    challenges: Mutex<HashMap<String, Challenge>>,
    /// Held while a token is fetched, so that parallel downloads fetch one together.
    tokens: Mutex<HashMap<String, Token>>,
}

/// The answer of a token server.
#[derive(Deserialize)]
struct Answer {
    token: Option<Secret>,
    access_token: Option<Secret>,
    expires_in: Option<u64>,
}

impl Auth {
    /// Gives the header for a request, as far as the registry has said what it wants.
    pub(super) fn header(
        &self,
        http: &Http,
        credentials: &Credentials,
        base: &Url,
        repository: &Reference,
        access: Access,
        scopes: &[String],
    ) -> Result<Option<String>> {
        let challenge = {
            let challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
            challenges.get(&repository.registry).cloned()
        };
        let Some(challenge) = challenge else { return Ok(None) };
        let credential = credentials.find(repository)?;
        match (challenge, credential) {
            (_, Some(Credential::Bearer(token))) => Ok(Some(format!("Bearer {}", token.reveal()))),
            (Challenge::Basic, Some(Credential::Basic { username, password })) => {
                Ok(Some(basic(&username, &password)))
            }
            (Challenge::Basic, _) => Ok(None),
            (Challenge::Bearer { realm, service }, credential) => {
                let scopes = all_scopes(repository, access, scopes);
                let key = key(repository, &scopes);
                let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(token) = tokens.get(&key).filter(|token| token.end > Instant::now()) {
                    return Ok(Some(format!("Bearer {}", token.value.reveal())));
                }
                let realm = realm_url(&realm, base, http)?;
                let ask = Ask { realm, service, scopes, credential, repository };
                let token = http.retry(|| ask.fetch(http))?;
                let header = format!("Bearer {}", token.value.reveal());
                tokens.insert(key, token);
                Ok(Some(header))
            }
        }
    }

    /// Learns from a 401: keeps the challenge and drops the token that was not accepted. Says
    /// whether there is anything to answer.
    pub(super) fn learn(
        &self,
        response: &Response,
        repository: &Reference,
        access: Access,
        scopes: &[String],
    ) -> bool {
        let Some(challenge) = best_challenge(response) else { return false };
        let mut challenges = self.challenges.lock().unwrap_or_else(PoisonError::into_inner);
        challenges.insert(repository.registry.clone(), challenge);
        drop(challenges);
        let key = key(repository, &all_scopes(repository, access, scopes));
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        true
    }
}

/// Picks the challenge of a 401 that is answered: a token is better than a password in each request.
fn best_challenge(response: &Response) -> Option<Challenge> {
    let parsed: Vec<Challenge> =
        response.headers("www-authenticate").flat_map(parse_challenges).collect();
    let bearer = parsed.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
    bearer.or_else(|| parsed.first()).cloned()
}

/// What is to be sent with a login.
pub(super) enum Verdict {
    /// This `Authorization`.
    Header(String),
    /// The registry does not say how it wants to be asked.
    NoChallenge,
}

/// Answers the 401 of a login with a credential that is not known yet. Nothing is kept.
pub(super) fn answer_login(
    http: &Http,
    base: &Url,
    response: &Response,
    named: &Reference,
    credential: &Credential,
) -> Result<Verdict> {
    let Some(challenge) = best_challenge(response) else { return Ok(Verdict::NoChallenge) };
    let header = match (challenge, credential) {
        (_, Credential::Bearer(token)) => format!("Bearer {}", token.reveal()),
        (Challenge::Basic, Credential::Basic { username, password }) => basic(username, password),
        // A registry that wants a password takes a token as one (Azure, Google).
        (Challenge::Basic, Credential::Identity(token)) => basic("<token>", token),
        (Challenge::Bearer { realm, service }, credential) => {
            let realm = realm_url(&realm, base, http)?;
            let credential = Some(credential.clone());
            let ask = Ask { realm, service, scopes: Vec::new(), credential, repository: named };
            let token = http.retry(|| ask.fetch(http))?;
            format!("Bearer {}", token.value.reveal())
        }
    };
    Ok(Verdict::Header(header))
}

/// One question to a token server.
struct Ask<'a> {
    realm: Url,
    service: Option<String>,
    scopes: Vec<String>,
    credential: Option<Credential>,
    repository: &'a Reference,
}

impl Ask<'_> {
    fn fetch(&self, http: &Http) -> Result<Token> {
        let what = self.repository.to_string();
        let response = match &self.credential {
            Some(Credential::Identity(token)) => {
                let form = self.form(token);
                let request = Request::new(Method::Post, self.realm.clone())
                    .header("content-type", "application/x-www-form-urlencoded");
                http.exchange(&request, &mut Payload::Bytes(form.as_bytes()), &what)?
            }
            credential => {
                let mut url = self.realm.clone();
                if let Some(service) = &self.service {
                    url = url.with_query("service", service);
                }
                for scope in &self.scopes {
                    url = url.with_query("scope", scope);
                }
                let mut request = Request::new(Method::Get, url);
                if let Some(Credential::Basic { username, password }) = credential {
                    request.url = request.url.with_query("account", username);
                    request.authorization = Some(basic(username, password));
                }
                http.exchange(&request, &mut Payload::None, &what)?
            }
        };
        let url = response.url.to_string();
        match response.status {
            200 => {}
            400 | 401 | 403 => {
                let Error::Status { errors, .. } = response.into_error() else {
                    unreachable!("into_error makes a Status")
                };
                let anonymous = self.credential.is_none();
                return Err(Error::Denied { what: self.repository.name(), anonymous, errors });
            }
            _ => return Err(response.into_error()),
        }
        let protocol = |reason: &str| Error::Protocol { url: url.clone(), reason: reason.into() };
        let answer: Answer = serde_json::from_slice(&response.read(MAX_ANSWER)?)
            .map_err(|_| protocol("the token server's answer is no JSON of a token"))?;
        let value = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.reveal().is_empty() && token.reveal().is_ascii())
            .ok_or_else(|| protocol("the token server's answer has no token"))?;
        let life = answer.expires_in.map_or(DEFAULT_LIFE, Duration::from_secs);
        // Some servers say 0 or little; a token that is fresh is good for the request at hand.
        let life =
            life.saturating_sub(MARGIN).clamp(Duration::from_secs(5), Duration::from_secs(86_400));
        Ok(Token { value, end: Instant::now() + life })
    }

    /// The body of an OAuth 2 refresh (distribution, docs/spec/auth/oauth.md).
    fn form(&self, token: &Secret) -> String {
        let url = Url::new(Scheme::Https, "form", "/")
            .with_query("grant_type", "refresh_token")
            .with_query("client_id", "lapstrake")
            .with_query("service", self.service.as_deref().unwrap_or_default())
            .with_query("scope", &self.scopes.join(" "))
            .with_query("refresh_token", token.reveal());
        url.query.unwrap_or_default()
    }
}

fn all_scopes(repository: &Reference, access: Access, more: &[String]) -> Vec<String> {
    let own = format!("repository:{}:{}", repository.repository, access.actions());
    std::iter::once(own).chain(more.iter().cloned()).collect()
}

fn key(repository: &Reference, scopes: &[String]) -> String {
    format!("{} {}", repository.registry, scopes.join(" "))
}

fn basic(username: &str, password: &Secret) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.reveal())))
}

/// Checks where a token is fetched: a registry that is asked over https must not have passwords
/// sent in the clear.
fn realm_url(realm: &str, base: &Url, http: &Http) -> Result<Url> {
    let protocol = |reason: String| Error::Protocol { url: base.to_string(), reason };
    let mut url = base
        .join(realm)
        .map_err(|reason| protocol(format!("the URL of its token server is unusable: {reason}")))?;
    // It is part of the registry, and may want to know who we are.
    url.trust.elsewhere = false;
    if url.scheme == Scheme::Http
        && base.scheme == Scheme::Https
        && !http.is_insecure(&url.authority)
        && !url.trust.insecure
    {
        return Err(protocol(format!("its token server {url} is not https")));
    }
    if super::url::is_loopback(&url.authority) && !super::url::is_loopback(&base.authority) {
        return Err(protocol(format!("its token server {url} is this machine")));
    }
    Ok(url)
}

/// Reads a `WWW-Authenticate` header, which may hold several challenges (RFC 9110, 11.6.1).
fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut out = Vec::new();
    let mut scheme = String::new();
    let mut parameters: HashMap<String, String> = HashMap::new();
    let mut rest = header.trim_start();
    let mut finish = |scheme: &str, parameters: &mut HashMap<String, String>| {
        let parameters = std::mem::take(parameters);
        match (scheme.to_ascii_lowercase().as_str(), parameters.get("realm")) {
            ("basic", _) => out.push(Challenge::Basic),
            ("bearer", Some(realm)) => out.push(Challenge::Bearer {
                realm: realm.clone(),
                service: parameters.get("service").cloned(),
            }),
            _ => {}
        }
    };
    while !rest.is_empty() {
        let end = rest.find([' ', '=', ',']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if let Some(value) = after.strip_prefix('=') {
            let (value, after) = parse_value(value);
            parameters.insert(word.to_ascii_lowercase(), value);
            rest = after.trim_start_matches([' ', ',']);
        } else {
            finish(&scheme, &mut parameters);
            scheme = word.to_owned();
            rest = after.trim_start_matches([' ', ',']);
        }
    }
    finish(&scheme, &mut parameters);
    out
}

/// Reads a token or a quoted string and gives the rest.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[i + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer = |realm: &str, service: Option<&str>| Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
        };
        let table = [
            (
                r#"Bearer realm="https://auth.io/token",service="reg.io",scope="repository:a/b:pull,push""#,
                vec![bearer("https://auth.io/token", Some("reg.io"))],
            ),
            (r#"bearer Realm=https://a/t , service=x"#, vec![bearer("https://a/t", Some("x"))]),
            (r#"Basic realm="Registry, \"Realm\"""#, vec![Challenge::Basic]),
            ("Basic", vec![Challenge::Basic]),
            (
                r#"Basic realm="x", Bearer realm="https://a/t",service="a b""#,
                vec![Challenge::Basic, bearer("https://a/t", Some("a b"))],
            ),
            (r#"Negotiate, Bearer service="x""#, vec![]),
            ("", vec![]),
            (r#"Bearer realm=""#, vec![bearer("", None)]),
        ];
        for (header, want) in table {
            assert_eq!(parse_challenges(header), want, "{header}");
        }
    }

    #[test]
    fn token_servers_are_trusted_as_their_registry_and_not_more() {
        let http = Http::new(std::sync::Arc::new(super::super::Options::default())).unwrap();
        let trust = super::super::url::Trust {
            insecure: true,
            registry: Some("r.io".into()),
            elsewhere: false,
        };
        let base = Url { trust: trust.clone(), ..Url::new(Scheme::Https, "r.io", "/v2/") };
        let own = realm_url("https://r.io:5001/token", &base, &http).unwrap();
        assert_eq!(own.trust, trust);
        let other = realm_url("https://auth.io/token", &base, &http).unwrap().trust;
        assert!(!other.insecure && other.registry == trust.registry && !other.elsewhere);
        assert!(realm_url("http://auth.io/token", &base, &http).is_err());
        // A place for blobs is not told who we are.
        assert!(base.join("https://cdn.io/blob").unwrap().trust.elsewhere);
    }
}
