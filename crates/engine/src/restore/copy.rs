//! A store during its restore from a changelog.
//!
//! Between meta records the store contains a state that never existed, and `verified` is false.
//! After a crash in the middle the restore must scan the whole store once. Memory use never exceeds
//! one chunk.

use faults::crash::{self, Point};
use ports::records::Record;
use ports::{LogError, StateStore, StoreError};

use super::RestoreError;
use super::scan_digest;
use crate::checkpoint::{Checkpoint, META_KEY, StoreMeta};
use crate::digest::{self, Digest};

/// An open store and its changelog position.
pub(super) struct StoreCopy {
    pub store: Box<dyn StateStore>,
    /// The meta record in the store. `None` while the store is empty.
    pub have: Option<StoreMeta>,
    /// Incremental digest. `None` if a step did not start from a verified state.
    digest: Option<Digest>,
    /// True if `have` was read from the changelog, and not only from the store.
    pub from_log: bool,
    /// True if the last applied record was a meta record, so the content is the state after a
    /// transaction.
    whole: bool,
    /// Number of records applied.
    pub records: u64,
}

impl StoreCopy {
    /// Reads the meta record of an open store.
    pub(super) fn of(store: Box<dyn StateStore>) -> Result<StoreCopy, StoreError> {
        let have = match store.meta()? {
            Some(bytes) => Some(StoreMeta::decode(&bytes).map_err(StoreError::from)?),
            None => None,
        };

        let digest = have.as_ref().filter(|h| h.verified).map(|h| h.meta.digest);
        Ok(StoreCopy {
            store,
            have,
            digest,
            from_log: false,
            whole: true,
            records: 0,
        })
    }

    /// Offset of the last applied changelog record.
    pub(super) fn at(&self) -> Option<u64> {
        self.have.as_ref().map(|h| h.changelog_offset)
    }

    /// The checkpoint of the content.
    pub(super) fn meta(&self) -> Option<&Checkpoint> {
        self.have
            .as_ref()
            .map(|h| &h.meta)
            .filter(|m| !m.offsets.is_empty())
    }

    /// Applies a chunk of the changelog to the store.
    pub(super) fn apply<'r>(
        &mut self,
        chunk: impl Iterator<Item = Record<'r>>,
    ) -> Result<(), RestoreError> {
        let mut latest: indexmap::IndexMap<&[u8], Option<&[u8]>, rustc_hash::FxBuildHasher> =
            indexmap::IndexMap::default();
        let mut meta = self
            .have
            .as_ref()
            .map(|h| h.meta.clone())
            .unwrap_or_default();
        let mut last = None;
        for r in chunk {
            self.records += 1;
            last = Some(r.offset);
            self.whole = r.key == Some(META_KEY);
            if self.whole {
                meta = Checkpoint::decode(r.value.unwrap_or_default()).map_err(LogError::from)?;
                self.from_log = true;
            } else {
                latest.insert(r.key.unwrap_or_default(), r.value);
            }
        }

        let Some(changelog_offset) = last else {
            return Ok(());
        };

        if let Some(mut digest) = self.digest {
            let mut old = Vec::new();
            for (key, value) in &latest {
                let before = if self.store.get(key, &mut old)? {
                    digest::of(key, &old)
                } else {
                    Digest::ZERO
                };

                digest = digest.replace(before, value.map_or(Digest::ZERO, |v| digest::of(key, v)));
            }

            self.digest = Some(digest);
        }

        let verified = self.whole && self.digest == Some(meta.digest);
        let record = StoreMeta {
            changelog_offset,
            verified,
            meta,
        };

        self.store
            .write(&mut latest.iter().map(|(k, v)| (*k, *v)), &record.encode())?;
        self.have = Some(record);
        crash::point(Point::RestoreChunk);
        Ok(())
    }

    /// For a mutant: marks unverified content as verified.
    pub(super) fn trust(&mut self) {
        if let Some(record) = &mut self.have {
            (record.verified, self.digest) = (true, Some(record.meta.digest));
        }
    }

    /// Verifies the content after the position was accepted. The inner error describes the
    /// difference.
    pub(super) fn verify(&mut self) -> Result<Result<(), String>, StoreError> {
        let Some(record) = &mut self.have else {
            return Ok(Ok(()));
        };

        if record.verified {
            return Ok(Ok(()));
        }

        let digest = match self.digest {
            Some(d) => d,
            None => scan_digest(&*self.store)?,
        };

        if digest != record.meta.digest {
            return Ok(Err(format!(
                "its digest is {digest} where the changelog says {}",
                record.meta.digest
            )));
        }

        record.verified = true;
        crash::point(Point::RestoreChecked);
        self.store
            .write(&mut std::iter::empty(), &record.encode())?;
        self.digest = Some(digest);
        crash::point(Point::RestoreVerified);
        Ok(Ok(()))
    }

    /// True if the content is the state after a transaction, as far as known.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
}
