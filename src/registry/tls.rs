//! TLS: which servers are trusted, and who we say to be.
//!
//! A server is trusted by the system's certificates, by those that the user gives (`--tls-ca`), and by
//! those of its directory in containers-certs.d(5): `HOST[:PORT]/*.crt` are authorities, `*.cert` and
//! `*.key` of one name are what we show when the server asks who we are.
//!
//! One thing webpki refuses that OpenSSL and Go accept, and that `openssl req -x509` makes when nobody
//! says otherwise: a server that shows the certificate of an authority (basicConstraints CA:TRUE) as
//! its own. It is accepted when just this certificate, byte for byte, is one that the user gave, and
//! its dates and name are right. See [`Verifier`].

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore,
    SignatureScheme, StreamOwned,
};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
    TransportAdapter,
};

use super::error::{Error, Result};

/// What is configured for one registry.
#[derive(Debug, Default)]
pub(super) struct HostTls {
    /// Authorities.
    pub(super) authorities: Vec<CertificateDer<'static>>,
    /// What we show.
    pub(super) identity: Option<Identity>,
}

/// A client certificate with its chain, and its key.
pub(super) struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    path: PathBuf,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.path.display())
    }
}

/// Reads certificates from PEM, all of which can be authorities. Says why not.
pub(super) fn authorities(pem: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let found = certificates(pem)?;
    for certificate in &found {
        RootCertStore::empty().add(certificate.clone()).map_err(|error| error.to_string())?;
    }
    Ok(found)
}

impl HostTls {
    /// Reads a directory; None where there is none that we may read.
    pub(super) fn read(dir: &Path) -> Result<Option<HostTls>> {
        let failed =
            |path: &Path, reason: String| Error::HostCertificates { path: path.to_owned(), reason };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) => {
                return match error.kind() {
                    // One that only root may look into is not ours, as for Podman.
                    io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Ok(None),
                    _ => Err(failed(dir, error.to_string())),
                };
            }
        };
        let mut files = Vec::new();
        for entry in entries {
            files.push(entry.map_err(|error| failed(dir, error.to_string()))?.path());
        }
        files.sort();
        let read = |path: &Path| fs::read(path).map_err(|error| failed(path, error.to_string()));
        let mut found = HostTls::default();
        for path in &files {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => {
                    let more = authorities(&read(path)?).map_err(|reason| failed(path, reason))?;
                    found.authorities.extend(more);
                }
                Some("cert") => {
                    let key_path = path.with_extension("key");
                    if !files.contains(&key_path) {
                        let reason = "its key is missing: put it beside it as .key (an authority's \
                                      certificate ends in .crt)";
                        return Err(failed(path, reason.to_owned()));
                    }
                    if found.identity.is_some() {
                        let reason = "there is more than one client certificate; keep one";
                        return Err(failed(path, reason.to_owned()));
                    }
                    let chain =
                        certificates(&read(path)?).map_err(|reason| failed(path, reason))?;
                    let key = private_key(&read(&key_path)?)
                        .map_err(|reason| failed(&key_path, reason))?;
                    found.identity = Some(Identity { chain, key, path: path.clone() });
                }
                Some("key") if !files.contains(&path.with_extension("cert")) => {
                    let reason = "its certificate is missing: put it beside it as .cert";
                    return Err(failed(path, reason.to_owned()));
                }
                _ => {}
            }
        }
        Ok(Some(found))
    }
}

/// Reads a chain of certificates from PEM.
fn certificates(pem: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let found: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("it holds no certificate".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}

fn private_key(pem: &[u8]) -> std::result::Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| {
        if pem.windows(9).any(|window| window == b"ENCRYPTED") {
            "the key is encrypted: decrypt it with `openssl pkey -in FILE -out FILE`".to_owned()
        } else {
            format!("it holds no private key ({error})")
        }
    })
}

/// Makes what connections need: with `given` certificates beside the system's, or, where it is
/// `insecure`, with any certificate of the server.
pub(super) fn config(
    given: Vec<CertificateDer<'static>>,
    identity: Option<&Identity>,
    insecure: bool,
) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring serves all versions");
    let verifier: Arc<dyn ServerCertVerifier> = if insecure {
        Arc::new(Anyone(Arc::clone(&provider)))
    } else {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() && given.is_empty() {
            // A machine without any (an empty container) gets Mozilla's, which are compiled in.
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        roots.add_parsable_certificates(given.iter().cloned());
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .expect("there are roots, and no lists of revoked certificates to go wrong");
        Arc::new(Verifier { webpki, given })
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|error| Error::HostCertificates {
                path: identity.path.clone(),
                reason: format!("certificate and key do not go together ({error})"),
            })?,
    };
    Ok(Arc::new(config))
}

