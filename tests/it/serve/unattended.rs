//! `serve` with real processes: one host and several, a real Postgres for their catalog, and
//! everything that can happen to them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::home::{Out, copy_tree};
use crate::support::localstack::free_port;
use crate::support::{Cluster, Home, browser, eventually};

/// A `serve` that is stopped when dropped.
struct Serving {
    child: Child,
    log: std::path::PathBuf,
}

impl Serving {
    fn start(home: &Home, environment: &[(&str, &str)]) -> Self {
        let log = home.path(&format!("serve-{}.log", rand::random::<u32>()));
        let mut command = home.command(&["serve"]);
        command.envs(environment.iter().copied()).stderr(std::fs::File::create(&log).unwrap());
        Self { child: command.spawn().unwrap(), log }
    }
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
    /// SIGTERM, and its exit code.
    fn stop(mut self) -> i32 {
        self.signal(Signal::TERM);
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
    fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn source() -> Cluster {
    let source = Cluster::start();
    source.psql("postgres", "CREATE DATABASE d");
    source.psql("d", "CREATE TABLE t AS SELECT i FROM generate_series(1, 100) i");
    source
}

fn schedule(home: &Home, name: &str, text: &str) {
    std::fs::create_dir_all(home.path("schedules")).unwrap();
    std::fs::write(home.path(&format!("schedules/{name}.toml")), text).unwrap();
}

/// A server that answers every request with 200, or not at all, and keeps what was sent.
struct Listener {
    port: u16,
    hangs: Arc<AtomicBool>,
    got: Arc<Mutex<Vec<String>>>,
}

impl Listener {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self {
            port: listener.local_addr().unwrap().port(),
            hangs: Arc::default(),
            got: Arc::default(),
        };
        let (hangs, got) = (Arc::clone(&own.hangs), Arc::clone(&own.got));
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for stream in listener.incoming().flatten() {
                if hangs.load(Ordering::SeqCst) {
                    kept.push(stream);
                    continue;
                }
                let got = Arc::clone(&got);
                std::thread::spawn(move || answer(stream, &got));
            }
        });
        own
    }
    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/secret-path", self.port)
    }
    fn got(&self) -> Vec<String> {
        self.got.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, got: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|count| count > 2) {}
    let length = head.lines().find_map(|line| {
        line.to_ascii_lowercase().strip_prefix("content-length: ").and_then(|n| n.parse().ok())
    });
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    got.lock().unwrap().push(format!("{head}{}", String::from_utf8_lossy(&body)));
    let _ =
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
}

