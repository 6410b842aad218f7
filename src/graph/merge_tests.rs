//! Plans that are merged: what is equal is one, what differs in anything that counts is not.

use std::collections::BTreeMap;

use super::*;
use crate::dockerfile::parse;
use crate::graph::{Failure, Request, ResolveError, Resolved, Resolver, plan};
use crate::oci::ImageConfig;

/// Knows every image by its name, and contexts that are other targets.
struct Fake<'m> {
    handles: BTreeMap<String, usize>,
    targets: BTreeMap<String, Result>,
    merge: &'m mut Merge,
}

impl Resolver for Fake<'_> {
    fn named_context(
        &mut self,
        name: &str,
        _: &Platform,
    ) -> std::result::Result<Option<Resolved>, ResolveError> {
        if name == "dir" {
            return Ok(Some(Resolved::Directory(name.to_owned())));
        }
        let Some(result) = self.targets.get(name).cloned() else { return Ok(None) };
        Ok(Some(Resolved::Image(Box::new(self.merge.stand_in(name, result)))))
    }

    fn image(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> std::result::Result<BaseImage, ResolveError> {
        let mut config = ImageConfig::empty(platform);
        config.rootfs.diff_ids = vec![DiffId(Digest::of(format!("{name} {platform}").as_bytes()))];
        let next = self.handles.len();
        let handle = *self.handles.entry(format!("{name} {platform}")).or_insert(next);
        let digest = Digest::of(name.as_bytes());
        Ok(BaseImage { name: name.to_owned(), handle, platform: platform.clone(), digest, config })
    }
}

/// The parts of one merged graph, by their names.
#[derive(Default)]
struct Whole {
    merge: Merge,
    targets: BTreeMap<String, Result>,
    parts: usize,
}

impl Whole {
    /// Adds a target under options of its own number; `contexts` are the whole's names of its own.
    fn add_with(
        &mut self,
        name: &str,
        text: &str,
        options: usize,
        contexts: &[(&str, &str)],
    ) -> Vec<Result> {
        let parsed = parse(text.as_bytes());
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        let request = Request {
            host: Some("linux/amd64".parse().expect("a platform")),
            ..Request::default()
        };
        let targets = self.targets.clone();
        let mut fake = Fake { handles: BTreeMap::new(), targets, merge: &mut self.merge };
        let found: std::result::Result<Graph, Failure> =
            plan(&parsed.dockerfile, &request, &mut fake);
        let part = Part {
            number: self.parts,
            options,
            name: name.to_owned(),
            contexts: contexts
                .iter()
                .map(|(own, whole)| ((*own).to_owned(), (*whole).to_owned()))
                .collect(),
        };
        self.parts += 1;
        let results = self.merge.add(found.expect("a plan"), &part);
        self.targets.insert(name.to_owned(), results[0].clone());
        results
    }

    fn add(&mut self, name: &str, text: &str) -> Result {
        self.add_with(name, text, 0, &[("", "all")]).remove(0)
    }

    fn names(&self) -> Vec<&str> {
        self.merge.graph.nodes.iter().map(|node| node.name.as_str()).collect()
    }

    /// The names of what a result stands on, from the bottom.
    fn chain(&self, result: &Result) -> Vec<&str> {
        let mut names = Vec::new();
        let mut next = result.node;
        while let Some(id) = next {
            names.push(self.merge.graph.nodes[id].name.as_str());
            next = self.merge.graph.nodes[id].parent;
        }
        names.reverse();
        names
    }
}

#[test]
fn equal_steps_are_one() {
    let mut whole = Whole::default();
    let one = whole.add("one", "FROM busybox\nCOPY a /a\nRUN make\nRUN one\nLABEL of=one\n");
    let two = whole.add("two", "FROM busybox\nCOPY a /a\nRUN make\nRUN two\nLABEL of=two\n");
    assert_eq!(
        whole.names(),
        [
            "FROM busybox",
            "[internal] load build context",
            "[one stage-0 2/4] COPY a /a",
            "[one stage-0 3/4] RUN make",
            "[one stage-0 4/4] RUN one",
            "[two stage-0 4/4] RUN two",
        ]
    );
    assert_eq!(
        whole.chain(&two),
        [
            "FROM busybox",
            "[one stage-0 2/4] COPY a /a",
            "[one stage-0 3/4] RUN make",
            "[two stage-0 4/4] RUN two"
        ]
    );
    // The base is one image, and each result keeps its own configuration.
    assert_eq!(whole.merge.graph.images.len(), 1);
    assert_eq!((one.base, two.base), (Some(0), Some(0)));
    assert_ne!(one.config.config.labels, two.config.config.labels);
    // Whose a step is, is who came first; spans are read in that Dockerfile.
    let parts: Vec<usize> = whole.merge.graph.nodes.iter().map(|node| node.part).collect();
    assert_eq!(parts, [0, 0, 0, 0, 0, 1]);
}

