//! argv → exit code. Becomes the sandbox child when it was re-executed as one.

fn main() -> std::process::ExitCode {
    if let Some(code) = lapstrake::sandbox::child_main() {
        return code;
    }
    lapstrake::cli::main()
}