/// GET of a path of the page, with the given host name.
fn get(port: u16, host: &str, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    stream
        .write_all(
            format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .unwrap();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn one_host_backs_up_tells_shows_and_stops() {
    let (source, told) = (source(), Listener::start());
    let home = Home::of(&source, "d");
    let port = free_port();
    home.configure(&format!(
        "\n[serve]\nlisten = \"127.0.0.1:{port}\"\n[notify.team]\nkind = \"slack\"\nurl = \"{0}\"\n[notify.ops]\nkind = \"webhook\"\nurl = \"{0}\"\non = [\"never-drilled\"]\n[notify.alive]\nkind = \"ping\"\nurl = \"{0}\"\n",
        told.url()
    ));
    schedule(
        &home,
        "often",
        "every = \"4s\"\nstarting = 2026-01-01\n[keep]\ndaily = 1\nat_least = 1\n",
    );
    schedule(&home, "beat", "do = \"heartbeat\"\nevery = \"3s\"\nstarting = 2026-01-01\n");
    // Nobody was told before; a monitor sees it all the same.
    home.run(&["status"]).fails(11, &[]);
    let collector = Listener::start();
    let endpoint = format!("http://127.0.0.1:{}", collector.port);
    let socket = home.path("notify");
    let systemd = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    let heard = Arc::<Mutex<String>>::default();
    let hearing = Arc::clone(&heard);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count) = systemd.recv(&mut buffer) {
            hearing.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    });
    let serving = Serving::start(
        &home,
        &[
            ("NOTIFY_SOCKET", socket.to_str().unwrap()),
            ("WATCHDOG_USEC", "300000000"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
            ("LIFEBOAT_LOG_FORMAT", "json"),
        ],
    );
    eventually("three backups were published", || serving.log().matches("published").count() >= 3);
    let page = get(port, "localhost", "/");
    assert!(
        page.starts_with("HTTP/1.1 200")
            && page.contains("script-src").eq(&false)
            && page.contains("default-src 'none'"),
        "{page}"
    );
    assert!(page.contains("no drill of db ever passed") && page.contains("backup db"), "{page}");
    assert!(
        get(port, "evil.example", "/").starts_with("HTTP/1.1 421"),
        "another site's name is not answered"
    );
    assert!(get(port, "127.0.0.1", "/healthz").contains("ok"));
    let metrics = get(port, "localhost", "/metrics");
    assert!(
        metrics.contains("lifeboat_last_verified_restore_age_seconds{datastore=\"db\"} inf"),
        "{metrics}"
    );
    assert!(
        metrics.contains("lifeboat_runs_total{verb=\"backup\",outcome=\"done\"}")
            && metrics.contains("# EOF"),
        "{metrics}"
    );
    browser::look(&format!("http://localhost:{port}/"), "status");
    eventually("somebody was told", || {
        told.got().iter().any(|request| request.contains("NEVER-DRILLED: db"))
    });
    eventually("the switch was told", || {
        told.got().iter().any(|request| request.starts_with("GET /secret-path"))
    });
    let got = told.got();
    let slack = got.iter().find(|request| request.contains("{\"text\":\"lifeboat: ")).unwrap();
    assert!(slack.contains("what next") && slack.contains("since"), "{slack}");
    assert!(
        got.iter().any(|request| request.contains("\"kind\":\"never-drilled\"")
            && request.contains("\"phase\":\"raised\"")),
        "{got:?}"
    );
    assert!(!serving.log().contains("secret-path"), "{}", serving.log());
    // Each was told once, however often it was looked: two channels.
    assert_eq!(
        got.iter().filter(|request| request.contains("NEVER-DRILLED")).count(),
        2,
        "{got:#?}"
    );
    assert!(
        serving.log().lines().all(|line| serde_json::from_str::<Value>(line).is_ok() || line.starts_with("stopping")),
        "{}",
        serving.log()
    );
    assert_eq!(serving.stop(), 0);
    let said = heard.lock().unwrap().clone();
    assert!(
        ["READY=1", "WATCHDOG=1", "STOPPING=1"].iter().all(|word| said.contains(word)),
        "{said}"
    );
    let spans = collector.got().concat();
    assert!(
        spans.contains("POST /v1/traces") && spans.contains("often/db"),
        "spans of runs were sent"
    );
    let status = home.run(&["status", "--json"]);
    assert_eq!(status.code, 11);
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    let job = status["status"]["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .find(|job| job["job"] == "often/db")
        .unwrap();
    assert_eq!(job["last"]["state"], "done", "{job:#}");
    // Manifests say which scheduled time they answer.
    let listed = home.run(&["list", "--json"]).ok().json();
    let shown = home.run(&["show", listed[0]["backup"].as_str().unwrap(), "--json"]).ok();
    assert!(
        shown.stdout.contains("\"tick\": \"") && shown.stdout.contains("\"epoch\": 1"),
        "{shown:?}"
    );
}

#[test]
fn a_broken_configuration_is_refused_while_the_old_one_goes_on_and_a_failing_job_is_told_of_and_recovers()
 {
    let (source, told) = (source(), Listener::start());
    let home = Home::of(&source, "d");
    home.configure(&format!("\n[notify.team]\nkind = \"webhook\"\nurl = \"{}\"\n", told.url()));
    schedule(&home, "often", "every = \"3s\"\nstarting = 2026-01-01\nretries = 0\n");
    let serving = Serving::start(&home, &[]);
    eventually("it runs", || serving.log().contains("published"));
    let file = home.path("lifeboat.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{good}\nnonsense = 1\n")).unwrap();
    serving.signal(Signal::HUP);
    eventually("it says so", || serving.log().contains("the old one stays in force"));
    let count = serving.log().matches("published").count();
    eventually("it goes on", || serving.log().matches("published").count() > count);
    eventually("somebody was told", || {
        told.got().iter().any(|got| got.contains("\"kind\":\"configuration\""))
    });
    assert!(!told.got().concat().contains("nonsense"), "lines of the file are not sent");
    std::fs::write(&file, &good).unwrap();
    schedule(&home, "added", "do = \"sweep\"\nevery = \"3s\"\nstarting = 2026-01-01\n");
    serving.signal(Signal::HUP);
    eventually("a new schedule is in force", || {
        serving.log().contains("\"found nothing\"") || serving.log().contains("found nothing")
    });
    eventually("it is over", || {
        told.got().iter().any(|got| got.contains("configuration") && got.contains("recovered"))
    });
    // The source goes away, and comes back.
    source.stop("immediate");
    eventually("the failure is told", || {
        told.got().iter().any(|got| got.contains("\"kind\":\"failed\"") && got.contains("raised"))
    });
    // Several runs fail: it is one alarm, and each new attempt is no recovery.
    let failures = serving.log().matches("Failed(").count();
    eventually("more fail", || serving.log().matches("Failed(").count() > failures + 2);
    let about = |phase: &str| {
        told.got()
            .iter()
            .filter(|got| got.contains("\"kind\":\"failed\"") && got.contains(phase))
            .count()
    };
    assert_eq!(
        (about("\"phase\":\"raised\""), about("\"phase\":\"recovered\"")),
        (1, 0),
        "{:#?}",
        told.got()
    );
    source.start_server();
    eventually("so is its end", || {
        told.got()
            .iter()
            .any(|got| got.contains("\"kind\":\"failed\"") && got.contains("recovered"))
    });
    assert_eq!(serving.stop(), 0);
}

#[test]
fn a_channel_that_hangs_holds_up_nothing_and_is_tried_again_and_visible() {
    let (source, told) = (source(), Listener::start());
    told.hangs.store(true, Ordering::SeqCst);
    let home = Home::of(&source, "d");
    let said = home.path("said");
    home.configure(&format!(
        "\n[notify.hangs]\nkind = \"webhook\"\nurl = \"{}\"\n[notify.works]\nkind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"cat >> {}\"]\n[notify.fails]\nkind = \"command\"\ncommand = [\"/bin/sh\", \"-c\", \"echo no such pager >&2; exit 3\"]\n",
        told.url(),
        said.display()
    ));
    schedule(&home, "often", "every = \"3s\"\nstarting = 2026-01-01\n");
    let serving = Serving::start(&home, &[]);
    eventually("the other channel was told", || {
        std::fs::read_to_string(&said).unwrap_or_default().contains("NEVER-DRILLED")
    });
    eventually("runs go on", || serving.log().matches("published").count() >= 3);
    let visible = || home.run(&["status"]);
    eventually("the failures are visible", || {
        let out = visible();
        out.stdout.contains("a message to fails was not delivered")
            && out.stdout.contains("a message to hangs was not delivered")
    });
    let out = visible();
    assert!(out.stdout.contains("ended with exit status: 3: no such pager"), "{out:?}");
    assert!(out.stdout.contains("timed out") && !out.stdout.contains("secret-path"), "{out:?}");
    assert_eq!(serving.stop(), 0);
}

#[test]
fn a_job_that_hangs_is_ended_and_a_stop_aborts_cleanly_where_configured() {
    let source = source();
    let home = Home::of(&source, "d");
    home.configure("\n[serve]\non_stop = \"abort\"\n");
    schedule(
        &home,
        "hangs",
        "every = \"1h\"\nstarting = 2026-01-01\ntimeout = \"3s\"\nretries = 0\n",
    );
    // A table that somebody holds: the backup waits for it.
    home.reconfigure("lock_wait = \"2s\"", "lock_wait = \"10m\"");
    let mut holder = Command::new(source.bin().join("psql"));
    holder.args([
        "-X",
        "-d",
        &source.conninfo("d"),
        "-c",
        "BEGIN; LOCK TABLE t; SELECT pg_sleep(600)",
    ]);
    let mut holder = holder.stdout(Stdio::null()).spawn().unwrap();
    tick_now(&home, "hangs/db");
    let serving = Serving::start(&home, &[]);
    eventually("it is ended", || serving.log().contains("it took longer than 3s and was stopped"));
    assert_eq!(serving.stop(), 0);
    assert_eq!(newest_tick(&home, "hangs/db").state, "failed");
    // A second later, so that it is another tick.
    std::thread::sleep(Duration::from_millis(1_100));
    // The same, stopped by hand: it counts as if it had not begun.
    schedule(&home, "hangs", "every = \"1h\"\nstarting = 2026-01-01\ntimeout = \"1h\"\n");
    tick_now(&home, "hangs/db");
    let serving = Serving::start(&home, &[]);
    eventually("it has begun", || serving.log().matches("begun").count() == 1);
    assert_eq!(serving.stop(), 0);
    let row = newest_tick(&home, "hangs/db");
    assert_eq!((row.state.as_str(), row.attempt), ("waiting", 0), "{row:?}");
    home.run(&["sweep", "--older-than", "0s"]).ok();
    let _ = holder.kill();
    let _ = holder.wait();
}

fn newest_tick(home: &Home, job: &str) -> lifeboat::catalog::ticks::TickRow {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let catalog = lifeboat::catalog::Catalog::open(&home.path("catalog.db")).await.unwrap();
        catalog.ticks(job, 1).await.unwrap().remove(0)
    })
}

