//! The app: serves over HTTP the version that it found in its checkout when it started.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process;
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::setsid;

use crate::ctl::{self, Claim};

/// What it serves, in its repository.
pub(crate) const PAGE: &str = "page.txt";

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serves until it is killed.
pub(crate) fn serve(dir: &Path, service: &str) -> anyhow::Result<process::ExitCode> {
    // Fails only for one who has a group already, so is out of others' reach.
    let _ = setsid();
    let page = fs::read_to_string(PAGE).with_context(|| format!("cannot read {PAGE}"))?;
    let listener = listen(&port_file(dir, service))?;
    println!("{service}: process {} serves {:?}", process::id(), page.trim());
    let _claim = Claim::take(&ctl::lock_file(dir, service))?;
    end_with_the_demo(dir.join(ctl::ALIVE));
    for client in listener.incoming() {
        // One who hangs up is no reason to end.
        let _ = client.and_then(|client| answer(&client, &page));
    }
    Ok(process::ExitCode::SUCCESS)
}

/// Keeps its port over restarts.
fn listen(port_file: &Path) -> anyhow::Result<TcpListener> {
    let port = match fs::read_to_string(port_file) {
        Ok(port) => port.parse().with_context(|| format!("no port in {}", port_file.display()))?,
        Err(_) => 0,
    };
    let listener =
        TcpListener::bind(("127.0.0.1", port)).with_context(|| format!("cannot listen on port {port}"))?;
    fs::write(port_file, listener.local_addr()?.port().to_string())
        .with_context(|| format!("cannot write {}", port_file.display()))?;
    Ok(listener)
}

/// Where a service says which port it has.
pub(crate) fn port_file(dir: &Path, service: &str) -> PathBuf {
    dir.join(format!("{service}.port"))
}

/// A demo that is killed cannot end its app.
fn end_with_the_demo(alive: PathBuf) {
    thread::spawn(move || {
        let _ = ctl::wait_for_release(&alive);
        process::exit(0);
    });
}

fn answer(client: &TcpStream, page: &str) -> std::io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(client).lines();
    while !lines.next().transpose()?.unwrap_or_default().is_empty() {}
    let mut client = client;
    write!(
        client,
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nX-Process: {}\r\n\
         Connection: close\r\n\r\n{page}",
        page.len(),
        process::id(),
    )
}
