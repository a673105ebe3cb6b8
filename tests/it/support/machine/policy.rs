//! What a policy says of a request: a part of the IAM policy language, and no more than that part.
//! What is not understood never allows anything, and is told.
//!
//! | rule | AWS page |
//! |---|---|
//! | an explicit Deny wins; without an Allow nothing is allowed | IAM user guide, Policy evaluation logic |
//! | elements, wildcards `*` and `?` | IAM user guide, IAM JSON policy elements reference |
//! | operators, `IfExists`, `ForAnyValue`, `ForAllValues`; keys that a request does not have | IAM user guide, Condition operators; Multivalued context keys |
//! | no policy: full access; at most 20,480 characters; the principal of a gateway endpoint's is `*`; what wildcards may be in conditions | VPC user guide, Endpoint policies |

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// A request, as policies see it.
pub struct Ask<'a> {
    pub action: &'a str,
    pub resource: &'a str,
    /// ARN of the role.
    pub principal: &'a str,
    pub account: &'a str,
    /// Whether the policy is a gateway endpoint's.
    pub gateway: bool,
    /// By key in lower case. Keys of requests in general that this one does not have are simply
    /// missing.
    pub context: &'a BTreeMap<String, Vec<String>>,
}

/// Keys that are modelled: a request that does not have one of them does not have it on AWS either.
const KNOWN: [&str; 24] = [
    "aws:principalaccount",
    "aws:resourceaccount",
    "aws:principalarn",
    "aws:principaltype",
    "aws:userid",
    "aws:requestedregion",
    "aws:sourcevpc",
    "aws:ec2instancesourcevpc",
    "aws:ec2instancesourceprivateipv4",
    "aws:securetransport",
    "ec2:sourceinstancearn",
    "s3:prefix",
    "s3:delimiter",
    "s3:max-keys",
    "s3:versionid",
    "s3:resourceaccount",
    "s3:if-none-match",
    "s3:x-amz-acl",
    "s3:x-amz-storage-class",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:object-lock-mode",
    "kms:calleraccount",
    "kms:encryptioncontextkeys",
];
const SIZE_MAX: usize = 20_480;

/// Whether a policy allows a request. What it says that is not understood goes to `complaints`.
pub fn allows(policy: &Value, ask: &Ask, complaints: &mut Vec<String>) -> bool {
    let full = json!({ "Statement": { "Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*" } });
    let policy = if policy.is_null() { &full } else { policy };
    let size = policy.to_string().len();
    if size > SIZE_MAX {
        complaints.push(format!("a policy has {size} characters, of {SIZE_MAX} that are allowed"));
        return false;
    }
    let statements = listed(&policy["Statement"]);
    if statements.is_empty() {
        complaints.push(format!("a policy without statements: {policy}"));
    }
    let mut allowed = false;
    for statement in statements {
        complaints.extend(objections(statement));
        let deny = match statement["Effect"].as_str() {
            Some("Allow") => false,
            Some("Deny") => true,
            _ => {
                complaints.push(format!("neither Allow nor Deny: {statement}"));
                return false;
            }
        };
        match speaks_of(statement, ask) {
            Ok(true) if deny => return false,
            Ok(is) => allowed |= is,
            Err(why) => {
                complaints.push(format!("{why} in {statement}"));
                if deny {
                    return false;
                }
            }
        }
    }
    allowed
}

fn speaks_of(statement: &Value, ask: &Ask) -> Result<bool, String> {
    if let Some(other) = statement
        .as_object()
        .and_then(|all| all.keys().find(|name| !ELEMENTS.contains(&name.as_str())))
    {
        return Err(format!("element {other} is not modelled"));
    }
    let any = |name: &str, text: &str, fold: bool| {
        let texts = listed(&statement[name]).into_iter().filter_map(Value::as_str);
        let fold = |text: &str| if fold { text.to_lowercase() } else { text.to_owned() };
        texts.into_iter().any(|pattern| like(&fold(pattern), &fold(text)))
    };
    let either =
        |yes: &str, no: &str, text: &str, fold: bool| match (statement.get(yes), statement.get(no))
        {
            (Some(_), None) => Ok(any(yes, text, fold)),
            (None, Some(_)) => Ok(!any(no, text, fold)),
            _ => Err(format!("neither {yes} nor {no}, or both")),
        };
    if let Some(text) = [statement.get("Resource"), statement.get("NotResource")]
        .into_iter()
        .flatten()
        .find(|value| is_variable(value))
    {
        return Err(format!("policy variables are not modelled: {text}"));
    }
    Ok(principal(statement, ask)?
        && either("Action", "NotAction", ask.action, true)?
        && either("Resource", "NotResource", ask.resource, false)?
        && conditions(&statement["Condition"], ask.context)?)
}

const ELEMENTS: [&str; 8] =
    ["Sid", "Effect", "Principal", "Action", "NotAction", "Resource", "NotResource", "Condition"];

