//! The shell that is put beside images which have none: enough to look around and to run programs.
//!
//! It is this program under the name `lapstrake-shell`, in the sandbox of a step. Its language is a
//! small part of a POSIX shell's: words with quotes, variables and `$?`, a list of commands with `;`,
//! `&&` and `||`, `>` and `<`, and built-in commands where an image may have no programs at all.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// The name under which this program is the shell.
pub const NAME: &str = "lapstrake-shell";

const HELP: &str = "\
built in: cat cd echo env exit export find head help ls pwd stat unset
programs of the image run by name; words, quotes, $NAME, ; && || > and < as in sh
";

/// Says whether this program was started as the shell.
pub fn is_called() -> bool {
    std::env::args_os()
        .next()
        .is_some_and(|name| Path::new(&name).file_name() == Some(OsStr::new(NAME)))
}

/// Is the shell: reads commands from standard input until it ends.
pub fn main() -> ExitCode {
    let mut shell = Shell { env: std::env::vars_os().collect(), last: 0 };
    let interactive = io::stdin().is_terminal();
    let mut line = String::new();
    loop {
        if interactive {
            print!("{} # ", std::env::current_dir().unwrap_or_default().display());
            let _ = io::stdout().flush();
        }
        line.clear();
        match io::stdin().lock().read_line(&mut line) {
            Ok(0) => {
                if interactive {
                    println!();
                }
                return ExitCode::from(shell.last);
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                eprintln!("not text");
                continue;
            }
            Err(_) => return ExitCode::FAILURE,
        }
        if let Some(code) = shell.line(&line) {
            return ExitCode::from(code);
        }
    }
}

/// What a line is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `;`, `&&`, `||`, `>`, `>>` or `<`.
    Sign(&'static str),
}

struct Shell {
    env: BTreeMap<OsString, OsString>,
    /// Exit code of the last command.
    last: u8,
}

/// One command with its redirections.
#[derive(Default)]
struct Simple {
    words: Vec<String>,
    output: Option<(String, bool)>,
    input: Option<String>,
}

impl Shell {
    /// Runs a line; gives the exit code when the shell is to end.
    fn line(&mut self, line: &str) -> Option<u8> {
        let tokens = match self.tokens(line) {
            Ok(tokens) => tokens,
            Err(message) => {
                eprintln!("{message}");
                self.last = 2;
                return None;
            }
        };
        let mut run = true;
        for (before, command) in commands(&tokens) {
            run = match before {
                "&&" => run && self.last == 0,
                "||" => self.last != 0,
                _ => true,
            };
            if !run {
                continue;
            }
            let command = match command {
                Ok(command) if command.words.is_empty() && command.output.is_none() => continue,
                Ok(command) => command,
                Err(message) => {
                    eprintln!("{message}");
                    self.last = 2;
                    return None;
                }
            };
            if command.words.first().is_some_and(|name| name == "exit") {
                let code = command.words.get(1).and_then(|code| code.parse().ok());
                return Some(code.unwrap_or(self.last));
            }
            self.last = self.run(&command);
        }
        None
    }

