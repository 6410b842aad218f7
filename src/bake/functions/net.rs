//! IP network prefixes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::value::Value;
use super::{Answer, World};

/// An address as a number, the bits of its family, and the length of the prefix.
struct Prefix {
    address: u128,
    bits: u32,
    length: u32,
}

impl Prefix {
    fn parse(value: &Value) -> Result<Prefix, String> {
        let text = value.text()?;
        let wrong = || format!("{text:?} is no prefix as 10.0.0.0/8");
        let (address, length) = text.split_once('/').ok_or_else(wrong)?;
        let length: u32 = length.parse().map_err(|_| wrong())?;
        let (address, bits) = match address.parse::<IpAddr>().map_err(|_| wrong())? {
            IpAddr::V4(address) => (u128::from(u32::from(address)), 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        if length > bits {
            return Err(wrong());
        }
        let prefix = Prefix { address, bits, length };
        Ok(Prefix { address: address & prefix.mask(), ..prefix })
    }

    fn mask(&self) -> u128 {
        let all = if self.bits == 128 { u128::MAX } else { (1 << self.bits) - 1 };
        let host = self.bits - self.length;
        if host == 128 { 0 } else { all >> host << host }
    }

    fn show(&self, address: u128) -> String {
        if self.bits == 32 {
            Ipv4Addr::from(u32::try_from(address).unwrap_or(u32::MAX)).to_string()
        } else {
            Ipv6Addr::from(address).to_string()
        }
    }

    /// How many addresses (or subnets of `length`) there are; None is more than can be counted.
    fn room(&self, length: u32) -> Option<u128> {
        1u128.checked_shl(length)
    }
}

pub(super) fn cidrhost(_: &World<'_>, args: &[Value]) -> Answer {
    let prefix = Prefix::parse(&args[0])?;
    let number = args[1].integer()?;
    let host = prefix.bits - prefix.length;
    let size = u128::from(number.unsigned_abs());
    // Below zero it counts from the end.
    let fits =
        prefix.room(host).is_none_or(|room| if number < 0 { size <= room } else { size < room });
    if !fits {
        return Err(format!("there is no host {number} in a prefix of {} bits", prefix.length));
    }
    let offset = if number < 0 {
        prefix.room(host).map_or(u128::MAX - size + 1, |room| room - size)
    } else {
        size
    };
    Ok(Value::String(prefix.show(prefix.address | offset)))
}

pub(super) fn cidrnetmask(_: &World<'_>, args: &[Value]) -> Answer {
    let prefix = Prefix::parse(&args[0])?;
    if prefix.bits != 32 {
        return Err("IPv6 has no netmasks".to_owned());
    }
    Ok(Value::String(prefix.show(prefix.mask())))
}

pub(super) fn cidrsubnet(_: &World<'_>, args: &[Value]) -> Answer {
    let prefix = Prefix::parse(&args[0])?;
    let more = u32::try_from(args[1].integer()?).map_err(|_| "newbits is below zero".to_owned())?;
    let number = u128::try_from(args[2].integer()?)
        .map_err(|_| "the number of the subnet is below zero".to_owned())?;
    let length = prefix.length.saturating_add(more);
    if length > prefix.bits {
        return Err(format!("{more} more bits do not fit behind {}", prefix.length));
    }
    if prefix.room(more).is_some_and(|room| number >= room) {
        return Err(format!("there is no subnet {number} of {more} bits"));
    }
    let address = prefix.address | number.checked_shl(prefix.bits - length).unwrap_or(0);
    Ok(Value::String(format!("{}/{length}", prefix.show(address))))
}

pub(super) fn cidrsubnets(_: &World<'_>, args: &[Value]) -> Answer {
    let prefix = Prefix::parse(&args[0])?;
    let last = prefix.address
        | !prefix.mask() & if prefix.bits == 32 { u128::from(u32::MAX) } else { u128::MAX };
    let mut next = Some(prefix.address);
    let mut out = Vec::new();
    for arg in &args[1..] {
        let more = u32::try_from(arg.integer()?).map_err(|_| "newbits is below zero".to_owned())?;
        let length = prefix.length.saturating_add(more);
        if more == 0 || length > prefix.bits {
            return Err(format!("{more} more bits do not fit behind {}", prefix.length));
        }
        let size = 1u128 << (prefix.bits - length).min(127);
        // Each begins at a multiple of its own size.
        let start = next
            .and_then(|next| next.checked_add(size - 1))
            .map(|end| end & !(size - 1))
            .filter(|start| start.checked_add(size - 1).is_some_and(|end| end <= last))
            .ok_or_else(|| "there is no room for all of them".to_owned())?;
        out.push(format!("{}/{length}", prefix.show(start)));
        next = start.checked_add(size);
    }
    Ok(Value::strings(out))
}
