//! Accepting clients: a bound on how many, and patience when the system is short of descriptors.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{Stream, dial::set_keepalive};
use crate::shutdown::Shutdown;

/// Connections that the kernel queues while we are busy.
const BACKLOG: i32 = 4096;
/// The longest pause after a failed accept.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A listening socket and the number of clients it lets in at once.
pub struct Listener {
    socket: TcpListener,
    permits: Arc<Semaphore>,
}

impl Listener {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the address is taken or not ours.
    pub fn bind(address: SocketAddr, clients_max: usize) -> io::Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(Self {
            socket: TcpListener::from_std(socket.into())?,
            permits: Arc::new(Semaphore::new(clients_max.min(Semaphore::MAX_PERMITS))),
        })
    }

    /// The address in use; tells the port when 0 was asked for.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until draining begins; each client runs as a task of its own under `name`.
    ///
    /// Beyond the bound, `refuse` is given the stream instead, to say so in the client's protocol.
    pub async fn run<S, R, F, G>(self, shutdown: Shutdown, name: &'static str, serve: S, refuse: R)
    where
        S: Fn(Stream) -> F,
        R: Fn(Stream) -> G,
        F: Future<Output = ()> + Send + 'static,
        G: Future<Output = ()> + Send + 'static,
    {
        let mut backoff = Duration::from_millis(5);
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.draining() => return,
                accepted = self.socket.accept() => accepted,
            };
            let socket = match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    // EMFILE and the like: accepting again at once would only spin.
                    tracing::warn!(%error, listener = name, "accept failed");
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            };
            backoff = Duration::from_millis(5);
            let Ok(stream) = prepare(socket) else {
                continue;
            };
            match Arc::clone(&self.permits).try_acquire_owned() {
                Ok(permit) => shutdown.spawn(name, held(permit, serve(stream))),
                Err(_) => shutdown.spawn(name, refuse(stream)),
            }
        }
    }
}

fn prepare(socket: TcpStream) -> io::Result<Stream> {
    set_keepalive(&socket)?;
    Stream::plain(socket)
}

/// A session in one place in memory: as a plain future it would be moved from caller to callee, and every task would
/// have room for it at each of these places.
fn held(
    permit: OwnedSemaphorePermit,
    work: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let work = Box::pin(work);
    async move {
        work.await;
        drop(permit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_session_makes_no_large_task() {
        let permits = Arc::new(Semaphore::new(1));
        let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
        let work = async {
            let room = [0_u8; 4096];
            tokio::task::yield_now().await;
            std::hint::black_box(room);
        };
        let task = held(permit, work);
        assert!(size_of_val(&task) <= 128, "{}", size_of_val(&task));
        task.await;
        assert_eq!(permits.available_permits(), 1);
    }
}