    /// Cuts a line into words and signs. Variables are expanded on the way.
    fn tokens(&self, line: &str) -> Result<Vec<Token>, String> {
        let mut out = Vec::new();
        let mut word: Option<String> = None;
        let mut chars = line.chars().peekable();
        let flush = |word: &mut Option<String>, out: &mut Vec<Token>| {
            out.extend(word.take().map(Token::Word));
        };
        while let Some(c) = chars.next() {
            match c {
                '#' if word.is_none() => break,
                c if c.is_whitespace() => flush(&mut word, &mut out),
                '\'' => {
                    let word = word.get_or_insert_default();
                    loop {
                        match chars.next() {
                            Some('\'') => break,
                            Some(c) => word.push(c),
                            None => return Err("a ' is not closed".to_owned()),
                        }
                    }
                }
                '"' => loop {
                    let word = word.get_or_insert_default();
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$')) => word.push(c),
                            Some(c) => word.extend(['\\', c]),
                            None => return Err("a \" is not closed".to_owned()),
                        },
                        Some('$') => self.variable(&mut chars, word),
                        Some(c) => word.push(c),
                        None => return Err("a \" is not closed".to_owned()),
                    }
                },
                '\\' => word.get_or_insert_default().extend(chars.next()),
                '$' => self.variable(&mut chars, word.get_or_insert_default()),
                ';' | '<' => {
                    flush(&mut word, &mut out);
                    out.push(Token::Sign(if c == ';' { ";" } else { "<" }));
                }
                '>' | '&' | '|' => {
                    let twice = chars.next_if_eq(&c).is_some();
                    flush(&mut word, &mut out);
                    out.push(Token::Sign(match (c, twice) {
                        ('>', false) => ">",
                        ('>', true) => ">>",
                        ('&', true) => "&&",
                        ('|', true) => "||",
                        _ => return Err(format!("{c} is more than this shell knows; try `help`")),
                    }));
                }
                c => word.get_or_insert_default().push(c),
            }
        }
        flush(&mut word, &mut out);
        Ok(out)
    }

    fn variable(&self, chars: &mut std::iter::Peekable<std::str::Chars<'_>>, word: &mut String) {
        if chars.next_if_eq(&'?').is_some() {
            word.push_str(&self.last.to_string());
            return;
        }
        let braced = chars.next_if_eq(&'{').is_some();
        let mut name = String::new();
        while let Some(c) = chars.next_if(|c| c.is_ascii_alphanumeric() || *c == '_') {
            name.push(c);
        }
        if braced {
            chars.next_if_eq(&'}');
        }
        if name.is_empty() {
            word.push('$');
        } else if let Some(value) = self.env.get(OsStr::new(&name)) {
            word.push_str(&value.to_string_lossy());
        }
    }

    fn run(&mut self, command: &Simple) -> u8 {
        let mut output: Option<fs::File> = None;
        if let Some((path, append)) = &command.output {
            let opened = fs::File::options()
                .write(true)
                .create(true)
                .append(*append)
                .truncate(!append)
                .open(path);
            match opened {
                Ok(file) => output = Some(file),
                Err(error) => return complain(path, &error),
            }
        }
        let Some((name, args)) = command.words.split_first() else { return 0 };
        let mut stdout: Box<dyn Write> = match &output {
            Some(file) => match file.try_clone() {
                Ok(file) => Box::new(file),
                Err(error) => return complain(name, &error),
            },
            None => Box::new(io::stdout()),
        };
        let result = match name.as_str() {
            "cd" => {
                let home = self.env.get(OsStr::new("HOME")).map(|home| home.to_string_lossy());
                let home = home.unwrap_or_else(|| "/".into()).into_owned();
                std::env::set_current_dir(args.first().unwrap_or(&home))
                    .map_err(|error| (args.first().cloned().unwrap_or(home), error))
            }
            "pwd" => std::env::current_dir()
                .and_then(|dir| writeln!(stdout, "{}", dir.display()))
                .map_err(|error| (name.clone(), error)),
            "echo" => writeln!(stdout, "{}", args.join(" ")).map_err(|e| (name.clone(), e)),
            "help" => stdout.write_all(HELP.as_bytes()).map_err(|e| (name.clone(), e)),
            "env" if args.is_empty() => self.env.iter().try_for_each(|(name, value)| {
                let line = [name.as_bytes(), b"=", value.as_bytes(), b"\n"].concat();
                stdout.write_all(&line).map_err(|error| ("env".to_owned(), error))
            }),
            "export" => {
                for pair in args {
                    if let Some((name, value)) = pair.split_once('=') {
                        self.env.insert(name.into(), value.into());
                    }
                }
                Ok(())
            }
            "unset" => {
                args.iter().for_each(|name| drop(self.env.remove(OsStr::new(name))));
                Ok(())
            }
            "cat" => cat(args, command.input.as_deref(), u64::MAX, &mut stdout),
            "head" => cat(args, command.input.as_deref(), 4096, &mut stdout),
            "ls" => ls(args, &mut stdout),
            "find" => find(args.first().map_or(".", String::as_str), &mut stdout),
            "stat" => args.iter().try_for_each(|path| {
                describe(Path::new(path), path.as_bytes(), &mut stdout)
                    .map_err(|error| (path.clone(), error))
            }),
            _ => return self.program(name, args, command, output),
        };
        match result.and_then(|()| stdout.flush().map_err(|error| (name.clone(), error))) {
            Ok(()) => 0,
            Err((what, error)) => complain(&what, &error),
        }
    }

    fn program(
        &self,
        name: &str,
        args: &[String],
        simple: &Simple,
        output: Option<fs::File>,
    ) -> u8 {
        let mut command = Command::new(name);
        command.args(args).env_clear().envs(&self.env);
        if let Some(file) = output {
            command.stdout(Stdio::from(file));
        }
        if let Some(path) = &simple.input {
            match fs::File::open(path) {
                Ok(file) => drop(command.stdin(Stdio::from(file))),
                Err(error) => return complain(path, &error),
            }
        }
        match command.status() {
            Ok(status) => {
                let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
                u8::try_from(code.unwrap_or(255)).unwrap_or(255)
            }
            Err(error) => {
                complain(name, &error);
                if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 }
            }
        }
    }
}

