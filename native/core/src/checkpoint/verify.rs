//! Verifies the two checksums.

use super::Driver;
use crate::error::{Error, Kind, Result};
use crate::fnv::checksum;
use crate::json::{Node, Value};
use crate::shape::{Style, marshal};

/// Whether the stored checksums match the file as it is, or as the Go releases would rewrite it.
///
/// `source` is the text of `content`, byte for byte, except where that is no UTF-8.
pub(super) fn verify(root: &Node<'_>, source: &str, content: &[u8], driver: Driver) -> Result<()> {
    let shapes = driver.sections();
    let stored = |node: &Node<'_>| match node.get("checksum").map(|node| &node.value) {
        Some(Value::Number(token)) => token.parse::<u32>().ok(),
        _ => None,
    };
    let rewritten = |node: &Node<'_>, shape, mps_id_always| {
        marshal(
            node,
            source,
            shape,
            Style {
                mps_id_always,
                zero_checksums: true,
            },
            "",
        )
        .ok()
    };
    let outer = |v1: &[u8]| checksum(&[&b"{\"checksum\":0,\"v1\":"[..], v1, b"}"]);
    let is_outer_true = match (root.get("v1"), stored(root)) {
        (_, None) => false,
        (None, Some(stored)) => stored == checksum(&["{\"checksum\":0}"]),
        (Some(v1), Some(stored)) => {
            stored == outer(&content[v1.start..v1.end])
                || [true, false].iter().any(|always| {
                    rewritten(v1, &shapes.v1, *always)
                        .is_some_and(|v1| stored == outer(v1.as_bytes()))
                })
        }
    };
    let is_inner_true = match root.get("v2") {
        None => true,
        Some(v2) => stored(v2).is_some_and(|stored| {
            let as_it_stands = v2.get("checksum").map(|node| {
                checksum(&[
                    &content[v2.start..node.start],
                    b"0",
                    &content[node.end..v2.end],
                ])
            });
            as_it_stands == Some(stored)
                || [true, false].iter().any(|always| {
                    rewritten(v2, &shapes.v2, *always).is_some_and(|v2| stored == checksum(&[&v2]))
                })
        }),
    };
    if is_outer_true && is_inner_true {
        return Ok(());
    }
    Err(Error::new(Kind::Checksum, "checkpoint is corrupted"))
}
