//! Durations, sizes and lists as people write them.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer};

use crate::model::{Listen, StatusRange};

/// `500ms`, `30s`, `5m`, `1.5h`; several parts may follow each other, `1m30s`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad =
        || format!("bad duration `{}`: write e.g. 500ms, 30s, 5m", text.chars().take(40).collect::<String>());
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest == "0" {
        return Ok(total);
    }
    loop {
        let digits = rest.find(|it: char| !(it.is_ascii_digit() || it == '.')).ok_or_else(bad)?;
        let (number, tail) = rest.split_at_checked(digits).ok_or_else(bad)?;
        let end = tail.find(|it: char| !it.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end).ok_or_else(bad)?;
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        let part = Duration::try_from_secs_f64(number * seconds).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        if tail.is_empty() {
            return Ok(total);
        }
        rest = tail;
    }
}

/// The largest unit that needs no fraction.
pub(crate) fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    for (unit, size) in
        [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000), ("ms", 1_000_000)]
    {
        if nanos > 0 && nanos.is_multiple_of(size) {
            return format!("{}{unit}", nanos / size);
        }
    }
    if nanos == 0 { "0s".to_owned() } else { format!("{nanos}ns") }
}

/// `8MiB`, `512KiB`, `1GiB`, or plain bytes; `8M` and `8Mi` are the same as `8MiB`.
fn parse_bytes(text: &str) -> Result<u64, String> {
    let bad = || {
        format!("bad size `{}`: write e.g. 8MiB, 512KiB, 1048576", text.chars().take(40).collect::<String>())
    };
    let text = text.trim();
    let end = text.find(|it: char| !it.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end).ok_or_else(bad)?;
    let shift = match unit.trim() {
        "" | "B" => 0,
        "K" | "Ki" | "KiB" => 10,
        "M" | "Mi" | "MiB" => 20,
        "G" | "Gi" | "GiB" => 30,
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).ok_or_else(bad)
}

/// `0.0.0.0:9102`, `[::]:9102`, or `:9102` for all addresses.
pub(crate) fn parse_listen(text: &str) -> Result<Listen, String> {
    let text = text.trim();
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse::<SocketAddr>().map(Listen).map_err(|_| {
        format!(
            "bad address `{}`: write an IP address and a port, e.g. 0.0.0.0:9102 or [::]:9102",
            text.chars().take(80).collect::<String>()
        )
    })
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_listen(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

fn parse_status(text: &str) -> Option<StatusRange> {
    let code = |text: &str| text.trim().parse().ok().filter(|code| (100..=599).contains(code));
    let (first, last) = match (text.split_once('-'), text.as_bytes()) {
        (Some((first, last)), _) => (code(first)?, code(last)?),
        (None, [class @ b'1'..=b'5', b'x' | b'X', b'x' | b'X']) => {
            let first = u16::from(class - b'0') * 100;
            (first, first + 99)
        }
        (None, _) => (code(text)?, code(text)?),
    };
    (first <= last).then_some(StatusRange { first, last })
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bad = || {
            format!(
                "bad status `{}`: write e.g. 404, 5xx, 400-499",
                text.chars().take(40).collect::<String>()
            )
        };
        parse_status(&text).ok_or_else(|| de::Error::custom(bad()))
    }
}

pub(crate) mod duration {
    use super::{Deserialize, Deserializer, Duration, de, format_duration, parse_duration};

    pub(crate) fn serialize<S: serde::Serializer>(
        value: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_duration(*value))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        parse_duration(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

pub(crate) mod optional_duration {
    use super::{Deserialize, Deserializer, Duration, de, format_duration, parse_duration};

    pub(crate) fn serialize<S: serde::Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.serialize_some(&format_duration(*value)),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| parse_duration(&text)).transpose().map_err(de::Error::custom)
    }
}

pub(crate) mod bytes {
    use super::{Deserialize, Deserializer, de, parse_bytes};

    pub(crate) fn serialize<S: serde::Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(*value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        parse_bytes(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// A list, a single value, or values in one text with commas between them.
pub(crate) mod list {
    use std::marker::PhantomData;

    use serde::de::value::StrDeserializer;
    use serde::de::{SeqAccess, Visitor};
    use serde::{Serialize, Serializer};

    use super::{Deserialize, Deserializer, fmt};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(
        value: &[T],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(value)
    }

    /// A value that can be read from a part of a text.
    pub(crate) trait Item: for<'de> Deserialize<'de> {
        fn from_part<E: serde::de::Error>(part: &str) -> Result<Self, E>;
    }

    macro_rules! by_serde {
        ($($type:ty),*) => { $(
            impl Item for $type {
                fn from_part<E: serde::de::Error>(part: &str) -> Result<Self, E> {
                    Self::deserialize(StrDeserializer::<E>::new(part))
                }
            }
        )* };
    }
    by_serde!(String, crate::model::Protocol, crate::model::StatusRange);

    impl Item for u16 {
        fn from_part<E: serde::de::Error>(part: &str) -> Result<Self, E> {
            let port = part.parse().ok().filter(|port| *port > 0);
            port.ok_or_else(|| {
                let part: String = part.chars().take(40).collect();
                E::custom(format_args!("bad port `{part}`: write numbers from 1 to 65535, e.g. 80,443"))
            })
        }
    }

    struct Parts<T>(PhantomData<T>);

    impl<'de, T: Item> Visitor<'de> for Parts<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value, a list, or values with commas between them")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(T::from_part).collect()
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element::<T>()? {
                items.push(item);
            }
            Ok(items)
        }
    }

    pub(crate) fn deserialize<'de, T: Item, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_any(Parts(PhantomData))
    }
}
