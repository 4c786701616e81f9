//! The time that a client gives a command, less what the command has waited here.

use std::{ops::Range, time::Duration};

use tokio::time::Instant;

use super::wire::{Body, lower_integer};

/// When a command has to be done.
#[derive(Debug)]
pub(super) struct Deadline {
    /// Where `maxTimeMS` is in the message.
    field: Range<usize>,
    asked_at: Instant,
    given: Duration,
}

impl Deadline {
    /// The deadline of a command that came just now, if the client gave it one. A `getMore` has none: there the
    /// field says how long it may wait for data.
    pub(super) fn of(body: &Body<'_>, body_at: usize) -> Option<Box<Self>> {
        let field = body.time_max.as_ref()?;
        let millis = u64::try_from(field.integer()?).ok()?;
        if millis == 0 || body.command() == b"getMore" {
            return None;
        }
        Some(Box::new(Self {
            field: body_at + field.range.start..body_at + field.range.end,
            asked_at: Instant::now(),
            given: Duration::from_millis(millis),
        }))
    }

    /// That many bytes before the field are gone.
    pub(super) fn shift(&mut self, bytes: usize) {
        self.field.start -= bytes;
        self.field.end -= bytes;
    }

    /// Where `maxTimeMS` is in the message.
    pub(super) const fn field(&self) -> &Range<usize> {
        &self.field
    }

    /// The moment after which nobody wants the answer.
    pub(super) fn at(&self) -> Option<Instant> {
        self.asked_at.checked_add(self.given)
    }

    /// Takes what was waited off what the message says.
    pub(super) fn lower(&self, message: &mut [u8]) {
        let left = self.given.saturating_sub(self.asked_at.elapsed());
        // Zero would mean for ever.
        let left = i64::try_from(left.as_millis()).unwrap_or(i64::MAX).max(1);
        lower_integer(message, &self.field, left);
    }
}

#[cfg(test)]
mod tests {
    use bson::{RawDocumentBuf, rawdoc};

    use super::*;
    use crate::mongodb::wire::{Message, encode_message};

    fn encoded(body: &RawDocumentBuf) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, 1, 0, 0, body.as_bytes());
        bytes
    }

    fn deadline(body: &RawDocumentBuf) -> Option<Box<Deadline>> {
        let body = Body::scan(body.as_bytes()).unwrap();
        Deadline::of(&body, Message::REPLY_BODY_AT)
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_waited_is_taken_off() {
        let find = |millis: i32| rawdoc! { "find": "c", "maxTimeMS": millis, "$db": "a" };
        let mut bytes = encoded(&find(500));
        let deadline = deadline(&find(500)).unwrap();
        tokio::time::advance(Duration::from_millis(120)).await;
        deadline.lower(&mut bytes);
        assert_eq!(bytes, encoded(&find(380)));
        tokio::time::advance(Duration::from_secs(1)).await;
        deadline.lower(&mut bytes);
        assert_eq!(bytes, encoded(&find(1)));
    }

    #[tokio::test]
    async fn most_commands_have_none() {
        for body in [
            rawdoc! { "find": "c", "$db": "a" },
            rawdoc! { "find": "c", "maxTimeMS": 0, "$db": "a" },
            rawdoc! { "getMore": 7_i64, "maxTimeMS": 500, "$db": "a" },
        ] {
            assert!(deadline(&body).is_none());
        }
    }
}
