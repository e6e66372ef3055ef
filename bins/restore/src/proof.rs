//! `restore prove` and `check-proof`.

use std::fs::{File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use backstay::core::EntryPath;
use backstay::engine::SnapshotView;
use backstay::engine::stage::canonical;
use backstay::format::config::Operation;
use backstay::integrity::digest::{ContentDigest, ContentHasher};
use backstay::integrity::merkle::{PAGE_LEAVES, SnapshotTreeBuilder, prove as prove_leaf};
use backstay::integrity::proof::{
    CheckedProof, ContentCheck, MAX_PROOF_BYTES, ProofError, ProofParts, check_proof, write_proof,
};
use backup_terminal::{
    Console, Exit, Failure, Look, Outcome, SnapshotPath, parse_snapshot_path, surroundings, text,
};
use serde_json::{Value, json};

use crate::cli::{CheckProofArgs, ProveArgs};
use crate::look::{path_members, show_path};
use crate::place;

fn failed(error: &dyn std::fmt::Display) -> Failure {
    let hint = "`snapshot verify --level full` tells whether the snapshot is whole";
    Failure::new(Exit::Damage, error.to_string(), hint)
}

/// Proves an entry.
pub(crate) async fn prove(console: &mut Console, args: &ProveArgs) -> Outcome {
    let wanted = parse_snapshot_path(&args.entry)?;
    let repo = console.open(Operation::Read).await?;
    let view = place::open(console, &repo, &wanted.snapshot).await?;
    view.check_signatures()?;
    let done = prove_entry(console, &view, &wanted, args).await;
    let looked = Look::at("prove", &view, 1);
    console.record_look(&repo, looked, &done).await;
    done
}

async fn prove_entry(
    console: &mut Console,
    view: &SnapshotView<'_>,
    wanted: &SnapshotPath,
    args: &ProveArgs,
) -> Outcome {
    let entry = place::entry(console, view, wanted).await?;
    let leaf = find_leaf(console, view, entry.component, &entry.path).await?;
    let (statement, manifest_sha256, signatures) = view.statement()?;
    let inclusion = prove_leaf(
        leaf.index,
        statement.leaf_count,
        &view.salt(),
        leaf.page.iter(),
        &leaf.page_roots,
    );
    let inclusion = inclusion.map_err(|error| failed(&error))?;
    let in_page = usize::try_from(leaf.index % u64::from(PAGE_LEAVES)).unwrap_or(0);
    let parts = ProofParts {
        statement: &statement,
        manifest_sha256: &manifest_sha256,
        signatures: &signatures,
        canonical: leaf.page.get(in_page).map_or(&[], Vec::as_slice),
        inclusion: &inclusion,
    };
    let proof = write_proof(&parts).map_err(|error| failed(&error))?;
    let Some(path) = &args.output else {
        console.raw(&proof)?;
        return Ok(Exit::Ok);
    };
    write_new(path, &proof).map_err(|error| Failure::file("write", path, &error))?;
    let mut members = json!({ "file": text::path(path), "bytes": proof.len() });
    if let Value::Object(members) = &mut members {
        members.insert(
            "public_key".into(),
            signatures.public_key.to_string().into(),
        );
        for (name, value) in path_members(&entry.path) {
            members.insert(name.into(), value);
        }
    }
    console.record("proof", members)?;
    console.line(format!(
        "wrote {} ({}), signed by key {}",
        text::path(path),
        text::bytes(proof.len() as u64),
        signatures.public_key,
    ))?;
    Ok(Exit::Ok)
}

/// Writes a file that is not there yet, whole or not at all.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let path = surroundings::absolute(path);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::Builder::new()
        .prefix(".backstay-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist_noclobber(&path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

/// An entry's place in the tree, with its page.
struct Leaf {
    index: u64,
    page: Vec<Vec<u8>>,
    page_roots: Vec<[u8; 32]>,
}

/// Builds the tree anew over all entries, and keeps the page of the one that is wanted.
async fn find_leaf(
    console: &Console,
    view: &SnapshotView<'_>,
    component: u8,
    path: &EntryPath,
) -> Outcome<Leaf> {
    let mut tree = SnapshotTreeBuilder::new(view.salt());
    let mut page: Vec<Vec<u8>> = Vec::new();
    let mut found: Option<u64> = None;
    let mut walk = view.all();
    let page_leaves = u64::from(PAGE_LEAVES);
    let mut index = 0u64;
    while let Some(entry) = walk.next(&console.cx).await? {
        let name = view.component_name(entry.component);
        let mut bytes = Vec::new();
        canonical(name, &entry.path, &entry.record)
            .encode(&mut bytes)
            .map_err(|error| failed(&error))?;
        if index.is_multiple_of(page_leaves) && found.is_none() {
            page.clear();
        }
        tree.push(&bytes);
        if entry.component == component && entry.path == *path {
            found = Some(index);
        }
        if found.is_none_or(|at| at / page_leaves == index / page_leaves) {
            page.push(bytes);
        }
        index += 1;
    }
    let index = found.ok_or_else(|| failed(&"the entry is not in its own snapshot"))?;
    let page_roots = tree.finish().page_roots;
    Ok(Leaf {
        index,
        page,
        page_roots,
    })
}

/// Checks a proof.
pub(crate) fn check(console: &mut Console, args: &CheckProofArgs) -> Outcome {
    let mut bytes = Vec::new();
    let limit = MAX_PROOF_BYTES as u64 + 1;
    File::open(&args.proof)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|error| Failure::file("read", &args.proof, &error))?;
    let content = args.file.as_deref().map(digest_of).transpose()?;
    let checked = check_proof(&bytes, args.public_key.as_ref(), content.as_ref());
    let checked = checked.map_err(|error| refused(&error, &args.proof))?;
    show(console, &checked)?;
    Ok(Exit::Ok)
}

fn refused(error: &ProofError, path: &Path) -> Failure {
    let (exit, hint) = match error {
        ProofError::OtherKey { .. } => (Exit::WrongKey, "ask the host's owner for its public key"),
        ProofError::ContentDiffers { .. } => (Exit::Damage, "it is not the file that was saved"),
        ProofError::NoContent => (Exit::Usage, "check the proof without --file"),
        ProofError::Newer(_) => (Exit::Failed, "install a newer release of Backstay"),
        _ => (Exit::Damage, "ask for the proof again: it does not hold"),
    };
    Failure::new(exit, format!("{}: {error}", text::path(path)), hint)
}

fn digest_of(path: &Path) -> Outcome<ContentDigest> {
    let mut hasher = ContentHasher::new();
    File::open(path)
        .and_then(|mut file| std::io::copy(&mut file, &mut hasher))
        .map_err(|error| Failure::file("read", path, &error))?;
    Ok(hasher.finish())
}

fn show(console: &mut Console, checked: &CheckedProof) -> Outcome<()> {
    let (statement, entry) = (&checked.statement, &checked.entry);
    let compared = matches!(checked.content, ContentCheck::Same(_));
    let mut members = json!({
        "snapshot": statement.snapshot.to_string(),
        "name": statement.name,
        "host": statement.host.0,
        "time": statement.time.to_string(),
        "root": statement.root.to_string(),
        "size": entry.size,
        "sha256": entry.sha256.map(|digest| digest.to_string()),
        "public_key": checked.signed_by.key.to_string(),
        "trusted": checked.signed_by.trusted,
        "content_compared": compared,
    });
    if let Value::Object(members) = &mut members {
        for (name, value) in path_members(&entry.path) {
            members.insert(name.into(), value);
        }
    }
    console.record("proven", members)?;
    console.line("the proof holds")?;
    let escaped = |text: &str| text::escape(text.as_bytes());
    console.line(format!("  entry     {}", show_path(&entry.path)))?;
    if entry.kind.has_content() {
        console.line(format!("  size      {} bytes", entry.size))?;
    }
    if let Some(digest) = entry.sha256 {
        let word = if compared { " (the file's)" } else { "" };
        console.line(format!("  sha256    {digest}{word}"))?;
    }
    console.line(format!(
        "  snapshot  {} of {}",
        statement.snapshot,
        escaped(&statement.name)
    ))?;
    console.line(format!(
        "  host      {} at {}",
        escaped(&statement.host.0),
        statement.time
    ))?;
    console.line(format!("  {}", checked.signed_by))?;
    if !checked.signed_by.trusted {
        console.warn("anybody may have signed it: give the host's key with --public-key");
    }
    Ok(())
}
