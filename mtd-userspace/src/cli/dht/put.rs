//! `mtd dht put`: stores a value in the DHT, to test a network.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Serialize;

use super::{Network, patiently};
use crate::cli::output;
use crate::keys::SecretKey;
use crate::proto::rendezvous::{Descriptor, ports};
use crate::rendezvous::{Encoding, Item, MAX_VALUE, Store as _};

/// Version of the JSON output.
const SCHEMA: u32 = 1;

/// Put a value into the DHT, to test a network
///
/// The value is stored as a mutable item, signed with the key in a file, or as announced ports. Announcing takes about
/// 0.1 s a byte, and whoever knows the info-hash sees this host's address. Servers publish by themselves and do not need
/// this command.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    (umask 077; mtd genpsk > signing.key); date | mtd dht put --key signing.key --bootstrap 198.18.0.1:6881\n  \
    mtd dht put --ports 0123456789abcdef0123456789abcdef01234567 value.bin --json")]
pub(super) struct PutArgs {
    /// File with the value; standard input if it is missing or `-`
    #[arg(value_name = "FILE")]
    value: Option<PathBuf>,

    /// File with the signing key (ed25519 seed), as `mtd genpsk` makes it
    #[arg(long, value_name = "FILE", required_unless_present = "ports")]
    key: Option<PathBuf>,

    /// Sequence number; to replace a value under the same key, it must be higher [default: Unix time in ms]
    #[arg(long, value_name = "NUMBER", conflicts_with = "ports")]
    seq: Option<u64>,

    /// Announce ports under this info-hash instead (40 hexadecimal digits)
    #[arg(long, value_name = "INFO_HASH", value_parser = info_hash, conflicts_with = "key")]
    ports: Option<Descriptor>,

    #[command(flatten)]
    network: Network,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    schema: u32,
    bytes: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<i64>,
    /// Public key of the mutable item, as `mtd dht get --raw` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    item_key: Option<String>,
    target: String,
    /// Number of nodes that stored it, if that is known.
    copies: Option<u32>,
}

pub(super) async fn run(args: &PutArgs) -> anyhow::Result<()> {
    let value = read(args.value.as_deref())?;
    let store = args.network.store();
    let report = if let Some(descriptor) = args.ports {
        ensure!(
            (1..=ports::MAX_BYTES).contains(&value.len()),
            "1 to {} bytes can be announced as ports, not {}",
            ports::MAX_BYTES,
            value.len()
        );
        let bytes = value.len();
        let item = Item::raw(descriptor, &SecretKey::from_bytes([0; 32]), value, 0);
        let stored = patiently("announcing ports", store.publish(item, Encoding::Ports)).await?;
        Report {
            schema: SCHEMA,
            bytes,
            seq: None,
            item_key: None,
            target: descriptor.to_string(),
            copies: stored.copies,
        }
    } else {
        let key = SecretKey::from_file(args.key.as_deref().context("name a signing key with --key")?)?;
        ensure!(value.len() <= MAX_VALUE, "an item has at most {MAX_VALUE} bytes, not {}", value.len());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let seq = args.seq.unwrap_or(u64::try_from(now).unwrap_or(u64::MAX));
        let item = Item::raw(Descriptor([0; 20]), &key, value, seq);
        let (lookup, seq, bytes) = (item.lookup(), item.seq, item.value.len());
        let stored = patiently("storing the item", store.publish(item, Encoding::Item)).await?;
        Report {
            schema: SCHEMA,
            bytes,
            seq: Some(seq),
            item_key: Some(hex::encode(lookup.item_key)),
            target: hex::encode(lookup.item_target()),
            copies: stored.copies,
        }
    };
    output::print(&if args.json { serde_json::to_string(&report)? + "\n" } else { human(&report) })
}

fn human(report: &Report) -> String {
    let Report { bytes, target, .. } = report;
    match (&report.item_key, report.copies) {
        (Some(key), Some(copies)) => {
            let seq = report.seq.unwrap_or_default();
            format!(
                "stored {bytes} bytes at {copies} nodes, target {target}, sequence number {seq}\n\
                 look for it: mtd dht get --raw {key}\n"
            )
        }
        _ => format!("announced {bytes} ports\nlook for them: mtd dht get --raw {target}\n"),
    }
}

/// Reads a value, and at most one byte more than is allowed, so that a value that is too long is noticed.
fn read(path: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    let mut value = Vec::new();
    let limit = MAX_VALUE as u64 + 1;
    match path.filter(|path| *path != Path::new("-")) {
        Some(path) => File::open(path)
            .and_then(|file| file.take(limit).read_to_end(&mut value))
            .with_context(|| format!("cannot read {}", path.display()))?,
        None => std::io::stdin().take(limit).read_to_end(&mut value).context("cannot read standard input")?,
    };
    Ok(value)
}

fn info_hash(text: &str) -> Result<Descriptor, &'static str> {
    let bytes = hex::decode(text).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.map(Descriptor).ok_or("write 40 hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_info_hash_has_40_digits() {
        assert_eq!(info_hash(&"ab".repeat(20)), Ok(Descriptor([0xab; 20])));
        assert!(info_hash(&"ab".repeat(19)).is_err());
        assert!(info_hash(&"xy".repeat(20)).is_err());
    }
}
