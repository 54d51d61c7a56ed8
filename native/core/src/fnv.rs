//! The checkpoint's checksum: FNV-1a over the *decimal dump* of a text, as the Go driver's library takes it.
//!
//! The dump of `{}` is `([]uint8)[123 125]`. The code never builds it: each byte's digits go straight into the hash.

const START: u32 = 0x811c_9dc5;
const PRIME: u32 = 0x0100_0193;

/// For every byte: a space and its decimal digits, and the number of these characters.
static DUMP: [([u8; 4], u8); 256] = dump();

const fn dump() -> [([u8; 4], u8); 256] {
    let mut table = [([b' '; 4], 0); 256];
    let mut byte = 0;
    while byte < 256 {
        let digits = if byte >= 100 {
            3
        } else if byte >= 10 {
            2
        } else {
            1
        };
        let mut rest = byte;
        let mut at = digits;
        while at > 0 {
            table[byte].0[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            at -= 1;
        }
        table[byte].1 = digits as u8 + 1;
        byte += 1;
    }
    table
}

const fn step(hash: u32, byte: u8) -> u32 {
    (hash ^ byte as u32).wrapping_mul(PRIME)
}

/// An incremental checksum: feed it the text in pieces.
#[derive(Debug, Clone, Copy)]
pub struct Checksum {
    hash: u32,
    is_first: bool,
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

impl Checksum {
    #[must_use]
    pub fn new() -> Self {
        Checksum {
            hash: b"([]uint8)["
                .iter()
                .fold(START, |hash, byte| step(hash, *byte)),
            is_first: true,
        }
    }

    pub fn update(&mut self, mut text: &[u8]) {
        let mut hash = self.hash;
        if self.is_first {
            let Some((first, rest)) = text.split_first() else {
                return;
            };
            let (digits, length) = &DUMP[usize::from(*first)];
            hash = digits[1..usize::from(*length)]
                .iter()
                .fold(hash, |hash, byte| step(hash, *byte));
            self.is_first = false;
            text = rest;
        }
        for byte in text {
            let (digits, length) = &DUMP[usize::from(*byte)];
            hash = step(step(hash, digits[0]), digits[1]);
            if *length > 2 {
                hash = step(hash, digits[2]);
                if *length > 3 {
                    hash = step(hash, digits[3]);
                }
            }
        }
        self.hash = hash;
    }

    #[must_use]
    pub fn finish(self) -> u32 {
        step(self.hash, b']')
    }
}

/// The checksum of a text given in pieces.
#[must_use]
pub fn checksum<T: AsRef<[u8]>>(pieces: &[T]) -> u32 {
    let mut checksum = Checksum::new();
    for piece in pieces {
        checksum.update(piece.as_ref());
    }
    checksum.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &[u8]) -> u32 {
        let digits: Vec<String> = text.iter().map(u8::to_string).collect();
        format!("([]uint8)[{}]", digits.join(" "))
            .bytes()
            .fold(START, step)
    }

    #[test]
    fn known_values() {
        assert_eq!(checksum(&[r#"{"checksum":0,"v1":{}}"#]), 1_083_090_442);
        assert_eq!(checksum(&[r#"{"checksum":0}"#]), 4_166_374_854);
    }

    #[test]
    fn pieces_do_not_matter_and_every_byte_counts() {
        let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
        for cut in 0..all.len() {
            let mut checksum = Checksum::new();
            checksum.update(&all[..cut]);
            checksum.update(&all[cut..]);
            assert_eq!(checksum.finish(), plain(&all));
        }
        assert_eq!(Checksum::new().finish(), plain(b""));
    }
}
