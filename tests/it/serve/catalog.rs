//! What both catalogs keep: one suite, on SQLite and on PostgreSQL.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lifeboat::catalog::Catalog;
use lifeboat::catalog::ticks::{AddressedMessage, RunEnd, TickClaim};
use lifeboat::domain::alarm::{Alarm, AlarmKind};
use lifeboat::domain::calendar::{Calendar, InBlackout, RecurrencePattern, TimeZoneName};
use lifeboat::domain::human_duration::HumanDuration;
use lifeboat::domain::id::VaultId;
use lifeboat::domain::job::{CatchUpPolicy, Job, JobAction};

use crate::support::Cluster;

const LEASE: Duration = Duration::from_secs(2);

fn job(key: &str, datastore: &str, catch_up: CatchUpPolicy) -> Job {
    let calendar = Calendar {
        pattern: RecurrencePattern::Cron("* * * * *".parse().unwrap()),
        zone: TimeZoneName::utc(),
        jitter: Duration::ZERO,
        blackouts: Vec::new(),
        in_blackout: InBlackout::Postpone,
    };
    let action = JobAction::Backup(datastore.parse().unwrap());
    Job {
        key: key.to_owned(),
        action,
        calendar,
        catch_up,
        timeout: HumanDuration::seconds(60),
        retries: 1,
        hosts: Vec::new(),
    }
}

async fn claim(
    catalog: &Catalog,
    host: &str,
    jobs: &[&Job],
    in_all: Option<usize>,
) -> Option<TickClaim> {
    let known = |key: &str| jobs.iter().find(|job| job.key == key).map(|job| (*job).clone());
    catalog.claim(host, &known, LEASE, in_all).await.unwrap()
}

