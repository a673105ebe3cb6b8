//! Command-line arguments. Every command has an example in its help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::domain::human_duration::HumanDuration;
use crate::domain::thaw::RetrievalTier;
use crate::domain::volumes::InstanceId;

/// Encrypted backups of Postgres that are rehearsed.
#[derive(Debug, Parser)]
#[command(
    name = "lifeboat",
    version,
    max_term_width = 100,
    after_help = "Start with `lifeboat init`, then `lifeboat check`. Exit codes are listed in docs/EXIT_CODES.md."
)]
pub struct Arguments {
    /// The configuration file.
    #[arg(long, short, global = true, env = "LIFEBOAT_CONFIG", default_value = crate::config::FILE_NAME, value_name = "FILE")]
    pub config: PathBuf,
    /// Print the result as JSON on stdout.
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// Log more; twice for debugging.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How the log on stderr is written.
    #[arg(long, global = true, value_enum, default_value_t, env = "LIFEBOAT_LOG_FORMAT")]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub verb: CliCommand,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object for each line.
    Json,
}

/// How backups are opened and believed.
#[derive(Debug, Clone, Default, Args)]
pub struct OpenArgs {
    /// An age identity file that may open the backup, such as the offline recovery key. May be
    /// repeated.
    #[arg(long, value_name = "FILE")]
    pub identity: Vec<PathBuf>,
    /// Another vault: one of `[vaults]` in lifeboat.toml, s3://bucket/prefix, or a directory. An
    /// address needs no lifeboat.toml.
    #[arg(long, value_name = "VAULT")]
    pub vault: Option<String>,
    /// A public signing key to believe beside the configured ones: one line, or a PEM file. May be
    /// repeated.
    #[arg(long, value_name = "KEY")]
    pub trust_key: Vec<String>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    /// Carry out the order of a drill, on the instance of its scratch VPC. Started by the
    /// instance's own boot, not by people.
    #[command(hide = true)]
    Agent {
        /// The order.
        #[arg(long, value_name = "FILE")]
        order: PathBuf,
    },
    /// Make a new set-up: lifeboat.toml, keys, and the vault.
    #[command(
        after_help = "Example:\n  lifeboat init /etc/lifeboat --new-recovery-key /media/usb/recovery.txt"
    )]
    Init {
        /// Where lifeboat.toml goes.
        #[arg(default_value = ".")]
        directory: PathBuf,
        /// Where backups go: s3://bucket/prefix, or a directory.
        #[arg(long, value_name = "PLACE")]
        vault: Option<String>,
        /// Public half of an offline recovery key (age1…) that exists already.
        #[arg(long, value_name = "RECIPIENT")]
        recovery_recipient: Option<String>,
        /// Make a new recovery key and write it to this file; move the file offline afterwards.
        #[arg(long, value_name = "FILE", conflicts_with = "recovery_recipient")]
        new_recovery_key: Option<PathBuf>,
    },
    /// Check every file, then try everything they name.
    #[command(after_help = "Example:\n  lifeboat check")]
    Check,
    /// Take a backup now.
    #[command(after_help = "Example:\n  lifeboat backup chat billing")]
    Backup {
        /// Datastores, as named in lifeboat.toml.
        #[arg(required = true, value_name = "DATASTORE")]
        datastores: Vec<String>,
        /// The server is another one than that of the newest backup, and is meant to be: it was
        /// replaced, restored or upgraded.
        #[arg(long)]
        another_cluster: bool,
    },
    /// List what there is.
    #[command(
        after_help = "Examples:\n  lifeboat list\n  lifeboat list chat --json | jq -r '.[-1].backup'"
    )]
    List {
        /// One datastore; all if left out.
        datastore: Option<String>,
        #[command(flatten)]
        #[allow(missing_docs, reason = "documented at its type")]
        opening: OpenArgs,
    },
    /// Show one backup's manifest, and whether it is believed.
    #[command(after_help = "Example:\n  lifeboat show 20261122T031500Z-K3XQ7A")]
    Show {
        /// The backup.
        backup: String,
        #[command(flatten)]
        #[allow(missing_docs, reason = "documented at its type")]
        opening: OpenArgs,
    },
    /// Read every byte back: signature, hashes, age, zstd, archive, fingerprint.
    #[command(
        after_help = "Examples:\n  lifeboat verify 20261122T031500Z-K3XQ7A\n  lifeboat verify --sample 3\n  lifeboat verify --all --identity /media/usb/recovery.txt"
    )]
    Verify {
        /// The backup.
        #[arg(required_unless_present_any = ["all", "sample"], conflicts_with_all = ["all", "sample"])]
        backup: Option<String>,
        /// Every backup in the vault.
        #[arg(long, conflicts_with = "sample")]
        all: bool,
        /// So many backups chosen at random.
        #[arg(long, value_name = "N")]
        sample: Option<usize>,
        #[command(flatten)]
        #[allow(missing_docs, reason = "documented at its type")]
        opening: OpenArgs,
    },
    /// Bring a datastore back: into a database, a directory, or stdout; volumes into a zone.
    #[command(
        after_help = "Examples:\n  lifeboat restore chat --plan\n  lifeboat restore chat --to postgres:///chat_restored --check\n  lifeboat restore chat --to service=chat --swap\n  lifeboat restore chat --to postgres:///rescue --table public.messages\n  lifeboat restore chat --to /srv/restored --at 2026-11-20T12:00:00Z\n  lifeboat restore chat --to - | pg_restore --list\n  lifeboat restore chat-volumes --to zone:eu-west-1a --attach i-0123456789abcdef0\n  lifeboat restore chat --vault s3://backups-dr/prod --identity recovery.txt --trust-key KEY --to postgres:///chat\n\nThe target's password comes from PGPASSWORD, ~/.pgpass or a service file, as for psql. After Ctrl-C or a lost connection the same\ncommand goes on where it stopped."
    )]
    Restore(Box<RestoreArguments>),
    /// Ask for readable copies of a backup in an archive class. Shows time and cost first; sends
    /// the request with --confirm.
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  lifeboat thaw chat\n  lifeboat thaw 20261122T031500Z-K3XQ7A --tier expedited --confirm\n  lifeboat thaw list\n  lifeboat thaw wait 20261122T031500Z-K3XQ7A\n\nA restore thaws what it needs by itself; what was asked for goes on in the store whatever happens here."
    )]
    Thaw(super::thaw::ThawArguments),
    /// Copy backups, envelopes and evidence to another vault of lifeboat.toml. Sends what is not
    /// there yet; nothing is opened.
    #[command(
        after_help = "Examples:\n  lifeboat copy dr\n  lifeboat copy dr chat --json\n\nThen `lifeboat restore chat --vault dr …` restores from there, with any key that opens."
    )]
    Copy {
        /// The vault, one of `[vaults]` in lifeboat.toml.
        vault: String,
        /// One datastore; all if left out.
        datastore: Option<String>,
    },
    /// Print the exact steps that bring a datastore back, with its real names: for paper.
    #[command(after_help = "Example:\n  lifeboat runbook chat > runbook-chat.md")]
    Runbook {
        /// The datastore.
        datastore: String,
    },
    /// The offline key that opens every backup when all else is lost.
    #[command(subcommand)]
    RecoveryKey(super::recovery::RecoveryVerb),
    /// Give every backup the key slots that lifeboat.toml asks for, touching no payload. Shows the
    /// plan first; acts with --confirm.
    #[command(
        after_help = "Examples:\n  lifeboat rekey\n  lifeboat rekey --confirm\n  lifeboat rekey chat --confirm --identity /media/usb/recovery.txt\n\nWhat was interrupted goes on with the same command. A key that is not in lifeboat.toml any more is retired: its slots go as soon as\nnothing locks them, and until then are reported as still opening backups."
    )]
    Rekey(super::rekey::RekeyArguments),
    /// Find what interrupted runs left: in the vault, snapshots of volumes, file systems left
    /// frozen and sandboxes on this host; remove it with --confirm.
    #[command(
        after_help = "Examples:\n  lifeboat sweep\n  lifeboat sweep --older-than 2h --confirm\n\nExits with 10 if something was found and not removed."
    )]
    Sweep {
        /// Leave alone what is younger. Longer than your longest backup: a run on another host
        /// holds no lock here.
        #[arg(long, default_value = "24h", value_name = "AGE")]
        older_than: HumanDuration,
        /// Remove what was found.
        #[arg(long)]
        confirm: bool,
    },
    /// Run schedules/ and the cadences in drills/, tell somebody, and show how things stand.
    #[command(
        after_help = "Examples:\n  lifeboat serve\n  systemctl reload lifeboat    # SIGHUP: read the configuration again\n\nThe same jobs can be started one at a time by cron or systemd timers: lifeboat backup, drill, prune, sweep, verify."
    )]
    Serve,
    /// Show what will run, when, and why then.
    #[command(after_help = "Examples:\n  lifeboat next\n  lifeboat next --within 2w --json")]
    Next {
        /// How far to look ahead.
        #[arg(long, default_value = "1w", value_name = "TIME")]
        within: HumanDuration,
    },
    /// Show what is fresh, stale, never drilled; exits with 11 if something needs somebody.
    #[command(
        after_help = "Examples:\n  lifeboat status\n  lifeboat status --json | jq .alarms\n\nExits with 0 if everything is within its objectives, else with 11."
    )]
    Status,
    /// Remove backups that no schedule keeps, and move old sets of volumes to the archive tier.
    /// Shows the plan first; acts with --confirm.
    #[command(
        after_help = "Examples:\n  lifeboat prune\n  lifeboat prune chat --confirm\n\nExits with 10 if something was to go and could not be deleted."
    )]
    Prune {
        /// One datastore; all if left out.
        datastore: Option<String>,
        /// Remove what the plan says.
        #[arg(long)]
        confirm: bool,
    },
    /// Keep a backup whatever its schedule says, until it is released. The hold is a signed record.
    #[command(
        after_help = "Example:\n  lifeboat hold 20261122T031500Z-K3XQ7A --reason 'incident 17'"
    )]
    Hold {
        /// The backup.
        backup: String,
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// End a hold.
    #[command(after_help = "Example:\n  lifeboat release 20261122T031500Z-K3XQ7A")]
    Release {
        /// The backup.
        backup: String,
    },
    /// Rehearse a restore: into a sandbox, checked, damaged, checked again, torn down and signed.
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  lifeboat drill nightly\n  lifeboat drill nightly --live\n  lifeboat drill history\n  lifeboat drill abort nightly\n\nExits with 0 for PASS, 8 for FAIL, 9 for NOT_VERIFIED, 10 if something was left behind."
    )]
    Drill(Box<super::drill::DrillArguments>),
    /// The signed series of drill reports.
    #[command(subcommand)]
    Evidence(super::evidence::EvidenceVerb),
    /// Print configuration for AWS that belongs to lifeboat.toml.
    #[command(subcommand)]
    Policy(PolicyVerb),
    /// The catalog of this host.
    #[command(subcommand)]
    Catalog(CatalogVerb),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  lifeboat completions bash > /etc/bash_completion.d/lifeboat"
    )]
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages into a directory.
    #[command(after_help = "Example:\n  lifeboat man /usr/local/share/man/man1")]
    Man {
        /// The directory.
        directory: PathBuf,
    },
}

