//! Names that others rely on: keys and tags of stored documents, flags, metrics. Whoever changes
//! one of them on purpose runs this test with `LIFEBOAT_BLESS=1` and has the change of format in
//! the diff.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::{Home, Rehearsal, files};

/// Keys whose values are words of the format too.
const WORDS: [&str; 9] =
    ["format", "schema", "kind", "role", "verdict", "answer", "at-fault", "compression", "chosen"];

/// Every path of a document, with the kind of value at its end.
fn shape(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let last = path.rsplit('.').next().unwrap_or_default();
    let kind = match value {
        // What a sandbox on this host is, and whether this checkout is one of git's.
        _ if ["isolation", "git_commit", "git_dirty"].contains(&last) => {
            "as the host has it".to_owned()
        }
        Value::Object(map) => {
            for (key, value) in map {
                // Keys that are data: names of objects, of datastores, of tables.
                let is_data = !key
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-')
                    || key == "db";
                shape(value, &format!("{path}.{}", if is_data { "*" } else { key }), found);
            }
            return;
        }
        Value::Array(items) => {
            return items.iter().for_each(|item| shape(item, &format!("{path}[]"), found));
        }
        Value::String(text) if WORDS.contains(&last) => format!("\"{text}\""),
        Value::String(_) => "text".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::Bool(_) => "true or false".to_owned(),
        Value::Null => "null".to_owned(),
    };
    found.insert(format!("{path}: {kind}"));
}

/// Holds lines against the file of that name beside this one.
fn is_golden(name: &str, lines: BTreeSet<String>) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/house/golden").join(name);
    let now = lines.into_iter().collect::<Vec<_>>().join("\n") + "\n";
    if std::env::var_os("LIFEBOAT_BLESS").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    let (is, was): (BTreeSet<&str>, BTreeSet<&str>) =
        (now.lines().collect(), golden.lines().collect());
    let (new, gone) =
        (is.difference(&was).collect::<Vec<_>>(), was.difference(&is).collect::<Vec<_>>());
    assert!(new.is_empty() && gone.is_empty(), "{name}: new: {new:#?}\ngone: {gone:#?}");
}

/// What a document is, by its place in the vault.
fn document(place: &str) -> Option<&'static str> {
    let name = place.rsplit('/').next().unwrap_or_default();
    [
        ("vault.json", "vault"),
        ("manifests/", "manifest"),
        ("evidence/", "evidence"),
        ("runs/epochs/", "claim"),
    ]
    .into_iter()
    .find(|(prefix, _)| place.starts_with(prefix) && name.ends_with(".json"))
    .map(|(_, document)| document)
    .or_else(|| (name.starts_with("envelope-") && name.ends_with(".json")).then_some("envelope"))
}

#[test]
fn stored_documents_keep_their_words() {
    let r = Rehearsal::new();
    let home = &r.home;
    r.script("");
    let report = r.report(0);
    home.run(&[
        "drill",
        "certify",
        report["run"].as_str().unwrap(),
        "--reviewer",
        "A. Meyer",
        "--statement",
        "seen",
    ])
    .ok();
    let second = home.backup();
    home.run(&["hold", &second, "--reason", "case 17"]).ok();
    home.run(&["release", &second]).ok();
    home.run(&["restore", "db", "--to", &r.source.conninfo("back"), "--yes", "--check"]).ok();
    std::fs::create_dir_all(home.path("schedules")).unwrap();
    std::fs::write(
        home.path("schedules/keep.toml"),
        "every = \"1h\"\nstarting = 2026-01-01\n[keep]\ndaily = 1\nat_least = 1\n",
    )
    .unwrap();
    home.backup();
    home.run(&["prune", "--confirm"]).ok();
    let mut found = BTreeSet::new();
    let mut places = BTreeSet::new();
    for file in files(&home.vault()) {
        let place = file.strip_prefix(home.vault()).unwrap().to_str().unwrap();
        places.insert(in_general(place));
        let Some(document) = document(place) else { continue };
        let value: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        shape(&value, document, &mut found);
    }
    is_golden("documents.txt", found);
    is_golden("places.txt", places);
}

/// A name in the vault, without what differs from one vault to the next.
fn in_general(place: &str) -> String {
    let parts = place.split('/').map(|part| {
        let is_id = |part: &str| {
            part.len() >= 23 && part.as_bytes()[8] == b'T' && part.as_bytes()[15] == b'Z'
        };
        match part.split_once('.') {
            Some((stem, rest)) if is_id(stem) => format!("BACKUP.{rest}"),
            _ if is_id(part) => "BACKUP".to_owned(),
            Some((stem, rest)) if stem.len() == 8 && stem.chars().all(|c| c.is_ascii_digit()) => {
                format!("NUMBER.{rest}")
            }
            _ => part.to_owned(),
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

/// Verbs and flags, as `--help` has them.
#[test]
fn verbs_and_flags_keep_their_names() {
    let home = Home::new();
    let mut found = BTreeSet::new();
    let mut waiting = vec![Vec::<String>::new()];
    while let Some(verb) = waiting.pop() {
        let mut arguments: Vec<&str> = verb.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = home.run(&arguments).ok().stdout;
        let mut is_in = "";
        for line in help.lines() {
            match line.strip_suffix(':') {
                Some(heading) if !line.starts_with(' ') => is_in = heading,
                _ => {}
            }
            let word = line.trim_start().split([' ', ',']).next().unwrap_or_default();
            let is_verb = line.starts_with("  ")
                && !line.starts_with("   ")
                && is_in == "Commands"
                && word != "help";
            if is_verb {
                waiting.push(verb.iter().cloned().chain([word.to_owned()]).collect());
            }
            if line.trim_start().starts_with('-') {
                let flag = line
                    .trim_start()
                    .split([' ', '[', '=', '.'])
                    .find(|word| word.starts_with("--"));
                found.extend(
                    flag.map(|flag| format!("{} {flag}", verb.join(" ")).trim_start().to_owned()),
                );
            }
        }
        found.extend((!verb.is_empty()).then(|| verb.join(" ")));
    }
    assert!(found.len() > 80, "{found:#?}");
    is_golden("flags.txt", found);
}
