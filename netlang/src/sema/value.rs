//! Values and their units. A unit is a type: a duration is no size, and a plain number is neither.

use crate::address::prefix::Prefix;
use crate::source::Span;
use crate::vocab::Ty;

/// A value of the language.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value {
    Int(i64),
    /// Nanoseconds.
    Duration(u64),
    /// Bytes.
    Size(u64),
    /// Bits a second.
    Rate(u64),
    /// Packets a second.
    PacketRate(u64),
    /// Parts in a billion.
    Ratio(u64),
    Prefix(Prefix),
    Address(u32),
    PrefixLen(u8),
    /// Where the text stands, quotes included.
    Text(Span),
}

impl Value {
    /// What it is, with article.
    pub(crate) fn a(self) -> &'static str {
        match self {
            Value::Int(_) => "a plain number",
            Value::Duration(_) => "a duration",
            Value::Size(_) => "a size",
            Value::Rate(_) => "a rate",
            Value::PacketRate(_) => "a packet rate",
            Value::Ratio(_) => "a ratio",
            Value::Prefix(_) => "a prefix",
            Value::Address(_) => "an address",
            Value::PrefixLen(_) => "a prefix length",
            Value::Text(_) => "a text",
        }
    }

    /// How it is written, in the largest unit that needs no fraction. `text` is that of the file.
    pub(crate) fn written(self, text: &str) -> String {
        let (number, make): (u64, fn(u64) -> Value) = match self {
            Value::Duration(n) => (n, Value::Duration),
            Value::Size(n) => (n, Value::Size),
            Value::Rate(n) => (n, Value::Rate),
            Value::PacketRate(n) => (n, Value::PacketRate),
            Value::Ratio(n) => return format!("{}%", n as f64 / 1e7),
            Value::Int(n) => return n.to_string(),
            Value::Prefix(prefix) => return prefix.to_string(),
            Value::Address(address) => return std::net::Ipv4Addr::from(address).to_string(),
            Value::PrefixLen(len) => return format!("/{len}"),
            Value::Text(span) => return span.text(text).to_owned(),
        };
        let fits = |u: &&Unit| (u.2)(number) == make(number) && number.is_multiple_of(u.1);
        match UNITS.iter().filter(fits).max_by_key(|u| u.1) {
            Some((unit, scale, _)) => format!("{}{unit}", number / scale),
            None => format!("{number} bits a second"),
        }
    }

    /// Whether it can stand where the type is wanted.
    pub(crate) fn is(self, ty: Ty) -> bool {
        matches!(
            (self, ty),
            (Value::Int(_), Ty::Int(..) | Ty::HostNumber)
                | (Value::Duration(_), Ty::Duration)
                | (Value::Size(_), Ty::Size)
                | (Value::Rate(_), Ty::Rate)
                | (Value::PacketRate(_), Ty::PacketRate)
                | (Value::Ratio(_), Ty::Ratio)
                | (Value::Prefix(_), Ty::Prefix)
                | (Value::Address(_), Ty::Address)
                | (Value::PrefixLen(_), Ty::PrefixLen)
                | (Value::Text(_), Ty::Text)
        )
    }
}

/// Units: how they are written, how many of the base unit they are, and what they make.
type Unit = (&'static str, u64, fn(u64) -> Value);

const UNITS: &[Unit] = &[
    ("ns", 1, Value::Duration),
    ("us", 1_000, Value::Duration),
    ("ms", 1_000_000, Value::Duration),
    ("s", 1_000_000_000, Value::Duration),
    ("min", 60_000_000_000, Value::Duration),
    ("h", 3_600_000_000_000, Value::Duration),
    ("KiB", 1 << 10, Value::Size),
    ("MiB", 1 << 20, Value::Size),
    ("GiB", 1 << 30, Value::Size),
    ("kbit", 1_000, Value::Rate),
    ("Mbit", 1_000_000, Value::Rate),
    ("Gbit", 1_000_000_000, Value::Rate),
    ("pps", 1, Value::PacketRate),
    ("%", 10_000_000, Value::Ratio),
];

/// The units, as they are written.
pub(crate) fn unit_words() -> impl Iterator<Item = &'static str> {
    UNITS.iter().map(|u| u.0)
}

/// What people write elsewhere, and what it is here.
const OTHER_SPELLINGS: &[(&str, &str)] = &[
    ("k", "KiB"),
    ("kb", "KiB"),
    ("m", "MiB"),
    ("mb", "MiB"),
    ("g", "GiB"),
    ("gb", "GiB"),
    ("kbps", "kbit"),
    ("mbps", "Mbit"),
    ("gbps", "Gbit"),
    ("sec", "s"),
    ("secs", "s"),
    ("msec", "ms"),
    ("hour", "h"),
    ("hours", "h"),
    ("mins", "min"),
];

/// Why a quantity cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QuantityError {
    /// A decimal number without a unit.
    NoUnit,
    /// A unit that does not exist; the similar one, if there is one.
    UnknownUnit(Option<&'static str>),
    /// More than 64 bits hold.
    TooLarge,
}

/// Reads `1.5GiB`. Fractions are exact as far as the base unit goes, and rounded down there.
pub(crate) fn quantity(text: &str) -> Result<Value, QuantityError> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(QuantityError::NoUnit)?;
    let (number, unit) = text.split_at(digits);
    let Some((_, scale, make)) = UNITS.iter().find(|(u, ..)| *u == unit) else {
        let same = UNITS.iter().map(|u| u.0).find(|u| u.eq_ignore_ascii_case(unit));
        let usual = OTHER_SPELLINGS.iter().find(|(other, _)| other.eq_ignore_ascii_case(unit)).map(|(_, ours)| *ours);
        return Err(QuantityError::UnknownUnit(same.or(usual)));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut total = whole.parse::<u128>().ok().and_then(|w| w.checked_mul(u128::from(*scale)));
    let mut place = u128::from(*scale);
    let mut part = 0u128;
    let mut divisor = 1u128;
    for digit in fraction.bytes().take(18) {
        divisor *= 10;
        part = part * 10 + u128::from(digit - b'0');
    }
    place *= part;
    total = total.map(|t| t + place / divisor);
    total.and_then(|t| u64::try_from(t).ok()).map(make).ok_or(QuantityError::TooLarge)
}

/// A value of a type to show what is wanted: `5ms` for a duration, with the number that was found.
pub(crate) fn example(ty: Ty, number: Option<i64>) -> Option<String> {
    let n = number.filter(|n| *n > 0);
    let with = |unit: &str, usual: i64| format!("{}{unit}", n.unwrap_or(usual));
    Some(match ty {
        Ty::Duration => with("ms", 5),
        Ty::Size => with("MiB", 64),
        Ty::Rate => with("Mbit", 10),
        Ty::PacketRate => with("pps", 200),
        Ty::Ratio => with("%", 1),
        Ty::Prefix => "10.0.0.0/24".into(),
        Ty::Address => "10.0.0.7".into(),
        Ty::PrefixLen => format!("/{}", n.filter(|n| *n <= 32).unwrap_or(24)),
        Ty::Int(..) | Ty::HostNumber => "2".into(),
        Ty::Range => "10..250".into(),
        Ty::Ports => "443".into(),
        Ty::Text => "\"text\"".into(),
        _ => return None,
    })
}
