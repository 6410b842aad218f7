//! Targets of the Dockerfile language: the parser, the expansion of words, and the plan.

use std::collections::BTreeMap;

use lapstrake::dockerfile::expand::{
    Env, expand_display, expand_heredoc, expand_word, expand_words,
};
use lapstrake::dockerfile::{
    Command, Diagnostic, Dockerfile, Escape, Form, Instruction, LineIndex, Parsed, Source, Word,
    parse, parse_trigger,
};
use lapstrake::graph::check::settle;
use lapstrake::graph::outline::outline;
use lapstrake::graph::{
    self, BaseImage, Graph, Op, Request, ResolveError, ResolveExit, Resolved, Resolver, UNKNOWN,
    key,
};
use lapstrake::oci::{Digest, ImageConfig, Platform};

use super::{check_diagnostic, check_span, choice};

/// So long are the inputs of which everything is compared as text: printing costs more than parsing.
const PRINTED: usize = 300;

/// Every place lies in the source; instructions follow each other; the same bytes are understood the
/// same way again; a trigger of ONBUILD is one instruction when it is read back from an image.
pub fn parser(data: &[u8]) {
    let parsed = parse(data);
    let source = &parsed.dockerfile.source;
    assert!(source.is_empty() || source.len() == data.len(), "offsets do not hold");
    check_all(&parsed.diagnostics, source);
    let mut end = 0;
    for instruction in &parsed.dockerfile.instructions {
        assert!(instruction.span.start >= end, "{:?} overlaps", instruction.span);
        check_instruction(instruction, source);
        end = instruction.span.end;
    }
    let lines = LineIndex::new(source);
    for diagnostic in parsed.diagnostics.iter().take(20) {
        let (line, column) = lines.position(source, diagnostic.span.start);
        assert!(line >= 1 && column >= 1);
        check_span(lines.line_span(source, line), source, "a line");
    }
    if !parsed.has_errors() {
        assert!(!parsed.dockerfile.stages().is_empty(), "neither stage nor error");
        triggers(&parsed);
    }
    if data.len() < PRINTED {
        assert_eq!(format!("{parsed:?}"), format!("{:?}", parse(data)), "differs the second time");
    }
}

fn check_all(diagnostics: &[Diagnostic], source: &str) {
    for diagnostic in diagnostics {
        check_diagnostic(diagnostic, source);
    }
    assert!(diagnostics.is_sorted_by_key(|diagnostic| diagnostic.span.start), "not in order");
}

fn check_instruction(instruction: &Instruction, source: &str) {
    check_span(instruction.span, source, "an instruction");
    check_span(instruction.keyword_span, source, "a keyword");
    let name = instruction.command.name();
    let word = |word: &Word| check_span(word.span, source, name);
    let words = |words: &[Word]| words.iter().for_each(word);
    let form = |form: &Form| match form {
        Form::Shell(text) => word(text),
        Form::Exec(list) => words(list),
    };
    match &instruction.command {
        Command::From(from) => {
            word(&from.image);
            from.platform.iter().for_each(word);
        }
        Command::Run(run) => {
            form(&run.form);
            for heredoc in &run.heredocs {
                check_span(heredoc.span, source, "a heredoc");
                check_span(heredoc.content_span, source, "the body of a heredoc");
            }
        }
        Command::Copy(copy) | Command::Add(copy) => {
            for from in &copy.sources {
                match from {
                    Source::Path(path) => word(path),
                    Source::Heredoc(heredoc) => {
                        check_span(heredoc.content_span, source, "the body of a heredoc");
                    }
                }
            }
            word(&copy.destination);
            copy.exclude.iter().for_each(word);
            copy.chmod.iter().chain(&copy.chown).chain(&copy.from).for_each(word);
        }
        Command::Env(pairs) | Command::Label(pairs) => {
            for pair in pairs {
                word(&pair.key);
                word(&pair.value);
            }
        }
        Command::Arg(definitions) => {
            for definition in definitions {
                word(&definition.name);
                definition.default.iter().for_each(word);
            }
        }
        Command::Cmd(command) | Command::Entrypoint(command) => form(command),
        Command::Expose(list) | Command::Shell(list) | Command::Volume(list) => words(list),
        Command::User(text) | Command::Workdir(text) | Command::Stopsignal(text) => word(text),
        Command::Onbuild(onbuild) => check_instruction(&onbuild.instruction, source),
        _ => {}
    }
}

