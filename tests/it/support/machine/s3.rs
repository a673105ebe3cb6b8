//! The S3 gateway endpoint of a VPC: what its policy does not allow does not pass.
//!
//! | rule | AWS page |
//! |---|---|
//! | which permissions a request needs | S3 user guide, Required permissions for Amazon S3 API operations |
//! | without ListBucket, what is missing is forbidden | S3 API, GetObject, Permissions |
//! | chunks, with signatures or checksums behind them | S3 API, Signature calculations: transferring payload in multiple chunks |
//! | buckets in the path or in the host name | S3 user guide, Virtual hosting of general purpose buckets |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::body::{Bytes, Incoming};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Request, Response};
use serde_json::Value;

use super::policy::{Ask, allows};
use super::site::{ACCOUNT, Site, Unsigned};
use super::wire::{Answered, answer, closed, collected, decoded, forward, header, through, whole};

/// What is asked of which object.
struct Asked {
    method: String,
    bucket: String,
    key: String,
    query: BTreeMap<String, String>,
}

impl Asked {
    fn read(head: &Parts) -> Self {
        let host = header(&head.headers, "host");
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        let path = head.uri.path().trim_start_matches('/');
        let (bucket, key) = match host
            .split_once(".s3")
            .or_else(|| host.strip_suffix(".localhost").map(|bucket| (bucket, "")))
        {
            Some((bucket, _)) => (bucket, path),
            None => path.split_once('/').unwrap_or((path, "")),
        };
        let pairs = head.uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let query =
            pairs.map(|(name, value)| (decoded(name, true), decoded(value, true))).collect();
        Self {
            method: head.method.to_string(),
            bucket: decoded(bucket, false),
            key: decoded(key, false),
            query,
        }
    }

    fn has(&self, name: &str) -> bool {
        self.query.contains_key(name)
    }

    fn arn(&self) -> String {
        let slash = if self.key.is_empty() { "" } else { "/" };
        format!("arn:aws:s3:::{}{slash}{}", self.bucket, self.key)
    }

    /// Whether it is an object for an inbox, whole.
    fn is_letter(&self) -> bool {
        self.method == "PUT"
            && self.key.contains("/inbox/")
            && self.query.keys().all(|name| name == "x-id")
    }

    /// The permissions it needs, each with its resource; none for what is not modelled.
    fn needs(&self, headers: &HeaderMap) -> Option<Vec<(String, String)>> {
        let reads = matches!(self.method.as_str(), "GET" | "HEAD");
        if self.bucket.is_empty() {
            return reads.then(|| vec![("s3:ListAllMyBuckets".to_owned(), "*".to_owned())]);
        }
        let names: Vec<String> =
            if self.key.is_empty() { self.of_bucket(reads)? } else { self.of_object(headers)? };
        let mut needs: Vec<(String, String)> =
            names.into_iter().map(|name| (format!("s3:{name}"), self.arn())).collect();
        let source = header(headers, "x-amz-copy-source").trim_start_matches('/');
        if !source.is_empty() {
            let source = source.split_once('?').map_or(source, |(source, _)| source);
            needs.push((
                "s3:GetObject".to_owned(),
                format!("arn:aws:s3:::{}", decoded(source, false)),
            ));
        }
        Some(needs)
    }

    fn of_bucket(&self, reads: bool) -> Option<Vec<String>> {
        const READ: [(&str, &str); 11] = [
            ("location", "GetBucketLocation"),
            ("versions", "ListBucketVersions"),
            ("uploads", "ListBucketMultipartUploads"),
            ("versioning", "GetBucketVersioning"),
            ("object-lock", "GetBucketObjectLockConfiguration"),
            ("lifecycle", "GetLifecycleConfiguration"),
            ("encryption", "GetEncryptionConfiguration"),
            ("policy", "GetBucketPolicy"),
            ("acl", "GetBucketAcl"),
            ("tagging", "GetBucketTagging"),
            ("publicAccessBlock", "GetBucketPublicAccessBlock"),
        ];
        let plain = |name: &String| {
            matches!(
                name.as_str(),
                "x-id" | "list-type" | "prefix" | "delimiter" | "max-keys" | "encoding-type"
            )
        };
        let plain = |name: &String| {
            plain(name)
                || matches!(
                    name.as_str(),
                    "continuation-token" | "start-after" | "marker" | "fetch-owner"
                )
        };
        match READ.iter().find(|(sub, _)| self.has(sub)) {
            Some((_, name)) if reads => Some(vec![(*name).to_owned()]),
            None if reads && self.query.keys().all(plain) => Some(vec!["ListBucket".to_owned()]),
            None if self.method == "PUT" && self.query.is_empty() => {
                Some(vec!["CreateBucket".to_owned()])
            }
            None if self.method == "DELETE" && self.query.is_empty() => {
                Some(vec!["DeleteBucket".to_owned()])
            }
            _ => None,
        }
    }