/// Verifies servers as webpki does, but for certificates of authorities that the user gave.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    given: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let error = match self.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        // webpki looks at the dates before it finds an authority where a server should be, so they
        // are right here (a test holds it to that). The name it would have looked at later.
        if !is_authority(&error) || !self.given.iter().any(|given| given == end_entity) {
            return Err(error);
        }
        let parsed = rustls::server::ParsedCertificate::try_from(end_entity)?;
        rustls::client::verify_server_name(&parsed, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Tells whether the only fault found is that the certificate is an authority's. rustls hands
/// webpki's error on as one of another crate, with this text.
fn is_authority(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::InvalidCertificate(CertificateError::Other(other))
            if other.0.to_string() == "CaUsedAsEndEntity"
    )
}

/// Says what a user can act on, where rustls has only a name for it.
pub(super) fn reason(error: &rustls::Error) -> Option<String> {
    use CertificateError as C;
    use rustls::AlertDescription as A;
    // Go's servers call a certificate that is lacking a bad one.
    if let rustls::Error::AlertReceived(
        alert @ (A::CertificateRequired | A::BadCertificate | A::UnknownCA),
    ) = error
    {
        return Some(format!(
            "the server wants a client certificate, or another one than it gets ({alert:?}): put \
             NAME.cert and NAME.key into /etc/containers/certs.d/HOST[:PORT], or name their \
             directory with --cert-dir"
        ));
    }
    if matches!(error, rustls::Error::InvalidMessage(_)) {
        return Some(format!(
            "the server does not speak TLS ({error}); a registry without it must be named with \
             --insecure-registry"
        ));
    }
    if is_authority(error) {
        return Some(
            "the server shows the certificate of an authority (basicConstraints CA:TRUE) as its \
             own: trust just this certificate with --tls-ca or in certs.d/HOST, or make it again \
             with `openssl req -x509 -addext basicConstraints=critical,CA:FALSE …`"
                .to_owned(),
        );
    }
    let rustls::Error::InvalidCertificate(fault) = error else { return None };
    let day = |time: &UnixTime| {
        let seconds = i64::try_from(time.as_secs()).ok()?;
        Some(jiff::Timestamp::from_second(seconds).ok()?.to_string())
    };
    let since = |words: &str, time: &UnixTime| {
        day(time).map(|day| format!(" {words} {day}")).unwrap_or_default()
    };
    let clock = "the server needs another one, or the clock of this machine is wrong";
    Some(match fault {
        C::Expired => format!("the server's certificate has expired: {clock}"),
        C::ExpiredContext { not_after, .. } => {
            format!("the server's certificate has expired{}: {clock}", since("on", not_after))
        }
        C::NotValidYet => format!("the server's certificate is not valid yet: {clock}"),
        C::NotValidYetContext { not_before, .. } => format!(
            "the server's certificate is not valid yet{}: {clock}",
            since("before", not_before)
        ),
        C::UnknownIssuer => "the server's certificate is of an authority that this machine does \
                             not trust: name the authority's certificate with --tls-ca, or put it \
                             into /etc/containers/certs.d/HOST[:PORT] as a .crt file"
            .to_owned(),
        C::NotValidForName | C::NotValidForNameContext { .. } => {
            let names = match fault {
                C::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
                    format!(" ({})", presented.join(", "))
                }
                _ => String::new(),
            };
            format!(
                "the server's certificate is for other names{names}: use one of these, or give \
                 the server a certificate for this one"
            )
        }
        _ => return None,
    })
}

/// Takes any certificate: for registries that the user calls insecure.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Wraps connections for https URLs in TLS. (ureq's own connector takes no verifier.)
pub(super) struct TlsConnector(pub(super) Arc<ClientConfig>);

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnector")
    }
}

impl<In: Transport> Connector<In> for TlsConnector {
    type Out = Either<In, TlsTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> std::result::Result<Option<Self::Out>, ureq::Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() || transport.is_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let host = details.uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| ureq::Error::Tls("the server's name cannot stand in a certificate"))?;
        let mut connection = ClientConnection::new(Arc::clone(&self.0), name)?;
        let boxed: Box<dyn Transport> = Box::new(transport);
        let mut socket = TransportAdapter::new(boxed, Arc::clone(&details.current_time));
        socket.set_timeout(details.timeout);
        connection.complete_io(&mut socket)?;
        let buffers = LazyBuffers::new(
            details.config.input_buffer_size(),
            details.config.output_buffer_size(),
        );
        let stream = StreamOwned { conn: connection, sock: socket };
        Ok(Some(Either::B(TlsTransport { buffers, stream })))
    }
}

/// A connection with TLS.
pub(super) struct TlsTransport {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for TlsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsTransport")
    }
}

impl Transport for TlsTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(
        &mut self,
        amount: usize,
        timeout: NextTimeout,
    ) -> std::result::Result<(), ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> std::result::Result<bool, ureq::Error> {
        self.stream.sock.set_timeout(timeout);
        let count = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(count);
        Ok(count > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
