//! Paths of WORKDIR and of destinations: joined and cleaned without a look at any file.

/// Says whether an absolute path has no part that [`clean_workdir`] would take out.
fn is_clean(path: &str) -> bool {
    path == "/" || path.split('/').skip(1).all(|part| !matches!(part, "" | "." | ".."))
}

/// Joins a WORKDIR onto the one before it.
pub(super) fn clean_workdir(current: &str, path: &str) -> String {
    if path.starts_with('/') && is_clean(path) {
        return path.to_owned();
    }
    let current = if path.starts_with('/') { "" } else { current };
    let mut clean = String::with_capacity(current.len() + path.len() + 2);
    for part in current.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => clean.truncate(clean.rfind('/').unwrap_or(0)),
            _ => clean.extend(["/", part]),
        }
    }
    if clean.is_empty() {
        clean.push('/');
    }
    clean
}

/// Joins a destination onto the working directory; a slash (or `/.`) at its end stays one.
pub(super) fn clean_dest(workdir: &str, dest: &str) -> String {
    let dest = if dest.is_empty() || dest == "." { "./" } else { dest };
    let is_dir = dest.ends_with('/') || dest.ends_with("/.") || dest.ends_with("/..");
    let clean = clean_workdir(workdir, dest);
    if is_dir && clean != "/" { format!("{clean}/") } else { clean }
}

#[cfg(test)]
#[path = "path_tests.rs"]
mod tests;
