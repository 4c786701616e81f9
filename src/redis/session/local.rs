//! Commands that the gateway answers itself: the state of a connection that is not the client's.

use bytes::Buf;

use super::{Next, Replies, Session, entry::stranger, request::Request};
use crate::{
    redis::{
        commands::Command,
        login::{Credentials, Hello},
        refusal::{self, Plain},
        trunk::Fate,
        wire::{self, Version},
    },
    telemetry::SessionEnd,
};

impl Session {
    /// Answers a command of the class `local`.
    pub(super) fn dispatch_local(
        &mut self,
        request: &Request,
        command: &Command,
    ) -> Result<usize, Next> {
        match command.name.as_str() {
            "ping" | "echo" if self.is_passed_on() => return self.share(request),
            "ping" if self.is_modal() && request.words.len() < 3 => self.answer(|out, _| {
                wire::array(out, 2);
                wire::bulk(out, b"pong");
                wire::bulk(out, request.word(1));
            })?,
            "ping" => match request.words.len() {
                1 => self.answer(|out, _| wire::simple(out, "PONG"))?,
                2 => self.answer(|out, _| wire::bulk(out, request.word(1)))?,
                _ => self.answer(|out, _| refusal::wrong_arity(out, "ping"))?,
            },
            "echo" => self.answer(|out, _| wire::bulk(out, request.word(1)))?,
            "select" => return self.select(request),
            "auth" => return self.begin_auth(request),
            "hello" => return self.begin_hello(request),
            "quit" => {
                self.answer(|out, _| wire::simple(out, "OK"))?;
                self.input.clear();
                return Err(Next::End(SessionEnd::Goodbye));
            }
            "reset" => return self.begin_reset(request),
            "readonly" | "readwrite" => {
                self.answer(|out, _| refusal::plain(out, Plain::NoCluster))?;
            }
            "acl|whoami" => {
                let user = self.member.as_ref().map(|member| member.user.clone());
                self.answer(|out, _| wire::bulk(out, user.unwrap_or_default().as_bytes()))?;
            }
            _ => return self.dispatch_client(request, command),
        }
        Ok(request.bytes)
    }

    fn select(&mut self, request: &Request) -> Result<usize, Next> {
        let Some(number) = database_number(request.word(1)) else {
            return self.decline(request, |out| refusal::plain(out, Plain::NotInteger));
        };
        let Ok(database) = u32::try_from(number) else {
            return self.decline(request, |out| refusal::plain(out, Plain::DatabaseRange));
        };
        let known = self
            .member
            .as_ref()
            .is_some_and(|member| member.station.has_database(database));
        if known {
            self.answer(|out, _| wire::simple(out, "OK"))?;
            self.database = database;
            if self.outbox.standing().owed == 0 {
                self.trunk = None;
            }
            return Ok(request.bytes);
        }
        if self.is_routed() {
            return self.decline(request, |out| refusal::plain(out, Plain::SelectInCluster));
        }
        // The server is asked; what follows waits for what it says.
        let fate = Fate::Select {
            database,
            is_silent: self.is_silent(),
        };
        self.submit((&request.encoded(), false), 1, fate)?;
        self.heard();
        self.input.advance(request.bytes);
        Err(Next::Settled(0))
    }

    fn begin_auth(&mut self, request: &Request) -> Result<usize, Next> {
        if request.words.len() > 3 {
            return self.decline(request, |out| refusal::plain(out, Plain::Syntax));
        }
        let (user, password) = match request.words.len() {
            2 => (None, request.word(1)),
            _ => (Some(request.word(1)), request.word(2)),
        };
        let credentials = Credentials::new(user, password);
        self.begin_login(request, Hello::default(), Some(credentials))
    }

    fn begin_hello(&mut self, request: &Request) -> Result<usize, Next> {
        let words: Vec<&[u8]> = request.args().collect();
        match Hello::parse(&words) {
            Ok((hello, credentials)) => self.begin_login(request, hello, credentials),
            Err(plain) => self.decline(request, |out| refusal::plain(out, plain)),
        }
    }

    /// A login changes everything, so it waits until nothing is under way.
    fn begin_login(
        &mut self,
        request: &Request,
        hello: Hello,
        credentials: Option<Credentials>,
    ) -> Result<usize, Next> {
        // A change of version moves with what is kept for the session; another user cannot.
        let moves = credentials.is_none() && !self.is_monitoring();
        let is_busy = self.held.is_some() && !(moves && self.is_listening());
        if is_busy || (self.is_subscribed() && !moves) {
            return self.decline(request, |out| refusal::plain(out, Plain::LoginBusy));
        }
        if self.outbox.standing().owed > 0 {
            return Err(Next::Settled(0));
        }
        self.input.advance(request.bytes);
        Err(Next::Login(hello, credentials))
    }

    fn begin_reset(&mut self, request: &Request) -> Result<usize, Next> {
        if self.outbox.standing().owed > 0 {
            return Err(Next::Settled(0));
        }
        self.input.advance(request.bytes);
        Err(Next::Reset)
    }

    /// Back to a connection as it was accepted: the client has to log in again.
    pub(super) async fn reset(&mut self) {
        self.leave_redirected().await;
        // Dropped, the upstream is closed, and what it watched or queued with it.
        self.held = None;
        self.subscriber = None;
        self.trunk = None;
        self.route = None;
        self.queue = None;
        self.version = Version::Resp2;
        self.database = 0;
        self.name.clear();
        self.replies = Replies::On;
        if self.member.take().is_some() {
            self.control = stranger(&self.service);
        }
        self.say(|out, _| wire::simple(out, "RESET"));
    }
}

/// The number of a database as the server takes it: a sign perhaps, no blanks, the range of an int.
pub(super) fn database_number(word: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(word).ok()?;
    let number = text.parse::<i32>().ok()?;
    (number.to_string() == text).then_some(number)
}
