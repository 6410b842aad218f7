//! All targets planned into one graph. A target that another one names as a context is planned when
//! that name is met, for the platform that is asked for: only what is used is planned.

use std::collections::BTreeMap;

use crate::build::bases::{Bases, Named, Pull};
use crate::dockerfile::Parsed;
use crate::graph::merge::{self, Merge, Part};
use crate::graph::{
    self, BaseImage, Failure, Graph, Request, ResolveError, ResolveExit, Resolved, Resolver,
};
use crate::oci::{Platform, Reference};

/// A target that is ready to be planned.
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its Dockerfile.
    pub parsed: Parsed,
    /// What is asked of it.
    pub request: Request,
    /// Named contexts that are no targets.
    pub named: Vec<Named>,
    /// Named contexts that are: name in lower case, platform, number of the target.
    pub links: Vec<(String, Option<Platform>, usize)>,
    /// `pull`.
    pub pull: Pull,
    /// How its nodes enter the whole.
    pub part: Part,
}

/// What keeps a target from being planned.
pub struct Trouble {
    /// Whose Dockerfile it is in.
    pub part: usize,
    /// What it is.
    pub failure: Failure,
}

/// Plans targets.
pub struct Planner<'p, 's> {
    /// All targets.
    pub parts: &'p [Planned],
    /// Finds base images.
    pub bases: Bases<'s>,
    /// The graph so far.
    pub merge: Merge,
    /// Sees each plan, before it is merged: for findings.
    pub seen: &'p mut dyn FnMut(usize, &mut Graph),
    known: BTreeMap<(usize, String), merge::Result>,
    trouble: Option<Trouble>,
}

impl<'p, 's> Planner<'p, 's> {
    /// Starts with an empty graph.
    pub fn new(
        parts: &'p [Planned],
        bases: Bases<'s>,
        seen: &'p mut dyn FnMut(usize, &mut Graph),
    ) -> Planner<'p, 's> {
        let (merge, known, trouble) = (Merge::default(), BTreeMap::new(), None);
        Planner { parts, bases, merge, seen, known, trouble }
    }

    /// Plans a target for its own platforms.
    pub fn whole(&mut self, part: usize) -> Result<Vec<merge::Result>, Trouble> {
        let parts = self.parts;
        self.target(part, parts[part].request.platforms.clone())
    }

    fn target(
        &mut self,
        part: usize,
        platforms: Vec<Platform>,
    ) -> Result<Vec<merge::Result>, Trouble> {
        let planned = &self.parts[part];
        let request = Request { platforms, ..planned.request.clone() };
        let mut resolver = PartResolver { planner: self, part };
        let graph = graph::plan(&planned.parsed.dockerfile, &request, &mut resolver);
        let mut graph = match (graph, self.trouble.take()) {
            (Ok(graph), _) => graph,
            // The cause lies in another Dockerfile.
            (Err(_), Some(trouble)) => return Err(trouble),
            (Err(failure), None) => return Err(Trouble { part, failure }),
        };
        (self.seen)(part, &mut graph);
        Ok(self.merge.add(graph, &planned.part))
    }

    /// Gives what a target makes for a platform, as a base image.
    fn linked(&mut self, part: usize, platform: &Platform) -> Result<BaseImage, ResolveError> {
        let planned = &self.parts[part];
        let own = &planned.request.platforms;
        let wrong =
            |message: String| ResolveError { message, hint: None, exit: ResolveExit::Usage };
        let platforms = match own.len() {
            0 if planned.request.host.as_ref() == Some(platform) => Vec::new(),
            0 => vec![platform.clone()],
            // One platform serves all who ask.
            1 => own.clone(),
            _ if own.contains(platform) => vec![platform.clone()],
            _ => {
                let own: Vec<String> = own.iter().map(ToString::to_string).collect();
                let name = &planned.name;
                let list = own.join(", ");
                return Err(wrong(format!("the target {name:?} is built for {list} only")));
            }
        };
        let key = (part, platforms.iter().map(ToString::to_string).collect::<String>());
        let result = match self.known.get(&key) {
            Some(result) => result.clone(),
            None => {
                let results = self.target(part, platforms).map_err(|trouble| {
                    let exit = trouble.failure.exit;
                    self.trouble = Some(trouble);
                    let message = format!("the target {:?} can not be planned", planned.name);
                    ResolveError { message, hint: None, exit }
                })?;
                let result = results.into_iter().next();
                let result =
                    result.ok_or_else(|| wrong(format!("{:?} makes nothing", planned.name)))?;
                self.known.insert(key, result.clone());
                result
            }
        };
        Ok(self.merge.stand_in(&planned.name, result))
    }
}

struct PartResolver<'r, 'p, 's> {
    planner: &'r mut Planner<'p, 's>,
    part: usize,
}

impl PartResolver<'_, '_, '_> {
    fn bases(&mut self) -> &mut dyn Resolver {
        let planned = &self.planner.parts[self.part];
        self.planner.bases.contexts.clone_from(&planned.named);
        self.planner.bases.pull = planned.pull;
        &mut self.planner.bases
    }
}

impl Resolver for PartResolver<'_, '_, '_> {
    fn named_context(
        &mut self,
        name: &str,
        platform: &Platform,
    ) -> Result<Option<Resolved>, ResolveError> {
        let full = |name: &str| {
            name.parse::<Reference>().ok().map(|name| name.with_default_tag().to_string())
        };
        let wanted = (name.to_lowercase(), full(name));
        let same = |link: &&(String, Option<Platform>, usize)| {
            link.0 == wanted.0 || (wanted.1.is_some() && full(&link.0) == wanted.1)
        };
        let links = &self.planner.parts[self.part].links;
        let exact = links.iter().filter(same).find(|link| link.1.as_ref() == Some(platform));
        let found = exact.or_else(|| links.iter().filter(same).find(|link| link.1.is_none()));
        match found.map(|link| link.2) {
            Some(part) => {
                let image = self.planner.linked(part, platform)?;
                Ok(Some(Resolved::Image(Box::new(image))))
            }
            None => self.bases().named_context(name, platform),
        }
    }

    fn image(&mut self, name: &str, platform: &Platform) -> Result<BaseImage, ResolveError> {
        self.bases().image(name, platform)
    }
}
