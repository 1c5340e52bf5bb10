//! Durations, sizes and shares as people write them.

use std::time::Duration;

/// A time span: one or more numbers, each with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    // A leading letter is ISO 8601 (`PT5S`), which the parser would take as well: one way to write is enough.
    let starts_well = text.starts_with(|first: char| first.is_ascii_digit());
    let unsigned = jiff::fmt::friendly::SpanParser::new().parse_unsigned_duration(text);
    match unsigned {
        Ok(span) if starts_well => Ok(span),
        _ if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Err(format!("a bare number has no unit: write `{text}s`, `{text}ms`, …"))
        }
        _ if text.starts_with('-') => Err("a time span cannot be negative".to_owned()),
        _ => match text.trim().strip_suffix('d').and_then(|days| days.parse::<u32>().ok()) {
            Some(days) => Err(format!("a day has no fixed length: write `{}h`", u64::from(days) * 24)),
            None => Err("write a number and a unit, such as `500ms`, `30s`, `15m` or `1h 30m`".to_owned()),
        },
    }
}

/// A size in bytes: `512`, `8KiB`, `1 MiB`, `100MB`; `K` and its like alone are refused, because
/// nobody agrees on whether they mean 1000 or 1024.
pub(super) fn size(text: &str) -> Result<u64, String> {
    const WRONG: &str = "write a number and a unit, such as `8KiB`, `1MiB` or `100MB`";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| WRONG.to_owned())?;
    let unit = match text[digits..].trim_start() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "TiB" => 1 << 40,
        short @ ("k" | "K" | "M" | "G" | "T" | "m" | "g") => {
            let unit = short.to_uppercase();
            return Err(format!(
                "`{short}` is 1000 to some and 1024 to others: write `{number}{unit}iB` or `{number}{unit}B`"
            ));
        }
        _ => return Err(WRONG.to_owned()),
    };
    number.checked_mul(unit).ok_or_else(|| "more than can be counted".to_owned())
}

/// A share such as `50%` or `33.3%`, in per mille.
pub(super) fn permille(text: &str) -> Result<u32, String> {
    const WRONG: &str = "write a share such as `50%` or `33.3%`";
    let number = text.strip_suffix('%').ok_or_else(|| WRONG.to_owned())?.trim_end();
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let digits =
        |part: &str, most: usize| (1..=most).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole, 3) || !digits(tenth, 1) {
        return Err(WRONG.to_owned());
    }
    let permille = whole.parse::<u32>().unwrap_or(0) * 10 + tenth.parse::<u32>().unwrap_or(0);
    if (10..=990).contains(&permille) { Ok(permille) } else { Err("from 1% to 99%".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, wanted) in [("30s", 30_000), ("500ms", 500), ("1h 30m", 5_400_000), ("2h", 7_200_000), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(wanted)), "{text}");
        }
        for (text, wanted) in [
            ("5", "write `5s`"),
            ("-3s", "negative"),
            ("1d", "write `24h`"),
            ("", "a number and a unit"),
            ("soon", "a number and a unit"),
            ("PT5S", "a number and a unit"),
            ("99999999999999999999h", "a number and a unit"),
        ] {
            let why = duration(text).unwrap_err();
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }

    #[test]
    fn sizes_say_which_thousand_they_mean() {
        for (text, wanted) in
            [("512", 512), ("8KiB", 8192), ("1 MiB", 1 << 20), ("100MB", 100_000_000), ("2GiB", 2 << 30)]
        {
            assert_eq!(size(text), Ok(wanted), "{text}");
        }
        for (text, wanted) in [
            ("8k", "`8KiB` or `8KB`"),
            ("KiB", "a unit"),
            ("", "a unit"),
            ("-1", "a unit"),
            ("99999999999TiB", "more than"),
        ] {
            let why = size(text).unwrap_err();
            assert!(why.contains(wanted), "{text}: {why}");
        }
    }

    #[test]
    fn shares_are_between_the_ends() {
        for (text, wanted) in [("50%", 500), ("33.3%", 333), ("1%", 10), ("99%", 990)] {
            assert_eq!(permille(text), Ok(wanted), "{text}");
        }
        for text in ["0%", "0.9%", "99.1%", "100%", "50", "%", "5.55%", "-5%", "x%", "1.%"] {
            assert!(permille(text).is_err(), "{text}");
        }
    }
}
