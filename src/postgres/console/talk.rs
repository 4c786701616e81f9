//! The console's side of the protocol: simple queries and the extended ones, answered in order.

use std::{collections::HashMap, sync::Arc};

use bytes::{BufMut, BytesMut};

use super::{
    Action, Operator, columns,
    command::{self, Command},
    tables::{self, Table},
};
use crate::{
    postgres::{exchange::IDLE, flow::Peer, refusal, wire},
    registry::TokenRole,
};

/// The longest message that a console takes.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Prepared statements, and portals, of one client.
const STATEMENTS_MAX: usize = 64;
/// The type `text`.
const TEXT_OID: u32 = 25;

/// One client of the console.
pub(super) struct Talk {
    operator: Arc<dyn Operator>,
    client: Peer,
    role: TokenRole,
    statements: HashMap<Vec<u8>, Option<Command>>,
    portals: HashMap<Vec<u8>, Option<Command>>,
    /// After an error everything up to the next Sync is left out.
    failed: bool,
}

/// A message that cannot be answered.
struct Broken;

impl Talk {
    pub(super) fn new(operator: Arc<dyn Operator>, client: Peer, role: TokenRole) -> Self {
        Self {
            operator,
            client,
            role,
            statements: HashMap::new(),
            portals: HashMap::new(),
            failed: false,
        }
    }

    /// Talks until the client leaves.
    pub(super) async fn run(&mut self) {
        let out = &mut self.client.out;
        wire::authentication_ok(out);
        let version = format!("{}/polypool", env!("CARGO_PKG_VERSION"));
        for (name, value) in [
            ("server_version", version.as_str()),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, MDY"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ] {
            wire::parameter_status(out, name, value);
        }
        wire::backend_key(out, 0, &[0; 4]);
        wire::ready(out, IDLE);
        loop {
            if self.client.flush().await.is_err() {
                return;
            }
            let Some((tag, body)) = next_message(&mut self.client).await else {
                return;
            };
            match tag {
                b'X' => return,
                b'S' => {
                    self.failed = false;
                    self.portals.clear();
                    wire::ready(&mut self.client.out, IDLE);
                }
                b'Q' => self.simple(&body).await,
                _ if self.failed => {}
                _ => {
                    if self.extended(tag, &body).await.is_err() {
                        self.failed = true;
                        refusal::console_malformed(&mut self.client.out);
                    }
                }
            }
        }
    }

    async fn simple(&mut self, body: &[u8]) {
        let text = String::from_utf8_lossy(body.strip_suffix(&[0]).unwrap_or(body)).into_owned();
        let mut some = false;
        for text in command::split(&text) {
            some = true;
            let Some(command) = command::parse(text) else {
                refusal::unknown_command(&mut self.client.out);
                break;
            };
            if let Some(columns) = columns::columns(&command) {
                describe(&mut self.client.out, columns);
            }
            if !self.execute(&command).await {
                break;
            }
        }
        if !some {
            wire::data(&mut self.client.out, b'I');
        }
        wire::ready(&mut self.client.out, IDLE);
    }

