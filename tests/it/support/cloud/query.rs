//! What is asked: an action of the EC2 query protocol or of the EBS direct APIs, and its
//! parameters.

use std::collections::BTreeMap;

use hyper::http::request::Parts;

/// A request, read.
#[derive(Debug, Clone)]
pub struct Query {
    /// From the credential scope of the signature:
    /// `Credential=KEY/DATE/REGION/SERVICE/aws4_request`. <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-signing-elements.html>
    pub key: String,
    pub region: String,
    pub service: String,
    pub action: String,
    pub params: BTreeMap<String, String>,
}

impl Query {
    pub fn read(head: &Parts, body: &[u8]) -> Self {
        let signature = head
            .headers
            .get("authorization")
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let scope = signature
            .split_once("Credential=")
            .map_or("", |(_, rest)| rest.split(',').next().unwrap_or_default());
        let scope: Vec<&str> = scope.split('/').collect();
        let part = |at: usize| scope.get(at).copied().unwrap_or_default().to_owned();
        let (key, region, service) = (part(0), part(2), part(3));
        let mut params = form(head.uri.query().unwrap_or_default());
        let action = if service == "ebs" {
            block_action(head, &mut params)
        } else if let Some(target) =
            head.headers.get("x-amz-target").and_then(|value| value.to_str().ok())
        {
            if let Ok(body) = serde_json::from_slice(body) {
                flatten("", &body, &mut params);
            }
            target.rsplit('.').next().unwrap_or_default().to_owned()
        } else {
            params.extend(form(&String::from_utf8_lossy(body)));
            params.remove("Version");
            params.remove("Action").unwrap_or_default()
        };
        Self { key, region, service, action, params }
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.params.get(name).map(String::as_str)
    }

    pub fn is(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    /// `Name.1`, `Name.2` …, in this order.
    pub fn list(&self, name: &str) -> Vec<String> {
        (1..).map_while(|n| self.params.get(&format!("{name}.{n}")).cloned()).collect()
    }

    /// `Filter.1.Name` with `Filter.1.Value.1`, …
    pub fn filters(&self) -> Vec<(String, Vec<String>)> {
        (1..)
            .map_while(|n| {
                Some((
                    self.params.get(&format!("Filter.{n}.Name"))?.clone(),
                    self.list(&format!("Filter.{n}.Value")),
                ))
            })
            .collect()
    }

    /// The parameters that begin with one of these words, to be handed on.
    pub fn those(&self, prefixes: &[&str]) -> Vec<(String, String)> {
        let wanted = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix));
        self.params
            .iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// All parameters, to be handed on, but what moto has no use for.
    pub fn sent(&self) -> Vec<(String, String)> {
        let useless = |name: &str| ["ClientToken", "DryRun"].contains(&name);
        self.params
            .iter()
            .filter(|(name, _)| !useless(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    }

    /// The same call of EC2, for another action.
    pub fn asking(&self, action: &str) -> Self {
        let [service, action] = ["ec2", action].map(str::to_owned);
        Self { service, action, params: BTreeMap::new(), ..self.clone() }
    }

    /// Tags for a kind of resource: `TagSpecification.1.ResourceType`,
    /// `TagSpecification.1.Tag.1.Key`, …
    pub fn tags(&self, kind: &str) -> BTreeMap<String, String> {
        let specifications = (1..).map_while(|n| {
            self.params.get(&format!("TagSpecification.{n}.ResourceType")).map(|kind| (n, kind))
        });
        let mut tags = BTreeMap::new();
        for (n, _) in specifications.filter(|(_, found)| *found == kind) {
            for m in 1.. {
                let Some(name) = self.params.get(&format!("TagSpecification.{n}.Tag.{m}.Key"))
                else {
                    break;
                };
                let value = self
                    .params
                    .get(&format!("TagSpecification.{n}.Tag.{m}.Value"))
                    .cloned()
                    .unwrap_or_default();
                tags.insert(name.clone(), value);
            }
        }
        tags
    }
}

/// Tags as parameters of a call.
pub fn tag_params<'a>(
    kind: &str,
    tags: impl IntoIterator<Item = (&'a String, &'a String)>,
) -> Vec<(String, String)> {
    let mut params = Vec::new();
    for (n, (name, value)) in tags.into_iter().enumerate() {
        params.push((format!("TagSpecification.1.Tag.{}.Key", n + 1), name.clone()));
        params.push((format!("TagSpecification.1.Tag.{}.Value", n + 1), value.clone()));
    }
    if !params.is_empty() {
        params.push(("TagSpecification.1.ResourceType".to_owned(), kind.to_owned()));
    }
    params
}

/// The path of an EBS direct call as parameters of an action.
fn block_action(head: &Parts, params: &mut BTreeMap<String, String>) -> String {
    let path: Vec<String> = head.uri.path().split('/').skip(1).map(decoded).collect();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let (action, found) = match (head.method.as_str(), path.as_slice()) {
        ("GET", ["snapshots", id, "blocks"]) => ("ListSnapshotBlocks", vec![("snapshotId", *id)]),
        ("GET", ["snapshots", id, "changedblocks"]) => {
            ("ListChangedBlocks", vec![("secondSnapshotId", *id)])
        }
        ("GET", ["snapshots", id, "blocks", index]) => {
            ("GetSnapshotBlock", vec![("snapshotId", *id), ("blockIndex", *index)])
        }
        _ => ("", vec![]),
    };
    params.extend(found.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
    action.to_owned()
}

/// JSON as the parameters that the query protocol would have: `Tags.1.Key`.
fn flatten(name: &str, value: &serde_json::Value, params: &mut BTreeMap<String, String>) {
    let below =
        |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        serde_json::Value::Object(fields) => {
            fields.iter().for_each(|(part, value)| flatten(&below(part), value, params))
        }
        serde_json::Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(n, value)| flatten(&below(&(n + 1).to_string()), value, params));
        }
        serde_json::Value::String(text) => drop(params.insert(name.to_owned(), text.clone())),
        serde_json::Value::Null => {}
        other => drop(params.insert(name.to_owned(), other.to_string())),
    }
}

/// `application/x-www-form-urlencoded`, read.
fn form(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// The same, written.
pub fn written(params: &[(String, String)]) -> String {
    params
        .iter()
        .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
        .collect::<Vec<_>>()
        .join("&")
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn decoded(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let hex = |range| text.get(range).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[at], hex(at + 1..at + 3)) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}
