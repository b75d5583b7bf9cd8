//! Which test programs the workspace has, which of them a filter can match, and building those.
//!
//! A filter is compared with the names in the source before anything is compiled, so that a run for one test does not wait for
//! test programs that cannot have it. What is compared is more than a test's name can be made of, never less.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::build::{Artifacts, host_cargo};
use crate::process;
use crate::workspace::Workspace;

/// The package whose tests need root.
const PRIVILEGED: &str = "mtd-tests";
/// Its library is tried by tests too; the programs of these packages need a target of their own and have no tests.
const WITHOUT_TESTS: [&str; 1] = ["mtd-ebpf"];

/// A test program before it is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    package: String,
    name: String,
    /// `lib`, `bin` or `test`.
    kind: String,
    source: PathBuf,
}

impl Target {
    /// Whether its tests need root.
    pub(super) fn is_privileged(&self) -> bool {
        self.package == PRIVILEGED
    }

    /// Whether a test with all these words in its name can be among its tests.
    fn can_match(&self, words: &[String]) -> Result<bool> {
        let mut names = BTreeSet::new();
        collect_names(&self.source, &mut names)
            .with_context(|| format!("could not read the source of {}", self.name))?;
        Ok(words
            .iter()
            .any(|word| word.split("::").all(|part| names.iter().any(|name| name.contains(part.trim())))))
    }

    fn selection(&self) -> Vec<&str> {
        match self.kind.as_str() {
            "lib" => vec!["--lib"],
            "bin" => vec!["--bin", &self.name],
            _ => vec!["--test", &self.name],
        }
    }
}

/// A test program that cargo has built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TestProgram {
    /// As reports call it: the name of a program of tests, or the package whose unit tests it has.
    pub(super) name: String,
    pub(super) executable: PathBuf,
    /// Where cargo would start it.
    pub(super) directory: PathBuf,
}

/// Every target with tests.
///
/// # Errors
/// `cargo metadata` fails.
pub(super) fn all(workspace: &Workspace) -> Result<Vec<Target>> {
    let mut command = workspace.cargo();
    command.args(["metadata", "--format-version=1", "--no-deps"]);
    let metadata: Value = serde_json::from_str(&process::capture(&mut command)?)?;
    Ok(parse(&metadata))
}

fn parse(metadata: &Value) -> Vec<Target> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut targets = Vec::new();
    for package in list(&metadata["packages"]) {
        for target in list(&package["targets"]) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let found = Target {
                package: text(&package["name"]),
                name: text(&target["name"]),
                kind: text(&target["kind"][0]),
                source: text(&target["src_path"]).into(),
            };
            let tested = target["test"] == true && ["lib", "bin", "test"].contains(&found.kind.as_str());
            if tested && !WITHOUT_TESTS.contains(&found.package.as_str()) {
                targets.push(found);
            }
        }
    }
    targets
}

/// Those that can have a test with one of these words in its name; all of them without a word, and where no source has
/// any of the words: then the harness has the last say.
///
/// # Errors
/// Source cannot be read.
pub(super) fn that_can_match(targets: Vec<Target>, words: &[String]) -> Result<Vec<Target>> {
    let mut kept = Vec::new();
    for target in &targets {
        if words.is_empty() || target.can_match(words)? {
            kept.push(target.clone());
        }
    }
    Ok(if kept.is_empty() { targets } else { kept })
}

/// What the names of a file's tests are made of: its modules, and its functions that have an attribute with `test` in it; and of
/// the files of its modules.
fn collect_names(file: &Path, names: &mut BTreeSet<String>) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let folder = file.parent().unwrap_or(Path::new("."));
    let stem = file.file_stem().unwrap_or_default();
    let is_root = ["lib", "main", "mod"].iter().any(|name| stem == *name);
    let mut path = None;
    let mut is_test = false;
    for line in text.lines().map(str::trim_start) {
        if let Some(given) = line.strip_prefix("#[path = \"") {
            path = given.split('"').next();
        } else if line.starts_with("#[") && line.contains("test") {
            is_test = true;
        } else if let Some(name) = declared(line, "mod ") {
            names.insert(name.to_owned());
            let (name, given) = (PathBuf::from(name), path.take());
            let inside = folder.join(stem);
            let candidates = match given {
                Some(given) => vec![folder.join(given)],
                // A target's own file may have any name, and its modules are beside it.
                None => [folder.to_owned(), inside]
                    .into_iter()
                    .skip(usize::from(!is_root && folder.join(stem).is_dir()))
                    .flat_map(|from| [from.join(&name).with_extension("rs"), from.join(&name).join("mod.rs")])
                    .collect(),
            };
            if line.trim_end().ends_with(';')
                && let Some(module) = candidates.iter().find(|module| module.is_file())
            {
                collect_names(module, names)?;
            }
            is_test = false;
        } else if is_test && let Some(name) = declared(line, "fn ") {
            names.insert(name.to_owned());
            is_test = false;
        }
    }
    Ok(())
}

/// The name in `pub(crate) async fn name(…`, given `fn `.
fn declared<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let at = line.find(keyword)?;
    let before_is_plain = line[..at]
        .split_whitespace()
        .all(|word| word.starts_with("pub") || ["async", "const", "unsafe", "extern"].contains(&word));
    let name = line[at + keyword.len()..].split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (before_is_plain && !name.is_empty()).then_some(name)
}