async fn keeps_the_contract(catalog: &Catalog) {
    let now = catalog.now().await.unwrap();
    let (chat, mail) = (
        job("a/chat", "chat", CatchUpPolicy::Skip(HumanDuration::seconds(86_400))),
        job("a/mail", "mail", CatchUpPolicy::Once),
    );
    let met = |name: &str, calendar: &str| vec![(name.to_owned(), calendar.to_owned())];
    let later = now + SignedDuration::from_hours(9);
    catalog
        .register_jobs(&[met("a/chat", "nightly"), met("a/mail", "nightly")].concat(), now)
        .await
        .unwrap();
    let known = catalog.register_jobs(&met("a/chat", "nightly"), later).await.unwrap();
    assert!(known["a/chat"] <= now, "a known job keeps its time");
    assert_eq!(
        catalog.register_jobs(&met("a/mail", "weekly"), later).await.unwrap()["a/mail"],
        later,
        "another calendar begins now"
    );
    catalog.register_jobs(&met("a/mail", "nightly"), now).await.unwrap();
    // Planning twice, as two hosts do, is planning once.
    let since = now - SignedDuration::from_mins(3);
    for job in [&chat, &mail] {
        let planned = job.plan(since, now);
        assert_eq!(planned.waiting.len(), 3);
        catalog.plan(job, &planned, now).await.unwrap();
        catalog.plan(job, &planned, now).await.unwrap();
    }
    assert_eq!(catalog.tick_counts().await.unwrap()["waiting"], 6);
    // One run at a time for each datastore, and so many in all.
    let jobs = [&chat, &mail];
    let first = claim(catalog, "one", &[&chat], None).await.unwrap();
    assert_eq!((first.attempt, first.epoch), (1, 1));
    assert_eq!(claim(catalog, "two", &[&chat], None).await, None, "its datastore is held");
    assert_eq!(claim(catalog, "two", &jobs, Some(1)).await, None, "there are enough runs in all");
    let second = claim(catalog, "two", &jobs, Some(2)).await.unwrap();
    assert_eq!(second.job, "a/mail");
    // Where one run covers all, the newest is run and the others are covered.
    let counts = catalog.tick_counts().await.unwrap();
    assert_eq!((counts["covered"], counts["running"], counts["waiting"]), (2, 2, 2));
    // Who renews, holds; who does not, loses it, and nothing that it says counts any more.
    assert!(catalog.renew(&first.subject, first.epoch, LEASE).await.unwrap());
    assert!(!catalog.renew(&first.subject, first.epoch + 1, LEASE).await.unwrap());
    let mut again = None;
    for _ in 0..100 {
        again = claim(catalog, "two", &[&chat], None).await;
        if again.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let again = again.unwrap();
    assert_eq!(
        (again.tick, again.attempt, again.epoch),
        (first.tick, 2, 2),
        "the oldest first, since each is run"
    );
    assert!(!catalog.renew(&first.subject, first.epoch, LEASE).await.unwrap());
    assert!(!catalog.finish(&first, &RunEnd::Done("late".to_owned())).await.unwrap());
    assert_eq!(catalog.hold("three", &again.subject, LEASE).await.unwrap(), None);
    assert!(catalog.finish(&again, &RunEnd::Done("published".to_owned())).await.unwrap());
    assert!(!catalog.finish(&again, &RunEnd::Failed("twice".to_owned())).await.unwrap());
    let rows = catalog.ticks("a/chat", 10).await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.state == "done").count(), 1);
    assert_eq!(rows.last().unwrap().outcome.as_deref(), Some("published"));
    // A run by hand takes the next epoch, and one that was stopped waits as if it had not begun.
    let by_hand = catalog.hold("three", &again.subject, LEASE).await.unwrap().unwrap();
    assert_eq!(by_hand, 3);
    catalog.release(&again.subject, by_hand).await.unwrap();
    let third = claim(catalog, "one", &[&chat], None).await.unwrap();
    assert!(catalog.finish(&third, &RunEnd::Returned("stopped".to_owned())).await.unwrap());
    let later = catalog.now().await.unwrap() + SignedDuration::from_hours(1);
    let fourth = claim(catalog, "one", &[&chat], None).await.unwrap();
    assert_eq!((fourth.tick, fourth.attempt), (third.tick, 1));
    assert!(
        catalog
            .finish(&fourth, &RunEnd::Retry { at: later, outcome: "busy".to_owned() })
            .await
            .unwrap()
    );
    let fifth = claim(catalog, "one", &[&chat], None).await.unwrap();
    assert!(fifth.tick > fourth.tick, "the one that is tried again waits");
    assert!(catalog.raise_epoch(&fifth.subject, fifth.epoch, 40).await.unwrap());
    assert!(
        catalog
            .finish(&TickClaim { epoch: 40, ..fifth.clone() }, &RunEnd::Failed("no".to_owned()))
            .await
            .unwrap()
    );
    // A host that dies under every attempt does not do so for ever.
    for attempt in 1..=2 {
        let taken = claim_when_free(catalog, &mail).await;
        assert_eq!(
            taken.map(|claim| claim.attempt),
            if attempt == 1 { Some(2) } else { None },
            "attempt {attempt}"
        );
    }
    assert_eq!(catalog.ticks("a/mail", 1).await.unwrap()[0].state, "failed");
    messages(catalog).await;
    memory(catalog).await;
}

async fn claim_when_free(catalog: &Catalog, job: &Job) -> Option<TickClaim> {
    tokio::time::sleep(LEASE + Duration::from_millis(500)).await;
    claim(catalog, "two", &[job], None).await
}

