//! The same server over HTTPS: a front that asks for client certificates and passes bytes on.

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
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::ApiServer;

/// Issues certificates, each authority its own.
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
    /// If there is no randomness to make a key of.
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
    /// If the name is not fit for one, or there is no randomness.
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

/// A server's front, until it is dropped.
#[derive(Debug)]
pub struct Https {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ApiServer {
    /// Serves HTTPS too, with a certificate of an authority, to those alone who show one of it.
    ///
    /// # Errors
    ///
    /// If there is no port to listen on.
    pub fn serve_https(&self, authority: &Authority) -> io::Result<Https> {
        let acceptor = TlsAcceptor::from(Arc::new(config(authority)?));
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let behind = self.address;
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(&listener, &acceptor, behind) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Https {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Https {
    /// Where it is.
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

fn config(authority: &Authority) -> io::Result<ServerConfig> {
    let of_authority = authority.0.der().clone();
    let mut roots = RootCertStore::empty();
    roots.add(of_authority).map_err(io::Error::other)?;
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build();
    let verifier = verifier.map_err(io::Error::other)?;
    let (key, certificate) = authority.signed("127.0.0.1").map_err(io::Error::other)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(io::Error::other)?;
    ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.der().clone()], key)
        .map_err(io::Error::other)
}

async fn accept(listener: &TcpListener, acceptor: &TlsAcceptor, behind: SocketAddr) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A client that is turned away, or goes, is none of our business.
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
