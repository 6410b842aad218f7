//! `RUN --mount`: its fields as written, and what they mean once expanded.
//!
//! A mount is one line of CSV. All values but that of `from` may hold variables, even that of `type`,
//! so the fields are only understood by [`Mount::resolve`], when the variables are known. Parsing
//! checks the CSV, the names of the keys, and everything else too when there is no `$` in it.
//!
//! Unlike BuildKit, which reads the keys in order, `type` may stand behind the keys that need it.

use std::borrow::Cow;

use super::diagnostic::Diagnostic;
use super::span::{Span, Word};
use super::suggest::suggest;
use super::value;

/// A `--mount` as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The value of the flag.
    pub span: Span,
    /// The fields in order.
    pub fields: Vec<MountField>,
}

/// One `key` or `key=value` of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountField {
    /// The key in lower case.
    pub key: Word,
    /// The value: expanded.
    pub value: Option<Word>,
}

/// What kind of mount it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MountType {
    /// Files of the context, a stage or an image; the default.
    #[default]
    Bind,
    /// A directory that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret, as a file or in the environment.
    Secret,
    /// The socket of an SSH agent.
    Ssh,
}

impl MountType {
    /// Gives the name as written in `type=`.
    pub fn name(self) -> &'static str {
        match self {
            MountType::Bind => "bind",
            MountType::Cache => "cache",
            MountType::Tmpfs => "tmpfs",
            MountType::Secret => "secret",
            MountType::Ssh => "ssh",
        }
    }
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sharing {
    /// All at once; the default.
    #[default]
    Shared,
    /// A new one for each who comes at the same time.
    Private,
    /// One after the other.
    Locked,
}

/// What a mount means.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountSpec {
    /// The kind.
    pub kind: MountType,
    /// The stage, context or image.
    pub from: Option<String>,
    /// The path in it; for secrets another word for `id`. May be empty.
    pub source: String,
    /// Where it is mounted, relative to WORKDIR; empty means WORKDIR itself (moby's own Dockerfile does
    /// that), for secrets and ssh a place of their own.
    pub target: String,
    /// Not to be written to.
    pub read_only: bool,
    /// The size limit of a tmpfs in bytes; 0 is none.
    pub size: u64,
    /// The name of the cache, secret or agent.
    pub id: Option<String>,
    /// Who may use the cache at the same time.
    pub sharing: Option<Sharing>,
    /// Secrets and ssh: the build fails without it.
    pub required: bool,
    /// Secrets: the environment variable.
    pub env: Option<String>,
    /// The mode of the file or directory.
    pub mode: Option<u32>,
    /// Its owner.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
}

impl MountSpec {
    /// Gives the id of a secret: `id` or `source`, else the last part of the target.
    pub fn secret_id(&self) -> &str {
        match &self.id {
            _ if !self.source.is_empty() => &self.source,
            Some(id) if !id.is_empty() => id,
            _ => base_name(&self.target),
        }
    }

