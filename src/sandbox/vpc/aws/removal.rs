//! Removing things. What is gone already is success; what is still needed, or on its way out, must
//! wait.

use super::api_calls::{CallFailed, CallMode};
use super::{AwsCloud, is_missing, refused};
use crate::sandbox::vpc::cloud::{CallOutcome, OwnedResource, ResourceKind};

impl AwsCloud {
    pub(super) async fn remove(
        &self,
        call: &CallMode<'_>,
        owned: &OwnedResource,
    ) -> Result<CallOutcome, CallFailed> {
        let (id, dry) = (owned.id(), call.dry());
        match owned.kind() {
            ResourceKind::Vpc => call
                .done(self.ec2.delete_vpc().vpc_id(id).set_dry_run(dry).send().await, is_missing),
            ResourceKind::Subnet => call.done(
                self.ec2.delete_subnet().subnet_id(id).set_dry_run(dry).send().await,
                is_missing,
            ),
            ResourceKind::RouteTable => call.done(
                self.ec2.delete_route_table().route_table_id(id).set_dry_run(dry).send().await,
                is_missing,
            ),
            ResourceKind::NetworkAcl => call.done(
                self.ec2.delete_network_acl().network_acl_id(id).set_dry_run(dry).send().await,
                is_missing,
            ),
            ResourceKind::SecurityGroup => call.done(
                self.ec2.delete_security_group().group_id(id).set_dry_run(dry).send().await,
                is_missing,
            ),
            ResourceKind::Instance => call.done(
                self.ec2.terminate_instances().instance_ids(id).set_dry_run(dry).send().await,
                is_missing,
            ),
            ResourceKind::Volume => call.done(
                self.ec2.delete_volume().volume_id(id).set_dry_run(dry).send().await,
                is_missing,
            ),
            ResourceKind::Interface => {
                let request =
                    self.ec2.delete_network_interface().network_interface_id(id).set_dry_run(dry);
                call.done(request.send().await, is_missing)
            }
            ResourceKind::Endpoint => {
                let request = self.ec2.delete_vpc_endpoints().vpc_endpoint_ids(id).set_dry_run(dry);
                call.removed(request.send().await, |reply| reply.unsuccessful)
            }
            ResourceKind::FlowLog => {
                let request = self.ec2.delete_flow_logs().flow_log_ids(id).set_dry_run(dry);
                call.removed(request.send().await, |reply| reply.unsuccessful)
            }
            ResourceKind::FirewallAssociation => self.disassociate_firewall(call, id).await,
            // Named one by one, so that a new kind has to be thought about here.
            ResourceKind::InternetGateway
            | ResourceKind::EgressOnlyGateway
            | ResourceKind::NatGateway
            | ResourceKind::VpnGateway
            | ResourceKind::CarrierGateway
            | ResourceKind::Peering
            | ResourceKind::TransitAttachment
            | ResourceKind::ConnectEndpoint => {
                Err(refused(&call.what, format!("lifeboat removes no {}s", owned.kind().name()))
                    .into())
            }
        }
    }
}