/// Builds these test programs.
///
/// # Errors
/// They do not compile.
pub(super) fn build(
    workspace: &Workspace,
    artifacts: &Artifacts,
    targets: &[Target],
) -> Result<Vec<TestProgram>> {
    let mut programs = Vec::new();
    let packages: BTreeSet<&str> = targets.iter().map(|target| target.package.as_str()).collect();
    for package in packages {
        let selected = targets.iter().filter(|target| target.package == package);
        let mut command = host_cargo(workspace, artifacts);
        command.args(["test", "--quiet", "--release", "--no-run", "-p", package]);
        command.args(selected.flat_map(Target::selection));
        command.arg("--message-format=json-render-diagnostics");
        let line = process::describe(&command);
        let output = command
            .stdin(Stdio::null())
            .stderr(io::stderr())
            .output()
            .with_context(|| format!("could not start `{line}`"))?;
        if !output.status.success() {
            bail!("`{line}` failed ({})", output.status);
        }
        programs.extend(String::from_utf8_lossy(&output.stdout).lines().filter_map(test_program));
    }
    Ok(programs)
}

/// Reads one of cargo's messages; `None` when it is not about a test program.
fn test_program(message: &str) -> Option<TestProgram> {
    let message: Value = serde_json::from_str(message).ok()?;
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let target = &message["target"];
    let directory = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let (name, kind) = (target["name"].as_str()?, target["kind"][0].as_str()?);
    let package = directory.file_name()?.to_string_lossy();
    Some(TestProgram {
        name: if kind == "test" { name.to_owned() } else { format!("{package} ({kind} {name})") },
        executable: message["executable"].as_str()?.into(),
        directory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str, files: &[(&str, &str)]) -> Target {
        let folder = std::env::temp_dir().join(format!("xtask-targets-{name}-{}", std::process::id()));
        for (file, text) in files {
            let path = folder.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Target {
            package: "p".to_owned(),
            name: name.to_owned(),
            kind: "test".to_owned(),
            source: folder.join(files[0].0),
        }
    }

    fn matches(target: &Target, filter: &str) -> bool {
        target.can_match(&[filter.to_owned()]).unwrap()
    }

    #[test]
    fn a_filter_matches_modules_and_tests_and_no_other_functions() {
        let files = [
            ("main.rs", "mod outer;\nmod beside;\n"),
            ("outer.rs", "mod inner;\n#[test]\n/// Says.\nfn it_counts() {}\nfn helper() {}\n"),
            ("outer/inner.rs", "#[tokio::test(start_paused = true)]\nasync fn it_waits() {}\n"),
            ("beside/mod.rs", "#[cfg(test)]\n#[path = \"strange.rs\"]\nmod tests;\n"),
            ("beside/strange.rs", "proptest! {\n    #[test]\n    fn it_holds(x in 0..1) {}\n}\n"),
        ];
        let target = source("names", &files);
        for filter in ["it_counts", "it_waits", "it_holds", "beside", "outer::inner", "inner::it_wai", "coun"]
        {
            assert!(matches(&target, filter), "{filter}");
        }
        for filter in ["helper", "strange", "outer::nothing", "nothing"] {
            assert!(!matches(&target, filter), "{filter}");
        }
        fs::remove_dir_all(target.source.parent().unwrap()).unwrap();
    }

    #[test]
    fn the_modules_of_a_target_with_a_name_of_its_own_are_beside_it() {
        let target = source("own", &[("check.rs", "mod sub;\n"), ("sub.rs", "#[test]\nfn a_test() {}\n")]);
        assert!(matches(&target, "a_test"));
        fs::remove_dir_all(target.source.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_filter_that_no_source_has_leaves_out_nothing() {
        let target = source("none", &[("main.rs", "#[test]\nfn a() {}\n")]);
        let targets = vec![target.clone()];
        assert_eq!(that_can_match(targets.clone(), &["zebra".to_owned()]).unwrap(), targets);
        assert_eq!(that_can_match(targets.clone(), &[]).unwrap(), targets);
        fs::remove_dir_all(target.source.parent().unwrap()).unwrap();
    }

    #[test]
    fn this_workspace_has_its_test_programs() {
        let targets = all(&Workspace::load().unwrap()).unwrap();
        for (package, name, kind) in [
            ("mtd-common", "mtd_common", "lib"),
            ("mtd-userspace", "mtd", "lib"),
            ("mtd-userspace", "check", "test"),
            ("xtask", "xtask", "bin"),
            ("mtd-tests", "netns", "test"),
            ("mtd-tests", "bpf", "test"),
        ] {
            let found = |t: &&Target| t.package == package && t.name == name && t.kind == kind;
            assert!(targets.iter().any(|target| found(&target)), "{package} {name} {kind}: {targets:?}");
        }
        let words = ["nothing_is_compiled_twice".to_owned()];
        let own = that_can_match(targets, &words).unwrap();
        assert_eq!(own.iter().map(|target| target.package.as_str()).collect::<Vec<_>>(), ["xtask"]);
    }

    #[test]
    fn a_test_program_is_found_in_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml",
            "target":{"kind":["test"],"name":"netns"},"profile":{"test":true},"executable":"/t/netns-1a2b"}"#;
        let expected = TestProgram {
            name: "netns".to_owned(),
            executable: "/t/netns-1a2b".into(),
            directory: "/w/tests".into(),
        };
        assert_eq!(test_program(message), Some(expected));
    }

    #[test]
    fn libraries_binaries_and_other_messages_are_none() {
        let binary = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml",
            "target":{"kind":["bin"],"name":"mtd-demo"},"profile":{"test":false},"executable":"/t/mtd-demo"}"#;
        for message in [binary, r#"{"reason":"build-finished","success":true}"#, "no JSON"] {
            assert_eq!(test_program(message), None, "{message}");
        }
    }
}
