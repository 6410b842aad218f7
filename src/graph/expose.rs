//! EXPOSE and VOLUME: lists in the image configuration.

use std::collections::HashSet;

use crate::dockerfile::value::parse_port;
use crate::dockerfile::{Diagnostic, Word, expand};

use super::plan::Failure;
use super::stage::{StageState, Walk, push_history};

impl Walk<'_, '_> {
    pub(super) fn expose(&mut self, state: &mut StageState, words: &[Word]) -> Result<(), Failure> {
        let (mut names, mut seen) = (Vec::new(), HashSet::new());
        for word in words {
            let expanded = expand::expand_words(&word.text, &state.env, self.escape())
                .map_err(|error| word.blame(&error))?;
            for text in &expanded.words {
                let range = parse_port(text).map_err(|error| {
                    Diagnostic::error("E0618", word.span, error.to_string())
                        .with_help("as EXPOSE 80, EXPOSE 53/udp or EXPOSE 8000-8010")
                })?;
                // A range can have all ports, and so can the next one.
                if seen.insert((range.start, range.end, range.protocol.clone())) {
                    names.extend(range.names());
                    self.planner.budget.spend(100 * range.names().count(), word.span)?;
                }
            }
        }
        push_history(&mut state.config, format!("EXPOSE [{}]", names.join(" ")), false);
        for name in names {
            state.config.config.exposed_ports.0.insert(name);
        }
        Ok(())
    }

    pub(super) fn volume(&mut self, state: &mut StageState, words: &[Word]) -> Result<(), Failure> {
        let mut names = Vec::new();
        for word in words {
            let name = self.expand(state, word)?;
            if name.is_empty() {
                return Err(Diagnostic::error(
                    "E0619",
                    word.span,
                    "VOLUME specified can not be an empty string",
                )
                .into());
            }
            names.push(name);
        }
        push_history(&mut state.config, format!("VOLUME [{}]", names.join(" ")), false);
        for name in names {
            state.config.config.volumes.0.insert(name.into_owned());
        }
        Ok(())
    }
}
