//! The checks: [`Rule`] names all of BuildKit's, [`CheckOptions`] says which are on.
//!
//! Names, defaults and the `skip=`, `experimental=`, `error=` options are BuildKit's
//! (`frontend/dockerfile/linter/`), so that existing `# check=` lines keep their meaning.

/// A check that `# check=skip=NAME` can turn off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Stage names should be lower case.
    StageNameCasing,
    /// AS should have the case of FROM.
    FromAsCasing,
    /// A blank line in the middle of a continued instruction.
    NoEmptyContinuation,
    /// All keywords should have the same case.
    ConsistentInstructionCasing,
    /// Two stages of the same name.
    DuplicateStageName,
    /// A stage named `scratch` or `context`.
    ReservedStageName,
    /// CMD and ENTRYPOINT should be JSON arrays, so that signals arrive.
    JsonArgsRecommended,
    /// MAINTAINER is deprecated.
    MaintainerDeprecated,
    /// FROM uses an ARG that no line above it declares.
    UndefinedArgInFrom,
    /// A relative WORKDIR without an absolute one before.
    WorkdirRelativePath,
    /// A variable is used that nothing defines.
    UndefinedVar,
    /// Only the last CMD, ENTRYPOINT or HEALTHCHECK of a stage counts.
    MultipleInstructionsDisallowed,
    /// `ENV key value` instead of `ENV key=value`.
    LegacyKeyValueFormat,
    /// The base image is for another platform.
    InvalidBaseImagePlatform,
    /// `--platform=$TARGETPLATFORM` is the default.
    RedundantTargetPlatform,
    /// A secret in ARG or ENV stays in the image.
    SecretsUsedInArgOrEnv,
    /// With its default, a global ARG gives no valid image name.
    InvalidDefaultArgInFrom,
    /// `--platform` with a constant.
    FromPlatformFlagConstDisallowed,
    /// COPY of something that the ignore file leaves out.
    CopyIgnoredFile,
    /// A comment above FROM or ARG that is no description of it.
    InvalidDefinitionDescription,
    /// A protocol in upper case.
    ExposeProtoCasing,
    /// An address or a host port in EXPOSE.
    ExposeInvalidFormat,
}

impl Rule {
    /// All rules, in BuildKit's order.
    pub const ALL: [Rule; 22] = [
        Rule::StageNameCasing,
        Rule::FromAsCasing,
        Rule::NoEmptyContinuation,
        Rule::ConsistentInstructionCasing,
        Rule::DuplicateStageName,
        Rule::ReservedStageName,
        Rule::JsonArgsRecommended,
        Rule::MaintainerDeprecated,
        Rule::UndefinedArgInFrom,
        Rule::WorkdirRelativePath,
        Rule::UndefinedVar,
        Rule::MultipleInstructionsDisallowed,
        Rule::LegacyKeyValueFormat,
        Rule::InvalidBaseImagePlatform,
        Rule::RedundantTargetPlatform,
        Rule::SecretsUsedInArgOrEnv,
        Rule::InvalidDefaultArgInFrom,
        Rule::FromPlatformFlagConstDisallowed,
        Rule::CopyIgnoredFile,
        Rule::InvalidDefinitionDescription,
        Rule::ExposeProtoCasing,
        Rule::ExposeInvalidFormat,
    ];

