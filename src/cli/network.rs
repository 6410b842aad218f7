//! `LAPSTRAKE_NETWORK`: how patient the client for registries is.
//!
//! The defaults are for registries that are far away and for lines that are bad. A script that would
//! rather fail soon, or a proxy with a limit of its own, wants others:
//! `LAPSTRAKE_NETWORK=retries=1,stall-timeout=5s,chunk-size=8m`.

use std::time::Duration;

use crate::dockerfile::value::{parse_duration, parse_size};
use crate::registry::Options;

use super::report::{Report, Result};

/// The variable.
pub const VARIABLE: &str = "LAPSTRAKE_NETWORK";

const KEYS: &str = "retries=N, retry-delay=, max-retry-after=, connect-timeout=, answer-timeout=, stall-timeout= (a time such as 500ms or 2m), chunk-size= (a size such as 8m)";

/// Changes options as the variable says.
pub fn apply(text: &str, options: &mut Options) -> Result<()> {
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        let bad = |why: &str| {
            Report::usage(format!("{VARIABLE}: {pair:?}: {why}"))
                .with_hint(format!("it takes {KEYS}"))
        };
        let (key, value) = pair.split_once('=').ok_or_else(|| bad("no KEY=VALUE"))?;
        let time = || {
            let time = parse_duration(value).ok().and_then(|time| u64::try_from(time).ok());
            time.map(Duration::from_nanos).ok_or_else(|| bad("no time"))
        };
        let positive = || match time()? {
            Duration::ZERO => Err(bad("must be more than 0")),
            time => Ok(time),
        };
        match key {
            "retries" => {
                let retries: u32 = value.parse().map_err(|_| bad("no number"))?;
                // Questions that are not worth a long wait stay so.
                let short = options.retries < Options::default().retries;
                options.retries = if short { retries.min(options.retries) } else { retries };
            }
            "retry-delay" => options.retry_delay = time()?,
            "max-retry-after" => options.max_retry_after = time()?,
            "connect-timeout" => options.connect_timeout = positive()?,
            "answer-timeout" => options.answer_timeout = positive()?,
            "stall-timeout" => options.stall_timeout = positive()?,
            "chunk-size" => {
                let size = parse_size(value).map_err(|_| bad("no size"))?;
                // Smaller requests would be mostly heads.
                if size < 64 << 10 {
                    return Err(bad("less than 64 KiB"));
                }
                options.chunk_size = size;
            }
            _ => return Err(bad("unknown")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let mut options = Options::default();
        let text = "retries=7, retry-delay=10ms,stall-timeout=2m,chunk-size=8m,max-retry-after=0s";
        apply(text, &mut options).expect("all are known");
        assert_eq!(options.retries, 7);
        assert_eq!(options.retry_delay, Duration::from_millis(10));
        assert_eq!(options.stall_timeout, Duration::from_secs(120));
        assert_eq!(options.max_retry_after, Duration::ZERO);
        assert_eq!(options.chunk_size, 8 << 20);
        let mut short = Options { retries: 1, ..Options::default() };
        apply("retries=7", &mut short).expect("all are known");
        assert_eq!(short.retries, 1);
        for bad in [
            "retries",
            "retries=-1",
            "x=1",
            "stall-timeout=0s",
            "answer-timeout=-1s",
            "chunk-size=1k",
            "retry-delay=soon",
        ] {
            let report = apply(bad, &mut Options::default()).expect_err(bad);
            assert!(report.message.contains(bad), "{}", report.message);
        }
    }
}
