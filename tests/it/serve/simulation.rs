//! A simulated year: the real scheduler, catalog and retention, a virtual clock, and hands that
//! fail, die and hang as a seed says.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use lifeboat::catalog::Catalog;
use lifeboat::catalog::ticks::TickClaim;
use lifeboat::config::Config;
use lifeboat::config::schedules::parse;
use lifeboat::domain::ErrorClass;
use lifeboat::domain::id::{BackupId, DatastoreName};
use lifeboat::domain::job::{Job, JobAction};
use lifeboat::domain::retention::{
    PlannedRemoval, RemovalGuard, RetentionCandidate, RetentionPolicy, plan,
};
use lifeboat::serve::executor::timed_out;
use lifeboat::serve::scheduler::{RunFailure, Scheduler, end_of};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const STORES: usize = 50;
const LEASE: Duration = Duration::from_secs(1_800);
const RENEW_MILLIS: i64 = 600_000;
const BEGIN: &str = "2026-01-01T00:00:00Z";

fn configuration() -> String {
    let mut text = "[vault]\ndirectory = \"v\"\n[keys.k]\nkind = \"age\"\nidentity_file = \"k\"\n[signing]\nkey_file = \"s\"\n".to_owned();
    for number in 0..STORES {
        text.push_str(&format!(
            "[datastores.store{number:02}]\nkind = \"postgres\"\nconnection = \"dbname=d\"\n"
        ));
    }
    text
}

/// Nightly backups of every datastore and a biweekly drill of each, in zones whose clocks change.
fn jobs() -> (Vec<Job>, RetentionPolicy) {
    let config = Config::parse("lifeboat.toml".as_ref(), &configuration()).unwrap();
    let keep = "[keep]\ndaily = 7\nweekly = 4\nmonthly = 6\nat_least = 3\n";
    let nightly = format!(
        "cron = \"30 2 * * *\"\ntime_zone = \"Europe/Berlin\"\njitter = \"20m\"\nretries = 3\ntimeout = \"6h\"\n{keep}"
    );
    let schedule = parse(&config, "nightly", "nightly.toml".as_ref(), &nightly).unwrap();
    let mut jobs = schedule.jobs();
    let cadence = "do = \"sweep\"\nevery = \"2 weeks\"\nstarting = 2026-01-06\nat = \"10:00\"\ntime_zone = \"America/New_York\"\nretries = 1\n";
    let drill =
        parse(&config, "cadence", "cadence.toml".as_ref(), cadence).unwrap().jobs().remove(0);
    for number in 0..STORES {
        let name = format!("store{number:02}");
        jobs.push(Job {
            key: format!("drill/{name}"),
            action: JobAction::Drill(name),
            ..drill.clone()
        });
    }
    (jobs, schedule.keep.unwrap())
}

/// A run that ends in the future.
struct Underway {
    host: usize,
    claim: TickClaim,
    job: Job,
    result: Result<String, RunFailure>,
}

struct World {
    clock: Arc<AtomicI64>,
    catalog: Catalog,
    random: SmallRng,
    hosts: Vec<Option<Scheduler>>,
    underway: BTreeMap<u64, Underway>,
    ends: BinaryHeap<std::cmp::Reverse<(i64, u64)>>,
    renewals: BinaryHeap<std::cmp::Reverse<(i64, u64)>>,
    number: u64,
    backups: BTreeMap<DatastoreName, Vec<RetentionCandidate>>,
    /// Everything published, by job and tick: each once.
    published: BTreeSet<(String, Timestamp)>,
    twice: Vec<(String, Timestamp)>,
    removed: usize,
}

