//! `--progress=rawjson`: a JSON object a line, in the shape that BuildKit prints (its
//! `client.SolveStatus`, client/graph.go), so that programs which read BuildKit's read ours.
//!
//! A step's digest is made of its number and name: it is the same in all lines of one build, and says
//! nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::build::event::{Event, StepId, Stream};
use crate::oci::Digest;

use super::progress::View;

struct Vertex {
    digest: Digest,
    name: String,
    started: Option<String>,
}

pub(super) struct RawJson {
    start: Timestamp,
    vertexes: BTreeMap<StepId, Vertex>,
    /// When the first word of each transfer came.
    transfers: BTreeMap<(StepId, String), String>,
}

impl RawJson {
    pub(super) fn new(start: Timestamp) -> RawJson {
        RawJson { start, vertexes: BTreeMap::new(), transfers: BTreeMap::new() }
    }

    fn time(&self, at: Duration) -> String {
        let at = SignedDuration::try_from(at).unwrap_or_default();
        self.start.saturating_add(at).unwrap_or(self.start).to_string()
    }

    fn vertex(&mut self, step: StepId, more: Value) -> Option<Value> {
        let known = self.vertexes.get(&step)?;
        let mut vertex = json!({ "digest": known.digest, "name": known.name });
        if let Some(started) = &known.started {
            vertex["started"] = json!(started);
        }
        if let (Value::Object(vertex), Value::Object(more)) = (&mut vertex, more) {
            vertex.extend(more);
        }
        Some(json!({ "vertexes": [vertex] }))
    }

    fn digest(&self, step: StepId) -> Option<Digest> {
        self.vertexes.get(&step).map(|vertex| vertex.digest)
    }

    fn started(&mut self, step: StepId, at: Duration) {
        let now = self.time(at);
        if let Some(vertex) = self.vertexes.get_mut(&step) {
            vertex.started.get_or_insert(now);
        }
    }

    fn value(&mut self, event: &Event, at: Duration) -> Option<Value> {
        let now = self.time(at);
        match event {
            Event::Header(text) => Some(json!({
                "logs": [{ "stream": 2, "data": STANDARD.encode(format!("{text}\n")), "timestamp": now }]
            })),
            Event::Planned { step, name, .. } => {
                let digest = Digest::of(format!("{step} {name}").as_bytes());
                let vertex = Vertex { digest, name: name.clone(), started: None };
                self.vertexes.insert(*step, vertex);
                self.vertex(*step, json!({}))
            }
            Event::Started { step } => {
                self.started(*step, at);
                self.vertex(*step, json!({}))
            }
            Event::Cached { step } => {
                self.started(*step, at);
                self.vertex(*step, json!({ "completed": now, "cached": true }))
            }
            Event::Finished { step, .. } => self.vertex(*step, json!({ "completed": now })),
            Event::Failed { step, message, .. } => {
                self.vertex(*step, json!({ "completed": now, "error": message }))
            }
            Event::Output { step, stream, bytes } => {
                let stream = match stream {
                    Stream::Stdout => 1,
                    Stream::Stderr => 2,
                };
                Some(json!({ "logs": [{
                    "vertex": self.digest(*step)?, "stream": stream,
                    "data": STANDARD.encode(bytes), "timestamp": now,
                }] }))
            }
            Event::Progress { step, item, done, total } => {
                let vertex = self.digest(*step)?;
                let begun = self.transfers.entry((*step, item.clone()));
                let begun = begun.or_insert_with(|| now.clone()).clone();
                let mut status = json!({
                    "id": item, "vertex": vertex, "name": "downloading", "current": done,
                    "timestamp": now, "started": begun,
                });
                if let Some(total) = total {
                    status["total"] = json!(total);
                    if total == done {
                        status["completed"] = json!(now);
                    }
                }
                Some(json!({ "statuses": [status] }))
            }
            Event::Warning(text) => {
                Some(json!({ "warnings": [{ "level": 1, "short": STANDARD.encode(text) }] }))
            }
        }
    }
}

impl View for RawJson {
    fn event(&mut self, event: &Event, at: Duration) -> String {
        self.value(event, at).map_or_else(String::new, |value| format!("{value}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::event::Work;

    #[test]
    fn lines_have_the_shape_of_buildkit() {
        let mut view = RawJson::new(Timestamp::UNIX_EPOCH);
        let seconds = Duration::from_secs;
        let planned = |step, name: &str| Event::Planned {
            step,
            work: Work::Instruction,
            name: name.to_owned(),
            emulated: false,
        };
        let mut lines = Vec::new();
        let mut tell = |at, event: Event| {
            let text = view.event(&event, seconds(at));
            assert!(text.ends_with('\n') && text.lines().count() == 1, "{text}");
            lines.push(serde_json::from_str::<Value>(&text).expect("JSON"));
        };
        tell(0, planned(3, "[1/2] RUN make"));
        tell(1, Event::Started { step: 3 });
        let bytes = b"hi\n\xff".to_vec();
        tell(2, Event::Output { step: 3, stream: Stream::Stderr, bytes });
        tell(2, Event::Progress { step: 3, item: "sha256:ab".into(), done: 5, total: Some(5) });
        tell(3, Event::Finished { step: 3, took: seconds(2) });
        tell(3, planned(4, "[2/2] RUN x"));
        tell(3, Event::Cached { step: 4 });
        tell(4, Event::Failed { step: 4, message: "exit code: 1".into(), took: seconds(1) });
        tell(4, Event::Warning("careful".into()));
        let digest = &lines[0]["vertexes"][0]["digest"];
        assert!(digest.as_str().is_some_and(|text| text.starts_with("sha256:")));
        assert_eq!(lines[1]["vertexes"][0]["started"], "1970-01-01T00:00:01Z");
        let log = &lines[2]["logs"][0];
        assert_eq!(
            (&log["vertex"], &log["stream"], &log["data"]),
            (digest, &json!(2), &json!("aGkK/w=="))
        );
        let status = &lines[3]["statuses"][0];
        assert_eq!((&status["current"], &status["total"]), (&json!(5), &json!(5)));
        assert_eq!(status["completed"], "1970-01-01T00:00:02Z");
        let done = &lines[4]["vertexes"][0];
        assert_eq!((&done["digest"], &done["completed"]), (digest, &json!("1970-01-01T00:00:03Z")));
        assert_eq!(done["name"], "[1/2] RUN make");
        assert_eq!(lines[6]["vertexes"][0]["cached"], true);
        assert_eq!(lines[7]["vertexes"][0]["error"], "exit code: 1");
        assert_eq!(lines[8]["warnings"][0]["short"], "Y2FyZWZ1bA==");
    }
}
