//! Interpreting a store's errors: permanent, a matter of credentials, or a transfer that did not
//! arrive.

use super::S3Vault;
use crate::aws::AwsError;
use crate::vault::VaultError;

impl S3Vault {
    pub(super) fn explain(&self, what: &str, answer: AwsError) -> VaultError {
        explain(&self.config.bucket, what, answer)
    }
}

fn explain(bucket: &str, what: &str, answer: AwsError) -> VaultError {
    let (what, why) = (what.to_owned(), answer.message.clone());
    let says = |word: &str| why.to_ascii_lowercase().contains(word);
    // AWS, and MinIO with a key server, with one that refuses, and with none.
    let about_key = answer.code.starts_with("KMS.")
        || answer.code.starts_with("kms:")
        || (matches!(answer.code.as_str(), "AccessDenied" | "NotImplemented")
            && (says("kms:") || says("kms is not configured")));
    match answer.code.as_str() {
        _ if answer.is_setup => VaultError::Unusable(format!("{what}: {why}")),
        // Garage has no code of its own for it.
        code if code == "RequestTimeTooSkewed"
            || code == "InvalidRequest" && says("date is too old") =>
        {
            VaultError::Unusable(format!(
                "the clock of this host is off, so the store refuses {what} ({why}); set it right"
            ))
        }
        _ if about_key => VaultError::KeyRefused { what, why },
        "NoSuchBucket" => VaultError::Unusable(format!("there is no bucket {}", bucket)),
        "NoSuchKey" | "NotFound" | "NoSuchUpload" => VaultError::Missing { key: what },
        "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "InvalidDigest"
        | "XAmzContentChecksumMismatch" => VaultError::Tally { what, why },
        "QuotaExceeded" | "XMinioAdminBucketQuotaExceeded" => {
            VaultError::Unavailable { what, why: format!("it is full: {why}") }
        }
        "AccessDenied" if says("quota is reached") => {
            VaultError::Unavailable { what, why: format!("it is full: {why}") }
        }
        "NotImplemented" => {
            VaultError::Unusable(format!("the store cannot do what is asked of it, {what}: {why}"))
        }
        _ if answer.is_passing() => VaultError::Unavailable { what, why },
        _ => VaultError::Refused { what, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ErrorClass;

    /// What stores answer, from their own sources: AWS' error documentation, Ceph's
    /// `rgw_http_s3_errors`, MinIO's `api-errors.go`, Garage's `error.rs`; and what is made of
    /// it. Nothing of it is "integrity broken" but what is, and nothing that stays is "try again".
    #[test]
    fn every_stores_words_have_their_meaning() {
        use ErrorClass::{Integrity, KeyRefused, Unavailable, Usage};
        let rows: [(&str, u16, &str, &str, ErrorClass); 44] = [
            (
                "AWS",
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match",
                Usage,
            ),
            (
                "AWS",
                403,
                "InvalidAccessKeyId",
                "The access key ID you provided does not exist in our records.",
                Usage,
            ),
            (
                "AWS",
                403,
                "RequestTimeTooSkewed",
                "The difference between the request time and the server's time is too large.",
                Usage,
            ),
            ("AWS", 403, "AccessDenied", "Access Denied", Usage),
            (
                "AWS",
                403,
                "AccessDenied",
                "User is not authorized to perform: kms:GenerateDataKey",
                KeyRefused,
            ),
            (
                "AWS",
                400,
                "AuthorizationHeaderMalformed",
                "the region 'us-east-1' is wrong; expecting 'us-east-2'",
                Usage,
            ),
            (
                "AWS",
                301,
                "PermanentRedirect",
                "The bucket must be addressed using the specified endpoint.",
                Usage,
            ),
            ("AWS", 404, "NoSuchBucket", "The specified bucket does not exist.", Usage),
            ("AWS", 409, "ConditionalRequestConflict", "", Unavailable),
            (
                "AWS",
                409,
                "OperationAborted",
                "A conflicting conditional action is currently in progress.",
                Unavailable,
            ),
            ("AWS", 503, "SlowDown", "Reduce your request rate.", Unavailable),
            ("AWS", 500, "InternalError", "We encountered an internal error.", Unavailable),
            (
                "AWS",
                400,
                "RequestTimeout",
                "Your socket connection was not read from.",
                Unavailable,
            ),
            (
                "AWS",
                400,
                "BadDigest",
                "The SHA256 you specified did not match the calculated checksum.",
                Integrity,
            ),
            (
                "AWS",
                400,
                "XAmzContentSHA256Mismatch",
                "The provided 'x-amz-content-sha256' header does not match.",
                Integrity,
            ),
            ("AWS", 400, "KMS.NotFoundException", "Invalid keyId", KeyRefused),
            ("AWS", 400, "KMS.DisabledException", "the key is disabled", KeyRefused),
            ("AWS", 400, "ExpiredToken", "The provided token has expired.", Unavailable),
            (
                "AWS",
                400,
                "InvalidStorageClass",
                "The storage class you specified is not valid.",
                Usage,
            ),
            (
                "AWS",
                501,
                "NotImplemented",
                "A header you provided implies functionality that is not implemented.",
                Usage,
            ),
            (
                "AWS",
                403,
                "AllAccessDisabled",
                "All access to this Amazon S3 resource has been disabled.",
                Usage,
            ),
            ("Ceph", 403, "SignatureDoesNotMatch", "", Usage),
            ("Ceph", 403, "QuotaExceeded", "", Unavailable),
            ("Ceph", 403, "UserSuspended", "", Usage),
            ("Ceph", 503, "ServiceUnavailable", "", Unavailable),
            ("Ceph", 408, "RequestTimeout", "", Unavailable),
            ("Ceph", 501, "NotImplemented", "", Usage),
            ("Ceph", 500, "UnknownError", "", Unavailable),
            (
                "MinIO",
                403,
                "InvalidAccessKeyId",
                "Your account is disabled; please contact your administrator.",
                Usage,
            ),
            (
                "MinIO",
                507,
                "XMinioStorageFull",
                "Storage backend has reached its minimum free drive threshold.",
                Unavailable,
            ),
            ("MinIO", 400, "XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded", Unavailable),
            (
                "MinIO",
                503,
                "SlowDownWrite",
                "Resource requested is unwritable, please reduce your request rate",
                Unavailable,
            ),
            ("MinIO", 429, "TooManyRequests", "Please reduce your request rate", Unavailable),
            (
                "MinIO",
                503,
                "XMinioServerNotInitialized",
                "Server not initialized yet, please try again.",
                Unavailable,
            ),
            (
                "MinIO",
                400,
                "XAmzContentChecksumMismatch",
                "The provided 'x-amz-checksum' header does not match.",
                Integrity,
            ),
            (
                "MinIO",
                501,
                "NotImplemented",
                "Server side encryption specified but KMS is not configured",
                KeyRefused,
            ),
            ("MinIO", 404, "kms:KeyNotFound", "key with given key ID does not exist", KeyRefused),
            ("Garage", 403, "AccessDenied", "Forbidden: Invalid signature", Usage),
            (
                "Garage",
                403,
                "AccessDenied",
                "Forbidden: No such key: GK31c2f218a2e44f485b94239e",
                Usage,
            ),
            ("Garage", 400, "InvalidRequest", "Bad request: Date is too old", Usage),
            (
                "Garage",
                400,
                "AuthorizationHeaderMalformed",
                "Authorization header malformed, unexpected scope: us-east-1",
                Usage,
            ),
            (
                "Garage",
                403,
                "AccessDenied",
                "Forbidden: Bucket size quota is reached, maximum total size of objects",
                Unavailable,
            ),
            (
                "Garage",
                503,
                "ServiceUnavailable",
                "Internal error: Could not reach quorum of 2",
                Unavailable,
            ),
            (
                "Garage",
                400,
                "InvalidDigest",
                "Invalid digest: SHA256 checksum verification failed",
                Integrity,
            ),
        ];
        for (store, status, code, message, meaning) in rows {
            let answer = AwsError {
                status: Some(status),
                code: code.to_owned(),
                message: format!("{code}: {message}"),
                is_setup: false,
            };
            let error = explain("b", "storing x", answer);
            assert_eq!(error.class(), meaning, "{store} {status} {code} {message}: {error}");
            assert!(error.to_string().contains(message) || code == "NoSuchBucket", "{error}");
        }
        let skewed = AwsError {
            status: Some(400),
            code: "InvalidRequest".to_owned(),
            message: "Date is too old".to_owned(),
            is_setup: false,
        };
        assert!(
            explain("b", "listing", skewed).to_string().contains("the clock of this host is off")
        );
    }
}