impl World {
    fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.clock.load(Ordering::SeqCst)).unwrap()
    }

    async fn host(&self, number: usize, jobs: &[Job]) -> Scheduler {
        let mut scheduler =
            Scheduler::new(self.catalog.clone(), &format!("host{number}"), LEASE, Some(8));
        scheduler.take_jobs(jobs.to_vec()).await.unwrap();
        scheduler
    }

    /// What one host does when it looks: plans, and begins up to four runs.
    async fn look(&mut self, host: usize) {
        let Some(mut scheduler) = self.hosts[host].take() else { return };
        scheduler.plan().await.unwrap();
        while self.underway.values().filter(|run| run.host == host).count() < 4 {
            let Some((claim, job)) = scheduler.claim(&BTreeSet::new()).await.unwrap() else {
                break;
            };
            let mut minutes: i64 = self.random.random_range(1..40);
            let result = match self.random.random_range(0..100) {
                0..4 => Err(RunFailure {
                    trouble: ErrorClass::Unavailable,
                    text: "the store did not answer".to_owned(),
                }),
                4 => Err(RunFailure {
                    trouble: ErrorClass::KeyRefused,
                    text: "the key is disabled".to_owned(),
                }),
                5 => {
                    Err(RunFailure { trouble: ErrorClass::Interrupted, text: "stopped".to_owned() })
                }
                // Hangs, until its time is up.
                6 if minutes < 10 => {
                    minutes = i64::try_from(job.timeout.duration().as_secs()).unwrap() / 60;
                    Err(timed_out(job.timeout))
                }
                _ => Ok("done".to_owned()),
            };
            let now = self.clock.load(Ordering::SeqCst);
            self.number += 1;
            self.ends.push(std::cmp::Reverse((now + minutes * 60_000, self.number)));
            self.renewals.push(std::cmp::Reverse((now + RENEW_MILLIS, self.number)));
            self.underway.insert(self.number, Underway { host, claim, job, result });
        }
        self.hosts[host] = Some(scheduler);
    }

    async fn renew(&mut self, number: u64) {
        let Some(run) = self.underway.get(&number) else { return };
        if self.catalog.renew(&run.claim.subject, run.claim.epoch, LEASE).await.unwrap() {
            let now = self.clock.load(Ordering::SeqCst);
            self.renewals.push(std::cmp::Reverse((now + RENEW_MILLIS, number)));
        } else {
            self.underway.remove(&number);
        }
    }

    async fn end(&mut self, number: u64) {
        let Some(run) = self.underway.remove(&number) else { return };
        let now = self.now();
        let done = run.result.is_ok();
        let end = end_of(&run.job, &run.claim, run.result, now);
        let mine = self.catalog.finish(&run.claim, &end).await.unwrap();
        if !(done && mine) {
            return;
        }
        if !self.published.insert((run.claim.job.clone(), run.claim.tick)) {
            self.twice.push((run.claim.job.clone(), run.claim.tick));
        }
        match &run.job.action {
            JobAction::Backup(datastore) => {
                let id = BackupId::new(now, self.random.random());
                let all = self.backups.entry(datastore.clone()).or_default();
                let sequence = all.len() as u64 + 1;
                all.push(RetentionCandidate {
                    backup: id,
                    sequence,
                    taken: now,
                    bytes: 1,
                    damaged: false,
                    guards: Vec::new(),
                });
            }
            JobAction::Drill(name) => {
                let all = self.backups.entry(name.parse().unwrap()).or_default();
                all.iter_mut().for_each(|candidate| candidate.guards.clear());
                if let Some(last) = all.last_mut() {
                    last.guards.push(RemovalGuard::LastDrilled);
                }
            }
            _ => {}
        }
    }

    /// Retention, and what it promises, every night.
    fn prune(&mut self, policy: &RetentionPolicy) {
        let now = self.now();
        for (datastore, all) in &mut self.backups {
            let plan = plan(datastore, std::slice::from_ref(policy), all, now);
            let gone: BTreeSet<&BackupId> =
                plan.removals().iter().map(PlannedRemoval::backup).collect();
            assert!(
                all.iter()
                    .filter(|one| !one.guards.is_empty())
                    .all(|one| !gone.contains(&one.backup)),
                "a drilled one was to go"
            );
            let before = all.len();
            all.retain(|one| !gone.contains(&one.backup));
            assert!(all.len() >= before.min(3), "below the floor");
            assert!(all.len() <= 3 + 7 + 4 + 6 + 1, "{} are kept: something leaks", all.len());
            self.removed += before - all.len();
        }
    }
}

