//! One client of the loop: a non-blocking socket with at most one request in flight.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use crate::fault::Fault;
use crate::operation::{Script, Verdict};
use crate::wire;

/// The first size of the input buffer, which grows to the longest reply.
const INPUT_BYTES: usize = 16 * 1024;

/// A client and where it is in its operation.
pub(crate) struct Connection {
    socket: TcpStream,
    script: Script,
    request_id: i32,
    began_at: Instant,
    written: usize,
    input: Vec<u8>,
    filled: usize,
}

impl Connection {
    /// A client over `socket`, which is logged in and has nothing outstanding.
    pub(crate) fn new(socket: TcpStream, script: Script) -> Self {
        Self {
            socket,
            script,
            request_id: 0,
            began_at: Instant::now(),
            written: 0,
            input: vec![0; INPUT_BYTES],
            filled: 0,
        }
    }

    /// The socket, to be registered.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Begins an operation.
    pub(crate) fn begin(&mut self) -> Result<(), Fault> {
        self.request_id = self.request_id.wrapping_add(1).max(1);
        self.script.begin(self.request_id);
        self.began_at = Instant::now();
        self.written = 0;
        self.write()
    }

    /// Goes on as far as the socket allows; the operation's latency once it is complete.
    pub(crate) fn proceed(&mut self) -> Result<Option<Duration>, Fault> {
        self.write()?;
        while let Some(length) = self.read()? {
            let message = self.input.get(..length).unwrap_or_default();
            let reply = wire::reply(message, self.request_id);
            self.filled = 0;
            let next_id = self.request_id.wrapping_add(1).max(1);
            match self.script.judge(reply?, next_id)? {
                Verdict::Done => return Ok(Some(self.began_at.elapsed())),
                Verdict::More => {
                    self.request_id = next_id;
                    self.written = 0;
                    self.write()?;
                }
            }
        }
        Ok(None)
    }

    fn write(&mut self) -> Result<(), Fault> {
        while let Some(rest) = self.script.outgoing().get(self.written..) {
            if rest.is_empty() {
                break;
            }
            match self.socket.write(rest) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads until a whole message is there, and says its length; nothing may follow it.
    fn read(&mut self) -> Result<Option<usize>, Fault> {
        loop {
            let wanted = wire::message_bytes(self.input.get(..self.filled).unwrap_or_default())?;
            if let Some(wanted) = wanted {
                if self.filled > wanted {
                    return Err(Fault::Wire("more than the reply that was asked".into()));
                }
                if self.filled == wanted {
                    return Ok(Some(wanted));
                }
                if self.input.len() < wanted {
                    self.input.resize(wanted, 0);
                }
            }
            let room = self.input.get_mut(self.filled..).unwrap_or_default();
            match self.socket.read(room) {
                Ok(0) => return Err(Fault::Socket(ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.filled += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
