//! Asks the app which version it is.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the app may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the app said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// What it serves.
    pub(crate) page: String,
    /// The process that did.
    pub(crate) process: u32,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.page, self.process)
    }
}

/// `GET /` at this port of 127.0.0.1.
pub(crate) async fn get(port: u16) -> anyhow::Result<Answer> {
    let response = timeout(PATIENCE, exchange(port)).await.context("no answer in time")??;
    understand(&response).with_context(|| format!("an answer that is not the app's: {response:?}"))
}

async fn exchange(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    Ok(response)
}

fn understand(response: &str) -> Option<Answer> {
    let (head, page) = response.split_once("\r\n\r\n")?;
    let process = head.lines().find_map(|line| line.strip_prefix("X-Process: "))?.parse().ok()?;
    head.starts_with("HTTP/1.1 200 ").then(|| Answer { page: page.trim().to_owned(), process })
}
