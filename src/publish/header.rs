//! The webhook's headers, as the publisher is given them.

/// Longest name and value taken: HTTP servers take no more either.
const LONGEST: usize = 8192;

/// `NAME: VALUE`. The value is left out of every complaint: it is not the publisher's own.
pub fn parse(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("must be NAME: VALUE")?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || !name.bytes().all(is_name) {
        return Err("must be NAME: VALUE, the name of letters, digits and -".to_owned());
    }
    if value.is_empty() {
        return Err(format!("{name} has no value: leave the header out"));
    }
    if value.chars().any(char::is_control) || text.len() > LONGEST {
        return Err(format!("the value of {name} is too long or holds control characters"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// A token of RFC 9110, 5.6.2.
fn is_name(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}
