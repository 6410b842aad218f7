//! Which servers are trusted, and what a directory of certificates may hold.

use std::time::Duration;

use super::*;

/// Made with `openssl req -x509`: an authority's certificate for registry.test, valid from 2026 to 2126.
const SERVER: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/tls/authority-as-server.pem"));
/// The same with another serial number: same name, same key.
const TWIN: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/tls/the-same-again.pem"));

/// Shows `shown` as the certificate of `name` in a year, to somebody who was given `given`.
fn verify(given: &[&[u8]], shown: &[u8], name: &str, year: u64) -> Result<(), String> {
    let given: Vec<_> = given.iter().flat_map(|pem| authorities(pem).unwrap()).collect();
    let mut roots = RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    roots.add_parsable_certificates(given.iter().cloned());
    let provider = Arc::new(ring::default_provider());
    let webpki =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
    let shown = certificates(shown).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs((year - 1970) * 31_556_952));
    Verifier { webpki, given }
        .verify_server_cert(&shown[0], &shown[1..], &name, &[], now)
        .map(drop)
        .map_err(|error| reason(&error).expect("all that comes up here has words"))
}

#[test]
fn an_authority_may_be_the_server_when_just_it_was_given() {
    assert_eq!(verify(&[SERVER], SERVER, "registry.test", 2050), Ok(()));
    assert_eq!(verify(&[TWIN, SERVER], SERVER, "registry.test", 2050), Ok(()));
    // Given; shown; name; year; what the message must hold.
    type Row<'a> = (&'a [&'a [u8]], &'a [u8], &'a str, u64, &'a str);
    let table: [Row<'_>; 6] = [
        (&[], SERVER, "registry.test", 2050, "CA:FALSE"),
        (&[TWIN], SERVER, "registry.test", 2050, "CA:FALSE"),
        (&[SERVER], TWIN, "registry.test", 2050, "CA:FALSE"),
        (&[SERVER], SERVER, "other.test", 2050, "is for other names (DnsName(\"registry.test\")"),
        (&[SERVER], SERVER, "registry.test", 2150, "has expired on 2126-"),
        (&[SERVER], SERVER, "registry.test", 2020, "is not valid yet before 2026-"),
    ];
    for (given, shown, name, year, want) in table {
        let error = verify(given, shown, name, year).unwrap_err();
        assert!(error.contains(want), "{name} {year}: {error}");
    }
}

#[test]
fn directories_of_certificates_are_checked() {
    let read = |files: &[(&str, &[u8])]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        HostTls::read(dir.path()).map_err(|error| error.to_string())
    };
    let found =
        read(&[("ca.crt", SERVER), ("b.crt", TWIN), ("readme.txt", b"x")]).unwrap().unwrap();
    assert_eq!((found.authorities.len(), found.identity.is_some()), (2, false));
    assert!(HostTls::read(Path::new("/nowhere/at/all")).unwrap().is_none());
    let encrypted =
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMA==\n-----END ENCRYPTED PRIVATE KEY-----\n";
    // Files; what the message must hold.
    type Row<'a> = (&'a [(&'a str, &'a [u8])], &'a str);
    let table: [Row<'_>; 6] = [
        (&[("ca.crt", b"no pem")], "ca.crt: it holds no certificate"),
        (&[("me.cert", SERVER)], "me.cert: its key is missing"),
        (&[("me.key", b"")], "me.key: its certificate is missing"),
        (&[("me.cert", SERVER), ("me.key", SERVER)], "me.key: it holds no private key"),
        (&[("me.cert", SERVER), ("me.key", encrypted)], "openssl pkey"),
        (&[("me.cert", b""), ("me.key", b"")], "me.cert: it holds no certificate"),
    ];
    for (files, want) in table {
        let error = read(files).unwrap_err();
        assert!(error.contains(want), "{error}");
    }
}

#[test]
fn faults_of_connections_are_told_in_words() {
    use rustls::{AlertDescription, Error, InvalidMessage};
    let told = |error| reason(&error).unwrap_or_default();
    let alert = told(Error::AlertReceived(AlertDescription::CertificateRequired));
    assert!(alert.contains("client certificate") && alert.contains("--cert-dir"), "{alert}");
    let plain = told(Error::InvalidMessage(InvalidMessage::InvalidContentType));
    assert!(plain.contains("--insecure-registry"), "{plain}");
    let unknown = told(Error::InvalidCertificate(CertificateError::UnknownIssuer));
    assert!(unknown.contains("--tls-ca"), "{unknown}");
    let other = Error::InvalidCertificate(CertificateError::Revoked);
    assert_eq!(reason(&other), None);
}
