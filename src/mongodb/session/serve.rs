//! What is done with each request: answered here, refused, or planned to be passed on.

use bson::RawDocumentBuf;

use super::{
    super::{
        answers,
        commands::Class,
        cursors::Claim,
        hello::{Hello, is_hello},
        login::{SaslContinue, SaslStart},
        plan::Plan,
        policy::{self, Grant},
        refusal::ErrorReply,
        servers::Route,
        wire::{
            Body, EXHAUST_ALLOWED, Elements, HEADER_BYTES, Header, MORE_TO_COME, Message, Query,
            encode_reply,
        },
    },
    Flow, Member, Session,
};

/// What is to be done with a request.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are the largest: a box would be an allocation for each request"
)]
enum Decision {
    /// Pass it on.
    Forward(Plan),
    /// See to it here.
    Here(Here),
}

/// A request that needs no upstream.
enum Here {
    /// Answer it.
    Answer(RawDocumentBuf),
    /// Refuse it.
    Refuse(ErrorReply),
    /// Answer the hello.
    Hello(Box<Hello>),
    /// Begin a login.
    Start(SaslStart),
    /// Go on with a login.
    Continue(SaslContinue),
    /// Forget the login.
    Logout,
}

impl Session {
    pub(super) async fn serve_query(&mut self, header: Header) -> Flow {
        let query = match Query::parse(self.intake.pending(), &header) {
            Ok(query) => query,
            Err(fault) => return self.malformed(&fault.to_string()),
        };
        let hello = if is_hello(query.command) {
            Hello::read(query.body, &self.service.topology)
        } else {
            Err(ErrorReply::legacy_query(query.command))
        };
        self.intake.consume(header.length);
        let body = match hello {
            Ok(hello) => self.greet(hello).await,
            Err(error) => error.document(&self.service.topology),
        };
        let mut reply = Vec::new();
        encode_reply(
            &mut reply,
            self.reply_id(),
            header.request_id,
            body.as_bytes(),
        );
        self.send(&reply).await
    }

    pub(super) async fn serve_message(&mut self, header: Header) -> Flow {
        let decided = match Message::parse(self.intake.pending(), &header) {
            Err(fault) if fault.is_fatal() => return self.malformed(&fault.to_string()),
            Err(fault) => Err(ErrorReply::of_wire(&fault)),
            Ok(message) => self.decide(&header, &message),
        };
        match decided {
            Ok(Decision::Forward(plan)) => self.exchange(plan).await,
            // Rare next to the other, so it takes no room in every session.
            Ok(Decision::Here(here)) => Box::pin(self.serve_here(header, here)).await,
            Err(error) => Box::pin(self.serve_here(header, Here::Refuse(error))).await,
        }
    }

    /// Refuses a request of which nothing else is to be done.
    pub(super) async fn turn_down(&mut self, header: Header, error: ErrorReply) -> Flow {
        self.serve_here(header, Here::Refuse(error)).await
    }

    async fn serve_here(&mut self, header: Header, here: Here) -> Flow {
        // Even a message that is no command says whether it wants a reply.
        let flags = self.intake.pending().get(HEADER_BYTES..);
        let flags = flags.and_then(<[u8]>::first_chunk::<4>);
        let flags = flags.map_or(0, |raw| u32::from_le_bytes(*raw));
        let wants_reply = flags & MORE_TO_COME == 0;
        let allows_exhaust = flags & EXHAUST_ALLOWED != 0;
        self.skip(header.length).await?;
        let outcome = match here {
            Here::Answer(reply) => Ok(reply),
            Here::Refuse(error) => Err(error),
            Here::Hello(hello) if wants_reply => {
                return self.serve_hello(*hello, header, allows_exhaust).await;
            }
            Here::Hello(hello) => Ok(self.greet(*hello).await),
            Here::Start(start) => self.begin_login(start).await.map(answers::with_ok),
            Here::Continue(message) => {
                let step = self.conversation.proceed(message).await;
                step.map(|step| answers::with_ok(self.take_step(step)))
            }
            Here::Logout => {
                self.member = None;
                Ok(answers::ok())
            }
        };
        if !wants_reply {
            return Flow::Continue(());
        }
        match outcome {
            Ok(reply) => self.answer(header.request_id, 0, &reply).await,
            Err(error) => self.refuse(header.request_id, &error).await,
        }
    }

