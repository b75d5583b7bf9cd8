//! Sessions with other hosts.

pub mod section;
