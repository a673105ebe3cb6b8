//! What somebody else does in between: calls that follow on an answer.

use super::firewall;
use super::query::Query;
use super::world::World;

pub struct Hook {
    pub action: String,
    /// So many such calls pass first.
    pub after: u32,
    pub calls: Vec<(String, Vec<(String, String)>)>,
}

/// The calls that follow on this one, each with the newest thing of a kind in the place of `$kind`.
pub fn following(world: &World, query: &Query) -> Vec<(String, Vec<(String, String)>)> {
    let hooks = &mut world.state().hooks;
    let mut calls = Vec::new();
    hooks.retain_mut(|hook| {
        if hook.action != query.action {
            return true;
        }
        let waits = hook.after > 0;
        hook.after = hook.after.saturating_sub(1);
        if !waits {
            calls.append(&mut hook.calls);
        }
        waits
    });
    calls
}

pub fn filled_in(
    world: &World,
    region: &str,
    params: Vec<(String, String)>,
) -> Vec<(String, String)> {
    let state = world.state();
    let newest = |value: String| match value.strip_prefix('$') {
        Some(kind) => state
            .newest
            .get(&(region.to_owned(), kind.to_owned()))
            .cloned()
            .unwrap_or_else(|| panic!("there is no {value} yet")),
        None => value,
    };
    params.into_iter().map(|(name, value)| (name, newest(value))).collect()
}

/// The service of an action.
pub fn service(action: &str) -> &'static str {
    match action {
        _ if firewall::ACTIONS.contains(&action) => "route53resolver",
        _ if super::guards::QUOTA_ACTIONS.contains(&action) => "servicequotas",
        _ => "ec2",
    }
}
