//! A network that is not ours, and looks like it here and there.

use super::Cloud;
use super::xml::Node;

type Params<'a> = &'a [(&'a str, &'a str)];

/// Tags as parameters of a call.
fn tagged<'a>(kind: &'a str, tags: &[(&'a str, &'a str)]) -> Vec<(String, String)> {
    let mut params = vec![("TagSpecification.1.ResourceType".to_owned(), kind.to_owned())];
    for (n, (key, value)) in tags.iter().enumerate() {
        params.push((format!("TagSpecification.1.Tag.{}.Key", n + 1), (*key).to_owned()));
        params.push((format!("TagSpecification.1.Tag.{}.Value", n + 1), (*value).to_owned()));
    }
    params
}

struct Seed<'a> {
    cloud: &'a Cloud,
    region: &'a str,
}

impl Seed<'_> {
    /// Makes one thing, and returns the id that the answer has at a path.
    fn make(
        &self,
        action: &str,
        params: Params<'_>,
        kind: &str,
        tags: Params<'_>,
        path: &str,
    ) -> String {
        let mut params: Vec<(String, String)> =
            params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        if !tags.is_empty() {
            params.extend(tagged(kind, tags));
        }
        let params: Vec<(&str, &str)> =
            params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let id = Node::parse(&self.cloud.call(self.region, action, &params))
            .unwrap()
            .get(path)
            .to_owned();
        assert!(!id.is_empty(), "{action} has no {path}");
        id
    }

    fn call(&self, action: &str, params: Params<'_>) {
        self.cloud.call(self.region, action, params);
    }
}

impl Cloud {
    /// A VPC with everything: subnets, a way out, tables, an ACL, groups that name each other,
    /// endpoints, a flow log, rules for DNS, two instances with volumes, snapshots of these.
    /// Some of it has names like ours, or our tag with values that are not those of any run.
    /// Returns the ids of all that came with it.
    pub fn seed_production(&self, region: &str) -> Vec<String> {
        let before = self.inventory(region);
        let seed = Seed { cloud: self, region };
        let zone = |letter: char| format!("{region}{letter}");
        let vpc = seed.make(
            "CreateVpc",
            &[("CidrBlock", "10.0.0.0/16")],
            "vpc",
            &[("Name", "production")],
            "vpc/vpcId",
        );
        for attribute in ["EnableDnsSupport.Value", "EnableDnsHostnames.Value"] {
            seed.call("ModifyVpcAttribute", &[("VpcId", &vpc), (attribute, "true")]);
        }
        let subnet = |cidr: &str, letter, tags| {
            let params =
                [("VpcId", vpc.as_str()), ("CidrBlock", cidr), ("AvailabilityZone", &zone(letter))];
            seed.make("CreateSubnet", &params, "subnet", tags, "subnet/subnetId")
        };
        let inside = subnet("10.0.1.0/24", 'a', &[("Name", "lifeboat scratch")]);
        let outside = subnet("10.0.2.0/24", 'b', &[("Name", "public"), ("lifeboat:run", "20*")]);
        let way = seed.make(
            "CreateInternetGateway",
            &[],
            "internet-gateway",
            &[("Name", "out")],
            "internetGateway/internetGatewayId",
        );
        seed.call("AttachInternetGateway", &[("InternetGatewayId", &way), ("VpcId", &vpc)]);
        let old = [("Name", "lifeboat scratch"), ("lifeboat:run", "20200101T000000Z-ffffff")];
        let table = |tags| {
            seed.make(
                "CreateRouteTable",
                &[("VpcId", &vpc)],
                "route-table",
                tags,
                "routeTable/routeTableId",
            )
        };
        let (private, public) = (table(&old), table(&[("lifeboat:vault", "vault")]));
        seed.call(
            "CreateRoute",
            &[
                ("RouteTableId", &public),
                ("DestinationCidrBlock", "0.0.0.0/0"),
                ("GatewayId", &way),
            ],
        );
        for (table, subnet) in [(&private, &inside), (&public, &outside)] {
            seed.call("AssociateRouteTable", &[("RouteTableId", table), ("SubnetId", subnet)]);
        }
        let tags = [("Name", "production"), ("lifeboat:run", "")];
        let acl = seed.make(
            "CreateNetworkAcl",
            &[("VpcId", &vpc)],
            "network-acl",
            &tags,
            "networkAcl/networkAclId",
        );
        for egress in ["true", "false"] {
            let entry = [
                ("RuleNumber", "100"),
                ("Protocol", "-1"),
                ("RuleAction", "allow"),
                ("CidrBlock", "0.0.0.0/0"),
            ];
            seed.call(
                "CreateNetworkAclEntry",
                &[&entry[..], &[("NetworkAclId", &acl), ("Egress", egress)]].concat(),
            );
        }
        let acls = Node::parse(&self.call(
            region,
            "DescribeNetworkAcls",
            &[("Filter.1.Name", "association.subnet-id"), ("Filter.1.Value.1", &inside)],
        ));
        let acls = acls.unwrap();
        let used = acls.items("networkAclSet")[0]
            .items("associationSet")
            .iter()
            .find(|item| item.get("subnetId") == inside)
            .unwrap();
        seed.call(
            "ReplaceNetworkAclAssociation",
            &[("AssociationId", used.get("networkAclAssociationId")), ("NetworkAclId", &acl)],
        );
        let (app, db) = self.seed_groups(&seed, &vpc);
        self.seed_endpoints(&seed, &vpc, &inside, &private, &db);
        self.seed_instances(&seed, &[(&inside, &db), (&outside, &app)]);
        self.settle();
        self.inventory(region).into_keys().filter(|id| !before.contains_key(id)).collect()
    }

