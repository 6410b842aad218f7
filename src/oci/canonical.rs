//! The one JSON writer for everything that gets a digest.
//!
//! Canonical here means: keys sorted by their bytes, no white space, no escapes beyond those that
//! JSON demands, one trailing form for each value. It is reached by going through
//! [`serde_json::Value`], whose maps are sorted as long as nobody turns on serde_json's
//! `preserve_order` feature; the golden digests in the tests fail when somebody does.

use serde::Serialize;

/// Serialises `value` to canonical JSON.
///
/// # Panics
///
/// When `value` cannot be JSON at all (a map with keys that are not text). No type of this crate is
/// like that, so it is a programming error and not a condition to handle.
pub fn to_vec(value: &impl Serialize) -> Vec<u8> {
    let value = serde_json::to_value(value).expect("only types with text keys are digested");
    serde_json::to_vec(&value).expect("a JSON value always serialises to memory")
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn keys_are_sorted_and_nothing_is_added() {
        let map: HashMap<_, _> =
            [("b", 1), ("a", 2), ("B", 3), ("aa", 4), ("é", 5), ("<", 6)].into_iter().collect();
        let text = String::from_utf8(to_vec(&map)).unwrap();
        assert_eq!(text, r#"{"<":6,"B":3,"a":2,"aa":4,"b":1,"é":5}"#);
    }
}
