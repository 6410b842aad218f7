//! The command line: one file a subcommand.
//!
//! This is the only place that reads the environment, the home directory, the current directory and
//! the clock, and, with `ui`, the only one that prints. Standard output carries data and nothing
//! else.

pub mod args;
mod attest;
mod bake;
mod build;
mod cache;
mod call;
mod copy;
mod doctor;
mod edit;
mod environment;
mod explain;
mod export;
mod files;
mod foreign;
mod heap;
pub mod image_args;
mod images;
mod index;
mod inspect;
mod load;
mod login;
mod minishell;
mod network;
pub mod options;
pub mod output;
mod plan;
pub mod privilege;
mod push;
mod registries;
pub mod report;
mod shell;
mod sources;
mod storage;
mod task;
mod template;
mod verify;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use environment::Environment;

/// Runs the program.
pub fn main() -> ExitCode {
    // A RUN is this very program, executed again; it must not parse arguments.
    if let Some(code) = crate::sandbox::child_main() {
        return code;
    }
    if minishell::is_called() {
        return minishell::main();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if let Some(report) = foreign::report(&error) {
                return report.print(false);
            }
            // Help and version are data, all else goes to standard error; clap knows which.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()) * report::Exit::Usage as u8);
        }
    };
    let env = match Environment::new(cli.root) {
        Ok(env) => env,
        Err(report) => return report.print(false),
    };
    let result = match &cli.command {
        Command::Build(args) => build::run(args, &env),
        Command::Bake(args) => bake::run(args, &env),
        Command::Push(args) => push::run(args, &env),
        Command::Inspect(args) => inspect::run(args, &env),
        Command::Images(args) => images::list(args, &env),
        Command::Tag(args) => images::tag(args, &env),
        Command::Rmi(args) => images::remove(args, &env),
        Command::Du(args) => storage::usage(args, &env),
        Command::Prune(args) => storage::prune(args, &env),
        Command::Doctor(args) => doctor::run(args, &env),
        Command::Shell(args) => shell::run(args, &env),
        Command::Task(args) => task::run(args, &env),
        Command::Copy(args) => copy::copy(args, &env),
        Command::Pull(args) => copy::pull(args, &env),
        Command::Index(args) => index::run(args, &env),
        Command::Diff(args) => files::diff(args, &env),
        Command::Verify(args) => verify::run(args, &env),
        Command::Explain(args) => explain::run(args, &env),
        Command::Plan(args) => build::run_plan(args, &env),
        Command::Load(args) => load::run(args, &env),
        Command::Login(args) => login::login(args, &env),
        Command::Logout(args) => login::logout(args, &env),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => report.print(env.colour),
    }
}