/// Makes a tick that is due now, as if it had been planned.
fn tick_now(home: &Home, job: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = lifeboat::config::Config::load(&home.path("lifeboat.toml")).unwrap();
    runtime.block_on(async {
        let catalog = lifeboat::catalog::Catalog::open(&config.catalog.file).await.unwrap();
        let jobs = lifeboat::config::schedules::jobs(&config).unwrap().jobs;
        let job = jobs.into_iter().find(|known| known.key == job).unwrap();
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap();
        let tick =
            lifeboat::domain::calendar::Tick { nominal: now, due: Some(now), why: Vec::new() };
        let planned = lifeboat::domain::job::PlannedTicks {
            waiting: vec![tick],
            passed: Vec::new(),
            until: now,
            unlisted: 0,
        };
        catalog.plan(&job, &planned, now).await.unwrap();
    });
}

/// A second set-up of the same vault on "another host": keys and configuration are copied,
/// everything else is its own.
fn another(home: &Home, name: &str) -> Home {
    let other = Home::new();
    for entry in ["keys", "vault"] {
        std::fs::remove_dir_all(other.path(entry)).unwrap();
    }
    copy_tree(&home.path("keys"), &other.path("keys"));
    let text = std::fs::read_to_string(home.path("lifeboat.toml")).unwrap();
    let vault = format!("directory = \"{}\"", home.vault().display());
    std::fs::write(
        other.path("lifeboat.toml"),
        text.replace("directory = \"vault\"", &vault)
            + &format!("\n[serve]\nhost = \"{name}\"\nlease = \"3s\"\nruns = 4\n"),
    )
    .unwrap();
    copy_tree(&home.path("schedules"), &other.path("schedules"));
    other
}

/// A way to the catalog's server that can be cut.
struct Cable {
    port: u16,
    cut: Arc<AtomicBool>,
}

impl Cable {
    fn to(socket: std::path::PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self { port: listener.local_addr().unwrap().port(), cut: Arc::default() };
        let cut = Arc::clone(&own.cut);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = UnixStream::connect(&socket) else { continue };
                let (client2, server2) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (one, two) = (Arc::clone(&cut), Arc::clone(&cut));
                std::thread::spawn(move || pump(client, server, &one));
                std::thread::spawn(move || pump(server2, client2, &two));
            }
        });
        own
    }
}

