//! `CLIENT TRACKING`, `CLIENT NO-TOUCH ON` and `MONITOR`: what is the state of a connection, or a stream of
//! its own, has an upstream of its own for as long as the session lasts.
//!
//! Only some of the leases may be kept so, that waits and transactions go on.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    Next, Over, Session,
    attend::Wait,
    exclusive::{Job, Then},
    held::Held,
    request::Request,
};
use crate::{
    pool::Residue,
    redis::{
        commands::Command,
        redirect::Messenger,
        refusal::{self, Plain},
        wire,
    },
    telemetry::SessionEnd,
};

/// How long a client that leaves waits for the end of its messenger, which closes by itself, too.
const KILL_WAIT_MAX: Duration = Duration::from_secs(1);

/// Why an upstream is kept for the session.
pub(super) struct Tie {
    /// The server tells it of every command.
    is_monitor: bool,
    /// The server keeps state of this client besides tracking.
    is_lasting: bool,
    is_tracking: bool,
    /// Who hears for another client what is redirected.
    messenger: Option<Arc<Messenger>>,
    /// Counts it among those who are told of every command.
    _audience: Option<Arc<()>>,
    _place: OwnedSemaphorePermit,
}

/// A command that makes state of the connection, or speaks of it.
pub(super) struct Bind {
    words: Vec<Bytes>,
    /// Its name.
    name: String,
    /// The client that invalidations are redirected to, and the word that says so.
    target: Option<(usize, u64)>,
}

impl Bind {
    fn is_switched_off(&self) -> bool {
        let switch = self.words.get(2);
        switch.is_some_and(|word| word.eq_ignore_ascii_case(b"off"))
    }
}

impl Session {
    /// Commands that make state of the connection, or speak of it.
    pub(super) fn dispatch_bond(
        &mut self,
        request: &Request,
        command: &Command,
    ) -> Result<usize, Next> {
        let name = command.name.as_str();
        if self.is_routed() {
            // A node would tell of its own keys only.
            return self.decline(request, |out| refusal::unsupported(out, name));
        }
        let tie = self.held.as_ref().map(|held| held.tie.as_ref());
        match (tie, name) {
            (Some(None), _) => {
                return self.decline(request, |out| refusal::not_in_transaction(out, name));
            }
            (Some(Some(tie)), "client|getredir") if tie.messenger.is_some() => {
                let target = tie.target();
                self.answer(|out, _| wire::integer(out, target))?;
                return Ok(request.bytes);
            }
            (Some(Some(_)), "client|caching") => {
                let (command, then) = (request.encoded(), Then::Keep);
                return self.exclusively(request, Job::Held { command, then });
            }
            (None, "client|caching") => {
                return self.decline(request, |out| refusal::plain(out, Plain::NotTracking));
            }
            (None, "client|tracking" | "client|no-touch")
                if request.word(2).eq_ignore_ascii_case(b"off") =>
            {
                self.answer(|out, _| wire::simple(out, "OK"))?;
                return Ok(request.bytes);
            }
            _ => {}
        }
        let target = match self.redirect_target(request, name) {
            Ok(target) => target,
            Err(plain) => return self.decline(request, |out| refusal::plain(out, plain)),
        };
        let bind = Bind {
            words: request.words.clone(),
            name: command.name.clone(),
            target,
        };
        self.exclusively(request, Job::Bind(bind))
    }

    /// Whom `CLIENT TRACKING` redirects to; other options are the server's to judge.
    fn redirect_target(
        &self,
        request: &Request,
        name: &str,
    ) -> Result<Option<(usize, u64)>, Plain> {
        let mut target = None;
        let mut at = 3;
        while name == "client|tracking" && at + 1 < request.words.len() {
            if request.word(at).eq_ignore_ascii_case(b"redirect") {
                if target.is_some() {
                    return Err(Plain::RedirectTwice);
                }
                let number = std::str::from_utf8(request.word(at + 1)).ok();
                let number = number.and_then(|text| text.parse::<i64>().ok());
                let number = number.ok_or(Plain::NotInteger)?;
                let id = u64::try_from(number).ok().filter(|id| {
                    let presences = self
                        .member
                        .as_ref()
                        .map(|member| member.station.presences());
                    presences.is_some_and(|presences| presences.see(*id).is_some())
                });
                target = Some((at + 1, id.ok_or(Plain::RedirectUnknown)?));
                at += 1;
            } else if request.word(at).eq_ignore_ascii_case(b"prefix") {
                at += 1;
            }
            at += 1;
        }
        Ok(target)
    }

    /// Carries out a command on an upstream that is kept for the session from then on.
    pub(super) async fn bind(&mut self, mut bind: Bind) -> Result<(), Over> {
        let mut messenger = None;
        if let Some((at, id)) = bind.target {
            messenger = self.messenger(id, &bind.name).await?;
            let (Some(messenger), Some(word)) = (&messenger, bind.words.get_mut(at)) else {
                return Ok(());
            };
            *word = Bytes::from(messenger.number.to_string());
        }
        let is_new = self.held.is_none();
        let Some(mut held) = self.tied(&bind).await? else {
            return Ok(());
        };
        let mut command = BytesMut::new();
        wire::encode_command(&mut command, &bind.words);
        let numbers = held.tie.as_ref().and_then(Tie::numbers);
        let is_question = bind.name == "client|trackinginfo";
        held.exchange.renumber(numbers.filter(|_| is_question));
        let relayed = self.relay(&mut held.exchange, command.freeze(), Wait::Brief);
        if !relayed.await? {
            // What it was tracking is gone with it.
            return if is_new {
                Ok(())
            } else {
                Err(Over(SessionEnd::UpstreamLost))
            };
        }
        held.exchange.renumber(None);
        if !held.exchange.is_accepted() {
            if is_new {
                held.exchange.give_back(Residue::NeedsReset);
            } else {
                self.held = Some(held);
            }
            return Ok(());
        }
        if let Some(tie) = &mut held.tie {
            tie.note(&bind, messenger);
        }
        if held.tie.as_ref().is_some_and(Tie::is_over) && !held.is_tainted {
            held.exchange.give_back(Residue::Clean);
        } else {
            self.held = Some(held);
        }
        Ok(())
    }

