//! TLS by rustls: towards upstreams with libpq's modes, towards clients with a reloadable certificate.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{DialFault, DialStep, Stream, end_point};

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

/// Files of one upstream's own, by their names in the folder for them.
#[derive(Debug, Clone, Copy, Default)]
pub struct UpstreamFiles<'a> {
    /// The certificate that we show, and its key.
    pub identity: Option<(&'a str, &'a str)>,
    /// The certificates to trust instead of all others.
    pub roots: Option<&'a str>,
}

/// TLS towards upstreams.
#[derive(Clone)]
pub struct ClientTls {
    roots: Arc<RootCertStore>,
    folder: Option<Arc<Path>>,
    full: Arc<ClientConfig>,
    chain: Arc<ClientConfig>,
    nothing: Arc<ClientConfig>,
}

impl ClientTls {
    /// Trusts the Mozilla roots and, where given, the certificates of a PEM file; upstreams' own files are
    /// looked for in `folder`.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn new(extra_roots: Option<&Path>, folder: Option<&Path>) -> io::Result<Self> {
        let mut roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };
        if let Some(path) = extra_roots {
            add_roots(&mut roots, path)?;
        }
        Self::build(Arc::new(roots), folder.map(Arc::from), None)
    }

    /// The same for an upstream with files of its own.
    ///
    /// # Errors
    /// When there is no folder for them, a name leads out of it, or a file cannot be read.
    pub fn with_files(&self, files: UpstreamFiles<'_>) -> io::Result<Self> {
        if files.identity.is_none() && files.roots.is_none() {
            return Ok(self.clone());
        }
        let roots = match files.roots {
            None => Arc::clone(&self.roots),
            Some(name) => {
                let mut roots = RootCertStore::empty();
                add_roots(&mut roots, &self.file(name)?)?;
                Arc::new(roots)
            }
        };
        let identity = match files.identity {
            None => None,
            Some((certificate, key)) => {
                Some(read_pair(&self.file(certificate)?, &self.file(key)?)?)
            }
        };
        Self::build(roots, self.folder.clone(), identity.as_ref())
    }

    /// The same, naming a protocol by ALPN.
    #[must_use]
    pub fn speaking(&self, protocol: &[u8]) -> Self {
        let name = |config: &Arc<ClientConfig>| {
            let mut config = ClientConfig::clone(config);
            config.alpn_protocols = vec![protocol.to_vec()];
            Arc::new(config)
        };
        Self {
            roots: Arc::clone(&self.roots),
            folder: self.folder.clone(),
            full: name(&self.full),
            chain: name(&self.chain),
            nothing: name(&self.nothing),
        }
    }

    fn build(
        roots: Arc<RootCertStore>,
        folder: Option<Arc<Path>>,
        identity: Option<&Pair>,
    ) -> io::Result<Self> {
        let provider = Arc::new(ring::default_provider());
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let full: Arc<dyn ServerCertVerifier> = builder.build().map_err(io::Error::other)?;
        let lax = |inner| {
            Arc::new(Lax {
                inner,
                provider: Arc::clone(&provider),
            })
        };
        let chain = lax(Some(Arc::clone(&full)));
        let config = |verifier| client_config(&provider, verifier, identity);
        Ok(Self {
            full: config(full)?,
            chain: config(chain)?,
            nothing: config(lax(None))?,
            roots,
            folder,
        })
    }

    /// Connection strings come from many hands: they name files, not places.
    fn file(&self, name: &str) -> io::Result<PathBuf> {
        let folder = self.folder.as_ref().ok_or_else(|| {
            io::Error::other("it names files, and tls.upstream_folder is not set")
        })?;
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0']) {
            let why = format!("'{name}' is not the name of a file in tls.upstream_folder");
            return Err(io::Error::other(why));
        }
        Ok(folder.join(name))
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

/// A certificate chain and its key.
type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn add_roots(roots: &mut RootCertStore, path: &Path) -> io::Result<()> {
    for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
        roots
            .add(certificate.map_err(io::Error::other)?)
            .map_err(io::Error::other)?;
    }
    Ok(())
}

fn read_pair(certificate: &Path, key: &Path) -> io::Result<Pair> {
    let chain = CertificateDer::pem_file_iter(certificate)
        .map_err(io::Error::other)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    Ok((chain, key))
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    identity: Option<&Pair>,
) -> io::Result<Arc<ClientConfig>> {
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(io::Error::other)?,
    };
    Ok(Arc::new(config))
}

/// The files of TLS towards clients, PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Where given, clients must show a certificate that one of these has signed.
    pub client_roots: Option<PathBuf>,
}

/// TLS towards clients; the files can be read again while clients are connected.
#[derive(Clone)]
pub struct ServerTls {
    served: Arc<RwLock<Served>>,
}

#[derive(Clone)]
struct Served {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// When a file cannot be read or the key does not fit the certificate.
    pub fn load(files: &ServerFiles) -> io::Result<Self> {
        Ok(Self {
            served: Arc::new(RwLock::new(Served::load(files)?)),
        })
    }

    /// Reads the files again; running connections keep what they have.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; what was read before then stays in use.
    pub fn reload(&self, files: &ServerFiles) -> io::Result<()> {
        let served = Served::load(files)?;
        *self.served.write() = served;
        Ok(())
    }

    /// Runs the handshake on a plain stream.
    pub async fn accept(&self, stream: Stream) -> io::Result<Stream> {
        self.accept_as(stream, &[]).await
    }

    /// As [`ServerTls::accept`]; clients that name protocols by ALPN must name one of these.
    pub async fn accept_as(&self, stream: Stream, protocols: &[&[u8]]) -> io::Result<Stream> {
        let Served {
            mut config,
            end_point,
        } = self.served.read().clone();
        if !protocols.is_empty() {
            let own = Arc::make_mut(&mut config);
            own.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        }
        let (socket, peer) = stream
            .into_plain()
            .map_err(|_| io::Error::other("the stream is under TLS already"))?;
        let tls = tokio::time::timeout(HANDSHAKE_MAX, TlsAcceptor::from(config).accept(socket))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Stream::accepted(tls, peer, end_point))
    }
}

impl Served {
    fn load(files: &ServerFiles) -> io::Result<Self> {
        let (chain, key) = read_pair(&files.certificate, &files.key)?;
        let end_point = chain.first().and_then(|own| end_point::hash(own));
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match &files.client_roots {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                add_roots(&mut roots, path)?;
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(io::Error::other)?)
            }
        };
        let config = builder
            .with_single_cert(chain, key)
            .map_err(io::Error::other)?;
        Ok(Self {
            config: Arc::new(config),
            end_point: end_point.map(Arc::from),
        })
    }
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