/// Nothing passes while it is cut, and nobody is told that the connection is gone: packets vanish.
fn pump(mut from: impl Read, mut to: impl Write, cut: &AtomicBool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer) {
        while cut.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        if count == 0 || to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

const HEARTBEATS: usize = 28;
const SECONDS: u64 = 32;

/// Kills, pauses, a cable that is cut, a catalog that is restarted: each tick is run once, or
/// reported. Half a minute of it; the rest of a year is in `simulation.rs`.
#[test]
fn three_hosts_share_a_thousand_ticks_through_kills_pauses_a_partition_and_a_restart_of_the_catalog()
 {
    let source = source();
    let catalog = Cluster::start_with(crate::support::Major::Debian15, &["max_connections = 60"]);
    catalog.psql("postgres", "CREATE DATABASE catalog");
    let home = Home::of(&source, "d");
    home.add_datastore("two", &source.conninfo("d"), "");
    let rules =
        "catch_up = \"skip\"\nlate_at_most = \"10s\"\nretries = 20\nstarting = 2026-01-01\n";
    schedule(&home, "backups", &format!("every = \"5s\"\n{rules}"));
    for number in 0..HEARTBEATS {
        schedule(
            &home,
            &format!("beat{number:02}"),
            &format!("do = \"heartbeat\"\nevery = \"1s\"\n{rules}"),
        );
    }
    let cable = Cable::to(catalog.socket().join(".s.PGSQL.5432"));
    let direct =
        format!("postgres://postgres@localhost/catalog?host={}", catalog.socket().display());
    let hosts: Vec<Home> = ["a", "b", "c"]
        .iter()
        .map(|name| {
            let host = another(&home, name);
            let url = if *name == "c" {
                format!("postgres://postgres@127.0.0.1:{}/catalog?sslmode=disable", cable.port)
            } else {
                direct.clone()
            };
            host.reconfigure(
                "file = \"catalog.db\"",
                &format!("file = \"catalog.db\"\nurl = \"{url}\""),
            );
            host
        })
        .collect();
    let mut serving: Vec<Option<Serving>> =
        hosts.iter().map(|host| Some(Serving::start(host, &[]))).collect();
    let mut random = SmallRng::seed_from_u64(7);
    let begun = Instant::now();
    let mut restarted = false;
    let mut logs = String::new();
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        std::thread::sleep(Duration::from_millis(random.random_range(1_500..3_000)));
        let host = random.random_range(0..3);
        match random.random_range(0..4) {
            0 => {
                let killed = serving[host].take().unwrap();
                logs.push_str(&killed.log());
                killed.kill();
                serving[host] = Some(Serving::start(&hosts[host], &[]));
            }
            1 | 2 => {
                // Longer than its lease.
                let paused = serving[host].as_ref().unwrap();
                paused.signal(Signal::STOP);
                std::thread::sleep(Duration::from_millis(4_500));
                paused.signal(Signal::CONT);
            }
            _ => {
                cable.cut.store(true, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(4_000));
                cable.cut.store(false, Ordering::SeqCst);
            }
        }
        if !restarted && begun.elapsed() > Duration::from_secs(SECONDS / 2) {
            restarted = true;
            catalog.stop("immediate");
            std::thread::sleep(Duration::from_secs(2));
            catalog.start_server();
        }
    }
    // What is under way ends; what is late by then is reported.
    std::thread::sleep(Duration::from_secs(12));
    for host in serving.into_iter().flatten() {
        logs.push_str(&host.log());
        assert_eq!(host.stop(), 0, "{logs}");
    }
    account(&catalog, &home, &logs);
}

fn account(catalog: &Cluster, home: &Home, logs: &str) {
    let rows = catalog
        .psql("catalog", "SELECT job, tick / 1000, state, attempt FROM ticks ORDER BY job, tick");
    let mut by_job: BTreeMap<&str, Vec<(i64, &str)>> = BTreeMap::new();
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows.lines() {
        let mut columns = row.split('|');
        let (job, tick, state) = (
            columns.next().unwrap(),
            columns.next().unwrap().parse().unwrap(),
            columns.next().unwrap(),
        );
        by_job.entry(job).or_default().push((tick, state));
        *states.entry(state).or_default() += 1;
    }
    assert_eq!(by_job.len(), HEARTBEATS + 2);
    let mut all = 0;
    for (job, ticks) in &by_job {
        let period = if job.starts_with("beat") { 1 } else { 5 };
        // None is missing between the first and the last.
        for pair in ticks.windows(2) {
            assert_eq!(pair[1].0 - pair[0].0, period, "{job}: {ticks:?}");
        }
        // All but the last few have their end.
        let settled = &ticks[..ticks.len().saturating_sub(15)];
        assert!(
            settled.iter().all(|(_, state)| ["done", "missed"].contains(state)),
            "{job}: {ticks:?}\n{logs}"
        );
        // How many are done in time is the machine's affair.
        assert!(ticks.iter().any(|(_, state)| *state == "done"), "{job}: {ticks:?}\n{logs}");
        all += ticks.len();
    }
    assert!(all > 1_000, "{all} ticks");
    assert_eq!(states.values().sum::<usize>(), all, "{states:?}");
    // Each missed one was told of.
    assert_eq!(
        catalog.psql("catalog", "SELECT count(*) FROM ticks WHERE state = 'missed' AND told = 0"),
        "0"
    );
    // Of each tick there is one manifest that counts.
    let listed = home.run(&["list", "--json"]).ok().json();
    let mut by_tick: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    for backup in listed.as_array().unwrap() {
        let manifest: Value =
            home.run(&["show", backup["backup"].as_str().unwrap(), "--json"]).ok().json();
        let manifest = manifest.get("manifest").unwrap_or(&manifest);
        let key =
            (manifest["datastore"].to_string(), manifest["tick"].as_str().unwrap().to_owned());
        by_tick.entry(key).or_default().push(manifest["epoch"].as_u64().unwrap());
    }
    for (tick, epochs) in &by_tick {
        let distinct: BTreeSet<&u64> = epochs.iter().collect();
        assert_eq!(distinct.len(), epochs.len(), "two manifests of one epoch answer {tick:?}");
        assert!(
            epochs.len() == 1,
            "{tick:?} was answered under epochs {epochs:?}: allowed by the readers' rule, but a fence failed"
        );
    }
    let published = states_of(catalog, "backups/%", "done");
    assert!(
        by_tick.len() >= published,
        "{published} backups are said to be done, {} are there",
        by_tick.len()
    );
}

