//! `lapstrake login` and `logout`: names and passwords where Docker and Podman read them too.

use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;

use crate::registry::{AuthFile, Credential, Error, Kept, Secret, Welcome};

use super::environment::Environment;
use super::image_args::{LoginArgs, LogoutArgs};
use super::report::{Exit, Report, Result};

/// No password is longer; the tokens of cloud registries have some kilobytes.
const MAX_PASSWORD: u64 = 1 << 20;

/// Runs `lapstrake login`.
pub fn login(args: &LoginArgs, env: &Environment) -> Result<()> {
    let registry = host(args.registry_name.as_deref())?;
    let terminal = std::io::stdin().is_terminal();
    let username = match &args.username {
        Some(name) => name.clone(),
        None if terminal && !args.password_stdin => ask_name(env)?,
        None => String::new(),
    };
    if username.is_empty() {
        return Err(Report::usage("login needs a user name").with_hint(hint(&registry)));
    }
    // With a colon in it the name would be cut there, and the rest be sent as the password.
    if username.contains(':') {
        return Err(Report::usage("a user name cannot have a colon in it"));
    }
    let password = if args.password_stdin {
        password()?
    } else if terminal {
        ask_password(env)?
    } else {
        return Err(Report::usage(
            "login asks for the password on a terminal, and standard input is none",
        )
        .with_hint(hint(&registry)));
    };
    let credential = if username == "<token>" {
        Credential::Identity(password)
    } else {
        Credential::Basic { username, password }
    };
    let failed =
        |error: &Error, exit| Report::of(exit, &format!("cannot log in to {registry}"), error);
    let path = match &args.authfile {
        Some(path) => env.cwd.join(path),
        None => destination(env, &registry)?,
    };
    // A file that cannot be used is told before the password goes anywhere.
    AuthFile::open(&path).map_err(|error| failed(&error, Exit::Usage))?;
    let mut options = args.registry.clone();
    if args.insecure {
        options.insecure_registry.push(registry.clone());
    }
    let client = env.registry_client(&options, false)?;
    let welcome = client.check_login(&registry, &credential).map_err(|error| {
        let wrong = error.is_configuration();
        failed(&error, if wrong { Exit::Usage } else { Exit::Network })
    })?;
    let kept = AuthFile::edit(&path)
        .and_then(|file| file.store(&registry, &credential))
        .map_err(|error| failed(&error, Exit::Host))?;
    if welcome == Welcome::NotAsked {
        env.say(&format!(
            "warning: {registry} lets everybody in, so name and password were not checked\n"
        ));
    }
    env.say(&match kept {
        Kept::Helper(name) => {
            format!("logged in to {registry}; docker-credential-{name} has the password\n")
        }
        Kept::File => format!(
            "logged in to {registry}; the password is in {} (mode 0600, not encrypted)\n",
            path.display()
        ),
    });
    Ok(())
}

/// Runs `lapstrake logout`.
pub fn logout(args: &LogoutArgs, env: &Environment) -> Result<()> {
    let registry = host(args.registry_name.as_deref())?;
    let paths = match &args.authfile {
        Some(path) => vec![env.cwd.join(path)],
        None => env.credential_files(),
    };
    let failed =
        |error: Error| Report::of(Exit::Host, &format!("cannot log out of {registry}"), &error);
    let mut had = false;
    for path in paths.into_iter().filter(|path| path.exists()) {
        if AuthFile::edit(&path).map_err(failed)?.forget(&registry).map_err(failed)? {
            env.say(&format!("logged out of {registry} in {}\n", path.display()));
            had = true;
        }
    }
    if !had {
        env.say(&format!("not logged in to {registry}\n"));
    }
    Ok(())
}

fn hint(registry: &str) -> String {
    format!("lapstrake login -u NAME --password-stdin {registry} < FILE")
}

/// Reads a registry's name as people and `docker login` write it.
fn host(text: Option<&str>) -> Result<String> {
    let text = text.unwrap_or("docker.io");
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let bare = bare.unwrap_or(text).trim_end_matches('/').to_ascii_lowercase();
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if bare.is_empty() || !bare.bytes().all(legal) {
        return Err(Report::usage(format!("{text} is not the name of a registry"))
            .with_hint("give host or host:port, as registry.example:5000"));
    }
    Ok(match bare.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        _ => bare,
    })
}

fn ask_name(env: &Environment) -> Result<String> {
    env.say("User name: ");
    let mut line = String::new();
    std::io::stdin()
        .read_line(&mut line)
        .map_err(|error| Report::of(Exit::Usage, "cannot read the user name", &error))?;
    Ok(line.trim().to_owned())
}

/// Asks for the password on the terminal, which does not show it.
fn ask_password(env: &Environment) -> Result<Secret> {
    let stdin = std::io::stdin();
    let asked = crate::sys::tty::read_secret(stdin.as_fd(), || env.say("Password: "));
    env.say("\n");
    let cannot = |error: &(dyn std::error::Error + 'static)| {
        Report::of(Exit::Usage, "cannot read the password", error)
    };
    let bytes = asked
        .map_err(|error| cannot(&error))?
        .ok_or_else(|| Report::new(Exit::Interrupted, "no password was given"))?;
    let text = String::from_utf8(bytes).map_err(|error| cannot(&error.utf8_error()))?;
    if text.is_empty() {
        return Err(Report::usage("the password is empty"));
    }
    Ok(Secret::new(text))
}

/// Reads the password: all of standard input, without the newline that `echo` adds.
fn password() -> Result<Secret> {
    let mut text = String::new();
    std::io::stdin().take(MAX_PASSWORD).read_to_string(&mut text).map_err(|error| {
        Report::of(Exit::Usage, "cannot read the password from standard input", &error)
    })?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(Report::usage("the password on standard input is empty"));
    }
    Ok(Secret::new(text))
}

/// Picks the file that is written: the first that knows the registry, because it would be asked
/// first; else one that a variable names; else Docker's, or Podman's where only that is there.
fn destination(env: &Environment, registry: &str) -> Result<PathBuf> {
    let files = env.credential_files();
    for path in &files {
        let file = AuthFile::open(path)
            .map_err(|error| Report::of(Exit::Usage, "cannot log in", &error))?;
        if file.knows(registry) {
            return Ok(path.clone());
        }
    }
    if env.variable("REGISTRY_AUTH_FILE").is_some_and(|value| !value.is_empty())
        && let Some(path) = files.first()
    {
        return Ok(path.clone());
    }
    let docker = env.docker_config();
    let named = env.variable("DOCKER_CONFIG").is_some_and(|value| !value.is_empty());
    let existing = files.iter().rev().find(|path| path.exists()).cloned();
    docker.clone().filter(|_| named).or(existing).or(docker).ok_or_else(|| {
        Report::usage("there is no home directory to keep the password in")
            .with_hint("set HOME, or name a file: --authfile FILE")
    })
}
