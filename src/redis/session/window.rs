//! How many commands of a client may be under way on trunks.
//!
//! What has been sent comes back at the server's pace, and waits here for a client that is slower. How large
//! replies are is known when the first have come: so each burst begins with few commands, and has
//! twice as many after each time that it was held up, as far as the size of its replies allows.

use super::{Next, Session, attend::READ_AHEAD_BYTES};

/// Commands with which a burst begins.
const FIRST: usize = 32;
/// Output at which a client's further commands wait.
const HIGH_WATER: usize = 256 * 1024;
/// Bytes of replies that may be under way to a client, as far as the last ones tell.
const BYTES: usize = 4 * 1024 * 1024;

/// The window of the burst that is under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    commands: usize,
    /// It has held up a command, which is the next to go.
    was_full: bool,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            commands: FIRST,
            was_full: false,
        }
    }
}

impl Window {
    /// When commands are to go: wider if the last held some up, narrow again for a new burst.
    fn resumed(self, is_idle: bool, commands_max: usize) -> Self {
        let commands = match (self.was_full, is_idle) {
            (true, _) => self.commands.saturating_mul(2).min(commands_max),
            (false, true) => FIRST.min(commands_max),
            (false, false) => self.commands,
        };
        Self {
            commands,
            was_full: false,
        }
    }
}

impl Session {
    /// How many more commands may be under way.
    pub(super) fn room_for_commands(&self) -> Result<usize, Next> {
        let standing = self.outbox.standing();
        let in_flight_max = self.service.settings().in_flight_max;
        let mut window = self.window.get().resumed(standing.owed == 0, in_flight_max);
        let room = (BYTES / standing.reply_bytes.max(1)).clamp(1, window.commands);
        window.was_full = standing.owed >= room;
        self.window.set(window);
        // Of a client that has sent a lot without reading, more is served: see `settled`.
        let is_full = standing.waiting > HIGH_WATER && self.input.len() < READ_AHEAD_BYTES;
        if window.was_full || is_full {
            return Err(Next::Settled(room / 2));
        }
        Ok(room - standing.owed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bursts_begin_narrow_and_widen_as_they_go_on() {
        let full = Window {
            was_full: true,
            ..Window::default()
        };
        assert_eq!(full.resumed(true, 1024).commands, 2 * FIRST);
        assert_eq!(full.resumed(false, FIRST).commands, FIRST);
        let wide = Window {
            commands: 512,
            was_full: false,
        };
        assert_eq!(wide.resumed(false, 1024).commands, 512);
        assert_eq!(wide.resumed(true, 1024).commands, FIRST);
        assert_eq!(wide.resumed(true, 8).commands, 8);
    }
}
