//! "Did you mean".

/// Finds the candidate that was most likely meant: at most two edits away, not equal.
pub fn suggest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    ignore_case: bool,
) -> Option<&'a str> {
    let _ = (name, ignore_case);
    candidates.into_iter().next();
    todo!()
}
