//! A server of a test's own.

use std::process::{Child, Command, Stdio};

use super::*;

/// A server of a test's own: what it does to it, others must not feel.
pub(super) struct Alone {
    pub(super) url: String,
    server: Child,
    _folder: tempfile::TempDir,
}

impl Alone {
    /// `None`, said aloud, where no tests with servers are wanted.
    pub(super) async fn start() -> Option<Self> {
        server_url()?;
        let folder = tempfile::tempdir().unwrap();
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let server = Command::new("redis-server")
            .args(["--port", &address.port().to_string(), "--save", ""])
            .args(["--bind", "127.0.0.1", "--requirepass", "alone"])
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let host = address.ip().to_string();
        let near = || net::Address {
            host: &host,
            port: address.port(),
        };
        until(async || net::dial(near(), WAIT_MAX).await.is_ok()).await;
        Some(Self {
            url: format!("redis://:alone@{address}"),
            server,
            _folder: folder,
        })
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}
