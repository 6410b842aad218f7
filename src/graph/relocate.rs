//! Places of triggers: what a base image brings stands in no file of the user's.

use crate::dockerfile::{Command, Instruction, Source, Span, Word};

/// Makes every place of an instruction the same one.
pub(super) fn relocate(instruction: &mut Instruction, span: Span) {
    instruction.span = span;
    instruction.keyword_span = span;
    let words: Vec<&mut Word> = match &mut instruction.command {
        Command::Copy(transfer) | Command::Add(transfer) => {
            let mut words: Vec<&mut Word> = vec![&mut transfer.destination];
            words.extend(&mut transfer.from);
            words.extend(&mut transfer.chown);
            words.extend(&mut transfer.chmod);
            words.extend(&mut transfer.checksum);
            words.extend(&mut transfer.exclude);
            for source in &mut transfer.sources {
                match source {
                    Source::Path(word) => words.push(word),
                    Source::Heredoc(heredoc) => heredoc.span = span,
                }
            }
            words
        }
        Command::Env(pairs) | Command::Label(pairs) => {
            pairs.iter_mut().flat_map(|pair| [&mut pair.key, &mut pair.value]).collect()
        }
        Command::User(word) | Command::Workdir(word) | Command::Stopsignal(word) => vec![word],
        Command::Expose(words) | Command::Volume(words) | Command::Shell(words) => {
            words.iter_mut().collect()
        }
        Command::Run(run) => {
            for mount in &mut run.mounts {
                mount.span = span;
                for field in &mut mount.fields {
                    field.key.span = span;
                    if let Some(value) = &mut field.value {
                        value.span = span;
                    }
                }
            }
            Vec::new()
        }
        _ => Vec::new(),
    };
    for word in words {
        word.span = span;
    }
}
