//! What the command line asks for.

use crate::instance;

/// What this process is to do. It is also its own peers and its own helpers.
pub enum Run {
    Measure(Options),
    /// Say when it was started, on this socket: what the measured agents and loops run as their stop command.
    Mark(String),
    /// Be a subscriber that is no more than the library's own loop.
    Peer {
        acks: Acks,
        port: u16,
    },
    /// Measure inside the container.
    Inside(Options),
    /// Another harness's question.
    List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acks {
    Manual,
    Automatic,
}

#[derive(Debug, Clone)]
pub struct Options {
    parts: Vec<String>,
    pub json: bool,
    /// Everything with the smallest counts, for what it does rather than how long that takes.
    pub smoke: bool,
    pub rounds: usize,
    /// How many messages a round sends to each subscriber.
    pub messages: usize,
}

impl Options {
    pub fn from_arguments(arguments: impl Iterator<Item = String>) -> Run {
        let mut options = Self { parts: Vec::new(), json: false, smoke: true, rounds: 5, messages: 50_000 };
        let mut inside = false;
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().unwrap_or_else(|| panic!("{argument} needs a value"));
            match argument.as_str() {
                // cargo bench says so; cargo test does not.
                "--bench" => options.smoke = false,
                "--smoke" => options.smoke = true,
                "--json" => options.json = true,
                // Instead of what is built with this program.
                "--agent" => instance::use_program(value().into()),
                "--rounds" => options.rounds = number(&value()),
                "--messages" => options.messages = number(&value()),
                "--list" => return Run::List,
                "--inside" => inside = true,
                "--mark" => return Run::Mark(value()),
                "--peer-manual" => return Run::Peer { acks: Acks::Manual, port: number(&value()) },
                "--peer-automatic" => return Run::Peer { acks: Acks::Automatic, port: number(&value()) },
                // Meant for the usual harness of tests.
                option if option.starts_with("--") => {}
                part => options.parts.push(part.to_owned()),
            }
        }
        if options.smoke {
            (options.rounds, options.messages) = (1, 200);
        }
        if inside { Run::Inside(options) } else { Run::Measure(options) }
    }

    pub fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }

    /// As many, or as few as show that it works.
    pub fn count(&self, measured: usize, smoke: usize) -> usize {
        if self.smoke { smoke } else { measured }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number that fits here"))
}
