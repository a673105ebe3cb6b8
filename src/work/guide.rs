//! `RESTORE.md`: the exact commands that open one backup with stock tools, without lifeboat.
//!
//! The text is a document of the vault and is executed by the tests exactly as it is. It is signed:
//! whoever pastes it hands it a key that opens everything. Its first line says which envelope of
//! which backup it belongs to, so that it cannot be substituted by another ([`belongs`]).

use crate::destination::postgres::script;
use crate::domain::envelope::{EncryptionContext, Slot, SlotKind};
use crate::domain::manifest::{Manifest, Payload, PayloadRole};
use crate::domain::volumes::{PostgresCut, SetPlace, VolumeSet};
use crate::keyring::sign::PublicKey;
use crate::pg::PinSelection;
use crate::vault::Vault;

/// `aws-kms` or `age`.
#[must_use]
pub fn kind(slot: &Slot) -> &'static str {
    match slot.opens_with {
        SlotKind::AwsKms { .. } => "aws-kms",
        SlotKind::Age { .. } => "age",
    }
}

/// Quotes a text for a POSIX shell.
fn shell(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The first line of a guide; Markdown does not show it.
fn first_line(manifest: &Manifest, number: u32) -> String {
    let Manifest { vault, datastore, backup, .. } = manifest;
    format!(
        "<!-- lifeboat.guide/1 vault={vault} datastore={datastore} backup={backup} envelope={number} -->\n"
    )
}

/// Whether a text is the guide of this envelope of this backup. Only asked of one that is signed.
#[must_use]
pub fn belongs(text: &[u8], manifest: &Manifest, number: u32) -> bool {
    text.starts_with(first_line(manifest, number).as_bytes())
}

/// The text of the guide to a backup and the slots of one of its envelopes.
#[must_use]
pub fn restore_guide(
    manifest: &Manifest,
    number: u32,
    slots: &[Slot],
    vault: &dyn Vault,
    public: &PublicKey,
    manifest_sha256: &str,
) -> String {
    let text = text(manifest, slots, vault, public, manifest_sha256);
    first_line(manifest, number) + &text
}

fn text(
    manifest: &Manifest,
    slots: &[Slot],
    vault: &dyn Vault,
    public: &PublicKey,
    manifest_sha256: &str,
) -> String {
    let place = manifest.place();
    let context = super::shelf::context_of(manifest);
    // Everything that is sealed of a set is small and stands beside its envelope.
    let folders = if manifest.set.is_some() {
        vec![place.meta_prefix()]
    } else {
        vec![place.meta_prefix(), place.payload_prefix()]
    };
    let fetch = fetch(&vault.address(), &vault.cli_options(), &place, &folders);
    let sums: String = std::iter::once(format!("{manifest_sha256}  {}\n", place.manifest()))
        .chain(slots.iter().map(|slot| format!("{}  {}\n", slot.sha256, slot.file)))
        .chain(
            manifest
                .payloads
                .iter()
                .flat_map(|p| &p.objects)
                .map(|o| format!("{}  {}\n", o.sha256, o.key)),
        )
        .collect();
    let open = slots.iter().map(|slot| open_slot(slot, &context)).collect::<Vec<_>>().join("\n");
    let verify = public.openssl_command("\"$TRUSTED_KEY\"", place.manifest().as_str());
    if let Some(set) = &manifest.set {
        return set_guide(
            manifest,
            set,
            slots,
            &CheckedGuide { fetch, sums, open, verify, before: before(public) },
        );
    }
    let load = load(manifest);
    let cat = |role| manifest.payload(role).map(cat).unwrap_or_default();
    let globals = cat(PayloadRole::Globals);
    let major = manifest.tools.major();
    format!(
        r#"# Restore {datastore} from backup {backup} without lifeboat

Taken {snapshot} from PostgreSQL {server}. Opened by any one of: {names}.

You need: `bash`, `sha256sum`, `openssl` 3.0 or newer, `age` 1.0 or newer, `zstd`, and `psql` and `pg_restore`
of major version {major} or newer (the oldest `psql` that can run these steps is that of PostgreSQL 10).
For a KMS slot and for a vault in S3: the AWS CLI, version 1.18 or 2. Run the steps in order, in one bash shell, in an
empty directory. Payloads are never written in the clear; the identity file is, and step 5 removes it.

{before}
- `IDENTITY`: for an age slot, the file with your recovery key or local identity.
- `PGHOST`, `PGPORT`, `PGUSER` …: the server to restore to, as for `psql`, with a role that may create roles and databases.

## 1. Fetch

```bash
{stop}
{fetch}
```

## 2. Check

The signature first, with the key you brought; then every file against its SHA-256. (A damaged age file would feed
thousands of statements to the server before it is noticed.)

```bash
{verify}
sha256sum --check --quiet <<'SUMS'
{sums}SUMS
```

The signed manifest holds the same sums for the payloads:

```bash
find payloads meta -type f -exec sha256sum {{}} + > found.sums
for sum in $(sed '/"chunks": {{/,/}}/d' {manifest_file} | grep -o '"sha256": "[0-9a-f]*"' | cut -d '"' -f 4); do
  grep -q "^$sum " found.sums || {{ echo "the manifest names $sum, and no file has it"; false; }}
done
```

## 3. Open the identity: one of these, whichever key you have

{open}
## 4. Restore

Values are read as they were written: under settings that neither database nor role changes. Where they do not
arrive this stops: connect to the server itself then, not through a pooler.

```bash
export PGOPTIONS="${{PGOPTIONS:-}} {pins}"
odd=$(psql -X -A -t --dbname postgres --command "{probe}")
[ -z "$odd" ] || {{ echo "these settings do not arrive: $odd"; false; }}
```

Roles that exist already are kept, and get the attributes and passwords of the backup; tablespaces must exist as
directories on the new server (edit the paths if they differ). `\restrict` keeps `psql` from taking a line of the script for a command of
its own; a `psql` that does not know it (before 15.14, 16.10, 17.6) stops there: use a newer one.

```bash
{{ printf '%s\n' '\restrict {key}'
  {globals} | age -d -i identity.txt | zstd -dq \
    | sed -E 's/^CREATE ROLE ("([^"]|"")*"|[a-z_][a-z0-9_]*);$/DO ${tag}$ BEGIN CREATE ROLE \1; EXCEPTION WHEN duplicate_object THEN NULL; END ${tag}$;/'
  printf '%s\n' '\unrestrict {key}'
}} | psql -X --quiet --set ON_ERROR_STOP=1 --dbname postgres --file - > /dev/null
```

The database is created under its old name with its old properties; it must not exist.

```bash
{load}
```

## 5. Forget the identity

```bash
shred -u identity.txt
```
"#,
        before = before(public),
        stop = STOP,
        pins = PinSelection::TO_RESTORE.behind(""),
        probe = PinSelection::TO_RESTORE.probe(),
        // A dollar quote that no role's name can close.
        tag = format!("lb{}", hex::encode(rand::random::<[u8; 8]>())),
        // A key that no line of the script can name: it was written before this is.
        key = hex::encode(rand::random::<[u8; 16]>()),
        datastore = manifest.datastore,
        backup = manifest.backup,
        snapshot = manifest.source.snapshot_time,
        server = manifest.source.version(),
        names = slots.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
        manifest_file = place.manifest(),
    )
}

/// Said before anything is run: that this very text must be checked, and with what.
fn before(public: &PublicKey) -> String {
    format!(
        "Set before you begin:\n\n\
         - `TRUSTED_KEY`: a PEM file with the public signing key, from your configuration or recovery card, **not** from the vault. (A card of an\n  \
         earlier version shows one line: put `-----BEGIN PUBLIC KEY-----` above it and `-----END PUBLIC KEY-----` below.)\n\n\
         This text gets a key that opens the backup. Before you run any of it, see that it is genuine; `RESTORE.md.sig` lies beside it:\n\n\
         ```text\n{}\n```\n",
        public.openssl_command("\"$TRUSTED_KEY\"", "RESTORE.md")
    )
}

/// A step that fails ends a script. In a shell into which all of it was pasted it holds what
/// follows back, and does not close the terminal.
const STOP: &str = r#"case $- in
  *i*) trap 'echo "STOPPED: this step failed; Ctrl-C gives the prompt back, and nothing below may be run." >&2; sleep infinity' ERR ;;
  *) set -e ;;
