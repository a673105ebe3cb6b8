//! Removing things. What is gone already is success; what is still needed, or on its way out, must wait.

use super::acts::{Call, Failed};
use super::{Ec2, is_missing, refused};
use crate::sandbox::vpc::cloud::{Acted, Kind, Owned};

impl Ec2 {
    pub(super) async fn remove(&self, call: &Call<'_>, owned: &Owned) -> Result<Acted, Failed> {
        let (id, dry) = (owned.id(), call.dry());
        match owned.kind() {
            Kind::Vpc => call.done(self.ec2.delete_vpc().vpc_id(id).set_dry_run(dry).send().await, is_missing),
            Kind::Subnet => call.done(self.ec2.delete_subnet().subnet_id(id).set_dry_run(dry).send().await, is_missing),
            Kind::RouteTable => call.done(self.ec2.delete_route_table().route_table_id(id).set_dry_run(dry).send().await, is_missing),
            Kind::NetworkAcl => call.done(self.ec2.delete_network_acl().network_acl_id(id).set_dry_run(dry).send().await, is_missing),
            Kind::SecurityGroup => call.done(self.ec2.delete_security_group().group_id(id).set_dry_run(dry).send().await, is_missing),
            Kind::Instance => call.done(self.ec2.terminate_instances().instance_ids(id).set_dry_run(dry).send().await, is_missing),
            Kind::Volume => call.done(self.ec2.delete_volume().volume_id(id).set_dry_run(dry).send().await, is_missing),
            Kind::Interface => {
                let request = self.ec2.delete_network_interface().network_interface_id(id).set_dry_run(dry);
                call.done(request.send().await, is_missing)
            }
            Kind::Endpoint => {
                let request = self.ec2.delete_vpc_endpoints().vpc_endpoint_ids(id).set_dry_run(dry);
                call.removed(request.send().await, |reply| reply.unsuccessful)
            }
            Kind::FlowLog => {
                let request = self.ec2.delete_flow_logs().flow_log_ids(id).set_dry_run(dry);
                call.removed(request.send().await, |reply| reply.unsuccessful)
            }
            Kind::FirewallAssociation => self.disassociate_firewall(call, id).await,
            // Named one by one, so that a new kind has to be thought about here.
            Kind::InternetGateway
            | Kind::EgressOnlyGateway
            | Kind::NatGateway
            | Kind::VpnGateway
            | Kind::CarrierGateway
            | Kind::Peering
            | Kind::TransitAttachment
            | Kind::ConnectEndpoint => Err(refused(&call.what, format!("lifeboat removes no {}s", owned.kind().name())).into()),
        }
    }
}
