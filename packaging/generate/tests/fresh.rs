//! What is committed is what the code and the documentation say now.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::fs;

#[test]
fn what_is_committed_is_fresh() {
    let root = generate::packaging();
    let files = generate::files(&root);
    assert_eq!(files.len(), 5);
    for file in files {
        let file = file.unwrap();
        let committed = fs::read(root.join(file.path)).unwrap_or_default();
        assert!(committed == file.content, "packaging/{} is stale: run `make generated`", file.path);
        assert!(
            !file.content.windows(7).any(|word| word == b"exec-as"),
            "{} shows what is hidden",
            file.path
        );
    }
}
