//! x
use super::args::PushArgs;
use super::environment::Environment;
use super::report::Result;
use crate::build::event::Watch;
use crate::oci::Reference;
use crate::registry::Client;
use crate::store::Store;
use std::sync::Arc;
pub fn run(_: &PushArgs, _: &Environment) -> Result<()> {
    todo!()
}
pub fn push(
    _: &Environment,
    _: &Store,
    _: &Arc<Client>,
    _: &Reference,
    _: &dyn Watch,
) -> Result<()> {
    todo!()
}
