//! Trying what a datastore of volumes names, without cutting anything.

use super::{Run, cut};
use crate::config::VolumesConfig;
use crate::domain::id::{DatastoreName, VaultId};
use crate::domain::span::bytes_for_people;
use crate::domain::volumes::{SetPlace, Tags, Volume, tag};
use crate::work::Rig;
use crate::work::check::{Answer, Line, bad, line};

/// Asks what can be asked of the place, its volumes, and the place of the copies.
pub async fn check(rig: &Rig, vault: &VaultId, name: &DatastoreName, settings: &VolumesConfig) -> Vec<Line> {
    let subject = format!("datastore {name}");
    let home = match rig.volumes.open(&settings.place).await {
        Ok(home) => home,
        Err(error) => return vec![bad(&subject, "its volumes can be reached", error.trouble(), error.to_string())],
    };
    let run = Run { rig, vault: vault.clone(), datastore: name, settings, home };
    let mut lines = Vec::new();
    match cut::select(&run).await {
        Ok(volumes) => {
            let bytes = volumes.iter().map(|volume: &Volume| volume.bytes).sum();
            let found = format!("{} volumes, {}, in {}", volumes.len(), bytes_for_people(bytes), settings.place);
            lines.push(line(&subject, "its volumes are there, each encrypted under a key of kms_keys", Answer::Good, found));
            lines.push(match cut::could(&run, &volumes) {
                Ok(how) => line(&subject, "its consistency can be had", Answer::Good, how),
                Err(error) => bad(&subject, "its consistency can be had", error.trouble(), error.to_string()),
            });
        }
        Err(error) => {
            lines.push(bad(&subject, "its volumes are there, each encrypted under a key of kms_keys", error.trouble(), error.to_string()))
        }
    }
    if let SetPlace::Local { .. } = settings.place {
        lines.push(line(
            &subject,
            "is EBS",
            Answer::Note,
            "files of this host stand in for EBS: nothing of them is encrypted, and they are lost with the host",
        ));
    }
    lines.extend(check_copy(&run, &subject).await);
    lines
}

async fn check_copy(run: &Run<'_>, subject: &str) -> Vec<Line> {
    let Some(copy) = &run.settings.copy else {
        return vec![line(
            subject,
            "snapshots are copied elsewhere",
            Answer::Note,
            "no: they are lost with their region; [datastores.NAME.copy] changes that",
        )];
    };
    let question = "the place of the copies can be reached";
    let tags = Tags::from([(tag::VAULT.to_owned(), run.vault.to_string())]);
    let answer = match run.rig.volumes.open(&copy.place).await {
        Ok(place) => place.tagged(&tags).await,
        Err(error) => Err(error),
    };
    vec![match answer {
        Ok(found) => line(subject, question, Answer::Good, format!("{}; {} snapshots of this vault are there", copy.place, found.len())),
        Err(error) => bad(subject, question, error.trouble(), error.to_string()),
    }]
}
