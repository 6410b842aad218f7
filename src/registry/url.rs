//! The little of URLs that a registry client needs.
//!
//! A [`Url`] is an absolute http or https URL without user and fragment. [`Url::join`] resolves the
//! `Location` of an answer. `Display` leaves the query out, because signed URLs carry secrets there.

use std::fmt;

/// http or https.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// An absolute URL.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: Scheme,
    /// `host[:port]`, lower case.
    pub(super) authority: String,
    /// Starts with a slash.
    pub(super) path: String,
    /// Without the question mark.
    pub(super) query: Option<String>,
    /// The registry on whose behalf this is asked.
    pub(super) trust: Trust,
}

/// How the certificate of a server is judged, beside what is known of its host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Trust {
    /// Any certificate will do, and plain http.
    pub(super) insecure: bool,
    /// Authorities that are configured for this registry count.
    pub(super) registry: Option<std::sync::Arc<str>>,
    /// The registry sent us to another host, which is not told who we are.
    pub(super) elsewhere: bool,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn default_port(self) -> &'static str {
        match self {
            Scheme::Http => ":80",
            Scheme::Https => ":443",
        }
    }
}

impl Url {
    pub(super) fn new(scheme: Scheme, authority: &str, path: &str) -> Url {
        Url {
            scheme,
            authority: authority.to_ascii_lowercase(),
            path: path.to_owned(),
            query: None,
            trust: Trust::default(),
        }
    }

    /// Reads an absolute URL. Says what is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Url, &'static str> {
        let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        let (scheme, rest) = if lower.starts_with("https://") {
            (Scheme::Https, &text[8..])
        } else if lower.starts_with("http://") {
            (Scheme::Http, &text[7..])
        } else {
            return Err("its scheme is neither http nor https");
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        if authority.is_empty() || authority.contains('@') {
            return Err("it has no host, or a user in front of it");
        }
        let rest = rest.split('#').next().unwrap_or_default();
        if rest.bytes().any(|b| b <= b' ' || b == 0x7f) || !authority.bytes().all(is_host_byte) {
            return Err("it has characters that a URL must not have");
        }
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (rest, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Url { query, ..Url::new(scheme, authority, path) })
    }

    /// Resolves what a `Location` header says. On another host it is trusted less.
    pub(super) fn join(&self, location: &str) -> Result<Url, &'static str> {
        let url = self.resolve(location)?;
        let mut trust = self.trust.clone();
        if url.host() != self.host() {
            trust.insecure = false;
            trust.elsewhere = true;
        }
        Ok(Url { trust, ..url })
    }

    fn resolve(&self, location: &str) -> Result<Url, &'static str> {
        if let Some(rest) = location.strip_prefix("//") {
            return Url::parse(&format!("{}://{rest}", self.scheme.as_str()));
        }
        if location.contains("://") && !location.starts_with(['/', '?']) {
            return Url::parse(location);
        }
        let absolute = if location.starts_with('/') {
            location.to_owned()
        } else if let Some(query) = location.strip_prefix('?') {
            format!("{}?{query}", self.path)
        } else {
            let directory = self.path.rsplit_once('/').map_or("", |(directory, _)| directory);
            format!("{directory}/{location}")
        };
        Url::parse(&format!("{}://{}{absolute}", self.scheme.as_str(), self.authority))
    }

    /// Gives the URL with one more parameter; `value` is escaped.
    #[must_use]
    pub(super) fn with_query(mut self, key: &str, value: &str) -> Url {
        let mut query = self.query.take().filter(|query| !query.is_empty()).unwrap_or_default();
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(key);
        query.push('=');
        query.push_str(&escape(value));
        self.query = Some(query);
        self
    }

    /// Tells whether both lead to the same server, as far as credentials are concerned.
    pub(super) fn same_origin(&self, other: &Url) -> bool {
        let authority = |url: &Url| {
            url.authority
                .strip_suffix(url.scheme.default_port())
                .unwrap_or(&url.authority)
                .to_owned()
        };
        self.scheme == other.scheme && authority(self) == authority(other)
    }

    /// Gives the host without port.
    pub(super) fn host(&self) -> &str {
        host_of(&self.authority)
    }

    /// Gives the whole URL, for the request.
    pub(super) fn to_full(&self) -> String {
        match &self.query {
            Some(query) => format!("{self}?{query}"),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme.as_str(), self.authority, self.path)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Gives the host of `host[:port]`.
pub(super) fn host_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.split_once(']').map_or(authority, |(host, _)| &host[1..]);
    }
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

/// Tells whether a host is this machine.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = host_of(authority);
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Percent-escapes all but unreserved characters (RFC 3986, 2.3), and `:` and `/`, which are legal
/// in queries and which registries compare unescaped.
fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/".contains(&byte) {
            out.push(byte as char);
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

fn is_host_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_resolved() {
        let base = Url::parse("https://reg.io/v2/a/blobs/uploads/?x=1").unwrap();
        let table = [
            (
                "/v2/a/blobs/uploads/9?_state=A%3D",
                "https://reg.io/v2/a/blobs/uploads/9?_state=A%3D",
            ),
            ("9", "https://reg.io/v2/a/blobs/uploads/9"),
            ("?s=1", "https://reg.io/v2/a/blobs/uploads/?s=1"),
            ("https://CDN.io:8443/b?sig=1#frag", "https://cdn.io:8443/b?sig=1"),
            ("//cdn.io/b", "https://cdn.io/b"),
            ("http://reg.io", "http://reg.io/"),
            ("/redirect?to=http://x/", "https://reg.io/redirect?to=http://x/"),
        ];
        for (location, want) in table {
            assert_eq!(base.join(location).unwrap().to_full(), want, "{location}");
        }
        for bad in [
            "file:///etc/passwd",
            "https://",
            "https://u:p@host/",
            "https://a b/",
            "/a b",
            "ftp://x/",
        ] {
            assert!(base.join(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queries_are_kept_and_hidden() {
        let url = Url::parse("https://r/up?_state=x").unwrap().with_query("digest", "sha256:00 &");
        assert_eq!(url.to_full(), "https://r/up?_state=x&digest=sha256:00%20%26");
        assert_eq!(url.to_string(), "https://r/up");
        let url = Url::parse("https://r/up").unwrap().with_query("a", "b");
        assert_eq!(url.to_full(), "https://r/up?a=b");
    }

    #[test]
    fn origins_and_loopback() {
        let url = |text: &str| Url::parse(text).unwrap();
        assert!(url("https://r/").same_origin(&url("https://R:443/x")));
        assert!(!url("https://r/").same_origin(&url("http://r/")));
        assert!(!url("https://r/").same_origin(&url("https://r:5000/")));
        assert!(!url("https://r/").same_origin(&url("https://r.evil/")));
        for host in ["localhost", "127.0.0.1:5000", "127.9.9.9", "[::1]:80", "x.localhost:1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.evil.io", "10.0.0.1", "[::2]", "127.0.0.1.evil"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