    async fn extended(&mut self, tag: u8, body: &[u8]) -> Result<(), Broken> {
        match tag {
            b'P' => self.parse(body),
            b'B' => self.bind(body),
            b'D' | b'C' => {
                let (kind, name) = wire::named(body).ok_or(Broken)?;
                let known = if kind == b'S' {
                    &mut self.statements
                } else {
                    &mut self.portals
                };
                if tag == b'C' {
                    known.remove(name);
                    wire::data(&mut self.client.out, b'3');
                    return Ok(());
                }
                let command = known.get(name).ok_or(Broken)?;
                if kind == b'S' {
                    wire::tagged(&mut self.client.out, b't', |out| out.put_u16(0));
                }
                match command.as_ref().and_then(columns::columns) {
                    Some(columns) => describe(&mut self.client.out, columns),
                    None => wire::data(&mut self.client.out, b'n'),
                }
                Ok(())
            }
            b'E' => {
                let (name, _) = wire::split_cstr(body).ok_or(Broken)?;
                match self.portals.get(name).cloned().ok_or(Broken)? {
                    None => wire::data(&mut self.client.out, b'I'),
                    Some(command) => self.failed = !self.execute(&command).await,
                }
                Ok(())
            }
            b'H' => Ok(()),
            _ => Err(Broken),
        }
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Broken> {
        let parse = wire::parse(body).ok_or(Broken)?;
        let text = String::from_utf8_lossy(parse.text);
        let empty = command::split(&text).next().is_none();
        let command = command::parse(&text);
        if command.is_none() && !empty {
            self.failed = true;
            refusal::unknown_command(&mut self.client.out);
            return Ok(());
        }
        if self.statements.len() >= STATEMENTS_MAX && !self.statements.contains_key(parse.name) {
            return Err(Broken);
        }
        self.statements.insert(parse.name.to_vec(), command);
        wire::data(&mut self.client.out, b'1');
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Broken> {
        let bind = wire::bind(body).ok_or(Broken)?;
        let command = self.statements.get(bind.statement).cloned().ok_or(Broken)?;
        if self.portals.len() >= STATEMENTS_MAX && !self.portals.contains_key(bind.portal) {
            return Err(Broken);
        }
        self.portals.insert(bind.portal.to_vec(), command);
        wire::data(&mut self.client.out, b'2');
        Ok(())
    }

    /// Carries a command out and says what came of it; false after an error.
    async fn execute(&mut self, command: &Command) -> bool {
        let tag = match command {
            Command::Show(subject) => {
                let table = tables::show(*subject, &*self.operator);
                rows(&mut self.client.out, &table);
                "SHOW"
            }
            Command::Nothing(tag) => tag,
            Command::Act(..) | Command::KillClient(_) | Command::Reload => {
                match self.change(command).await {
                    Ok(tag) => tag,
                    Err(said) => {
                        refusal::console(&mut self.client.out, &said);
                        return false;
                    }
                }
            }
        };
        wire::tagged(&mut self.client.out, b'C', |out| {
            out.put_slice(tag.as_bytes());
            out.put_u8(0);
        });
        true
    }

    async fn change(&self, command: &Command) -> Result<&'static str, String> {
        let needed = match command {
            Command::Reload => TokenRole::Owner,
            Command::Act(..) | Command::KillClient(_) | Command::Show(_) | Command::Nothing(_) => {
                TokenRole::Operator
            }
        };
        if self.role < needed {
            let own = self.role;
            return Err(format!(
                "this token has the role '{own}'; '{needed}' is needed"
            ));
        }
        tracing::info!(peer = %self.client.stream.peer(), ?command, "console");
        match command {
            Command::Act(action, slug) => {
                self.operator.act(*action, slug.as_deref()).await?;
                Ok(match action {
                    Action::Pause => "PAUSE",
                    Action::Resume => "RESUME",
                    Action::Reconnect => "RECONNECT",
                    Action::Kill => "KILL",
                })
            }
            Command::KillClient(id) if self.operator.end_client(*id) => Ok("KILL_CLIENT"),
            Command::KillClient(id) => Err(format!("there is no client {id}")),
            Command::Reload => self.operator.reload().map(|()| "RELOAD"),
            Command::Show(_) | Command::Nothing(_) => Ok(""),
        }
    }
}

/// The client's next message: its type and body; `None` when it has left or breaks the protocol.
pub(super) async fn next_message(client: &mut Peer) -> Option<(u8, Vec<u8>)> {
    loop {
        let unseen = client.inbound.unseen();
        if let Some(frame) = wire::frontend_head(unseen, MESSAGE_BYTES_MAX).ok()? {
            if frame.bytes > MESSAGE_BYTES_MAX {
                return None;
            }
            if let Some(body) = frame.body(unseen) {
                let message = (frame.tag, body.to_vec());
                client.inbound.skip(frame.bytes, &mut BytesMut::new());
                return Some(message);
            }
        }
        if !matches!(client.fill().await, Ok(1..)) {
            return None;
        }
    }
}

fn describe(out: &mut BytesMut, columns: &[&str]) {
    wire::tagged(out, b'T', |out| {
        out.put_u16(u16::try_from(columns.len()).unwrap_or(0));
        for name in columns {
            out.put_slice(name.as_bytes());
            out.put_u8(0);
            out.put_u32(0);
            out.put_u16(0);
            out.put_u32(TEXT_OID);
            out.put_i16(-1);
            out.put_i32(-1);
            out.put_u16(0);
        }
    });
}

fn rows(out: &mut BytesMut, table: &Table) {
    for row in table {
        wire::tagged(out, b'D', |out| {
            out.put_u16(u16::try_from(row.len()).unwrap_or(0));
            for cell in row {
                match cell {
                    None => out.put_i32(-1),
                    Some(text) => {
                        out.put_u32(u32::try_from(text.len()).unwrap_or(0));
                        out.put_slice(text.as_bytes());
                    }
                }
            }
        });
    }
}
