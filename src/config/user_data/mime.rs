//! A MIME message → its parts. What this costs grows with the size of the message, however it is nested: the parser of
//! mail would look for each boundary in all that follows.

use mail_parser::{ContentType, MessageParser, MimeHeaders};

/// Messages made for cloud-init nest once, if at all.
const MAX_DEPTH: usize = 8;
const MAX_PARTS: usize = 256;
/// Of the headers of one part.
const MAX_HEAD: usize = 8 * 1024;

/// A part that holds no others.
pub(super) struct Leaf<'m> {
    /// With its headers.
    bytes: &'m [u8],
    body: &'m [u8],
    /// Type and subtype, in small letters.
    kind: (String, String),
}

/// The parts that hold no others, in their order.
pub(super) fn leaves(message: &[u8]) -> Result<Vec<Leaf<'_>>, String> {
    if divide(message).0.len() == message.len() {
        return Err("a MIME message without an end of its headers: it is cut off".to_owned());
    }
    let mut leaves = Vec::new();
    split(message, 1, &mut leaves)?;
    Ok(leaves)
}

fn split<'m>(bytes: &'m [u8], depth: usize, leaves: &mut Vec<Leaf<'m>>) -> Result<(), String> {
    let (head, body) = divide(bytes);
    if head.len() > MAX_HEAD {
        return Err(format!("a MIME message with a part whose headers are larger than {MAX_HEAD} bytes"));
    }
    let headers = MessageParser::new().with_mime_headers().parse_headers(head);
    let kind = headers.as_ref().and_then(|headers| headers.content_type());
    let Some(multipart) = kind.filter(|kind| kind.ctype().eq_ignore_ascii_case("multipart")) else {
        if leaves.len() == MAX_PARTS {
            return Err(format!("a MIME message of more than {MAX_PARTS} parts"));
        }
        leaves.push(Leaf { bytes, body, kind: names(kind) });
        return Ok(());
    };
    if depth == MAX_DEPTH {
        return Err(format!("a MIME message with multiparts more than {} deep", MAX_DEPTH - 1));
    }
    let boundary = multipart.attribute("boundary").unwrap_or_default();
    for part in parts(body, boundary)? {
        split(part, depth + 1, leaves)?;
    }
    Ok(())
}

/// RFC 2045, 5.2: what does not say is plain text.
fn names(kind: Option<&ContentType<'_>>) -> (String, String) {
    kind.map_or_else(
        || ("text".to_owned(), "plain".to_owned()),
        |kind| (kind.ctype().to_lowercase(), kind.subtype().unwrap_or_default().to_lowercase()),
    )
}

/// Headers and body, without the empty line between them.
fn divide(bytes: &[u8]) -> (&[u8], &[u8]) {
    let mut at = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        if matches!(line, b"\n" | b"\r\n") {
            return (&bytes[..at], &bytes[at + line.len()..]);
        }
        at += line.len();
    }
    (bytes, &[])
}

/// What stands between the lines with the boundary. A message without the last of them is not taken for all of it.
fn parts<'m>(body: &'m [u8], boundary: &str) -> Result<Vec<&'m [u8]>, String> {
    let (mut parts, mut begun, mut at) = (Vec::new(), None, 0);
    for line in body.split_inclusive(|b| *b == b'\n') {
        let end = at;
        at += line.len();
        let Some(delimiter) = Delimiter::of(line, boundary) else { continue };
        parts.extend(begun.map(|begun| without_line_end(&body[begun..end])));
        if delimiter == Delimiter::Last {
            return Ok(parts);
        }
        if parts.len() == MAX_PARTS {
            return Err(format!("a MIME multipart of more than {MAX_PARTS} parts"));
        }
        begun = Some(at);
    }
    Err("a MIME multipart without its closing boundary: it is cut off".to_owned())
}

#[derive(PartialEq, Eq)]
enum Delimiter {
    Next,
    Last,
}

impl Delimiter {
    /// RFC 2046, 5.1.1: white space may follow.
    fn of(line: &[u8], boundary: &str) -> Option<Self> {
        let rest = line.strip_prefix(b"--")?.strip_prefix(boundary.as_bytes())?;
        let (delimiter, rest) = match rest.strip_prefix(b"--") {
            Some(rest) => (Self::Last, rest),
            None => (Self::Next, rest),
        };
        (!boundary.is_empty() && rest.trim_ascii().is_empty()).then_some(delimiter)
    }
}

