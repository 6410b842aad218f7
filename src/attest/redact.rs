//! Takes secrets out of what is published with an image.
//!
//! Attestations are for everybody who may pull the image, so nothing in them may open a door: the
//! values of `--secret`s (wherever they got into: a build argument, a label, the Dockerfile), users
//! and passwords of URLs, and the values of arguments and variables whose names say that they are
//! secrets.

use serde_json::Value;

use crate::graph::remote;

/// What stands where something was taken out.
pub const REDACTED: &str = "xxxxx";

/// Shorter values are words that occur anywhere.
const SHORTEST: usize = 4;

/// Lines of a secret of several lines are looked for from this length on; shorter ones are braces
/// and headings.
const SHORTEST_LINE: usize = 8;

/// Replaces secrets.
#[derive(Debug, Clone, Default)]
pub struct Scrubber {
    /// Longest first, so that a part of a secret does not spoil the search for the whole.
    needles: Vec<String>,
}

impl Scrubber {
    /// Starts with the values of secrets. Those that are no text can't be in a JSON document.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Scrubber {
        let mut needles = Vec::new();
        for secret in secrets {
            let Ok(text) = std::str::from_utf8(secret) else { continue };
            let whole = text.trim();
            if whole.len() >= SHORTEST {
                needles.push(whole.to_owned());
            }
            let lines = whole.lines().map(str::trim).filter(|line| line.len() >= SHORTEST_LINE);
            needles.extend(lines.map(str::to_owned));
        }
        needles.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        needles.dedup();
        Scrubber { needles }
    }

    /// Cleans a text.
    pub fn text(&self, text: &str) -> String {
        let mut out = queries(&remote::redact(text));
        for needle in &self.needles {
            if out.contains(needle.as_str()) {
                out = out.replace(needle.as_str(), REDACTED);
            }
        }
        out
    }

    /// Cleans the value of an argument or variable.
    pub fn value(&self, name: &str, value: &str) -> String {
        if !value.is_empty() && crate::dockerfile::is_secret_name(name) {
            return REDACTED.to_owned();
        }
        self.text(value)
    }

    /// Cleans all texts of a document but digests.
    pub fn document(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(list) => list.iter_mut().for_each(|item| self.document(item)),
            Value::Object(map) => {
                let fixed = ["digest", "sha1", "sha256", "mediaType", "buildType"];
                for (key, item) in map {
                    if !fixed.contains(&key.as_str()) {
                        self.document(item);
                    }
                }
            }
            _ => {}
        }
    }
}

/// Replaces the values of parameters of URLs that sign or authorise a request.
fn queries(text: &str) -> String {
    const WORDS: [&str; 7] =
        ["sig", "signature", "token", "credential", "password", "secret", "key"];
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['?', '&']) {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        rest = after;
        let name_end = after.find(|c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)));
        let Some(end) = name_end.filter(|&end| after[end..].starts_with('=')) else { continue };
        let name = after[..end].to_ascii_lowercase();
        if name.split(['-', '_', '.']).any(|word| WORDS.contains(&word)) {
            let value = &after[end + 1..];
            let stop = value
                .find(|c: char| c.is_whitespace() || "&#\"'`,<>".contains(c))
                .unwrap_or(value.len());
            out.push_str(&after[..=end]);
            out.push_str(REDACTED);
            rest = &value[stop..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_and_credentials_are_taken_out() {
        let secrets: [&[u8]; 4] =
            [b"s3cr3t\n", b"abc", b"user=alice\npassword=hunter22\n{\n", b"\xff\xfe\xfd\xfc"];
        let scrubber = Scrubber::new(secrets);
        for (text, want) in [
            ("token s3cr3t here", "token xxxxx here"),
            ("abc stays", "abc stays"),
            ("password=hunter22", "xxxxx"),
            ("https://u:p@h.example/x.git", "https://xxxxx:xxxxx@h.example/x.git"),
            ("https://h.example/?k=s3cr3t", "https://h.example/?k=xxxxx"),
            (
                "ADD https://h/x?a=1&X-Amz-Signature=00ff&b=2 /x",
                "ADD https://h/x?a=1&X-Amz-Signature=xxxxx&b=2 /x",
            ),
            ("https://h/x?sv=1&sig=ab%2F#f", "https://h/x?sv=1&sig=xxxxx#f"),
            ("a && b || c=?", "a && b || c=?"),
        ] {
            assert_eq!(scrubber.text(text), want);
        }
        assert_eq!(scrubber.value("NPM_TOKEN", "zzz"), REDACTED);
        assert_eq!(scrubber.value("VERSION", "1.2"), "1.2");
        let mut document = json!({"a": ["s3cr3t"], "digest": {"sha256": "s3cr3t"}, "n": 1});
        scrubber.document(&mut document);
        assert_eq!(document, json!({"a": ["xxxxx"], "digest": {"sha256": "s3cr3t"}, "n": 1}));
    }
}
