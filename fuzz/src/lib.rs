//! What holds for every message, whatever is in it.

use instance_agent::config::{self, Source};
use instance_agent::github::{CommitId, GitRef, RepoName};
use instance_agent::push::{self, Decoded, Headers, Opened};
use instance_agent::signature::Secrets;

/// Decodes a message, once as an agent that asks for no signatures and once as one that does.
///
/// # Panics
/// When what comes out is not as it must be.
pub fn decode(headers: &Headers, payload: &[u8]) {
    let Ok(Opened::Delivery(delivery)) = push::open(headers.clone(), payload) else { return };
    if let Ok(trusted) = delivery.authenticate(None)
        && let Ok(Decoded::Push(push)) = trusted.decode()
    {
        assert!(push.repo.as_str().parse::<RepoName>().is_ok());
        assert!(push.git_ref.as_str().parse::<GitRef>().is_ok());
        assert!(push.after.as_str().parse::<CommitId>().is_ok());
        assert!(push.delivery.iter().all(|id| is_id(id)) && push.by_hand.iter().all(|made| is_id(&made.id)));
        for shown in [push.repo.as_str(), push.git_ref.as_str(), push.after.as_str()] {
            assert!(!shown.contains(char::is_control));
        }
    }
    let Ok(Opened::Delivery(delivery)) = push::open(headers.clone(), payload) else { unreachable!() };
    // Whoever finds a signature without the secret has found something else than a mistake of ours.
    assert!(delivery.authenticate(Some(&secrets())).is_err(), "forged");
}

/// Looks for a configuration in user-data.
///
/// # Panics
/// When what comes out is not as it must be.
pub fn read_user_data(raw: &[u8]) {
    match config::source_of(raw) {
        Ok(source) => assert!(source.is_none_or(|source| matches!(source, Source::UserData(_)))),
        // Each mistake is one line of a log.
        Err(mistakes) => {
            for mistake in mistakes.iter().map(ToString::to_string) {
                assert!(
                    mistake.starts_with("user-data") && !mistake.contains(char::is_control),
                    "{mistake:?}"
                );
            }
        }
    }
}

fn is_id(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

fn secrets() -> Secrets {
    Secrets::parse(b"known to nobody\nnor this\n").expect("two secrets")
}
