//! Finding the test programs of the workspace, and building those that a filter can match.
//!
//! A filter is compared with the names in the source before anything is compiled, so that a run of one test does not wait
//! for test programs that cannot have it. The comparison may keep too many test programs, but never too few.

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
/// Packages that are skipped because they have no tests of their own: the BPF programs are built for another target, and
/// their library is tested from other packages.
const WITHOUT_TESTS: [&str; 1] = ["mtd-ebpf"];

/// A package that is never built without [`WITH_COMMON`].
const COMMON: &str = "mtd-common";
const WITH_COMMON: &str = "mtd-userspace";

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
    /// Whether the tests need root.
    pub(super) fn is_privileged(&self) -> bool {
        self.package == PRIVILEGED
    }

    /// Whether a test with one of these words in its name can be among its tests.
    fn can_match(&self, words: &[String]) -> Result<bool> {
        let mut names = BTreeSet::new();
        collect_names(&self.source, "", true, &mut names)
            .with_context(|| format!("could not read the source of {}", self.name))?;
        Ok(words.iter().any(|word| names.iter().any(|name| name.contains(word.as_str()))))
    }

    fn is_in(&self, source: &Path) -> bool {
        self.source == source
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
    /// The name in reports: that of the test program, or of the package whose unit tests it contains.
    pub(super) name: String,
    pub(super) executable: PathBuf,
    /// The folder in which cargo would start it.
    pub(super) directory: PathBuf,
    /// The root file of its source.
    source: PathBuf,
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

/// The targets that can have a test with one of these words in its name. Returns all targets if there are no words, or if
/// no source has any of the words: the harness then decides.
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

/// Collects the names that tests in a file, and in the files of its modules, can have. A test is a function with an
/// attribute that contains `test`. Inline modules are not tracked: a function may be in any of those in its file.
fn collect_names(file: &Path, prefix: &str, is_root: bool, names: &mut BTreeSet<String>) -> io::Result<()> {
    let text = fs::read_to_string(file)?;
    let (mut path, mut is_test) = (None, false);
    let (mut inline, mut functions) = (vec![String::new()], Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(given) = line.strip_prefix("#[path = \"") {
            path = given.split('"').next();
        } else if line.starts_with("#[") && line.contains("test") {
            is_test = true;
        } else if let Some(name) = declared(line, "mod ") {
            let given = path.take();
            is_test = false;
            if !line.ends_with(';') {
                inline.extend(inline.clone().iter().map(|outer| format!("{outer}{name}::")));
            } else if let Some(module) = module_file(file, is_root, name, given) {
                collect_names(&module, &format!("{prefix}{name}::"), false, names)?;
            }
        } else if is_test && let Some(name) = declared(line, "fn ") {
            functions.push(name);
            is_test = false;
        }
    }
    for inside in &inline {
        names.extend(functions.iter().map(|name| format!("{prefix}{inside}{name}")));
    }
    Ok(())
}

/// Where the module `name;` of a file is.
fn module_file(file: &Path, is_root: bool, name: &str, given: Option<&str>) -> Option<PathBuf> {
    let folder = file.parent()?;
    if let Some(given) = given {
        return Some(folder.join(given)).filter(|module| module.is_file());
    }
    let folder =
        if is_root || file.ends_with("mod.rs") { folder.to_owned() } else { file.with_extension("") };
    let candidates = [folder.join(name).with_extension("rs"), folder.join(name).join("mod.rs")];
    candidates.into_iter().find(|module| module.is_file())
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
/// The test programs do not compile.
pub(super) fn build(
    workspace: &Workspace,
    artifacts: &Artifacts,
    targets: &[Target],
) -> Result<Vec<TestProgram>> {
    let mut programs = Vec::new();
    for arguments in selections(targets) {
        let mut command = host_cargo(workspace, artifacts);
        command.args(["test", "--quiet", "--release", "--no-run"]).args(arguments);
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
    programs.retain(|program| targets.iter().any(|target| target.is_in(&program.source)));
    Ok(programs)
}

/// The arguments with which cargo builds the targets, for each group of packages that it builds at once.
fn selections(targets: &[Target]) -> Vec<Vec<&str>> {
    let packages: BTreeSet<&str> = targets.iter().map(|target| target.package.as_str()).collect();
    let mut groups: Vec<Vec<&str>> = Vec::new();
    for package in packages {
        // Built alone, mtd-common would need fewer features of common dependencies, which would be compiled once more.
        match groups.iter_mut().find(|group| group[..] == [COMMON]) {
            Some(group) if package == WITH_COMMON => group.push(package),
            _ => groups.push(vec![package]),
        }
    }
    let selection = |group: Vec<_>| {
        let chosen: BTreeSet<Vec<_>> = targets
            .iter()
            .filter(|target| group.contains(&target.package.as_str()))
            .map(Target::selection)
            .collect();
        let together = if group[..] == [COMMON] { vec![COMMON, WITH_COMMON] } else { group };
        let packages = together.into_iter().flat_map(|package| ["-p", package]);
        packages.chain(chosen.into_iter().flatten()).collect()
    };
    groups.into_iter().map(selection).collect()
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
        source: target["src_path"].as_str()?.into(),
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
        for filter in ["helper", "strange", "outer::it_waits", "nothing"] {
            assert!(!matches(&target, filter), "{filter}");
        }
        fs::remove_dir_all(target.source.parent().unwrap()).unwrap();
    }

    #[test]
    fn a_module_that_is_written_out_can_have_each_of_the_files_tests() {
        let text = "#[cfg(test)]\nmod tests {\n    #[test]\n    fn a() {}\n    mod deep {\n        #[test]\n        fn b() {}\n    }\n}\n";
        let target = source("inline", &[("lib.rs", text)]);
        for filter in ["tests::a", "tests::deep::b", "deep::b"] {
            assert!(matches(&target, filter), "{filter}");
        }
        assert!(!matches(&target, "tests::c"));
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
    fn only_what_is_chosen_is_built_and_with_the_features_of_all() {
        let target = |package: &str, name: &str, kind: &str| Target {
            package: package.to_owned(),
            name: name.to_owned(),
            kind: kind.to_owned(),
            source: PathBuf::new(),
        };
        let common = target("mtd-common", "mtd_common", "lib");
        let (library, check) =
            (target("mtd-userspace", "mtd", "lib"), target("mtd-userspace", "check", "test"));
        let netns = target("mtd-tests", "netns", "test");
        let words = |targets: &[&Target]| {
            let targets: Vec<Target> = targets.iter().map(|&target| target.clone()).collect();
            selections(&targets).iter().map(|words| words.join(" ")).collect::<Vec<_>>()
        };
        assert_eq!(words(&[&netns]), ["-p mtd-tests --test netns"]);
        assert_eq!(words(&[&common]), ["-p mtd-common -p mtd-userspace --lib"]);
        assert_eq!(words(&[&check]), ["-p mtd-userspace --test check"]);
        let all = words(&[&common, &library, &check, &netns]);
        assert_eq!(all, ["-p mtd-common -p mtd-userspace --lib --test check", "-p mtd-tests --test netns",]);
    }

    #[test]
    fn a_test_program_is_found_in_cargos_messages() {
        let message = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml",
            "target":{"kind":["test"],"name":"netns","src_path":"/w/tests/netns/main.rs"},"profile":{"test":true},"executable":"/t/netns-1a2b"}"#;
        let expected = TestProgram {
            name: "netns".to_owned(),
            executable: "/t/netns-1a2b".into(),
            directory: "/w/tests".into(),
            source: "/w/tests/netns/main.rs".into(),
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
