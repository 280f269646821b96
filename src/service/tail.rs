//! The last lines of a command's output, in bounded memory.

use std::collections::VecDeque;

/// How many lines are kept.
const LINES: usize = 20;
/// How many bytes of each line are kept.
const LINE_BYTES: usize = 1000;

/// Takes output in any pieces and keeps the end of it.
#[derive(Default)]
pub(super) struct Tail {
    finished: VecDeque<Vec<u8>>,
    current: Vec<u8>,
}

impl Tail {
    pub(super) fn push(&mut self, output: &[u8]) {
        for piece in output.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = LINE_BYTES.saturating_sub(self.current.len());
            self.current.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.current);
        if line.trim_ascii().is_empty() {
            return;
        }
        if self.finished.len() == LINES {
            self.finished.pop_front();
        }
        self.finished.push_back(line);
    }

    /// The lines so far, cleaned; blank ones are left out.
    pub(super) fn lines(&mut self) -> Vec<String> {
        self.end_line();
        self.finished.iter().map(|line| clean(line)).collect()
    }
}

/// What a command prints ends up in logs and terminals: nothing in it may act there.
fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line.trim_ascii_end());
    text.chars().map(|c| if c == '\t' { ' ' } else { c }).map(visible).collect()
}

fn visible(c: char) -> char {
    if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(pieces: &[&str]) -> Vec<String> {
        let mut tail = Tail::default();
        for piece in pieces {
            tail.push(piece.as_bytes());
        }
        tail.lines()
    }

    #[test]
    fn lines_may_come_in_any_pieces() {
        assert_eq!(lines_of(&["a", "b\nc", "\r\n\n  \nd"]), ["ab", "c", "d"]);
        assert!(lines_of(&[""]).is_empty());
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let all: Vec<String> = (0..100).map(|n| format!("line {n}\n")).collect();
        let kept = lines_of(&all.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((kept.len(), kept[0].as_str(), kept[19].as_str()), (20, "line 80", "line 99"));
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut tail = Tail::default();
        for _ in 0..1000 {
            tail.push(&[b'x'; 4096]);
        }
        assert!(tail.current.capacity() < 4 * LINE_BYTES);
        assert_eq!(tail.lines(), ["x".repeat(LINE_BYTES)]);
    }

    #[test]
    fn control_characters_are_replaced() {
        assert_eq!(lines_of(&["\x1b[31mred\x07\tx\u{85}"]), ["\u{fffd}[31mred\u{fffd} x\u{fffd}"]);
        let mut tail = Tail::default();
        tail.push(b"\xff\xfeok");
        assert_eq!(tail.lines(), ["\u{fffd}\u{fffd}ok"]);
    }
}
