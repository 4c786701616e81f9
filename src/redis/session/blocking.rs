//! Waiting in line with others for what a blocking command asks for.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::{Over, Session, attend::Wait};
use crate::{
    redis::{
        blocking::{Outcome, Ticket, Wish},
        refusal::{self, Plain},
        wire::{self, NULL_ARRAY, Version},
    },
    telemetry::SessionEnd,
};

impl Session {
    /// Carries out a blocking command; nothing is owed to the client.
    pub(super) async fn wait_in_line(
        &mut self,
        mut wish: Wish,
        patience: Option<Duration>,
    ) -> Result<(), Over> {
        let until = patience.and_then(|time| Instant::now().checked_add(time));
        let Some(member) = &self.member else {
            return Ok(());
        };
        let (station, client) = (Arc::clone(&member.station), member.seat.id());
        // Where a stream ends is where it ends now, not when there is an upstream to wait on.
        for (at, key) in wish.ends() {
            let (version, database) = (self.version, wish.database());
            let words = [&b"XREVRANGE"[..], &key, b"+", b"-", b"COUNT", b"1"];
            let asked = station.ask(version, database, &words);
            match self.attended(Wait::Brief, asked).await? {
                Ok(reply) if reply.starts_with(b"-") => {
                    // As the command itself would have been answered.
                    self.say(|out, _| out.extend_from_slice(&reply));
                    return Ok(());
                }
                Ok(reply) => {
                    let last = wire::strings(&reply).into_iter().next();
                    wish.set_end(at, last.unwrap_or(Bytes::from_static(b"0-0")));
                }
                Err(refusal) => {
                    self.say(|out, _| refusal::refuse(out, &refusal));
                    return Ok(());
                }
            }
        }
        self.show();
        let mut ticket = station
            .shares()
            .join(&station, &wish, (client, self.version));
        match self.outcome(&mut ticket, until).await? {
            Outcome::Reply(reply) => self.take(&ticket, reply)?,
            Outcome::Refused(refusal) => self.say(|out, _| refusal::refuse(out, &refusal)),
            Outcome::Unblocked => self.say(|out, _| refusal::plain(out, Plain::Unblocked)),
            Outcome::Expired => {
                self.say(|out, version| out.extend_from_slice(version.pick(NULL_ARRAY)));
            }
        }
        Ok(())
    }

    /// What the wait came to. Over by time, it goes on until the server has been asked once for this client.
    async fn outcome(
        &mut self,
        ticket: &mut Ticket,
        until: Option<Instant>,
    ) -> Result<Outcome, Over> {
        let mut late = until.map(|until| Box::pin(sleep_until(until)));
        std::future::poll_fn(|context| {
            // The client first: whoever has gone does not take anything.
            self.poll_attended(context, Wait::Blocked)?;
            if let Some(time) = &mut late
                && time.as_mut().poll(context).is_ready()
            {
                late = None;
                ticket.expire();
            }
            ticket.poll(context).map(Ok)
        })
        .await
    }

    /// Asks a cluster once, without waiting, for a client whose time was over before it had an upstream.
    pub(super) async fn ask_at_once(&mut self, wish: Wish) -> Result<(), Over> {
        let Some(cluster) = self
            .member
            .as_ref()
            .and_then(|it| it.station.cluster().cloned())
        else {
            return Ok(());
        };
        let asked = cluster.ask_at_once(wish, self.slot, self.version);
        match self.attended(Wait::Blocked, asked).await? {
            Ok(mut gift) => {
                if gift.reply().is_empty() || wire::is_null(gift.reply()) {
                    self.say(|out, version| out.extend_from_slice(version.pick(NULL_ARRAY)));
                } else if !self.is_silent() && !self.outbox.hand_over(gift.reply()) {
                    return Err(Over(SessionEnd::Vanished));
                }
                gift.take();
            }
            Err(refusal) => self.say(|out, _| refusal::refuse(out, &refusal)),
        }
        Ok(())
    }

    /// Hands over what was waited for, or gives it back.
    fn take(&mut self, ticket: &Ticket, reply: Bytes) -> Result<(), Over> {
        let is_taken = match (self.is_silent(), self.version) {
            (true, _) => true,
            (false, Version::Resp3) => self.outbox.hand_over(&reply),
            (false, Version::Resp2) => self.outbox.hand_over(&wire::for_resp2(&reply)),
        };
        if is_taken {
            return Ok(());
        }
        ticket.give_back(reply);
        Err(Over(SessionEnd::Vanished))
    }
}
