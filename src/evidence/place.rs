//! The scratch VPC on a report's page: what stood there, what was tried, what was called, what was
//! left.

use maud::{Markup, html};

use super::html::seconds;
use crate::domain::scratch::ScratchReport;

/// The section of a report that was drilled in a scratch VPC.
#[must_use]
pub fn section(place: &ScratchReport) -> Markup {
    let wrong = place.network.iter().filter(|tried| tried.reached != tried.should).count();
    html! {
        section { h2 { "Scratch VPC" }
            dl.small {
                dt { "Where" } dd { "account " (place.account) ", " (if place.zone.is_empty() { &place.region } else { &place.zone })
                    @match place.same_account {
                        Some(true) => { span.unknown { ": the account of production" } }
                        Some(false) => { ": not the account of production" }
                        None => { ": whether production is there as well is not said" }
                    } }
                dt { "Who made it" } dd { (place.caller) }
                dt { "Instance" } dd { code { (place.instance) } ", " (place.instance_type) ", tenancy " (place.tenancy) }
                dt { "Image" } dd { code { (place.image) } ", SHA-256 over what EC2 says of it " code { (place.image_digest) } }
                dt { "At most" } dd { (place.cost_ceiling) }
                dt { "Isolation gate" } dd {
                    @if place.gate_sha256.is_empty() { span.fail { "✗ not passed" } } @else { span.pass { "✓ passed" } ", SHA-256 of everything that stood there " code { (place.gate_sha256) } } }
                dt { "Agent" } dd { (place.letters) " signed letters, key " code { (place.agent_key) } ", binary SHA-256 " code { (place.agent_sha256) } }
            }
            @if !place.network.is_empty() {
                p { (place.network.len()) " attempts were made from the instance itself; "
                    @if wrong == 0 { "each came out as it must." } @else { span.fail { (wrong) " did not come out as they must." } } }
                details { summary { "All attempts from the instance" }
                    table { tbody { @for tried in &place.network {
                        tr { td { (tried.what) } td { @if tried.reached { "reached" @if tried.should { ", as it must be" } } @else { "not reached" } } td { (tried.detail) } } } } } }
            }
            p { "Census after teardown, by this run's tags: "
                @for (number, (kind, count)) in place.census.iter().enumerate() { @if number > 0 { ", " } (kind) " " (count) } "." }
            details { summary { "Preflight" }
                table { tbody { @for (question, answer) in &place.preflight { tr { td { (question) } td { (answer) } } } } } }
            details { summary { (place.calls.len()) " calls that changed something, and " (place.looks.values().sum::<u64>()) " looks" }
                table { thead { tr { th.right { "at" } th { "call" } th { "about" } th { "outcome" } } }
                    tbody { @for call in &place.calls {
                        tr { td.right { (seconds(call.at_seconds)) } td { (call.action) } td { (call.about) } td { (call.outcome) } } } } } }
            details { summary { "What stood there when the gate passed" } pre { (serde_json::to_string_pretty(&place.gate).unwrap_or_default()) } }
        }
    }
}
