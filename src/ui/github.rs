//! `--log-format=github`: a group a step, and annotations for what is wrong.
//!
//! Groups can't be nested or mixed, so one step at a time is shown as it goes; what others write
//! meanwhile follows when it has ended. No line begins with what a step wrote, so no step can give
//! the runner a command (GitHub, "Workflow commands").

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::build::event::{Event, StepId};
use crate::dockerfile::Diagnostic;

use super::progress::View;
use super::text;

#[derive(Default)]
struct Step {
    name: String,
    emulated: bool,
    started: Duration,
    /// Bytes of a line that has not ended.
    rest: Vec<u8>,
    /// Lines that wait to be shown.
    waiting: String,
    running: bool,
}

#[derive(Default)]
pub(super) struct Github {
    steps: BTreeMap<StepId, Step>,
    /// The step whose group is open.
    shown: Option<StepId>,
    /// Steps that began while another one was shown.
    queue: VecDeque<StepId>,
}

impl Github {
    fn name(&self, id: StepId) -> String {
        let Some(step) = self.steps.get(&id) else { return String::new() };
        let emulated = if step.emulated { " (emulated)" } else { "" };
        format!("{}{emulated}", one_line(&step.name))
    }

    /// Opens the group of a step and gives what it has written so far.
    fn open(&mut self, id: StepId) -> String {
        let head = format!("::group::{}\n", self.name(id));
        let waiting = self.steps.get_mut(&id).map(|step| std::mem::take(&mut step.waiting));
        self.shown = Some(id);
        head + &waiting.unwrap_or_default()
    }

    /// Closes the open group and goes on with the next steps in line.
    fn close(&mut self) -> String {
        let mut out = String::from("::endgroup::\n");
        self.shown = None;
        while let Some(next) = self.queue.pop_front() {
            out.push_str(&self.open(next));
            if self.steps.get(&next).is_some_and(|step| step.running) {
                break;
            }
            out.push_str("::endgroup::\n");
            self.shown = None;
        }
        out
    }

    fn write(&mut self, id: StepId, bytes: &[u8], at: Duration, all: bool) -> String {
        let shown = self.shown == Some(id);
        let Some(step) = self.steps.get_mut(&id) else { return String::new() };
        step.rest.extend_from_slice(bytes);
        let since = at.saturating_sub(step.started).as_secs_f64();
        let mut out = String::new();
        while let Some(end) = step.rest.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = step.rest.drain(..=end).collect();
            out.push_str(&line_of(since, &line));
        }
        if (all || step.rest.len() > 64 << 10) && !step.rest.is_empty() {
            let line = std::mem::take(&mut step.rest);
            out.push_str(&line_of(since, &line));
        }
        if shown {
            return out;
        }
        step.waiting.push_str(&out);
        String::new()
    }

    fn finish(&mut self, id: StepId, at: Duration, last: &str) -> String {
        let mut out = self.write(id, b"", at, true);
        let shown = self.shown == Some(id);
        if let Some(step) = self.steps.get_mut(&id) {
            step.running = false;
            if !shown {
                step.waiting.push_str(last);
            }
        }
        if shown {
            out.push_str(last);
            out.push_str(&self.close());
        }
        out
    }
}

fn line_of(since: f64, line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // The runner also knows an older form of commands, which may stand anywhere in a line.
    format!("{since:.1}s {}\n", text::printable(line, false).replace("##[", "## ["))
}

fn one_line(text: &str) -> String {
    text::printable(text.replace('\n', " ").as_bytes(), false).replace("##[", "## [")
}

impl View for Github {
    fn event(&mut self, event: &Event, at: Duration) -> String {
        match event {
            Event::Header(line) => format!("{}\n", one_line(line)),
            Event::Planned { step, name, emulated, .. } => {
                let known = self.steps.entry(*step).or_default();
                known.name = name.clone();
                known.emulated = *emulated;
                String::new()
            }
            Event::Started { step } => {
                let known = self.steps.entry(*step).or_default();
                known.started = at;
                known.running = true;
                if self.shown.is_none() {
                    return self.open(*step);
                }
                self.queue.push_back(*step);
                String::new()
            }
            Event::Cached { step } => {
                let line = format!("CACHED {}\n", self.name(*step));
                match self.shown.and_then(|shown| self.steps.get_mut(&shown)) {
                    // Inside of another step's group it would look like that one's output.
                    Some(_) => {
                        let known = self.steps.entry(*step).or_default();
                        known.waiting = "CACHED\n".to_owned();
                        self.queue.push_back(*step);
                        String::new()
                    }
                    None => line,
                }
            }
            Event::Output { step, bytes, .. } => self.write(*step, bytes, at, false),
            Event::Progress { step, item, done, total } if *total == Some(*done) => {
                let line = format!("{item} {}\n", text::size(*done));
                self.write(*step, line.as_bytes(), at, false)
            }
            Event::Progress { .. } => String::new(),
            Event::Finished { step, took } => {
                self.finish(*step, at, &format!("DONE {}\n", text::duration(*took)))
            }
            Event::Failed { step, message, took } => {
                let last = format!("ERROR {} ({})\n", one_line(message), text::duration(*took));
                self.finish(*step, at, &last)
            }
            Event::Warning(line) => format!("::warning::{}\n", data(line)),
        }
    }

