//! context

mod glob;
pub mod ignore;