/// However often hosts die, hang and fail, each due tick is run once, or said to have been missed,
/// covered or failed.
#[tokio::test]
async fn a_year_of_nights_and_drills_of_fifty_datastores() {
    let seed = 20_261_124;
    let directory = crate::support::directory();
    let begin: Timestamp = BEGIN.parse().unwrap();
    let clock = Arc::new(AtomicI64::new(begin.as_millisecond()));
    let catalog = Catalog::open_virtual(&directory.path().join("catalog.db"), Arc::clone(&clock))
        .await
        .unwrap();
    let (jobs, policy) = jobs();
    let mut world = World {
        clock,
        catalog,
        random: SmallRng::seed_from_u64(seed),
        hosts: vec![None, None, None],
        underway: BTreeMap::new(),
        ends: BinaryHeap::new(),
        renewals: BinaryHeap::new(),
        number: 0,
        backups: BTreeMap::new(),
        published: BTreeSet::new(),
        twice: Vec::new(),
        removed: 0,
    };
    for host in 0..3 {
        world.hosts[host] = Some(world.host(host, &jobs).await);
    }
    let end = begin + SignedDuration::from_hours(24 * 365);
    let mut night = begin;
    let (mut look_at, mut active) = (begin, begin);
    // Behind the year nobody dies any more, and what is open must end.
    let settled = SignedDuration::from_hours(24 * 6);
    let mut until = end + settled;
    while world.now() < until {
        let quiet_times = world.now() >= end;
        if !quiet_times {
            until = until.max(world.now() + settled);
        }
        // The next moment at which anything happens: a look every twenty minutes, an end, a
        // renewal.
        let mut next = look_at.as_millisecond();
        for heap in [&world.ends, &world.renewals] {
            next = heap.peek().map_or(next, |first| next.min(first.0.0));
        }
        world.clock.store(next.max(world.clock.load(Ordering::SeqCst)), Ordering::SeqCst);
        while world.ends.peek().is_some_and(|first| first.0.0 <= next) {
            let number = world.ends.pop().unwrap().0.1;
            world.end(number).await;
        }
        while world.renewals.peek().is_some_and(|first| first.0.0 <= next) {
            let number = world.renewals.pop().unwrap().0.1;
            world.renew(number).await;
        }
        if look_at.as_millisecond() <= next {
            let busy = !world.underway.is_empty();
            for host in 0..3 {
                match (world.random.random_range(0..400), &world.hosts[host]) {
                    // It dies, and with it what it was doing.
                    (0, Some(_)) if !quiet_times => {
                        world.hosts[host] = None;
                        world.underway.retain(|_, run| run.host != host);
                    }
                    (0..40, None) => world.hosts[host] = Some(world.host(host, &jobs).await),
                    _ => {}
                }
                world.look(host).await;
            }
            // Once in a while all are down for days.
            if !quiet_times && world.random.random_range(0..1_500) == 0 {
                world.hosts = vec![None, None, None];
                world.underway.clear();
                let days = world.random.random_range(1..5);
                world.clock.fetch_add(days * 86_400_000, Ordering::SeqCst);
                world.hosts[0] = Some(world.host(0, &jobs).await);
            }
            if busy {
                active = world.now();
            }
            // Repetitions wait for an hour at most; then nothing happens before the next tick.
            let quiet = world.now().duration_since(active) > SignedDuration::from_hours(3);
            let next = world.hosts.iter().flatten().filter_map(Scheduler::next).min();
            let step = match next.filter(|_| quiet) {
                Some(next) => {
                    active = next.max(world.now());
                    active.duration_since(world.now()).max(SignedDuration::from_mins(20))
                }
                None => SignedDuration::from_mins(20),
            };
            look_at = world.now() + step;
        }
        if world.now().duration_since(night) > SignedDuration::from_hours(24) {
            night = world.now();
            world.prune(&policy);
        }
    }
    verify(&world, &jobs, begin).await;
}

async fn verify(world: &World, jobs: &[Job], begin: Timestamp) {
    assert_eq!(world.twice, [], "published twice");
    let now = world.now();
    let (mut due, mut run) = (0, 0);
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for job in jobs {
        let rows: BTreeMap<Timestamp, _> = world
            .catalog
            .ticks(&job.key, 500)
            .await
            .unwrap()
            .into_iter()
            .map(|row| (row.tick, row))
            .collect();
        let mut here = begin;
        while let Some(tick) = job
            .calendar
            .next_nominal(here)
            .filter(|tick| *tick < now - SignedDuration::from_hours(48))
        {
            here = tick;
            due += 1;
            let row = rows
                .get(&tick)
                .unwrap_or_else(|| panic!("{} of {tick} was never heard of", job.key));
            *states.entry(row.state.clone()).or_default() += 1;
            assert!(["done", "failed", "covered"].contains(&row.state.as_str()), "{row:?}");
            let published = world.published.contains(&(job.key.clone(), tick));
            assert_eq!(row.state == "done", published, "{row:?}");
            run += usize::from(published);
        }
    }
    assert!(due > 50 * 360 + 50 * 24, "{due} were due");
    assert!(run * 100 > due * 90, "only {run} of {due} ran: {states:?}");
    assert!(states.len() == 3, "the seed brings about every end: {states:?}");
    assert!(world.removed > 50 * 300, "retention removed {}", world.removed);
    // Nothing leaks: what is open are the last days' at most.
    let open: u64 = world
        .catalog
        .tick_counts()
        .await
        .unwrap()
        .iter()
        .filter(|(state, _)| *state == "waiting" || *state == "running")
        .map(|(_, n)| n)
        .sum();
    assert!(open < 200, "{open} are still open");
}
