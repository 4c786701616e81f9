//! What is wrong with a configuration, by key and line, or by variable.

use std::{io, path::PathBuf};

use thiserror::Error;

/// Why a configuration is not one.
#[derive(Debug, Error)]
pub enum ConfigFault {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A key of the file is wrong.
    #[error("{path}:{line}: {key}: {why}")]
    Key {
        /// Which file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The key with its section.
        key: String,
        /// What is wrong with it.
        why: String,
    },
    /// What a key names cannot be used, wherever it was set.
    #[error("{key}: {why}")]
    Value {
        /// The key with its section.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A variable of the environment is wrong.
    #[error("{name}: {why}")]
    Variable {
        /// Which one.
        name: &'static str,
        /// What is wrong with it.
        why: String,
    },
}
