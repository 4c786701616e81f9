//! What can be wrong with a message.

use std::fmt;

/// Why bytes are not a message, or a message not a command.
///
/// A real server closes the connection for some and answers an error for others;
/// [`WireFault::is_fatal`] tells which.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum WireFault {
    /// The announced length is outside of what is accepted.
    Length {
        /// The announced length.
        bytes: i64,
        /// The limit in force.
        max: usize,
    },
    /// An operation that is not spoken here.
    Opcode(i32),
    /// A required flag bit that is not known.
    Flags(u32),
    /// The checksum does not fit the bytes.
    Checksum,
    /// The sections do not add up.
    Layout(&'static str),
    /// There are two body sections.
    TwoBodies,
    /// There is no body section.
    NoBody,
    /// Two document sequences bear the same name.
    TwoSequences(&'static str),
    /// A document sequence of a name that no command takes.
    UnknownSequence(String),
    /// A document sequence bears the name of a field of the body.
    SequenceIsField(&'static str),
    /// A top-level field occurs twice.
    DuplicateField(String),
    /// There are more top-level fields than any command has.
    TooManyFields,
    /// The body is not BSON.
    Bson(&'static str),
    /// `$db` is missing.
    NoDatabase,
    /// `$db` is no string.
    DatabaseType,
    /// `$db` is a string that cannot name a database.
    DatabaseName(String),
}

impl WireFault {
    /// Whether the connection cannot go on.
    pub(crate) const fn is_fatal(&self) -> bool {
        match self {
            Self::Length { .. }
            | Self::Opcode(_)
            | Self::Flags(_)
            | Self::Checksum
            | Self::Layout(_) => true,
            Self::TwoBodies
            | Self::NoBody
            | Self::TwoSequences(_)
            | Self::UnknownSequence(_)
            | Self::SequenceIsField(_)
            | Self::DuplicateField(_)
            | Self::TooManyFields
            | Self::Bson(_)
            | Self::NoDatabase
            | Self::DatabaseType
            | Self::DatabaseName(_) => false,
        }
    }
}

impl fmt::Display for WireFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { bytes, max } => {
                write!(f, "message length {bytes} is not within 16 and {max}")
            }
            Self::Opcode(code) => write!(f, "operation code {code} is not spoken here"),
            Self::Flags(bits) => write!(f, "unknown required flag bits {bits:#x}"),
            Self::Checksum => f.write_str("the checksum does not fit the message"),
            Self::Layout(what) => write!(f, "malformed message: {what}"),
            Self::TwoBodies => f.write_str("Multiple body sections in message"),
            Self::NoBody => f.write_str("OP_MSG messages must have a body section"),
            Self::TwoSequences(name) => write!(f, "Duplicate document sequence: {name}"),
            Self::UnknownSequence(name) => write!(f, "Unknown document sequence: {name}"),
            Self::SequenceIsField(name) => {
                write!(
                    f,
                    "Duplicate field between body and document sequence {name}"
                )
            }
            Self::DuplicateField(name) => write!(f, "BSON field '{name}' is a duplicate field"),
            Self::TooManyFields => f.write_str("the command has too many top-level fields"),
            Self::Bson(what) => write!(f, "invalid BSON: {what}"),
            Self::NoDatabase => f.write_str("OP_MSG requests require a $db argument"),
            Self::DatabaseType => f.write_str("wrong type for field ($db), expected string"),
            Self::DatabaseName(name) => write!(f, "Invalid database name: '{name}'"),
        }
    }
}

impl std::error::Error for WireFault {}