    /// Gives the path of a secret's file; None when it only goes to the environment.
    pub fn secret_target(&self) -> Option<String> {
        match self.env {
            _ if !self.target.is_empty() => Some(self.target.clone()),
            Some(_) => None,
            None => Some(format!("/run/secrets/{}", base_name(self.secret_id()))),
        }
    }
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

const TYPES: [MountType; 5] =
    [MountType::Bind, MountType::Cache, MountType::Tmpfs, MountType::Secret, MountType::Ssh];

const SHARING: [(&str, Sharing); 3] =
    [("shared", Sharing::Shared), ("private", Sharing::Private), ("locked", Sharing::Locked)];

/// All keys there are.
const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// Keys that Buildah has and neither BuildKit nor lapstrake, in lower case, with what to write instead.
const FOREIGN_KEYS: [(&[&str], &str); 6] = [
    (&["z", "relabel"], "leave it out: nothing of the host is mounted, so nothing is relabelled"),
    (&["u", "chown"], "name the owner of the mount: uid=1000,gid=1000"),
    (&["tmpfs-size"], "write `size=`"),
    (&["tmpfs-mode"], "set the mode in the step: `chmod 700 /target && …`"),
    (&["tmpcopyup", "notmpcopyup"], "copy in the step what the tmpfs should hold"),
    (
        &["bind-propagation", "shared", "rshared", "slave", "rslave", "private", "rprivate"],
        "leave it out: mounts of a step end with it",
    ),
];

/// The keys that may stand without a value.
const BARE_KEYS: [&str; 5] = ["readonly", "ro", "readwrite", "rw", "required"];

impl Mount {
    /// Takes the fields of a flag's value apart. `place` gives the span of a range of `text`.
    pub(super) fn parse(
        text: &str,
        span: Span,
        place: &dyn Fn(std::ops::Range<usize>) -> Span,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Mount {
        let fields = match csv(text) {
            Ok(fields) => fields,
            Err((at, why)) => {
                let error = format!("the mount is not a list of `key=value` fields: {why}");
                diagnostics.push(Diagnostic::error("E0401", place(at), error));
                Vec::new()
            }
        };
        let fields = fields.into_iter().map(|(field, range)| {
            // Inside quotes the offsets do not fit; then the whole field is what we point to.
            let at = |from: usize, to: usize| match field {
                Cow::Borrowed(_) => place(range.start + from..range.start + to),
                Cow::Owned(_) => place(range.clone()),
            };
            let (key, value) = match field.split_once('=') {
                Some((key, value)) => (key, Some(Word::new(value, at(key.len() + 1, field.len())))),
                None => (&*field, None),
            };
            // The common case by itself: whole Unicode takes ten times as long.
            let lower = if key.is_ascii() { key.to_ascii_lowercase() } else { key.to_lowercase() };
            MountField { key: Word::new(lower, at(0, key.len())), value }
        });
        let mount = Mount { span, fields: fields.collect() };
        mount.check(diagnostics);
        mount
    }

    /// Reports what is wrong whatever the variables are.
    fn check(&self, diagnostics: &mut Vec<Diagnostic>) {
        let before = diagnostics.len();
        diagnostics.extend(self.fields.iter().filter_map(|field| check_key(field).err()));
        if let Some(from) = self.from()
            && let Some(at) = from.text.find('$')
            && at + 1 < from.text.len()
        {
            diagnostics.push(
                Diagnostic::error("E0406", from.span, "`from` does not take variables")
                    .with_help("define a stage `FROM … AS name` with the variable and name that"),
            );
        }
        let mut values = self.fields.iter().filter_map(|field| field.value.as_ref());
        let constant = !values.any(|value| value.text.contains(['$', '\'', '"', '\\', '`']));
        if diagnostics.len() == before && constant && !self.fields.is_empty() {
            let checked = self.resolve(&mut |word| Ok(word.as_str().into()));
            diagnostics.extend(checked.err());
        }
    }

    /// Gives the value of `from`, which never holds variables.
    pub fn from(&self) -> Option<&Word> {
        let mut fields = self.fields.iter().rev();
        fields.find(|field| field.key.text == "from").and_then(|field| field.value.as_ref())
    }

    /// Understands the mount; `expand` gives a value with its variables, quotes and escapes replaced.
    pub fn resolve(
        &self,
        expand: &mut dyn for<'w> FnMut(&'w Word) -> Result<Cow<'w, str>, Diagnostic>,
    ) -> Result<MountSpec, Diagnostic> {
        let mut fields = Vec::with_capacity(self.fields.len());
        for field in &self.fields {
            check_key(field)?;
            let value = field.value.as_ref().map(|value| Ok((expand(value)?, value.span)));
            fields.push((&field.key, value.transpose()?));
        }
        let mut spec = MountSpec::default();
        for (_, value) in fields.iter().filter(|(key, _)| key.text == "type") {
            if let Some((name, span)) = value {
                spec.kind = mount_type(name, *span)?;
            }
        }
        spec.read_only = !matches!(spec.kind, MountType::Cache | MountType::Tmpfs);
        for (key, value) in fields {
            let (text, span) = match &value {
                Some((text, span)) => (&**text, *span),
                None => ("true", key.span),
            };
            spec.set(key, text, span)?;
        }
        spec.check(self)?;
        Ok(spec)
    }
}

fn check_key(field: &MountField) -> Result<(), Diagnostic> {
    let key = field.key.text.as_str();
    if !KEYS.contains(&key) {
        let shown: String = key.chars().take(40).collect();
        let error = format!("unknown key `{shown}` in a mount");
        let error = Diagnostic::error("E0402", field.key.span, error);
        let known = |(names, _): &&(&[&str], &str)| names.contains(&key);
        return Err(match FOREIGN_KEYS.iter().find(known) {
            Some((_, way_out)) => error.with_help(*way_out),
            None => error.with_suggestion(suggest(key, KEYS, true)),
        });
    }
    if field.value.is_none() && !BARE_KEYS.contains(&key) {
        let error = format!("the key `{key}` needs a value");
        return Err(Diagnostic::error("E0403", field.key.span, error)
            .with_help(format!("write `{key}=VALUE`")));
    }
    Ok(())
}

fn mount_type(name: &str, span: Span) -> Result<MountType, Diagnostic> {
    let known = TYPES.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
    known.ok_or_else(|| {
        let error = Diagnostic::error("E0404", span, format!("unknown mount type `{name}`"));
        match suggest(name, TYPES.map(MountType::name), true) {
            found @ Some(_) => error.with_suggestion(found),
            None => error.with_help("the types are bind, cache, tmpfs, secret and ssh"),
        }
    })
}

impl MountSpec {
    fn set(&mut self, key: &Word, text: &str, span: Span) -> Result<(), Diagnostic> {
        let name = key.text.as_str();
        let invalid = |what: &str| {
            Diagnostic::error("E0405", span, format!("invalid value `{text}` for `{name}`: {what}"))
        };
        let number = |base: u32, what: &str| {
            let digits = !text.is_empty() && text.chars().all(|c| c.is_digit(base));
            let parsed = u32::from_str_radix(text, base).ok();
            parsed.filter(|_| digits).ok_or_else(|| invalid(what))
        };
        let only = |allowed: &[MountType]| {
            let error = format!("a {} mount has no `{name}`", self.kind.name());
            let fits = allowed.contains(&self.kind);
            if fits { Ok(()) } else { Err(Diagnostic::error("E0407", key.span, error)) }
        };
        let owned = [MountType::Secret, MountType::Ssh, MountType::Cache];
        match name {
            "from" => self.from = Some(text.to_owned()),
            "source" | "src" => self.source = text.to_owned(),
            "target" | "dst" | "destination" => self.target = text.to_owned(),
            "readonly" | "ro" => self.read_only = boolean(text).ok_or_else(|| invalid(BOOLEAN))?,
            "readwrite" | "rw" => {
                self.read_only = !boolean(text).ok_or_else(|| invalid(BOOLEAN))?;
            }
            "required" => {
                only(&[MountType::Secret, MountType::Ssh])?;
                self.required = boolean(text).ok_or_else(|| invalid(BOOLEAN))?;
            }
            "size" => {
                only(&[MountType::Tmpfs])?;
                self.size = value::parse_size(text)
                    .map_err(|_| invalid("must look like `64m` or be a number of bytes"))?;
            }
            "id" => self.id = Some(text.to_owned()),
            "sharing" => {
                only(&[MountType::Cache])?;
                let lower = text.to_lowercase();
                let known = SHARING.iter().find(|(name, _)| *name == lower);
                let found = suggest(text, SHARING.map(|(name, _)| name), true);
                self.sharing = Some(known.map(|(_, sharing)| *sharing).ok_or_else(|| {
                    invalid("must be shared, private or locked").with_suggestion(found)
                })?);
            }
            "mode" => {
                only(&owned)?;
                self.mode = Some(number(8, "must be an octal number")?);
            }
            "uid" => {
                only(&owned)?;
                self.uid = Some(number(10, "must be a number")?);
            }
            "gid" => {
                only(&owned)?;
                self.gid = Some(number(10, "must be a number")?);
            }
            "env" => {
                only(&[MountType::Secret])?;
                self.env = Some(text.to_owned());
            }
            // `type` came first; other keys do not get here.
            _ => {}
        }
        Ok(())
    }