    fn of_object(&self, headers: &HeaderMap) -> Option<Vec<String>> {
        let version = if self.has("versionId") { "Version" } else { "" };
        let sub = |pairs: &[(&str, &str)]| {
            pairs.iter().find(|(sub, _)| self.has(sub)).map(|(_, name)| (*name).to_owned())
        };
        let one = |name: String| Some(vec![name]);
        match self.method.as_str() {
            "GET" | "HEAD" if self.has("attributes") => {
                Some(vec![format!("GetObject{version}"), format!("GetObject{version}Attributes")])
            }
            "GET" | "HEAD" => {
                let versioned = sub(&[("acl", "Acl"), ("tagging", "Tagging")])
                    .map(|what| format!("GetObject{version}{what}"));
                let fixed =
                    [("retention", "GetObjectRetention"), ("legal-hold", "GetObjectLegalHold")];
                let fixed =
                    sub(&fixed).or_else(|| sub(&[("uploadId", "ListMultipartUploadParts")]));
                one(versioned.or(fixed).unwrap_or_else(|| format!("GetObject{version}")))
            }
            "PUT" => {
                let versioned = sub(&[("acl", "Acl"), ("tagging", "Tagging")])
                    .map(|what| format!("PutObject{version}{what}"));
                if let Some(name) =
                    versioned.or_else(|| sub(&[("legal-hold", "PutObjectLegalHold")]))
                {
                    return one(name);
                }
                let mut names =
                    vec![if self.has("retention") { "PutObjectRetention" } else { "PutObject" }];
                for (header, name) in [
                    ("x-amz-bypass-governance-retention", "BypassGovernanceRetention"),
                    ("x-amz-tagging", "PutObjectTagging"),
                    ("x-amz-acl", "PutObjectAcl"),
                    ("x-amz-object-lock-mode", "PutObjectRetention"),
                    ("x-amz-object-lock-legal-hold", "PutObjectLegalHold"),
                ] {
                    if headers.contains_key(header) {
                        names.push(name);
                    }
                }
                Some(names.into_iter().map(str::to_owned).collect())
            }
            "POST" => one(sub(&[
                ("uploads", "PutObject"),
                ("uploadId", "PutObject"),
                ("restore", "RestoreObject"),
                ("select", "GetObject"),
            ])?),
            "DELETE" => {
                let found = sub(&[("uploadId", "AbortMultipartUpload")]);
                let tagging = sub(&[("tagging", "Tagging")])
                    .map(|what| format!("DeleteObject{version}{what}"));
                let mut names =
                    vec![found.or(tagging).unwrap_or_else(|| format!("DeleteObject{version}"))];
                if headers.contains_key("x-amz-bypass-governance-retention") {
                    names.push("BypassGovernanceRetention".to_owned());
                }
                Some(names)
            }
            _ => None,
        }
    }

    /// What policies may ask about it: Service Authorization Reference, Condition keys for Amazon
    /// S3.
    fn context(&self, site: &Site, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut context = site.context();
        context.insert("s3:resourceaccount".to_owned(), vec![ACCOUNT.to_owned()]);
        // An empty prefix is one, and so is a missing one.
        let listing = self.key.is_empty() && self.has("list-type");
        for (name, key) in [
            ("prefix", "s3:prefix"),
            ("delimiter", "s3:delimiter"),
            ("max-keys", "s3:max-keys"),
            ("versionId", "s3:versionid"),
        ] {
            let missing = (listing && name == "prefix").then(String::new);
            if let Some(value) = self.query.get(name).cloned().or(missing) {
                context.insert(key.to_owned(), vec![value]);
            }
        }
        for (name, key) in [
            ("if-none-match", "s3:if-none-match"),
            ("x-amz-acl", "s3:x-amz-acl"),
            ("x-amz-storage-class", "s3:x-amz-storage-class"),
            ("x-amz-server-side-encryption", "s3:x-amz-server-side-encryption"),
            (
                "x-amz-server-side-encryption-aws-kms-key-id",
                "s3:x-amz-server-side-encryption-aws-kms-key-id",
            ),
            ("x-amz-object-lock-mode", "s3:object-lock-mode"),
        ] {
            if headers.contains_key(name) {
                context.insert(key.to_owned(), vec![header(headers, name).to_owned()]);
            }
        }
        context
    }
}

fn denied(code: &str, message: &str) -> Answered {
    answer(
        403,
        "application/xml",
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        ),
    )
}

