//! TLS by rustls: towards upstreams with libpq's modes, towards clients with a reloadable certificate.

use std::{io, path::Path, sync::Arc, time::Duration};

use parking_lot::RwLock;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{DialFault, DialStep, Stream};

/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How much of an upstream's certificate is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Nothing: encryption against onlookers only.
    Nothing,
    /// The chain, but not the name.
    Chain,
    /// The chain and the host's name.
    ChainAndName,
}

/// TLS towards upstreams.
#[derive(Clone)]
pub struct ClientTls {
    full: Arc<ClientConfig>,
    chain: Arc<ClientConfig>,
    nothing: Arc<ClientConfig>,
}

impl ClientTls {
    /// Trusts the Mozilla roots and, where given, the certificates of a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(extra_roots: Option<&Path>) -> io::Result<Self> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        if let Some(path) = extra_roots {
            for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
                roots
                    .add(certificate.map_err(io::Error::other)?)
                    .map_err(io::Error::other)?;
            }
        }
        let provider = Arc::new(ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
            Arc::new(roots),
            Arc::clone(&provider),
        )
        .build()
        .map_err(io::Error::other)?;
        let full: Arc<dyn ServerCertVerifier> = verifier;
        let chain = Arc::new(Lax {
            inner: Some(Arc::clone(&full)),
            provider: Arc::clone(&provider),
        });
        let nothing = Arc::new(Lax {
            inner: None,
            provider: Arc::clone(&provider),
        });
        Ok(Self {
            full: client_config(&provider, full)?,
            chain: client_config(&provider, chain)?,
            nothing: client_config(&provider, nothing)?,
        })
    }

    /// Runs the handshake on a plain stream.
    pub async fn upgrade(
        &self,
        stream: Stream,
        host: &str,
        verify: Verify,
    ) -> Result<Stream, DialFault> {
        let fault = |cause: String| {
            DialFault::new(
                DialStep::Tls,
                cause,
                "check that the server speaks TLS on this port and that its certificate fits",
            )
        };
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| fault(error.to_string()))?;
        let (socket, peer) = stream
            .into_plain()
            .map_err(|_| fault("the stream is under TLS already".into()))?;
        let config = match verify {
            Verify::Nothing => &self.nothing,
            Verify::Chain => &self.chain,
            Verify::ChainAndName => &self.full,
        };
        let handshake = TlsConnector::from(Arc::clone(config)).connect(name, socket);
        match tokio::time::timeout(HANDSHAKE_MAX, handshake).await {
            Ok(Ok(tls)) => Ok(Stream::dialled(tls, peer)),
            Ok(Err(error)) => Err(fault(error.to_string())),
            Err(_) => Err(fault("the handshake took too long".into())),
        }
    }
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
) -> io::Result<Arc<ClientConfig>> {
    let config = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// TLS towards clients; the certificate can be replaced while clients are connected.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl ServerTls {
    /// Reads a certificate chain and its key, both PEM.
    ///
    /// # Errors
    /// When a file cannot be read or the key does not fit the certificate.
    pub fn load(certificate: &Path, key: &Path) -> io::Result<Self> {
        Ok(Self {
            config: Arc::new(RwLock::new(server_config(certificate, key)?)),
        })
    }

    /// Reads the files again; running connections keep what they have.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; the old certificate then stays in use.
    pub fn reload(&self, certificate: &Path, key: &Path) -> io::Result<()> {
        let config = server_config(certificate, key)?;
        *self.config.write() = config;
        Ok(())
    }

    /// Runs the handshake on a plain stream.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        let config = Arc::clone(&self.config.read());
        let (socket, peer) = stream
            .into_plain()
            .map_err(|_| io::Error::other("the stream is under TLS already"))?;
        let tls = tokio::time::timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(socket))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Stream::accepted(tls, peer))
    }
}

fn server_config(certificate: &Path, key: &Path) -> io::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .map_err(io::Error::other)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(io::Error::other)?;
    Ok(Arc::new(config))
}

/// `require` (nothing is checked) and `verify-ca` (the name is not), as libpq defines them.
#[derive(Debug)]
struct Lax {
    inner: Option<Arc<dyn ServerCertVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lax {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(rustls::Error::InvalidCertificate(
                rustls::CertificateError::NotValidForName
                | rustls::CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
