//! The command lines of `docker` that steps hold, as far as lapstrake has a verb for them.

/// What a `docker` command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Docker {
    /// `docker build`, `docker buildx build`.
    Build(Vec<String>),
    /// `docker push`.
    Push(Vec<String>),
    /// `docker pull`.
    Pull(Vec<String>),
    /// `docker tag`.
    Tag {
        /// The image.
        source: String,
        /// Its new name.
        target: String,
    },
    /// `docker manifest create`.
    Create {
        /// The name of the list.
        list: String,
        /// What goes into it.
        members: Vec<String>,
        /// Add to a list that exists.
        amend: bool,
    },
    /// `docker manifest annotate`.
    Annotate {
        /// The name of the list.
        list: String,
        /// Which entry.
        member: String,
        /// Flags that `index annotate` takes as they are.
        flags: Vec<String>,
    },
    /// `docker manifest push`.
    PushList {
        /// The name of the list.
        list: String,
        /// Forget the list afterwards.
        purge: bool,
    },
    /// `docker manifest inspect`.
    Inspect(String),
    /// `docker manifest rm`.
    Remove(Vec<String>),
}

type Refused = (String, &'static str);

/// Reads the words after `docker`. The error is what is wrong, and what to do.
pub fn parse(words: &[String]) -> Result<Docker, Refused> {
    let mut texts: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["image" | "buildx", ..] = texts[..] {
        texts.remove(0);
    }
    match texts[..] {
        ["build", ..] => {
            let at = words.len() - texts.len() + 1;
            Ok(Docker::Build(build_words(words[at..].to_vec())))
        }
        ["push", ref rest @ ..] => Ok(Docker::Push(names("push", rest, &["-q", "--quiet"])?)),
        ["pull", ref rest @ ..] => Ok(Docker::Pull(names("pull", rest, &["-q", "--quiet"])?)),
        ["tag", source, target] => {
            Ok(Docker::Tag { source: source.to_owned(), target: target.to_owned() })
        }
        ["tag", ..] => Err(("tag takes two names".to_owned(), "as in docker tag app:1 app:2")),
        ["manifest", "create", ref rest @ ..] => create(rest),
        ["manifest", "annotate", ref rest @ ..] => annotate(rest),
        ["manifest", "push", ref rest @ ..] => push(rest),
        ["manifest", "inspect", ref rest @ ..] => {
            let names = names("manifest inspect", rest, &["--insecure"])?;
            match &names[..] {
                [name] => Ok(Docker::Inspect(name.clone())),
                _ => Err(("manifest inspect takes one name".to_owned(), "name the list")),
            }
        }
        ["manifest", "rm", ref rest @ ..] => Ok(Docker::Remove(names("manifest rm", rest, &[])?)),
        ["run", ..] => Err((
            "run: a step runs its image itself".to_owned(),
            "write cmd: IMAGE ARGUMENTS, and options as properties of the step",
        )),
        [] => Err(("nothing is to be done".to_owned(), "name a command")),
        _ => {
            let shown: Vec<&str> = texts.iter().take(2).copied().collect();
            Err((
                format!("there is no daemon that could do {:?}", shown.join(" ")),
                "known are build, push, pull, tag and manifest create, annotate, push, inspect, rm",
            ))
        }
    }
}

/// Takes out the options of `docker build` that change nothing here.
pub(super) fn build_words(words: Vec<String>) -> Vec<String> {
    // Containers of steps are always removed, and the kernel isolates as it can.
    const EMPTY: [&str; 4] = ["--rm", "--rm=true", "--force-rm", "--isolation=default"];
    words.into_iter().filter(|word| !EMPTY.contains(&word.as_str())).collect()
}

/// Takes names, and options without a value that are known.
fn names(command: &str, rest: &[&str], known: &[&str]) -> Result<Vec<String>, Refused> {
    let mut out = Vec::new();
    for word in rest {
        match word.starts_with('-') {
            true if known.contains(word) => {}
            true => return Err(unknown(command, word)),
            false => out.push((*word).to_owned()),
        }
    }
    if out.is_empty() {
        return Err((format!("{command} names no image"), "name one"));
    }
    Ok(out)
}

fn unknown(command: &str, word: &str) -> Refused {
    (format!("{command}: the option {word} is not supported"), "leave it out")
}

fn create(rest: &[&str]) -> Result<Docker, Refused> {
    let amend = rest.iter().any(|word| matches!(*word, "-a" | "--amend"));
    // Whether a registry needs TLS is said once for the whole task (--insecure-registry).
    let mut all = names("manifest create", rest, &["-a", "--amend", "--insecure"])?.into_iter();
    let list = all.next().unwrap_or_default();
    let members: Vec<String> = all.collect();
    if members.is_empty() {
        return Err((
            "manifest create names no image to put into the list".to_owned(),
            "name some",
        ));
    }
    Ok(Docker::Create { list, members, amend })
}

fn annotate(rest: &[&str]) -> Result<Docker, Refused> {
    const VALUES: [&str; 5] = ["--os", "--arch", "--variant", "--os-version", "--os-features"];
    let (mut names, mut flags) = (Vec::new(), Vec::new());
    let mut words = rest.iter();
    while let Some(word) = words.next() {
        let (flag, value) = match word.split_once('=') {
            Some((flag, value)) => (flag, Some(value)),
            None => (*word, None),
        };
        if !word.starts_with('-') {
            names.push((*word).to_owned());
        } else if VALUES.contains(&flag) {
            let value = value.or_else(|| words.next().copied()).ok_or_else(|| {
                (format!("manifest annotate: {flag} has no value"), "as in --arch arm64")
            })?;
            flags.push(format!("{flag}={value}"));
        } else {
            return Err(unknown("manifest annotate", word));
        }
    }
    match <[String; 2]>::try_from(names) {
        Ok(_) if flags.is_empty() => {
            Err(("manifest annotate changes nothing".to_owned(), "as in --arch arm64"))
        }
        Ok([list, member]) => Ok(Docker::Annotate { list, member, flags }),
        Err(_) => Err((
            "manifest annotate takes the list and one of its images".to_owned(),
            "as in docker manifest annotate app:1 app:arm64 --arch arm64",
        )),
    }
}

fn push(rest: &[&str]) -> Result<Docker, Refused> {
    let purge = rest.iter().any(|word| matches!(*word, "-p" | "--purge" | "--purge=true"));
    let known = ["-p", "--purge", "--purge=true", "--purge=false", "--insecure"];
    match &names("manifest push", rest, &known)?[..] {
        [list] => Ok(Docker::PushList { list: list.clone(), purge }),
        _ => Err((
            "manifest push takes one name".to_owned(),
            "a list is pushed under the name that it was created with",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Docker, Refused> {
        parse(&super::super::split(text).expect("words"))
    }

    #[test]
    fn commands_that_have_a_verb() {
        let own = |text: &str| text.to_owned();
        let list = |texts: &[&str]| texts.iter().map(|text| own(text)).collect::<Vec<_>>();
        for (text, want) in [
            ("build --rm -t a .", Docker::Build(list(&["-t", "a", "."]))),
            ("buildx build -t a .", Docker::Build(list(&["-t", "a", "."]))),
            ("push -q a:1 b:1", Docker::Push(list(&["a:1", "b:1"]))),
            ("image pull a:1", Docker::Pull(list(&["a:1"]))),
            ("tag a b", Docker::Tag { source: own("a"), target: own("b") }),
            (
                "manifest create --amend l a b",
                Docker::Create { list: own("l"), members: list(&["a", "b"]), amend: true },
            ),
            (
                "manifest annotate l a --arch arm --variant=v7",
                Docker::Annotate {
                    list: own("l"),
                    member: own("a"),
                    flags: list(&["--arch=arm", "--variant=v7"]),
                },
            ),
            ("manifest push --purge l", Docker::PushList { list: own("l"), purge: true }),
            ("manifest inspect l", Docker::Inspect(own("l"))),
            ("manifest rm l m", Docker::Remove(list(&["l", "m"]))),
        ] {
            assert_eq!(read(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn commands_that_need_a_daemon_are_refused() {
        for (text, message) in [
            ("run alpine", "itself"),
            ("ps -a", "no daemon"),
            ("", "nothing"),
            ("tag a", "two names"),
            ("manifest create l", "no image"),
            ("manifest create --force l a", "--force"),
            ("manifest annotate l a", "changes nothing"),
            ("manifest annotate l --os linux", "one of its images"),
            ("manifest push a b", "one name"),
            ("push --all-tags a", "--all-tags"),
        ] {
            let (found, _) = read(text).expect_err(text);
            assert!(found.contains(message), "{text}: {found}");
        }
    }
}
