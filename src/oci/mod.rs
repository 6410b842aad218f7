//! The image formats: digests, platforms, references, descriptors, manifests, indexes, configs.
//!
//! The model is the OCI image-spec 1.1 plus what Docker's schema 2 and Docker's config add to it.
//! Two rules hold everywhere:
//! - bytes that came from outside are never re-serialised: callers keep the raw bytes and use the
//!   parsed form only to look at them;
//! - bytes that we make go through [`canonical::to_vec`], so the same value has the same digest on
//!   every machine and in every run.
//!
//! Fields that we do not know are kept (`extra`), so that a base image's config loses nothing.
//!
//! Pure: no file system, no network, no clock, no threads.

pub mod canonical;
pub mod config;
pub mod descriptor;
pub mod digest;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;

pub use config::{Healthcheck, History, ImageConfig, KeySet, RootFs, RuntimeConfig};
pub use descriptor::Descriptor;
pub use digest::{DiffId, Digest};
pub use manifest::{Document, DocumentError, Index, Manifest};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes in, parsers answer, and what they accept survives a round trip.
        #[test]
        fn parsers_take_anything(text in "[a-zA-Z0-9:/@._()+\\[\\] -]{0,40}|\\PC{0,20}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
            }
            if let Ok(platform) = text.parse::<Platform>() {
                prop_assert_eq!(platform.format_all().parse::<Platform>(), Ok(platform.clone()));
                prop_assert_eq!(platform.rank(&platform), Some(0));
            }
            let _ = Document::parse(text.as_bytes(), &text);
            let _ = ImageConfig::parse(text.as_bytes());
        }

        /// References made of good parts are accepted.
        #[test]
        fn good_references_are_read(
            registry in "[a-z]{1,5}\\.(io|example)(:[1-9][0-9]{0,3})?/",
            path in "[a-z0-9]{1,4}(([._]|__|-{1,3})[a-z0-9]{1,3}){0,2}(/[a-z0-9]{1,5}){0,3}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,8})?",
        ) {
            let text = format!("{registry}{path}{tag}");
            let reference: Reference = text.parse().unwrap();
            prop_assert_eq!(reference.tag.map(|tag| format!(":{tag}")).unwrap_or_default(), tag);
        }
    }
}
