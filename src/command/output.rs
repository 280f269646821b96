//! The reading ends of a command's pipes.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::OwnedFd;
use std::process::ExitStatus;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;

use super::error::StartError;
use super::witness;
use crate::tail::Tail;

/// What there was to read.
pub(super) struct Said {
    /// By those that start commands, in one line.
    pub(super) reports: Option<String>,
    /// How the command ended, by the witness in its unit.
    pub(super) ending: Option<ExitStatus>,
    /// The command's last lines.
    pub(super) tail: Vec<String>,
}

/// What a command writes, and what those have to report that start it.
pub(super) struct Output {
    reporters: Option<Receiver>,
    command: Receiver,
    reports: Tail,
    tail: Tail,
}

impl Output {
    /// With the end that is the command's standard output and standard error.
    pub(super) fn open() -> Result<(Self, PipeWriter), StartError> {
        let (command, writer) = pipe()?;
        Ok((Self { reporters: None, command, reports: Tail::default(), tail: Tail::default() }, writer))
    }

    /// The end that is the standard error of the helper and of the client that starts a unit. The helper's
    /// closes when it becomes the command, which therefore cannot write to it: reports cannot be forged.
    pub(super) fn open_reports(&mut self) -> Result<PipeWriter, StartError> {
        let (reporters, writer) = pipe()?;
        self.reporters = Some(reporters);
        Ok(writer)
    }

    /// Reads until both pipes end: at the same time, as a client lives as long as its unit. What was read is
    /// kept when the future is dropped.
    pub(super) async fn follow(&mut self) {
        let reports = async {
            if let Some(reporters) = &mut self.reporters {
                read(reporters, &mut self.reports).await;
            }
        };
        tokio::join!(reports, read(&mut self.command, &mut self.tail));
    }

    pub(super) fn finish(self) -> Said {
        let mut reports = self.reports.into_lines();
        let ending = witness::heard(&mut reports);
        let reports = (!reports.is_empty()).then(|| reports.join(" "));
        Said { reports, ending, tail: self.tail.into_lines() }
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
