//! What the documentation says of the program's parts is held against the program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The crates that are linked into the agent. What only macros and build scripts need runs where it is built.
fn linked() -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--package", env!("CARGO_PKG_NAME"), "--edges", "normal,no-proc-macro"])
        .args(["--target", "x86_64-unknown-linux-gnu", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| *name != env!("CARGO_PKG_NAME")).map(str::to_owned).collect()
}

/// What stands in the first column of the tables of crates.
fn named(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut of_crates = false;
    for line in text.lines() {
        let Some(cell) = line.strip_prefix("| ").and_then(|line| line.split(" |").next()) else {
            // The line below the titles is part of the table.
            of_crates &= line.starts_with('|');
            continue;
        };
        if of_crates {
            names.extend(cell.split([',', ' ']).filter(|word| is_name(word)).map(str::to_owned));
        }
        of_crates |= cell == "crate";
    }
    names
}

/// Neither a version nor what joins two names.
fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic()) && word != "with"
}

#[test]
fn every_crate_that_is_linked_has_its_place_in_security_md() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md")).unwrap();
    let named = named(&text);
    let unique: BTreeSet<_> = named.iter().cloned().collect();
    assert_eq!(unique.len(), named.len(), "named twice: {named:?}");
    let linked = linked();
    assert!(linked.contains("rumqttc"), "{linked:?}");
    let missing: Vec<_> = linked.difference(&unique).collect();
    let gone: Vec<_> = unique.difference(&linked).collect();
    assert!(missing.is_empty(), "say in docs/security.md what these see of the network: {missing:?}");
    assert!(gone.is_empty(), "docs/security.md names what is no longer linked: {gone:?}");
}