async fn messages(catalog: &Catalog) {
    let now = catalog.now().await.unwrap();
    let alarm = Alarm {
        kind: AlarmKind::Stale,
        subject: "chat".to_owned(),
        text: "old".to_owned(),
        next_step: "look".to_owned(),
    };
    let letter = || AddressedMessage {
        channels: vec!["nobody".to_owned()],
        kind: AlarmKind::Stale,
        body: "{}".to_owned(),
    };
    assert!(catalog.raise(&alarm, now, None, letter()).await.unwrap());
    assert!(!catalog.raise(&alarm, now, None, letter()).await.unwrap(), "two hosts raise it once");
    let standing = catalog.alarms().await.unwrap().remove(0);
    assert_eq!(standing.alarm, alarm);
    assert!(
        catalog
            .raise(&alarm, now + SignedDuration::from_hours(1), Some(standing.told), letter())
            .await
            .unwrap()
    );
    assert!(
        !catalog
            .raise(&alarm, now + SignedDuration::from_hours(1), Some(standing.told), letter())
            .await
            .unwrap(),
        "and remind once"
    );
    assert!(
        catalog.settle(&alarm, letter()).await.unwrap()
            && !catalog.settle(&alarm, letter()).await.unwrap()
    );
    assert_eq!(
        catalog.message_counts().await.unwrap()["nobody"],
        (0, 3),
        "raised, reminded, settled"
    );
    let take = || catalog.outgoing("nobody", Duration::ZERO, 10);
    let first = take().await.unwrap();
    assert_eq!(first.len(), 1, "what is over is not told before it was told that it began");
    catalog.delivered(first[0].id, Some(("no answer", Duration::from_secs(60)))).await.unwrap();
    assert!(take().await.unwrap().is_empty(), "nor while that is tried again");
    catalog.delivered(first[0].id, None).await.unwrap();
    assert!(
        take().await.unwrap().is_empty(),
        "the reminder is due in an hour, and comes before the end"
    );
    let other = Alarm { subject: "mail".to_owned(), ..alarm.clone() };
    catalog.post(&["nobody".to_owned()], &other, "{}", now).await.unwrap();
    let unordered = take().await.unwrap();
    assert_eq!(unordered.len(), 1, "another alarm waits for none of them");
    catalog.delivered(unordered[0].id, None).await.unwrap();
    catalog.post(&["team".to_owned(), "ops".to_owned()], &other, "{}", now).await.unwrap();
    let mut outgoing = catalog.outgoing("team", Duration::from_secs(60), 10).await.unwrap();
    outgoing.extend(catalog.outgoing("ops", Duration::from_secs(60), 10).await.unwrap());
    assert_eq!(outgoing.len(), 2);
    assert!(
        catalog.outgoing("team", Duration::from_secs(60), 10).await.unwrap().is_empty(),
        "nobody else takes them meanwhile"
    );
    catalog.delivered(outgoing[0].id, None).await.unwrap();
    catalog.delivered(outgoing[1].id, Some(("no answer", Duration::from_secs(60)))).await.unwrap();
    let undelivered = catalog.undelivered().await.unwrap();
    assert_eq!(
        (undelivered.len(), undelivered[0].attempts, undelivered[0].error.as_deref()),
        (1, 1, Some("no answer"))
    );
    assert_eq!(catalog.message_counts().await.unwrap()[&outgoing[0].channel], (1, 0));
    let write = |ticks: &[lifeboat::catalog::ticks::UnreportedMiss]| {
        vec![AddressedMessage {
            channels: vec!["team".to_owned()],
            kind: AlarmKind::Missed,
            body: format!("{}", ticks.len()),
        }]
    };
    assert_eq!(catalog.tell_of_missed(&write).await.unwrap(), 2);
    assert_eq!(catalog.tell_of_missed(&write).await.unwrap(), 0, "each is told of once");
    catalog.record_heartbeat("one", 12).await.unwrap();
    catalog.record_heartbeat("one", 13).await.unwrap();
    assert_eq!(catalog.hosts().await.unwrap()[0].skew_millis, 13);
    assert!(catalog.forget_messages(now + SignedDuration::from_hours(1)).await.unwrap() >= 3);
}

async fn memory(catalog: &Catalog) {
    let run = catalog.begin_run("backup", "chat").await.unwrap();
    catalog.end_run(run, "done").await.unwrap();
    let vault = VaultId::from_random([7; 16]);
    catalog.saw_evidence(&vault, 1, "ab").await.unwrap();
    catalog.saw_evidence(&vault, 1, "ab").await.unwrap();
    assert_eq!(catalog.evidence_seen(&vault).await.unwrap(), [(1, "ab".to_owned())]);
    assert!(catalog.open_drills(&vault).await.unwrap().is_empty());
    assert!(!catalog.board().await.unwrap().is_empty());
    assert!(
        catalog.forget_ticks(Timestamp::now() + SignedDuration::from_hours(1)).await.unwrap() > 0
    );
}

#[tokio::test]
async fn sqlite_keeps_the_contract() {
    let directory = crate::support::directory();
    keeps_the_contract(&Catalog::open(&directory.path().join("a catalog %20?.db")).await.unwrap())
        .await;
}

