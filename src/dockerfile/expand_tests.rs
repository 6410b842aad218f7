//! Expansion as tables: what every form gives.

use proptest::prelude::*;

use super::*;

fn env() -> Vec<(String, String)> {
    [
        ("HOME", "/root"),
        ("EMPTY", ""),
        ("VER", "1.22.3-alpine"),
        ("PATHS", "/usr/local/bin"),
        ("SPACED", "  one two "),
        ("ÑAME", "ü"),
        ("NL", "a\nb"),
        ("DOT", "a.b.c"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

/// `expect` is the text, or `error: …`.
fn check(word: &str, expect: &str) {
    let got = match expand_word(word, &env(), Escape::Backslash) {
        Ok(expanded) => expanded.text,
        Err(error) => format!("error: {error}"),
    };
    assert_eq!(got, expect, "{word}");
}

#[test]
fn quotes_and_escapes() {
    for (word, expect) in [
        ("", ""),
        ("plain text", "plain text"),
        ("'single $HOME'", "single $HOME"),
        ("'it\\n'", "it\\n"),
        ("\"double $HOME\"", "double /root"),
        ("\"a\\\"b\\$c\\\\d\\te\"", "a\"b$c\\d\\te"),
        ("a\\ b\\tc\\$HOME", "a btc$HOME"),
        ("end\\", "end"),
        ("end\\\\", "end\\"),
        ("\"it's\"'\"'", "it's\""),
        ("''", ""),
        ("a'b'c\"d\"e", "abcde"),
        ("'open", "error: a ' is opened and never closed"),
        ("\"open", "error: a \" is opened and never closed"),
        ("\"open\\", "error: a \" is opened and never closed"),
        ("ünï\\ö'ß'", "ünïöß"),
        ("<<EOF << EOF", "<<EOF << EOF"),
    ] {
        check(word, expect);
    }
}

#[test]
fn plain_variables() {
    for (word, expect) in [
        ("$HOME/x", "/root/x"),
        ("${HOME}x", "/rootx"),
        ("$HOMEx", ""),
        ("$NOPE.", "."),
        ("$ÑAME", "ü"),
        ("$", "$"),
        ("$.", "$."),
        ("$ HOME", "$ HOME"),
        ("$1x", "x"),
        ("${12}x", "x"),
        ("$@$*$#$?$-$$$!$0|", "|"),
        ("${@}${#}${?}|", "|"),
        ("$12ab", "ab"),
        ("${}", "error: bad substitution: no name after `${`"),
        ("${:-x}", "error: bad substitution: no name after `${`"),
        ("${{HOME}}", "error: bad substitution: no name after `${`"),
        ("${HOME", "error: `${` without the matching `}`"),
        ("${", "error: `${` without the matching `}`"),
        ("${HOME}}", "/root}"),
        ("${.}", "error: unsupported modifier `.` in `${…}`"),
        ("${HOME,,}", "error: unsupported modifier `,` in `${HOME…}`"),
        ("${HOME:=x}", "error: unsupported modifier `:=` in `${HOME…}`"),
        ("${HOME=x}", "error: unsupported modifier `=` in `${HOME…}`"),
        ("${HOME:1:2}", "error: unsupported modifier `:1` in `${HOME…}`"),
    ] {
        check(word, expect);
    }
}

#[test]
fn defaults_and_alternatives() {
    for (word, expect) in [
        ("${NOPE:-d}${NOPE-d}", "dd"),
        ("${EMPTY:-d}${EMPTY-d}|", "d|"),
        ("${HOME:-d}${HOME-d}", "/root/root"),
        ("${NOPE:+a}${NOPE+a}|", "|"),
        ("${EMPTY:+a}${EMPTY+a}|", "a|"),
        ("${HOME:+a}${HOME+a}", "aa"),
        ("${NOPE:-${EMPTY:-${HOME}}}", "/root"),
        ("${NOPE:-'}'}", "}"),
        ("${NOPE:-\\}}", "}"),
        ("${NOPE:-a b}", "a b"),
        ("${NOPE:-{x}", "{x"),
        ("\"${NOPE:-\"q\"}\"", "q"),
        ("${HOME:?}", "/root"),
        ("${EMPTY?}|", "|"),
        ("${EMPTY:?}", "error: EMPTY: is not allowed to be empty"),
        ("${NOPE?}", "error: NOPE: is not allowed to be unset"),
        ("${NOPE:?please set $HOME}", "error: NOPE: please set /root"),
        ("${NOPE:-open", "error: `${` without the matching `}`"),
    ] {
        check(word, expect);
    }
}

#[test]
fn patterns() {
    for (word, expect) in [
        ("${VER%-*}", "1.22.3"),
        ("${VER%%.*}", "1"),
        ("${VER#*.}", "22.3-alpine"),
        ("${VER##*.}", "3-alpine"),
        ("${PATHS##*/}", "bin"),
        ("${NOPE#x}|", "|"),
        ("${VER:#x}", "error: unsupported modifier `:#` in `${VER…}`"),
        ("${VER#a\\b}", "error: invalid pattern `a\\b` in `${VER…}`"),
        ("${VER/./_}", "1_22.3-alpine"),
        ("${VER//./_}", "1_22_3-alpine"),
        ("${PATHS/\\/usr/}", "/local/bin"),
        ("${PATHS//\\//:}", ":usr:local:bin"),
        ("${DOT//?/x}", "xxxxx"),
        ("${DOT/a*b/<>}", "<>.c"),
        ("${DOT//./$HOME}", "a/rootb/rootc"),
        ("${VER/x}", "error: `${VER/` without the `/` before the replacement"),
        ("${VER/x/y", "error: `${` without the matching `}`"),
        ("${NL#*}|", "a\nb|"),
        ("${NL##*}|", "\nb|"),
        ("${VER%\"-alpine\"}", "1.22.3"),
    ] {
        check(word, expect);
    }
}

#[test]
fn backtick_escape_leaves_backslashes_alone() {
    let run = |word| expand_word(word, &env(), Escape::Backtick).map(|expanded| expanded.text);
    assert_eq!(run("C:\\a`$HOME \"`\"\\\""), Ok("C:\\a$HOME \"\\".to_owned()));
}

/// Trap 29's kin: which names count as used or unset, for UndefinedVar.
#[test]
fn names_are_reported_even_where_their_value_is_not_needed() {
    let run = expand_word("${HOME:-$NOPE} ${GONE:-x} '$QUOTED'", &env(), Escape::Backslash);
    let run = run.expect("it is right");
    assert_eq!(run.used.iter().collect::<Vec<_>>(), ["HOME"]);
    assert_eq!(run.unset.iter().collect::<Vec<_>>(), ["GONE", "NOPE"]);
}

#[test]
fn words_split_after_expansion_but_not_in_quotes() {
    for (word, expect) in [
        ("a b", vec!["a", "b"]),
        ("a\\ b 'c d' \"e f\"", vec!["a b", "c d", "e f"]),
        ("x$SPACED|y", vec!["x", "one", "two", "|y"]),
        ("x\"$SPACED\"y", vec!["x  one two y"]),
        ("'' \"\" a", vec!["a"]),
        ("$NOPE", vec![]),
        ("80${NOPE:-80} 1", vec!["8080", "1"]),
    ] {
        let got = expand_words(word, &env(), Escape::Backslash).expect("it is right");
        assert_eq!(got.words, expect, "{word}");
    }
}

#[test]
fn heredoc_bodies_keep_quotes() {
    let body = "'$HOME' \"${NOPE:-'x'}\"\n\\$HOME \\\\ \\n it's\n";
    let got = expand_heredoc(body, &env()).expect("it is right").text;
    assert_eq!(got, "'/root' \"'x'\"\n$HOME \\ n it's\n");
}

#[test]
fn display_keeps_quotes_and_unset_variables() {
    for (text, expect) in [
        (
            "RUN echo \"$HOME\" '$HOME' $NOPE ${NOPE:-x}",
            "RUN echo \"/root\" '$HOME' $NOPE ${NOPE:-x}",
        ),
        ("RUN echo ${NOPE/a/b} ${NOPE##x}", "RUN echo ${NOPE/a/b} ${NOPE##x}"),
        ("RUN echo it's ${x,,}", "RUN echo it's ${x,,}"),
    ] {
        assert_eq!(expand_display(text, &env(), Escape::Backslash), expect);
    }
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let word = "${A:-".repeat(1_000_000);
    assert_eq!(expand_word(&word, &NoEnv, Escape::Backslash), Err(Error::Depth));
    let fine = format!("{}x{}", "${A:-".repeat(100), "}".repeat(100));
    assert_eq!(expand_word(&fine, &NoEnv, Escape::Backslash).map(|e| e.text), Ok("x".to_owned()));
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

proptest! {
    #[test]
    fn never_panics(word in "[a${}'\"\\\\/#%:?+*<@1 é-]{0,40}") {
        let _ = expand_word(&word, &env(), Escape::Backslash);
        let _ = expand_word(&word, &env(), Escape::Backtick);
        let _ = expand_heredoc(&word, &env());
        let _ = expand_display(&word, &env(), Escape::Backslash);
        let _ = Lexer::new(Escape::Backslash).split(&word, "");
    }

    #[test]
    fn text_is_the_same_whoever_expands(word in "[aA${}'\"\\\\/#%:?+*<@1 é`-]{0,12}") {
        let (env, span) = (env(), crate::dockerfile::Span::default());
        for escape in [Escape::Backslash, Escape::Backtick] {
            let expanded = Word::new(word.as_str(), span).expand(&env, escape);
            let text = Word::new(word.as_str(), span).text_in(&env, escape).map(Cow::into_owned);
            prop_assert_eq!(text, expanded.map(|expanded| expanded.text));
            let lexer = Lexer { raw_quotes: true, keep_unset: true, ..Lexer::new(escape) };
            let shown = lexer.run(&word, &env).map_or(word.clone(), |expanded| expanded.text);
            prop_assert_eq!(expand_display(&word, &env, escape), shown);
        }
    }

    #[test]
    fn quoted_words_come_back_as_they_were(words in prop::collection::vec("\\PC{1,12}", 0..5)) {
        let line = words.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ");
        let got = expand_words(&line, &env(), Escape::Backslash).expect("all quotes are closed");
        prop_assert_eq!(got.words, words);
    }

    #[test]
    fn escaped_text_comes_back_as_it_was(text in "\\PC{0,20}") {
        let word: String = text.chars().flat_map(|c| ['\\', c]).collect();
        let got = expand_word(&word, &env(), Escape::Backslash).expect("nothing in it is special");
        prop_assert_eq!(got.text, text);
    }
}
