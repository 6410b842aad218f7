//! Small values in instructions: owners, durations, sizes, ports, signals.
//!
//! Each is parsed as BuildKit does it, with Go's own notations where it uses Go's own parsers.

/// Why a value is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a duration.
    #[error("invalid duration `{0}`: must look like `30s`, `1m30s` or `500ms`")]
    Duration(String),
    /// Not a size.
    #[error("invalid size `{0}`: must look like `64m`, `1.5GiB` or a number of bytes")]
    Size(String),
    /// Not a port.
    #[error("invalid port `{port}`: {why}")]
    Port {
        /// The port as written.
        port: String,
        /// What is wrong with it.
        why: String,
    },
    /// Not a signal.
    #[error("invalid signal `{0}`: must be a name such as `SIGTERM`, or a number")]
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

impl Owner {
    fn parse(text: &str) -> Option<Owner> {
        match text.parse() {
            _ if text.is_empty() => None,
            Ok(id) => Some(Owner::Id(id)),
            Err(_) => Some(Owner::Name(text.to_owned())),
        }
    }
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
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        Chown { user: Owner::parse(user), group: Owner::parse(group) }
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
    /// The protocol was not in lower case (ExposeProtoCasing).
    pub odd_casing: bool,
    /// An address or host port was given too, and is ignored (ExposeInvalidFormat).
    pub host_part: bool,
}

impl PortRange {
    /// Gives `80/tcp` and so on.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        (self.start..=self.end).map(|port| format!("{port}/{}", self.protocol))
    }
}

/// Parses one expanded word of an EXPOSE: `[[address:]host-port:]port[-port][/protocol]`.
pub fn parse_port(text: &str) -> Result<PortRange, Error> {
    let fail = |why: String| Error::Port { port: text.to_owned(), why };
    let (host, spec) = text.rsplit_once(':').map_or((None, text), |(host, s)| (Some(host), s));
    let (ports, protocol) = spec.split_once('/').unwrap_or((spec, ""));
    if ports.is_empty() {
        return Err(fail("no port in it".into()));
    }
    let lower = protocol.to_lowercase();
    let protocol_name = match lower.as_str() {
        "" => "tcp",
        "tcp" | "udp" | "sctp" => lower.as_str(),
        _ => return Err(fail(format!("unknown protocol `{protocol}`"))),
    };
    let (start, end) = range(ports).map_err(fail)?;
    if let Some(host) = host {
        let (address, host_ports) = host.rsplit_once(':').unwrap_or(("", host));
        check_address(address).map_err(fail)?;
        if !host_ports.is_empty() {
            let (first, last) = range(host_ports).map_err(fail)?;
            if end != start && end - start != last - first {
                return Err(fail("the ranges of host and container have different lengths".into()));
            }
        }
    }
    Ok(PortRange {
        start,
        end,
        protocol: protocol_name.to_owned(),
        odd_casing: protocol != lower,
        host_part: host.is_some_and(|host| !host.is_empty()),
    })
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let (start, end) = (port_number(start)?, port_number(end)?);
    if end < start {
        return Err(format!("the range `{text}` ends before it starts"));
    }
    Ok((start, end))
}

fn port_number(text: &str) -> Result<u16, String> {
    match text.parse::<i64>() {
        Ok(port) => u16::try_from(port).map_err(|_| format!("{port} is not between 0 and 65535")),
        Err(_) => Err(format!("`{text}` is not a number")),
    }
}

fn check_address(text: &str) -> Result<(), String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.is_empty() || bare.parse::<core::net::IpAddr>().is_ok() {
        return Ok(());
    }
    Err(format!("`{bare}` is not an IP address"))
}

/// The signals of Linux on all architectures but MIPS, as Docker names them.
const SIGNALS: [(&str, i32); 36] = [
    ("ABRT", 6),
    ("ALRM", 14),
    ("BUS", 7),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("FPE", 8),
    ("HUP", 1),
    ("ILL", 4),
    ("INT", 2),
    ("IO", 29),
    ("IOT", 6),
    ("KILL", 9),
    ("PIPE", 13),
    ("POLL", 29),
    ("PROF", 27),
    ("PWR", 30),
    ("QUIT", 3),
    ("SEGV", 11),
    ("STKFLT", 16),
    ("STOP", 19),
    ("SYS", 31),
    ("TERM", 15),
    ("TRAP", 5),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("USR1", 10),
    ("USR2", 12),
    ("VTALRM", 26),
    ("WINCH", 28),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("RTMIN", 34),
    ("RTMAX", 64),
];