#[tokio::test]
async fn postgres_keeps_the_contract() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE catalog");
    let url = format!("postgres://postgres@localhost/catalog?host={}", cluster.socket().display());
    keeps_the_contract(&Catalog::open_shared(&url).await.unwrap()).await;
    // Opened by many at once it is made once.
    cluster.psql("postgres", "CREATE DATABASE another");
    let url = url.replace("/catalog?", "/another?");
    let all = futures::future::join_all((0..6).map(|_| Catalog::open_shared(&url))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
}

/// A clock that was a year ahead, and is set right: what it planned in its future is planned again
/// when that comes.
#[tokio::test]
async fn a_clock_that_jumps_both_ways_loses_no_tick() {
    let directory = crate::support::directory();
    let right: Timestamp = "2026-11-24T10:00:30Z".parse().unwrap();
    let clock = Arc::new(AtomicI64::new(right.as_millisecond()));
    let catalog = Catalog::open_virtual(&directory.path().join("catalog.db"), Arc::clone(&clock))
        .await
        .unwrap();
    let mut scheduler =
        lifeboat::serve::scheduler::Scheduler::new(catalog.clone(), "one", LEASE, None);
    let hourly = Job {
        calendar: Calendar {
            pattern: RecurrencePattern::Cron("0 * * * *".parse().unwrap()),
            ..job("a", "a", CatchUpPolicy::Once).calendar
        },
        ..job("a/chat", "chat", CatchUpPolicy::Once)
    };
    scheduler.take_jobs(vec![hourly]).await.unwrap();
    let year = SignedDuration::from_hours(24 * 365);
    clock.store((right + year).as_millisecond(), Ordering::SeqCst);
    scheduler.plan().await.unwrap();
    let (wrong, _) = scheduler.claim(&BTreeSet::new()).await.unwrap().unwrap();
    assert!(catalog.finish(&wrong, &RunEnd::Done("ran a year early".to_owned())).await.unwrap());
    // Set right: the real next hour is planned and run.
    clock.store((right + SignedDuration::from_mins(61)).as_millisecond(), Ordering::SeqCst);
    scheduler.plan().await.unwrap();
    clock.store((right + SignedDuration::from_mins(121)).as_millisecond(), Ordering::SeqCst);
    scheduler.plan().await.unwrap();
    let (claim, _) = scheduler.claim(&BTreeSet::new()).await.unwrap().unwrap();
    assert_eq!(claim.tick.to_string(), "2026-11-24T12:00:00Z");
    assert!(catalog.finish(&claim, &RunEnd::Done("in time".to_owned())).await.unwrap());
    assert!(
        catalog.ticks("a/chat", 500).await.unwrap().iter().all(|row| row.tick <= claim.tick),
        "nothing of the wrong year is left"
    );
    // Set back by seconds, as clocks are: nothing is run twice.
    clock.fetch_sub(90_000, Ordering::SeqCst);
    scheduler.plan().await.unwrap();
    assert!(scheduler.claim(&BTreeSet::new()).await.unwrap().is_none());
}

/// A disk that was full is not full for ever: whatever was refused then works as soon as there is
/// room.
#[tokio::test]
async fn a_catalog_on_a_disk_that_was_full_is_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let disk = crate::support::disks::SmallDisk::mount(&directory.path().join("small"), 1);
    let place = directory.path().join("small");
    let catalog = Catalog::open(&place.join("catalog.db")).await.unwrap();
    let now = catalog.now().await.unwrap();
    let meet = |number: usize| {
        let jobs: Vec<_> =
            (0..200).map(|job| (format!("{number}/{job}"), "nightly".to_owned())).collect();
        let catalog = catalog.clone();
        async move { catalog.register_jobs(&jobs, now).await.map(drop) }
    };
    meet(0).await.unwrap();
    let filler = place.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    let mut refused = 0;
    for number in 1..8 {
        refused += usize::from(meet(number).await.is_err());
    }
    assert!(refused > 0, "the disk was not full");
    drop(file);
    std::fs::remove_file(filler).unwrap();
    for number in 8..12 {
        meet(number).await.unwrap();
    }
    drop(disk);
}
