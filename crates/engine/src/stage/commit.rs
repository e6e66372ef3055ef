//! The sixth stage: the snapshot object, signed. Before it there is no snapshot, behind it a whole
//! one. The refs go first: what no snapshot names does not exist. Behind it the writer looks whether a
//! collector of garbage has taken it for dead meanwhile: then its snapshot may not count.

use backup_core::{
    CancellationToken, ChunkId, ComponentMeta, Event, ObjectMeta, OpContext, Outcome, PutMode,
    Severity, SnapshotId, SnapshotMeta, SnapshotStats, Stage,
};
use backup_format::layout;
use backup_format::seal::{BlobCodec, BlobKind, ObjectKind, blob_id};
use backup_format::snapshot::{
    Inner, InnerComponent, Left, Next, NextPart, Outer, Point, Roots, SnapshotObject, encode,
    source_name,
};
use backup_integrity::merkle::MerkleRoot;
use backup_integrity::sign::{HmacKey, HostSigner};
use backup_integrity::statement::SignedStatement;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::store::Stored;
use crate::collect::Fate;
use crate::error::{EngineError, Result};
use crate::repository::{Repository, name, put_new};
use crate::snapshot::SnapshotJob;
use crate::store::random;

/// Findings that a manifest keeps word by word.
const MOST_FINDINGS: usize = 1000;
/// Their bytes: all of them must go into one blob.
const MOST_FINDING_BYTES: usize = 4 << 20;

/// A snapshot that exists.
#[derive(Debug)]
pub struct Committed {
    pub(super) stored: Stored,
    pub(super) meta: SnapshotMeta,
    pub(super) root: MerkleRoot,
    pub(super) refs_bytes: u64,
    pub(super) fate: Fate,
    /// What the tier told of its object.
    pub(super) put: ObjectMeta,
    /// Its object, as it lies on the tier.
    pub(super) object: Bytes,
}

/// A snapshot that is about to be: nothing of it is missing but the object itself.
#[derive(Debug)]
pub struct Ready {
    stored: Stored,
    meta: SnapshotMeta,
    refs_bytes: u64,
    object: Bytes,
}

/// Makes everything that goes before the snapshot object, and the object itself, but does not show it
/// yet.
///
/// # Errors
/// [`EngineError::IndexCache`]; errors of the tier. Then no snapshot will come of it.
pub async fn prepare(
    repo: &Repository,
    cx: &OpContext,
    mut stored: Stored,
    job: &SnapshotJob,
) -> Result<Ready> {
    cx.tell(Event::Entered {
        stage: Stage::Commit,
        entries: None,
        bytes: None,
    });
    if cx.cancel.is_cancelled() {
        return Err(EngineError::Cancelled);
    }
    let planned = stored.planned.degraded.take();
    let found = std::mem::take(&mut stored.report.findings);
    for finding in planned.into_iter().chain(found) {
        stored.assembled.counts.found(cx, finding);
    }
    let meta = describe(&stored, job)?;
    let refs = stored
        .assembled
        .usage
        .refs(meta.id, &stored.index, &stored.packs)?;
    // They do not name what the index denied after it had been built on.
    stored.index.check()?;
    let sealed_refs = repo
        .ring()
        .seal(ObjectKind::Refs, &refs.encode())
        .map_err(EngineError::Seal)?;
    let refs_bytes = sealed_refs.len() as u64;
    put_new(
        cx,
        &**repo.sink(),
        &name(layout::refs(meta.id))?,
        sealed_refs.into(),
    )
    .await?;
    let object = build(repo, &stored, &meta, job)?;
    let plain = object
        .encode()
        .map_err(|error| EngineError::Evidence(error.to_string()))?;
    let sealed = repo
        .ring()
        .seal(ObjectKind::Snapshot, &plain)
        .map_err(EngineError::Seal)?;
    Ok(Ready {
        stored,
        meta,
        refs_bytes,
        object: sealed.into(),
    })
}

