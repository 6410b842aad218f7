//! One line of CSV, as bake uses it for lists in variables and for `type=…,dest=…`.

/// Splits a line into fields; quotes hold commas, and two of them are one.
pub fn record(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            char => field.push(char),
        }
    }
    if quoted {
        return Err(format!("a quote is not closed in {text:?}"));
    }
    fields.push(field);
    Ok(fields)
}

/// Writes `key=value` pairs as one line.
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let fields = pairs.into_iter().map(|(key, value)| {
        let field = format!("{key}={value}");
        if field.contains([',', '"', '\n']) {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field
        }
    });
    fields.collect::<Vec<_>>().join(",")
}
