//! The hello and the login, as far as they change the session.

use std::{sync::Arc, time::Duration};

use bson::{RawArrayBuf, RawDocumentBuf, cstr};

use super::{
    super::{
        answers,
        hello::Hello,
        login::{Conversation, Newcomer, Origin, SaslStart, Step},
        refusal::ErrorReply,
        sessions::Scope,
        wire::{Compressor, Header, MORE_TO_COME},
    },
    Flow, Member, Session,
};
use crate::telemetry::SessionEnd;

impl Session {
    /// The hello's reply; what rides along is taken care of.
    pub(super) async fn greet(&mut self, mut hello: Hello) -> RawDocumentBuf {
        self.is_greeted = true;
        if let Some(metadata) = hello.metadata.take() {
            self.is_introduced = true;
            self.label = metadata.label;
        }
        let service = Arc::clone(&self.service);
        let mut reply = hello.reply(
            &service.topology,
            service.settings.wire_version,
            service.settings.mechanisms(),
            self.connection,
        );
        if let Some(compressors) = hello.compressors.take() {
            let offered = &service.settings.compressors;
            let agreed = compressors.into_iter().map(Compressor::label);
            let agreed = agreed.filter(|name| offered.iter().any(|offered| offered == name));
            let agreed: RawArrayBuf = agreed.collect();
            if !agreed.is_empty() {
                reply.append(cstr!("compression"), agreed);
            }
        }
        if let Some(start) = hello.speculation.take()
            && let Ok(first) = self.begin_login(start).await
        {
            reply.append(cstr!("speculativeAuthenticate"), first);
        }
        answers::with_ok(reply)
    }

    pub(super) async fn serve_hello(
        &mut self,
        hello: Hello,
        header: Header,
        allows_exhaust: bool,
    ) -> Flow {
        let Some(wait_max) = hello.awaits else {
            let reply = self.greet(hello).await;
            return self.answer(header.request_id, 0, &reply).await;
        };
        // An awaited hello, and for monitors a stream of them: each reply answers the one before.
        let name = hello.name;
        let mut reply = Some(hello);
        let mut answered = header.request_id;
        loop {
            let goes_on = self.wait_for_news(wait_max).await? && allows_exhaust;
            let hello = reply.take().unwrap_or_else(|| Hello::again(name));
            let body = self.greet(hello).await;
            let flags = if goes_on { MORE_TO_COME } else { 0 };
            let id = self.answer_as(answered, flags, &body).await?;
            if !goes_on {
                return Flow::Continue(());
            }
            answered = id;
        }
    }

    /// Waits for the topology to change; false when there is no point in waiting again.
    async fn wait_for_news(&mut self, wait_max: Duration) -> Flow<bool> {
        let service = Arc::clone(&self.service);
        if service.topology.counter() != 0 {
            return Flow::Continue(false);
        }
        tokio::select! {
            () = service.topology.changed() => Flow::Continue(false),
            () = tokio::time::sleep(wait_max) => Flow::Continue(true),
            // A client that says something does not listen to the stream any more.
            read = self.intake.fill(&mut self.client, 0) => match read {
                Ok(0) | Err(_) => Flow::Break(SessionEnd::Goodbye),
                Ok(_) => Flow::Continue(false),
            },
        }
    }

    pub(super) async fn begin_login(
        &mut self,
        start: SaslStart,
    ) -> Result<RawDocumentBuf, ErrorReply> {
        let origin = Origin {
            server_name: self.client.server_name(),
            peer: self.client.peer(),
            offered: self.service.settings.mechanisms(),
        };
        let admission = &self.service.admission;
        let step = self.conversation.begin(admission, start, origin).await?;
        let member = self.member.as_ref().map(|member| &*member.login);
        if member.is_some_and(|login| self.conversation.login() != Some(login)) {
            self.conversation = Conversation::None;
            return Err(ErrorReply::second_login());
        }
        Ok(self.take_step(step))
    }

    pub(super) fn take_step(&mut self, step: Step) -> RawDocumentBuf {
        if let Some(newcomer) = step.newcomer {
            self.take_seat(newcomer);
        }
        step.reply
    }

    fn take_seat(&mut self, newcomer: Newcomer) {
        let Newcomer {
            admitted,
            login,
            source,
        } = newcomer;
        if let Some(label) = &self.label {
            admitted.seat.set_label(label);
        }
        self.ending.watch(admitted.seat.end_token());
        self.member = Some(Member {
            servers: self.service.servers(&admitted.tenant),
            scope: Scope::new(admitted.tenant.id, &login),
            admitted,
            login: login.into(),
            source,
        });
    }
}
