//! `lapstrake du` and `prune`.

use std::time::Duration;

use crate::sandbox::Session;
use crate::store::{PruneOptions, prune as prune_store, usage as store_usage};
use crate::ui::text;

use super::args::{DuArgs, PruneArgs};
use super::environment::Environment;
use super::options;
use super::report::{Exit, Report, Result};

/// Shows what the store holds.
pub fn usage(args: &DuArgs, env: &Environment) -> Result<()> {
    let store = env.open_store()?;
    let amounts = store_usage(&store)
        .map_err(|error| Report::of(Exit::Damaged, "cannot measure the store", &error))?;
    let total: u64 = amounts.values().map(|amount| amount.bytes).sum();
    if args.format.is_some() {
        let mut object = serde_json::Map::new();
        for (category, amount) in &amounts {
            let value = serde_json::json!({ "count": amount.count, "bytes": amount.bytes });
            object.insert(category.as_str().to_owned(), value);
        }
        object.insert("total".to_owned(), serde_json::json!({ "bytes": total }));
        env.print(&format!("{:#}\n", serde_json::Value::Object(object)));
        return Ok(());
    }
    let mut out = format!("{:14}  {:>7}  {:>9}\n", "WHAT", "COUNT", "SIZE");
    for (category, amount) in &amounts {
        out.push_str(&format!(
            "{:14}  {:>7}  {:>9}\n",
            category.as_str(),
            amount.count,
            text::size(amount.bytes)
        ));
    }
    out.push_str(&format!("{:14}  {:>7}  {:>9}\n", "total", "", text::size(total)));
    env.print(&out);
    Ok(())
}

/// Removes what nothing needs.
pub fn prune(args: &PruneArgs, env: &Environment) -> Result<()> {
    let mut prune = PruneOptions { keep_mounts: !args.all, ..PruneOptions::default() };
    if let Some(until) = &args.until {
        prune.unused_for = Some(Duration::from_secs(options::seconds("--until", until)?));
    }
    if let Some(size) = &args.keep_storage {
        prune.keep_storage = Some(options::size("--keep-storage", size)?);
    }
    let store = env.open_store()?;
    // Directories of layers may belong to subordinate ids, which only root of the namespace can
    // remove. Without a namespace the rest goes all the same, and what stays is told.
    if let Ok(session) = Session::enter(&env.sandbox_options(Default::default())) {
        store.set_id_map(&session.id_map().fingerprint());
    }
    let pruned = prune_store(&store, &prune)
        .map_err(|error| Report::of(Exit::Damaged, "cannot prune the store", &error))?;
    let total: u64 = pruned.removed.values().map(|amount| amount.bytes).sum();
    for (category, amount) in &pruned.removed {
        if amount.count > 0 {
            env.say(&format!(
                "removed {} {} ({})\n",
                amount.count,
                category.as_str(),
                text::size(amount.bytes)
            ));
        }
    }
    if pruned.beside_builds {
        env.say("note: builds are running; what they used recently stayed\n");
    }
    env.print(&format!("{total}\n"));
    match pruned.failed.first() {
        None => Ok(()),
        Some((path, error)) => Err(Report::of(
            Exit::Damaged,
            &format!(
                "{} things could not be removed, first {}",
                pruned.failed.len(),
                path.display()
            ),
            error,
        )),
    }
}
