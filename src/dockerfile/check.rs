//! The checks: [`Rule`] names all of BuildKit's and our own, [`CheckOptions`] says which are on.
//!
//! Of BuildKit's checks names, defaults and the `skip=`, `experimental=`, `error=` options are BuildKit's
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
    /// A compiler or the like runs under an emulator, where it could run natively.
    EmulatedCompile,
    /// A RUN repeats files of lower layers with other owners or modes only.
    RepeatedFiles,
    /// A RUN leaves the cache of a package manager in its layer.
    PackageCache,
    /// The value of a secret is in a file of a layer.
    SecretInLayer,
}

impl Rule {
    /// All of BuildKit's rules, in its order.
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

    /// The checks that only lapstrake makes.
    pub const OWN: [Rule; 4] =
        [Rule::EmulatedCompile, Rule::RepeatedFiles, Rule::PackageCache, Rule::SecretInLayer];

    /// Gives BuildKit's rules and then our own.
    pub fn every() -> impl Iterator<Item = Rule> {
        Rule::ALL.into_iter().chain(Rule::OWN)
    }

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
        if self == Rule::InvalidBaseImagePlatform || Rule::OWN.contains(&self) {
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
        Rule::every().find(|rule| rule.name() == name)
    }

    /// Says in one sentence what the check is about.
    pub fn description(self) -> &'static str {
        match self {
            Rule::StageNameCasing => "Stage names are best written in lower case",
            Rule::FromAsCasing => "AS is best written in the case of its FROM",
            Rule::NoEmptyContinuation => "A continued instruction should hold no blank line",
            Rule::ConsistentInstructionCasing => "All keywords should have the same case",
            Rule::DuplicateStageName => "Each stage should have a name of its own",
            Rule::ReservedStageName => "`scratch` and `context` mean something else already",
            Rule::JsonArgsRecommended => "CMD and ENTRYPOINT in JSON form let signals arrive",
            Rule::MaintainerDeprecated => "MAINTAINER is deprecated, a label says the same",
            Rule::UndefinedArgInFrom => "FROM should use ARGs that are declared above it",
            Rule::WorkdirRelativePath => {
                "A relative WORKDIR depends on where the base image happens to end"
            }
            Rule::UndefinedVar => "Variables should be defined before they are used",
            Rule::MultipleInstructionsDisallowed => {
                "Only the last CMD, ENTRYPOINT and HEALTHCHECK of a stage count"
            }
            Rule::LegacyKeyValueFormat => "ENV and LABEL are best written with `=`",
            Rule::InvalidBaseImagePlatform => "The base image is for another platform",
            Rule::RedundantTargetPlatform => "The target platform is the default of FROM",
            Rule::SecretsUsedInArgOrEnv => "What ARG and ENV hold stays readable in the image",
            Rule::InvalidDefaultArgInFrom => {
                "Without build arguments, FROM should name a valid image all the same"
            }
            Rule::FromPlatformFlagConstDisallowed => {
                "A constant `--platform` ignores the platform that is built for"
            }
            Rule::CopyIgnoredFile => "The ignore file leaves out what is to be copied",
            Rule::InvalidDefinitionDescription => {
                "A comment right above FROM or ARG should describe the name defined there"
            }
            Rule::ExposeProtoCasing => "Protocols in EXPOSE are best written in lower case",
            Rule::ExposeInvalidFormat => "EXPOSE takes ports of the container only",
            Rule::EmulatedCompile => "A compiler is best run natively, as a cross compiler",
            Rule::RepeatedFiles => {
                "A change of owner or mode in a RUN stores the files a second time"
            }
            Rule::PackageCache => "The cache of a package manager is of no use in a layer",
            Rule::SecretInLayer => "A secret in a layer can be read by all who have the image",
        }
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
            Rule::EmulatedCompile => ("EmulatedCompile", "W0151"),
            Rule::RepeatedFiles => ("RepeatedFiles", "W0152"),
            Rule::PackageCache => ("PackageCache", "W0153"),
            Rule::SecretInLayer => ("SecretInLayer", "E0154"),
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

/// The most names in one option: several times what there is.
const MOST_NAMES: usize = 100;

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
            if value.split(',').nth(MOST_NAMES).is_some() {
                return Err(format!(
                    "invalid check option `{shown}`: more than {MOST_NAMES} names"
                ));
            }
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
