//! Heredoc markers on an instruction's line: `<<NAME`, `<<-NAME`, `<<"NAME"`, `3<<NAME`.
//!
//! A marker is a whole word of the line, as the shell lexer splits it with quotes and escapes kept. So
//! `cat<<EOF` and `"<<EOF"` are none, and the name in `<<EOF;` is `EOF;`: BuildKit's rules
//! (`frontend/dockerfile/parser/parser.go`), which differ from a shell's.

use std::ops::Range;

use super::ast::Escape;
use super::expand::{Error, Lexer};

/// A marker on a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marker {
    /// The name, without quotes.
    pub name: String,
    /// No part of the name was quoted.
    pub expand: bool,
    /// Written with `<<-`.
    pub chomp: bool,
    /// The number before `<<`.
    pub fd: u32,
}

/// Says whether a command line is one heredoc marker and nothing else.
pub fn is_only_heredoc(line: &str) -> bool {
    matches!(parse_marker(line), Ok(Some(_)))
}

/// Finds the markers of a line in order, each with its place.
pub fn markers(line: &str) -> Result<Vec<(Marker, Range<usize>)>, Error> {
    let lexer = Lexer {
        raw_quotes: true,
        raw_escapes: true,
        keep_unset: true,
        // A backslash whatever the directive says, as in BuildKit.
        ..Lexer::new(Escape::Backslash)
    };
    let mut found = Vec::new();
    for (word, place) in lexer.split(line, "<<")? {
        if let Some(marker) = parse_marker(&word)? {
            found.push((marker, place));
        }
    }
    Ok(found)
}

/// Parses a word that may be a marker.
pub fn parse_marker(word: &str) -> Result<Option<Marker>, Error> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let (fd, rest) = word.split_at(digits);
    let Some(rest) = rest.strip_prefix("<<") else { return Ok(None) };
    let chomp = rest.starts_with('-');
    let rest = rest[usize::from(chomp)..].trim_start_matches(['\t', '\n', '\u{c}', '\r', ' ']);
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    let lexer = Lexer { keep_unset: true, ..Lexer::new(Escape::Backslash) };
    let plain = lexer.split(rest, "")?;
    let [(name, _)] = plain.as_slice() else { return Ok(None) };
    let raw = Lexer { raw_quotes: true, ..lexer }.split(rest, "")?;
    let quotes = |text: &str| text.bytes().filter(|byte| matches!(byte, b'\'' | b'"')).count();
    // Quotes that the lexer took away were real ones: then the body is not expanded.
    let expand = raw.iter().map(|(word, _)| quotes(word)).sum::<usize>() == quotes(name);
    let fd = fd.parse().unwrap_or(if fd.is_empty() { 0 } else { u32::MAX });
    Ok(Some(Marker { name: name.clone(), expand, chomp, fd }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expect` lists the markers as `fd name flags`, where `-` is chomp and `!` is no expansion.
    fn check(line: &str, expect: &[&str]) {
        let got: Vec<String> = match markers(line) {
            Ok(found) => found
                .iter()
                .map(|(marker, _)| {
                    let Marker { name, expand, chomp, fd } = marker;
                    let flags = [(*chomp, "-"), (!expand, "!")];
                    let flags: String = flags.iter().filter(|f| f.0).map(|f| f.1).collect();
                    format!("{fd} {name} {flags}").trim_end().to_owned()
                })
                .collect(),
            Err(error) => vec![format!("error: {error}")],
        };
        assert_eq!(got, expect, "{line}");
    }

    /// Trap 34: the forms of a heredoc marker.
    #[test]
    fn forms() {
        for (line, expect) in [
            ("RUN <<EOF", vec!["0 EOF"]),
            ("RUN <<-EOF", vec!["0 EOF -"]),
            ("RUN <<'EOF'", vec!["0 EOF !"]),
            ("RUN <<\"EOF\"", vec!["0 EOF !"]),
            ("RUN <<-'E'OF", vec!["0 EOF -!"]),
            ("RUN <<E\\'OF", vec!["0 E'OF"]),
            ("RUN <<'two words' sh", vec!["0 two words !"]),
            ("RUN << EOF > x", vec!["0 EOF"]),
            ("RUN 3<<A cat <<B 12<<-C", vec!["3 A", "0 B", "12 C -"]),
            ("COPY <<a.txt <<b/c.txt /d/", vec!["0 a.txt", "0 b/c.txt"]),
            ("RUN <<$X", vec!["0 $X"]),
            ("RUN <<${X}", vec!["0 ${X}"]),
            ("RUN a && cat <<EOF | b", vec!["0 EOF"]),
            ("RUN cat <<EOF; b", vec!["0 EOF;"]),
            ("RUN (cat <<EOF)", vec!["0 EOF)"]),
            ("RUN --mount=type=bind,target=/x <<EOF", vec!["0 EOF"]),
        ] {
            check(line, &expect);
        }
    }

    #[test]
    fn what_is_no_heredoc() {
        for line in [
            "RUN cat<<EOF",
            "RUN \"<<EOF\"",
            "RUN '<<EOF'",
            "RUN \\<<EOF",
            "RUN <<<EOF",
            "RUN a <<< b",
            "RUN << ",
            "RUN <<-",
            "RUN <<-  EOF",
            "RUN <EOF",
            "RUN <<''",
            "RUN $((1<<2))",
            "RUN <<A<<B",
        ] {
            check(line, &[]);
        }
        check("RUN echo it's <<EOF", &["error: a ' is opened and never closed"]);
        check("RUN echo ${x,,} <<EOF", &["error: unsupported modifier `,` in `${x…}`"]);
    }

    #[test]
    fn only_a_lone_marker_is_a_whole_command() {
        for (line, expect) in [
            ("<<EOF", true),
            ("<< EOF", true),
            ("3<<-'EOF'", true),
            ("<<EOF sh", false),
            ("<<A <<B", false),
            ("cat <<EOF", false),
        ] {
            assert_eq!(is_only_heredoc(line), expect, "{line}");
        }
    }

    #[test]
    fn places_are_those_of_the_line() {
        let line = "RUN ñ <<A x <<  'b c' y";
        let found = markers(line).expect("all quotes are closed");
        let places: Vec<&str> = found.into_iter().map(|(_, place)| &line[place]).collect();
        assert_eq!(places, ["<<A", "<<  'b c'"]);
    }
}
