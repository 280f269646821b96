//! `make generated`: writes each generated file to where it is kept.

use std::path::Path;
use std::process::ExitCode;
use std::{fs, io};

fn main() -> ExitCode {
    let root = generate::packaging();
    for file in generate::files(&root) {
        let written = file.and_then(|file| write(&root.join(file.path), &file.content));
        if let Err(error) = written {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let failed = |error| io::Error::other(format!("{}: {error}", path.display()));
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(failed)?;
    }
    fs::write(path, content).map_err(failed)
}
