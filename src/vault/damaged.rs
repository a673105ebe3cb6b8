//! A decorator that damages what is read from a vault, for negative controls. The vault itself is
//! not touched.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Capabilities, ObjectFacts, ReadableObject, ThawAnswer, UnfinishedUpload, Upload, Vault,
    VaultError, VaultLimits,
};
use crate::domain::document::VaultDocument;
use crate::domain::layout::ObjectKey;
use crate::domain::thaw::RetrievalTier;

/// What is wrong.
#[derive(Debug, Clone)]
pub enum VaultDamage {
    /// One bit of an object is turned.
    BitTurned {
        /// The object.
        key: ObjectKey,
        /// Offset of the byte.
        at: u64,
    },
    /// An object ends early.
    CutOff {
        /// The object.
        key: ObjectKey,
        /// Bytes that are left.
        bytes: u64,
    },
    /// Objects of one place lie in another: whoever asks for a name beginning with `to` gets what
    /// stands under `from`.
    Replaced {
        /// Prefix of the names asked for.
        to: String,
        /// Prefix of the names that are read.
        from: String,
    },
}

/// A vault with damage.
pub struct DamagedVault {
    inner: Arc<dyn Vault>,
    damage: VaultDamage,
}

impl DamagedVault {
    /// Looks at a vault through damage.
    #[must_use]
    pub fn new(inner: Arc<dyn Vault>, damage: VaultDamage) -> Self {
        Self { inner, damage }
    }

    fn refused<T>() -> Result<T, VaultError> {
        Err(VaultError::Refused {
            what: "writing".to_owned(),
            why: "a rehearsal of damage only reads".to_owned(),
        })
    }

    fn other(&self, key: &ObjectKey) -> Option<ObjectKey> {
        let VaultDamage::Replaced { to, from } = &self.damage else { return None };
        format!("{from}{}", key.as_str().strip_prefix(to)?).parse().ok()
    }
}

#[async_trait]
impl Vault for DamagedVault {
    fn address(&self) -> String {
        self.inner.address()
    }
    fn cli_options(&self) -> String {
        self.inner.cli_options()
    }
    fn limits(&self) -> VaultLimits {
        self.inner.limits()
    }
    async fn put(&self, _: &ObjectKey, _: VaultDocument) -> Result<(), VaultError> {
        Self::refused()
    }
    async fn begin(&self, _: &ObjectKey) -> Result<Box<dyn Upload>, VaultError> {
        Self::refused()
    }
    async fn find(&self, key: &ObjectKey) -> Result<Option<ObjectFacts>, VaultError> {
        let found = self.inner.find(&self.other(key).unwrap_or_else(|| key.clone())).await?;
        Ok(found.map(|facts| match &self.damage {
            VaultDamage::CutOff { key: cut, bytes } if cut == key => {
                ObjectFacts { bytes: facts.bytes.min(*bytes), ..facts }
            }
            _ => facts,
        }))
    }
    async fn read(
        &self,
        object: &ReadableObject,
        from: u64,
        length: usize,
    ) -> Result<Bytes, VaultError> {
        let bytes = self.inner.read(object, from, length).await?;
        match &self.damage {
            VaultDamage::BitTurned { key, at } if key == object.key() => {
                let mut bytes = bytes.to_vec();
                let here = at
                    .checked_sub(from)
                    .and_then(|offset| bytes.get_mut(usize::try_from(offset).ok()?));
                if let Some(byte) = here {
                    *byte ^= 1;
                }
                Ok(bytes.into())
            }
            VaultDamage::CutOff { key, bytes: left } if key == object.key() => {
                let left = usize::try_from(left.saturating_sub(from)).unwrap_or(usize::MAX);
                Ok(bytes.slice(..bytes.len().min(left)))
            }
            _ => Ok(bytes),
        }
    }
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectFacts>, VaultError> {
        self.inner.list(prefix).await
    }
    async fn remove(&self, _: &ObjectKey) -> Result<(), VaultError> {
        Self::refused()
    }
    async fn thaw(
        &self,
        object: &ObjectFacts,
        tier: RetrievalTier,
        days: u32,
    ) -> Result<ThawAnswer, VaultError> {
        self.inner.thaw(object, tier, days).await
    }
    async fn unfinished(&self) -> Result<Vec<UnfinishedUpload>, VaultError> {
        self.inner.unfinished().await
    }
    async fn discard(&self, _: &UnfinishedUpload) -> Result<(), VaultError> {
        Self::refused()
    }
    async fn probe(&self, _: &ObjectKey) -> Result<Capabilities, VaultError> {
        Self::refused()
    }
}