esac
set -Euo pipefail
umask 077
[ -r "${TRUSTED_KEY:-}" ] || { echo "TRUSTED_KEY names no file that can be read" >&2; false; }"#;

/// The parts that every guide has.
struct CheckedGuide {
    fetch: String,
    sums: String,
    open: String,
    verify: String,
    before: String,
}

/// The guide of a set of volumes: the AWS CLI makes them, no key slot is needed for that; one opens
/// the hashes.
fn set_guide(
    manifest: &Manifest,
    set: &VolumeSet,
    slots: &[Slot],
    checked: &CheckedGuide,
) -> String {
    let CheckedGuide { fetch, sums, open, verify, before } = checked;
    let mut make = String::new();
    for (place, is_copy) in set.places() {
        // One of the two, and only the first is for who pastes everything.
        let (heading, fence) =
            if is_copy { ("Or, from the copies, in", "text") } else { ("In", "bash") };
        make.push_str(&format!("{heading} {place}:\n\n```{fence}\n"));
        for member in &set.members {
            let Some((snapshot, key)) = member.snapshot_in(is_copy) else { continue };
            let line = match place {
                SetPlace::Ebs { region, .. } => format!(
                    "aws ec2 create-volume --region {} --availability-zone \"$ZONE\" --snapshot-id {snapshot} \\\n  --volume-type {}{}{} --encrypted --kms-key-id {} --query VolumeId --output text   # was {}{}\n",
                    shell(region),
                    shell(&member.class),
                    member
                        .iops
                        .filter(|_| member.class != "gp2")
                        .map(|iops| format!(" --iops {iops}"))
                        .unwrap_or_default(),
                    member
                        .throughput
                        .map(|rate| format!(" --throughput {rate}"))
                        .unwrap_or_default(),
                    shell(key),
                    member.volume,
                    member
                        .attached
                        .as_ref()
                        .map(|at| format!(", {} of {}", at.device, at.instance))
                        .unwrap_or_default(),
                ),
                SetPlace::Local { directory } => {
                    format!(
                        "cp --sparse=always {}/snapshots/{snapshot}/disk {}.img\n",
                        shell(directory),
                        member.volume
                    )
                }
            };
            make.push_str(&line);
        }
        make.push_str("```\n\n");
    }
    let label = match &set.postgres {
        Some(PostgresCut::OnlineBackup { label, tablespace_map, .. }) => {
            let mut text = format!(
                "## 4. The label\n\nThe volumes were cut within an online backup. Mount them, and before Postgres is started:\n\n```bash\nprintf %s {} > \"$PGDATA\"/backup_label\nrm -f \"$PGDATA\"/postmaster.pid\n",
                shell(label)
            );
            if !tablespace_map.is_empty() {
                text.push_str(&format!("printf %s {} > \"$PGDATA\"/tablespace_map\n", shell(tablespace_map)));
            }
            text + "```\n"
        }
        Some(PostgresCut::Checkpoint) => "## 4. Start\n\nMount the volumes, remove `postmaster.pid`, start Postgres: it recovers as after a power cut.\n".to_owned(),
        None => "## 4. Mount\n\nMount the volumes as they were (XFS clones on one host with `-o nouuid`). The set is consistent as the manifest says.\n".to_owned(),
    };
    format!(
        r#"# Restore {datastore} from backup {backup} without lifeboat

A set of {count} volumes, cut {snapshot}, {consistency}-consistent. The volumes open with the KMS keys they are encrypted under; the
hashes of their blocks, in `blocks-NNN.zst.age`, with any one of: {names}.

You need: `bash`, `sha256sum`, `openssl` 3.0 or newer and the AWS CLI; for the hashes `age` and `zstd`. Run the steps in order, in one
bash shell, in an empty directory.

{before}
- `ZONE`: the availability zone in which the volumes are made.
- `IDENTITY`: only for the hashes, with an age slot: the file with your recovery key or local identity.

## 1. Fetch

```bash
{stop}
{fetch}
```

## 2. Check

```bash
{verify}
sha256sum --check --quiet <<'SUMS'
{sums}SUMS
```

## 3. Make the volumes

{make}{label}
## 5. The hashes, if you want to compare

{open}
`age -d -i identity.txt FILE | zstd -dq` of a `blocks-NNN.zst.age` prints, per block of 512 KiB, its number and its SHA-256; those that are
not listed are zeros. `dd if=DEVICE bs=512K skip=NUMBER count=1 | sha256sum` reads one. Then `shred -u identity.txt`.
"#,
        stop = STOP,
        datastore = manifest.datastore,
        backup = manifest.backup,
        count = set.members.len(),
        snapshot = manifest.source.snapshot_time,
        consistency = set.consistency,
        names = slots.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", "),
    )
}

