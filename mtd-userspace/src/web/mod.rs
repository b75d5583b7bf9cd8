//! The web view (requirement MT-48): a page on loopback that shows what `mtd status` does, as it changes.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` and the files of the page | needs no token: the files are in every copy of mtd |
//! | `GET /reasons.json` | what each drop reason means |
//! | `GET /events` with `Authorization: Bearer TOKEN` | `text/event-stream`: a [`Sample`](feed::Sample) once a second |
//!
//! Everybody on the host can connect to loopback, and so can every page in a browser there. Requests for data about mtd
//! therefore need the token, which is in the [`link`] that only root can read. `docs/web.md` says more.

pub mod feed;
pub mod link;
mod page;
pub mod section;
pub mod server;
