//! Selecting a backup of a datastore, and finding gaps in its sequence numbers.

use jiff::Timestamp;

use super::id::BackupId;
use super::manifest::Manifest;

/// Which backup is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupSelector {
    /// The newest.
    Latest,
    /// The newest whose snapshot is at or before a time.
    At(Timestamp),
    /// This one.
    Exactly(BackupId),
    /// The oldest there is.
    Oldest,
    /// Any one whose snapshot is not older than a time; the seed decides, and decides again the
    /// same way.
    Random {
        /// What decides.
        seed: u64,
        /// Oldest snapshot that counts.
        since: Timestamp,
    },
}

impl BackupSelector {
    /// Picks from manifests in any order; `None` if nothing fits.
    pub fn pick<'a>(
        &self,
        manifests: impl IntoIterator<Item = &'a Manifest>,
    ) -> Option<&'a Manifest> {
        // A clock may be wrong; the signed number counts the backups as they were published.
        let age = |m: &&Manifest| (m.sequence, m.epoch, m.source.snapshot_time);
        let manifests: Vec<&Manifest> = manifests.into_iter().collect();
        let sound = manifests
            .iter()
            .copied()
            .filter(|m| matches!(self, Self::Exactly(_)) || !superseded(m, &manifests));
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

/// Whether another manifest answers the same tick under a higher epoch: then this one was published
/// by a host that had stood still.
#[must_use]
pub fn superseded(one: &Manifest, all: &[&Manifest]) -> bool {
    one.tick.is_some()
        && all.iter().any(|other| {
            other.tick == one.tick && other.datastore == one.datastore && other.epoch > one.epoch
        })
}