/// Parses a signal: a number but 0, or a name with or without `SIG`, in any case.
pub fn parse_signal(text: &str) -> Result<i32, Error> {
    let fail = || Error::Signal(text.to_owned());
    if let Ok(number) = text.parse::<i32>() {
        return if number == 0 { Err(fail()) } else { Ok(number) };
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = SIGNALS.iter().find(|(known, _)| *known == name) {
        return Ok(*number);
    }
    // RTMIN+1…RTMIN+15 and RTMAX-14…RTMAX-1; no zeros, signs or blanks.
    let offset = |digits: &str| match digits.parse::<i32>() {
        Ok(number) if digits == number.to_string() => Some(number),
        _ => None,
    };
    if let Some(plus @ 1..=15) = name.strip_prefix("RTMIN+").and_then(offset) {
        return Ok(34 + plus);
    }
    if let Some(minus @ 1..=14) = name.strip_prefix("RTMAX-").and_then(offset) {
        return Ok(64 - minus);
    }
    Err(fail())
}

/// Parses a duration as Go writes it (`-1h2m3.5s`, `0`) into nanoseconds.
pub fn parse_duration(text: &str) -> Result<i64, Error> {
    let fail = || Error::Duration(text.to_owned());
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(fail());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (whole, tail) = rest.split_at(digits(rest));
        let (fraction, tail) = match tail.strip_prefix('.') {
            Some(tail) => tail.split_at(digits(tail)),
            None => ("", tail),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(fail());
        }
        let unit_len = tail.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(fail()),
        };
        // Nobody's duration has more digits; this keeps the sums below from overflowing.
        if whole.trim_start_matches('0').len() > 19 {
            return Err(fail());
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| fail())? };
        total += whole * unit;
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total += i128::from(digit - b'0') * scale;
        }
        if total > i128::from(i64::MAX) + 1 {
            return Err(fail());
        }
        rest = tail;
    }
    i64::try_from(if negative { -total } else { total }).map_err(|_| fail())
}

