//! Filters: which devices a guest takes, as QEMU's property `filter` writes them.
//!
//! Rules are separated by `|`, fields by `:`; -1 stands for any. The first rule that fits decides; a device that none fits
//! is refused. A device is checked by its own class, unless that is 0 (it says it by interface), and by the class of each
//! interface. Hexadecimal numbers may be written with `0x`.

use std::fmt;
use std::str::FromStr;

use crate::error::RedirError;
use crate::packet::{DeviceConnect, InterfaceInfo};

/// One rule; `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterRule {
    /// Class of device or interface.
    pub class: Option<u8>,
    /// `idVendor`.
    pub vendor: Option<u16>,
    /// `idProduct`.
    pub product: Option<u16>,
    /// `bcdDevice`.
    pub version: Option<u16>,
    /// Whether what fits is taken.
    pub allow: bool,
}

/// Rules in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter(pub Vec<FilterRule>);

impl Filter {
    /// Lets in one camera, in one mode, and nothing else: vendor, product and class of its interface.
    pub fn only(vendor: u16, product: u16, class: u8) -> Self {
        let any = FilterRule { class: None, vendor: None, product: None, version: None, allow: false };
        let only =
            FilterRule { class: Some(class), vendor: Some(vendor), product: Some(product), version: None, allow: true };
        Self(vec![only, any])
    }

    /// Whether a device passes: its class, if it says one, and those of all its interfaces.
    pub fn allows(&self, device: &DeviceConnect, interfaces: &InterfaceInfo) -> bool {
        let own = (device.class != 0).then_some(device.class);
        let mut classes =
            own.into_iter().chain(interfaces.interfaces.iter().map(|interface| interface.class)).peekable();
        classes.peek().is_some() && classes.all(|class| self.allows_class(device, class))
    }

    fn allows_class(&self, device: &DeviceConnect, class: u8) -> bool {
        let fits = |rule: &&FilterRule| {
            rule.class.is_none_or(|wanted| wanted == class)
                && rule.vendor.is_none_or(|wanted| wanted == device.vendor)
                && rule.product.is_none_or(|wanted| wanted == device.product)
                && rule.version.is_none_or(|wanted| wanted == device.version)
        };
        self.0.iter().find(fits).is_some_and(|rule| rule.allow)
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, rule) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("|")?;
            }
            write_or_any(f, rule.class.map(|class| class.to_string()))?;
            for word in [rule.vendor, rule.product, rule.version] {
                write_or_any(f, word.map(|word| format!("0x{word:04x}")))?;
            }
            write!(f, "{}", u8::from(rule.allow))?;
        }
        Ok(())
    }
}

fn write_or_any(f: &mut fmt::Formatter<'_>, field: Option<String>) -> fmt::Result {
    write!(f, "{}:", field.as_deref().unwrap_or("-1"))
}

impl FromStr for Filter {
    type Err = RedirError;

    fn from_str(text: &str) -> Result<Self, RedirError> {
        let rule =
            |text: &str| parse_rule(text).ok_or_else(|| RedirError::Filter { rule: text.chars().take(80).collect() });
        text.split('|').map(rule).collect::<Result<_, _>>().map(Self)
    }
}

fn parse_rule(text: &str) -> Option<FilterRule> {
    let fields: Vec<&str> = text.split(':').collect();
    let [class, vendor, product, version, allow] = fields[..] else { return None };
    let number = |field: &str, limit: u16| -> Option<Option<u16>> {
        if field == "-1" {
            return Some(None);
        }
        let number = match field.strip_prefix("0x") {
            Some(hex) => u16::from_str_radix(hex, 16).ok()?,
            None => field.parse().ok()?,
        };
        (number <= limit).then_some(Some(number))
    };
    let class = match number(class, 0xff)? {
        Some(class) => Some(u8::try_from(class).ok()?),
        None => None,
    };
    let allow = match allow {
        "0" => false,
        "1" => true,
        _ => return None,
    };
    Some(FilterRule {
        class,
        vendor: number(vendor, u16::MAX)?,
        product: number(product, u16::MAX)?,
        version: number(version, u16::MAX)?,
        allow,
    })
}
