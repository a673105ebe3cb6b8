//! What S3 does with objects in an archive class and no emulator at hand does: a retrieval takes
//! its time.
//!
//! | rule | page |
//! |---|---|
//! | GET of a frozen object: 403 InvalidObjectState | S3 API, GetObject |
//! | HEAD says `x-amz-restore: ongoing-request="true"`, later `"false"` with an expiry date | S3 API, HeadObject |
//! | POST ?restore: 202; 409 RestoreAlreadyInProgress on repeat, unless for a faster tier | S3 API, RestoreObject |
//! | Expedited: 503 GlacierExpeditedRetrievalNotAvailable where there is no capacity | S3 API, RestoreObject |

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

#[derive(Default)]
pub struct Glacier {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How long a retrieval takes; none: nothing is cold.
    takes: Option<Duration>,
    no_capacity: bool,
    asked: HashMap<String, (Instant, String)>,
    answers: Vec<(String, u16)>,
}

fn error(status: u16, code: &str) -> (u16, String) {
    (
        status,
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>the front says {code}</Message></Error>"
        ),
    )
}

impl Glacier {
    /// From now on every object of class GLACIER is frozen, and thaws so long.
    pub fn freeze(&self, takes: Duration, no_capacity: bool) {
        *self.state.lock().unwrap() = State { takes: Some(takes), no_capacity, ..State::default() };
    }

    /// Retrievals that were asked for and how they were answered: tier and status.
    pub fn answers(&self) -> Vec<(String, u16)> {
        self.state.lock().unwrap().answers.clone()
    }

    fn ready(&self, path: &str) -> Option<bool> {
        let state = self.state.lock().unwrap();
        let takes = state.takes?;
        Some(state.asked.get(path).is_some_and(|(since, _)| since.elapsed() >= takes))
    }

    /// An answer in the store's place, if it would not pass the request.
    pub fn before(&self, method: &str, uri: &hyper::Uri, body: &[u8]) -> Option<(u16, String)> {
        let mut state = self.state.lock().unwrap();
        state.takes?;
        if method != "POST"
            || !uri
                .query()
                .is_some_and(|query| query.split('&').any(|word| word.starts_with("restore")))
        {
            return None;
        }
        let body = String::from_utf8_lossy(body);
        let tier = ["Expedited", "Standard", "Bulk"]
            .into_iter()
            .find(|tier| body.contains(&format!("<Tier>{tier}</Tier>")))
            .unwrap();
        let answer = match state.asked.get(uri.path()) {
            _ if tier == "Expedited" && state.no_capacity => {
                Some(error(503, "GlacierExpeditedRetrievalNotAvailable"))
            }
            Some((_, before)) if before == tier || tier == "Bulk" => {
                Some(error(409, "RestoreAlreadyInProgress"))
            }
            _ => {
                state.asked.insert(uri.path().to_owned(), (Instant::now(), tier.to_owned()));
                None
            }
        };
        state.answers.push((tier.to_owned(), answer.as_ref().map_or(202, |(status, _)| *status)));
        answer
    }

    /// Changes what the store answered, or refuses in its place.
    pub fn after(
        &self,
        method: &str,
        path: &str,
        head: &mut hyper::http::response::Parts,
    ) -> Option<(u16, String)> {
        let ready = self.ready(path)?;
        let cold = head.headers.get("x-amz-storage-class").is_some_and(|class| class == "GLACIER");
        if !cold || (method != "HEAD" && method != "GET") {
            return None;
        }
        let asked = self.state.lock().unwrap().asked.contains_key(path);
        head.headers.remove("x-amz-restore");
        if method == "GET" && !ready {
            return Some(error(403, "InvalidObjectState"));
        }
        let text = match (asked, ready) {
            (false, _) => return None,
            (true, false) => "ongoing-request=\"true\"".to_owned(),
            (true, true) => {
                let until = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(48);
                let date = until.strftime("%a, %d %b %Y 00:00:00 GMT");
                format!("ongoing-request=\"false\", expiry-date=\"{date}\"")
            }
        };
        head.headers.insert("x-amz-restore", text.parse().unwrap());
        None
    }
}
