//! argv → exit code. Becomes the sandbox child when it was re-executed as one.

fn main() -> std::process::ExitCode {
    lapstrake::cli::main()
}