/// Sequence numbers missing between the lowest and the highest of a datastore, as ranges.
///
/// Numbers below the lowest are not reported: whether they were removed by retention is for the
/// removal records to say.
#[must_use]
pub fn gaps(mut sequences: Vec<u64>) -> Vec<(u64, u64)> {
    sequences.sort_unstable();
    sequences
        .windows(2)
        .filter(|pair| pair[1] > pair[0].saturating_add(1))
        .map(|pair| (pair[0] + 1, pair[1] - 1))
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::domain::manifest::{FORMAT, SourceFacts, ToolVersions};
    use jiff::SignedDuration;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }
    /// A backup taken by hand: `number` is its sequence number.
    fn backup(number: u64, snapshot: Timestamp) -> Manifest {
        Manifest {
            format: FORMAT.to_owned(),
            vault: "0123456789abcdef0123456789abcdef".parse().unwrap(),
            datastore: "chat".parse().unwrap(),
            backup: BackupId::new(snapshot, u32::try_from(number).unwrap()),
            sequence: number,
            tick: None,
            epoch: 1,
            begun: snapshot,
            published: snapshot,
            source: SourceFacts {
                server_version: None,
                server_version_num: Some(170_002),
                system_identifier: None,
                snapshot_time: snapshot,
                snapshot_lsn: None,
            },
            tools: ToolVersions {
                lifeboat: "0.1.0".to_owned(),
                pg_dump: None,
                pg_dump_major: Some(17),
            },
            set: None,
            payloads: Vec::new(),
            envelope_sha256: String::new(),
            slots: Vec::new(),
            evidence_head: None,
        }
    }
    /// A backup that answers to a tick under an epoch.
    fn scheduled(number: u64, snapshot: Timestamp, tick: &str, epoch: u64) -> Manifest {
        Manifest { tick: Some(at(tick)), epoch, ..backup(number, snapshot) }
    }
    /// Three nights, listed in no order.
    fn nights() -> Vec<Manifest> {
        vec![
            backup(7, at("2026-11-22T03:00Z")),
            backup(8, at("2026-11-23T03:00Z")),
            backup(3, at("2026-11-21T03:00Z")),
        ]
    }
    fn picked(which: &BackupSelector, manifests: &[Manifest]) -> Option<u64> {
        which.pick(manifests).map(|manifest| manifest.sequence)
    }

    #[test]
    fn latest_and_oldest_go_by_the_number_and_not_by_a_clock() {
        assert_eq!(picked(&BackupSelector::Latest, &nights()), Some(8));
        assert_eq!(picked(&BackupSelector::Oldest, &nights()), Some(3));
        // One night under a clock that was ten years ahead, and one under one that was ten behind.
        let mut wrong = nights();
        wrong.push(backup(5, at("2036-11-22T03:00Z")));
        wrong.push(backup(6, at("2016-11-22T03:00Z")));
        assert_eq!(
            (picked(&BackupSelector::Latest, &wrong), picked(&BackupSelector::Oldest, &wrong)),
            (Some(8), Some(3))
        );
        assert_eq!(picked(&BackupSelector::At(at("2026-11-30T00:00Z")), &wrong), Some(8));
    }

    #[test]
    fn of_an_empty_series_nothing_is_chosen() {
        let since = Timestamp::MIN;
        for which in [
            BackupSelector::Latest,
            BackupSelector::Oldest,
            BackupSelector::At(Timestamp::MAX),
            BackupSelector::Random { seed: 0, since },
        ] {
            assert_eq!(picked(&which, &[]), None, "{which:?}");
        }
    }

    #[test]
    fn a_backup_taken_after_the_moment_asked_for_is_not_chosen() {
        for (moment, expected) in [
            ("2026-11-21T02:59:59Z", None),
            ("2026-11-21T03:00:00Z", Some(3)),
            ("2026-11-22T02:59:59Z", Some(3)),
            ("2026-11-22T03:00:00Z", Some(7)),
            ("2026-11-23T02:59:59Z", Some(7)),
            ("2026-11-23T03:00:00Z", Some(8)),
            ("2036-01-01T00:00:00Z", Some(8)),
        ] {
            assert_eq!(picked(&BackupSelector::At(at(moment)), &nights()), expected, "{moment}");
        }
    }

    #[test]
    fn of_backups_of_one_number_the_higher_epoch_and_then_the_later_snapshot_is_newer() {
        let of = |epoch, minute: i64| Manifest {
            epoch,
            ..backup(4, at("2026-11-22T03:00Z") + SignedDuration::from_mins(minute))
        };
        let chosen = |which: BackupSelector, all: &[Manifest]| {
            which.pick(all).map(|m| (m.epoch, m.source.snapshot_time))
        };
        for [older, newer] in [[of(1, 9), of(2, 4)], [of(2, 4), of(2, 5)]] {
            for all in [[older.clone(), newer.clone()], [newer.clone(), older.clone()]] {
                assert_eq!(
                    chosen(BackupSelector::Oldest, &all),
                    Some((older.epoch, older.source.snapshot_time))
                );
                assert_eq!(
                    chosen(BackupSelector::Latest, &all),
                    Some((newer.epoch, newer.source.snapshot_time))
                );
            }
        }
    }

    #[test]
    fn a_backup_asked_for_by_its_id_is_that_one_or_none() {
        let all = nights();
        for one in &all {
            assert_eq!(
                picked(&BackupSelector::Exactly(one.backup.clone()), &all),
                Some(one.sequence)
            );
        }
        let other = "20261122T030000Z-AAAAAA".parse().unwrap();
        assert_eq!(picked(&BackupSelector::Exactly(other), &all), None);
    }

    #[test]
    fn a_backup_published_by_a_host_that_had_stood_still_is_only_chosen_by_its_id() {
        let tick = "2026-11-23T03:00Z";
        // The host under epoch 4 woke up late: its snapshot is the newest, and its number the
        // highest.
        let late = scheduled(8, at("2026-11-23T09:00Z"), tick, 4);
        let all = [
            backup(6, at("2026-11-22T03:00Z")),
            scheduled(7, at("2026-11-23T03:05Z"), tick, 5),
            late.clone(),
        ];
        let since = at("2026-11-23T00:00Z");
        assert_eq!(picked(&BackupSelector::Latest, &all), Some(7));
        assert_eq!(picked(&BackupSelector::At(at("2026-11-24T00:00Z")), &all), Some(7));
        assert_eq!(picked(&BackupSelector::Exactly(late.backup), &all), Some(8));
        assert!(
            (0..4).all(|seed| picked(&BackupSelector::Random { seed, since }, &all) == Some(7))
        );
        // The same the other way round in time: it is not the oldest either.
        let early = [
            scheduled(1, at("2026-11-23T03:01Z"), tick, 4),
            scheduled(2, at("2026-11-23T03:02Z"), tick, 5),
        ];
        assert_eq!(picked(&BackupSelector::Oldest, &early), Some(2));
    }

    #[test]
    fn only_a_higher_epoch_for_the_same_tick_of_the_same_datastore_supersedes() {
        let (moment, tick) = (at("2026-11-23T03:05Z"), "2026-11-23T03:00Z");
        let one = scheduled(5, moment, tick, 4);
        let other = |change: fn(&mut Manifest)| {
            let mut other = scheduled(6, moment, tick, 5);
            change(&mut other);
            other
        };
        for (what, other, expected) in [
            ("a higher epoch", other(|_| {}), true),
            ("the same epoch", other(|m| m.epoch = 4), false),
            ("a lower epoch", other(|m| m.epoch = 3), false),
            ("another tick", other(|m| m.tick = Some("2026-11-24T03:00Z".parse().unwrap())), false),
            ("by hand", other(|m| m.tick = None), false),
            ("another datastore", other(|m| m.datastore = "mail".parse().unwrap()), false),
        ] {
            assert_eq!(superseded(&one, &[&one, &other]), expected, "{what}");
        }
        let by_hand = |epoch| Manifest { epoch, ..backup(7, moment) };
        assert!(
            !superseded(&by_hand(4), &[&by_hand(4), &by_hand(5)]),
            "backups taken by hand answer to nothing"
        );
        assert!(!superseded(&one, &[&one]));
    }

    #[test]
    fn chance_takes_no_backup_that_is_older_than_allowed_and_can_take_every_other() {
        let all = nights();
        for (since, expected) in [
            ("2026-11-21T03:00:00Z", vec![3, 7, 8]),
            ("2026-11-21T03:00:01Z", vec![7, 8]),
            ("2026-11-23T03:00:00Z", vec![8]),
            ("2026-11-23T03:00:01Z", vec![]),
        ] {
            let since = at(since);
            let taken: Vec<u64> = (0..expected.len().max(1) as u64)
                .filter_map(|seed| picked(&BackupSelector::Random { seed, since }, &all))
                .collect();
            assert_eq!(taken, expected, "by number, one seed after the other");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// A listing has no promised order, and a seed that is in a report must lead to the same
        /// backup again.
        #[test]
        fn the_order_of_the_listing_changes_no_choice(hours in proptest::collection::vec((0..40i64, 0..3u64, 0..6i64), 0..8), turn in 0..8usize,
            moment in -1..41i64, seed: u64) {
            let begin = at("2026-11-01T00:00Z");
            let when = |hours| begin + SignedDuration::from_hours(hours);
            let all: Vec<Manifest> = hours.iter().enumerate().map(|(number, (hour, epoch, tick))| {
                let one = backup(number as u64 + 1, when(*hour));
                Manifest { epoch: *epoch, tick: (*tick > 0).then(|| when(*tick)), ..one }
            }).collect();
            let mut turned = all.clone();
            turned.rotate_left(turn % all.len().max(1));
            turned.reverse();
            for which in [BackupSelector::Latest, BackupSelector::Oldest, BackupSelector::At(when(moment)), BackupSelector::Random { seed, since: when(moment) }] {
                let found = picked(&which, &all);
                prop_assert_eq!(found, picked(&which, &turned));
                let references: Vec<&Manifest> = all.iter().collect();
                let fits = |m: &&Manifest| !superseded(m, &references) && match which {
                    BackupSelector::At(time) => m.source.snapshot_time <= time,
                    BackupSelector::Random { since, .. } => m.source.snapshot_time >= since,
                    _ => true,
                };
                let fitting: Vec<u64> = all.iter().filter(fits).map(|m| m.sequence).collect();
                prop_assert_eq!(found.is_some(), !fitting.is_empty());
                prop_assert!(found.is_none_or(|number| fitting.contains(&number)));
            }
        }

        /// What is there and what is reported missing are together every number from the lowest to
        /// the highest, each once.
        #[test]
        fn numbers_are_there_or_in_a_gap_and_never_both(numbers in proptest::collection::vec(1..60u64, 0..20)) {
            let gaps = gaps(numbers.clone());
            let there: std::collections::BTreeSet<u64> = numbers.into_iter().collect();
            let mut all: Vec<u64> = gaps.iter().flat_map(|(first, last)| *first..=*last).chain(there.iter().copied()).collect();
            all.sort_unstable();
            let expected: Vec<u64> = there.first().zip(there.last()).map_or(Vec::new(), |(low, high)| (*low..=*high).collect());
            prop_assert_eq!(all, expected);
            prop_assert!(gaps.iter().all(|(first, last)| first <= last));
            prop_assert!(gaps.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "two gaps in a row are one");
        }
    }

    #[test]
    fn a_number_that_is_there_twice_or_is_the_last_there_can_be_is_no_gap() {
        assert_eq!(gaps(vec![2, 2, 4, 4]), vec![(3, 3)]);
        assert_eq!(gaps(vec![u64::MAX, u64::MAX - 1, u64::MAX]), vec![]);
        assert_eq!(gaps(vec![u64::MAX, u64::MAX - 2]), vec![(u64::MAX - 1, u64::MAX - 1)]);
    }

    #[test]
    fn a_deleted_backup_shows_as_a_gap() {
        assert_eq!(gaps(vec![5, 1, 2, 9]), vec![(3, 4), (6, 8)]);
        assert_eq!(gaps(vec![3, 4, 5]), vec![]);
        assert_eq!(gaps(vec![]), vec![]);
    }
}