/// The commands of a guide in their order, with only the named slot's way to open the identity:
/// what a person would paste.
#[must_use]
pub fn commands(guide: &str, slot: &str) -> Vec<String> {
    let (mut blocks, mut block, mut heading, mut within) =
        (Vec::new(), String::new(), String::new(), false);
    for line in guide.lines() {
        match line {
            "```bash" => within = true,
            "```" => {
                within = false;
                if !block.is_empty() {
                    blocks.push(std::mem::take(&mut block));
                }
            }
            _ if within
                && (heading.is_empty() || heading.starts_with(&format!("Slot `{slot}`"))) =>
            {
                block.push_str(line);
                block.push('\n');
            }
            _ if line.starts_with("Slot `") => line.clone_into(&mut heading),
            _ if line.starts_with("## ") => heading.clear(),
            _ => {}
        }
    }
    blocks
}

fn fetch(
    address: &str,
    options: &str,
    place: &crate::domain::layout::BackupKeys<'_>,
    folders: &[String],
) -> String {
    let manifest = place.manifest();
    if let Some(directory) = address.strip_prefix("file://") {
        let mut lines = vec![
            format!("VAULT=${{VAULT:-{}}}", shell(directory)),
            format!(
                "mkdir -p {}",
                shell(manifest.as_str().rsplit_once('/').map_or("", |(d, _)| d))
            ),
        ];
        lines.push(format!(
            "cp \"$VAULT\"/{manifest} \"$VAULT\"/{manifest}.sig {}",
            shell(manifest.as_str().rsplit_once('/').map_or("", |(d, _)| d))
        ));
        for folder in folders {
            let folder = folder.trim_end_matches('/');
            lines.push(format!("mkdir -p {folder} && cp -r \"$VAULT\"/{folder}/. {folder}"));
        }
        return lines.join("\n");
    }
    let mut lines = vec![format!("VAULT=${{VAULT:-{}}}", shell(address.trim_end_matches('/')))];
    lines.push(format!("aws{options} s3 cp --only-show-errors \"$VAULT\"/{manifest} {manifest}"));
    lines.push(format!(
        "aws{options} s3 cp --only-show-errors \"$VAULT\"/{manifest}.sig {manifest}.sig"
    ));
    for folder in folders {
        lines.push(format!(
            "aws{options} s3 cp --only-show-errors --recursive \"$VAULT\"/{folder} {folder}"
        ));
    }
    lines.join("\n")
}

