//! A store on its way along its changelog.
//!
//! Between meta records the store holds a state that never was, and says so (`verified`). That
//! costs a crash in the middle a scan at the end, but never more memory than a chunk.

use super::scan_digest;
use crate::checkpoint::{Checkpoint, META_KEY, StoreMeta};
use crate::digest::{self, Digest};
use faults::crash::{self, Point};
use ports::records::Record;
use ports::{LogError, StateStore, StoreError};

use super::RestoreError;

/// An open store, and how far along the changelog it is.
pub(super) struct StoreCopy {
    pub store: Box<dyn StateStore>,
    /// The meta record in the store; none while the store is empty.
    pub have: Option<StoreMeta>,
    /// Digest by arithmetic, while every step started from a verified state.
    digest: Option<Digest>,
    /// Whether `have` was read from the changelog, and not only from the store.
    pub from_log: bool,
    /// Whether the last record applied was a meta record: the content is that of a transaction's
    /// end.
    whole: bool,
    /// Records applied.
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

    /// Offset of the changelog record that was applied last.
    pub(super) fn at(&self) -> Option<u64> {
        self.have.as_ref().map(|h| h.changelog_offset)
    }

    /// The meta record that the content belongs to.
    pub(super) fn meta(&self) -> Option<&Checkpoint> {
        self.have
            .as_ref()
            .map(|h| &h.meta)
            .filter(|m| !m.offsets.is_empty())
    }

    /// Puts a chunk of the changelog into the store.
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

    /// For a mistake: as if the content had been looked at.
    pub(super) fn trust(&mut self) {
        if let Some(record) = &mut self.have {
            (record.verified, self.digest) = (true, Some(record.meta.digest));
        }
    }

    /// The position is right; now the content must be. An error says how it differs.
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

    /// Whether the content is that of a transaction's end, as far as is known.
    pub(super) fn is_whole(&self) -> bool {
        self.whole
    }
}