fn is_variable(value: &Value) -> bool {
    value.to_string().contains("${")
}

fn principal(statement: &Value, ask: &Ask) -> Result<bool, String> {
    let principal = &statement["Principal"];
    let names: Vec<&str> = match principal {
        Value::String(name) => vec![name],
        Value::Object(kinds) if kinds.len() == 1 && kinds.contains_key("AWS") => {
            listed(&principal["AWS"]).into_iter().filter_map(Value::as_str).collect()
        }
        _ => return Err("no Principal that is modelled".to_owned()),
    };
    if ask.gateway && names != ["*"] {
        return Err("the principal of a gateway endpoint's policy must be *".to_owned());
    }
    let root = format!("arn:aws:iam::{}:root", ask.account);
    Ok(names.iter().any(|name| ["*", ask.principal, ask.account, &root].contains(name)))
}

/// All of them hold.
fn conditions(conditions: &Value, context: &BTreeMap<String, Vec<String>>) -> Result<bool, String> {
    let none = serde_json::Map::new();
    for (operator, keys) in conditions.as_object().unwrap_or(&none) {
        for (key, wanted) in keys.as_object().unwrap_or(&none) {
            let key = key.to_lowercase();
            if !KNOWN.contains(&key.as_str()) && !key.starts_with("kms:encryptioncontext:") {
                return Err(format!("condition key {key} is not modelled"));
            }
            let wanted: Vec<String> = listed(wanted)
                .into_iter()
                .map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
                .collect();
            if wanted.iter().any(|text| text.contains("${")) {
                return Err("policy variables are not modelled".to_owned());
            }
            if !holds(operator, context.get(&key), &wanted)? {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn holds(operator: &str, had: Option<&Vec<String>>, wanted: &[String]) -> Result<bool, String> {
    let (set, name) =
        operator.split_once(':').map_or((None, operator), |(set, name)| (Some(set), name));
    let (name, if_exists) =
        name.strip_suffix("IfExists").map_or((name, false), |name| (name, true));
    if name == "Null" {
        return Ok(wanted.iter().any(|text| (text == "true") == had.is_none()));
    }
    let (compare, negated): (fn(&str, &str) -> bool, bool) = match name {
        "StringEquals" | "Bool" => (|pattern, text| pattern == text, false),
        "StringNotEquals" => (|pattern, text| pattern == text, true),
        "StringEqualsIgnoreCase" => (|pattern, text| pattern.eq_ignore_ascii_case(text), false),
        "StringNotEqualsIgnoreCase" => (|pattern, text| pattern.eq_ignore_ascii_case(text), true),
        "StringLike" | "ArnLike" | "ArnEquals" => (like, false),
        "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => (like, true),
        _ => return Err(format!("condition operator {operator} is not modelled")),
    };
    let Some(had) = had else {
        // A key that is not there: false, but of negated operators and of "all of none" true.
        return Ok(if_exists || negated || set == Some("ForAllValues"));
    };
    let one = |text: &String| wanted.iter().any(|pattern| compare(pattern, text)) != negated;
    match set {
        None if had.len() > 1 => Err(format!(
            "{operator} of a key with several values, without ForAnyValue or ForAllValues"
        )),
        None | Some("ForAnyValue") => Ok(had.iter().any(one)),
        Some("ForAllValues") => Ok(had.iter().all(one)),
        Some(_) => Err(format!("condition operator {operator} is not modelled")),
    }
}

/// What an endpoint's policy may not say in a condition, though it would mean something: wildcards
/// in what AWS itself names, or with less than six characters before and behind.
fn objections(statement: &Value) -> Vec<String> {
    let mut objections = Vec::new();
    let operators = statement["Condition"].as_object().into_iter().flatten();
    for (operator, keys) in operators.filter(|(name, _)| name.contains("Like")) {
        let keys = keys.as_object().into_iter().flatten();
        for (key, value) in keys.flat_map(|(key, values)| {
            listed(values).into_iter().filter_map(move |value| Some((key, value.as_str()?)))
        }) {
            let parts: Vec<usize> =
                value.split(['*', '?']).map(|part| part.chars().count()).collect();
            let generated = ["aws:principalaccount", "aws:resourceaccount", "aws:sourcevpc"]
                .contains(&key.to_lowercase().as_str());
            let bare = operator.contains("String")
                && parts.windows(2).any(|pair| pair.iter().all(|count| *count < 6));
            if parts.len() > 1 && (generated || bare) {
                objections.push(format!(
                    "an endpoint's policy may not have this wildcard: {operator} {key} {value}"
                ));
            }
        }
    }
    objections
}

fn listed(value: &Value) -> Vec<&Value> {
    match value {
        Value::Null => vec![],
        Value::Array(values) => values.iter().collect(),
        one => vec![one],
    }
}

/// `*` stands for any text, `?` for any one character.
fn like(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((from, upto)) = star else { return false };
                star = Some((from, upto + 1));
                p = from + 1;
                t = upto + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[test]
fn wildcards() {
    for (pattern, text, is) in [
        ("*", "", true),
        ("a*c", "abbc", true),
        ("a*c", "abbd", false),
        ("a?c", "ac", false),
        ("*/inbox/*", "b/runs/r/inbox/1", true),
        ("b/*", "c/x", false),
    ] {
        assert_eq!(like(pattern, text), is, "{pattern} {text}");
    }
}

#[test]
fn policies() {
    let context: BTreeMap<String, Vec<String>> = [
        ("aws:principalaccount", vec!["1"]),
        ("s3:prefix", vec!["manifests/db/"]),
        ("kms:encryptioncontext:run", vec!["r"]),
        ("kms:encryptioncontextkeys", vec!["run", "store"]),
    ]
    .map(|(name, values)| (name.to_owned(), values.into_iter().map(str::to_owned).collect()))
    .into();
    let ask = Ask {
        action: "s3:GetObject",
        resource: "arn:aws:s3:::b/k",
        principal: "arn:aws:iam::1:role/r",
        account: "1",
        gateway: true,
        context: &context,
    };
    let decide = |extra: Value| {
        let mut statement = json!({ "Effect": "Allow", "Principal": "*", "Action": "s3:Get*", "Resource": "arn:aws:s3:::b/*" });
        statement.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let mut complaints = Vec::new();
        (allows(&json!({ "Statement": [statement] }), &ask, &mut complaints), complaints.is_empty())
    };
    let condition = |operator: &str, key: &str, value: Value| {
        decide(json!({ "Condition": { operator: { key: value } } }))
    };
    assert_eq!(decide(json!({})), (true, true));
    assert_eq!(
        decide(json!({ "Principal": { "AWS": "*" }, "Action": ["s3:PutObject", "S3:getobject"] })),
        (true, true)
    );
    assert_eq!(decide(json!({ "Resource": "arn:aws:s3:::B/*" })), (false, true));
    assert_eq!(
        decide(json!({ "Principal": { "AWS": "arn:aws:iam::1:role/r" } })),
        (false, false),
        "of a gateway it must be *"
    );
    assert_eq!(decide(json!({ "Effect": "Deny" })), (false, true));
    assert_eq!(condition("StringEquals", "aws:PrincipalAccount", json!(["2", "1"])), (true, true));
    assert_eq!(condition("StringEquals", "aws:PrincipalAccount", json!("2")), (false, true));
    assert_eq!(condition("StringNotEquals", "aws:PrincipalAccount", json!("2")), (true, true));
    assert_eq!(condition("StringLike", "s3:prefix", json!("manifests/*")), (true, true));
    assert_eq!(
        condition("StringEquals", "s3:delimiter", json!("/")),
        (false, true),
        "a key that the request does not have"
    );
    assert_eq!(condition("StringEqualsIfExists", "s3:delimiter", json!("/")), (true, true));
    assert_eq!(condition("Null", "s3:delimiter", json!("true")), (true, true));
    assert_eq!(condition("StringEquals", "kms:EncryptionContext:run", json!("r")), (true, true));
    assert_eq!(
        condition(
            "ForAllValues:StringEquals",
            "kms:EncryptionContextKeys",
            json!(["run", "store"])
        ),
        (true, true)
    );
    assert_eq!(
        condition("ForAllValues:StringEquals", "kms:EncryptionContextKeys", json!(["run"])),
        (false, true)
    );
    assert_eq!(
        condition("ForAnyValue:StringEquals", "kms:EncryptionContextKeys", json!(["run"])),
        (true, true)
    );
    assert_eq!(
        condition("StringLike", "s3:prefix", json!("man*")),
        (true, false),
        "less than six characters"
    );
    assert_eq!(
        condition("StringLike", "aws:PrincipalAccount", json!("*")),
        (true, false),
        "generated by AWS"
    );
    assert_eq!(
        condition("StringEquals", "aws:PrincipalOrgID", json!("o")),
        (false, false),
        "not understood"
    );
    assert_eq!(
        condition("IpAddress", "aws:PrincipalAccount", json!("1")),
        (false, false),
        "not understood"
    );
    assert_eq!(decide(json!({ "NotAction": "x" })), (false, false), "both");
    let mut complaints = Vec::new();
    assert!(allows(&Value::Null, &ask, &mut complaints), "no policy is full access");
    let both = json!({ "Statement": [
        { "Effect": "Allow", "Principal": "*", "Action": "*", "Resource": "*" },
        { "Effect": "Deny", "Principal": "*", "NotAction": "s3:Put*", "Resource": "*" },
    ] });
    assert!(!allows(&both, &ask, &mut complaints), "Deny wins");
    assert!(complaints.is_empty());
}
