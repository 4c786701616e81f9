//! Statements after which the next one of a text may see another session than the text began with.

use super::Facts;

/// Whether the next statement may run with other parameters than the text began with.
pub(super) fn fence(facts: &mut Facts, first: &[u8], second: &[u8]) -> bool {
    match (first, second) {
        (b"reset" | b"discard", b"all") => {
            facts.resets_all = true;
            true
        }
        (b"begin" | b"start", _) => {
            facts.begins = true;
            false
        }
        (b"commit" | b"end" | b"rollback" | b"abort", _) | (b"prepare", b"transaction") => true,
        _ => false,
    }
}
