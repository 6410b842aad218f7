//! The sources of ADD that are on other machines: from a word and the flags to what is fetched.

use crate::dockerfile::{Diagnostic, Span, Transfer};

use super::plan::Failure;
use super::remote::{self, Remote};

/// Understands a source of ADD that is on another machine; None for a path.
pub(super) fn remote_source(
    text: &str,
    span: Span,
    transfer: &Transfer,
    checksum: Option<&(String, Span)>,
) -> Result<Option<Remote>, Failure> {
    let bad = |message: String| Diagnostic::error("E0623", span, remote::redact(&message));
    let found = remote::classify(text).map_err(|error| {
        bad(format!("invalid git source: {error}"))
            .with_help("as https://host/repository.git#branch:directory")
    })?;
    let keep = transfer.keep_git_dir.as_ref();
    match found {
        remote::Named::Path => Ok(None),
        remote::Named::Url => {
            let wanted = match checksum {
                Some((text, span)) => Some(
                    text.parse()
                        .map_err(|error: String| Diagnostic::error("E0622", *span, error))?,
                ),
                None => None,
            };
            Ok(Some(Remote::Url(remote::UrlSource {
                url: text.to_owned(),
                name: Some(remote::file_name(text)),
                checksum: wanted,
            })))
        }
        remote::Named::Git(name) => {
            let mut source = name.source;
            if let (Some(flag), Some(query)) = (keep, name.keep_git_dir)
                && flag.value != query
            {
                let message = "inconsistent keep-git-dir configuration";
                return Err(Diagnostic::error("E0623", flag.span, message)
                    .with_help("say it once: as --keep-git-dir or in the URL")
                    .into());
            }
            source.keep_git_dir =
                name.keep_git_dir.or(keep.map(|flag| flag.value)).unwrap_or(false);
            if let Some((text, span)) = checksum {
                remote::check_commit(text)
                    .map_err(|error| Diagnostic::error("E0622", *span, error))?;
                if source.checksum.as_ref().is_some_and(|other| other != text) {
                    let message = "the flag and the URL name different checksums";
                    return Err(Diagnostic::error("E0622", *span, message).into());
                }
                source.checksum = Some(text.clone());
            }
            Ok(Some(Remote::Git(source)))
        }
    }
}