    /// Gives the name for `# check=skip=`.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// Gives the stable code.
    pub fn code(self) -> &'static str {
        self.row().1
    }

    /// Says whether it only runs when `experimental=` names it.
    pub fn is_experimental(self) -> bool {
        self == Rule::InvalidDefinitionDescription
    }

    /// Gives the page that explains it.
    pub fn url(self) -> Option<String> {
        if self == Rule::InvalidBaseImagePlatform {
            return None;
        }
        let mut slug = String::new();
        for (at, c) in self.name().replace("JSON", "Json").char_indices() {
            if c.is_ascii_uppercase() && at > 0 {
                slug.push('-');
            }
            slug.push(c.to_ascii_lowercase());
        }
        Some(format!("https://docs.docker.com/go/dockerfile/rule/{slug}/"))
    }

    /// Finds a rule by its name; case matters.
    pub fn from_name(name: &str) -> Option<Rule> {
        Rule::ALL.into_iter().find(|rule| rule.name() == name)
    }

    fn row(self) -> (&'static str, &'static str) {
        match self {
            Rule::StageNameCasing => ("StageNameCasing", "W0101"),
            Rule::FromAsCasing => ("FromAsCasing", "W0102"),
            Rule::NoEmptyContinuation => ("NoEmptyContinuation", "W0103"),
            Rule::ConsistentInstructionCasing => ("ConsistentInstructionCasing", "W0104"),
            Rule::DuplicateStageName => ("DuplicateStageName", "W0105"),
            Rule::ReservedStageName => ("ReservedStageName", "W0106"),
            Rule::JsonArgsRecommended => ("JSONArgsRecommended", "W0107"),
            Rule::MaintainerDeprecated => ("MaintainerDeprecated", "W0108"),
            Rule::UndefinedArgInFrom => ("UndefinedArgInFrom", "W0109"),
            Rule::WorkdirRelativePath => ("WorkdirRelativePath", "W0110"),
            Rule::UndefinedVar => ("UndefinedVar", "W0111"),
            Rule::MultipleInstructionsDisallowed => ("MultipleInstructionsDisallowed", "W0112"),
            Rule::LegacyKeyValueFormat => ("LegacyKeyValueFormat", "W0113"),
            Rule::InvalidBaseImagePlatform => ("InvalidBaseImagePlatform", "W0114"),
            Rule::RedundantTargetPlatform => ("RedundantTargetPlatform", "W0115"),
            Rule::SecretsUsedInArgOrEnv => ("SecretsUsedInArgOrEnv", "W0116"),
            Rule::InvalidDefaultArgInFrom => ("InvalidDefaultArgInFrom", "W0117"),
            Rule::FromPlatformFlagConstDisallowed => ("FromPlatformFlagConstDisallowed", "W0118"),
            Rule::CopyIgnoredFile => ("CopyIgnoredFile", "W0119"),
            Rule::InvalidDefinitionDescription => ("InvalidDefinitionDescription", "W0120"),
            Rule::ExposeProtoCasing => ("ExposeProtoCasing", "W0121"),
            Rule::ExposeInvalidFormat => ("ExposeInvalidFormat", "W0122"),
        }
    }
}

/// Which checks are on: the value of `# check=`, or of the option of the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckOptions {
    /// `skip=all`.
    pub skip_all: bool,
    /// `skip=A,B`.
    pub skip: Vec<String>,
    /// `experimental=all`.
    pub experimental_all: bool,
    /// `experimental=A,B`.
    pub experimental: Vec<String>,
    /// `error=true`: a warning of a check makes the build fail.
    pub error: bool,
}

impl CheckOptions {
    /// Parses `skip=A,B;experimental=C;error=true`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<CheckOptions, String> {
        let mut options = CheckOptions::default();
        if text.trim().is_empty() {
            return Ok(options);
        }
        for part in text.trim().splitn(3, ';') {
            let shown: String = part.chars().take(40).collect();
            let Some((key, value)) = part.split_once('=') else {
                return Err(format!("invalid check option `{shown}`: there is no `=` in it"));
            };
            let value = value.trim();
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match key.trim() {
                "skip" if value == "all" => options.skip_all = true,
                "skip" => options.skip = names(),
                "experimental" if value == "all" => options.experimental_all = true,
                "experimental" => options.experimental = names(),
                "error" => {
                    options.error = super::mount::boolean(value).ok_or_else(|| {
                        format!("invalid check option `{shown}`: `error` is true or false")
                    })?;
                }
                _ => {
                    let known = "there are skip, experimental and error";
                    return Err(format!("invalid check option `{shown}`: {known}"));
                }
            }
        }
        Ok(options)
    }

    /// Says whether a check is on.
    pub fn allows(&self, rule: Rule) -> bool {
        let named = |names: &[String]| names.iter().any(|name| name == rule.name());
        if rule.is_experimental() {
            return self.experimental_all || named(&self.experimental);
        }
        !self.skip_all && !named(&self.skip)
    }

    /// Adds the options of a narrower scope; `error` stays as it is.
    pub fn merged(&self, inner: Option<&CheckOptions>) -> CheckOptions {
        let mut merged = self.clone();
        if let Some(inner) = inner {
            merged.skip_all |= inner.skip_all;
            merged.experimental_all |= inner.experimental_all;
            merged.skip.extend_from_slice(&inner.skip);
            merged.experimental.extend_from_slice(&inner.experimental);
        }
        merged
    }
}
