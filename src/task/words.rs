//! Command lines of steps: split into words as a shell does, with nothing expanded.

/// Splits at white space; quotes and backslashes as in sh(1). The error says what is left open.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => word.push(c),
                        None => return Err("a ' has no end".to_owned()),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => word.push(c),
                            Some('\n') => {}
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a \" has no end".to_owned()),
                        },
                        Some(c) => word.push(c),
                        None => return Err("a \" has no end".to_owned()),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => word.get_or_insert_default().push(c),
                None => return Err("nothing follows the last \\".to_owned()),
            },
            c if c.is_whitespace() => out.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_those_of_a_shell() {
        for (text, want) in [
            ("-t a:1  -f 'my file' .", &["-t", "a:1", "-f", "my file", "."][..]),
            (r#"bash -c "echo \"$A\" \n""#, &["bash", "-c", r#"echo "$A" \n"#]),
            ("a\\ b '' \"\"", &["a b", "", ""]),
            ("a \\\n  b\n", &["a", "b"]),
            ("", &[]),
        ] {
            assert_eq!(
                split(text).as_deref(),
                Ok(&want.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
        for open in ["'a", "\"a", "a\\"] {
            assert!(split(open).is_err(), "{open}");
        }
    }
}
