//! Files of known hosts, in the form of sshd(8): which key a host should show, and which it must not.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::hmac;
use backup_core::ErrorKind;
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::ssh_key::{Algorithm, PublicKey};
use russh::keys::{HashAlg, PublicKeyBase64 as _};

use crate::fault::{Fault, Outcome, Wrong};

/// No file of known hosts is longer.
const MAX_BYTES: u64 = 16 << 20;

struct Known {
    file: PathBuf,
    line: usize,
    marker: Option<Marker>,
    key: PublicKey,
}

/// What is known of one host.
pub(crate) struct KnownHost {
    host: String,
    port: u16,
    entries: Vec<Known>,
    /// Where a key is to be added that is to be accepted.
    accept: PathBuf,
}

impl KnownHost {
    /// Reads what the files say of a host; a file that is not there says nothing, but where `must` says that somebody
    /// named it.
    pub(crate) fn read(host: &str, port: u16, files: &[PathBuf], must: bool) -> Outcome<Self> {
        let pattern = pattern(host, port);
        let mut entries = Vec::new();
        for file in files {
            let text = match text_of(file) {
                Ok(text) => text,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && !must => continue,
                Err(error) => {
                    let wrong = Wrong::Unreadable(file.clone(), error.to_string());
                    return Err(Fault::Ours(ErrorKind::Invalid, wrong));
                }
            };
            for (number, line) in text.lines().enumerate() {
                let line = line.trim();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                // Lines of kinds of keys that nobody uses any more say nothing of the others.
                let Ok(entry) = line.parse::<Entry>() else {
                    continue;
                };
                if is_meant(entry.host_patterns(), &pattern) {
                    entries.push(Known {
                        file: file.clone(),
                        line: number + 1,
                        marker: entry.marker().copied(),
                        key: entry.public_key().clone(),
                    });
                }
            }
        }
        let accept = files.first().cloned();
        Ok(Self {
            host: host.to_owned(),
            port,
            entries,
            accept: accept.unwrap_or_else(|| PathBuf::from("~/.ssh/known_hosts")),
        })
    }

    /// The kinds of keys that are known of the host: a server that has several is to show one of these.
    pub(crate) fn algorithms(&self) -> Vec<Algorithm> {
        let mut found = Vec::new();
        let plain = self.entries.iter().filter(|known| known.marker.is_none());
        for algorithm in plain.map(|known| known.key.algorithm()) {
            if let Algorithm::Rsa { .. } = algorithm {
                for hash in [HashAlg::Sha512, HashAlg::Sha256] {
                    found.push(Algorithm::Rsa { hash: Some(hash) });
                }
            } else {
                found.push(algorithm);
            }
        }
        found
    }

    /// Whether the host may be trusted that shows this key.
    pub(crate) fn check(&self, shown: &PublicKey) -> Result<(), Wrong> {
        let same = |known: &&Known| known.key.key_data() == shown.key_data();
        let fingerprint = || {
            format!(
                "{} {}",
                shown.algorithm(),
                shown.fingerprint(HashAlg::Sha256)
            )
        };
        let place = |known: &Known| format!("{}:{}", known.file.display(), known.line);
        let marked = |marker| {
            self.entries
                .iter()
                .filter(move |known| known.marker == marker)
        };
        if let Some(revoked) = marked(Some(Marker::Revoked)).find(same) {
            return Err(Wrong::RevokedHostKey {
                host: self.host.clone(),
                fingerprint: fingerprint(),
                place: place(revoked),
            });
        }
        if marked(None).any(|known| same(&known)) {
            return Ok(());
        }
        let kind = |known: &&Known| known.key.algorithm() == shown.algorithm();
        if let Some(other) = marked(None).find(kind).or_else(|| marked(None).next()) {
            return Err(Wrong::ChangedHostKey {
                host: self.host.clone(),
                fingerprint: fingerprint(),
                place: place(other),
                pattern: pattern(&self.host, self.port),
                file: other.file.display().to_string(),
            });
        }
        Err(Wrong::UnknownHostKey {
            host: self.host.clone(),
            port: self.port,
            fingerprint: fingerprint(),
            file: kind_of_file(&shown.algorithm()).to_owned(),
            accept: self.accept.display().to_string(),
        })
    }
}

