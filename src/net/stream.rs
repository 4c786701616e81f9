//! A connection, plain or under TLS, of a client or to an upstream.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    os::fd::AsFd,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

use super::end_point;

/// One TCP connection with `TCP_NODELAY` set, plain or under TLS.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    peer: SocketAddr,
    server_name: Option<String>,
    /// The hash of the certificate that we showed or were shown.
    end_point: Option<Arc<[u8]>>,
}

/// TLS states are boxed: they are large, and most streams are plain.
#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Accepted(Box<server::TlsStream<TcpStream>>),
    Dialled(Box<client::TlsStream<TcpStream>>),
}

impl Stream {
    /// Wraps a connected socket.
    ///
    /// # Errors
    /// When the socket is already disconnected.
    pub fn plain(socket: TcpStream) -> io::Result<Self> {
        let peer = socket.peer_addr()?;
        socket.set_nodelay(true)?;
        if peer.ip() == socket.local_addr()?.ip() {
            stay_unpaced(&socket);
        }
        Ok(Self {
            transport: Transport::Plain(socket),
            peer,
            server_name: None,
            end_point: None,
        })
    }

    pub(super) fn accepted(
        tls: server::TlsStream<TcpStream>,
        peer: SocketAddr,
        end_point: Option<Arc<[u8]>>,
    ) -> Self {
        let server_name = tls.get_ref().1.server_name().map(str::to_owned);
        Self {
            transport: Transport::Accepted(Box::new(tls)),
            peer,
            server_name,
            end_point,
        }
    }

    pub(super) fn dialled(tls: client::TlsStream<TcpStream>, peer: SocketAddr) -> Self {
        let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let end_point = certificates
            .first()
            .and_then(|first| end_point::hash(first));
        Self {
            transport: Transport::Dialled(Box::new(tls)),
            peer,
            server_name: None,
            end_point: end_point.map(Arc::from),
        }
    }

    /// Takes the plain socket out for an upgrade; a stream under TLS comes back as it was.
    pub(super) fn into_plain(self) -> Result<(TcpStream, SocketAddr), Self> {
        match self.transport {
            Transport::Plain(socket) => Ok((socket, self.peer)),
            Transport::Accepted(_) | Transport::Dialled(_) => Err(self),
        }
    }

    /// The other end's address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Our own end's address.
    ///
    /// # Errors
    /// When the socket is already disconnected.
    pub fn local(&self) -> io::Result<SocketAddr> {
        match &self.transport {
            Transport::Plain(socket) => socket.local_addr(),
            Transport::Accepted(tls) => tls.get_ref().0.local_addr(),
            Transport::Dialled(tls) => tls.get_ref().0.local_addr(),
        }
    }

    /// The TLS server name that the client asked for.
    pub fn server_name(&self) -> Option<&str> {
        self.server_name.as_deref()
    }

    /// The hash of the server's certificate, to which a login over TLS can be bound (`tls-server-end-point`).
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// The protocol that both sides agreed on by ALPN.
    pub fn application_protocol(&self) -> Option<&[u8]> {
        match &self.transport {
            Transport::Plain(_) => None,
            Transport::Accepted(tls) => tls.get_ref().1.alpn_protocol(),
            Transport::Dialled(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// Whether the bytes are under TLS.
    pub fn is_tls(&self) -> bool {
        !matches!(self.transport, Transport::Plain(_))
    }

    /// The bytes at the head of a plain connection, without consuming them; empty at end of file.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.transport {
            Transport::Plain(socket) => socket.peek(buffer).await,
            Transport::Accepted(_) | Transport::Dialled(_) => {
                Err(io::ErrorKind::Unsupported.into())
            }
        }
    }

    /// Whether an idle connection is still good: open, and with nothing to read.
    ///
    /// A byte that nobody asked for makes a pooled upstream unusable, so it may be consumed here.
    pub fn is_quiet(&mut self) -> bool {
        let mut byte = [0; 1];
        let read = match &mut self.transport {
            Transport::Plain(socket) => socket.try_read(&mut byte),
            Transport::Accepted(_) | Transport::Dialled(_) => {
                let mut buffer = ReadBuf::new(&mut byte);
                let mut context = Context::from_waker(Waker::noop());
                match Pin::new(self).poll_read(&mut context, &mut buffer) {
                    Poll::Pending => return true,
                    Poll::Ready(Ok(())) => Ok(0),
                    Poll::Ready(Err(error)) => Err(error),
                }
            }
        };
        matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Resolves when the peer has closed its side, however much of what it sent is unread before.
    ///
    /// It watches by a descriptor of its own, so it may be dropped or kept at will.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn watch_close(&self) -> io::Result<impl Future<Output = ()> + Send + use<>> {
        let socket = match &self.transport {
            Transport::Plain(socket) => socket,
            Transport::Accepted(tls) => tls.get_ref().0,
            Transport::Dialled(tls) => tls.get_ref().0,
        };
        let watched = std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        let watched = TcpStream::from_std(watched)?;
        Ok(async move {
            // Of this interest, the end of reading is part, and being readable is not.
            while let Ok(ready) = watched.ready(Interest::PRIORITY).await {
                if ready.is_read_closed() {
                    return;
                }
                drop(watched.try_io(Interest::PRIORITY, || {
                    Err::<(), _>(io::ErrorKind::WouldBlock.into())
                }));
            }
        })
    }

    /// Writes what fits right now; `WouldBlock` when nothing does. TLS always goes the polled way.
    pub fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.transport {
            Transport::Plain(socket) => socket.try_write(bytes),
            Transport::Accepted(_) | Transport::Dialled(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// As [`try_write`](Self::try_write), of several pieces at once.
    pub fn try_write_vectored(&mut self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        match &self.transport {
            Transport::Plain(socket) => socket.try_write_vectored(slices),
            Transport::Accepted(_) | Transport::Dialled(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Within one machine nothing is congested, and an algorithm that paces (BBR) sets a timer for each send.
#[cfg(target_os = "linux")]
fn stay_unpaced(socket: &TcpStream) {
    // Every Linux has it and lets everybody choose it: `net.ipv4.tcp_allowed_congestion_control` of tcp(7).
    if let Err(error) = SockRef::from(socket).set_tcp_congestion(b"reno") {
        tracing::debug!(%error, "congestion control within this machine stays as it is");
    }
}

#[cfg(not(target_os = "linux"))]
fn stay_unpaced(_socket: &TcpStream) {}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_read(context, buffer),
            Transport::Accepted(io) => Pin::new(io).poll_read(context, buffer),
            Transport::Dialled(io) => Pin::new(io).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_write(context, bytes),
            Transport::Accepted(io) => Pin::new(io).poll_write(context, bytes),
            Transport::Dialled(io) => Pin::new(io).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_write_vectored(context, slices),
            Transport::Accepted(io) => Pin::new(io).poll_write_vectored(context, slices),
            Transport::Dialled(io) => Pin::new(io).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_flush(context),
            Transport::Accepted(io) => Pin::new(io).poll_flush(context),
            Transport::Dialled(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(io) => Pin::new(io).poll_shutdown(context),
            Transport::Accepted(io) => Pin::new(io).poll_shutdown(context),
            Transport::Dialled(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn within_one_machine_nothing_is_paced() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _dialled = std::net::TcpStream::connect(address).unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let stream = Stream::plain(socket).unwrap();
        let Transport::Plain(socket) = &stream.transport else {
            panic!("it was plain");
        };
        let algorithm = SockRef::from(socket).tcp_congestion().unwrap();
        assert!(algorithm.starts_with(b"reno"), "{algorithm:?}");
    }
}