fn states_of(catalog: &Cluster, job: &str, state: &str) -> usize {
    catalog
        .psql(
            "catalog",
            &format!("SELECT count(*) FROM ticks WHERE job LIKE '{job}' AND state = '{state}'"),
        )
        .parse()
        .unwrap()
}

/// Two hosts whose clocks are twenty minutes apart, one of which then jumps back by hours: the
/// catalog's clock is the only one that counts.
#[test]
fn hosts_with_wrong_clocks_share_the_ticks_of_the_catalogs_clock() {
    let (source, catalog) = (source(), Cluster::start());
    catalog.psql("postgres", "CREATE DATABASE catalog");
    let home = Home::of(&source, "d");
    schedule(
        &home,
        "backups",
        "every = \"3s\"\ncatch_up = \"skip\"\nlate_at_most = \"30s\"\nretries = 5\nstarting = 2026-01-01\n",
    );
    let url = format!("postgres://postgres@localhost/catalog?host={}", catalog.socket().display());
    let clock = |name: &str, offset: &str| {
        let host = another(&home, name);
        host.reconfigure(
            "file = \"catalog.db\"",
            &format!("file = \"catalog.db\"\nurl = \"{url}\""),
        );
        let file = host.path("clock");
        std::fs::write(&file, offset).unwrap();
        let faked = [
            ("LD_PRELOAD", "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        let serving = Serving::start(&host, &faked);
        (host, serving, file.clone())
    };
    let (_ahead, one, hand) = clock("ahead", "+10m");
    let (_behind, two, _) = clock("behind", "-10m");
    eventually("both run something", || {
        one.log().contains("published") && two.log().contains("published")
    });
    std::fs::write(hand, "-3h").unwrap();
    let before = states_of(&catalog, "backups/%", "done");
    eventually("it goes on after the jump", || {
        states_of(&catalog, "backups/%", "done") > before + 2
    });
    // Hosts say how far off they are every half minute.
    eventually("somebody is told of both", || {
        catalog.psql("catalog", "SELECT count(*) FROM hosts WHERE abs(skew) > 500000") == "2"
    });
    let logs = one.log() + &two.log();
    assert_eq!((one.stop(), two.stop()), (0, 0), "{logs}");
    let rows = catalog.psql("catalog", "SELECT tick / 1000, state FROM ticks ORDER BY tick");
    let ticks: Vec<(i64, &str)> = rows
        .lines()
        .map(|row| row.split_once('|').map(|(tick, state)| (tick.parse().unwrap(), state)).unwrap())
        .collect();
    assert!(ticks.windows(2).all(|pair| pair[1].0 - pair[0].0 == 3), "{ticks:?}\n{logs}");
    let now = jiff::Timestamp::now().as_second();
    assert!(
        ticks.iter().all(|(tick, _)| *tick <= now + 5),
        "nothing is planned by a clock that is ahead: {ticks:?}"
    );
    let settled = &ticks[..ticks.len().saturating_sub(3)];
    assert!(
        settled.iter().all(|(_, state)| ["done", "missed"].contains(state)),
        "{ticks:?}\n{logs}"
    );
    let mut answered = BTreeSet::new();
    for backup in home.run(&["list", "--json"]).ok().json().as_array().unwrap() {
        let shown = home.run(&["show", backup["backup"].as_str().unwrap(), "--json"]).ok().json();
        assert!(
            answered.insert(shown["manifest"]["tick"].to_string()),
            "{} was answered twice",
            shown["manifest"]["tick"]
        );
    }
    assert!(answered.len() >= before + 3);
}

/// A run that has ended is known to have ended as soon as there is room again, and is not run
/// twice.
#[test]
fn a_full_disk_under_the_catalog_stops_nothing_that_runs() {
    let source = source();
    let home = Home::of(&source, "d");
    let disk = crate::support::disks::SmallDisk::mount(&home.path("small"), 2);
    home.reconfigure("file = \"catalog.db\"", "file = \"small/catalog.db\"");
    // A claim whose answer was lost is nobody's until its lease ends.
    home.configure("\n[serve]\nlease = \"5s\"\n");
    schedule(&home, "often", "every = \"3s\"\nstarting = 2026-01-01\nretries = 0\n");
    let serving = Serving::start(&home, &[]);
    eventually("it runs", || serving.log().contains("published"));
    let filler = home.path("small/filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    eventually("it says so", || serving.log().contains("the catalog does not answer"));
    // By hand a backup is taken all the same.
    home.backup();
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    let published = serving.log().matches("published").count();
    let since = Instant::now();
    while serving.log().matches("published").count() <= published + 1 {
        assert!(since.elapsed() < Duration::from_secs(14), "it does not go on: {}", serving.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(serving.stop(), 0);
    let mut ticks = BTreeSet::new();
    for backup in home.run(&["list", "--json"]).ok().json().as_array().unwrap() {
        let shown = home.run(&["show", backup["backup"].as_str().unwrap(), "--json"]).ok().json();
        let manifest = shown.get("manifest").unwrap_or(&shown);
        assert!(
            manifest["tick"].is_null() || ticks.insert(manifest["tick"].to_string()),
            "{} was answered twice",
            manifest["tick"]
        );
    }
    drop(disk);
}

/// What cannot be looked at is told of, and what was wrong before is not taken for over.
#[test]
fn a_vault_that_is_gone_is_told_of_and_nothing_is_taken_for_over() {
    let (source, told) = (source(), Listener::start());
    let home = Home::of(&source, "d");
    home.configure(&format!("\n[notify.team]\nkind = \"webhook\"\nurl = \"{}\"\n", told.url()));
    schedule(&home, "often", "every = \"3s\"\nstarting = 2026-01-01\nretries = 0\n");
    let serving = Serving::start(&home, &[]);
    eventually("it runs, and is known never to have been drilled", || {
        serving.log().contains("published")
            && told.got().iter().any(|got| got.contains("\"kind\":\"never-drilled\""))
    });
    std::fs::rename(home.vault(), home.path("elsewhere")).unwrap();
    let told_of =
        |words: &[&str]| told.got().iter().any(|got| words.iter().all(|word| got.contains(word)));
    eventually("it is told of", || told_of(&["the vault cannot be looked at", "raised"]));
    eventually("so is the job that fails for it", || {
        told_of(&["\"subject\":\"often/db\"", "raised"])
    });
    std::fs::rename(home.path("elsewhere"), home.vault()).unwrap();
    eventually("that it is back, too", || told_of(&["the vault cannot be looked at", "recovered"]));
    eventually("the job as well", || told_of(&["\"subject\":\"often/db\"", "recovered"]));
    assert!(!told_of(&["\"kind\":\"never-drilled\"", "recovered"]), "{:#?}", told.got());
    assert_eq!(serving.stop(), 0);
}

/// Without its catalog nothing new is begun, what runs goes on and publishes, and somebody is told
/// without it.
#[test]
fn a_catalog_that_is_gone_is_told_of_directly_and_nothing_is_lost() {
    let (source, told) = (source(), Listener::start());
    let catalog = Cluster::start();
    catalog.psql("postgres", "CREATE DATABASE catalog");
    let home = Home::of(&source, "d");
    // A claim whose answer was lost is nobody's until its lease ends.
    home.configure(&format!(
        "\n[serve]\nlease = \"5s\"\n[notify.team]\nkind = \"webhook\"\nurl = \"{}\"\non = [\"failed\", \"missed\"]\n",
        told.url()
    ));
    let url = format!("postgres://postgres@localhost/catalog?host={}", catalog.socket().display());
    home.reconfigure("file = \"catalog.db\"", &format!("file = \"catalog.db\"\nurl = \"{url}\""));
    home.reconfigure("lock_wait = \"2s\"", "lock_wait = \"10m\"\nhosts = [\"here\"]");
    schedule(&home, "often", "every = \"5s\"\nstarting = 2026-01-01\n");
    // A host that it is not pinned to does nothing.
    let elsewhere = Serving::start(&home, &[("LIFEBOAT_HOST", "elsewhere")]);
    let serving = Serving::start(&home, &[("LIFEBOAT_HOST", "here")]);
    eventually("it runs", || serving.log().contains("published"));
    let mut holder = Command::new(source.bin().join("psql"));
    holder.args([
        "-X",
        "-d",
        &source.conninfo("d"),
        "-c",
        "BEGIN; LOCK TABLE t; SELECT pg_sleep(12)",
    ]);
    let mut holder = holder.stdout(Stdio::null()).spawn().unwrap();
    let begun = || serving.log().matches(" begun job").count();
    let published = || home.run(&["list", "--json"]).json().as_array().map_or(0, Vec::len);
    eventually("a run waits", || begun() > serving.log().matches(" ended job").count());
    let before = published();
    catalog.stop("immediate");
    eventually("the run that waited has published", || published() > before);
    let holding = begun();
    eventually("somebody was told", || {
        told.got()
            .iter()
            .any(|got| got.contains("the catalog does not answer") && got.contains("raised"))
    });
    assert_eq!(begun(), holding, "nothing new was begun");
    catalog.start_server();
    eventually("that it is over too", || {
        told.got()
            .iter()
            .any(|got| got.contains("the catalog does not answer") && got.contains("recovered"))
    });
    eventually("it goes on", || begun() > holding);
    assert!(!elsewhere.log().contains(" begun job"), "{}", elsewhere.log());
    let _ = holder.wait();
    assert_eq!(serving.stop(), 0);
}

/// A server that dies behind something that goes on standing: to what was asked nothing ever comes
/// back, not even the end of the connection. A backup is published all the same.
#[test]
fn a_catalog_that_goes_without_a_word_holds_up_nothing() {
    let (source, catalog) = (source(), Cluster::start());
    catalog.psql("postgres", "CREATE DATABASE catalog");
    let home = Home::of(&source, "d");
    let cable = Cable::to(catalog.socket().join(".s.PGSQL.5432"));
    let url = format!("postgres://postgres@127.0.0.1:{}/catalog?sslmode=disable", cable.port);
    home.reconfigure("file = \"catalog.db\"", &format!("file = \"catalog.db\"\nurl = \"{url}\""));
    home.run(&["status"]);
    let mut holder = Command::new(catalog.bin().join("psql"));
    holder.args([
        "-X",
        "-d",
        &catalog.conninfo("catalog"),
        "-c",
        "BEGIN; LOCK TABLE backups; SELECT pg_sleep(600)",
    ]);
    let mut holder = holder.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let waits = |event: &str| {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event = '{event}' AND datname = 'catalog'"
        );
        catalog.psql("postgres", &query) != "0"
    };
    eventually("it is locked", || waits("PgSleep"));
    let mut backup = home.command(&["backup", "db"]).spawn().unwrap();
    eventually("it asks", || waits("relation"));
    catalog.stop("immediate");
    let _ = holder.wait();
    eventually("it goes on", || backup.try_wait().unwrap().is_some());
    let out = backup.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && text.contains("the catalog did not answer in time"), "{text}");
    home.run(&["verify", "--all"]).ok();
}

/// The one moment at which a lease alone would not do: the host stands still between its last look
/// and its manifest.
#[test]
fn a_host_that_was_outdone_while_it_stood_still_publishes_nothing() {
    let source = source();
    let catalog = Cluster::start();
    catalog.psql("postgres", "CREATE DATABASE catalog");
    let home = Home::of(&source, "d");
    schedule(&home, "often", "every = \"1h\"\nstarting = 2026-01-01\n");
    let url = format!("postgres://postgres@localhost/catalog?host={}", catalog.socket().display());
    let (slow, quick) = (another(&home, "slow"), another(&home, "quick"));
    for host in [&slow, &quick] {
        host.reconfigure(
            "file = \"catalog.db\"",
            &format!("file = \"catalog.db\"\nurl = \"{url}\""),
        );
    }
    let go_on = slow.path("go-on");
    let mut command = slow.command(&["backup", "db"]);
    command.env("LIFEBOAT_WAITPOINT", format!("signature-written={}", go_on.display()));
    let waiting = command.spawn().unwrap();
    eventually("it is about to publish", || slow.path("go-on.reached").exists());
    // Somebody else may not begin meanwhile.
    quick.run(&["backup", "db"]).fails(4, &["already running"]);
    kill_process(Pid::from_child(&waiting), Signal::STOP).unwrap();
    let again = || quick.run(&["backup", "db"]);
    let mut taken: Option<Out> = None;
    eventually("its lease has ended", || {
        let out = again();
        let done = out.code == 0;
        taken = Some(out);
        done
    });
    kill_process(Pid::from_child(&waiting), Signal::CONT).unwrap();
    std::fs::write(&go_on, "").unwrap();
    let out = waiting.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(4), "{text}");
    assert!(
        text.contains("has been taken over by another run") && text.contains("what next"),
        "{text}"
    );
    assert_eq!(home.run(&["list", "--json"]).ok().json().as_array().unwrap().len(), 1);
    // What one host reads no other removes.
    let id = home.run(&["list", "--json"]).ok().json()[0]["backup"].as_str().unwrap().to_owned();
    quick.run(&["backup", "db"]).ok();
    for host in [&slow, &quick] {
        schedule(
            host,
            "often",
            "every = \"1h\"\nstarting = 2026-01-01\n[keep]\ndaily = 1\nat_least = 1\n",
        );
    }
    let mut reader =
        slow.command(&["restore", "db", "--backup", &id, "--to", "-"]).spawn().unwrap();
    let shown = || quick.run(&["prune"]).ok().stdout;
    let mut said = String::new();
    catalog.psql(
        "catalog",
        &format!("INSERT INTO subjects VALUES ('reading/{id}/0a', 1, 'far', 9000000000000)"),
    );
    eventually("it is known to be read", || {
        said = shown();
        said.contains("in use: a run of far is reading it")
    });
    let _ = reader.wait();
    catalog.psql("catalog", "DELETE FROM subjects WHERE holder = 'far'");
    assert!(shown().contains("no rule keeps it"), "{said}");
    assert_eq!(
        catalog.psql("catalog", "SELECT count(*) FROM subjects WHERE subject LIKE 'reading/%'"),
        "0",
        "who has read lets go"
    );
    // And what it had written by then is gone.
    home.run(&["sweep", "--older-than", "0s"]).ok();
    // A catalog that was lost counts again from the beginning; the vault knows better.
    catalog.psql("catalog", "DELETE FROM subjects");
    quick.run(&["backup", "db"]).ok();
    let epochs = std::fs::read_dir(home.vault().join("runs/epochs/db")).unwrap().count();
    assert_eq!(epochs, 2 * 4, "each with its signature");
    assert_eq!(
        catalog.psql("catalog", "SELECT epoch FROM subjects WHERE subject = 'datastore/db'"),
        "4"
    );
    // Also where the low numbers have been swept.
    let claims = home.vault().join("runs/epochs/db");
    let (last, later) = (claims.join("000000000004.json"), claims.join("000000000500.json"));
    let text = std::fs::read_to_string(&last).unwrap();
    std::fs::write(&later, text.replace("\"epoch\": 4", "\"epoch\": 500")).unwrap();
    let mut sign = Command::new("openssl");
    sign.args(["pkeyutl", "-sign", "-rawin", "-inkey"])
        .arg(home.path("keys/signing.pem"))
        .arg("-in")
        .arg(&later);
    assert!(sign.arg("-out").arg(claims.join("000000000500.json.sig")).status().unwrap().success());
    for swept in 1..=4 {
        std::fs::remove_file(claims.join(format!("{swept:012}.json"))).unwrap();
        std::fs::remove_file(claims.join(format!("{swept:012}.json.sig"))).unwrap();
    }
    catalog.psql("catalog", "DELETE FROM subjects");
    quick.run(&["backup", "db"]).ok();
    assert_eq!(
        catalog.psql("catalog", "SELECT epoch FROM subjects WHERE subject = 'datastore/db'"),
        "501"
    );
}

#[test]
fn ten_thousand_schedules_are_read_planned_and_shown_in_time() {
    let source = source();
    let home = Home::of(&source, "d");
    for number in 0..10_000 {
        schedule(
            &home,
            &format!("s{number:05}"),
            "do = \"heartbeat\"\ncron = \"30 2 * * *\"\ntime_zone = \"Europe/Berlin\"\njitter = \"1h\"\n",
        );
    }
    schedule(&home, "often", "every = \"2s\"\nstarting = 2026-01-01\n");
    let begun = Instant::now();
    let shown = home.run(&["next", "--within", "2d"]).ok();
    assert!(
        shown.stdout.lines().count() > 100 && shown.stderr.contains("more"),
        "{}",
        shown.stderr
    );
    let serving = Serving::start(&home, &[]);
    eventually("it works", || serving.log().contains("published"));
    assert_eq!(serving.stop(), 0);
    assert!(begun.elapsed() < Duration::from_secs(120), "{:?}", begun.elapsed());
    drop(source);
}

#[test]
fn serve_needs_its_catalog_and_says_what_is_wrong_with_schedules() {
    let source = source();
    let home = Home::of(&source, "d");
    schedule(&home, "bad", "cron = \"30 25 * * *\"\ntime_zone = \"Mars/Olympus\"\n[keep]\n");
    home.run(&["serve"])
        .fails(2, &["bad.toml", "no hour", "Mars/Olympus", "nothing says which backups are kept"]);
    home.run(&["next"]).fails(2, &["bad.toml"]);
    // Beyond this host the catalog's TLS is verified.
    home.reconfigure("file = \"catalog.db\"", "url = \"postgres://lifeboat@db.internal/lifeboat\"");
    home.run(&["status"]).fails(2, &["TLS must be verified", "sslmode=verify-full"]);
    home.reconfigure("postgres://lifeboat@", "postgres://lifeboat:hunter2@");
    let out = home.run(&["status"]).fails(2, &["a password stands in the URL", "PGPASSWORD"]);
    assert!(!out.stderr.contains("hunter2"), "{out:?}");
    home.reconfigure(
        "url = \"postgres://lifeboat:hunter2@db.internal/lifeboat\"",
        "file = \"catalog.db\"",
    );
    for (text, word) in [
        ("", "it is not said when"),
        ("cron = \"@daily\"\nevery = \"1d\"", "said in two ways"),
        ("every = \"2 weeks\"", "starting"),
        ("every = \"0s\"\nstarting = 2026-01-01", "zero seconds"),
        ("on = \"first doomsday\"", "no day of a month"),
        ("cron = \"@daily\"\nblackout = [\"00:00-24:00\"]", "leave no room"),
        ("cron = \"@daily\"\ndatastores = [\"dbb\"]", "no datastore"),
        ("cron = \"@daily\"\nlate_at_most = \"1h\"", "catch_up"),
        ("do = \"sweep\"\ncron = \"@daily\"\n[keep]\ndaily = 1", "only a schedule of backups"),
        ("cron = \"@daily\"\n[keep]\nall_within = \"9d\"\nnot_older_than = \"8d\"", "all_within"),
    ] {
        schedule(&home, "bad", text);
        home.run(&["next"]).fails(2, &[word]);
    }
    std::fs::remove_file(home.path("schedules/bad.toml")).unwrap();
    std::fs::write(home.path("catalog.db"), "this is no catalog").unwrap();
    home.run(&["serve"]).fails(2, &["catalog", "move the catalog's file away"]);
    // Backups are taken without it.
    home.backup();
}
