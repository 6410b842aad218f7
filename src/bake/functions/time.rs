//! Times: RFC 3339 in and out, always computed in the offset that is written.

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

use super::super::value::Value;
use super::{Answer, World};

/// A time as it was written: the moment and the offset.
fn parse(text: &str) -> Result<jiff::Zoned, String> {
    let wrong = || format!("{text:?} is no time as 2006-01-02T15:04:05Z (RFC 3339)");
    let moment: Timestamp = text.parse().map_err(|_| wrong())?;
    let offset = match text.rfind(['+', '-']).filter(|at| *at > 10) {
        None => Offset::UTC,
        Some(at) => {
            let (hours, minutes) = text[at + 1..].split_once(':').ok_or_else(wrong)?;
            let hours: i32 = hours.parse().map_err(|_| wrong())?;
            let minutes: i32 = minutes.parse().map_err(|_| wrong())?;
            let seconds = hours * 3600 + minutes * 60;
            let sign = if text.as_bytes()[at] == b'-' { -1 } else { 1 };
            Offset::from_seconds(sign * seconds).map_err(|_| wrong())?
        }
    };
    Ok(moment.to_zoned(TimeZone::fixed(offset)))
}

fn moment(seconds: i64) -> Result<jiff::Zoned, String> {
    let time = Timestamp::from_second(seconds);
    time.map(|time| time.to_zoned(TimeZone::UTC))
        .map_err(|_| format!("{seconds} seconds since 1970 is out of range"))
}

fn offset(time: &jiff::Zoned, colon: bool, zulu: bool) -> String {
    let seconds = time.offset().seconds();
    if seconds == 0 && zulu {
        return "Z".to_owned();
    }
    let sign = if seconds < 0 { '-' } else { '+' };
    let minutes = seconds.abs() / 60;
    let colon = if colon { ":" } else { "" };
    format!("{sign}{:02}{colon}{:02}", minutes / 60, minutes % 60)
}

fn rfc3339(time: &jiff::Zoned) -> String {
    let zone = offset(time, true, true);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{zone}",
        time.year(),
        time.month(),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

pub(super) fn timestamp(world: &World<'_>, _: &[Value]) -> Answer {
    Ok(Value::String(rfc3339(&moment(world.now)?)))
}

pub(super) fn timeadd(_: &World<'_>, args: &[Value]) -> Answer {
    let time = parse(&args[0].text()?)?;
    let text = args[1].text()?;
    let (sign, duration) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let nanoseconds = crate::dockerfile::value::parse_duration(duration)
        .map_err(|_| format!("{text:?} is no duration as 90m or -1h30m"))?;

    let added = time.checked_add(jiff::SignedDuration::from_nanos(sign * nanoseconds));
    Ok(Value::String(rfc3339(&added.map_err(|_| "the result is out of range".to_owned())?)))
}

pub(super) fn formatdate(_: &World<'_>, args: &[Value]) -> Answer {
    let time = parse(&args[1].text()?)?;
    format(&args[0].text()?, &time).map(Value::String)
}

pub(super) fn formattimestamp(_: &World<'_>, args: &[Value]) -> Answer {
    let time = match &args[1] {
        Value::Number(_) => moment(args[1].integer()?)?,
        other => parse(&other.text()?)?,
    };
    match args[0].text()?.as_str() {
        "X" => Ok(Value::String(time.timestamp().as_second().to_string())),
        text => format(text, &time).map(Value::String),
    }
}

/// Formats as cty's `formatdate`: runs of a letter are verbs, text is in single quotes.
fn format(format: &str, time: &jiff::Zoned) -> Result<String, String> {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] =
        ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
    let month = MONTHS[usize::try_from(time.month() - 1).unwrap_or(0) % 12];
    let day = DAYS[usize::try_from(time.weekday().to_monday_zero_offset()).unwrap_or(0) % 7];
    let twelve = match time.hour() % 12 {
        0 => 12,
        hour => hour,
    };
    let half = if time.hour() < 12 { "AM" } else { "PM" };
    let mut out = String::new();
    let mut chars = format.chars().peekable();
    while let Some(char) = chars.next() {
        if char == '\'' {
            loop {
                match chars.next() {
                    Some('\'') if chars.next_if_eq(&'\'').is_some() => out.push('\''),
                    Some('\'') => break,
                    Some(char) => out.push(char),
                    None => return Err("a quote is not closed in the format".to_owned()),
                }
            }
            continue;
        }
        if !char.is_ascii_alphabetic() {
            out.push(char);
            continue;
        }
        let mut verb = char.to_string();
        while chars.next_if_eq(&char).is_some() {
            verb.push(char);
        }
        out.push_str(&match verb.as_str() {
            "YYYY" => format!("{:04}", time.year()),
            "YY" => format!("{:02}", time.year().rem_euclid(100)),
            "MMMM" => month.to_owned(),
            "MMM" => month[..3].to_owned(),
            "MM" => format!("{:02}", time.month()),
            "M" => time.month().to_string(),
            "DD" => format!("{:02}", time.day()),
            "D" => time.day().to_string(),
            "EEEE" => day.to_owned(),
            "EEE" => day[..3].to_owned(),
            "hh" => format!("{:02}", time.hour()),
            "h" => time.hour().to_string(),
            "HH" => format!("{twelve:02}"),
            "H" => twelve.to_string(),
            "AA" => half.to_owned(),
            "aa" => half.to_lowercase(),
            "mm" => format!("{:02}", time.minute()),
            "m" => time.minute().to_string(),
            "ss" => format!("{:02}", time.second()),
            "s" => time.second().to_string(),
            "ZZZZZ" => offset(time, true, false),
            "ZZZZ" => offset(time, false, false),
            "ZZZ" if time.offset().seconds() == 0 => "UTC".to_owned(),
            "ZZZ" => offset(time, false, false),
            "Z" => offset(time, true, true),
            _ => {
                return Err(format!("the format has no verb {verb:?}; text goes in single quotes"));
            }
        });
    }
    Ok(out)
}

pub(super) fn unixtimestampparse(_: &World<'_>, args: &[Value]) -> Answer {
    let time = moment(args[0].integer()?)?;
    let number = |value: i64| Value::Number(value as f64);
    let month = format("MMMM", &time)?;
    let weekday = format("EEEE", &time)?;
    let week = time.date().iso_week_date();
    let fields = [
        ("year", number(i64::from(time.year()))),
        ("year_day", number(i64::from(time.day_of_year()))),
        ("month", number(i64::from(time.month()))),
        ("month_name", Value::String(month)),
        ("day", number(i64::from(time.day()))),
        ("hour", number(i64::from(time.hour()))),
        ("minute", number(i64::from(time.minute()))),
        ("second", number(i64::from(time.second()))),
        ("rfc3339", Value::String(rfc3339(&time))),
        ("weekday", number(i64::from(time.weekday().to_sunday_zero_offset()))),
        ("weekday_name", Value::String(weekday)),
        ("iso_year", number(i64::from(week.year()))),
        ("iso_week", number(i64::from(week.week()))),
    ];
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
    Ok(Value::Map(fields.collect::<BTreeMap<_, _>>()))
}
