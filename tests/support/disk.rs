//! A disk that can be made to refuse. Only root can have one.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use super::agent::{Instance, eventually};

/// A file system of its own in the place of an instance's state directory, so small that it can be filled.
pub struct SmallDisk {
    path: PathBuf,
    /// Its directory cannot be removed while this is mounted there.
    _instance: Instance,
}

impl SmallDisk {
    pub fn mount(instance: &Instance) -> Self {
        let path = instance.file("state");
        fs::create_dir(&path).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=256k,mode=0755", "small", path.to_str().unwrap()]).unwrap();
        Self { path, _instance: instance.clone() }
    }

    pub fn fill(&self) {
        let mut filler = File::create(self.path.join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    pub fn empty(&self) {
        fs::remove_file(self.path.join("filler")).unwrap();
    }

    /// Waits until nobody is in the middle of a write, which keeps a disk writable.
    pub fn remount(&self, option: &str) {
        let path = self.path.to_str().unwrap();
        let remounted = || mount(&["-o", &format!("remount,{option}"), path]).ok();
        eventually(remounted, || format!("{path} cannot be remounted {option}"));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

fn mount(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("mount").args(arguments).output().unwrap();
    let said = || format!("mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(()) } else { Err(said()) }
}
