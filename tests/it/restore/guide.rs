//! `RESTORE.md` run exactly as it stands, with stock tools, in an environment without lifeboat.

use crate::support::guide::{commands, run, succeeded};
use crate::support::{Cluster, EVERYTHING, Home, Major};

fn everything(jobs: usize) -> (Cluster, Home, String) {
    let source = Cluster::start();
    source.psql("postgres", EVERYTHING);
    // Names that would run commands if the guide took them for anything but names.
    source.psql("postgres", "CREATE ROLE \"$lb$\\! touch pwned #\"; CREATE ROLE \"a;\n\\! touch pwned\nCREATE ROLE b;\"");
    let home = Home::new();
    home.add_datastore("db", &source.conninfo("everything"), &format!("jobs = {jobs}"));
    let id = home.backup();
    let guide = std::fs::read_to_string(home.meta(&id).join("RESTORE.md")).unwrap();
    (source, home, guide)
}

#[test]
fn stock_tools_open_every_backup_with_either_key() {
    for (jobs, slot, identity) in
        [(1, "local", "keys/identity.txt"), (3, "recovery", "recovery.txt")]
    {
        let (source, home, guide) = everything(jobs);
        // The target is a server in use: the role postgres exists, and so does one of the backup's
        // own.
        let target = Cluster::start();
        target.psql("postgres", r##"CREATE ROLE owner_two; CREATE ROLE "$lb$\! touch pwned #""##);
        let (key, identity, socket) =
            (home.path("keys/signing.pub.pem"), home.path(identity), target.socket());
        let environment = [
            ("TRUSTED_KEY", key.to_str().unwrap()),
            ("IDENTITY", identity.to_str().unwrap()),
            ("PGHOST", socket.to_str().unwrap()),
            ("PGUSER", "postgres"),
        ];
        succeeded(&run(&home.path("by-hand"), &commands(&guide, slot), &environment));
        let restored = |cluster: &Cluster| {
            cluster
                .dump("everything", Major::Debian15)
                .lines()
                .filter(|l| !l.contains("child") && !l.contains("late"))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(restored(&source).len(), restored(&target).len());
        let rows = "SELECT (SELECT count(*) FROM app.log) || ' ' || (SELECT sum(v) FROM app.log) || ' ' || (SELECT count(*) FROM \"Odd Schema\".\"Table 'x'\") || ' ' || (SELECT md5(string_agg(md5(data), '' ORDER BY loid, pageno)) FROM pg_largeobject)";
        assert_eq!(source.psql("everything", rows), target.psql("everything", rows));
        assert_eq!(source.globals(Major::Debian15), target.globals(Major::Debian15));
        assert!(!home.path("by-hand/pwned").exists(), "a role's name was run as a command");
        assert!(!home.path("by-hand/identity.txt").exists(), "the identity is removed at the end");
    }
}

#[test]
fn the_guide_stops_before_a_damaged_file_reaches_a_server() {
    let (_source, home, guide) = everything(1);
    let target = Cluster::start();
    let (key, identity, socket) =
        (home.path("keys/signing.pub.pem"), home.path("recovery.txt"), target.socket());
    let environment = [
        ("TRUSTED_KEY", key.to_str().unwrap()),
        ("IDENTITY", identity.to_str().unwrap()),
        ("PGHOST", socket.to_str().unwrap()),
        ("PGUSER", "postgres"),
    ];
    let id = home.run(&["list", "--json"]).ok().json()[0]["backup"].as_str().unwrap().to_owned();
    let payload = home.payload(&id, "main");
    let good = std::fs::read(&payload).unwrap();
    std::fs::write(&payload, &good[..good.len() - 1]).unwrap();
    let stopped = run(&home.path("damaged"), &commands(&guide, "recovery"), &environment);
    assert!(!stopped.status.success());
    assert!(
        String::from_utf8_lossy(&stopped.stdout).contains("FAILED")
            || String::from_utf8_lossy(&stopped.stderr).contains("FAILED"),
        "{stopped:?}"
    );
    std::fs::write(&payload, good).unwrap();
    // A manifest that somebody else signed.
    let stranger = Home::new();
    let strange = stranger.path("keys/signing.pub.pem");
    let environment = [
        ("TRUSTED_KEY", strange.to_str().unwrap()),
        environment[1],
        environment[2],
        environment[3],
    ];
    assert!(
        !run(&home.path("strange"), &commands(&guide, "recovery"), &environment).status.success()
    );
    // A guide whose own sums were changed to fit a forged payload: the signed manifest disagrees.
    let sum = |bytes: &[u8]| lifeboat::work::shelf::sha256(bytes);
    let other = home.payload(&id, "globals.sql");
    let forged = b"forged".to_vec();
    let guide = guide.replace(&sum(&std::fs::read(&other).unwrap()), &sum(&forged));
    std::fs::write(&other, &forged).unwrap();
    let environment =
        [("TRUSTED_KEY", key.to_str().unwrap()), environment[1], environment[2], environment[3]];
    let stopped = run(&home.path("forged"), &commands(&guide, "recovery"), &environment);
    assert!(
        !stopped.status.success()
            && String::from_utf8_lossy(&stopped.stdout).contains("no file has it"),
        "{stopped:?}"
    );
    assert_eq!(
        target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'everything'"),
        "0"
    );
}