/// Makes the snapshot visible, and looks whether it counts.
///
/// # Errors
/// Errors of the tier; then there may be a snapshot all the same, or come to be one: an answer that
/// was lost may have been to a change that is made yet. [`EngineError::TakenForDead`],
/// [`EngineError::Undecided`].
pub async fn commit(repo: &Repository, cx: &OpContext, ready: Ready) -> Result<Committed> {
    let Ready {
        stored,
        meta,
        refs_bytes,
        object,
    } = ready;
    let key = name(layout::snapshot(meta.id))?;
    let put = repo.sink().put(cx, &key, object.clone(), PutMode::Create);
    let put = put.await?;
    // It is there: that the run is called off now does not keep it from being told.
    let mut own = cx.clone();
    own.cancel = CancellationToken::new();
    let fate = match stored.session.outcome(repo, &own, meta.id).await {
        Ok(fate) => fate,
        Err(error) => {
            // The outcome is known; what the source says to it changes nothing.
            let _ = stored.capture.settle(cx, Outcome::Abandoned).await;
            return Err(error);
        }
    };
    let root = stored.assembled.tree.root;
    cx.tell(Event::Left(Stage::Commit));
    Ok(Committed {
        stored,
        meta,
        root,
        refs_bytes,
        fate,
        put,
        object,
    })
}

fn describe(stored: &Stored, job: &SnapshotJob) -> Result<SnapshotMeta> {
    let counts = &stored.assembled.counts;
    let time = job.imported_from.unwrap_or(stored.planned.started);
    // Its id tells the same time.
    let millis = u64::try_from(time.as_millisecond()).unwrap_or(0);
    let mut tags = job.tags.clone();
    tags.sort();
    tags.dedup();
    Ok(SnapshotMeta {
        id: SnapshotId::from_parts(millis, random()?),
        name: job.name.clone(),
        host: job.host.clone(),
        time,
        first_seen: None,
        tags,
        label: job.label.clone(),
        held: false,
        partial: false,
        findings: counts.serious,
        parent: stored.planned.parent().map(|parent| parent.meta.id),
        stats: SnapshotStats {
            entries: counts.entries,
            files: counts.files,
            bytes: counts.bytes,
            unchanged: counts.unchanged,
            bytes_read: counts.bytes_read,
            bytes_new: stored.bytes_new,
            bytes_added: stored.bytes_added,
        },
    })
}