    /// What is to be done, as far as the request's bytes alone decide it.
    fn decide(&self, header: &Header, message: &Message<'_>) -> Result<Decision, ErrorReply> {
        let body = &message.body;
        let name = body.command();
        if is_hello(name) {
            let hello = Hello::read(body.bytes(), &self.service.topology)?;
            if hello.metadata.is_some() && self.is_introduced {
                return Err(ErrorReply::metadata_again());
            }
            return Ok(Decision::Here(Here::Hello(Box::new(hello))));
        }
        match name {
            b"saslStart" => return SaslStart::read(body).map(Here::Start).map(Decision::Here),
            b"saslContinue" => {
                return SaslContinue::read(body)
                    .map(Here::Continue)
                    .map(Decision::Here);
            }
            b"authenticate" => {
                let mechanism = body.field("mechanism");
                let mechanism = mechanism
                    .and_then(|name| name.text())
                    .unwrap_or("MONGODB-X509");
                return Err(ErrorReply::mechanism(mechanism));
            }
            b"whatsmyuri" => {
                let peer = self.client.peer().to_string();
                return Ok(Decision::Here(Here::Answer(answers::whats_my_uri(&peer))));
            }
            b"isdbgrid" => return Ok(Decision::Here(Here::Answer(answers::is_db_grid()))),
            b"connectionStatus" => {
                let shows = body
                    .field("showPrivileges")
                    .is_some_and(|shows| shows.truth());
                return Ok(Decision::Here(Here::Answer(self.connection_status(shows))));
            }
            b"getnonce" => return Err(ErrorReply::unknown_command(name)),
            _ => {}
        }
        let Some(member) = &self.member else {
            return self.decide_before_login(name);
        };
        if name == b"logout" {
            return Ok(Decision::Here(Here::Logout));
        }
        let grant = Grant::of(&member.admitted.tenant, member.admitted.role);
        let command = policy::judge(&self.service.commands, grant, message)?;
        let mut plan = Plan::new(header, message, command, grant, &member.scope)?;
        if command.class == Class::Cursor
            && let Some(answer) = claim_cursors(member, body, &mut plan)?
        {
            return Ok(Decision::Here(Here::Answer(answer)));
        }
        Ok(Decision::Forward(plan))
    }

    fn decide_before_login(&self, name: &[u8]) -> Result<Decision, ErrorReply> {
        match name {
            b"ping" => Ok(Decision::Here(Here::Answer(answers::ok()))),
            b"buildInfo" | b"buildinfo" => {
                let version = self.service.settings.wire_version;
                Ok(Decision::Here(Here::Answer(answers::build_info(version))))
            }
            _ if self.service.commands.find(name).is_none() => {
                Err(ErrorReply::unknown_command(name))
            }
            _ => Err(ErrorReply::login_required(name)),
        }
    }

    fn connection_status(&self, shows_privileges: bool) -> RawDocumentBuf {
        let member = self.member.as_ref();
        let user = member.map(|member| (&*member.login, member.source.as_str()));
        let role = member.map(|member| member.admitted.role.label());
        answers::connection_status(user, role, shows_privileges)
    }
}

/// Whether the cursors of a request are the login's, and where they are; or the answer, if there is
/// nothing that a server could say.
fn claim_cursors(
    member: &Member,
    body: &Body<'_>,
    plan: &mut Plan,
) -> Result<Option<RawDocumentBuf>, ErrorReply> {
    let cursors = &member.servers.cursors;
    if body.command() == b"getMore" {
        // Without a number the server will say what it wants.
        let Some(id) = body.argument().integer() else {
            return Ok(None);
        };
        return match cursors.claim(id, &member.login) {
            Claim::Own(cursor) => {
                plan.go_on(id, cursor);
                Ok(None)
            }
            Claim::Foreign => Err(ErrorReply::cursor_foreign(id)),
            Claim::Unknown => Err(ErrorReply::cursor_not_found(id)),
        };
    }
    let listed = body.field("cursors");
    let listed = listed
        .as_ref()
        .and_then(|list| Elements::new(list.document()?).ok());
    let Some(listed) = listed else {
        return Ok(None);
    };
    let mut unknown = Vec::new();
    for id in listed.filter_map(|id| id.ok()?.integer()) {
        match cursors.claim(id, &member.login) {
            Claim::Own(cursor) => {
                plan.killed.push(id);
                plan.route = Route::Server(cursor.server);
            }
            Claim::Foreign => return Err(ErrorReply::cursor_foreign(id)),
            Claim::Unknown => unknown.push(id),
        }
    }
    match (plan.killed.is_empty(), unknown.first()) {
        (true, Some(_)) => Ok(Some(answers::cursors_not_found(&unknown))),
        // Only the server could answer for the others, and it must not be asked of this one.
        (false, Some(id)) => Err(ErrorReply::cursor_not_found(*id)),
        (_, None) => Ok(None),
    }
}
