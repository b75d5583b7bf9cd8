//! The command line as an operator meets it: mistakes in the configuration and in arguments, and keys.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result};
use mtd_tests::controller::mtd_program;
use mtd_tests::netns::Netns;
use tempfile::TempDir;

use super::bench::{Bench, assert_error, assert_error_with};

/// Runs `mtd`, with `input` as standard input.
fn mtd(arguments: &[&str], input: &[u8]) -> Result<Output> {
    let mut command = Command::new(mtd_program()?);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn()?;
    child.stdin.take().context("standard input")?.write_all(input)?;
    Ok(child.wait_with_output()?)
}

#[test]
fn mistakes_in_the_configuration_are_named_with_line_column_key_and_remedy() -> Result<()> {
    let folder = TempDir::new()?;
    let path = folder.path().join("bad.toml");
    let text =
        "interface = \"eth0\"\nprefix = \"2001:db8::/48\"\nadress = [\"fd00::1/64\"]\nlink = \"onlink\"\n";
    fs::write(&path, text)?;
    let output = mtd(&["run", "-c", path.to_str().context("path")?], b"")?;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let stderr = String::from_utf8(output.stderr)?;
    let file = path.display();
    for (place, words) in [
        (format!("{file}:2:10: prefix: "), "64"),
        (format!("{file}:3:1: adress: "), "address"),
        (format!("{file}:4:8: link: "), "on-link"),
    ] {
        let line = stderr.lines().find(|line| line.contains(&place));
        let line = line.with_context(|| format!("no {place:?} in: {stderr}"))?;
        assert!(line.contains(words) && line.contains("; "), "{words:?} as a remedy: {line}");
    }
    assert!(stderr.starts_with("mtd: "), "{stderr}");
    Ok(())
}

#[test]
fn a_missing_configuration_is_an_error_with_a_way_out() -> Result<()> {
    let output = mtd(&["run", "-c", "no-such-file.toml"], b"")?;
    assert_error(&output, &["no-such-file.toml", "-c FILE"]);
    Ok(())
}

#[test]
fn a_key_file_that_others_can_read_is_refused() -> Result<()> {
    let bench = Bench::new()?;
    let config = bench.setup.write()?;
    let key = bench.setup.folder().join("peer0.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644))?;
    let before = bench.inventory()?;
    let output = bench.mtd(&["run", "-c", config.to_str().context("path")?])?;
    assert_error(&output, &["peer.key_file", "peer0.key", "chmod 600"]);
    before.assert_same(&bench.inventory()?);
    Ok(())
}

#[test]
fn wrong_arguments_end_with_code_2() -> Result<()> {
    for arguments in
        [&["run", "--no-such-flag"][..], &["no-such-command"], &[], &["detach"], &["status", "-i", "a/b"]]
    {
        let output = mtd(arguments, b"")?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    Ok(())
}

#[test]
fn where_nothing_runs_status_and_drops_say_so() -> Result<()> {
    mtd_tests::require_root();
    let netns = Netns::new("empty")?;
    for arguments in [&["status"][..], &["status", "--json"], &["drops"], &["drops", "--follow"]] {
        let output = netns.command(mtd_program()?)?.args(arguments).output()?;
        let code = if arguments[0] == "status" { 4 } else { 1 };
        assert_error_with(code, &output, &["no controller is running", "mtd run -c FILE"]);
        if arguments.contains(&"--json") {
            // With --json the output is JSON, even if there is nothing to show.
            let document: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            assert_eq!(document, serde_json::json!({ "schema": 1, "instances": [] }));
        } else {
            assert!(output.stdout.is_empty(), "{output:?}");
        }
    }
    Ok(())
}

#[test]
fn genkey_and_pubkey_make_a_pair_of_keys() -> Result<()> {
    let private = mtd(&["genkey"], b"")?;
    let public = mtd(&["pubkey"], &private.stdout)?;
    for key in [&private, &public] {
        assert!(key.status.success(), "{key:?}");
        // 32 bytes in base64, and a newline.
        assert_eq!((key.stdout.len(), key.stdout.last(), key.stderr.len()), (45, Some(&b'\n'), 0), "{key:?}");
    }
    assert_eq!(mtd(&["pubkey"], &private.stdout)?.stdout, public.stdout, "the same each time");
    assert_ne!(mtd(&["genkey"], b"")?.stdout, private.stdout, "another one each time");
    assert_error(&mtd(&["pubkey"], b"no key")?, &["mtd genkey | mtd pubkey"]);
    Ok(())
}
