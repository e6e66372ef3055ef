//! Files that are replaced by others between the walk that sees them and the reader that opens them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    Capture, CapturePlan, CaptureReport, CaptureRequest, ConsistentPoint, Entry, OpContext,
    Outcome, Source, SourceError, SourceInfo,
};
use backup_source_files::{FilesConfig, FilesSource};

use crate::given::Shelf;

/// Files of a folder, each of which is replaced when the walk has seen all.
#[derive(Debug)]
struct Replaced {
    files: FilesSource,
    folder: PathBuf,
}

#[derive(Debug)]
struct Replacing {
    capture: Box<dyn Capture>,
    folder: PathBuf,
}

#[async_trait]
impl Source for Replaced {
    fn info(&self) -> SourceInfo {
        self.files.info()
    }

    async fn plan(
        &self,
        cx: &OpContext,
        request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError> {
        self.files.plan(cx, request).await
    }

    async fn begin(
        &self,
        cx: &OpContext,
        plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        Ok(Box::new(Replacing {
            capture: self.files.begin(cx, plan).await?,
            folder: self.folder.clone(),
        }))
    }
}

#[async_trait]
impl Capture for Replacing {
    fn point(&self) -> &ConsistentPoint {
        self.capture.point()
    }

    async fn next_entries(&mut self, cx: &OpContext) -> Result<Vec<Entry>, SourceError> {
        let entries = self.capture.next_entries(cx).await?;
        if !entries.is_empty() {
            for secret in fs::read_dir(self.folder.join("secret")).unwrap() {
                let secret = secret.unwrap();
                let name = self.folder.join("saved").join(secret.file_name());
                fs::rename(secret.path(), name).unwrap();
            }
        }
        Ok(entries)
    }

    async fn close(&mut self, cx: &OpContext) -> Result<CaptureReport, SourceError> {
        self.capture.close(cx).await
    }

    async fn settle(self: Box<Self>, cx: &OpContext, end: Outcome) -> Result<(), SourceError> {
        self.capture.settle(cx, end).await
    }
}

fn put(path: &Path, content: &[u8], mode: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_stored_with_the_mode_time_and_links_of_the_file_that_it_is_of() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    for (name, size) in [("small", 10), ("large", 3 << 20), ("linked", 10)] {
        let secret = at("secret").join(name);
        put(&at("saved").join(name), &vec![b'o'; size], 0o644);
        put(&secret, &vec![b's'; size], 0o600);
        let file = fs::File::options().write(true).open(&secret).unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(5_000);
        file.set_modified(time).unwrap();
        let _ = rustix::fs::setxattr(
            &secret,
            "user.of",
            b"secret",
            rustix::fs::XattrFlags::empty(),
        );
    }
    fs::hard_link(at("saved/linked"), at("saved/other")).unwrap();
    let has_attributes = rustix::fs::getxattr(at("secret/small"), "user.of", &mut [0; 9]).is_ok();
    let shelf = Shelf::new().await;
    let source = Replaced {
        files: FilesSource::new(FilesConfig::of_roots([at("saved")])),
        folder: temp.path().to_owned(),
    };
    let report = shelf.save_from(Arc::new(source)).await.unwrap();
    assert_eq!(report.findings, []);
    let entries = shelf.entries().await;
    let entry = |name: &str| {
        let wanted = backup_core::EntryPath::from_slashed(
            at("saved").join(name).as_os_str().as_encoded_bytes(),
        );
        let wanted = wanted.unwrap();
        let found = entries.iter().find(|entry| entry.path == wanted);
        &found.unwrap().record
    };
    for name in ["small", "large", "linked"] {
        let meta = &entry(name).meta;
        assert_eq!((meta.mode, meta.mtime.seconds), (0o600, 5_000), "{name}");
        assert_eq!(meta.link_group, None, "{name}");
        assert_eq!(meta.xattrs.len(), usize::from(has_attributes), "{name}");
    }
    // By now it is the only name of its file.
    let other = &entry("other").meta;
    assert_eq!((other.mode, other.link_group), (0o644, None));
    assert_ne!(entry("other").sha256, entry("linked").sha256);
}