fn complain(what: &str, error: &io::Error) -> u8 {
    eprintln!("{what}: {error}");
    1
}

/// Cuts tokens into commands, each with the sign before it.
fn commands(tokens: &[Token]) -> Vec<(&'static str, Result<Simple, String>)> {
    let mut out = Vec::new();
    let mut before = ";";
    let mut command = Ok(Simple::default());
    let mut tokens = tokens.iter();
    while let Some(token) = tokens.next() {
        match (token, &mut command) {
            (Token::Sign(sign @ (";" | "&&" | "||")), _) => {
                out.push((before, std::mem::replace(&mut command, Ok(Simple::default()))));
                before = sign;
            }
            (_, Err(_)) => {}
            (Token::Word(word), Ok(command)) => command.words.push(word.clone()),
            (Token::Sign(sign), Ok(simple)) => match (tokens.next(), *sign) {
                (Some(Token::Word(path)), "<") => simple.input = Some(path.clone()),
                (Some(Token::Word(path)), sign) => {
                    simple.output = Some((path.clone(), sign == ">>"));
                }
                _ => command = Err(format!("a file is missing after {sign}")),
            },
        }
    }
    out.push((before, command));
    out
}

type Done = Result<(), (String, io::Error)>;

fn cat(args: &[String], input: Option<&str>, most: u64, out: &mut dyn Write) -> Done {
    let paths: Vec<&str> = args.iter().map(String::as_str).chain(input).collect();
    for path in paths {
        fs::File::open(path)
            .and_then(|file| io::copy(&mut file.take(most), out))
            .map_err(|error| (path.to_owned(), error))?;
    }
    Ok(())
}

fn ls(args: &[String], out: &mut dyn Write) -> Done {
    let (flags, paths): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|arg| arg.starts_with('-') && arg.len() > 1);
    let has = |flag: char| flags.iter().any(|given| given.contains(flag));
    let dot = ".".to_owned();
    let paths = if paths.is_empty() { vec![&dot] } else { paths };
    for path in paths {
        let fail = |error: io::Error| (path.clone(), error);
        if !Path::new(path).is_dir() || has('d') {
            show(Path::new(path), path.as_bytes(), has('l'), out).map_err(fail)?;
            continue;
        }
        let mut names: Vec<OsString> = fs::read_dir(path)
            .and_then(|dir| dir.map(|entry| entry.map(|entry| entry.file_name())).collect())
            .map_err(fail)?;
        names.retain(|name| has('a') || !name.as_bytes().starts_with(b"."));
        names.sort();
        for name in names {
            show(&Path::new(path).join(&name), name.as_bytes(), has('l'), out).map_err(fail)?;
        }
    }
    Ok(())
}