/// Whether one of the endpoints lets all of it through; if not, what it does not.
fn passes<'a>(
    site: &Site,
    policies: &[Value],
    needs: &'a [(String, String)],
    context: &BTreeMap<String, Vec<String>>,
) -> Result<(), &'a (String, String)> {
    let allowed = |policy: &Value, (action, resource): &(String, String)| {
        let ask = Ask {
            action,
            resource,
            principal: &site.role,
            account: ACCOUNT,
            gateway: true,
            context,
        };
        let mut complaints = Vec::new();
        let allowed = allows(policy, &ask, &mut complaints);
        for complaint in complaints {
            site.shared.complain("the S3 endpoint's policy", &complaint);
        }
        allowed
    };
    let mut missing = needs.first();
    for policy in policies {
        missing = needs.iter().find(|need| !allowed(policy, need));
        if missing.is_none() {
            return Ok(());
        }
    }
    missing.map_or(Ok(()), Err)
}

pub async fn respond(site: Arc<Site>, request: Request<Incoming>) -> Answered {
    site.unless_frozen().await;
    let (mut head, body) = request.into_parts();
    let asked = Asked::read(&head);
    let body = collected(body).await?;
    let Some(needs) = asked.needs(&head.headers) else {
        site.shared.complain(
            &site.instance,
            &format!("{} {} is not modelled, and refused", head.method, head.uri),
        );
        site.note("s3", "s3:?", &asked.arn(), Some("not modelled"));
        return denied("AccessDenied", "Access Denied");
    };
    let note = |why: Option<&str>, (action, resource): &(String, String)| {
        site.note("s3", action, resource, why)
    };
    match site.signed(&head.headers) {
        Ok(()) => {}
        Err(Unsigned::Stranger(why)) => {
            note(Some(&why), &needs[0]);
            return denied("AccessDenied", "Access Denied");
        }
        Err(Unsigned::Elsewhere(why)) => {
            note(Some(&why), &needs[0]);
            return closed();
        }
    }
    let policies = site.policies("s3").await;
    if policies.is_empty() {
        note(Some("the VPC has no S3 endpoint"), &needs[0]);
        return closed();
    }
    let context = asked.context(&site, &head.headers);
    if let Err(missing) = passes(&site, &policies, &needs, &context) {
        note(Some("the endpoint's policy does not allow it"), missing);
        return denied("AccessDenied", "Access Denied");
    }
    needs.iter().for_each(|need| note(None, need));

    let settings = site.shared.settings();
    let mut body = body;
    if asked.is_letter() {
        let limit = settings.freeze_after.unwrap_or(usize::MAX);
        if site.letters.load(Ordering::SeqCst) >= limit {
            site.freeze();
            site.unless_frozen().await;
        }
        let sent = if is_chunked(&head.headers) { unchunked(&body) } else { body.clone() };
        site.shared.letters.lock().unwrap().push((asked.key.clone(), sent.clone()));
        match settings.tamper.as_ref().map(|tamper| tamper(&asked.key, sent.clone())) {
            None => {}
            Some(Some(same)) if same == sent => {}
            Some(Some(other)) => body = replaced(&mut head, other),
            Some(None) => {
                site.letters.fetch_add(1, Ordering::SeqCst);
                return Ok(Response::builder()
                    .header("etag", "\"00000000000000000000000000000000\"")
                    .body(whole(""))
                    .unwrap());
            }
        }
    }
    as_the_account(&mut head);
    let corrupt = settings.corrupt_agent && asked.method == "GET" && asked.key.contains("agent/");
    let begins = matches!(header(&head.headers, "range"), range if range.is_empty() || range.starts_with("bytes=0-"));
    let response = forward(site.shared.emulator, head, body).await?;
    if response.status() == 404 && !asked.key.is_empty() && asked.method != "PUT" {
        let listing = [("s3:ListBucket".to_owned(), format!("arn:aws:s3:::{}", asked.bucket))];
        if passes(&site, &policies, &listing, &site.context()).is_err() {
            return denied("AccessDenied", "Access Denied");
        }
    }
    if asked.is_letter() && response.status().is_success() {
        let count = site.letters.fetch_add(1, Ordering::SeqCst) + 1;
        if settings.freeze_after.is_some_and(|limit| count >= limit) {
            site.freeze();
        }
    }
    if corrupt && begins && response.status().is_success() {
        return corrupted(response).await;
    }
    through(response)
}

/// The emulator's account is that of everything; how somebody comes to be in it is no matter there.
pub fn as_the_account(head: &mut Parts) {
    let (before, rest) =
        header(&head.headers, "authorization").split_once("Credential=").unwrap_or_default();
    let scope = rest.split_once('/').map_or("", |(_, scope)| scope);
    let changed = format!("{before}Credential=test/{scope}").parse().unwrap();
    head.headers.insert("authorization", changed);
    head.headers.remove("x-amz-security-token");
}

