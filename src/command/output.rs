//! The reading ends of a command's pipes.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::error::StartError;
use crate::tail::Tail;

/// What a command writes, and before it what the helper that starts it has to report.
pub(super) struct Output {
    reports: Option<Receiver>,
    command: Receiver,
    tail: Tail,
    reported: bool,
}

impl Output {
    /// With the end that is the command's standard output and standard error.
    pub(super) fn open() -> Result<(Self, PipeWriter), StartError> {
        let (command, writer) = pipe()?;
        Ok((Self { reports: None, command, tail: Tail::default(), reported: false }, writer))
    }

    /// The end that is the helper's standard error. It closes when the helper becomes the command, which
    /// therefore cannot write to it: reports cannot be forged.
    pub(super) fn open_reports(&mut self) -> Result<PipeWriter, StartError> {
        let (reports, writer) = pipe()?;
        self.reports = Some(reports);
        Ok(writer)
    }

    /// Reads until both pipes end. What was read is kept when the future is dropped.
    pub(super) async fn follow(&mut self) {
        if let Some(mut reports) = self.reports.take() {
            read(&mut reports, &mut self.tail).await;
            self.reported = !self.tail.is_empty();
        }
        read(&mut self.command, &mut self.tail).await;
    }

    /// True when the helper had something to say.
    pub(super) fn reported(&self) -> bool {
        self.reported
    }

    /// The last lines.
    pub(super) fn into_lines(self) -> Vec<String> {
        self.tail.into_lines()
    }
}

fn pipe() -> Result<(Receiver, PipeWriter), StartError> {
    let receiver = |reader: PipeReader| Receiver::from_owned_fd(OwnedFd::from(reader));
    let (reader, writer) = std::io::pipe().map_err(StartError::Pipe)?;
    Ok((receiver(reader).map_err(StartError::Pipe)?, writer))
}

/// A pipe that cannot be read any more has ended as well.
async fn read(pipe: &mut Receiver, tail: &mut Tail) {
    // On the heap: an array would be part of every future that runs a command.
    let mut buffer = vec![0; 8192];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        tail.push(&buffer[..count]);
    }
}
