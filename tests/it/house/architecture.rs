//! Rules of the code itself, run as tests: which room may import which, where the AWS SDK may
//! appear, how long files are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::files;

fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rust = files(&root).into_iter().filter(|f| f.extension().is_some_and(|e| e == "rs"));
    rust.map(|f| (f.strip_prefix(&root).unwrap().to_owned(), std::fs::read_to_string(&f).unwrap()))
        .collect()
}

/// The room a file belongs to: its first directory, or its own name.
fn room(file: &Path) -> String {
    file.components()
        .next()
        .unwrap()
        .as_os_str()
        .to_string_lossy()
        .trim_end_matches(".rs")
        .to_owned()
}

/// Which rooms each room may use. `cli → rig → work → rooms → domain`; nothing points back.
const MAY_USE: [(&str, &[&str]); 24] = [
    ("domain", &[]),
    ("failpoint", &[]),
    ("this_program", &[]),
    ("secret_files", &[]),
    ("program", &["domain"]),
    ("progress", &["domain"]),
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
    ("destination", &["domain", "pg", "seal", "progress", "failpoint"]),
    (
        "work",
        &[
            "domain",
            "secret_files",
            "config",
            "pg",
            "seal",
            "keyring",
            "vault",
            "volumes",
            "catalog",
            "source",
            "destination",
            "progress",
            "failpoint",
            "saga",
            "sandbox",
            "check",
            "evidence",
            "this_program",
        ],
    ),
    ("notify", &["domain", "config", "aws", "secret_files", "program"]),
    (
        "serve",
        &["domain", "secret_files", "config", "catalog", "notify", "progress", "evidence", "work"],
    ),
    (
        "rig",
        &[
            "work", "domain", "config", "keyring", "vault", "volumes", "sandbox", "catalog",
            "notify", "progress",
        ],
    ),
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
                let used: String =
                    used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if used != own
                    && !used.is_empty()
                    && !allowed.contains(&used.as_str())
                    && !line.trim_start().starts_with("//")
                {
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
        assert!(
            allowed || !(text.contains("aws_sdk_") || text.contains("aws_config")),
            "{}",
            file.display()
        );
    }
}

