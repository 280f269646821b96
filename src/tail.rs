//! The last lines of a command's output, in bounded memory and safe to print.

use std::collections::VecDeque;

use crate::github::turns_text;

/// Lines kept.
const LINES: usize = 20;
/// Bytes kept of each line.
const LINE: usize = 1000;
/// Bytes held of each line: a character that begins within [`LINE`] is then whole.
const HELD: usize = LINE + 3;

/// Takes output as it comes, keeps its last lines. Empty lines are not worth a place.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<Vec<u8>>,
    unfinished: Vec<u8>,
}

impl Tail {
    /// A carriage return ends a line too, or a progress meter would be one line, of which the end is cut.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| is_end(byte)) {
            let (line, ends) = match piece.split_last() {
                Some((&last, line)) if is_end(last) => (line, true),
                _ => (piece, false),
            };
            let room = HELD - self.unfinished.len();
            self.unfinished.extend_from_slice(&line[..line.len().min(room)]);
            if ends {
                self.end_line();
            }
        }
    }

    /// The lines, oldest first, each cleaned.
    pub(crate) fn into_lines(mut self) -> Vec<String> {
        self.end_line();
        self.lines.iter().map(|line| cut(clean(&String::from_utf8_lossy(line)))).collect()
    }

    fn end_line(&mut self) {
        if self.unfinished.is_empty() {
            return;
        }
        if self.lines.len() == LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(std::mem::take(&mut self.unfinished));
    }
}

fn is_end(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

/// Cleaning made the line longer where it replaced bytes.
fn cut(mut line: String) -> String {
    let end = (0..=LINE.min(line.len())).rev().find(|&end| line.is_char_boundary(end));
    line.truncate(end.unwrap_or(0));
    line
}

/// The text without anything that could forge a line of a log, drive a terminal, or turn the reading direction.
pub(crate) fn clean(text: &str) -> String {
    let safe = |c| match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c if turns_text(c) => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(safe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(bytes: &[u8]) -> Vec<String> {
        let mut tail = Tail::default();
        tail.push(bytes);
        tail.into_lines()
    }

    #[test]
    fn the_last_twenty_lines_are_kept_in_order() {
        let lines: Vec<_> = (1..=50).map(|n| format!("line {n}")).collect();
        assert_eq!(tail(lines.join("\n").as_bytes()), lines[30..]);
    }

    #[test]
    fn lines_do_not_depend_on_how_the_output_was_split() {
        let text = "eins\r\nzwei größer\n\n10%\r100%\ndrei".as_bytes();
        let mut bytewise = Tail::default();
        text.chunks(1).for_each(|byte| bytewise.push(byte));
        let expected = ["eins", "zwei größer", "10%", "100%", "drei"];
        assert_eq!(bytewise.into_lines(), expected);
        assert_eq!(tail(text), expected);
    }

    #[test]
    fn a_line_is_at_most_1000_bytes_and_ends_with_a_whole_character() {
        for (unit, kept) in [("x", 1000), ("é", 1000), ("€", 999), ("a€", 1000), ("\u{1f600}", 1000)] {
            let line = tail(unit.repeat(2000).as_bytes()).remove(0);
            assert_eq!(line.len(), kept, "{unit}");
            assert!(!line.contains('\u{fffd}'), "{unit}");
        }
        let shifted = format!("x{}", "\u{1f600}".repeat(2000));
        assert_eq!(tail(shifted.as_bytes()), [&shifted[..997]]);
        assert_eq!(tail(&[0xff; 5000])[0].len(), 999, "U+FFFD has three bytes");
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let mut tail = Tail::default();
        let lines: Vec<u8> = [[b'x'; 4999].as_slice(), b"\n"].concat();
        for _ in 0..100 {
            tail.push(&[b'x'; 8192]);
            tail.push(&lines);
            let held: usize = tail.lines.iter().map(Vec::capacity).sum();
            assert!(held + tail.unfinished.capacity() <= (LINES + 1) * 2 * HELD, "{held}");
        }
    }

    #[test]
    fn invalid_utf_8_is_replaced() {
        assert_eq!(tail(b"a\xffb\xe2\x82c"), ["a\u{fffd}b\u{fffd}c"]);
    }

    #[test]
    fn nothing_that_drives_a_terminal_or_a_log_is_left() {
        assert_eq!(tail(b"\x1b[2Jx\x07\x7f\x00\ty"), ["\u{fffd}[2Jx\u{fffd}\u{fffd}\u{fffd} y"]);
        assert_eq!(clean("\u{85}\u{9b}31m\u{2028}\u{202e}\u{2066}größer 🙂"), "��31m���größer 🙂");
        let all: String = (0..=0xffff).filter_map(char::from_u32).collect();
        assert!(!clean(&all).contains(char::is_control));
    }
}
