//! The packets of sessions. This room has the stages, their order is in [`crate::receive`] and [`crate::send`].

pub(crate) mod control;
pub(crate) mod deliver;
pub(crate) mod find;
pub(crate) mod heard;
pub(crate) mod inspect;
mod maps;
pub(crate) mod open;
pub(crate) mod replay;
pub(crate) mod route;
pub(crate) mod seal;
pub(crate) mod wrap;
