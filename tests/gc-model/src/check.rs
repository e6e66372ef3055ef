//! The checker.

use std::collections::BTreeSet;

use stateright::{Checker, Expectation, HasDiscoveries, Model, Path};

use crate::model::{Action, Scope, Setting, State};
use crate::rules::Rules;

/// What the checker found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What should never hold and did, each with the shortest way there: one operation a line.
    pub broken: Vec<(&'static str, String)>,
    /// What should hold sometimes and never did.
    pub unreached: Vec<&'static str>,
    /// States, each counted once.
    pub states: usize,
    /// Operations on the longest way.
    pub depth: usize,
}

/// A way to a state in which something is broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Way {
    /// Its operations, one a line.
    pub operations: String,
    /// How many they are.
    pub length: usize,
    /// States that were visited until it was found.
    pub states: usize,
}

/// Visits every state that those of the scope can come to by these rules.
#[must_use]
pub fn check(scope: Scope, rules: Rules) -> Found {
    let setting = Setting { scope, rules };
    let checker = setting.checker().spawn_bfs().join();
    let mut found = checker.discoveries();
    let (mut broken, mut unreached) = (Vec::new(), Vec::new());
    for property in setting.properties() {
        let way = found.remove(property.name);
        match (property.expectation, way) {
            (Expectation::Always, Some(way)) => broken.push((property.name, told(way))),
            (Expectation::Sometimes, None) => unreached.push(property.name),
            _ => {}
        }
    }
    Found {
        broken,
        unreached,
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
    }
}

/// A shortest way to a state in which `property` is broken.
#[must_use]
pub fn shortest(scope: Scope, rules: Rules, property: &'static str) -> Option<Way> {
    let setting = Setting { scope, rules };
    let mut shortest = None;
    let mut depth = None;
    loop {
        let only = HasDiscoveries::AllOf(BTreeSet::from([property]));
        let mut builder = setting.checker().finish_when(only);
        if let Some(depth) = depth {
            builder = builder.target_max_depth(depth);
        }
        let checker = builder.spawn_bfs().join();
        // The checker visits states in blocks, and keeps the last way that it found within one: so is there a
        // shorter?
        let Some(way) = checker.discovery(property) else {
            return shortest;
        };
        let length = way.clone().into_actions().len();
        depth = Some(length + 1);
        shortest = Some(Way {
            operations: told(way),
            length,
            states: checker.unique_state_count(),
        });
    }
}

fn told(way: Path<State, Action>) -> String {
    let actions = way.into_actions().into_iter();
    actions.map(|action| format!("{action:?}\n")).collect()
}
