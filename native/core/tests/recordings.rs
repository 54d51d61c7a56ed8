//! Tests the checkpoint codec with files that real builds of the Go driver, and its own code, wrote.

use std::fs;
use std::path::PathBuf;

use nvdra_core::checkpoint::{Driver, Fragment, decode, encode};
use nvdra_core::claim;
use nvdra_core::json::parse;

fn recordings() -> Vec<(String, PathBuf)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/recordings");
    let mut found: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("checkpoint.json").exists())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.path()))
        .collect();
    found.sort();
    assert!(found.len() >= 5);
    found
}

fn written_again(content: &[u8], driver: Driver) -> String {
    let checkpoint = decode(content, driver, &[]).unwrap();
    let fragments: Vec<Fragment> = checkpoint.entries.iter().map(Fragment::render).collect();
    encode(
        &fragments.iter().rev().collect::<Vec<_>>(),
        &checkpoint.boot_id,
    )
}

#[test]
fn what_a_release_wrote_is_written_again_byte_for_byte() {
    for (name, path) in recordings() {
        let content = fs::read(path.join("checkpoint.json")).unwrap();
        let ours = written_again(&content, Driver::Gpu);
        if name.starts_with('v') {
            assert_eq!(ours.as_bytes(), content, "{name}");
        }
        assert_eq!(written_again(ours.as_bytes(), Driver::Gpu), ours, "{name}");
    }
}

#[test]
fn every_kind_of_device_is_written_again_byte_for_byte() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/checkpoint");
    let mut seen = 0;
    for path in fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
    {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".json") || name == "domain-v25.3.0-rc.2.json" {
            continue;
        }
        let driver = match name.starts_with("domain-") {
            true => Driver::Domain,
            false => Driver::Gpu,
        };
        let content = fs::read(&path).unwrap();
        assert_eq!(
            written_again(&content, driver).as_bytes(),
            content,
            "{name}"
        );
        seen += 1;
    }
    assert!(seen >= 9);
}

#[test]
fn a_claims_status_is_kept_as_the_go_driver_keeps_it() {
    for (name, path) in recordings() {
        let checkpoint = decode(
            &fs::read(path.join("checkpoint.json")).unwrap(),
            Driver::Gpu,
            &[],
        )
        .unwrap();
        let text = fs::read_to_string(path.join("claims.json")).unwrap();
        let claims = parse(&text).unwrap();
        for (_, body) in claims.members().unwrap() {
            let claim = claim::decode(body.source(&text).as_bytes()).unwrap();
            let entry = checkpoint
                .entries
                .iter()
                .find(|entry| entry.uid == claim.uid)
                .unwrap();
            assert_eq!(entry.status, claim.status, "{name}");
        }
    }
}