fn open_slot(slot: &Slot, context: &EncryptionContext) -> String {
    let command = match &slot.opens_with {
        SlotKind::Age { .. } => format!("age -d -i \"$IDENTITY\" {} > identity.txt", slot.file),
        SlotKind::AwsKms { key_id, region } => {
            let region =
                region.as_ref().map(|r| format!(" --region {}", shell(r))).unwrap_or_default();
            let pairs = serde_json::to_string(&context.pairs()).unwrap_or_default();
            format!(
                "aws kms decrypt{region} --key-id {} --ciphertext-blob fileb://{} \\\n  --encryption-context {} \\\n  --query Plaintext --output text | base64 -d > identity.txt",
                shell(key_id),
                slot.file,
                shell(&pairs)
            )
        }
    };
    format!("Slot `{}` ({}):\n\n```bash\n{command}\n```\n", slot.name, kind(slot))
}

fn cat(payload: &Payload) -> String {
    let files = payload.objects.iter().map(|o| o.key.as_str()).collect::<Vec<_>>().join(" ");
    format!("cat {files}")
}

const LOAD: &str = "load() { pg_restore --exit-on-error \"$@\" && cat > /dev/null; }";

/// For clients newer than the server: see [`crate::destination::postgres::script`]. The line is
/// taken out where settings stand, not where rows do.
const LOAD_AS_SCRIPT: &str = r#"# The server does not know one setting that these clients send first: it is taken out of the script that they write.
load() {
  pg_restore "${@:1:$#-2}" --file=- \
    | sed -e '/^COPY .* FROM stdin;$/,/^\\\.$/b' -e '/^SET idle_in_transaction_session_timeout = 0;$/{n;/^SET transaction_timeout = 0;$/d}' \
    | psql -X --quiet --set ON_ERROR_STOP=1 --dbname "${@: -1}" --file - > /dev/null && cat > /dev/null
}"#;