/// Parses a size as Docker writes it (`64m`, `1.5 GiB`, `100`) into bytes; units count by 1024.
pub fn parse_size(text: &str) -> Result<u64, Error> {
    let fail = || Error::Size(text.to_owned());
    let number_end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ');
    let number_end = number_end.map(|at| at + 1).ok_or_else(fail)?;
    let (number, suffix) = text.split_at(number_end);
    let number = number.strip_suffix(' ').unwrap_or(number);
    if number.starts_with('-') || !number.bytes().all(|b| b.is_ascii_digit() || b".+e".contains(&b))
    {
        return Err(fail());
    }
    let number: f64 = number.parse().map_err(|_| fail())?;
    let lower = suffix.to_ascii_lowercase();
    let power = match lower.as_bytes() {
        [] | [b'b'] => 0,
        [unit] | [unit, b'b'] | [unit, b'i', b'b'] => {
            1 + b"kmgtp".iter().position(|known| known == unit).ok_or_else(fail)? as i32
        }
        _ => return Err(fail()),
    };
    let bytes = number * 1024_f64.powi(power);
    if !(0.0..9_223_372_036_854_775_808.0).contains(&bytes) {
        return Err(fail());
    }
    Ok(bytes as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, expect) in [
            ("0", Some(0)),
            ("30s", Some(30_000_000_000)),
            ("1h2m3.5s", Some(3_723_500_000_000)),
            ("1.5h", Some(5_400_000_000_000)),
            (".5ms", Some(500_000)),
            ("5.s", Some(5_000_000_000)),
            ("100us", Some(100_000)),
            ("3µs", Some(3_000)),
            ("3μs", Some(3_000)),
            ("-1s", Some(-1_000_000_000)),
            ("+1m", Some(60_000_000_000)),
            ("-0", Some(0)),
            ("2562047h47m16.854775807s", Some(i64::MAX)),
            ("2562047h47m16.854775808s", None),
            ("99999999999999999999h", None),
            ("", None),
            ("30", None),
            ("s", None),
            (".s", None),
            ("1d", None),
            ("1 s", None),
            ("1s-1s", None),
            ("--1s", None),
            ("1S", None),
        ] {
            assert_eq!(parse_duration(text).ok(), expect, "{text}");
        }
    }

    #[test]
    fn sizes_are_dockers() {
        for (text, expect) in [
            ("0", Some(0)),
            ("100", Some(100)),
            ("100b", Some(100)),
            ("64m", Some(64 << 20)),
            ("64MB", Some(64 << 20)),
            ("1.5 GiB", Some(3 << 29)),
            ("2k", Some(2048)),
            ("1t", Some(1 << 40)),
            ("1p", Some(1 << 50)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("1x", None),
            ("1mm", None),
            ("1bb", None),
            ("1mib2", None),
            ("9999999p", None),
        ] {
            assert_eq!(parse_size(text).ok(), expect, "{text}");
        }
    }

    #[test]
    fn owners_split_at_the_first_colon() {
        let id = |id| Some(Owner::Id(id));
        let name = |name: &str| Some(Owner::Name(name.to_owned()));
        for (text, user, group) in [
            ("1000", id(1000), None),
            ("1000:0", id(1000), id(0)),
            ("app:staff", name("app"), name("staff")),
            (":staff", None, name("staff")),
            ("app:", name("app"), None),
            ("a:b:c", name("a"), name("b:c")),
            ("-1", name("-1"), None),
            ("4294967296", name("4294967296"), None),
            ("", None, None),
        ] {
            assert_eq!(Chown::parse(text), Chown { user, group }, "{text}");
        }
    }

    /// `expect` is `first…last` of the names, or the reason.
    fn check_port(text: &str, expect: &str) {
        let got = match parse_port(text) {
            Ok(range) => {
                let names: Vec<String> = range.names().collect();
                let flags = [(range.odd_casing, " casing"), (range.host_part, " host")];
                let flags = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name);
                let flags: String = flags.collect();
                let ends = [names.first().cloned(), names.last().cloned()];
                format!("{}{flags}", ends.map(Option::unwrap_or_default).join("…"))
            }
            Err(Error::Port { why, .. }) => why,
            Err(other) => other.to_string(),
        };
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn ports() {
        for (text, expect) in [
            ("80", "80/tcp…80/tcp"),
            ("80/", "80/tcp…80/tcp"),
            ("53/udp", "53/udp…53/udp"),
            ("53/UDP", "53/udp…53/udp casing"),
            ("8000-8002/sctp", "8000/sctp…8002/sctp"),
            ("0", "0/tcp…0/tcp"),
            ("8080:80", "80/tcp…80/tcp host"),
            (":80", "80/tcp…80/tcp"),
            ("127.0.0.1:8080:80/tcp", "80/tcp…80/tcp host"),
            ("[::1]:8080:80", "80/tcp…80/tcp host"),
            ("::1:8080:80", "80/tcp…80/tcp host"),
            ("127.0.0.1::80", "80/tcp…80/tcp host"),
            ("8000-8010:80", "80/tcp…80/tcp host"),
            ("1-2:3-5", "the ranges of host and container have different lengths"),
            ("65536", "65536 is not between 0 and 65535"),
            ("-1", "`` is not a number"),
            ("2-1", "the range `2-1` ends before it starts"),
            ("http", "`http` is not a number"),
            ("80/icmp", "unknown protocol `icmp`"),
            ("/tcp", "no port in it"),
            ("", "no port in it"),
            ("nope:1:80", "`nope` is not an IP address"),
        ] {
            check_port(text, expect);
        }
        assert_eq!(parse_port("0-65535").map(|range| range.names().count()), Ok(65536));
    }

    #[test]
    fn signals() {
        for (text, expect) in [
            ("SIGTERM", Some(15)),
            ("term", Some(15)),
            ("SigKill", Some(9)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("SIGRTMIN", Some(34)),
            ("RTMIN+16", None),
            ("RTMIN+03", None),
            ("RTMAX-15", None),
            ("0", None),
            ("", None),
            ("SIG", None),
            ("SIGSIGTERM", None),
            ("NOPE", None),
        ] {
            assert_eq!(parse_signal(text).ok(), expect, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9a-zA-Z.:/µ+ -]{0,24}") {
            let _ = (parse_duration(&text), parse_size(&text), parse_port(&text));
            let _ = (parse_signal(&text), Chown::parse(&text));
        }
    }
}
