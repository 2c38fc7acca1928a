//! A TLS front for a server: it requests client certificates and passes bytes on.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::crypto::verify_tls13_signature_with_raw_key;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime,
};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    self, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
};

use super::ApiServer;

/// A certificate authority.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    ///
    /// If there is no randomness for a key.
    pub fn new() -> io::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(io::Error::other)?;
        let issuer = CertifiedIssuer::self_signed(params, key);
        issuer.map(Self).map_err(io::Error::other)
    }

    /// Its own certificate, as PEM.
    pub fn certificate(&self) -> String {
        self.0.pem()
    }

    /// A certificate for a host or a user.
    ///
    /// # Errors
    ///
    /// If the name is invalid, or there is no randomness.
    pub fn issue(&self, name: &str) -> io::Result<Identity> {
        let (key, certificate) = self.signed(name).map_err(io::Error::other)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    fn signed(&self, name: &str) -> Result<(KeyPair, rcgen::Certificate), rcgen::Error> {
        let key = KeyPair::generate()?;
        let params = CertificateParams::new([name.to_owned()])?;
        let certificate = params.signed_by(&key, &self.0)?;
        Ok((key, certificate))
    }
}

/// A server's TLS front. Dropping it stops it.
#[derive(Debug)]
pub struct Https {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// The clients that a front accepts.
#[derive(Debug, Clone)]
pub enum Clients {
    /// Clients with a certificate of the authority.
    OfAuthority,
    /// All clients.
    All,
    /// The client with this certificate, whatever its content, and its key.
    Only {
        /// As PEM.
        certificate: String,
        /// As PEM.
        public_key: String,
    },
}

impl ApiServer {
    /// Adds HTTPS, with a certificate of an authority, for clients with a certificate of the same
    /// authority.
    ///
    /// # Errors
    ///
    /// If there is no port to listen on.
    pub fn serve_https(&self, authority: &Authority) -> io::Result<Https> {
        Https::in_front_of(self.address, authority, "127.0.0.1", Clients::OfAuthority)
    }
}

impl Https {
    /// A front for the server at an address, with a certificate for `host`.
    ///
    /// # Errors
    ///
    /// If there is no port to listen on, or a certificate cannot be used.
    pub fn in_front_of(
        behind: SocketAddr,
        authority: &Authority,
        host: &str,
        clients: Clients,
    ) -> io::Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(config(authority, host, clients)?));
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(&listener, &acceptor, behind) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }
}

impl Drop for Https {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn config(authority: &Authority, host: &str, clients: Clients) -> io::Result<ServerConfig> {
    let verifier = match clients {
        Clients::All => WebPkiClientVerifier::no_client_auth(),
        Clients::OfAuthority => {
            let mut roots = RootCertStore::empty();
            let of_authority = authority.0.der().clone();
            roots.add(of_authority).map_err(io::Error::other)?;
            let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
            verifier.map_err(io::Error::other)?
        }
        Clients::Only {
            certificate,
            public_key,
        } => Arc::new(Only {
            certificate: CertificateDer::from_pem_slice(certificate.as_bytes())
                .map_err(io::Error::other)?,
            public_key: SubjectPublicKeyInfoDer::from_pem_slice(public_key.as_bytes())
                .map_err(io::Error::other)?,
        }),
    };
    let (key, certificate) = authority.signed(host).map_err(io::Error::other)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
    ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(io::Error::other)
}

/// Verifies one client by its certificate and key, without parsing the certificate.
#[derive(Debug)]
struct Only {
    certificate: CertificateDer<'static>,
    public_key: SubjectPublicKeyInfoDer<'static>,
}

impl ClientCertVerifier for Only {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        if *end_entity == self.certificate {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 alone".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = default_provider().signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &self.public_key, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = default_provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor, behind: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Rejected clients and clients that disconnect are ignored.
            let (Ok(mut client), Ok(mut server)) = (
                acceptor.accept(stream).await,
                TcpStream::connect(behind).await,
            ) else {
                return;
            };
            let _ = copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
