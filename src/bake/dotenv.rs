//! Files of variables, as compose reads them.

use std::collections::BTreeMap;

/// Reads a file of variables: `NAME=value`, in quotes or not, with comments.
pub fn dotenv(text: &str) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line);
        let Some((name, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let value = value.trim();
        let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
        let value = quoted('"')
            .or_else(|| quoted('\''))
            .unwrap_or_else(|| value.split_once(" #").map_or(value, |(value, _)| value).trim_end());
        out.insert(name.trim().to_owned(), value.to_owned());
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn dotenv_files() {
        let text = "# c\nA=1\nexport B = \"x # y\"\nC='z'\nD=v # c\nnothing\n";
        let found: Vec<(String, String)> = super::dotenv(text).into_iter().collect();
        let expected = [("A", "1"), ("B", "x # y"), ("C", "z"), ("D", "v")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(found, expected);
    }
}