#[test]
fn what_differs_is_not_one() {
    let base = "FROM busybox\nCOPY a /a\nRUN make\n";
    for (what, other, options, contexts, nodes) in [
        ("nothing", base, 0, "all", 4),
        ("the image", "FROM debian\nCOPY a /a\nRUN make\n", 0, "all", 7),
        ("an argument of RUN", "FROM busybox\nCOPY a /a\nRUN make all\n", 0, "all", 5),
        ("what stands below", "FROM busybox\nCOPY b /a\nRUN make\n", 0, "all", 6),
        ("a variable", "FROM busybox\nCOPY a /a\nENV A=b\nRUN make\n", 0, "all", 5),
        // A COPY has no options; a RUN may see other secrets.
        ("the options", base, 1, "all", 5),
        ("the context", base, 0, "another", 7),
        ("the platform", "FROM --platform=linux/arm64 busybox\nCOPY a /a\nRUN make\n", 0, "all", 7),
    ] {
        let mut whole = Whole::default();
        whole.add("one", base);
        whole.add_with("two", other, options, &[("", contexts)]);
        let names = whole.names();
        assert_eq!(names.len(), nodes, "{what}: {names:#?}");
    }
}

#[test]
fn a_target_that_is_a_base_is_no_image_in_between() {
    let mut whole = Whole::default();
    let below = whole.add("below", "FROM busybox\nRUN below\nENV A=b\nLABEL l=below\n");
    let above = whole.add("above", "FROM below\nRUN above\n");
    assert_eq!(
        whole.chain(&above),
        ["FROM busybox", "[below stage-0 2/2] RUN below", "[above stage-0 2/2] RUN above"]
    );
    assert!(whole.names().iter().all(|name| !name.contains("FROM below")), "{:?}", whole.names());
    // It inherits the configuration, and its base is the image below all.
    assert!(above.config.config.env.contains(&"A=b".to_owned()));
    assert_eq!((above.base, above.base_history), (below.base, below.base_history));
    let history = above.config.history.len();
    assert!(history > below.config.history.len());
    assert_eq!(above.output().node, above.node);
    // As a source of files, too, over two hops.
    let last = whole.add("last", "FROM busybox\nCOPY --from=above /x /x\n");
    let node = &whole.merge.graph.nodes[last.node.expect("it has layers")];
    assert_eq!(node.inputs, [above.node.expect("it has layers")]);
}

#[test]
fn a_target_without_layers_is_like_scratch() {
    let mut whole = Whole::default();
    let empty = whole.add("empty", "FROM scratch\nENV A=b\n");
    assert_eq!(empty.node, None);
    let above = whole.add("above", "FROM empty\nCOPY a /a\n");
    assert_eq!(whole.chain(&above), ["[above stage-0 2/2] COPY a /a"]);
    assert!(above.config.config.env.contains(&"A=b".to_owned()));
    assert_eq!(above.base, None);
}

#[test]
fn contexts_have_the_names_of_the_whole() {
    let mut whole = Whole::default();
    whole.add_with(
        "one",
        "FROM scratch\nCOPY a /a\nCOPY --from=dir b /b\n",
        0,
        &[("", "/src/one"), ("dir", "/src/dir")],
    );
    whole.add_with(
        "two",
        "FROM scratch\nCOPY a /a\nCOPY --from=dir b /b\n",
        0,
        &[("", "/src/two"), ("dir", "/src/dir")],
    );
    let contexts: Vec<&str> = whole
        .merge
        .graph
        .nodes
        .iter()
        .filter_map(|node| match &node.op {
            Op::Local { context } => Some(context.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(contexts, ["/src/one", "/src/dir", "/src/two"]);
}

#[test]
fn the_same_target_twice_changes_nothing() {
    let text = "FROM busybox AS a\nRUN one\nFROM debian\nCOPY --from=a /x /x\nWORKDIR /w\n";
    let mut whole = Whole::default();
    let first = whole.add("first", text);
    let names = |whole: &Whole| whole.names().iter().map(ToString::to_string).collect::<Vec<_>>();
    let (before, images) = (names(&whole), whole.merge.graph.images.len());
    let second = whole.add("second", text);
    assert_eq!(second.node, first.node);
    assert_eq!(names(&whole), before);
    assert_eq!(whole.merge.graph.images.len(), images);
    // Every node stands behind what it is made from.
    for (id, node) in whole.merge.graph.nodes.iter().enumerate() {
        assert!(node.parent.iter().chain(&node.inputs).all(|other| *other < id), "{}", node.name);
    }
}
