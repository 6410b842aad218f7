//! Where the Dockerfile and the ignore file of a build are.
//!
//! The ignore file may leave both out of the context; they are read all the same.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::ignore::IgnoreRules;
use super::{Error, Result};

/// Names of a Dockerfile, best first. BuildKit's frontend reads a lower-case one too.
const DOCKERFILES: [&str; 3] = ["Dockerfile", "Containerfile", "dockerfile"];

/// What follows the Dockerfile's name in an ignore file of its own, best first.
const OWN_IGNORE: [&str; 2] = [".dockerignore", ".containerignore"];

/// Finds the Dockerfile: `file` itself if one is given, else by its usual names in the context.
pub fn dockerfile(context: &Path, file: Option<&Path>) -> Result<PathBuf> {
    if let Some(file) = file {
        return match file.try_exists() {
            Ok(true) => Ok(file.to_owned()),
            Ok(false) => Err(Error::NoDockerfile { path: file.to_owned() }),
            Err(source) => Err(Error::File { path: file.to_owned(), source }),
        };
    }
    for name in DOCKERFILES {
        let path = context.join(name);
        match path.try_exists() {
            Ok(true) => return Ok(path),
            Ok(false) => {}
            Err(source) => return Err(Error::File { path, source }),
        }
    }
    Err(Error::NoDockerfile { path: context.join(DOCKERFILES[0]) })
}

/// Finds and reads the ignore file: `<Dockerfile>.dockerignore` beside the Dockerfile if there is
/// one, else `.dockerignore` at the root of the context (or the same with `.containerignore`). Gives
/// its path too; None when there is none. Without a Dockerfile (a named context) only the latter.
pub fn ignore_rules(
    context: &Path,
    dockerfile: Option<&Path>,
) -> Result<(IgnoreRules, Option<PathBuf>)> {
    let own = OWN_IGNORE.into_iter().filter_map(|suffix| {
        let mut name = dockerfile?.as_os_str().to_owned();
        name.push(suffix);
        Some(PathBuf::from(name))
    });
    let common = OWN_IGNORE.into_iter().map(|name| context.join(name));
    for path in own.chain(common) {
        match fs::read(&path) {
            Ok(bytes) => {
                return match IgnoreRules::parse(&bytes) {
                    Ok(rules) => Ok((rules, Some(path))),
                    Err(source) => Err(Error::Ignore { path, source }),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(Error::File { path, source }),
        }
    }
    Ok((IgnoreRules::default(), None))
}

/// Reads an ignore file that must be there.
pub fn ignore_file(path: &Path) -> Result<IgnoreRules> {
    let bytes = fs::read(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    IgnoreRules::parse(&bytes).map_err(|source| Error::Ignore { path: path.to_owned(), source })
}

/// Reads a file of a context that nobody vouches for: as if the context were the root directory, so
/// that no link leads out of it. None when there is no such file.
pub fn read_inside(context: &Path, file: &Path) -> Result<Option<Vec<u8>>> {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    let path = context.join(file);
    let root = crate::sys::dir::open(context)
        .map_err(|source| Error::Open { path: context.to_owned(), source })?;
    let name = file.as_os_str().as_bytes();
    let opened = match crate::sys::dir::open_in_root(root.as_fd(), name) {
        Ok(opened) => opened,
        Err(error) if error.is(crate::sys::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(Error::File { path, source: error.into() }),
    };
    let mut bytes = Vec::new();
    let is_file = opened.metadata().is_ok_and(|meta| meta.is_file());
    if !is_file {
        return Err(Error::NoDockerfile { path });
    }
    match (&opened).read_to_end(&mut bytes) {
        Ok(_) => Ok(Some(bytes)),
        Err(source) => Err(Error::File { path, source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_are_tried_in_order() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(dockerfile(dir.path(), None), Err(Error::NoDockerfile { .. })));
        for name in ["dockerfile", "Containerfile", "Dockerfile"] {
            fs::write(dir.path().join(name), "FROM scratch").unwrap();
            assert_eq!(dockerfile(dir.path(), None).unwrap(), dir.path().join(name));
        }
        let other = dir.path().join("other");
        let error = dockerfile(dir.path(), Some(&other)).unwrap_err().to_string();
        assert!(error.contains("other"), "{error}");
        fs::write(&other, "").unwrap();
        assert_eq!(dockerfile(dir.path(), Some(&other)).unwrap(), other);
    }

    #[test]
    fn the_dockerfiles_own_ignore_file_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("build.Dockerfile");
        assert_eq!(ignore_rules(dir.path(), Some(&file)).unwrap().1, None);
        for name in [
            ".containerignore",
            ".dockerignore",
            "build.Dockerfile.containerignore",
            "build.Dockerfile.dockerignore",
        ] {
            fs::write(dir.path().join(name), name).unwrap();
            let (rules, path) = ignore_rules(dir.path(), Some(&file)).unwrap();
            assert_eq!(path, Some(dir.path().join(name)));
            assert!(rules.is_ignored(name.as_bytes()));
        }
        let (_, path) = ignore_rules(dir.path(), None).unwrap();
        assert_eq!(path, Some(dir.path().join(".dockerignore")));
    }

    #[test]
    fn a_wrong_line_names_file_and_line() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".dockerignore"), "a\nb[\n").unwrap();
        let error = ignore_rules(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains(".dockerignore") && error.contains("line 2"), "{error}");
    }
}
