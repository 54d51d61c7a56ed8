//! No input makes the core panic: it decodes or refuses bytes, and decoded values can be encoded and decoded again.

use std::fs;
use std::path::PathBuf;

use nvdra_core::checkpoint::{Driver, Fragment, decode, encode, indent, remarshal};
use nvdra_core::{claim, fnv, json, quantity, scalar, time};

/// Numbers that repeat from run to run (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).unwrap()
    }
}

fn golden(path: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/recordings");
    fs::read(folder.join(path)).unwrap()
}

/// A few passages of `seed` overwritten, cut out or doubled.
fn mutated(seed: &[u8], chance: &mut Chance) -> Vec<u8> {
    const PIECES: [&[u8]; 14] = [
        b"null", b"[]", b"{}", b"\"\"", b"0", b"-1", b"1e9", b"true", b"\"", b"\\", b",", b":",
        b"\xff", b"[[[[",
    ];
    let mut bytes = seed.to_vec();
    for _ in 0..=chance.below(3) {
        let at = chance.below(bytes.len() + 1);
        let to = (at + chance.below(12)).min(bytes.len());
        match chance.below(4) {
            0 => drop(bytes.splice(at..to, PIECES[chance.below(PIECES.len())].iter().copied())),
            1 => drop(bytes.drain(at..to)),
            2 => {
                let doubled = bytes[at..to].to_vec();
                drop(bytes.splice(at..at, doubled));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u8::try_from(chance.below(256)).unwrap();
                }
            }
        }
    }
    bytes
}

/// The file with true checksums wherever it still has sections, so that damage behind them is reached.
fn signed(content: &[u8]) -> Option<String> {
    let source = std::str::from_utf8(content).ok()?;
    let root = json::parse(source).ok()?;
    let (v1, v2) = (root.get("v1")?, root.get("v2")?);
    let stored = v2.get("checksum")?;
    let (v1, text) = (v1.source(source), v2.source(source));
    let (before, after) = (
        &text[..stored.start - v2.start],
        &text[stored.end - v2.start..],
    );
    let inner = fnv::checksum(&[before, "0", after]);
    let outer = fnv::checksum(&["{\"checksum\":0,\"v1\":", v1, "}"]);
    Some(format!(
        "{{\"checksum\":{outer},\"v1\":{v1},\"v2\":{before}{inner}{after}}}"
    ))
}

/// Seeds that hold every kind of device: two files of each plugin.
const SEEDS: [(&str, Driver); 4] = [
    ("gpu-mig", Driver::Gpu),
    ("gpu-vfio", Driver::Gpu),
    ("domain-aborted", Driver::Domain),
    ("domain-channel", Driver::Domain),
];

#[test]
fn damaged_checkpoints() {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for (name, driver) in SEEDS {
        let seed = golden(&format!("../checkpoint/{name}.json"));
        let mut read = 0;
        for _ in 0..5_000 {
            let content = mutated(&seed, &mut chance);
            let _ = (
                decode(&content, driver, &[]),
                remarshal(&content, driver),
                indent(&content),
            );
            let Some(content) = signed(&content) else {
                continue;
            };
            let Ok(checkpoint) = decode(content.as_bytes(), driver, &[]) else {
                continue;
            };
            let fragments: Vec<Fragment> =
                checkpoint.entries.iter().map(Fragment::render).collect();
            let ours = encode(&fragments.iter().collect::<Vec<_>>(), &checkpoint.boot_id);
            let again = decode(ours.as_bytes(), driver, &[]).unwrap();
            let by_uid = |mut entries: Vec<nvdra_core::checkpoint::Entry>| {
                entries.sort_by(|one, other| one.uid.cmp(&other.uid));
                entries
            };
            assert_eq!(by_uid(again.entries), by_uid(checkpoint.entries));
            read += 1;
        }
        assert!(
            read > 250,
            "{read} files of {name} were read: the damage is too coarse to say anything"
        );
    }
}

/// What cuts an object takes the same texts as what reads it, and finds the same members in the same places.
fn compare_readers(text: &str) {
    let tree = json::parse(text);
    let read = tree.as_ref().ok().and_then(json::Node::members);
    match (json::members(text), read) {
        (Ok(cut), Some(read)) => {
            let places: Vec<_> = read.iter().map(|(_, node)| node.start..node.end).collect();
            let cut: Vec<_> = cut.into_iter().map(|(_, range)| range).collect();
            assert_eq!(cut, places, "{text}");
        }
        // As bytes, serde_json lets control characters stand in a name; the API server sends none.
        (Ok(_), None) => assert_eq!(
            tree.map_err(|error| error.text.contains("string does not end")),
            Err(true),
            "{text}"
        ),
        (Err(_), read) => assert!(read.is_none(), "{text}"),
    }
}

#[test]
fn damaged_claims() {
    let all = String::from_utf8(golden("v0.4.1-ts/claims.json")).unwrap();
    let root = json::parse(&all).unwrap();
    let mut chance = Chance(42);
    let mut read = 0;
    for (_, body) in root.members().unwrap() {
        for _ in 0..5_000 {
            let content = mutated(body.source(&all).as_bytes(), &mut chance);
            compare_readers(&json::text(&content));
            let Ok(claim) = claim::decode(&content) else {
                continue;
            };
            let again = claim::decode_status(claim.status.as_bytes()).unwrap();
            assert_eq!(again.results, claim.allocation.results);
            read += 1;
        }
    }
    assert!(read > 1_000);
}

#[test]
fn random_bytes() {
    const ALPHABET: &[u8] = b"{}[]\",:0123.eE+-\\utruefalsn KMGiTZ \xc3\xa9\xff";
    let mut chance = Chance(7);
    for _ in 0..50_000 {
        let length = chance.below(40);
        let bytes: Vec<u8> = (0..length)
            .map(|_| ALPHABET[chance.below(ALPHABET.len())])
            .collect();
        let _ = (
            decode(&bytes, Driver::Domain, &[]),
            claim::decode(&bytes),
            claim::decode_status(&bytes),
            remarshal(&bytes, Driver::Gpu),
            indent(&bytes),
        );
        let text = String::from_utf8_lossy(&bytes);
        compare_readers(&text);
        let _ = time::to_utc_seconds(&text);
        if let Some(canonical) = quantity::canonical(&text) {
            assert_eq!(
                quantity::canonical(&canonical).as_deref(),
                Some(canonical.as_str()),
                "{text}"
            );
        }
        let mut out = String::new();
        scalar::write_text(&mut out, &text);
        json::write_compact(&mut out, &text);
        let mut quoted = String::new();
        json::write_text(&mut quoted, &text);
        assert_eq!(json::parse(&quoted).unwrap().text(), Some(&*text));
    }
}
