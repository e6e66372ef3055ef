//! SHA-256 of content, and the lines that `sha256sum -c` checks.
//!
//! The digest is that of FIPS 180-4, computed with the processor's own instructions where it has
//! them (`sha2` finds out at run time).

use std::fmt;
use std::io::Write;

use sha2::{Digest, Sha256};

hex_bytes!(
    /// SHA-256 of some content.
    ContentDigest,
    32
);

impl ContentDigest {
    /// The digest of bytes that are all there.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

/// Computes the digest of content as it comes.
#[derive(Clone, Default)]
pub struct ContentHasher(Sha256);

impl fmt::Debug for ContentHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ContentHasher")
    }
}

impl ContentHasher {
    /// A hasher that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Takes `count` zero bytes: the holes of a sparse file.
    pub fn update_zeros(&mut self, count: u64) {
        const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
        let mut left = count;
        while left > 0 {
            let step = usize::try_from(left).unwrap_or(usize::MAX).min(ZEROS.len());
            self.0.update(ZEROS.get(..step).unwrap_or(&ZEROS));
            left = left.saturating_sub(step as u64);
        }
    }

    /// The digest of everything taken.
    #[must_use]
    pub fn finish(self) -> ContentDigest {
        ContentDigest(self.0.finalize().into())
    }
}

impl Write for ContentHasher {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Appends one line that `sha256sum -c` checks: the digest, two spaces, the name as raw bytes, a
/// newline.
///
/// As GNU coreutils (9.0 and later) writes it, a name that holds a backslash, a newline or a
/// carriage return has them spelled `\\`, `\n`, `\r`, and its line is led by a backslash. A name
/// that is just `-` would be taken for standard input and is written as `./-`. Names need not be
/// UTF-8.
pub fn write_sum_line(out: &mut Vec<u8>, digest: &ContentDigest, name: &[u8]) {
    let escaped = name
        .iter()
        .any(|byte| matches!(byte, b'\\' | b'\n' | b'\r'));
    if escaped {
        out.push(b'\\');
    }
    let mut digits = [0u8; 64];
    // Cannot fail: 64 digits are exactly what 32 bytes need.
    let _ = hex::encode_to_slice(digest.0, &mut digits);
    out.extend_from_slice(&digits);
    out.extend_from_slice(b"  ");
    if name == b"-" {
        out.extend_from_slice(b"./");
    }
    for &byte in name {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            other => out.push(other),
        }
    }
    out.push(b'\n');
}

/// Reads a line of the form that [`write_sum_line`] and `sha256sum` write (text or binary mode),
/// with or without its newline; `None` if it is not one.
#[must_use]
pub fn parse_sum_line(line: &[u8]) -> Option<(ContentDigest, Vec<u8>)> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let (escaped, line) = match line.strip_prefix(b"\\") {
        Some(rest) => (true, rest),
        None => (false, line),
    };
    let (digits, rest) = line.split_at_checked(64)?;
    let digest = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let name = rest
        .strip_prefix(b"  ")
        .or_else(|| rest.strip_prefix(b" *"))?;
    if name.is_empty() || name.contains(&b'\n') {
        return None;
    }
    if !escaped {
        return Some((digest, name.to_vec()));
    }
    let mut plain = Vec::with_capacity(name.len());
    let mut bytes = name.iter();
    while let Some(&byte) = bytes.next() {
        plain.push(match byte {
            b'\\' => match bytes.next()? {
                b'\\' => b'\\',
                b'n' => b'\n',
                b'r' => b'\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some((digest, plain))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        // FIPS 180-4, the one-block and two-block examples of NIST.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(ContentDigest::of(b"abc").to_string(), abc);
        let mut hasher = ContentHasher::new();
        hasher.update(b"abcdbcdecdefdefgefghfghighijhijk");
        hasher.update(b"ijkljklmklmnlmnomnopnopq");
        let two = "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1";
        assert_eq!(hasher.finish().to_string(), two);
    }

    #[test]
    fn holes_hash_as_the_zeros_they_read_as() {
        let mut hasher = ContentHasher::new();
        hasher.update(b"x");
        hasher.update_zeros(40_000);
        let mut plain = vec![0u8; 40_001];
        plain[0] = b'x';
        assert_eq!(hasher.finish(), ContentDigest::of(&plain));
    }

    #[test]
    fn sha256sum_itself_accepts_the_lines_for_odd_names() {
        let folder = tempfile::tempdir().unwrap();
        let names: [&[u8]; 9] = [
            b"plain",
            b"two\nlines",
            b"back\\slash",
            b"return\r",
            b"not\xffutf8",
            b"-",
            b" led",
            b"*star",
            b"\\n",
        ];
        let mut sums = Vec::new();
        for (number, name) in names.iter().enumerate() {
            let content = format!("content {number}");
            let path = folder.path().join(std::ffi::OsStr::from_bytes(name));
            std::fs::write(path, &content).unwrap();
            write_sum_line(&mut sums, &ContentDigest::of(content.as_bytes()), name);
        }
        let list = folder.path().join("SUMS");
        std::fs::write(&list, &sums).unwrap();
        let check = |strict: &str| {
            Command::new("sha256sum")
                .args(["-c", strict, "SUMS"])
                .current_dir(folder.path())
                .output()
                .unwrap()
        };
        let good = check("--strict");
        assert!(
            good.status.success(),
            "{}",
            String::from_utf8_lossy(&good.stderr)
        );
        assert_eq!(
            String::from_utf8_lossy(&good.stdout)
                .matches(": OK")
                .count(),
            names.len()
        );
        std::fs::write(folder.path().join("plain"), "changed").unwrap();
        assert!(!check("--strict").status.success());
    }

    proptest! {
        #[test]
        fn a_sum_line_gives_back_its_name(name in proptest::collection::vec(1u8.., 1..40)) {
            prop_assume!(name != b"-");
            let digest = ContentDigest::of(&name);
            let mut line = Vec::new();
            write_sum_line(&mut line, &digest, &name);
            prop_assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
            prop_assert_eq!(parse_sum_line(&line), Some((digest, name)));
        }

        #[test]
        fn no_bytes_make_the_line_parser_panic(bytes: Vec<u8>) {
            let _ = parse_sum_line(&bytes);
        }
    }

    /// Run with `--release --ignored --nocapture` to see the rate.
    #[test]
    #[ignore = "measures; needs a release build"]
    fn hashing_runs_at_the_rate_of_the_processors_own_instructions() {
        let block = vec![0xa5u8; 1 << 20];
        let begin = std::time::Instant::now();
        let mut hasher = ContentHasher::new();
        (0..1024).for_each(|_| hasher.update(&block));
        let digest = hasher.finish();
        let rate = f64::from(1u32 << 30) / begin.elapsed().as_secs_f64() / 1e9;
        println!("{digest}: {rate:.2} GB/s");
        assert!(rate > 0.7, "{rate:.2} GB/s: are the SHA instructions used?");
    }
}
