//! Proving the isolation of a sandbox: what holds by construction, and probes that try to get out.

use std::path::Path;

use super::{RaisedSandbox, SOCKET_DIRECTORY, SandboxHold, limits};
use crate::sandbox::probe::{self, HostBeacons};
use crate::sandbox::{IsolationGap, IsolationReport, ProbeResult, ProbeTarget, jail};

impl RaisedSandbox {
    /// Tries from inside to reach what must not be reachable, as every user that anything runs as
    /// there; and what must be, so that the rest means something.
    pub async fn isolation(&mut self, mut reaches: Vec<ProbeTarget>) -> IsolationReport {
        let beacons = HostBeacons::light();
        let burning = beacons.as_ref().map(HostBeacons::reaches).unwrap_or_default();
        reaches.extend(burning.iter().cloned());
        let mut own = vec![
            ProbeTarget::File(self.inside(SOCKET_DIRECTORY).display().to_string()),
            ProbeTarget::Name("localhost".to_owned()),
        ];
        if self.server.is_some() {
            own.push(ProbeTarget::Socket(
                self.inside(SOCKET_DIRECTORY).join(".s.PGSQL.5432").display().to_string(),
            ));
        }
        let asked: Vec<ProbeTarget> = reaches.iter().chain(&own).cloned().collect();
        let [server, client] = [false, true].map(|client| {
            probe::inside(self.launcher(client).command(Path::new(probe::PROGRAM)), asked.clone())
        });
        let (server, client, outside) =
            futures::join!(server, client, probe::outside(reaches.clone()));
        // Whoever reaches something has reached it; what must be reached, both must reach.
        let either = server.iter().zip(&client).zip(&outside).map(|((server, client), outside)| {
            let found = if server.reached { server } else { client };
            ProbeResult { outside: Some(outside.reached), ..found.clone() }
        });
        let probes: Vec<ProbeResult> = either.collect();
        let both = server
            .iter()
            .zip(&client)
            .skip(reaches.len())
            .map(|(server, client)| if client.reached { server } else { client }.clone());
        let mut controls: Vec<ProbeResult> = both.collect();
        controls.extend(outside.iter().filter(|probe| burning.contains(&probe.tried)).cloned());
        if let Err(error) = &beacons {
            controls.push(ProbeResult {
                tried: ProbeTarget::Hidden("lifeboat-beacon".to_owned()),
                reached: false,
                detail: error.to_string(),
                outside: None,
            });
        }
        IsolationReport { holds: self.holds(), gaps: self.gaps.clone(), probes, controls }
    }

    /// What is in force, in words.
    fn holds(&self) -> Vec<String> {
        let preloaded = match self.spec.preload.as_slice() {
            [] => "no library loaded when the server starts".to_owned(),
            names => format!(
                "loaded when the server starts: {}, without processes of their own",
                names.join(", ")
            ),
        };
        let mut holds = vec![format!("Unix socket only, no archiving, replication; {preloaded}")];
        if let SandboxHold::Jail(jail) = &self.hold {
            holds.push(
                "network, mount, process, IPC and host-name namespaces of its own; programs read-only, no other file of the host"
                    .to_owned(),
            );
            let swapped = if jail.built.is_swapped {
                ", which the host may swap out"
            } else {
                ", never swapped out"
            };
            holds.push(format!("files in memory{swapped}, at most {} bytes", self.spec.size_bytes));
            holds.push(match jail.built.is_shared_memory_bounded {
                true => format!("shared memory of System V, at most {} bytes", jail::SHARED_MEMORY_BYTES_MAX),
                false => "shared memory of System V without a limit of its own: this host does not let it be set".to_owned(),
            });
        }
        if let Some(uid) = self.lease.uid {
            holds.push(format!("uids of its own ({uid} for the server, {} for its clients), no capabilities, no new privileges", uid + 1));
        }
        if !self.gaps.contains(&IsolationGap::SystemCalls) {
            holds.push("no new user namespaces, keyrings, io_uring, tracing, or sockets but of Unix and the Internet".to_owned());
        }
        match &self.unlimited {
            None => {
                let limits = limits(&self.spec);
                holds.push(format!(
                    "a control group: at most {} bytes of memory for everything, {} processes",
                    limits.memory_bytes, limits.processes
                ));
            }
            Some(why) => {
                holds.push(format!("no limit of memory for its processes but the host's: {why}"))
            }
        }
        holds.push(format!(
            "ends by itself after {} seconds, and when lifeboat ends",
            self.spec.time_to_live.as_secs()
        ));
        holds
    }
}