impl CliCommand {
    /// Its name, for spans.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Init { .. } => "init",
            Self::Agent { .. } => "agent",
            Self::Check => "check",
            Self::Backup { .. } => "backup",
            Self::List { .. } => "list",
            Self::Show { .. } => "show",
            Self::Verify { .. } => "verify",
            Self::Restore(_) => "restore",
            Self::Thaw(_) => "thaw",
            Self::Copy { .. } => "copy",
            Self::Runbook { .. } => "runbook",
            Self::RecoveryKey(_) => "recovery-key",
            Self::Rekey(_) => "rekey",
            Self::Sweep { .. } => "sweep",
            Self::Serve => "serve",
            Self::Next { .. } => "next",
            Self::Status => "status",
            Self::Prune { .. } => "prune",
            Self::Hold { .. } => "hold",
            Self::Release { .. } => "release",
            Self::Drill(_) => "drill",
            Self::Evidence(_) => "evidence",
            Self::Policy(_) => "policy",
            Self::Catalog(_) => "catalog",
            Self::Completions { .. } => "completions",
            Self::Man { .. } => "man",
        }
    }
}

/// What can be printed for AWS.
#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// The bucket's lifecycle rules: colder classes by age, and the end of uploads that nobody
    /// finished.
    #[command(
        after_help = "Example:\n  lifeboat policy lifecycle > rules.json\n  aws s3api put-bucket-lifecycle-configuration --bucket backups --lifecycle-configuration file://rules.json"
    )]
    Lifecycle,
    /// What the role of whoever runs drills with sandbox = "vpc" may do in the drill account.
    #[command(after_help = "Example:\n  lifeboat policy drill-role > drill-role.json")]
    DrillRole,
    /// What the role of a scratch instance may do.
    #[command(after_help = "Example:\n  lifeboat policy instance-role > instance-role.json")]
    InstanceRole,
    /// What nobody in the drill account may do, whatever else they may: a service control policy.
    #[command(after_help = "Example:\n  lifeboat policy guardrails > guardrails.json")]
    Guardrails,
}

