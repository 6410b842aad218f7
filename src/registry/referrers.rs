//! What refers to a manifest (distribution-spec 1.1, "Listing Referrers" and "Referrers Tag Schema").
//!
//! A registry that knows the API lists the artifacts whose `subject` a manifest is. For one that does
//! not, clients keep the list themselves, as an index under a tag that is made of the digest. Which
//! of the two a registry is, the answer to a push says: `OCI-Subject` means that it keeps the list.

use super::Client;
use super::auth::Access;
use super::conf::Endpoint;
use super::endpoint::About;
use super::error::{Error, Result};
use super::http::{Method, Payload, Request};
use super::pull::{api, temporary_as_error};
use super::url::Url;
use crate::oci::manifest::MAX_SIZE;
use crate::oci::{Descriptor, Digest, Document, Index, Reference, media_type};

/// The most pages of a list that are read. Registries give some hundred entries a page.
const MAX_PAGES: usize = 100;

/// Gives the tag under which the referrers of a manifest lie where a registry does not list them.
pub fn referrers_tag(digest: &Digest) -> String {
    format!("sha256-{}", digest.hex())
}

impl Client {
    /// Lists what refers to a manifest: nothing where there is nothing.
    pub fn referrers(&self, repository: &Reference, digest: &Digest) -> Result<Vec<Descriptor>> {
        let subject = repository.clone().with_digest(*digest);
        self.anywhere(&subject, About::Part, |place| self.referrers_at(place, digest))
    }

    fn referrers_at(&self, place: &Endpoint, digest: &Digest) -> Result<Vec<Descriptor>> {
        let repository = &place.reference;
        let path = format!("{}/referrers/{digest}", repository.repository);
        let mut next: Option<Url> = None;
        let mut out: Vec<Descriptor> = Vec::new();
        for _ in 0..MAX_PAGES {
            let make = |base: &Url| {
                let url = next.clone().unwrap_or_else(|| api(base, &path));
                Request::new(Method::Get, url).header("accept", media_type::OCI_INDEX)
            };
            let response = self.inner.http.retry(|| {
                let none = &mut Payload::None;
                temporary_as_error(self.call_at(place, Access::Pull, &[], &make, none)?)
            })?;
            let said = response.header("content-type").unwrap_or_default();
            let is_list =
                said.split(';').next().unwrap_or_default().trim() == media_type::OCI_INDEX;
            // A page of a web server is no list.
            if response.status != 200 || !is_list {
                return match response.status {
                    200 | 400 | 404 | 405 | 501 => {
                        self.tagged_referrers(place, digest).map(|index| index.manifests)
                    }
                    _ => Err(self.refused(response, repository, &repository.name())),
                };
            }
            let link = response.header("link").and_then(next_page).map(str::to_owned);
            let url = response.url.clone();
            let bytes = response.read(MAX_SIZE)?;
            let protocol =
                |reason: &str| Error::Protocol { url: url.to_string(), reason: reason.to_owned() };
            match Document::parse(&bytes, media_type::OCI_INDEX) {
                Ok(Document::Index(index)) => out.extend(index.manifests),
                _ => return Err(protocol("its list of referrers is no index")),
            }
            let Some(link) = link else { return Ok(out) };
            let to = url.join(&link).map_err(|_| protocol("the link to its next page is bad"))?;
            if !to.same_origin(&url) {
                return Err(protocol("its list of referrers goes on at another host"));
            }
            next = Some(to);
        }
        Err(Error::Protocol {
            url: repository.name(),
            reason: format!("its list of referrers has more than {MAX_PAGES} pages"),
        })
    }

    /// Pushes an artifact whose subject is `subject`, and sees to it that it is listed.
    pub fn push_referrer(
        &self,
        repository: &Reference,
        subject: &Digest,
        descriptor: &Descriptor,
        bytes: &[u8],
    ) -> Result<()> {
        let name = descriptor.digest.to_string();
        if self.put_manifest(repository, &name, &descriptor.media_type, bytes)?.1 {
            return Ok(());
        }
        let mut index = self.tagged_referrers(&Endpoint::itself(repository), subject)?;
        if index.manifests.iter().any(|known| known.digest == descriptor.digest) {
            return Ok(());
        }
        index.manifests.push(descriptor.clone());
        let (root, bytes) = index.encode();
        self.push_manifest(repository, &referrers_tag(subject), &root.media_type, &bytes)?;
        Ok(())
    }

    fn tagged_referrers(&self, place: &Endpoint, digest: &Digest) -> Result<Index> {
        let reference = place.reference.clone().with_tag(&referrers_tag(digest));
        let tagged = Endpoint { reference, ..place.clone() };
        match self.inner.http.retry(|| self.resolve_once(&tagged)) {
            Ok((descriptor, bytes)) => match Document::parse(&bytes, &descriptor.media_type) {
                Ok(Document::Index(index)) => Ok(index),
                _ => Ok(Index::new(Vec::new())),
            },
            Err(error) if error.is_not_found() => Ok(Index::new(Vec::new())),
            Err(error) => Err(error),
        }
    }
}

/// Reads `Link: <URL>; rel="next"` (RFC 8288).
fn next_page(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (url, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let rel = parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
        rel.then_some(url)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_next_pages_are_read() {
        let link = r#"</v2/a/referrers/x?last=3&n=2>; rel="next""#;
        assert_eq!(next_page(link), Some("/v2/a/referrers/x?last=3&n=2"));
        assert_eq!(next_page(r#"</a>; rel="prev", </b>; rel=next"#), Some("/b"));
        assert_eq!(next_page("</a>"), None);
        assert_eq!(next_page("nonsense"), None);
    }
}
