//! The files of the page. All are part of the binary: no build step, no file on the host, nothing from other sites.

use std::collections::BTreeMap;

use mtd_common::DropReason;

/// A file: path, media type, text.
pub(super) type File = (&'static str, &'static str, &'static str);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

pub(super) const FILES: &[File] = &[
    ("/", HTML, include_str!("index.html")),
    ("/style.css", CSS, include_str!("style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("icon.svg")),
    ("/main.js", SCRIPT, include_str!("main.js")),
    ("/stream.js", SCRIPT, include_str!("stream.js")),
    ("/dom.js", SCRIPT, include_str!("dom.js")),
    ("/format.js", SCRIPT, include_str!("format.js")),
    ("/overview.js", SCRIPT, include_str!("overview.js")),
    ("/sessions.js", SCRIPT, include_str!("sessions.js")),
    ("/drops.js", SCRIPT, include_str!("drops.js")),
    ("/chart.js", SCRIPT, include_str!("chart.js")),
];

/// The meaning of each drop reason, by its name.
pub(super) fn reasons() -> BTreeMap<&'static str, &'static str> {
    DropReason::ALL.iter().map(|reason| (reason.name(), reason.help())).collect()
}
