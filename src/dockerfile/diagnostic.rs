//! What is wrong with a Dockerfile: [`Diagnostic`], collected and never thrown.
//!
//! Codes are stable: `E…` stops the build, `W…` does not. [`explain`] says more about each.

use super::check::Rule;
use super::span::Span;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The build goes on.
    Warning,
    /// The build stops.
    Error,
}

/// The longest text of a diagnostic, bytes: what it quotes can be as long as the source.
const LONGEST: usize = 2000;

/// Cuts a text that is too long for anybody to read.
fn cut(text: String) -> String {
    if text.len() <= LONGEST {
        return text;
    }
    let mut end = LONGEST;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

/// One thing to tell the user about the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// The stable code, such as `E0201`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The check that found it, when it is one that `# check=skip=` can name.
    pub rule: Option<Rule>,
    /// What is to be underlined.
    pub span: Span,
    /// What is wrong, in lower case without a full stop.
    pub message: String,
    /// What to write under the underlined text; may be empty.
    pub label: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Makes an error.
    pub fn error(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code,
            severity: Severity::Error,
            rule: None,
            span,
            message: cut(message.into()),
            label: String::new(),
            help: None,
        }
    }

    /// Makes a warning.
    pub fn warning(code: &'static str, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, span, message) }
    }

    /// Makes the warning of a check.
    pub fn lint(rule: Rule, span: Span, message: impl Into<String>) -> Diagnostic {
        Diagnostic { rule: Some(rule), ..Diagnostic::warning(rule.code(), span, message) }
    }

    /// Adds what stands under the underlined text.
    pub fn with_label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = cut(label.into());
        self
    }

    /// Adds what to do about it.
    pub fn with_help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(cut(help.into()));
        self
    }

    /// Adds "did you mean" when there is something to suggest.
    pub fn with_suggestion(self, suggestion: Option<&str>) -> Diagnostic {
        match suggestion {
            Some(name) => self.with_help(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// Says whether it stops the build.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// Every code that this module gives, with what it means; those of checks are at [`Rule`].
pub const CODES: [(&str, &str); 50] = [
    ("E0101", "The file is UTF-16. Dockerfiles are UTF-8."),
    ("E0102", "The file holds bytes that are not UTF-8, outside of comments."),
    ("E0103", "The file holds a zero byte, which no command line and no file name can hold."),
    ("E0104", "A heredoc has no line that ends it: a line with nothing but its name."),
    ("E0105", "A parser directive is given twice."),
    ("E0106", "The escape directive takes a backslash or a backtick."),
    ("E0107", "The check directive takes `skip=`, `experimental=` and `error=`, with `;` between."),
    ("E0108", "The file holds no instruction."),
    ("E0109", "The file holds no FROM, so there is nothing to build."),
    ("E0110", "The file has more than a thousand errors, and was read no further."),
    (
        "E0111",
        "The file is larger than what is read: 4 MiB, 20,000 instructions, 65,536 words in one of them, 262,144 words and comments in all.",
    ),
    ("E0201", "A line does not begin with a keyword."),
    ("E0202", "An instruction has too few or too many arguments."),
    ("E0203", "SHELL takes a JSON array only."),
    ("E0204", "The elements of a JSON array must be strings."),
    ("E0205", "Only ARG may stand before the first FROM."),
    ("E0206", "ONBUILD, FROM and MAINTAINER cannot be triggered by ONBUILD."),
    ("E0207", "The destination of COPY or ADD cannot be a heredoc."),
    ("E0208", "ENV and LABEL take `key=value`."),
    ("E0209", "A name or path is empty."),
    ("E0210", "A stage name begins with a letter and holds letters, digits, `-`, `_` and `.`."),
    ("E0211", "HEALTHCHECK takes flags and CMD with a command, or NONE."),
    ("E0212", "An ONBUILD trigger of an image holds one instruction only."),
    ("E0301", "The instruction does not have this flag."),
    ("E0302", "The flag can be given once only."),
    ("E0303", "The flag needs a value, written with `=`."),
    ("E0304", "The flag is true or false."),
    ("E0305", "The flag does not take this value."),
    ("E0306", "COPY --from takes no variables: define a stage with FROM and name that."),
    ("E0401", "The value of --mount is one line of CSV: `key=value` with commas between."),
    ("E0402", "There is no such key of --mount."),
    ("E0403", "The key of --mount needs a value."),
    ("E0404", "The types of --mount are bind, cache, tmpfs, secret and ssh."),
    ("E0405", "The key of --mount does not take this value."),
    (
        "E0406",
        "The key `from` of --mount takes no variables: define a stage with FROM and name that.",
    ),
    ("E0407", "The key does not fit the type of the mount."),
    ("E0408", "The keys of a mount do not fit together, or one is missing."),
    ("E0409", "The value of --device is `NAME` or `name=NAME`, with `,required` if need be."),
    ("E0501", "A variable or quote is not written as it should be."),
    ("E0502", "A variable that `${name?}` asks for is not set."),
    ("E0503", "EXPOSE takes `port`, `port/protocol` or `port-port`."),
    ("E0504", "STOPSIGNAL takes the name or number of a signal."),
    ("E0505", "--chmod takes an octal number or a symbolic mode."),
    ("E0506", "Variables that are made of each other expand to more than 1 MiB."),
    ("W0201", "RUN without a command runs nothing."),
    ("W0202", "A comment looks like a directive and is none; directives stand at the very top."),
    ("W0203", "The syntax directive names a frontend that lapstrake does not run."),
    ("W0204", "Text that begins like a JSON array is none, so it goes to the shell as it is."),
    ("W0205", "The line of a heredoc cannot be split into words, so no heredoc is looked for."),
    ("W0206", "The check directive names a check that there is not."),
];

/// Says what a code means.
pub fn explain(code: &str) -> Option<String> {
    if let Some(rule) = Rule::every().find(|rule| rule.code() == code) {
        let see = rule.url().map_or(String::new(), |url| format!(" See {url}"));
        return Some(format!("The check {}: {}.{see}", rule.name(), rule.description()));
    }
    let found = CODES.iter().find(|(known, _)| *known == code);
    found.map(|(_, meaning)| (*meaning).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_in_the_sources_is_explained() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/dockerfile");
        for entry in std::fs::read_dir(dir).expect("the directory is part of the sources") {
            let path = entry.expect("it can be listed").path();
            let text = std::fs::read_to_string(&path).expect("it can be read");
            for piece in text.split('"').filter(|piece| piece.len() == 5) {
                let digits = piece.bytes().skip(1).all(|byte| byte.is_ascii_digit());
                if digits && piece.starts_with(['E', 'W']) {
                    assert!(explain(piece).is_some(), "{piece} in {}", path.display());
                }
            }
        }
        assert_eq!(explain("no such code"), None);
    }
}
