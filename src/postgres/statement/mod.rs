//! What a statement may do to its session, told from its text by a scan of its tokens.
//!
//! This is no parser: it errs on the side of doubt. What it suspects is then asked of the upstream
//! itself (`settings`), so a false suspicion costs a question and a missed one is what tests hunt.
//! Every extra room of `postgres` is explained in its `mod.rs`.

mod body;
mod calls;
mod change;
mod config;
mod deeds;
mod doubted;
mod effects;
mod escapes;
mod facts;
mod fence;
mod foreign;
mod inert;
mod mentions;
mod places;
mod plain;
mod shift;
mod targets;
mod token;
mod written;

#[cfg(test)]
mod tests;

pub(crate) use body::{Language, defines_functions, judge};
pub(crate) use change::Change;
pub(crate) use deeds::Deed;
pub(crate) use doubted::QUOTES_PIN;
pub(crate) use effects::Effects;
pub(crate) use facts::{Facts, scan};
pub(crate) use inert::{is_call, is_inert};
pub(crate) use mentions::{Mention, digest, mentions};
pub(crate) use places::parameters;
pub(crate) use shift::{CONFORMING, ENCODING, is_plain};
