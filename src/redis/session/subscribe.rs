//! The SUBSCRIBE family, and what being subscribed means in RESP2.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::{Next, Over, Session, attend::Wait, request::Request};
use crate::{
    redis::{
        commands::Command,
        refusal,
        subscriptions::{Kind, Subscriber},
        wire::Version,
    },
    telemetry::SessionEnd,
};

impl Session {
    pub(super) fn dispatch_subscribe(
        &mut self,
        request: &Request,
        command: &Command,
    ) -> Result<usize, Next> {
        let Some((kind, begins)) = Kind::of_command(&command.name) else {
            return self.decline(request, |out| refusal::unsupported(out, &command.name));
        };
        // The acknowledgements go to the client directly, so they wait for what is owed.
        if self.outbox.standing().owed > 0 {
            return Err(Next::Settled(0));
        }
        let names: Vec<Bytes> = request.words.iter().skip(1).cloned().collect();
        self.input.advance(request.bytes);
        Err(Next::Subscribe {
            kind,
            begins,
            names,
        })
    }

    /// Subscribes or unsubscribes; nothing is owed to the client.
    pub(super) async fn subscribe(
        &mut self,
        kind: Kind,
        begins: bool,
        names: Vec<Bytes>,
    ) -> Result<(), Over> {
        let Some(mut subscriber) = self.take_subscriber() else {
            return Ok(());
        };
        let outcome = self
            .attended(Wait::Brief, async {
                if begins {
                    return subscriber.subscribe(kind, &names).await;
                }
                subscriber.unsubscribe(kind, &names).await;
                Ok(())
            })
            .await?;
        self.keep_subscriber(subscriber);
        if let Err(refusal) = outcome {
            return self
                .answer(|out, _| refusal::refuse(out, &refusal))
                .map_err(|_| Over(SessionEnd::UpstreamLost));
        }
        // Acknowledgements are heard even by a client that has asked for silence.
        self.heard();
        Ok(())
    }

    /// Whether it has any subscription.
    pub(super) fn is_subscribed(&self) -> bool {
        self.subscriber.is_some()
    }

    /// Whether it may send nothing but subscriptions: RESP2 has no way to tell replies from messages.
    pub(super) fn is_modal(&self) -> bool {
        self.is_subscribed() && self.version == Version::Resp2
    }

    fn take_subscriber(&mut self) -> Option<Subscriber> {
        let member = self.member.as_ref()?;
        Some(self.subscriber.take().unwrap_or_else(|| {
            let hub = Arc::clone(member.station.hub());
            Subscriber::new(
                hub,
                member.seat.id(),
                Arc::clone(&self.outbox),
                self.version,
            )
        }))
    }

    fn keep_subscriber(&mut self, subscriber: Subscriber) {
        self.subscriber = (!subscriber.is_empty()).then_some(subscriber);
    }
}