#[test]
fn adapters_are_named_in_the_rig_only() {
    let mut seen = BTreeSet::new();
    for (file, text) in sources() {
        let names = [
            "DirectoryVault::new",
            "S3Vault::new",
            "KmsKey::new",
            "KmsSigner::new",
            "SigningFile::new",
            "WebhookTransport::new",
            "DeadManSwitch::new",
            "SnsTransport::new",
            "NotifyCommand(words",
            "LocalVolumes::new",
            "EbsVolumes::new",
            "AwsCloud::new",
        ];
        // Drills break what they restore from, and open it with other keys, on copies of the rig.
        let decorators = ["DamagedVault::new", "DamagedVolumes::new", "IdentityFile::new"];
        let adapters = [
            "vault/directory.rs",
            "vault/simulated_glacier.rs",
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
        seen.extend(names.into_iter().chain(decorators).filter(|name| text.contains(name)));
        let decorates = own || file.starts_with("work/drill");
        assert!(
            decorates || !decorators.iter().any(|name| text.contains(name)),
            "{}",
            file.display()
        );
    }
    assert_eq!(seen.len(), 15, "names that are found nowhere any more: only {seen:?} are");
}

#[test]
fn files_open_with_their_story_and_stay_readable() {
    for (file, text) in sources() {
        assert!(text.starts_with("//!"), "{} has no story", file.display());
        assert!(
            text.lines().count() <= 950,
            "{} has {} lines",
            file.display(),
            text.lines().count()
        );
    }
}

#[test]
fn every_exit_code_is_documented_under_its_number_and_name() {
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/EXIT_CODES.md"))
            .unwrap();
    for (exit, name) in lifeboat::cli::exit::ALL {
        assert!(
            documented.contains(&format!("| {} | {name} |", exit.code())),
            "{} {name}",
            exit.code()
        );
    }
    assert_eq!(
        documented
            .lines()
            .filter(|l| l.starts_with("| ") && l.as_bytes()[2].is_ascii_digit())
            .count(),
        lifeboat::cli::exit::ALL.len()
    );
}

#[test]
fn every_setting_is_documented() {
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/CONFIG.md")).unwrap();
    let schedules =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SCHEDULES.md")).unwrap();
    let documented = documented + &schedules;
    let read: Vec<String> = sources()
        .into_iter()
        .filter(|(file, _)| {
            ["config/mod.rs", "config/serve.rs", "config/schedules.rs"]
                .contains(&file.to_str().unwrap())
        })
        .map(|(_, text)| text)
        .collect();
    assert_eq!(read.len(), 3);
    let config = read.concat();
    let mut settings = 0;
    for call in
        ["text(\"", "texts(\"", "boolean(\"", "number(\"", "span(\"", "choice(\"", "date(\""]
    {
        for after in config.split(call).skip(1) {
            let name = after.split('"').next().unwrap();
            assert!(
                documented.contains(&format!("`{name}`")),
                "setting {name} is not in docs/CONFIG.md"
            );
            settings += 1;
        }
    }
    assert!(settings > 25, "only {settings} settings were found; has the code changed its ways?");
}

/// Relative links in the documents must lead somewhere.
#[test]
fn documents_link_to_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in files(&root.join("docs"))
        .into_iter()
        .chain([root.join("README.md")])
        .filter(|f| f.extension().is_some_and(|e| e == "md"))
    {
        let text = std::fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let path = link.split('#').next().unwrap();
            assert!(
                path.starts_with("http")
                    || path.is_empty()
                    || file.parent().unwrap().join(path).exists(),
                "{}: {link}",
                file.display()
            );
        }
    }
}

/// Names that several types have, and why. At most five.
const SHARED_NAMES: [(&str, &str); 0] = [];

#[test]
fn no_two_types_share_a_name() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (file, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            // What an impl says of its trait's types is not a type of its own.
            let is_associated = line.starts_with(' ') && line.trim_start().starts_with("type ");
            let words = line.split_whitespace().skip_while(|word| word.starts_with("pub"));
            let [keyword, name] = words.take(2).collect::<Vec<_>>()[..] else { continue };
            // A macro's `struct $name` is none.
            let is_type = ["struct", "enum", "trait", "type", "union"].contains(&keyword)
                && !name.starts_with('$');
            if is_type && !is_associated {
                let name = name.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                places.entry(name.to_owned()).or_default().push(format!(
                    "{}:{}",
                    file.display(),
                    number + 1
                ));
            }
        }
    }
    assert!(places.len() > 500, "only {} types were found", places.len());
    assert!(SHARED_NAMES.len() <= 5);
    places.retain(|name, places| {
        places.len() > 1 && !SHARED_NAMES.iter().any(|(shared, _)| shared == name)
    });
    assert!(
        places.is_empty(),
        "these names stand for two or more types; rename all but one, by what each of them is \
         (`RestoreOptions`, not `Options`): {places:#?}"
    );
}

/// Longer are only lines that nothing can break: addresses, literals, and what stands inside of a
/// macro.
#[test]
fn lines_have_at_most_100_columns() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in ["src", "tests"].iter().flat_map(|directory| files(&root.join(directory))) {
        if file.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let mut is_drawn = false;
        for (number, line) in text.lines().enumerate() {
            // Tables and drawings keep their columns.
            is_drawn ^= line.trim_start().starts_with("//") && line.contains("```");
            let is_comment =
                line.trim_start().starts_with("//") && !is_drawn && !line.contains("| ");
            let is_long = line.chars().count() > 100;
            assert!(
                !(is_long && is_comment && !line.contains("://")),
                "{}:{}: a comment of more than 100 columns",
                file.display(),
                number + 1
            );
        }
    }
}
