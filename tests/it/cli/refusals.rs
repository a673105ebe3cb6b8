//! Refusals: the text a tired person reads, and the exit code a script acts on.

use crate::support::{Cluster, Home};

/// Replaces what differs from run to run.
fn steady(home: &Home, text: &str) -> String {
    text.replace(home.path("").to_str().unwrap(), "/HOME/")
}

/// Writes a configuration and returns what `check` says to it.
fn told(text: &str) -> String {
    let home = Home::new();
    std::fs::write(home.path("lifeboat.toml"), text).unwrap();
    let out = home.run(&["list"]);
    assert_eq!(out.code, 2, "{out:?}");
    steady(&home, &out.stderr)
}

const VALID: &str = "[vault]\ndirectory = \"vault\"\n[keys.local]\nkind = \"age\"\nidentity_file = \"keys/identity.txt\"\n[signing]\nkey_file = \"keys/signing.pem\"\n";

#[test]
fn unknown_settings_are_errors_with_line_key_and_what_to_write() {
    insta::assert_snapshot!(told(&format!(
        "{VALID}[datastores.chat]\nkind = \"postgres\"\nconection = \"service=chat\"\nencrypt = false\n"
    )));
}

#[test]
fn wrong_types_and_values_are_errors_all_at_once() {
    insta::assert_snapshot!(told(&format!(
        "{VALID}[compression]\nlevel_min = \"3\"\nthreads = 1000\n[datastores.chat]\nkind = \"postgres\"\nconnection = \"service=chat\"\nrpo = \"daily\"\njobs = 0\nrole_passwords = \"yes\"\n[datastores.Chat]\nkind = \"mysql\"\nconnection = \"x=1\"\n"
    )));
}

#[test]
fn what_is_wrong_with_a_scratch_vpc_is_said_all_at_once() {
    insta::assert_snapshot!(told(&format!(
        "{VALID}[scratch_vpc]\nregion = \"eu-west-1\"\naccount = \"12345\"\ncidr = \"10.99.0.1/24\"\nproduction_cidrs = []\nzones = [\"us-east-1a\"]\n\
         image = \"ami-1\"\nimage_of = \"i-1\"\ninstance_profile = \"scratch\"\ninstance_role = \"arn:aws:iam::123456789012:role/scratch\"\n\
         kms_key = \"arn:aws:kms:eu-west-1:123456789012:alias/drill\"\nflow_logs = \"arn:aws:logs:eu-west-1:123456789012:log-group:flows\"\ntenancy = \"host\"\n"
    )));
    let text = told(&format!(
        "{VALID}[scratch_vpc]\nregion = \"eu-west-1\"\ncidr = \"10.0.4.0/24\"\nproduction_cidrs = [\"10.0.0.0/16\"]\n"
    ));
    assert!(text.contains("10.0.0.0/16 overlaps the scratch VPC's own network"), "{text}");
}

