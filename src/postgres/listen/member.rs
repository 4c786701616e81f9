//! Where a client's notifications wait until its session may hand them on.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::state::channel_of;

/// Why nothing more will come.
#[derive(Debug, Clone)]
pub(in crate::postgres) enum End {
    /// The listener was lost; what the server said, if it did.
    Lost(Option<Arc<[u8]>>),
    /// More waits than may.
    Full,
}

/// One client, as the listener sees it.
pub(in crate::postgres) struct Member {
    pub(in crate::postgres) id: u64,
    bytes_max: usize,
    mailbox: Mutex<Mailbox>,
}

#[derive(Default)]
struct Mailbox {
    /// Whole messages.
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// What was asked for has been done.
    answered: bool,
    /// The token has come: the channels that it joined are its own now.
    joined: bool,
    end: Option<End>,
    /// Something happened since it was last looked at.
    news: bool,
    session: Option<Waker>,
}

impl Mailbox {
    fn wake(&mut self) {
        self.news = true;
        if let Some(session) = self.session.take() {
            session.wake();
        }
    }
}

impl Member {
    pub(in crate::postgres) fn new(id: u64, bytes_max: usize) -> Arc<Self> {
        Arc::new(Self {
            id,
            bytes_max,
            mailbox: Mutex::default(),
        })
    }

    /// A notification for the client.
    pub(super) fn push(&self, message: &Bytes) {
        let mut mailbox = self.mailbox.lock();
        if mailbox.end.is_some() {
            return;
        }
        mailbox.bytes += message.len();
        if mailbox.bytes > self.bytes_max {
            mailbox.end = Some(End::Full);
            mailbox.queue.clear();
        } else {
            mailbox.queue.push_back(message.clone());
        }
        mailbox.wake();
    }

    /// What the session asked for has been done.
    pub(super) fn answer(&self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.answered = true;
        mailbox.wake();
    }

    /// The token has come.
    pub(super) fn join(&self) {
        let mut mailbox = self.mailbox.lock();
        mailbox.joined = true;
        mailbox.wake();
    }

    /// Nothing more will come.
    pub(super) fn end(&self, end: End) {
        let mut mailbox = self.mailbox.lock();
        mailbox.end.get_or_insert(end);
        mailbox.wake();
    }

    /// Ready when something happened since this was last asked.
    pub(in crate::postgres) fn poll_news(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut mailbox = self.mailbox.lock();
        if std::mem::take(&mut mailbox.news) {
            return Poll::Ready(());
        }
        match &mailbox.session {
            Some(session) if session.will_wake(context.waker()) => {}
            _ => mailbox.session = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Why nothing more will come.
    pub(in crate::postgres) fn ended(&self) -> Option<End> {
        self.mailbox.lock().end.clone()
    }

    /// Whether what was asked for has been done; once.
    pub(in crate::postgres) fn take_answer(&self) -> bool {
        std::mem::take(&mut self.mailbox.lock().answered)
    }

    /// Whether the token has come; once.
    pub(in crate::postgres) fn take_joined(&self) -> bool {
        std::mem::take(&mut self.mailbox.lock().joined)
    }

    /// The next notification.
    pub(in crate::postgres) fn pop(&self) -> Option<Bytes> {
        let mut mailbox = self.mailbox.lock();
        let message = mailbox.queue.pop_front()?;
        mailbox.bytes -= message.len();
        if mailbox.queue.is_empty() {
            mailbox.queue = VecDeque::new();
        }
        Some(message)
    }

    /// Whether notifications wait.
    pub(in crate::postgres) fn has_mail(&self) -> bool {
        !self.mailbox.lock().queue.is_empty()
    }

    /// Drops what waits of channels that the client does not listen to any more.
    pub(super) fn forget(&self, keeps: impl Fn(&[u8]) -> bool) {
        let mut mailbox = self.mailbox.lock();
        let Mailbox { queue, bytes, .. } = &mut *mailbox;
        queue.retain(|message| {
            let kept = channel_of(message).is_none_or(&keeps);
            if !kept {
                *bytes -= message.len();
            }
            kept
        });
    }
}