fn text_of(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(file)?
        .take(MAX_BYTES)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// As the files name a host.
fn pattern(host: &str, port: u16) -> String {
    let host = host.to_lowercase();
    match port {
        22 => host,
        port => format!("[{host}]:{port}"),
    }
}

fn is_meant(patterns: &HostPatterns, name: &str) -> bool {
    match patterns {
        HostPatterns::HashedName { salt, hash } => {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
            hmac::verify(&key, name.as_bytes(), hash).is_ok()
        }
        HostPatterns::Patterns(patterns) => {
            let mut meant = false;
            for pattern in patterns {
                match pattern.strip_prefix('!') {
                    Some(not) if fits(not.to_lowercase().as_bytes(), name.as_bytes()) => {
                        return false;
                    }
                    Some(_) => {}
                    None => meant |= fits(pattern.to_lowercase().as_bytes(), name.as_bytes()),
                }
            }
            meant
        }
    }
}

/// Whether a name fits a pattern in which `*` stands for anything and `?` for one byte.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut of) = (0, 0);
    let mut star = None;
    while at < name.len() {
        match pattern.get(of) {
            Some(b'*') => {
                star = Some((of, at));
                of += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[at] => {
                at += 1;
                of += 1;
            }
            _ => match star {
                Some((there, from)) => {
                    star = Some((there, from + 1));
                    at = from + 1;
                    of = there + 1;
                }
                None => return false,
            },
        }
    }
    pattern[of..].iter().all(|&byte| byte == b'*')
}

/// As the files of host keys and `ssh-keyscan -t` call a kind.
fn kind_of_file(algorithm: &Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Rsa { .. } => "rsa",
        Algorithm::Ecdsa { .. } => "ecdsa",
        _ => "ed25519",
    }
}

/// Whether two keys are one.
pub(crate) fn is_same(one: &PublicKey, other: &PublicKey) -> bool {
    one.public_key_bytes() == other.public_key_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const OTHER: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";

    fn check(lines: &str, host: &str, port: u16, key: &str) -> Result<(), Wrong> {
        let folder = tempfile::TempDir::new().unwrap();
        let file = folder.path().join("known_hosts");
        std::fs::write(&file, lines).unwrap();
        let known = KnownHost::read(host, port, &[file], true).unwrap();
        known.check(&key.parse().unwrap())
    }

    #[test]
    fn a_host_is_known_by_name_port_and_pattern() {
        for (names, host, port) in [
            ("nas", "NAS", 22),
            ("other,nas", "nas", 22),
            ("[nas]:2222", "nas", 2222),
            ("*.example.org", "nas.example.org", 22),
            ("n?s", "nas", 22),
        ] {
            let lines = format!("# a comment\nnonsense\n{names} {ONE} me@here\n");
            assert_eq!(check(&lines, host, port, ONE), Ok(()), "{names}");
        }
        for (names, host, port) in [
            ("nas", "nas2", 22),
            ("nas", "nas", 2222),
            ("[nas]:2222", "nas", 22),
            ("*.example.org,!nas.example.org", "nas.example.org", 22),
        ] {
            let lines = format!("{names} {ONE}\n");
            let told = check(&lines, host, port, ONE);
            assert!(
                matches!(told, Err(Wrong::UnknownHostKey { .. })),
                "{names}: {told:?}"
            );
        }
    }

    #[test]
    fn hashed_names_are_understood() {
        // Made with `ssh-keygen -H` of the name `nas`.
        let salt = b"a salt of twenty byt";
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, salt);
        let tag = hmac::sign(&key, b"nas");
        let hash = tag.as_ref().try_into().unwrap();
        let hashed = HostPatterns::HashedName {
            salt: salt.to_vec(),
            hash,
        };
        let lines = format!("{} {ONE}\n", hashed.to_string());
        assert!(lines.starts_with("|1|"));
        assert_eq!(check(&lines, "nas", 22, ONE), Ok(()));
        assert!(check(&lines, "nas2", 22, ONE).is_err());
    }

    #[test]
    fn changed_and_revoked_keys_are_told_apart() {
        let changed = check(&format!("nas {OTHER}\n"), "nas", 22, ONE).unwrap_err();
        assert!(changed.to_string().contains("HAS CHANGED"), "{changed}");
        assert!(changed.to_string().contains("known_hosts:1"), "{changed}");
        let revoked = format!("nas {ONE}\n@revoked * {ONE}\n");
        let revoked = check(&revoked, "nas", 22, ONE).unwrap_err();
        assert!(revoked.to_string().contains("REVOKED"), "{revoked}");
        // Another's revocation is none of this key.
        let fine = format!("@revoked * {OTHER}\nnas {ONE}\n");
        assert_eq!(check(&fine, "nas", 22, ONE), Ok(()));
        // An authority's key is no host's.
        let authority = check(&format!("@cert-authority * {ONE}\n"), "nas", 22, ONE);
        assert!(matches!(authority, Err(Wrong::UnknownHostKey { .. })));
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, name, does) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abbc", true),
            ("a*c*", "abcd", true),
            ("a*c", "abcd", false),
            ("a?c", "ac", false),
            ("*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(
                fits(pattern.as_bytes(), name.as_bytes()),
                does,
                "{pattern} {name}"
            );
        }
    }
}
