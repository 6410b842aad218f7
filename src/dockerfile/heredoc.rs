//! Heredoc markers on an instruction's line.

/// Says whether a command line is one heredoc marker and nothing else.
pub fn is_only_heredoc(line: &str) -> bool {
    let _ = line;
    todo!()
}
