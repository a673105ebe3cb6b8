//! Rules of the code itself, run as tests: which room may import which, where the AWS SDK may appear, how long files are.

use std::path::{Path, PathBuf};

use crate::support::files;

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rust = files(&root).into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs"));
    rust.map(|f| (f.strip_prefix(&root).unwrap().to_owned(), std::fs::read_to_string(&f).unwrap())).collect()
}

/// The room a file belongs to: its first directory, or its own name.
fn room(file: &Path) -> String {
    file.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Which rooms each room may use. `cli → rig → work → rooms → domain`; nothing points back.
const MAY_USE: [(&str, &[&str]); 24] = [
    ("domain", &[]),
    ("failpoint", &[]),
    ("this_program", &[]),
    ("private", &[]),
    ("program", &["domain"]),
    ("report", &["domain"]),
    ("saga", &[]),
    ("sandbox", &["domain", "pg", "aws", "saga", "this_program"]),
    ("check", &["domain", "config", "pg", "program"]),
    ("evidence", &["domain", "keyring", "vault"]),
    ("pg", &["domain", "program"]),
    ("seal", &["domain"]),
    ("aws", &[]),
    ("keyring", &["domain", "seal", "aws"]),
    ("config", &["domain", "keyring", "pg", "program"]),
    ("vault", &["domain", "seal", "config", "aws"]),
    ("volumes", &["domain", "aws", "program", "this_program"]),
    ("catalog", &["domain", "saga"]),
    ("source", &["domain", "pg", "seal", "failpoint"]),
    ("destination", &["domain", "pg", "seal", "report", "failpoint"]),
    (
        "work",
        &[
            "domain",
            "private",
            "config",
            "pg",
            "seal",
            "keyring",
            "vault",
            "volumes",
            "catalog",
            "source",
            "destination",
            "report",
            "failpoint",
            "saga",
            "sandbox",
            "check",
            "evidence",
            "this_program",
        ],
    ),
    ("notify", &["domain", "config", "aws", "private", "program"]),
    ("serve", &["domain", "private", "config", "catalog", "notify", "report", "evidence", "work"]),
    ("rig", &["work", "domain", "config", "keyring", "vault", "volumes", "sandbox", "catalog", "notify", "report"]),
];

#[test]
fn imports_flow_one_way() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let own = room(&file);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == own) else {
            assert!(["cli", "lib", "main"].contains(&own.as_str()), "room {own} has no rule");
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            for used in line.split("crate::").skip(1) {
                let used: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if used != own && !used.is_empty() && !allowed.contains(&used.as_str()) && !line.trim_start().starts_with("//") {
                    wrong.push(format!("{}:{}: {own} uses {used}", file.display(), number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_aws_sdk_appears_in_its_adapters_only() {
    for (file, text) in sources() {
        let adapters = ["aws.rs", "aws/ec2.rs", "vault/s3.rs", "keyring/kms.rs", "notify/sns.rs"];
        let allowed = adapters.contains(&file.to_str().unwrap())
            || file.starts_with("vault/s3")
            || file.starts_with("volumes/ebs")
            || file.starts_with("sandbox/vpc/aws");
        assert!(allowed || !(text.contains("aws_sdk_") || text.contains("aws_config")), "{}", file.display());
    }
}

#[test]
fn adapters_are_named_in_the_rig_only() {
    for (file, text) in sources() {
        let names = [
            "Directory::new",
            "S3::new",
            "KmsKey::new",
            "KmsSigner::new",
            "SigningFile::new",
            "Webhook::new",
            "Switch::new",
            "Sns::new",
            "Program(words",
            "Local::new",
            "Ebs::new",
            "Ec2::new",
        ];
        // Drills break what they restore from, and open it with other keys, on copies of the rig.
        let decorators = ["Damaged::new", "IdentityFile::new"];
        let adapters = [
            "vault/directory.rs",
            "vault/cold.rs",
            "vault/s3.rs",
            "keyring/kms.rs",
            "keyring/sign.rs",
            "notify/webhook.rs",
            "notify/sns.rs",
            "volumes/local.rs",
            "volumes/ebs/mod.rs",
            "sandbox/vpc/aws/mod.rs",
            "vault/damaged.rs",
            "volumes/damaged.rs",
            "keyring/age_key.rs",
        ];
        let own = file == Path::new("rig.rs") || adapters.contains(&file.to_str().unwrap());
        assert!(own || !names.iter().any(|name| text.contains(name)), "{}", file.display());
        let decorates = own || file.starts_with("work/drill");
        assert!(decorates || !decorators.iter().any(|name| text.contains(name)), "{}", file.display());
    }
}

#[test]
fn files_open_with_their_story_and_stay_readable() {
    for (file, text) in sources() {
        assert!(text.starts_with("//!"), "{} has no story", file.display());
        assert!(text.lines().count() <= 700, "{} has {} lines", file.display(), text.lines().count());
    }
}

#[test]
fn every_exit_code_is_documented_under_its_number_and_name() {
    let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/EXIT_CODES.md")).unwrap();
    for (exit, name) in lifeboat::cli::exit::ALL {
        assert!(documented.contains(&format!("| {} | {name} |", exit.code())), "{} {name}", exit.code());
    }
    assert_eq!(
        documented.lines().filter(|l| l.starts_with("| ") && l.as_bytes()[2].is_ascii_digit()).count(),
        lifeboat::cli::exit::ALL.len()
    );
}

#[test]
fn every_setting_is_documented() {
    let documented = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
    let schedules = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SCHEDULES.md")).unwrap();
    let documented = documented + &schedules;
    let read: Vec<String> = sources()
        .into_iter()
        .filter(|(file, _)| ["config/mod.rs", "config/serve.rs", "config/schedules.rs"].contains(&file.to_str().unwrap()))
        .map(|(_, text)| text)
        .collect();
    assert_eq!(read.len(), 3);
    let config = read.concat();
    let mut settings = 0;
    for call in ["text(\"", "texts(\"", "boolean(\"", "number(\"", "span(\"", "choice(\"", "date(\""] {
        for after in config.split(call).skip(1) {
            let name = after.split('"').next().unwrap();
            assert!(documented.contains(&format!("`{name}`")), "setting {name} is not in docs/CONFIG.md");
            settings += 1;
        }
    }
    assert!(settings > 25, "only {settings} settings were found; has the code changed its ways?");
}

/// Relative links in the documents must lead somewhere.
#[test]
fn documents_link_to_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in files(&root.join("docs")).into_iter().chain([root.join("README.md")]).filter(|f| f.extension().is_some_and(|e| e == "md")) {
        let text = std::fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            assert!(
                path.starts_with("http") || path.is_empty() || file.parent().unwrap().join(path).exists(),
                "{}: {link}",
                file.display()
            );
        }
    }
}
