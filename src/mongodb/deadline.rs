//! The time that a client gives a command, less what the command has waited here.

use std::{ops::Range, time::Duration};

use tokio::time::Instant;

use super::wire::{Header, MESSAGE_BYTES_MAX, Message, lower_integer};

/// When a command has to be done.
#[derive(Debug)]
pub(super) struct Deadline {
    /// Where `maxTimeMS` is in the message.
    field: Range<usize>,
    asked_at: Instant,
    given: Duration,
}

impl Deadline {
    /// The deadline of a command that begins to wait now, if the client gave it one. A `getMore` has none: there the
    /// field says how long it may wait for data.
    pub(super) fn of(message: &[u8]) -> Option<Self> {
        Self::since(message, Instant::now())
    }

    /// The deadline of a command that came at that time.
    pub(super) fn since(message: &[u8], asked_at: Instant) -> Option<Self> {
        let header = Header::parse(message, MESSAGE_BYTES_MAX).ok()??;
        let message = Message::parse(message, &header).ok()?;
        let field = message.body.field("maxTimeMS")?;
        let millis = u64::try_from(field.integer()?).ok()?;
        if millis == 0 || message.body.command() == b"getMore" {
            return None;
        }
        let body_at = message.body_at.start;
        Some(Self {
            field: body_at + field.range.start..body_at + field.range.end,
            asked_at,
            given: Duration::from_millis(millis),
        })
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
    use crate::mongodb::wire::encode_message;

    fn encoded(body: &RawDocumentBuf) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_message(&mut bytes, 1, 0, 0, body.as_bytes());
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_waited_is_taken_off() {
        let find = |millis: i32| encoded(&rawdoc! { "find": "c", "maxTimeMS": millis, "$db": "a" });
        let mut bytes = find(500);
        let deadline = Deadline::of(&bytes).unwrap();
        tokio::time::advance(Duration::from_millis(120)).await;
        deadline.lower(&mut bytes);
        assert_eq!(bytes, find(380));
        tokio::time::advance(Duration::from_secs(1)).await;
        deadline.lower(&mut bytes);
        assert_eq!(bytes, find(1));
    }

    #[tokio::test]
    async fn most_commands_have_none() {
        for body in [
            rawdoc! { "find": "c", "$db": "a" },
            rawdoc! { "find": "c", "maxTimeMS": 0, "$db": "a" },
            rawdoc! { "getMore": 7_i64, "maxTimeMS": 500, "$db": "a" },
        ] {
            assert!(Deadline::of(&encoded(&body)).is_none());
        }
    }
}