/// What an image would carry is read back as what was written.
fn triggers(parsed: &Parsed) {
    for instruction in &parsed.dockerfile.instructions {
        let Command::Onbuild(onbuild) = &instruction.command else { continue };
        let again = parse_trigger(&onbuild.expression);
        // An image does not say what the escape character was, so it is the backslash again.
        if parsed.dockerfile.directives.escape == Escape::Backslash {
            assert!(!again.has_errors(), "{:?}: {:?}", onbuild.expression, again.diagnostics);
            let names: Vec<&str> =
                again.dockerfile.instructions.iter().map(|i| i.command.name()).collect();
            assert_eq!(names, [onbuild.instruction.command.name()], "{:?}", onbuild.expression);
        }
    }
}

/// Variables, one a line, after the word; the first byte chooses the escape. Results stay within bounds,
/// quotes aside hold the same text as their words, and name only variables that there are; text without
/// anything special stays as it is.
pub fn expansion(mut data: &[u8]) {
    let mode = choice(&mut data);
    let text = String::from_utf8_lossy(data);
    let (word, rest) = text.split_once('\0').unwrap_or((&text, "A=1\0B=a b\0E=\0P=/usr/bin:/bin"));
    let pairs = rest.split('\0').filter_map(|pair| pair.split_once('='));
    let variables: BTreeMap<String, String> =
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let escape = if mode & 1 == 0 { Escape::Backslash } else { Escape::Backtick };
    let all = [
        expand_word(word, &variables, escape),
        expand_words(word, &variables, escape),
        expand_heredoc(word, &variables),
    ];
    for expanded in &all {
        let Ok(expanded) = expanded else { continue };
        // Twice a mebibyte: what one variable adds, and what all of them may.
        let most = word.len() + (2 << 20) + rest.len();
        assert!(expanded.text.len() <= most, "{} bytes", expanded.text.len());
        for name in &expanded.used {
            assert!(Env::get(&variables, name).is_some(), "{name:?} is not set");
            assert!(!expanded.unset.contains(name), "{name:?} is set and is not");
        }
        assert!(expanded.unset.iter().all(|name| !variables.contains_key(name)));
        let length: usize = expanded.words.iter().map(String::len).sum();
        assert!(length <= expanded.text.len(), "words make {length} bytes");
    }
    if let Ok(expanded) = &all[0]
        && !word.contains(['$', '\'', '"', '\\', '`'])
    {
        assert_eq!(expanded.text, word, "nothing was to be replaced");
    }
    expand_display(word, &variables, escape);
}

/// Knows every image; its configuration follows from the name.
struct Anything;

impl Resolver for Anything {
    fn named_context(
        &mut self,
        name: &str,
        _: &Platform,
    ) -> Result<Option<Resolved>, ResolveError> {
        Ok((name == "context").then(|| Resolved::Directory(name.to_owned())))
    }

    fn image(&mut self, name: &str, platform: &Platform) -> Result<BaseImage, ResolveError> {
        if name.contains("missing") {
            let message = "there is none".to_owned();
            return Err(ResolveError { message, hint: None, exit: ResolveExit::Network });
        }
        let mut config = ImageConfig::empty(platform);
        config.config.env = vec!["PATH=/bin".to_owned(), "BASE=a b".to_owned()];
        if name.contains("onbuild") {
            config.config.on_build = vec!["COPY . /src".to_owned(), "RUN make $BASE".to_owned()];
        }
        Ok(BaseImage {
            name: name.to_owned(),
            handle: if name.contains("unknown") { UNKNOWN } else { 0 },
            platform: platform.clone(),
            digest: Digest::of(name.as_bytes()),
            config,
        })
    }
}

