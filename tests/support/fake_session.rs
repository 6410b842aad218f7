//! Upload sessions of the fake registry, strict: a request that is not where the session stands gets
//! a 416, each answer moves the session to a new `Location`, and what a broken request brought stays.

use std::collections::BTreeMap;

use super::{Answer, Seen, State, digest, error, plain};

/// An upload in progress.
pub(super) struct Session {
    repository: String,
    /// Part of the place that the session is at now.
    secret: u64,
    /// Of the places that it was at before: good for asking only, in case an answer was lost.
    old: Vec<u64>,
    bytes: Vec<u8>,
    /// A chunk below the minimum came, so it must have been the last.
    short: bool,
}

impl State {
    pub(super) fn upload(
        &mut self,
        seen: &Seen,
        repository: &str,
        id: &str,
        query: &BTreeMap<String, String>,
        body: &[u8],
    ) -> Answer {
        // As it is called: by whoever stands in front of it.
        let host = seen.headers.get("host").map_or("", String::as_str);
        if seen.method == "POST" {
            return self.open_upload(repository, query, host);
        }
        let state = query.get("_state").cloned().unwrap_or_default();
        let secret = state.strip_prefix("s=").and_then(|text| text.parse::<u64>().ok());
        let found = self.uploads.get(id).filter(|session| session.repository == repository);
        let Some(session) = found else {
            return error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload");
        };
        let known = secret.is_some_and(|s| s == session.secret || session.old.contains(&s));
        if !known {
            return self.violation("the query of an upload's Location was not kept".to_owned());
        }
        if seen.method != "GET" && secret != Some(session.secret) {
            return self.violation("an upload went on at an old Location".to_owned());
        }
        match seen.method.as_str() {
            "GET" => self.place(id, 204, host),
            "PATCH" if self.refuses_chunks => error(405, "UNSUPPORTED", "no chunks here"),
            "PATCH" => self.take_chunk(seen, id, body, host),
            "PUT" => self.close_upload(seen, id, query, body),
            _ => error(405, "UNSUPPORTED", "not for uploads"),
        }
    }

    fn open_upload(
        &mut self,
        repository: &str,
        query: &BTreeMap<String, String>,
        host: &str,
    ) -> Answer {
        if let (Some(mount), Some(from)) = (query.get("mount"), query.get("from"))
            && self.mounts
            && let Some(blob) = self.blobs.get(&(from.clone(), mount.clone())).cloned()
        {
            self.blobs.insert((repository.to_owned(), mount.clone()), blob);
            return plain(201, Vec::new());
        }
        let (id, secret) = (self.fresh().to_string(), self.fresh());
        let repository = repository.to_owned();
        let session =
            Session { repository, secret, old: Vec::new(), bytes: Vec::new(), short: false };
        self.uploads.insert(id.clone(), session);
        let mut answer = self.place(&id, 202, host);
        if let Some(minimum) = self.chunk_minimum {
            answer.headers.push(("OCI-Chunk-Min-Length".to_owned(), minimum.to_string()));
        }
        answer
    }

    /// Says where a session is and how much it has; moves it.
    fn place(&mut self, id: &str, status: u16, host: &str) -> Answer {
        let (fresh, absolute) = (self.fresh(), self.absolute_locations);
        let mut answer = plain(status, Vec::new());
        let Some(session) = self.uploads.get_mut(id) else { return answer };
        session.old.push(std::mem::replace(&mut session.secret, fresh));
        let path =
            format!("/v2/{}/blobs/uploads/{id}?_state=s%3D{}", session.repository, session.secret);
        let path = if absolute { format!("http://{host}{path}") } else { path };
        let end = session.bytes.len().saturating_sub(1);
        answer.headers.push(("Location".to_owned(), path));
        answer.headers.push(("Range".to_owned(), format!("0-{end}")));
        answer
    }

    fn take_chunk(&mut self, seen: &Seen, id: &str, body: &[u8], host: &str) -> Answer {
        if seen.headers.get("content-type").map(String::as_str) != Some("application/octet-stream")
        {
            return self.violation("a chunk is no application/octet-stream".to_owned());
        }
        let range = seen.headers.get("content-range").map(String::as_str).and_then(parse_range);
        let Some((start, end)) = range else {
            return self.violation("a chunk has no Content-Range START-END".to_owned());
        };
        if end < start || end - start + 1 != seen.length {
            return self.violation("Content-Range and Content-Length of a chunk differ".to_owned());
        }
        let minimum = self.chunk_minimum.unwrap_or(0);
        let Some(session) = self.uploads.get_mut(id) else { return plain(404, Vec::new()) };
        if start != session.bytes.len() {
            return self.place(id, 416, host);
        }
        if session.short {
            return self.violation("a chunk follows one that is too small".to_owned());
        }
        session.short = body.len() < minimum;
        session.bytes.extend_from_slice(body);
        self.place(id, 202, host)
    }

    fn close_upload(
        &mut self,
        seen: &Seen,
        id: &str,
        query: &BTreeMap<String, String>,
        body: &[u8],
    ) -> Answer {
        let Some(mut session) = self.uploads.remove(id) else { return plain(404, Vec::new()) };
        if !body.is_empty() && !session.bytes.is_empty() {
            let range = seen.headers.get("content-range").map(String::as_str).and_then(parse_range);
            if range.map(|(start, _)| start) != Some(session.bytes.len()) {
                return self.violation("a last chunk is not where the upload is".to_owned());
            }
        }
        session.bytes.extend_from_slice(body);
        let found = digest(&session.bytes);
        if query.get("digest") != Some(&found) {
            return error(400, "DIGEST_INVALID", "provided digest did not match uploaded content");
        }
        self.blobs.insert((session.repository, found.clone()), session.bytes);
        let mut answer = plain(201, Vec::new());
        answer.headers.push(("Docker-Content-Digest".to_owned(), found));
        answer
    }

    /// Keeps what came of a request that broke in the middle.
    pub(super) fn keep_part(&mut self, seen: &Seen, part: &[u8]) {
        let path = seen.target.split('?').next().unwrap_or_default();
        let Some((_, id)) = path.split_once("/blobs/uploads/") else { return };
        if self.forgets_broken {
            self.uploads.remove(id);
        } else if let Some(session) = self.uploads.get_mut(id)
            && matches!(seen.method.as_str(), "PUT" | "PATCH")
        {
            session.bytes.extend_from_slice(part);
        }
    }
}

fn parse_range(text: &str) -> Option<(usize, usize)> {
    let (start, end) = text.split_once('-')?;
    Some((start.parse().ok()?, end.parse().ok()?))
}
