//! Variables in compose files: `$NAME`, `${NAME}`, and with `:-`, `-`, `:?`, `?`, `:+`, `+`.

/// How deep a default may hold variables with defaults.
const MAX_DEPTH: usize = 20;

/// Replaces variables; `$$` is a dollar sign.
pub fn interpolate(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    expand(text, lookup, 0)
}

fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<String, String> {
    if depth > MAX_DEPTH {
        return Err("variables lie too deep within each other".to_owned());
    }
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let Some(braced) = rest.strip_prefix('{') else {
            let length = name_length(rest);
            if length == 0 {
                return Err(format!(
                    "{text:?} has a $ that no name follows; write $$ for a dollar sign"
                ));
            }
            out.push_str(&lookup(&rest[..length]).unwrap_or_default());
            rest = &rest[length..];
            continue;
        };
        let end = closing(braced).ok_or_else(|| format!("a ${{ is not closed in {text:?}"))?;
        let inside = &braced[..end];
        rest = &braced[end + 1..];
        let (name, operator) = inside.split_at(name_length(inside));
        if name.is_empty() {
            return Err(format!("${{{inside}}} names no variable"));
        }
        let value = lookup(name);
        let full = value.clone().filter(|value| !value.is_empty());
        let given = if operator.starts_with(':') { &full } else { &value };
        let operator = operator.strip_prefix(':').unwrap_or(operator);
        let argument = |operator: &str| expand(&operator[1..], lookup, depth + 1);
        match operator.chars().next() {
            None => out.push_str(&value.unwrap_or_default()),
            Some('-') => match given {
                Some(value) => out.push_str(value),
                None => out.push_str(&argument(operator)?),
            },
            Some('+') => {
                if given.is_some() {
                    out.push_str(&argument(operator)?);
                }
            }
            Some('?') => match given {
                Some(value) => out.push_str(value),
                None => {
                    let why = argument(operator)?;
                    return Err(format!("the variable {name} is needed: {why}"));
                }
            },
            Some(_) => {
                return Err(format!(
                    "${{{inside}}} is not written as ${{NAME}} or ${{NAME:-default}}"
                ));
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn name_length(text: &str) -> usize {
    let fits = |(at, byte): (usize, u8)| {
        byte == b'_' || byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit())
    };
    text.bytes().enumerate().take_while(|pair| fits(*pair)).count()
}

/// Finds the brace that closes, past those of inner variables.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0usize;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => open += 1,
            b'}' if open == 0 => return Some(at),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_as_compose_has_them() {
        let env = |name: &str| match name {
            "A" => Some("a".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("x", "x"),
            ("$A-${A}", "a-a"),
            ("$$A", "$A"),
            ("${NO:-d}${NO-d}${EMPTY:-d}${EMPTY-d}", "ddd"),
            ("${A:+r}${EMPTY:+r}${EMPTY+r}", "rr"),
            ("${NO:-${NO:-${A}}}", "a"),
            ("${NO}", ""),
        ] {
            assert_eq!(interpolate(text, &env).as_deref(), Ok(expected), "{text}");
        }
        for (text, error) in [
            ("${A", "not closed"),
            ("$", "write $$"),
            ("${NO:?why}", "NO is needed: why"),
            ("${}", "names no variable"),
            ("${A!}", "not written as"),
        ] {
            let found = interpolate(text, &env).expect_err(text);
            assert!(found.contains(error), "{text}: {found}");
        }
        let deep = format!("{}{}", "${B:-".repeat(5000), "}".repeat(5000));
        assert!(interpolate(&deep, &env).is_err());
    }
}