async fn corrupted(response: Response<Incoming>) -> Answered {
    let (mut head, body) = response.into_parts();
    let mut bytes = collected(body).await?.to_vec();
    if let Some(byte) = bytes.last_mut() {
        *byte ^= 1;
    }
    let names: Vec<_> = head
        .headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-amz-checksum"))
        .cloned()
        .collect();
    names.into_iter().for_each(|name| drop(head.headers.remove(name)));
    Ok(Response::from_parts(head, whole(bytes)))
}

/// Another body, whole, with nothing that speaks of the one that was sent.
fn replaced(head: &mut Parts, body: Bytes) -> Bytes {
    let speaks = |name: &str| {
        name.starts_with("x-amz-checksum")
            || ["x-amz-trailer", "content-md5", "x-amz-decoded-content-length", "content-encoding"]
                .contains(&name)
    };
    let names: Vec<_> = head.headers.keys().filter(|name| speaks(name.as_str())).cloned().collect();
    names.into_iter().for_each(|name| drop(head.headers.remove(name)));
    for name in ["x-amz-sdk-checksum-algorithm", "transfer-encoding"] {
        head.headers.remove(name);
    }
    head.headers.insert("x-amz-content-sha256", "UNSIGNED-PAYLOAD".parse().unwrap());
    head.headers.insert("content-length", body.len().into());
    body
}

fn is_chunked(headers: &HeaderMap) -> bool {
    header(headers, "content-encoding").contains("aws-chunked")
        || header(headers, "x-amz-content-sha256").starts_with("STREAMING-")
}

/// `SIZE[;chunk-signature=…]\r\n…\r\n`, until a size of 0; behind that are checksums.
fn unchunked(body: &[u8]) -> Bytes {
    let (mut left, mut out) = (body, Vec::new());
    while let Some(at) = left.windows(2).position(|pair| pair == b"\r\n") {
        let line = String::from_utf8_lossy(&left[..at]).into_owned();
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
            .unwrap_or(0);
        let Some(chunk) = left.get(at + 2..at + 2 + size).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        out.extend_from_slice(chunk);
        left = left.get(at + 4 + size..).unwrap_or_default();
    }
    out.into()
}

#[test]
fn chunks() {
    let sent =
        b"5;chunk-signature=ab\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAA\r\n\r\n";
    assert_eq!(unchunked(sent), Bytes::from_static(b"hello world"));
}

#[test]
fn requests_and_their_permissions() {
    let needs = |method: &str, host: &str, uri: &str, headers: &[(&str, &str)]| {
        let mut request = Request::builder().method(method).uri(uri).header("host", host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let needs = Asked::read(&head).needs(&head.headers)?;
        Some(
            needs
                .iter()
                .map(|(action, resource)| format!("{action} {resource}"))
                .collect::<Vec<_>>()
                .join(", "),
        )
    };
    let path = "127.0.0.1:4501";
    for (method, host, uri, headers, wanted) in [
        ("GET", path, "/b/a%2Bb/c?x-id=GetObject", &[][..], "s3:GetObject arn:aws:s3:::b/a+b/c"),
        (
            "GET",
            "b.s3.eu-west-1.amazonaws.com",
            "/a?versionId=1",
            &[],
            "s3:GetObjectVersion arn:aws:s3:::b/a",
        ),
        ("GET", path, "/b/?list-type=2&prefix=m%2F", &[], "s3:ListBucket arn:aws:s3:::b"),
        ("HEAD", path, "/b/k", &[], "s3:GetObject arn:aws:s3:::b/k"),
        ("PUT", path, "/b/k?partNumber=1&uploadId=u", &[], "s3:PutObject arn:aws:s3:::b/k"),
        (
            "PUT",
            path,
            "/b/k",
            &[("x-amz-copy-source", "/o/k")],
            "s3:PutObject arn:aws:s3:::b/k, s3:GetObject arn:aws:s3:::o/k",
        ),
        ("PUT", path, "/b/k?retention", &[], "s3:PutObjectRetention arn:aws:s3:::b/k"),
        ("GET", path, "/b/k?retention", &[], "s3:GetObjectRetention arn:aws:s3:::b/k"),
        ("DELETE", path, "/b/k", &[], "s3:DeleteObject arn:aws:s3:::b/k"),
        ("GET", path, "/", &[], "s3:ListAllMyBuckets *"),
    ] {
        assert_eq!(needs(method, host, uri, headers).as_deref(), Some(wanted), "{method} {uri}");
    }
    assert_eq!(needs("POST", path, "/b/?delete", &[]), None);
}
