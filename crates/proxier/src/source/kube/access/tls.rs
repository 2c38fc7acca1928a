//! Certificates and keys, as client-go reads them.

use std::sync::Arc;

use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::ring::{default_provider, sign::any_supported_type};
use tokio_rustls::rustls::crypto::{
    CryptoProvider, verify_tls12_signature, verify_tls13_signature,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey, SingleCertAndKey};
use tokio_rustls::rustls::{
    self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use super::{AccessError, Material, Trust};

/// Number of bytes at the end of a public key that identify it.
const TAIL_OF_KEY: usize = 32;

/// The TLS configuration for an API server.
///
/// # Errors
///
/// [`AccessError::Material`] if a certificate or a key is invalid.
pub(in super::super) fn client_config(
    trust: &Trust,
    identity: Option<&(Material, Material)>,
) -> Result<ClientConfig, AccessError> {
    let provider = Arc::new(default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Anyone => Arc::new(Unverified(Arc::clone(&provider))),
        Trust::System => verifier(system_roots(), &provider)?,
        Trust::Authorities(authorities) => verifier(authorities_of(authorities)?, &provider)?,
    };
    let builder = builder(provider)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let identity = certified_key(certificate, key)?;
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity)))
        }
    })
}

/// The TLS configuration for a proxy. Both the system's and the cluster's authorities may sign its
/// certificate.
///
/// # Errors
///
/// [`AccessError::Material`] if the authorities are invalid.
pub(in super::super) fn proxy_config(trust: &Trust) -> Result<ClientConfig, AccessError> {
    let provider = Arc::new(default_provider());
    let mut roots = system_roots();
    if let Trust::Authorities(authorities) = trust {
        roots.extend(authorities_of(authorities)?.roots);
    }
    let verifier = verifier(roots, &provider)?;
    let builder = builder(provider)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(builder.with_no_client_auth())
}

fn builder(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, AccessError> {
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.map_err(|error| unusable("TLS library", error))
}

fn unusable(what: &'static str, error: impl ToString) -> AccessError {
    AccessError::Material {
        what,
        origin: "this build".to_owned(),
        problem: error.to_string(),
    }
}

fn verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, AccessError> {
    let builder =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    builder.build().map_err(|error| AccessError::Material {
        what: "CA certificates",
        origin: "the system's trust store".to_owned(),
        problem: format!("{error}; name the cluster's CA in certificate-authority"),
    })
}

fn system_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// As in Go, unreadable certificates are skipped.
fn authorities_of(material: &Material) -> Result<RootCertStore, AccessError> {
    let certificates = CertificateDer::pem_slice_iter(&material.text).flatten();
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(certificates);
    match (added, ignored) {
        (0, 0) => Err(material.unusable("there is no certificate in PEM form in it")),
        (0, _) => Err(material.unusable("none of its certificates is an X.509 certificate")),
        _ => Ok(roots),
    }
}

/// A client certificate with its key. The server alone judges the content and the X.509 version of
/// the certificate.
fn certified_key(certificate: &Material, key: &Material) -> Result<CertifiedKey, AccessError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate.text).collect();
    let chain = chain.map_err(|error| certificate.unusable(error.to_string()))?;
    let Some(first) = chain.first() else {
        return Err(certificate.unusable("there is no certificate in PEM form in it"));
    };
    let signing_key = signing_key(key)?;
    let public_key = signing_key.public_key();
    let tail = public_key
        .as_ref()
        .and_then(|key| key.rchunks(TAIL_OF_KEY).next());
    let fits = |tail: &[u8]| first.windows(tail.len()).any(|part| part == tail);
    if tail.is_some_and(|tail| !fits(tail)) {
        let problem = format!(
            "it is not the key of the client certificate in {}",
            certificate.origin
        );
        return Err(key.unusable(problem));
    }
    Ok(CertifiedKey::new(chain, signing_key))
}

/// A private key in any format that Go accepts (`tls.X509KeyPair`): PKCS #1, PKCS #8 or SEC 1,
/// whatever its label.
fn signing_key(material: &Material) -> Result<Arc<dyn SigningKey>, AccessError> {
    let text = String::from_utf8_lossy(&material.text);
    if text.contains("BEGIN ENCRYPTED PRIVATE KEY") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return Err(material.unusable(
            "it is encrypted, which no Kubernetes client supports; decrypt it with \
             'openssl pkey -in FILE -out NEW'",
        ));
    }
    let labelled = PrivateKeyDer::from_pem_slice(&material.text)
        .map_err(|_| material.unusable("there is no private key in PEM form in it"))?;
    let der = labelled.secret_der().to_vec();
    let others = [
        PrivateKeyDer::Pkcs8(der.clone().into()),
        PrivateKeyDer::Pkcs1(der.clone().into()),
        PrivateKeyDer::Sec1(der.into()),
    ];
    let mut keys = std::iter::once(labelled).chain(others);
    keys.find_map(|key| any_supported_type(&key).ok())
        .ok_or_else(|| {
            material.unusable(
                "it is not an RSA key of 2048 to 4096 bits, an ECDSA key on P-256 or P-384, or an \
             Ed25519 key",
            )
        })
}

/// Accepts every server certificate, for `insecure-skip-tls-verify`.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
