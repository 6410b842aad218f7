//! Shows a build while it runs: plain lines on a pipe, a live list of steps on a terminal, JSON
//! lines for programs (`rawjson.rs`), groups for GitHub (`github.rs`).
//!
//! All are a [`View`]: a pure function from events to text, which [`Progress`] writes to
//! standard error. Plain lines are as BuildKit prints them: `#3 [build 2/5] RUN make`, output with
//! the time since the step began, `CACHED`, `DONE 1.2s`, `ERROR`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::build::event::{Event, StepId, Watch};

use super::github::Github;
use super::rawjson::RawJson;
use super::text;

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// A live list on a terminal, plain lines elsewhere.
    #[default]
    Auto,
    /// A live list.
    Tty,
    /// Lines.
    Plain,
    /// One JSON object a line.
    RawJson,
    /// Groups and annotations for GitHub's runners.
    Github,
    /// Nothing.
    Quiet,
}

/// Turns events into text.
pub(super) trait View: Send {
    /// Gives the text that an event makes, `at` after the start.
    fn event(&mut self, event: &Event, at: Duration) -> String;
    /// Gives the text that makes room for something else to be printed.
    fn end(&mut self) -> String {
        String::new()
    }
    /// Gives the text that a moment without events makes.
    fn tick(&mut self, _: Duration) -> String {
        String::new()
    }
}

/// Shows events on standard error.
pub struct Progress {
    view: Mutex<Box<dyn View>>,
    started: Instant,
    live: bool,
}

impl Progress {
    /// Starts; `no_color` as the user set it.
    pub fn new(style: Style, no_color: bool) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        let style = match (style, terminal) {
            (Style::Auto, true) => Style::Tty,
            (Style::Auto, false) => Style::Plain,
            (style, _) => style,
        };
        let view: Box<dyn View> = match style {
            Style::Tty => Box::new(Live::new(!no_color, size())),
            Style::RawJson => Box::new(RawJson::new(jiff::Timestamp::now())),
            Style::Github => Box::new(Github::default()),
            Style::Quiet => Box::new(Quiet),
            Style::Plain | Style::Auto => Box::new(Plain::default()),
        };
        Progress { view: Mutex::new(view), started: Instant::now(), live: style == Style::Tty }
    }

    /// Ends the display, so that other text can follow.
    pub fn end(&self) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        write(&view.end());
    }
}

impl Watch for Progress {
    fn event(&self, event: Event) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        write(&view.event(&event, self.started.elapsed()));
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn rest(&self) {
        self.end();
    }

    fn tick(&self) {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        write(&view.tick(self.started.elapsed()));
    }
}

fn write(text: &str) {
    if !text.is_empty() {
        // A closed pipe is no reason to fail a build.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
}

/// Width and height of the terminal.
fn size() -> (usize, usize) {
    match terminal_size::terminal_size_of(std::io::stderr()) {
        Some((width, height)) => (usize::from(width.0), usize::from(height.0)),
        None => (80, 24),
    }
}

struct Quiet;

impl View for Quiet {
    fn event(&mut self, event: &Event, _: Duration) -> String {
        match event {
            Event::Warning(text) => format!("warning: {text}\n"),
            _ => String::new(),
        }
    }
}

/// One step as plain lines know it.
#[derive(Default)]
struct PlainStep {
    name: String,
    emulated: bool,
    started: Duration,
    rest: Vec<u8>,
    told: BTreeMap<String, u64>,
    moving: BTreeMap<String, Moving>,
}

/// Something that is transferred.
struct Moving {
    /// When it was first heard of, and how much of it was there then.
    first: (Duration, u64),
    last: (Duration, u64),
    total: Option<u64>,
}

impl Moving {
    fn new(at: Duration, done: u64, total: Option<u64>) -> Moving {
        Moving { first: (at, done), last: (at, done), total }
    }

    /// Notes how far it is.
    fn to(&mut self, at: Duration, done: u64, total: Option<u64>) {
        self.last = (at, done.max(self.last.1));
        self.total = total;
    }
}

impl std::fmt::Display for Moving {
    /// `1.0 MB / 5.0 MB 2.1 MB/s`: bytes so far, in all, and the rate from the start.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&text::size(self.last.1))?;
        if let Some(total) = self.total {
            write!(f, " / {}", text::size(total))?;
        }
        let (bytes, took) = (self.last.1 - self.first.1, self.last.0.saturating_sub(self.first.0));
        f.write_str(&text::rate(bytes, took))
    }
}