/// What can be done with the catalog.
#[derive(Debug, Subcommand)]
pub enum CatalogVerb {
    /// Learn again from the vault what there is.
    #[command(after_help = "Example:\n  lifeboat catalog rebuild")]
    Rebuild {
        #[command(flatten)]
        #[allow(missing_docs, reason = "documented at its type")]
        opening: OpenArgs,
    },
}

/// What `restore` takes.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// The datastore.
    pub datastore: String,
    /// Where to: a Postgres URI or connection string, a directory, or - for stdout; volumes to
    /// zone:NAME. May be left out with --plan.
    #[arg(long, value_name = "TARGET", required_unless_present = "plan")]
    pub to: Option<String>,
    /// This backup instead of the newest.
    #[arg(long, conflicts_with = "at", value_name = "BACKUP")]
    pub backup: Option<String>,
    /// The newest backup taken at or before this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    pub at: Option<String>,
    /// Show what can be restored, how long it takes, what it costs and what is missing; change
    /// nothing.
    #[arg(long)]
    pub plan: bool,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Afterwards compare the database with what was recorded at backup time. Always done before a
    /// --swap.
    #[arg(long)]
    pub check: bool,
    /// Load beside the target database, compare, and then trade the names: the old one is renamed,
    /// not dropped.
    #[arg(long, conflicts_with_all = ["into_database_with_tables", "table", "schema"])]
    pub swap: bool,
    /// Only this table (schema.table) with what belongs to it and what it needs. May be repeated.
    #[arg(long, value_name = "TABLE")]
    pub table: Vec<String>,
    /// Only this schema. May be repeated.
    #[arg(long, value_name = "SCHEMA")]
    pub schema: Vec<String>,
    /// Leave roles and tablespaces alone.
    #[arg(long)]
    pub no_globals: bool,
    /// Make a tablespace in this directory of the target's host (name=/directory). Others are left
    /// out. May be repeated.
    #[arg(long, value_name = "NAME=DIR")]
    pub tablespace: Vec<String>,
    /// Leave owners as they come: objects belong to whoever restores.
    #[arg(long)]
    pub no_owner: bool,
    /// Leave privileges (GRANT) out.
    #[arg(long)]
    pub no_privileges: bool,
    /// Do everything as this role, which the one that connects is a member of.
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Leave this out, with all that depends on it; kinds and names as in pg_restore --list
    /// (EXTENSION:postgis), and ROLE:name. May be repeated.
    #[arg(long, value_name = "KIND:NAME")]
    pub skip: Vec<String>,
    /// Go on after what the server refuses; it is listed in the end, and the exit code is 14.
    #[arg(long)]
    pub keep_going: bool,
    /// With --plan: read the whole backup, as lifeboat verify does.
    #[arg(long, requires = "plan")]
    pub verify: bool,
    /// Drop the unfinished database that a restore of another backup has made, and restore in its
    /// place.
    #[arg(long)]
    pub take_over: bool,
    /// Restore although the room that is estimated to be needed is not there; disks may be thin or
    /// compressed.
    #[arg(long)]
    pub ignore_room: bool,
    /// Load a backup that has no lists of its chunks (lifeboat 0.1 wrote none) without reading it
    /// through first. Damage is found while it is loaded then.
    #[arg(long)]
    pub without_reading_first: bool,
    /// Restore although the target database holds tables. What has the same name makes the restore
    /// fail half way.
    #[arg(long)]
    pub into_database_with_tables: bool,
    /// Restore although the target server is older than the backup's. What it does not understand
    /// makes the restore fail half way.
    #[arg(long)]
    pub into_older_server: bool,
    /// How fast a frozen backup is thawed: expedited, standard or bulk; the cheapest that keeps
    /// the RTO if left out.
    #[arg(long, value_name = "TIER")]
    pub tier: Option<RetrievalTier>,
    /// For how many days thawed copies are kept.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=365))]
    pub days: Option<u32>,
    /// How many things happen at once on the target (rows, indexes, constraints); the number of
    /// cores here if left out.
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub volumes: VolumeArguments,
    #[command(flatten)]
    #[allow(missing_docs, reason = "documented at its type")]
    pub opening: OpenArgs,
}

