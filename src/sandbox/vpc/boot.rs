//! What the instance runs at boot: it fetches the agent, proves that it is the one that was meant,
//! and starts it. No secret is in it, since whoever may describe the instance may read it.
//!
//! It needs of the image: bash, coreutils, the AWS CLI, `shutdown`. The agent needs a Postgres
//! server and clients, util-linux and mount rights.

/// Where the agent works on the instance: on its own volume, since some systems run nothing from
/// `/run`.
pub const DIRECTORY: &str = "/var/lib/lifeboat";
/// Seconds between looks for the order, which is written once the instance is seen to be what was
/// asked for.
const ORDER_PAUSE: u64 = 2;
/// Looks for it.
const ORDER_LOOKS: u64 = 300;

/// What differs from one run to the next.
#[derive(Debug, Clone)]
pub struct BootParameters<'a> {
    /// The run.
    pub run: &'a str,
    /// The region, which is also the bucket's: the door to S3 leads to no other.
    pub region: &'a str,
    /// The bucket.
    pub bucket: &'a str,
    /// Key of the agent, with the vault's prefix.
    pub agent_key: &'a str,
    /// SHA-256 of the agent.
    pub agent_sha256: &'a str,
    /// Key of the order, with the vault's prefix.
    pub order_key: &'a str,
    /// SHA-256 of the order.
    pub order_sha256: &'a str,
    /// Minutes until it powers off by itself.
    pub minutes: u64,
}

/// A word for a shell. What goes in is made by lifeboat and checked; quoting costs nothing.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The script.
#[must_use]
pub fn script(boot: &BootParameters<'_>) -> String {
    let BootParameters {
        run,
        region,
        bucket,
        agent_key,
        agent_sha256,
        order_key,
        order_sha256,
        minutes,
    } = boot;
    let region = quoted(region);
    let from = |key: &str| quoted(&format!("s3://{bucket}/{key}"));
    let (agent, order) = (from(agent_key), from(order_key));
    format!(
        r#"#!/bin/bash
# lifeboat: fetches and starts the agent of drill run {run}. Holds no secret.
set -euo pipefail
umask 077
# The dead man's timer: powering off terminates the instance, whatever becomes of the rest.
shutdown -P +{minutes} || {{ (sleep {seconds}; shutdown -P now) & }}
trap 'echo "lifeboat-boot {run} ended with $?"; shutdown -P now' EXIT
mkdir -p {DIRECTORY}
cd {DIRECTORY}
echo 'lifeboat-boot {run} fetches the agent'
aws s3 cp --only-show-errors --region {region} {agent} agent
echo '{agent_sha256}  agent' | sha256sum --check --status || {{ echo 'lifeboat-boot {run}: the agent is not the one that was meant'; exit 1; }}
chmod 0700 agent
# The order comes once the instance was seen to be what was asked for.
for _ in $(seq {ORDER_LOOKS}); do
  aws s3 cp --only-show-errors --region {region} {order} order.json 2>/dev/null && break
  sleep {ORDER_PAUSE}
done
echo '{order_sha256}  order.json' | sha256sum --check --status || {{ echo 'lifeboat-boot {run}: the order did not come, or is not the one that was meant'; exit 1; }}
echo 'lifeboat-boot {run} starts the agent'
./agent agent --order order.json
"#,
        seconds = minutes * 60,
    )
}

/// The line on the console by which the agent shows its key.
#[must_use]
pub fn key_line(run: &str, nonce: &str, key: &str) -> String {
    format!("lifeboat-agent run={run} nonce={nonce} key={key}")
}

/// Finds that line: nonce and key. The first one counts, since it was written before anything was
/// restored; another one that differs is an error, since somebody else writes on the console.
///
/// # Errors
/// If two keys are shown.
pub fn find_key(console: &str, run: &str) -> Result<Option<(String, String)>, String> {
    let mut found: Option<(String, String)> = None;
    let mark = format!("lifeboat-agent run={run} ");
    // One that is not ended is still being written.
    for line in console.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let Some((_, rest)) = line.split_once(&mark) else { continue };
        let mut words = rest.split_whitespace();
        let (Some(nonce), Some(key)) = (
            words
                .next()
                .and_then(|word| word.strip_prefix("nonce="))
                .filter(|nonce| nonce.len() == 32),
            words.next().and_then(|word| word.strip_prefix("key=")),
        ) else {
            continue;
        };
        let shown = (nonce.to_owned(), key.to_owned());
        match &found {
            Some(first) if *first != shown => {
                return Err("two different keys stand on the instance's console".to_owned());
            }
            _ => found = Some(shown),
        }
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_script_is_sound_and_holds_what_it_is_given_only() {
        let boot = BootParameters {
            run: "20261125T200000Z-abcdef",
            region: "eu-west-1",
            bucket: "backups",
            agent_key: "prefix/agent/aa",
            agent_sha256: "aa",
            order_key: "prefix/runs/x/order.json",
            order_sha256: "bb",
            minutes: 240,
        };
        let script = script(&boot);
        let mut bash =
            std::process::Command::new("bash").args(["-n", "-c", &script]).spawn().unwrap();
        assert!(bash.wait().unwrap().success());
        assert!(script.len() < 16 * 1024, "EC2 takes 16 KiB");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }

    #[test]
    fn the_first_key_counts_and_a_second_one_is_told() {
        let nonce = "0123456789abcdef0123456789abcdef";
        let line = key_line("run-1", nonce, "AAAA");
        let console = format!("[ 3.1] cloud-init: {line}\nother\n{line}\n");
        assert_eq!(
            find_key(&console, "run-1").unwrap(),
            Some((nonce.to_owned(), "AAAA".to_owned()))
        );
        assert_eq!(find_key(&console, "run-2").unwrap(), None);
        assert_eq!(
            find_key("lifeboat-agent run=run-1 nonce=short key=AAAA\n", "run-1").unwrap(),
            None
        );
        assert_eq!(find_key(&line, "run-1").unwrap(), None, "it is not ended");
        let other = format!("{console}{}\n", key_line("run-1", nonce, "BBBB"));
        assert!(find_key(&other, "run-1").is_err());
    }
}
