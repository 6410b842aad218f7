//! Target of names: references, platforms and digests. What was read, printed and read again is the same.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use lapstrake::oci::{Digest, Platform, Reference};

/// Reads the bytes as each kind of name.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(reference) = again(text, Reference::to_string) {
        let short = reference.familiar();
        assert_eq!(short.parse().as_ref(), Ok(&reference), "the short form {short:?}");
        let whole = reference.name();
        assert!(whole.len() <= 255 && whole.contains('/'), "{whole:?}");
        assert!(reference.tag.as_deref().is_none_or(Reference::is_tag));
        let tagged = reference.clone().with_default_tag();
        assert!(tagged.tag.is_some() || tagged.digest.is_some());
        again(&tagged.to_string(), Reference::to_string);
    }
    again(text, Digest::to_string);
    if let Some(platform) = again(text, Platform::format_all) {
        let normal = platform.clone().normalized();
        assert_eq!(normal.clone().normalized(), normal, "{platform:?} is normalised in two steps");
        assert!(platform.rank(&platform).is_some(), "{platform:?} does not fit itself");
        for other in ["linux/arm64/v9.5", "linux/arm/v6", "linux/amd64/v2", "linux/riscv64"] {
            let other: Platform = other.parse().expect("a platform");
            let _ = (platform.rank(&other), other.rank(&platform));
        }
        assert!(!platform.dir_name().contains('/'), "{platform:?}");
    }
}

fn again<T>(text: &str, print: fn(&T) -> String) -> Option<T>
where
    T: FromStr + Debug + PartialEq,
    T::Err: Display,
{
    match text.parse::<T>() {
        Ok(value) => {
            let printed = print(&value);
            match printed.parse::<T>() {
                Ok(second) => assert_eq!(second, value, "{text:?} was printed as {printed:?}"),
                Err(error) => panic!("{text:?} was printed as {printed:?}: {error}"),
            }
            Some(value)
        }
        Err(error) => {
            let message = error.to_string();
            assert!(!message.is_empty(), "{text:?} is refused for no reason");
            None
        }
    }
}
