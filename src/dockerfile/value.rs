//! Small values in instructions: owners, durations, sizes, ports, signals.

/// Why a value is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a duration.
    #[error("invalid duration `{0}`")]
    Duration(String),
    /// Not a port.
    #[error("invalid port `{port}`: {why}")]
    Port {
        /// The port as written.
        port: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not a signal.
    #[error("invalid signal `{0}`")]
    Signal(String),
}

/// A user or a group.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A number.
    Id(u32),
    /// A name, to be looked up in the destination's /etc/passwd or /etc/group.
    Name(String),
}

/// A `--chown`: `user`, `user:group` or `:group`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Chown {
    /// The user; None when nothing stands before the colon.
    pub user: Option<Owner>,
    /// The group; None when it is not named.
    pub group: Option<Owner>,
}

impl Chown {
    /// Splits a `--chown`.
    pub fn parse(text: &str) -> Chown {
        let _ = text;
        todo!()
    }
}

/// Ports of an EXPOSE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRange {
    /// The first port.
    pub start: u16,
    /// The last port.
    pub end: u16,
    /// `tcp`, `udp` or `sctp`, in lower case.
    pub protocol: String,
    /// The protocol was not in lower case.
    pub odd_casing: bool,
    /// An address or host port was given too (and is ignored).
    pub host_part: bool,
}

impl PortRange {
    /// Gives `80/tcp` and so on.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        (self.start..=self.end).map(|port| format!("{port}/{}", self.protocol))
    }
}

/// Parses one expanded word of an EXPOSE.
pub fn parse_port(text: &str) -> Result<PortRange, Error> {
    let _ = text;
    todo!()
}

/// Parses a signal name or number.
pub fn parse_signal(text: &str) -> Result<i32, Error> {
    let _ = text;
    todo!()
}

/// Parses a duration as Go writes it (`1h2m3.5s`) into nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, Error> {
    let _ = text;
    todo!()
}