fn show(path: &Path, name: &[u8], long: bool, out: &mut dyn Write) -> io::Result<()> {
    if long {
        return describe(path, name, out);
    }
    fs::symlink_metadata(path)?;
    out.write_all(&[name, b"\n"].concat())
}

/// Writes mode, owner, size, name and link target.
fn describe(path: &Path, name: &[u8], out: &mut dyn Write) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let kind = meta.file_type();
    let letter = match () {
        () if kind.is_dir() => 'd',
        () if kind.is_symlink() => 'l',
        () if kind.is_fifo() => 'p',
        () if kind.is_socket() => 's',
        () if kind.is_char_device() => 'c',
        () if kind.is_block_device() => 'b',
        () => '-',
    };
    let mut line = format!(
        "{letter}{:04o} {:>5} {:>5} {:>10} ",
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid(),
        meta.len()
    )
    .into_bytes();
    line.extend_from_slice(name);
    if kind.is_symlink() {
        line.extend_from_slice(b" -> ");
        line.extend(fs::read_link(path)?.into_os_string().into_vec());
    }
    line.push(b'\n');
    out.write_all(&line)
}

fn find(path: &str, out: &mut dyn Write) -> Done {
    for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
        match entry {
            Ok(entry) => out
                .write_all(&[entry.path().as_os_str().as_bytes(), b"\n"].concat())
                .map_err(|error| (path.to_owned(), error))?,
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Shell {
        let env = [("A", "one two"), ("HOME", "/")];
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Shell { env, last: 3 }
    }

    #[test]
    fn lines_are_cut_into_words() {
        let words = |text: &str| -> Vec<String> {
            let tokens = shell().tokens(text).expect(text);
            let word = |token: Token| match token {
                Token::Word(word) => word,
                Token::Sign(sign) => format!("<{sign}>"),
            };
            tokens.into_iter().map(word).collect()
        };
        for (text, expect) in [
            ("ls  -l /x\n", vec!["ls", "-l", "/x"]),
            (
                "echo '$A' \"$A\" ${A}x $? \\$A ''",
                vec!["echo", "$A", "one two", "one twox", "3", "$A", ""],
            ),
            (
                "a>b;c&&d||e>>f # no",
                vec!["a", "<>>", "b", "<;>", "c", "<&&>", "d", "<||>", "e", "<>>>", "f"],
            ),
            ("cat <f $NONE", vec!["cat", "<<>", "f", ""]),
        ] {
            assert_eq!(words(text), expect, "{text}");
        }
        for text in ["'open", "\"open", "a | b", "a &"] {
            assert!(shell().tokens(text).is_err(), "{text}");
        }
    }

    #[test]
    fn commands_are_chained() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f");
        let path = file.display();
        let mut shell = shell();
        assert_eq!(
            shell.line(&format!("echo $A > {path} && echo more >> {path}; /none || echo")),
            None
        );
        assert_eq!(fs::read_to_string(&file).expect("written"), "one two\nmore\n");
        assert_eq!(shell.last, 0);
        shell.line(&format!(
            "cat {path} > {path}2 ; stat {path} > {path}3; find {} > {path}4",
            dir.path().display()
        ));
        assert_eq!(fs::read(dir.path().join("f2")).expect("written"), b"one two\nmore\n");
        assert!(fs::read_to_string(dir.path().join("f3")).expect("written").starts_with("-0"));
        assert!(fs::read_to_string(dir.path().join("f4")).expect("written").contains("/f2\n"));
        assert_eq!(shell.line("cat /does/not/exist"), None);
        assert_eq!(shell.last, 1);
        assert_eq!(shell.line("exit"), Some(1));
        assert_eq!(shell.line("exit 9"), Some(9));
        assert_eq!(shell.line("echo x >"), None);
        assert_eq!(shell.last, 2);
    }
}