/// What `restore` takes for volumes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Volumes (--to zone:NAME)")]
pub struct VolumeArguments {
    /// Attach them to this instance, under the devices they had. Handed over unattached if left
    /// out.
    #[arg(long, value_name = "INSTANCE")]
    pub attach: Option<InstanceId>,
    /// Their type, such as gp3; as it was if left out.
    #[arg(long, value_name = "TYPE")]
    pub volume_type: Option<String>,
    /// Provisioned I/O operations per second; as it was if left out.
    #[arg(long, value_name = "N")]
    pub iops: Option<u32>,
    /// Provisioned throughput in MiB/s; as it was if left out.
    #[arg(long, value_name = "N")]
    pub throughput: Option<u32>,
    /// The key they are encrypted under, as an ARN; the snapshots' if left out.
    #[arg(long, value_name = "ARN")]
    pub volume_key: Option<String>,
    /// Read them in at this rate, in MiB/s, instead of on first use.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(100..=300))]
    pub initialization_rate: Option<u32>,
    /// Wait until everything is read in, and say how long that took.
    #[arg(long)]
    pub until_hydrated: bool,
    /// How long a volume may take to be made or attached before the command ends; the same command
    /// goes on waiting.
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub patience: HumanDuration,
    /// Tells this restore from another of the same backup: the same name goes on with the same
    /// volumes.
    #[arg(long, value_name = "NAME", default_value = "restore")]
    pub restore_name: String,
}
