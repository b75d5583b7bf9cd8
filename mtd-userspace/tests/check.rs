//! `mtd check` as a process.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use mtd::keys::SecretKey;
use serde_json::Value;

const GOOD: &str = "interface = \"lo\"\nprefix = \"2001:db8:1::/64\"\naddress = \"fd00:6d74::1/64\"\n";

fn check(folder: &Path, text: &str, arguments: &[&str], credentials: Option<&Path>) -> Output {
    let file = folder.join("mtd.toml");
    fs::write(&file, text).expect("a folder to write in");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mtd"));
    command.arg("check").arg("-c").arg(file).args(arguments).env_remove("CREDENTIALS_DIRECTORY");
    if let Some(credentials) = credentials {
        command.env("CREDENTIALS_DIRECTORY", credentials);
    }
    command.output().expect("mtd runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_good_configuration_is_told_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let output = check(folder.path(), GOOD, &[], None);
    assert!(output.status.success(), "{output:?}");
    let said = text(&output.stdout);
    assert!(said.contains("good (lo: nobody may connect)"), "{said}");
    assert!(said.contains("warning: neither [listen] nor [[server]] nor [[peer]]"), "{said}");

    let missing = check(folder.path(), &GOOD.replace("\"lo\"", "\"nosuch0\""), &["--json"], None);
    assert!(missing.status.success(), "the interface may come later");
    let report: Value = serde_json::from_slice(&missing.stdout).unwrap();
    assert_eq!((&report["valid"], &report["problems"]), (&Value::Bool(true), &Value::Array(Vec::new())));
    assert!(report["warnings"][0].as_str().unwrap().contains("no interface nosuch0"), "{report}");
}

#[test]
fn every_problem_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let wrong = format!("{GOOD}mtu = 9000\nhorizn = 3\n");
    let output = check(folder.path(), &wrong, &[], None);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("mtd.toml:4:7: mtu") && said.contains("did you mean horizon?"), "{said}");

    let output = check(folder.path(), &wrong, &["--json"], None);
    assert_eq!(output.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["valid"], Value::Bool(false));
    assert_eq!(report["problems"][0]["line"], 4);
    assert_eq!(report["problems"][0]["key"], "mtu");
    assert_eq!(report["problems"].as_array().unwrap().len(), 2);
}

#[test]
fn a_key_may_be_a_credential_of_the_service() {
    let (folder, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let key = credentials.path().join("server.key");
    fs::write(&key, format!("{}\n", *SecretKey::generate().unwrap().to_base64())).unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o400)).unwrap();
    let listening =
        format!("{GOOD}private_key_file = \"credential:server.key\"\n[listen]\nclients_dir = \"none\"\n");
    let output = check(folder.path(), &listening, &[], Some(credentials.path()));
    assert!(output.status.success(), "{output:?}");
    assert!(text(&output.stdout).contains("server with 0 registered clients"), "{output:?}");

    let output = check(folder.path(), &listening, &[], None);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("credential:server.key"), "{output:?}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let output = check(folder.path(), &listening, &[], Some(credentials.path()));
    assert!(text(&output.stderr).contains("chmod 600"), "{output:?}");
}