    fn end(&mut self) -> String {
        let mut out = String::new();
        while self.shown.is_some() {
            // A step that was stopped in the middle has no end of its own.
            for step in self.steps.values_mut() {
                step.running = false;
            }
            out.push_str(&self.close());
        }
        out
    }
}

/// Makes an annotation of a problem in a file: `::error file=…,line=…::…`. Reads the source up to there, so of
/// many problems show few.
pub fn annotation(file: &str, source: &str, diagnostic: &Diagnostic) -> String {
    let level = if diagnostic.is_error() { "error" } else { "warning" };
    let line = |offset: usize| {
        let offset = offset.min(source.len());
        source.as_bytes()[..offset].iter().filter(|&&b| b == b'\n').count() + 1
    };
    let span = diagnostic.span;
    let (first, last) = (line(span.start), line(span.end.saturating_sub(1).max(span.start)));
    let mut text = diagnostic.message.clone();
    if let Some(help) = &diagnostic.help {
        text.push_str(&format!("\n{help}"));
    }
    let title = diagnostic.rule.map_or(diagnostic.code, |rule| rule.name());
    format!(
        "::{level} file={},line={first},endLine={last},title={}::{}\n",
        property(file),
        property(title),
        data(&text)
    )
}

/// Makes an annotation of an error that has no place.
pub fn error(message: &str) -> String {
    format!("::error::{}\n", data(message))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::event::{Stream, Work};
    use crate::dockerfile::Span;

    fn planned(step: StepId, name: &str) -> Event {
        Event::Planned { step, work: Work::Instruction, name: name.into(), emulated: false }
    }

    fn output(step: StepId, text: &str) -> Event {
        Event::Output { step, stream: Stream::Stdout, bytes: text.into() }
    }

    #[test]
    fn steps_that_run_at_a_time_are_shown_one_after_the_other() {
        let mut view = Github::default();
        let second = Duration::from_secs(1);
        let took = second;
        let events = [
            planned(1, "one"),
            planned(2, "two"),
            planned(3, "three"),
            Event::Started { step: 1 },
            Event::Started { step: 2 },
            output(1, "a\n::set-env name=x::y\nb"),
            output(2, "from two ##[error]no\n"),
            Event::Finished { step: 2, took },
            Event::Started { step: 3 },
            output(3, "from three\n"),
            output(1, "c\n"),
            Event::Finished { step: 1, took },
            Event::Failed { step: 3, message: "exit\ncode: 1".into(), took },
        ];
        let text: String = events.iter().map(|event| view.event(event, second)).collect();
        let expect = "::group::one\n0.0s a\n0.0s ::set-env name=x::y\n0.0s bc\nDONE 1.0s\n::endgroup::\n\
                      ::group::two\n0.0s from two ## [error]no\nDONE 1.0s\n::endgroup::\n\
                      ::group::three\n0.0s from three\nERROR exit code: 1 (1.0s)\n::endgroup::\n";
        assert_eq!(text + &view.end(), expect);
    }

    #[test]
    fn a_group_that_was_left_open_is_closed() {
        let mut view = Github::default();
        let zero = Duration::ZERO;
        view.event(&planned(1, "one"), zero);
        view.event(&Event::Started { step: 1 }, zero);
        assert_eq!(view.end(), "::endgroup::\n");
    }

    #[test]
    fn annotations_name_the_place() {
        let source = "FROM a\nRUN x \\\n  y\nRUN z\n";
        let start = source.find("RUN x").expect("there");
        let span = Span::new(start, start + "RUN x \\\n  y".len());
        let diagnostic = Diagnostic::error("E1", span, "50% is\nwrong").with_help("mend it");
        assert_eq!(
            annotation("dir/Docker,file", source, &diagnostic),
            "::error file=dir/Docker%2Cfile,line=2,endLine=3,title=E1::50%25 is%0Awrong%0Amend it\n"
        );
    }
}