    /// Checks what the keys say together.
    fn check(&self, mount: &Mount) -> Result<(), Diagnostic> {
        let fail = |message: &str| Err(Diagnostic::error("E0408", mount.span, message));
        let id = self.id.as_deref().unwrap_or_default();
        match self.kind {
            MountType::Secret if self.from.is_some() => fail("a secret mount has no `from`"),
            MountType::Secret if !self.source.is_empty() && !id.is_empty() => {
                fail("a secret mount has either `source` or `id`, not both")
            }
            MountType::Secret
                if self.source.is_empty() && self.target.is_empty() && id.is_empty() =>
            {
                fail("a secret mount needs an `id` or a `target`")
            }
            MountType::Ssh if !self.source.is_empty() => fail("an ssh mount has no `source`"),
            // Only what is clear without WORKDIR; the whole path is checked by who knows it.
            MountType::Bind | MountType::Cache | MountType::Tmpfs if is_root(&self.target) => {
                fail("nothing can be mounted at `/`")
            }
            _ => Ok(()),
        }
    }
}

fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

const BOOLEAN: &str = "must be true or false";

/// Parses a boolean as Go does.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A field without its quotes, and where it stood with them.
type Field<'t> = (Cow<'t, str>, std::ops::Range<usize>);

/// Splits one line of CSV.
pub(super) fn csv(text: &str) -> Result<Vec<Field<'_>>, (std::ops::Range<usize>, &'static str)> {
    if text.is_empty() {
        return Err((0..0, "it is empty"));
    }
    let (mut fields, mut at) = (Vec::new(), 0);
    loop {
        let start = at;
        let field;
        if text[at..].starts_with('"') {
            let mut unquoted = String::new();
            at += 1;
            loop {
                let rest = &text[at..];
                let Some(quote) = rest.find('"') else {
                    return Err((start..text.len(), "a quote is never closed"));
                };
                unquoted.push_str(&rest[..quote]);
                at += quote + 1;
                if !text[at..].starts_with('"') {
                    break;
                }
                unquoted.push('"');
                at += 1;
            }
            field = Cow::Owned(unquoted);
            if at < text.len() && !text[at..].starts_with(',') {
                return Err((start..at, "text behind a closing quote"));
            }
        } else {
            at += text[at..].find(',').unwrap_or(text.len() - at);
            field = Cow::Borrowed(&text[start..at]);
            if let Some(quote) = field.find('"') {
                let why = "a quote in the middle of a field; put the whole field in quotes";
                return Err((start + quote..start + quote + 1, why));
            }
        }
        fields.push((field, start..at));
        if at == text.len() {
            return Ok(fields);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<MountSpec, String> {
        let mut diagnostics = Vec::new();
        let span = Span::new(0, text.len());
        let place = |range: std::ops::Range<usize>| Span::new(range.start, range.end);
        let mount = Mount::parse(text, span, &place, &mut diagnostics);
        let show =
            |d: &Diagnostic| format!("{} at `{}`: {}", d.code, d.span.slice(text), d.message);
        match diagnostics.first() {
            Some(diagnostic) => Err(show(diagnostic)),
            None => mount.resolve(&mut |word| Ok(word.as_str().into())).map_err(|d| show(&d)),
        }
    }

    #[test]
    fn what_mounts_mean() {
        let bind = MountSpec { read_only: true, target: "/x".into(), ..MountSpec::default() };
        let cache = MountSpec { kind: MountType::Cache, read_only: false, ..bind.clone() };
        let secret = MountSpec { kind: MountType::Secret, target: String::new(), ..bind.clone() };
        let secret = MountSpec { id: Some("k".into()), ..secret };
        for (text, expect) in [
            ("target=/x", bind.clone()),
            ("TYPE=Bind,Dst=/x,ro", bind.clone()),
            ("destination=/x,rw", MountSpec { read_only: false, ..bind.clone() }),
            ("target=/x,readwrite=0", bind.clone()),
            (
                "target=/x,from=build,src=/out",
                MountSpec { from: Some("build".into()), source: "/out".into(), ..bind.clone() },
            ),
            ("\"target=/x\"", bind.clone()),
            ("\"target=/a,b\"\"c\"", MountSpec { target: "/a,b\"c".into(), ..bind.clone() }),
            ("type=cache,target=/x", cache.clone()),
            ("type=cache,target=/x,ro", MountSpec { read_only: true, ..cache.clone() }),
            (
                "target=/x,sharing=LOCKED,id=i,mode=0700,uid=5,gid=6,type=cache",
                MountSpec {
                    sharing: Some(Sharing::Locked),
                    id: Some("i".into()),
                    mode: Some(0o700),
                    uid: Some(5),
                    gid: Some(6),
                    ..cache
                },
            ),
            (
                "type=tmpfs,target=/x,size=1k",
                MountSpec { kind: MountType::Tmpfs, read_only: false, size: 1024, ..bind.clone() },
            ),
            ("type=secret,id=k", secret.clone()),
            ("required,type=secret,id=k", MountSpec { required: true, ..secret.clone() }),
            ("type=secret,id=k,env=KEY", MountSpec { env: Some("KEY".into()), ..secret }),
            (
                "type=ssh",
                MountSpec { kind: MountType::Ssh, read_only: true, ..MountSpec::default() },
            ),
        ] {
            assert_eq!(mount(text), Ok(expect), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_mounts() {
        for (text, expect) in [
            ("", "E0401 at ``: the mount is not a list of `key=value` fields: it is empty"),
            ("target=/x,taget=/y", "E0402 at `taget`: unknown key `taget` in a mount"),
            ("target", "E0403 at `target`: the key `target` needs a value"),
            ("type=chache,target=/x", "E0404 at `chache`: unknown mount type `chache`"),
            (
                "target=/x,ro=yes",
                "E0405 at `yes`: invalid value `yes` for `ro`: must be true or false",
            ),
            (
                "type=cache,target=/x,mode=9",
                "E0405 at `9`: invalid value `9` for `mode`: must be an octal number",
            ),
            (
                "type=cache,target=/x,uid=+1",
                "E0405 at `+1`: invalid value `+1` for `uid`: must be a number",
            ),
            ("target=/x,from=$X", "E0406 at `$X`: `from` does not take variables"),
            ("target=/x,size=1", "E0407 at `size`: a bind mount has no `size`"),
            ("target=/x,uid=1", "E0407 at `uid`: a bind mount has no `uid`"),
            ("target=/./", "E0408 at `target=/./`: nothing can be mounted at `/`"),
            ("type=secret", "E0408 at `type=secret`: a secret mount needs an `id` or a `target`"),
            (
                "type=secret,id=a,src=b",
                "E0408 at `type=secret,id=a,src=b`: a secret mount has either `source` or `id`, not both",
            ),
            ("type=ssh,src=b", "E0408 at `type=ssh,src=b`: an ssh mount has no `source`"),
        ] {
            assert_eq!(mount(text), Err(expect.to_owned()), "{text}");
        }
    }

    #[test]
    fn variables_put_off_the_check() {
        assert!(mount("type=$T,target=/x").is_err_and(|error| error.starts_with("E0404")));
        let mut diagnostics = Vec::new();
        let text = "type=$T,target=${X:-/x}";
        let mount = Mount::parse(text, Span::default(), &|_| Span::default(), &mut diagnostics);
        assert_eq!(diagnostics, []);
        let spec = mount.resolve(&mut |word| {
            Ok(word.text.replace("$T", "cache").replace("${X:-/x}", "/y").into())
        });
        assert_eq!(spec.map(|spec| (spec.kind, spec.target)), Ok((MountType::Cache, "/y".into())));
    }

    #[test]
    fn secrets_have_a_name_and_a_path() {
        for (text, id, target) in [
            ("type=secret,id=a", "a", Some("/run/secrets/a")),
            ("type=secret,src=x/y", "x/y", Some("/run/secrets/y")),
            ("type=secret,target=/root/.netrc", ".netrc", Some("/root/.netrc")),
            ("type=secret,id=a,env=A", "a", None),
            ("type=secret,id=a,env=A,target=/f", "a", Some("/f")),
        ] {
            let spec = mount(text).expect("it is right");
            assert_eq!((spec.secret_id(), spec.secret_target().as_deref()), (id, target), "{text}");
        }
    }
}
