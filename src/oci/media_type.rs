//! Media types of OCI image-spec 1.1 and of Docker's schema 2, and the mapping between the two.

/// OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// OCI layer, uncompressed.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// OCI layer, gzip.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// OCI layer, zstd.
pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// OCI layer that must not be pushed on, uncompressed.
pub const OCI_FOREIGN_LAYER: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// OCI layer that must not be pushed on, gzip.
pub const OCI_FOREIGN_LAYER_GZIP: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
/// OCI layer that must not be pushed on, zstd.
pub const OCI_FOREIGN_LAYER_ZSTD: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
/// The empty JSON object, config of artifacts.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Docker manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker schema 2 manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker layer, uncompressed.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker layer, gzip.
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker layer, zstd: not in Docker's specification, but some tools write it.
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker layer that must not be pushed on.
pub const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// Docker layer that must not be pushed on, gzip.
pub const DOCKER_FOREIGN_LAYER_GZIP: &str =
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
/// Docker schema 1 manifest: recognised only to refuse it by name.
pub const DOCKER_SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
/// Docker schema 1 manifest with signatures: recognised only to refuse it by name.
pub const DOCKER_SCHEMA1_SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";

/// Every media type of an index that we read.
pub const INDEXES: [&str; 2] = [OCI_INDEX, DOCKER_LIST];
/// Every media type of a manifest that we read.
pub const MANIFESTS: [&str; 2] = [OCI_MANIFEST, DOCKER_MANIFEST];

/// Docker ↔ OCI, for each type that both worlds have.
const PAIRS: [(&str, &str); 7] = [
    (DOCKER_LIST, OCI_INDEX),
    (DOCKER_MANIFEST, OCI_MANIFEST),
    (DOCKER_CONFIG, OCI_CONFIG),
    (DOCKER_LAYER, OCI_LAYER),
    (DOCKER_LAYER_GZIP, OCI_LAYER_GZIP),
    (DOCKER_FOREIGN_LAYER, OCI_FOREIGN_LAYER),
    (DOCKER_FOREIGN_LAYER_GZIP, OCI_FOREIGN_LAYER_GZIP),
];

/// How the bytes of a layer are compressed, as its media type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerCompression {
    /// A plain tar.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// Tells whether `media_type` is that of an index or of a Docker manifest list.
pub fn is_index(media_type: &str) -> bool {
    INDEXES.contains(&media_type)
}

/// Tells whether `media_type` is that of an image manifest.
pub fn is_manifest(media_type: &str) -> bool {
    MANIFESTS.contains(&media_type)
}

/// Tells whether `media_type` is that of an image config.
pub fn is_config(media_type: &str) -> bool {
    media_type == OCI_CONFIG || media_type == DOCKER_CONFIG
}

/// Tells whether `media_type` is one of Docker's.
pub fn is_docker(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.")
}

/// Tells whether `media_type` is that of a layer that its owner forbids to push on.
pub fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

/// Gives the compression of a file system layer, or `None` for anything that is not one.
pub fn layer_compression(media_type: &str) -> Option<LayerCompression> {
    match media_type {
        OCI_LAYER | OCI_FOREIGN_LAYER | DOCKER_LAYER | DOCKER_FOREIGN_LAYER => {
            Some(LayerCompression::None)
        }
        OCI_LAYER_GZIP | OCI_FOREIGN_LAYER_GZIP | DOCKER_LAYER_GZIP | DOCKER_FOREIGN_LAYER_GZIP => {
            Some(LayerCompression::Gzip)
        }
        OCI_LAYER_ZSTD | OCI_FOREIGN_LAYER_ZSTD | DOCKER_LAYER_ZSTD => Some(LayerCompression::Zstd),
        _ => None,
    }
}

/// Tells whether an annotation of a layer is about its compressed bytes: tables of contents of
/// eStargz and zstd:chunked, which other bytes of the same layer do not have.
pub fn is_about_bytes(annotation: &str) -> bool {
    [
        "containerd.io/snapshot/stargz/",
        "io.containers.estargz.",
        "io.github.containers.zstd-chunked.",
    ]
    .iter()
    .any(|prefix| annotation.starts_with(prefix))
}

/// Tells whether `media_type` is that of a file system layer.
pub fn is_layer(media_type: &str) -> bool {
    layer_compression(media_type).is_some()
}

/// Gives the OCI name of a Docker media type; every other type is given back as it is.
pub fn to_oci(media_type: &str) -> &str {
    if media_type == DOCKER_LAYER_ZSTD {
        return OCI_LAYER_ZSTD;
    }
    PAIRS.iter().find(|(docker, _)| *docker == media_type).map_or(media_type, |(_, oci)| oci)
}

/// Gives the Docker name of a media type, or `None` where Docker has none (zstd layers).
pub fn to_docker(media_type: &str) -> Option<&str> {
    if is_docker(media_type) && media_type != DOCKER_LAYER_ZSTD {
        return Some(media_type);
    }
    PAIRS.iter().find(|(_, oci)| *oci == media_type).map(|(docker, _)| *docker)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_and_oci_types_map_both_ways() {
        for (docker, oci) in PAIRS {
            assert_eq!(to_oci(docker), oci);
            assert_eq!(to_docker(oci), Some(docker));
            assert_eq!(to_oci(oci), oci);
            assert_eq!(to_docker(docker), Some(docker));
            assert_eq!(layer_compression(docker), layer_compression(oci));
            assert_eq!(is_foreign(docker), is_foreign(oci));
        }
        assert_eq!(to_docker(OCI_LAYER_ZSTD), None);
        assert_eq!(to_docker(DOCKER_LAYER_ZSTD), None);
        assert_eq!(to_oci(DOCKER_LAYER_ZSTD), OCI_LAYER_ZSTD);
        assert_eq!(to_oci("application/x-other"), "application/x-other");
    }
}