#[derive(Default)]
struct Plain {
    steps: BTreeMap<StepId, PlainStep>,
    numbers: BTreeMap<StepId, usize>,
}

impl Plain {
    /// Gives the number of a step, in the order in which steps are first heard of.
    fn number(&mut self, step: StepId) -> usize {
        let next = self.numbers.len() + 1;
        *self.numbers.entry(step).or_insert(next)
    }

    fn head(&mut self, step: StepId) -> String {
        let number = self.number(step);
        let known = self.steps.entry(step).or_default();
        let mark = if known.emulated { " (emulated)" } else { "" };
        format!("#{number} {}{mark}\n", text::printable(known.name.as_bytes(), false))
    }

    fn lines(&mut self, step: StepId, bytes: &[u8], at: Duration, all: bool) -> String {
        let number = self.number(step);
        let known = self.steps.entry(step).or_default();
        known.rest.extend_from_slice(bytes);
        let mut out = String::new();
        let since = (at.saturating_sub(known.started)).as_secs_f64();
        while let Some(end) = known.rest.iter().position(|&b| b == b'\n') {
            let line: Vec<u8> = known.rest.drain(..=end).collect();
            let line = line.strip_suffix(b"\n").unwrap_or(&line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            out.push_str(&format!("#{number} {since:.3} {}\n", text::printable(line, false)));
        }
        // A line without an end is shown when it gets long or the step ends.
        if (all || known.rest.len() > 64 << 10) && !known.rest.is_empty() {
            let line = std::mem::take(&mut known.rest);
            out.push_str(&format!("#{number} {since:.3} {}\n", text::printable(&line, false)));
        }
        out
    }
}

impl View for Plain {
    fn event(&mut self, event: &Event, at: Duration) -> String {
        match event {
            Event::Header(line) => format!("{line}\n"),
            Event::Planned { step, name, emulated, .. } => {
                let known = self.steps.entry(*step).or_default();
                known.name = name.clone();
                known.emulated = *emulated;
                String::new()
            }
            Event::Started { step } => {
                self.steps.entry(*step).or_default().started = at;
                self.head(*step)
            }
            Event::Cached { step } => {
                let head = self.head(*step);
                format!("{head}#{} CACHED\n\n", self.number(*step))
            }
            Event::Output { step, bytes, .. } => self.lines(*step, bytes, at, false),
            Event::Progress { step, item, done, total } => {
                let number = self.number(*step);
                let known = self.steps.entry(*step).or_default();
                let moving = known.moving.entry(item.clone());
                let moving = moving.or_insert_with(|| Moving::new(at, *done, *total));
                moving.to(at, *done, *total);
                let line = format!("#{number} {item} {moving}\n");
                let finished = *total == Some(*done);
                let last = known.told.get(item).copied().unwrap_or(0);
                // A line for every 50 MB and for the end of each item is enough on a pipe.
                if !finished && *done < last.saturating_add(50_000_000) {
                    return String::new();
                }
                if finished && known.told.insert(item.clone(), u64::MAX) == Some(u64::MAX) {
                    return String::new();
                }
                if !finished {
                    known.told.insert(item.clone(), *done);
                }
                line
            }
            Event::Finished { step, took } => {
                let mut out = self.lines(*step, b"", at, true);
                let number = self.number(*step);
                out.push_str(&format!("#{number} DONE {}\n\n", text::duration(*took)));
                out
            }
            Event::Failed { step, message, took } => {
                let mut out = self.lines(*step, b"", at, true);
                let number = self.number(*step);
                let message = text::printable(message.as_bytes(), false);
                out.push_str(&format!(
                    "#{number} ERROR: {message} ({})\n\n",
                    text::duration(*took)
                ));
                out
            }
            Event::Warning(line) => format!("warning: {line}\n"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Running,
    Cached,
    Done(Duration),
    Failed(Duration),
}

struct LiveStep {
    id: StepId,
    name: String,
    emulated: bool,
    state: State,
    started: Duration,
    tail: Vec<Vec<u8>>,
    moving: BTreeMap<String, Moving>,
}

/// Lines of output shown below a running step.
const TAIL: usize = 6;

struct Live {
    colour: bool,
    width: usize,
    height: usize,
    steps: Vec<LiveStep>,
    drawn: usize,
    last: Option<Duration>,
}

impl Live {
    fn new(colour: bool, (width, height): (usize, usize)) -> Live {
        Live { colour, width, height, steps: Vec::new(), drawn: 0, last: None }
    }

    fn step(&mut self, id: StepId) -> Option<&mut LiveStep> {
        self.steps.iter_mut().find(|step| step.id == id)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn erase(&mut self) -> String {
        let drawn = std::mem::take(&mut self.drawn);
        if drawn == 0 { String::new() } else { format!("\u{1b}[{drawn}A\u{1b}[0J") }
    }

    /// Draws everything anew.
    fn draw(&mut self, at: Duration) -> String {
        let mut lines: Vec<String> = Vec::new();
        let done = self
            .steps
            .iter()
            .filter(|step| !matches!(step.state, State::Waiting | State::Running))
            .count();
        lines.push(format!("[+] Building {} ({done}/{})", text::duration(at), self.steps.len()));
        for step in &self.steps {
            let (mark, time) = match step.state {
                State::Waiting => continue,
                State::Running => ("=>", text::duration(at.saturating_sub(step.started))),
                State::Cached => ("=> CACHED", "0.0s".to_owned()),
                State::Done(took) => ("=>", text::duration(took)),
                State::Failed(took) => ("=> ERROR", text::duration(took)),
            };
            let emulated = if step.emulated { " (emulated)" } else { "" };
            let room = self.width.saturating_sub(time.len() + 2);
            let name = text::printable(step.name.as_bytes(), false);
            let line = text::fit(&format!(" {mark} {name}{emulated}"), room);
            let pad = " ".repeat(room.saturating_sub(line.chars().count()));
            let line = format!("{line}{pad} {time}");
            lines.push(match step.state {
                State::Cached | State::Done(_) => self.paint("34", &line),
                State::Failed(_) => self.paint("31", &line),
                _ => line,
            });
            if step.state == State::Running {
                for (item, moving) in &step.moving {
                    let line = format!(" => => {item} {moving}");
                    lines.push(text::fit(&line, self.width.saturating_sub(1)));
                }
                for line in &step.tail {
                    let line = text::printable(line, false);
                    let line = text::fit(&format!(" => => # {line}"), self.width.saturating_sub(1));
                    lines.push(self.paint("2", &line));
                }
            }
        }
        // What does not fit scrolls away at the top: the header and the newest lines stay.
        let room = self.height.saturating_sub(2).max(4);
        if lines.len() > room {
            let cut = lines.len() - room;
            lines.drain(1..=cut);
        }
        let mut out = self.erase();
        self.drawn = lines.len();
        for line in lines {
            out.push_str(&line);
            out.push('\n');
        }
        self.last = Some(at);
        out
    }
}

impl View for Live {
    fn event(&mut self, event: &Event, at: Duration) -> String {
        let mut urgent = true;
        match event {
            Event::Header(line) | Event::Warning(line) => {
                let mut out = self.erase();
                out.push_str(&text::fit(line, self.width.saturating_sub(1)));
                out.push('\n');
                out.push_str(&self.draw(at));
                return out;
            }
            Event::Planned { step, name, emulated, .. } => {
                self.steps.push(LiveStep {
                    id: *step,
                    name: name.clone(),
                    emulated: *emulated,
                    state: State::Waiting,
                    started: at,
                    tail: Vec::new(),
                    moving: BTreeMap::new(),
                });
                urgent = false;
            }
            Event::Started { step } => {
                if let Some(step) = self.step(*step) {
                    step.state = State::Running;
                    step.started = at;
                }
            }
            Event::Cached { step } => {
                if let Some(step) = self.step(*step) {
                    step.state = State::Cached;
                }
                urgent = false;
            }
            Event::Output { step, bytes, .. } => {
                if let Some(step) = self.step(*step) {
                    push_tail(&mut step.tail, bytes);
                }
                urgent = false;
            }
            Event::Progress { step, item, done, total } => {
                if let Some(step) = self.step(*step) {
                    let moving = step.moving.entry(item.clone());
                    let moving = moving.or_insert_with(|| Moving::new(at, *done, *total));
                    moving.to(at, *done, *total);
                }
                urgent = false;
            }
            Event::Finished { step, took } => {
                if let Some(step) = self.step(*step) {
                    step.state = State::Done(*took);
                }
            }
            Event::Failed { step, took, .. } => {
                if let Some(step) = self.step(*step) {
                    step.state = State::Failed(*took);
                }
            }
        }
        // At most some twenty pictures a second: a chatty step must not be slowed by its display.
        let recent = self.last.is_some_and(|last| at.saturating_sub(last).as_millis() < 50);
        if recent && !urgent { String::new() } else { self.draw(at) }
    }

    fn end(&mut self) -> String {
        let at = self.last.unwrap_or_default();
        let out = self.draw(at);
        self.drawn = 0;
        out
    }

    fn tick(&mut self, at: Duration) -> String {
        if self.steps.is_empty() { String::new() } else { self.draw(at) }
    }
}

/// Keeps the last lines of a step's output; the last one may be unfinished.
fn push_tail(tail: &mut Vec<Vec<u8>>, bytes: &[u8]) {
    for piece in bytes.split_inclusive(|&b| b == b'\n') {
        let unfinished = tail.last().is_some_and(|line| !line.ends_with(b"\n"));
        match tail.last_mut() {
            Some(line) if unfinished && line.len() < 4096 => line.extend_from_slice(piece),
            _ => tail.push(piece.to_vec()),
        }
    }
    let extra = tail.len().saturating_sub(TAIL);
    tail.drain(..extra);
    for line in tail.iter_mut().rev().skip(1) {
        if line.ends_with(b"\n") {
            line.pop();
            line.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::event::{Stream, Work};

    fn story(view: &mut dyn View) -> String {
        let seconds = Duration::from_secs;
        let mut out = String::new();
        let events = [
            (0, Event::Header("isolation: userns".into())),
            (
                0,
                Event::Planned {
                    step: 7,
                    work: Work::Instruction,
                    name: "[a 1/2] RUN make".into(),
                    emulated: true,
                },
            ),
            (1, Event::Started { step: 7 }),
            (
                2,
                Event::Output {
                    step: 7,
                    stream: Stream::Stdout,
                    bytes: b"one\r\ntw\x1b[2J".to_vec(),
                },
            ),
            (3, Event::Finished { step: 7, took: seconds(2) }),
            (
                3,
                Event::Planned {
                    step: 9,
                    work: Work::Instruction,
                    name: "[a 2/2] RUN x".into(),
                    emulated: false,
                },
            ),
            (3, Event::Cached { step: 9 }),
        ];
        for (at, event) in events {
            out.push_str(&view.event(&event, seconds(at)));
        }
        out
    }

    #[test]
    fn plain_lines_are_numbered_and_timed() {
        let text = story(&mut Plain::default());
        let expect = "isolation: userns\n\
                      #1 [a 1/2] RUN make (emulated)\n\
                      #1 1.000 one\n\
                      #1 2.000 tw\\u{1b}[2J\n\
                      #1 DONE 2.0s\n\n\
                      #2 [a 2/2] RUN x\n\
                      #2 CACHED\n\n";
        assert_eq!(text, expect);
    }

    #[test]
    fn a_live_list_marks_what_is_cached() {
        let mut live = Live::new(false, (60, 24));
        let text = story(&mut live) + &live.end();
        assert!(text.contains(" => [a 1/2] RUN make (emulated)"), "{text}");
        assert!(text.contains(" => CACHED [a 2/2] RUN x"), "{text}");
        assert!(text.contains("(2/2)"), "{text}");
    }

    #[test]
    fn transfers_have_a_rate() {
        let moves = |view: &mut dyn View| {
            let tell = |view: &mut dyn View, at: u64, done: u64| {
                let (item, total) = ("sha256:ab".to_owned(), Some(80_000_000));
                let event = Event::Progress { step: 1, item, done, total };
                view.event(&event, Duration::from_millis(at))
            };
            view.event(
                &Event::Planned {
                    step: 1,
                    work: Work::Export,
                    name: "pushing app".into(),
                    emulated: false,
                },
                Duration::ZERO,
            );
            view.event(&Event::Started { step: 1 }, Duration::ZERO);
            let mut out = tell(view, 0, 0);
            out += &tell(view, 500, 20_000_000);
            // What comes again does not count back.
            out += &tell(view, 1000, 10_000_000);
            out += &tell(view, 2000, 60_000_000);
            out += &tell(view, 4000, 80_000_000);
            out
        };
        assert_eq!(
            moves(&mut Plain::default()),
            "#1 sha256:ab 60.0 MB / 80.0 MB 30.0 MB/s\n#1 sha256:ab 80.0 MB / 80.0 MB 20.0 MB/s\n"
        );
        let mut live = Live::new(false, (80, 24));
        let text = moves(&mut live);
        assert!(text.contains(" => => sha256:ab 20.0 MB / 80.0 MB 40.0 MB/s"), "{text}");
    }

    #[test]
    fn the_tail_keeps_the_last_lines() {
        let mut tail = Vec::new();
        push_tail(&mut tail, b"a\nb");
        push_tail(&mut tail, b"c\n");
        assert_eq!(tail, [b"a\n".to_vec(), b"bc\n".to_vec()]);
    }
}
