//! The hashes that remotes have of their files, as far as they are made here, to compare what arrived with what was sent.

use aws_lc_rs::digest;
use base64::Engine as _;
use md5::Digest as _;

/// A hash that a remote may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha1,
    Md5,
    /// OneDrive's.
    QuickXor,
    /// Dropbox's.
    Dropbox,
}

impl Hash {
    /// Those that are made here, the best first.
    const ALL: [Self; 5] = [
        Self::Sha256,
        Self::Sha1,
        Self::Md5,
        Self::QuickXor,
        Self::Dropbox,
    ];

    /// Its name in rclone.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha1 => "sha1",
            Self::Md5 => "md5",
            Self::QuickXor => "quickxor",
            Self::Dropbox => "dropbox",
        }
    }

    /// The best of those that a remote has.
    pub(crate) fn best_of(names: &[String]) -> Option<Self> {
        let has = |hash: &Self| names.iter().any(|name| name == hash.name());
        Self::ALL.into_iter().find(has)
    }

    /// The hash of bytes as rclone writes it.
    pub(crate) fn of(self, body: &[u8]) -> String {
        match self {
            Self::Sha256 => hex::encode(digest::digest(&digest::SHA256, body)),
            Self::Sha1 => hex::encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, body)),
            Self::Md5 => hex::encode(md5::Md5::digest(body)),
            Self::QuickXor => hex::encode(quick_xor(body)),
            Self::Dropbox => hex::encode(dropbox(body)),
        }
    }

    /// Whether what a remote says is the hash of these bytes. OneDrive's is written in base64 by some versions.
    pub(crate) fn is_of(self, told: &str, body: &[u8]) -> bool {
        let ours = self.of(body);
        let in_base64 = || {
            let bytes = base64::engine::general_purpose::STANDARD.decode(told);
            bytes.is_ok_and(|bytes| hex::encode(bytes) == ours)
        };
        told.eq_ignore_ascii_case(&ours) || (self == Self::QuickXor && in_base64())
    }
}

/// Each byte is put eleven bits further round a circle of 160, and the length over the last eight bytes of it:
/// <https://learn.microsoft.com/onedrive/developer/code-snippets/quickxorhash>.
fn quick_xor(body: &[u8]) -> [u8; 20] {
    const BITS: usize = 160;
    const STEP: usize = 11;
    // Bytes that are 160 apart come to lie on each other.
    let mut columns = [0u8; BITS];
    for part in body.chunks(BITS) {
        for (column, byte) in columns.iter_mut().zip(part) {
            *column ^= byte;
        }
    }
    let mut circle = [0u8; BITS / 8];
    for (number, column) in columns.into_iter().enumerate() {
        let at = number * STEP % BITS;
        let both = u16::from(column) << (at % 8);
        let [low, high] = both.to_le_bytes();
        circle[at / 8] ^= low;
        circle[(at / 8 + 1) % (BITS / 8)] ^= high;
    }
    for (end, byte) in circle[12..]
        .iter_mut()
        .zip((body.len() as u64).to_le_bytes())
    {
        *end ^= byte;
    }
    circle
}

/// The SHA-256 of the SHA-256 of each 4 MiB.
fn dropbox(body: &[u8]) -> digest::Digest {
    let mut all = digest::Context::new(&digest::SHA256);
    for block in body.chunks(4 << 20) {
        all.update(digest::digest(&digest::SHA256, block).as_ref());
    }
    all.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `rclone hashsum` says.
    #[test]
    fn hashes_are_those_that_rclone_tells() {
        let told = [
            (
                Hash::Sha256,
                "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
            ),
            (Hash::Sha1, "f572d396fae9206628714fb2ce00f72e94f2258f"),
            (Hash::Md5, "b1946ac92492d2347c6235b4d2611184"),
            (Hash::QuickXor, "6828031bd8f00605000000000600000000000000"),
            (
                Hash::Dropbox,
                "ecb65bb98f9d905b70458986c39fcbad7715e5f2fcc3b1f07767d7c83e2438cc",
            ),
        ];
        for (hash, text) in told {
            assert_eq!(hash.of(b"hello\n"), text, "{hash:?}");
            assert!(hash.is_of(text, b"hello\n"));
            assert!(!hash.is_of(text, b"hallo\n"));
        }
        assert!(Hash::QuickXor.is_of("aCgDG9jwBgUAAAAABgAAAAAAAAA=", b"hello\n"));
    }

    /// Lengths at which the parts of hashes begin and end.
    #[test]
    fn hashes_of_any_length_are_those_of_rclone() {
        let folder = tempfile::tempdir().unwrap();
        let bodies = [0, 1, 159, 160, 161, 1000, 4 << 20, (4 << 20) + 77].map(|length: u32| {
            let words = (0..length).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8);
            let body: Vec<u8> = words.collect();
            std::fs::write(folder.path().join(length.to_string()), &body).unwrap();
            body
        });
        for hash in Hash::ALL {
            let told = std::process::Command::new("rclone")
                .args(["hashsum", hash.name()])
                .arg(folder.path())
                .output();
            let Ok(told) = told else {
                println!("skipped: there is no rclone (Debian: rclone)");
                return;
            };
            let told = String::from_utf8(told.stdout).unwrap();
            assert_eq!(told.lines().count(), bodies.len());
            for line in told.lines() {
                let (sum, name) = line.split_once("  ").unwrap();
                let body = bodies.iter().find(|body| body.len().to_string() == name);
                assert_eq!(hash.of(body.unwrap()), sum, "{hash:?} of {name}");
            }
        }
    }

    #[test]
    fn the_best_hash_that_a_remote_has_is_taken() {
        let best = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            Hash::best_of(&names)
        };
        assert_eq!(best(&["crc32", "md5", "sha256"]), Some(Hash::Sha256));
        assert_eq!(best(&["quickxor"]), Some(Hash::QuickXor));
        assert_eq!(best(&["mailru"]), None);
        assert_eq!(best(&[]), None);
    }
}