    /// The upstream that is held for the session, or a new one; `None`: the client knows why not.
    async fn tied(&mut self, bind: &Bind) -> Result<Option<Held>, Over> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let is_monitor = bind.name == "monitor";
        let station = self.member.as_ref().map(|member| &member.station);
        let audience = station.filter(|_| is_monitor);
        let audience = audience.map(|station| Arc::clone(station.audience()));
        let Some(Some(place)) = station.map(|station| station.keep()) else {
            self.say(|out, _| refusal::no_upstream(out, &bind.name));
            return Ok(None);
        };
        let Some(mut exchange) = self.lease(Wait::Queued).await? else {
            return Ok(None);
        };
        exchange.listen(is_monitor);
        let tie = Tie {
            is_monitor,
            is_lasting: is_monitor,
            is_tracking: false,
            messenger: None,
            _audience: audience,
            _place: place,
        };
        Ok(Some(Held {
            tie: Some(tie),
            ..Held::new(exchange)
        }))
    }

    /// The upstream that hears for a client what is redirected to it; `None`: this client knows why not.
    async fn messenger(&mut self, id: u64, name: &str) -> Result<Option<Arc<Messenger>>, Over> {
        let Some(member) = &self.member else {
            return Ok(None);
        };
        let station = Arc::clone(&member.station);
        let found = self.attended(Wait::Queued, station.messenger(id)).await?;
        match found {
            Ok(Some(messenger)) => return Ok(Some(messenger)),
            Ok(None) => self.say(|out, _| refusal::no_upstream(out, name)),
            Err(refusal) => self.say(|out, _| refusal::refuse(out, &refusal)),
        }
        Ok(None)
    }

    /// Others that redirect to this client have to hear that it leaves, before it hears that it has.
    pub(super) async fn leave_redirected(&mut self) {
        let Some(member) = &self.member else {
            return;
        };
        let station = Arc::clone(&member.station);
        let Some(messenger) = station.messengers().find(member.seat.id()) else {
            return;
        };
        let number = messenger.number.to_string();
        let words = ["CLIENT", "KILL", "ID", &number];
        let killed = station.ask(self.version, self.database, &words);
        match timeout(KILL_WAIT_MAX, killed).await {
            Ok(Ok(_)) => {}
            Ok(Err(refusal)) => {
                tracing::debug!(%refusal, "could not end what is redirected to a client");
            }
            Err(_) => tracing::debug!("nobody ends what is redirected to a client in time"),
        }
        messenger.close();
    }

    /// Where invalidations go, as `CLIENT LIST` says it.
    pub(super) fn redirect(&self) -> i64 {
        let tie = self.held.as_ref().and_then(|held| held.tie.as_ref());
        let Some(tie) = tie.filter(|tie| tie.is_tracking) else {
            return -1;
        };
        i64::try_from(tie.target()).unwrap_or(i64::MAX)
    }

    /// Whether an upstream is held for the session, and not for a transaction at the moment.
    pub(super) fn is_listening(&self) -> bool {
        let held = self.held.as_ref();
        held.is_some_and(|held| held.tie.is_some() && !held.in_multi)
    }

    /// Whether it is told of every command.
    pub(super) fn is_monitoring(&self) -> bool {
        let tie = self.held.as_ref().and_then(|held| held.tie.as_ref());
        tie.is_some_and(|tie| tie.is_monitor)
    }

    /// Whether an answer has to come from the upstream that is held: it stands among what is queued there,
    /// or must not overtake what the server has told it before.
    pub(super) fn is_in_step(&self) -> bool {
        let is_listening = self.is_listening() && !self.is_monitoring() && !self.is_modal();
        is_listening || self.held.as_ref().is_some_and(|held| held.in_multi)
    }

    /// Waits for bytes from the client, and hands on what the server tells it meanwhile.
    pub(super) async fn listen(&mut self) -> Result<(), Over> {
        self.next_bytes(|session, context| {
            let Some(held) = &mut session.held else {
                return Ok(());
            };
            held.exchange
                .poll_told(context, &session.outbox)
                .map_err(|fault| {
                    // What it was tracking is gone: the client has to begin anew.
                    tracing::debug!(%fault, "lost what a client listens to");
                    Over(SessionEnd::UpstreamLost)
                })
        })
        .await
    }
}

impl Tie {
    /// The client that invalidations go to; 0 for its own.
    fn target(&self) -> u64 {
        self.messenger.as_ref().map_or(0, |one| one.target)
    }

    /// The server's number of where they go, and ours.
    fn numbers(&self) -> Option<(u64, u64)> {
        let messenger = self.messenger.as_ref()?;
        Some((messenger.number, messenger.target))
    }

    /// A command about it was accepted.
    fn note(&mut self, bind: &Bind, messenger: Option<Arc<Messenger>>) {
        match bind.name.as_str() {
            "client|tracking" => {
                self.is_tracking = !bind.is_switched_off();
                self.messenger = messenger;
            }
            "client|no-touch" => self.is_lasting = true,
            _ => {}
        }
    }

    /// Whether the server keeps nothing of the client any more.
    fn is_over(&self) -> bool {
        !self.is_lasting && !self.is_tracking
    }
}
