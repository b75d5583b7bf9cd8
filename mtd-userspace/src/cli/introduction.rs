//! `mtd introduction`: introductions for a client that does not reach the DHT.

use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use clap::Args;

use super::output;
use super::peers::name;
use super::status::Select;
use crate::control::client;
use crate::instance::RUN_DIR;
use crate::rendezvous::IntroductionDocument;

/// Print introductions of this server for a client that does not reach the DHT
///
/// The client's administrator saves them as the file that `introduction_file` of its [[server]] names. Only that client can
/// read them. They are good for the time of `introductions_ahead`, and end before it when this controller restarts, when its
/// prefix changes, and when a client is removed. To keep clients supplied, set `introductions_dir` and let a web server offer
/// the files.
///
/// With --json: one object with the keys `schema`, `name`, `public_key`, `introductions` (how many), `good_until` (unix
/// seconds) and `file` (the text that is printed without --json).
#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:\n  \
    sudo mtd introduction laptop > laptop.introduction\n  \
    curl -fsSo /etc/mtd/home.introduction https://www.example.net/introductions/laptop.introduction   (at the client)")]
pub(super) struct IntroductionArgs {
    /// Name of the client, as `mtd peers list` shows it
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    #[command(flatten)]
    select: Select,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `mtd introduction`.
///
/// # Errors
/// No controller or several run here, it knows no such client, or standard output cannot be written.
pub(super) async fn run(args: &IntroductionArgs) -> anyhow::Result<()> {
    let mut sockets = args.select.sockets(Path::new(RUN_DIR))?;
    if sockets.len() > 1 {
        let interfaces: Vec<_> = sockets.into_iter().map(|socket| socket.interface).collect();
        bail!("controllers run for {}; name one with -i", interfaces.join(" and "));
    }
    let socket = sockets.pop().context("no controller runs here")?;
    let document = client::introduction(&socket.path, &args.name).await?;
    let text = if args.json { serde_json::to_string_pretty(&document)? + "\n" } else { text(&document) };
    output::print(&text)
}

fn text(document: &IntroductionDocument) -> String {
    let until = UNIX_EPOCH + Duration::from_secs(document.good_until);
    let until = humantime::format_rfc3339_seconds(until);
    format!("# good until {until}, if the server's controller is not restarted\n{}", document.file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::rendezvous::carried::Carried;

    #[test]
    fn what_is_printed_is_what_a_client_reads() {
        let carried = Carried { window: 900, sealed: [(1_800_000_000, [7; 116])].into() };
        let document = IntroductionDocument {
            schema: 1,
            name: "laptop".to_owned(),
            public_key: String::new(),
            introductions: 1,
            good_until: 1_800_001_200,
            file: carried.to_text(),
        };
        let text = text(&document);
        assert!(text.starts_with("# good until 2027-01-15T08:20:00Z, if "), "{text}");
        assert_eq!(Carried::parse(text.as_bytes()), Ok(carried));
    }
}
