//! Copies from another region, or from another account that shares a snapshot.
//!
//! The request goes to the destination, and the source believes it by a signed URL within it. Other
//! SDKs and the CLI make that URL by themselves; this one does not. A wrong URL is no error of the
//! request: the copy just fails, later.

use std::time::{Duration, SystemTime};

use aws_sdk_ec2::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sdk_ec2::config::{Credentials, ProvideCredentials};
use aws_sdk_ec2::error::DisplayErrorContext;
use aws_sdk_ec2::types::ResourceType;
use aws_sigv4::http_request::{
    SignableBody, SignableRequest, SignatureLocation, SigningParams, SigningSettings, sign,
};
use aws_sigv4::sign::v4;

use super::{EbsVolumes, once, tagged_as};
use crate::domain::volumes::{OWN_DESCRIPTION, SnapshotId};
use crate::volumes::{ResourceTags, VolumesError};

/// How long the source believes the URL. The copy is begun within seconds.
const SIGNED_FOR: Duration = Duration::from_secs(3600);

/// What the URL says.
struct CopyRequest<'a> {
    /// Address of EC2 in the source's region, without a path.
    endpoint: &'a str,
    source: &'a str,
    destination: &'a str,
    snapshot: &'a SnapshotId,
}

impl EbsVolumes {
    pub(super) async fn copy_from(
        &self,
        source: &str,
        id: &SnapshotId,
        key: &str,
        tags: &ResourceTags,
    ) -> Result<SnapshotId, VolumesError> {
        let what = format!("copying {id}");
        let url = self.signed(&what, source, id).await?;
        let request = self
            .ec2
            .copy_snapshot()
            .source_region(source)
            .source_snapshot_id(id.as_str())
            .destination_region(&self.region)
            .presigned_url(url)
            .encrypted(true)
            .kms_key_id(key)
            .description(format!("{OWN_DESCRIPTION}copy of {id} in {source}"))
            .tag_specifications(tagged_as(ResourceType::Snapshot, tags));
        let sent = request.customize().config_override(once()).send().await;
        let reply = sent.map_err(|error| self.explain_once(&what, &error))?;
        self.snapshot_id(&what, reply.snapshot_id())
    }

    /// The URL by which the source believes that we may copy. Nothing is sent but what it may take
    /// to get credentials.
    async fn signed(
        &self,
        what: &str,
        source: &str,
        id: &SnapshotId,
    ) -> Result<String, VolumesError> {
        let unsigned = |why: String| {
            self.refused(what, format!("the request to {source} cannot be signed: {why}"))
        };
        let provider = self
            .credentials
            .as_ref()
            .ok_or_else(|| unsigned("there are no credentials".to_owned()))?;
        let credentials =
            provider.provide_credentials().await.map_err(|error| VolumesError::Unavailable {
                what: what.to_owned(),
                place: self.place.to_string(),
                why: DisplayErrorContext(&error).to_string(),
            })?;
        // The real address even where AWS_ENDPOINT_URL_EC2 says otherwise: it is AWS that reads it.
        let region = Params::builder().region(source).use_dual_stack(false).use_fips(false);
        let region = region.build().map_err(|error| unsigned(error.to_string()))?;
        let resolver = DefaultResolver::new();
        let endpoint = ResolveEndpoint::resolve_endpoint(&resolver, &region)
            .await
            .map_err(|error| unsigned(error.to_string()))?;
        let wish = CopyRequest {
            endpoint: endpoint.url(),
            source,
            destination: &self.region,
            snapshot: id,
        };
        wish.signed(credentials, SystemTime::now()).map_err(unsigned)
    }
}

impl CopyRequest<'_> {
    fn signed(&self, credentials: Credentials, now: SystemTime) -> Result<String, String> {
        let CopyRequest { endpoint, source, destination, snapshot } = *self;
        let mut url =
            format!("{}/?Action=CopySnapshot&Version=2016-11-15", endpoint.trim_end_matches('/'));
        append(&mut url, "SourceRegion", source);
        append(&mut url, "SourceSnapshotId", snapshot.as_str());
        append(&mut url, "DestinationRegion", destination);
        let mut settings = SigningSettings::default();
        settings.signature_location = SignatureLocation::QueryParams;
        settings.expires_in = Some(SIGNED_FOR);
        // A session's token belongs to what is signed, for EC2; that is how the settings are by
        // default.
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(source)
            .name("ec2")
            .time(now)
            .settings(settings);
        let params: SigningParams<'_> = params.build().map_err(|error| error.to_string())?.into();
        let request =
            SignableRequest::new("GET", url.as_str(), std::iter::empty(), SignableBody::Bytes(&[]));
        let signed = sign(request.map_err(|error| error.to_string())?, &params)
            .map_err(|error| error.to_string())?;
        let (_, signature) = signed.into_parts().0.into_parts();
        for (name, value) in signature {
            append(&mut url, name, &value);
        }
        Ok(url)
    }
}

/// Adds a parameter to a URL, encoded as signatures count it: everything but letters, digits and
/// `-._~`.
fn append(url: &mut String, name: &str, value: &str) {
    url.push('&');
    url.push_str(name);
    url.push('=');
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            url.push(char::from(byte));
        } else {
            url.push_str(&format!("%{byte:02X}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_is_signed_for_the_source_and_carries_the_session() -> Result<(), String> {
        let snapshot: SnapshotId = "snap-0abc".parse()?;
        let endpoint = "https://ec2.eu-west-1.amazonaws.com";
        let wish = CopyRequest {
            endpoint,
            source: "eu-west-1",
            destination: "eu-central-1",
            snapshot: &snapshot,
        };
        let credentials =
            Credentials::new("AKID", "secret", Some("a+b/c=".to_owned()), None, "test");
        let url =
            wish.signed(credentials, SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000))?;
        let asked = "/?Action=CopySnapshot&Version=2016-11-15&SourceRegion=eu-west-1&SourceSnapshotId=snap-0abc&DestinationRegion=eu-central-1&";
        assert!(url.starts_with(&format!("{endpoint}{asked}")), "{url}");
        for part in [
            "&X-Amz-Credential=AKID%2F20231114%2Feu-west-1%2Fec2%2Faws4_request",
            "&X-Amz-Expires=3600",
            "&X-Amz-SignedHeaders=host",
            "&X-Amz-Security-Token=a%2Bb%2Fc%3D",
            "&X-Amz-Signature=",
        ] {
            assert!(url.contains(part), "{part} in {url}");
        }
        assert!(!url.contains("secret"), "{url}");
        Ok(())
    }
}