#[test]
fn secrets_in_the_file_are_errors_that_do_not_repeat_them() {
    let text = told(&format!(
        "{VALID}[keys.oops]\nkind = \"age\"\nrecipients = [\"AGE-SECRET-KEY-1QQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQQ\"]\n[datastores.a]\nkind = \"postgres\"\nconnection = \"postgres://u:hunter2@h/db\"\n[datastores.b]\nkind = \"postgres\"\nconnection = \"service=b\"\npassword = \"hunter3\"\n"
    ));
    for word in [
        "public recipient (age1…) belongs",
        "datastores.a.connection: the connection string holds a password",
        "~/.pgpass",
        "datastores.b.password: a secret does not belong into this file",
        "password_command",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    for secret in ["hunter2", "hunter3", "QQQQ"] {
        assert!(!text.contains(secret), "{text}");
    }
}

#[test]
fn missing_sections_and_broken_toml_are_errors() {
    insta::assert_snapshot!(told("[vault]\n"));
    assert!(told("[vault\n").contains("TOML"));
    let home = Home::new();
    std::fs::remove_file(home.path("lifeboat.toml")).unwrap();
    home.run(&["list"]).fails(2, &["lifeboat.toml cannot be read", "No such file"]);
}

#[test]
fn a_host_that_is_not_local_must_be_verified() {
    let text = told(&format!(
        "{VALID}[datastores.chat]\nkind = \"postgres\"\nconnection = \"host=db.example.org sslmode=require\"\n"
    ));
    assert!(text.contains("sslmode=require does not verify the server db.example.org"), "{text}");
}

#[test]
fn usage_errors_exit_with_2_and_help_with_0() {
    let home = Home::new();
    for arguments in [
        &["bakcup"][..],
        &["backup"],
        &["restore", "db"],
        &["verify"],
        &["sweep", "--older-than", "soon"],
        &["restore", "db", "--to", "x", "--at", "now", "--backup", "y"],
    ] {
        assert_eq!(home.run(arguments).code, 2, "{arguments:?}");
    }
    for verb in [
        "init",
        "check",
        "backup",
        "list",
        "show",
        "verify",
        "restore",
        "sweep",
        "catalog",
        "completions",
        "man",
    ] {
        let help = home.run(&[verb, "--help"]).ok().stdout;
        assert!(verb == "catalog" || help.contains("Example"), "{verb} has no example");
    }
    assert!(home.run(&["completions", "bash"]).ok().stdout.contains("complete -F"));
    home.run(&["man", home.path("man").to_str().unwrap()]).ok();
    assert!(home.path("man/lifeboat-restore.1").exists() && home.path("man/lifeboat.1").exists());
}

#[test]
fn names_that_refer_to_nothing_get_a_suggestion() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    let home = Home::of(&cluster, "d");
    home.run(&["backup", "bd"]).fails(2, &["no datastore bd", "did you mean db?"]);
    home.run(&["restore", "db", "--to", "-"])
        .fails(3, &["there is no backup at all of datastore db", "lifeboat list db"]);
    let id = home.backup();
    home.run(&["restore", "dbb", "--to", "-"]).fails(2, &["no datastore dbb", "did you mean db?"]);
    home.run(&["show", "20200101T000000Z-AAAAAA"])
        .fails(3, &["there is no backup 20200101T000000Z-AAAAAA"]);
    home.run(&["show", "yesterday"]).fails(2, &["\"yesterday\" is not a backup id"]);
    home.run(&["restore", "db", "--to", "-", "--at", "2001-01-01T00:00:00Z"])
        .fails(3, &["at or before 2001-01-01T00:00:00Z"]);
    assert!(home.run(&["show", &id]).ok().stdout.contains("RESTORE.md"));
}

#[test]
fn a_restore_refuses_a_target_that_holds_tables_and_one_it_was_not_confirmed_for() {
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d; CREATE DATABASE full_one");
    cluster.psql("d", "CREATE TABLE t (x int)");
    cluster.psql("full_one", "CREATE TABLE precious (x int)");
    let home = Home::of(&cluster, "d");
    home.backup();
    let target = cluster.conninfo("full_one");
    home.restore(&target).fails(
        2,
        &[
            "is not empty: it holds 1 objects, such as public.precious; nothing was changed",
            "--into-database-with-tables",
        ],
    );
    home.run(&["restore", "db", "--to", &target, "--yes", "--into-database-with-tables"]).ok();
    home.run(&["restore", "db", "--to", &cluster.conninfo("new")])
        .fails(2, &["nobody is there to confirm it; nothing was changed", "--yes"]);
    let plan =
        home.run(&["restore", "db", "--to", &cluster.conninfo("new"), "--plan", "--check"]).ok();
    assert!(
        plan.stdout.contains("create database \"new\"")
            && plan.stdout.contains("compare every table"),
        "{}",
        plan.stdout
    );
    assert_eq!(
        cluster.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'new'"),
        "0"
    );
    home.run(&["restore", "db", "--to", "postgres://u:hunter2@localhost/x"])
        .fails(2, &["holds a password", "PGPASSWORD"]);
    home.run(&["restore", "db", "--to", "host=/nowhere dbname=x"])
        .fails(6, &["the target server cannot be used; nothing was changed", "/nowhere"]);
}

#[test]
fn a_key_that_others_may_read_and_a_key_that_nobody_trusts_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let cluster = Cluster::start();
    cluster.psql("postgres", "CREATE DATABASE d");
    let home = Home::of(&cluster, "d");
    let other = Home::new();
    std::fs::copy(other.path("keys/signing.pem"), home.path("keys/signing.pem")).unwrap();
    home.run(&["backup", "db"]).fails(2, &["would not be believed", "trust = [\""]);
    home.run(&["check"]).fails(2, &["something is not as it must be"]);
    std::fs::set_permissions(home.path("keys/signing.pem"), std::fs::Permissions::from_mode(0o644))
        .unwrap();
    home.run(&["backup", "db"])
        .fails(5, &["others may read this secret file (mode 644)", "chmod 600"]);
}

#[cfg(not(feature = "aws"))]
#[test]
fn a_binary_without_aws_says_so_when_it_is_asked_for_it() {
    let home = Home::new();
    home.reconfigure("directory = \"vault\"", "s3 = \"s3://bucket/prefix\"");
    home.run(&["list"]).fails(2, &["this lifeboat was built without AWS"]);
}
