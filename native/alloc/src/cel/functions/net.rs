//! Functions of IP addresses and networks. Addresses with a zone, and IPv4 addresses written as IPv6, are errors.

use std::net::IpAddr;

use super::{Input, text};
use crate::cel::value::{Evaluated, Value, error, no_overload};

/// An address as the API takes it.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let address: IpAddr = text.parse().ok()?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        other => Some(other),
    }
}

/// A network: an address, which may have bits beyond the prefix, and the length of the prefix.
fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.rsplit_once('/')?;
    let address = parse_ip(address)?;
    let plain = bits.bytes().all(|b| b.is_ascii_digit());
    if !plain || bits.len() > 1 && bits.starts_with('0') {
        return None;
    }
    let bits: u8 = bits.parse().ok()?;
    (bits <= width(&address)).then_some((address, bits))
}

fn width(address: &IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The first bits of an address as a number.
fn prefix(address: &IpAddr, bits: u8) -> u128 {
    let number = match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    match bits {
        0 => 0,
        bits => number >> (128 - u32::from(bits)),
    }
}

fn holds(network: &(IpAddr, u8), address: &IpAddr, bits: u8) -> bool {
    network.0.is_ipv4() == address.is_ipv4()
        && network.1 <= bits
        && prefix(&network.0, network.1) == prefix(address, network.1)
}

/// `ip(text)`, or the address of a network.
pub fn ip(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Cidr(address, _) => Ok(Value::Ip(*address)),
        other => to_ip(other),
    }
}

fn to_ip(value: &Value) -> Evaluated {
    let source = text(value)?;
    parse_ip(source).map_or_else(
        || error(format!("IP Address {source:?} parse error")),
        |address| Ok(Value::Ip(address)),
    )
}

fn to_cidr(value: &Value) -> Evaluated {
    let source = text(value)?;
    parse_cidr(source).map_or_else(
        || error(format!("network address {source:?} parse error")),
        |(address, bits)| Ok(Value::Cidr(address, bits)),
    )
}

pub fn cidr(_: &Input, args: &[Value]) -> Evaluated {
    to_cidr(&args[0])
}

pub fn is_ip(_: &Input, args: &[Value]) -> Evaluated {
    Ok(Value::Bool(parse_ip(text(&args[0])?).is_some()))
}

pub fn is_cidr(_: &Input, args: &[Value]) -> Evaluated {
    Ok(Value::Bool(parse_cidr(text(&args[0])?).is_some()))
}

pub fn is_canonical(_: &Input, args: &[Value]) -> Evaluated {
    match to_ip(&args[0])? {
        Value::Ip(address) => Ok(Value::Bool(address.to_string() == **text(&args[0])?)),
        _ => no_overload(),
    }
}

/// A property of an address.
pub fn about(args: &[Value], of: fn(&IpAddr) -> bool) -> Evaluated {
    match &args[0] {
        Value::Ip(address) => Ok(Value::Bool(of(address))),
        _ => no_overload(),
    }
}

pub fn family(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Ip(address) => Ok(Value::Int(if address.is_ipv4() { 4 } else { 6 })),
        _ => no_overload(),
    }
}

pub fn is_link_local_multicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

pub fn is_link_local_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

pub fn is_global_unicast(address: &IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(broadcast
        || address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || is_link_local_unicast(address))
}

pub fn contains_ip(_: &Input, args: &[Value]) -> Evaluated {
    let Value::Cidr(network, bits) = &args[0] else {
        return no_overload();
    };
    let address = match &args[1] {
        Value::Ip(address) => *address,
        // The Go environment drops what is wrong with the text.
        other => match to_ip(other) {
            Ok(Value::Ip(address)) => address,
            _ => return no_overload(),
        },
    };
    let all = width(&address);
    Ok(Value::Bool(holds(&(*network, *bits), &address, all)))
}

pub fn contains_cidr(_: &Input, args: &[Value]) -> Evaluated {
    let Value::Cidr(network, bits) = &args[0] else {
        return no_overload();
    };
    let other = match &args[1] {
        Value::Cidr(..) => args[1].clone(),
        other => to_cidr(other)?,
    };
    match other {
        Value::Cidr(address, inner) => Ok(Value::Bool(holds(&(*network, *bits), &address, inner))),
        _ => no_overload(),
    }
}

pub fn prefix_length(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Cidr(_, bits) => Ok(Value::Int(i64::from(*bits))),
        _ => no_overload(),
    }
}

pub fn masked(_: &Input, args: &[Value]) -> Evaluated {
    let Value::Cidr(address, bits) = &args[0] else {
        return no_overload();
    };
    let kept = match bits {
        0 => 0,
        bits => prefix(address, *bits) << (128 - u32::from(*bits)),
    };
    let address = match address {
        IpAddr::V4(_) => IpAddr::V4(((kept >> 96) as u32).into()),
        IpAddr::V6(_) => IpAddr::V6(kept.into()),
    };
    Ok(Value::Cidr(address, *bits))
}