/// The end of the line before a boundary belongs to the boundary.
fn without_line_end(part: &[u8]) -> &[u8] {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}

impl Leaf<'_> {
    pub(super) fn is(&self, (kind, subtype): (&str, &str)) -> bool {
        self.kind.0 == kind && self.kind.1 == subtype
    }

    /// Its content without its transfer encoding. `None`: it cannot be decoded to UTF-8 text.
    pub(super) fn text(&self) -> Option<String> {
        // Without headers, nothing is encoded.
        let Some(message) = MessageParser::new().with_mime_headers().parse(self.bytes) else {
            return String::from_utf8(self.body.to_vec()).ok();
        };
        let part = message.parts.first().filter(|part| !part.is_encoding_problem)?;
        // The parser puts this sign where a character cannot be decoded.
        let text = std::str::from_utf8(part.contents()).ok().filter(|text| !text.contains('\u{fffd}'))?;
        Some(text.to_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    /// Type and text of each leaf.
    fn found(message: &str) -> Vec<(String, String)> {
        let leaves = leaves(message.as_bytes()).unwrap_or_else(|problem| panic!("{problem}:\n{message}"));
        let shown = |leaf: &Leaf<'_>| (format!("{}/{}", leaf.kind.0, leaf.kind.1), leaf.text().unwrap());
        leaves.iter().map(shown).collect()
    }

    fn multipart(boundary: &str, parts: &[&str]) -> String {
        let parts: String = parts.iter().map(|part| format!("--{boundary}\n{part}\n")).collect();
        format!(
            "Content-Type: multipart/mixed; boundary={boundary}\n\nbefore\n{parts}--{boundary}--\nafter\n"
        )
    }

    fn refused(message: &str) -> String {
        leaves(message.as_bytes()).err().unwrap_or_else(|| panic!("{message}"))
    }

    #[test]
    fn parts_are_found_where_their_boundary_says() {
        let inner = multipart(
            "xy",
            &["Content-Type: TEXT/Y-Z; charset=utf-8\n\n--xyz\n--x y\n -- x", "\nno headers\n"],
        );
        let message = multipart(
            "x",
            &["Content-Type: a/b\n\nfirst\n", &inner, "Content-Transfer-Encoding: base64\n\nPT0="],
        );
        let expected = [
            ("a/b", "first\n"),
            ("text/y-z", "--xyz\n--x y\n -- x"),
            ("text/plain", "no headers\n"),
            ("text/plain", "=="),
        ];
        let expected: Vec<_> = expected.map(|(kind, text)| (kind.to_owned(), text.to_owned())).into();
        assert_eq!(found(&message), expected);
        let crlf: Vec<_> =
            expected.into_iter().map(|(kind, text)| (kind, text.replace('\n', "\r\n"))).collect();
        assert_eq!(found(&message.replace('\n', "\r\n")), crlf);
    }

    #[test]
    fn what_is_cut_off_anywhere_is_refused() {
        let message = multipart("x", &["Content-Type: a/b\n\nfirst", &multipart("y", &["second"])]);
        let whole = message.rfind("--x--").unwrap() + "--x--".len();
        assert_eq!(leaves(&message.as_bytes()[..whole]).unwrap_or_default().len(), 2);
        for end in 1..whole {
            assert!(refused(&message[..end]).contains("cut off"), "{}", &message[..end]);
        }
    }

    #[test]
    fn there_is_a_limit_to_everything() {
        let nested = |depth: usize| {
            (1..depth).fold("\nin".to_owned(), |inner, at| multipart(&format!("b{at}"), &[&inner]))
        };
        assert_eq!(found(&nested(MAX_DEPTH)).len(), 1);
        assert_eq!(refused(&nested(MAX_DEPTH + 1)), "a MIME message with multiparts more than 7 deep");
        assert_eq!(found(&multipart("x", &["\na"; MAX_PARTS])).len(), MAX_PARTS);
        assert!(refused(&multipart("x", &["\na"; MAX_PARTS + 1])).contains("more than 256 parts"));
        let many = multipart("y", &["\na"; MAX_PARTS / 2]);
        assert_eq!(refused(&multipart("x", &[&many, &many, "\na"])), "a MIME message of more than 256 parts");
        let head = format!("X: {}\n\n", "x".repeat(MAX_HEAD));
        assert!(refused(&multipart("x", &[&head])).contains("headers are larger than 8192 bytes"));
    }
}
