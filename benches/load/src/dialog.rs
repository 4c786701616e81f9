//! One blocking connection: a request, its reply, the next. For what comes before the load.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bson::{RawDocument, RawDocumentBuf};

use crate::fault::Fault;
use crate::wire;

/// No answer within this time is a fault.
const REPLY_WAIT_MAX: Duration = Duration::from_secs(30);

/// A blocking connection that asks one thing at a time.
pub(crate) struct Dialog {
    socket: TcpStream,
    request_id: i32,
}

impl Dialog {
    /// Connects to `addr`.
    pub(crate) fn open(addr: SocketAddr) -> Result<Self, Fault> {
        let socket = TcpStream::connect_timeout(&addr, REPLY_WAIT_MAX)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(REPLY_WAIT_MAX))?;
        socket.set_write_timeout(Some(REPLY_WAIT_MAX))?;
        Ok(Self {
            socket,
            request_id: 0,
        })
    }

    /// Sends `command` and returns the reply, which said `ok: 1`.
    pub(crate) fn ask(&mut self, command: &RawDocument) -> Result<RawDocumentBuf, Fault> {
        self.request_id += 1;
        let mut message = wire::message(command);
        wire::set_request_id(&mut message, self.request_id);
        self.socket.write_all(&message)?;
        let message = self.read_message()?;
        Ok(wire::reply(&message, self.request_id)?.to_owned())
    }

    /// The socket, with nothing outstanding on it.
    pub(crate) fn into_socket(self) -> TcpStream {
        self.socket
    }

    fn read_message(&mut self) -> Result<Vec<u8>, Fault> {
        let mut message = vec![0; wire::HEADER_BYTES];
        self.socket.read_exact(&mut message)?;
        let length = wire::message_bytes(&message)?.unwrap_or(wire::HEADER_BYTES);
        message.resize(length, 0);
        if let Some(rest) = message.get_mut(wire::HEADER_BYTES..) {
            self.socket.read_exact(rest)?;
        }
        Ok(message)
    }
}