fn build(
    repo: &Repository,
    stored: &Stored,
    meta: &SnapshotMeta,
    job: &SnapshotJob,
) -> Result<SnapshotObject> {
    let evidence = |error: &dyn std::fmt::Display| EngineError::Evidence(error.to_string());
    let assembled = &stored.assembled;
    let info = &stored.planned.info;
    let point = stored.report.closing_point.clone();
    let component = ComponentMeta {
        name: job.component.clone(),
        kind: info.kind.to_owned(),
        origin: info.origin.clone(),
        point: point.unwrap_or_else(|| stored.capture.point().clone()),
        versions: info.versions.clone(),
    };
    // Notes only where there is room for them: what is missing, restores must know.
    let all = &assembled.counts.findings;
    let (serious, notes): (Vec<_>, Vec<_>) =
        all.iter().partition(|one| one.severity > Severity::Note);
    let mut room = MOST_FINDING_BYTES;
    let findings = serious
        .into_iter()
        .chain(notes)
        .filter_map(|finding| serde_json::to_string(finding).ok())
        .take_while(|text| {
            let fits = text.len() <= room;
            room = room.saturating_sub(text.len());
            fits
        })
        .take(MOST_FINDINGS);
    let inner = Inner {
        components: vec![InnerComponent::new(&component)],
        salt: assembled.salt,
        findings: findings.collect(),
        program: job.program.clone(),
        user: job.user.clone(),
        extra: std::collections::BTreeMap::new(),
    };
    let inner = encode(&inner).map_err(|error| evidence(&error))?;
    let (inner_id, sealed) = seal_part(repo, stored, BlobKind::Page, &inner)?;
    let next = next_part(repo, stored, &component)?;
    let roots = Roots {
        manifest: assembled.manifest,
        lineage: assembled.lineage,
        merkle: *assembled.tree.root.as_bytes(),
        leaves: assembled.tree.leaf_count,
    };
    let outer = Outer::new(meta, stored.session.id, stored.session.wrap().wrap, roots);
    let outer = encode(&outer).map_err(|error| evidence(&error))?;
    let statement = SignedStatement {
        repo: repo.id(),
        snapshot: meta.id,
        host: meta.host.clone(),
        name: meta.name.clone(),
        time: meta.time,
        leaf_count: assembled.tree.leaf_count,
        root: assembled.tree.root,
        bytes: meta.stats.bytes,
        parent: meta.parent,
    };
    let signer = host_signer(repo, &meta.host)?;
    let digest = SnapshotObject::digest(&outer, &sealed, &next.sealed);
    let signatures = statement
        .sign(&signer, &digest)
        .map_err(|error| evidence(&error))?;
    let certificate = repo.keys().host_certificate(&meta.host)?;
    Ok(SnapshotObject {
        outer,
        inner: sealed,
        inner_id,
        inner_raw: u32::try_from(inner.len()).unwrap_or(u32::MAX),
        next,
        statement: statement.encode().map_err(|error| evidence(&error))?,
        hmac: *signatures.hmac.as_bytes(),
        public_key: *signatures.public_key.as_bytes(),
        signature: halves(signatures.ed25519.as_bytes()),
        certificate: halves(&certificate),
        brought_by: None,
    })
}

fn halves(bytes: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (mut low, mut high) = ([0u8; 32], [0u8; 32]);
    low.copy_from_slice(&bytes[..32]);
    high.copy_from_slice(&bytes[32..]);
    (low, high)
}

/// Seals a part of the snapshot object as a blob; its id and its bytes.
fn seal_part(
    repo: &Repository,
    stored: &Stored,
    kind: BlobKind,
    plain: &[u8],
) -> Result<(ChunkId, Vec<u8>)> {
    let id = blob_id(repo.keys().id_key()?, kind, plain);
    let mut codec = BlobCodec::new(3).map_err(EngineError::Seal)?;
    let mut sealed = Vec::new();
    codec
        .seal(stored.session.key_of(kind), kind, &id, plain, &mut sealed)
        .map_err(EngineError::Seal)?;
    Ok((id, sealed))
}

/// What the source left for its next capture, where a writer that has lost everything else finds it.
fn next_part(repo: &Repository, stored: &Stored, component: &ComponentMeta) -> Result<NextPart> {
    let left = Left {
        source: source_name(repo.keys().cut_key()?, &component.kind, &component.origin),
        point: Point::new(&component.point),
        cursor: stored.report.cursor.as_ref().map(|cursor| cursor.to_vec()),
    };
    let next = Next {
        components: [(component.name.clone(), left)].into(),
        ..Next::default()
    };
    let plain = encode(&next).map_err(|error| EngineError::Evidence(error.to_string()))?;
    let (id, sealed) = seal_part(repo, stored, BlobKind::Lineage, &plain)?;
    Ok(NextPart {
        sealed,
        id,
        raw: u32::try_from(plain.len()).unwrap_or(u32::MAX),
    })
}

/// The signing keys of a host.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot sign for it.
pub fn host_signer(repo: &Repository, host: &backup_core::HostId) -> Result<HostSigner> {
    let keys = repo.keys().host_keys(host)?;
    let seed = Zeroizing::new(keys.ed25519_seed);
    Ok(HostSigner::new(
        host.clone(),
        HmacKey::new(keys.hmac),
        &seed,
    ))
}
