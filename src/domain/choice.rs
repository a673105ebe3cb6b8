//! Which backup a command means, and what is odd about the series it comes from.

use jiff::Timestamp;

use super::id::BackupId;
use super::manifest::Manifest;

/// Which backup is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The newest.
    Latest,
    /// The newest whose snapshot is at or before a time.
    At(Timestamp),
    /// This one.
    Exactly(BackupId),
    /// The oldest there is.
    Oldest,
    /// Any one whose snapshot is not older than a time; the seed decides, and decides again the same way.
    Random {
        /// What decides.
        seed: u64,
        /// Oldest snapshot that counts.
        since: Timestamp,
    },
}

impl Which {
    /// Picks from manifests in any order; `None` if nothing fits.
    pub fn pick<'a>(&self, manifests: impl IntoIterator<Item = &'a Manifest>) -> Option<&'a Manifest> {
        let age = |m: &&Manifest| (m.source.snapshot_time, m.epoch, m.sequence);
        let manifests: Vec<&Manifest> = manifests.into_iter().collect();
        let sound = manifests.iter().copied().filter(|m| matches!(self, Self::Exactly(_)) || !superseded(m, &manifests));
        let candidates = sound.filter(|m| match self {
            Self::Latest | Self::Oldest => true,
            Self::At(time) => m.source.snapshot_time <= *time,
            Self::Exactly(id) => &m.backup == id,
            Self::Random { since, .. } => m.source.snapshot_time >= *since,
        });
        match self {
            Self::Latest | Self::At(_) | Self::Exactly(_) => candidates.max_by_key(age),
            Self::Oldest => candidates.min_by_key(age),
            Self::Random { seed, .. } => {
                let mut all: Vec<&Manifest> = candidates.collect();
                all.sort_by_key(age);
                let count = u64::try_from(all.len()).ok().filter(|count| *count > 0)?;
                all.get(usize::try_from(seed % count).ok()?).copied()
            }
        }
    }
}

/// Whether another manifest answers the same tick under a higher epoch: then this one was published by a host that had stood still.
#[must_use]
pub fn superseded(one: &Manifest, all: &[&Manifest]) -> bool {
    one.tick.is_some() && all.iter().any(|other| other.tick == one.tick && other.datastore == one.datastore && other.epoch > one.epoch)
}

/// Sequence numbers missing between the lowest and the highest of a datastore, as ranges.
///
/// Numbers below the lowest are not reported: whether they were removed by retention is for the removal records to say.
#[must_use]
pub fn gaps(mut sequences: Vec<u64>) -> Vec<(u64, u64)> {
    sequences.sort_unstable();
    sequences.windows(2).filter(|pair| pair[1] > pair[0].saturating_add(1)).map(|pair| (pair[0] + 1, pair[1] - 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deleted_backup_shows_as_a_gap() {
        assert_eq!(gaps(vec![5, 1, 2, 9]), vec![(3, 4), (6, 8)]);
        assert_eq!(gaps(vec![3, 4, 5]), vec![]);
        assert_eq!(gaps(vec![]), vec![]);
    }
}