/// The first byte chooses the request. Steps stand behind what they need, keys can be computed, the plan
/// is the same again, and whatever stops it is a diagnostic as good as the parser's.
pub fn plan(mut data: &[u8]) {
    let mode = choice(&mut data);
    let parsed = parse(data);
    if parsed.has_errors() {
        return;
    }
    let Parsed { dockerfile, diagnostics } = parsed;
    let platform = |text: &str| text.parse().expect("a platform");
    let mut request = Request {
        host: Some(platform("linux/amd64")),
        all_stages: mode & 1 != 0,
        no_cache: mode & 4 != 0,
        ..Request::default()
    };
    if mode & 2 != 0 {
        request.platforms = vec![platform("linux/arm64"), platform("linux/amd64")];
    }
    if mode & 8 != 0 {
        request.allow.host_network = true;
        request.allow.insecure = true;
        request.allow.all_devices = true;
    }
    if mode & 16 != 0 {
        request.build_args.insert("A".to_owned(), "b c$A".to_owned());
        request.labels.insert("l".to_owned(), String::new());
    }
    if let Ok(outline) = outline(&dockerfile, &request) {
        outline.args.iter().for_each(|arg| check_span(arg.span, &dockerfile.source, "an ARG"));
    }
    match graph::plan(&dockerfile, &request, &mut Anything) {
        Ok(graph) => {
            check_graph(&graph, &dockerfile);
            if data.len() < PRINTED {
                let again = graph::plan(&dockerfile, &request, &mut Anything);
                let again = again.expect("it could be planned before");
                assert_eq!(format!("{graph:?}"), format!("{again:?}"), "differs the second time");
            }
            let Graph { checks, warnings, .. } = graph;
            let all = settle(&dockerfile, diagnostics, &checks, warnings);
            check_all(&all, &dockerfile.source);
        }
        Err(failure) => check_diagnostic(&failure.diagnostic, &dockerfile.source),
    }
}

fn check_graph(graph: &Graph, dockerfile: &Dockerfile) {
    for (id, node) in graph.nodes.iter().enumerate() {
        let needed = node.parent.iter().chain(&node.inputs);
        assert!(needed.into_iter().all(|other| *other < id), "step {id} stands too early");
        check_span(node.span, &dockerfile.source, "a step");
        let inputs = vec![Digest::of(b"x"); node.inputs.len()];
        match &node.op {
            Op::Image { image } => assert!(*image < graph.images.len()),
            Op::Run(run) => drop(key::run(run, &node.platform, key::TreeId::empty(), &inputs)),
            Op::Copy(copy) => {
                let origins = (0..copy.sources.len()).map(|source| copy.origin(source));
                assert!(origins.into_iter().all(|origin| origin < node.inputs.len().max(1)));
                key::copy(copy, key::TreeId::empty(), Digest::of(b"x"));
                assert!(copy.dest.starts_with('/'), "{:?}", copy.dest);
            }
            Op::Workdir { path, .. } => assert!(path.starts_with('/'), "{path:?}"),
            Op::Local { .. } | Op::Remote(_) => {}
        }
    }
    assert!(!graph.outputs.is_empty(), "a plan of nothing");
    for output in &graph.outputs {
        assert!(output.node.is_none_or(|node| node < graph.nodes.len()));
        assert!(output.base.is_none_or(|image| image < graph.images.len()));
        assert!(output.base_history <= output.config.history.len());
        let variables = &output.config.config.env;
        assert!(variables.iter().all(|pair| pair.contains('=')), "{variables:?}");
    }
}