/// With `main` alone one pass does it. With data payloads, indexes and constraints wait until all
/// rows are there, and `main` is read a second time for them.
fn load(manifest: &Manifest) -> String {
    // pg_restore stops reading when it has what it wants; the rest must be read too, or `age` dies
    // of a closed pipe instead of authenticating the end.
    let server = manifest.source.server_version_num.unwrap_or_default() / 10_000;
    let load =
        if script::is_needed(manifest.tools.major(), server) { LOAD_AS_SCRIPT } else { LOAD };
    let mut lines = vec![load.to_owned()];
    let open = |payload: &Payload, then: &str| {
        format!("{} | age -d -i identity.txt | zstd -dq | {then}", cat(payload))
    };
    let main = |then: &str| {
        manifest.payload(PayloadRole::Main).map(|payload| open(payload, then)).unwrap_or_default()
    };
    let mut data = manifest.data_payloads().peekable();
    if data.peek().is_none() {
        lines.push(main("load --create --dbname postgres"));
        return lines.join("\n");
    }
    lines.push(main("{ pg_restore --create --list && cat > /dev/null; } > contents.list"));
    // As a connection string's value: a name that holds a `=` would be taken for a connection
    // string itself.
    lines.push("DATABASE=\"dbname='$(sed -n \"s/^;     dbname: //p\" contents.list | sed \"s/[\\\\\\\\']/\\\\\\\\&/g\")'\"".to_owned());
    // A data payload also sets the sequences of its tables, at another moment than `main` did,
    // which is the one recorded.
    lines.push("grep ' SEQUENCE SET ' contents.list > sequences.list || true".to_owned());
    // Privileges come last: they may take away what an index is built with. What needs them comes
    // with them.
    lines.push("LAST='^[0-9]+; [0-9]+ [0-9]+ (ACL|DEFAULT ACL|MATERIALIZED VIEW DATA|EVENT TRIGGER|COMMENT - EVENT TRIGGER) '".to_owned());
    lines.push(
        "grep -E \"$LAST\" contents.list | grep -v ' ACL - DATABASE ' > last.list || true"
            .to_owned(),
    );
    lines.push("grep -vxFf last.list contents.list > rest.list".to_owned());
    lines.push(main(
        "load --create --section=pre-data --section=data --use-list=rest.list --dbname postgres",
    ));
    lines.extend(data.map(|payload| open(payload, "load --section=data --dbname \"$DATABASE\"")));
    lines.push(main("load --section=data --use-list=sequences.list --dbname \"$DATABASE\""));
    lines.push(main("load --section=post-data --use-list=rest.list --dbname \"$DATABASE\""));
    lines.push(main("load --use-list=last.list --dbname \"$DATABASE\""));
    lines.push("rm contents.list sequences.list last.list rest.list".to_owned());
    lines.join("\n")
}