    fn seed_groups(&self, seed: &Seed<'_>, vpc: &str) -> (String, String) {
        let group = |name: &str, tags| {
            let params = [("VpcId", vpc), ("GroupName", name), ("GroupDescription", "production")];
            seed.make("CreateSecurityGroup", &params, "security-group", tags, "groupId")
        };
        let app = group("lifeboat-scratch-instance", &[("Name", "lifeboat-scratch-instance")]);
        let db =
            group("lifeboat-scratch-endpoint", &[("lifeboat:run", "x20200101T000000Z-ffffffx")]);
        for (one, other) in [(&app, &db), (&db, &app)] {
            let peer = [
                ("IpPermissions.1.IpProtocol", "tcp"),
                ("IpPermissions.1.FromPort", "5432"),
                ("IpPermissions.1.ToPort", "5432"),
            ];
            let peer =
                [&peer[..], &[("GroupId", one), ("IpPermissions.1.Groups.1.GroupId", other)]]
                    .concat();
            seed.call("AuthorizeSecurityGroupIngress", &peer);
        }
        (app, db)
    }

    fn seed_endpoints(&self, seed: &Seed<'_>, vpc: &str, subnet: &str, table: &str, group: &str) {
        let service = |name: &str| format!("com.amazonaws.{}.{name}", seed.region);
        let (s3, kms) = (service("s3"), service("kms"));
        let params = [
            ("VpcId", vpc),
            ("ServiceName", &s3),
            ("VpcEndpointType", "Gateway"),
            ("RouteTableId.1", table),
        ];
        seed.make(
            "CreateVpcEndpoint",
            &params,
            "vpc-endpoint",
            &[("Name", "lifeboat scratch s3")],
            "vpcEndpoint/vpcEndpointId",
        );
        let params = [
            ("VpcId", vpc),
            ("ServiceName", &kms),
            ("VpcEndpointType", "Interface"),
            ("SubnetId.1", subnet),
            ("SecurityGroupId.1", group),
            ("PrivateDnsEnabled", "true"),
        ];
        let tags = [("lifeboat:run", "20200101T000000Z-fffff0")];
        seed.make("CreateVpcEndpoint", &params, "vpc-endpoint", &tags, "vpcEndpoint/vpcEndpointId");
        let params = [
            ("ResourceId.1", vpc),
            ("ResourceType", "VPC"),
            ("TrafficType", "ALL"),
            ("LogDestinationType", "s3"),
            ("LogDestination", "arn:aws:s3:::production-logs"),
        ];
        seed.make(
            "CreateFlowLogs",
            &params,
            "vpc-flow-log",
            &[("Name", "lifeboat")],
            "flowLogIdSet/item",
        );
        let rules = self.firewall_group(seed.region, &[(1, "BLOCK", &["example.org"])]);
        let params = [
            ("VpcId", vpc),
            ("FirewallRuleGroupId", &rules),
            ("CreatorRequestId", vpc),
            ("Priority", "101"),
            ("Name", "lifeboat-production"),
            ("Tags.1.Key", "lifeboat:run"),
            ("Tags.1.Value", "20200101T000000Z-ffffff"),
        ];
        seed.call("AssociateFirewallRuleGroup", &params);
    }

    fn seed_instances(&self, seed: &Seed<'_>, places: &[(&str, &str)]) {
        let image = self.register_image(seed.region, "production");
        for (n, (subnet, group)) in places.iter().enumerate() {
            let params = [
                ("ImageId", image.as_str()),
                ("InstanceType", "m5.large"),
                ("MinCount", "1"),
                ("MaxCount", "1"),
                ("SubnetId", subnet),
                ("SecurityGroupId.1", group),
                ("BlockDeviceMapping.1.DeviceName", "/dev/sdf"),
                ("BlockDeviceMapping.1.Ebs.VolumeSize", "1"),
                ("BlockDeviceMapping.1.Ebs.Encrypted", "true"),
            ];
            let tags: Params<'_> = if n == 0 {
                &[("Name", "db"), ("lifeboat:run", "20")]
            } else {
                &[("Name", "lifeboat scratch")]
            };
            let id = seed.make(
                "RunInstances",
                &params,
                "instance",
                tags,
                "instancesSet/item/instanceId",
            );
            let view =
                self.running(seed.region).into_iter().find(|instance| instance.id == id).unwrap();
            for (_, volume) in view.volumes.iter().filter(|(device, _)| device == "/dev/sdf") {
                seed.make(
                    "CreateSnapshot",
                    &[("VolumeId", volume)],
                    "snapshot",
                    &[("lifeboat:vault", "other")],
                    "snapshotId",
                );
            }
        }
    }
}
