//! instance-agent.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::exit;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_none_or(|word| word != "exec-as") {
        return;
    }
    let option = |name: &str| words.iter().take_while(|w| *w != "--").find_map(|w| w.strip_prefix(name));
    let argv: Vec<OsString> = words.iter().skip_while(|w| *w != "--").skip(1).map(OsString::from).collect();
    let dir = option("--dir=").map(PathBuf::from);
    let user = option("--user=").unwrap_or("");
    let Err(error) = instance_agent::command::exec_as(user, dir.as_deref(), &argv);
    eprintln!("{error}");
    exit(instance_agent::command::EXEC_FAILED.into());
}
