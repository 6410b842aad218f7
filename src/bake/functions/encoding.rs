//! Digests and encodings.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::Digest as _;

use super::super::value::Value;
use super::{Answer, World};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn md5(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::String(hex(&md5::Md5::digest(args[0].text()?))))
}

pub(super) fn sha1(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::String(hex(&sha1::Sha1::digest(args[0].text()?))))
}

pub(super) fn sha256(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::String(hex(&sha2::Sha256::digest(args[0].text()?))))
}

pub(super) fn sha512(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::String(hex(&sha2::Sha512::digest(args[0].text()?))))
}

pub(super) fn base64encode(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::String(STANDARD.encode(args[0].text()?)))
}

pub(super) fn base64decode(_: &World<'_>, args: &[Value]) -> Answer {
    let bytes = STANDARD.decode(args[0].text()?).map_err(|_| "this is not base64".to_owned())?;
    let text = String::from_utf8(bytes).map_err(|_| "what it encodes is not UTF-8".to_owned())?;
    Ok(Value::String(text))
}

pub(super) fn urlencode(_: &World<'_>, args: &[Value]) -> Answer {
    let mut out = String::new();
    for byte in args[0].text()?.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(Value::String(out))
}

pub(super) fn jsonencode(_: &World<'_>, args: &[Value]) -> Answer {
    // Go's encoder, which cty uses, writes these so that HTML may hold them.
    let text = args[0].to_json().to_string();
    let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    Ok(Value::String(text))
}

pub(super) fn jsondecode(_: &World<'_>, args: &[Value]) -> Answer {
    let text = args[0].text()?;
    let parsed: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("this is not JSON: {error}"))?;
    Ok(Value::from_json(&parsed))
}

pub(super) fn csvdecode(_: &World<'_>, args: &[Value]) -> Answer {
    let text = args[0].text()?;
    let mut rows: Vec<Vec<String>> = Vec::new();
    // Fields in quotes may go on over lines.
    let mut pending = String::new();
    for line in text.split_inclusive('\n') {
        pending.push_str(line);
        if pending.matches('"').count() % 2 == 1 {
            continue;
        }
        let row = std::mem::take(&mut pending);
        let row = row.trim_end_matches(['\r', '\n']);
        if !row.is_empty() {
            rows.push(super::super::csv::record(row)?);
        }
    }
    if !pending.is_empty() {
        return Err("a quote is not closed".to_owned());
    }
    let Some((header, rows)) = rows.split_first() else {
        return Err("the first line, with the names of the columns, is missing".to_owned());
    };
    let row = |row: &Vec<String>| {
        if row.len() != header.len() {
            return Err(format!("a line has {} fields, not {}", row.len(), header.len()));
        }
        let fields = header.iter().zip(row);
        let fields = fields.map(|(name, field)| (name.clone(), Value::String(field.clone())));
        Ok(Value::Map(fields.collect::<BTreeMap<_, _>>()))
    };
    Ok(Value::List(rows.iter().map(row).collect::<Result<_, String>>()?))
}

fn uuid(mut bytes: [u8; 16], version: u8) -> String {
    bytes[6] = bytes[6] & 0x0f | version << 4;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

pub(super) fn uuidv4(world: &World<'_>, _: &[Value]) -> Answer {
    Ok(Value::String(uuid((world.random)(), 4)))
}

pub(super) fn uuidv5(_: &World<'_>, args: &[Value]) -> Answer {
    let (namespace, name) = (args[0].text()?, args[1].text()?);
    // RFC 9562, appendix A: the namespaces differ in one byte.
    let well_known = |last: u8| {
        let mut id = [
            0x6b, 0xa7, 0xb8, 0x10, 0x9d, 0xad, 0x11, 0xd1, 0x80, 0xb4, 0x00, 0xc0, 0x4f, 0xd4,
            0x30, 0xc8,
        ];
        id[3] = last;
        id
    };
    let id: [u8; 16] = match namespace.as_str() {
        "dns" => well_known(0x10),
        "url" => well_known(0x11),
        "oid" => well_known(0x12),
        "x500" => well_known(0x14),
        other => {
            let digits: Vec<u8> = other.bytes().filter(|byte| *byte != b'-').collect();
            let bytes: Option<Vec<u8>> = digits
                .chunks(2)
                .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
                .collect();
            bytes.and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).ok_or_else(|| {
                format!("the namespace {other:?} is no UUID, dns, url, oid or x500")
            })?
        }
    };
    let mut hasher = sha1::Sha1::new();
    hasher.update(id);
    hasher.update(name);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize()[..16]);
    Ok(Value::String(uuid(bytes, 5)))
}
