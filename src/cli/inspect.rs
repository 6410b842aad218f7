//! x
use super::args::InspectArgs;
use super::environment::Environment;
use super::report::Result;
pub fn run(_: &InspectArgs, _: &Environment) -> Result<()> {
    todo!()
}
