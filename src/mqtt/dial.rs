//! From the broker's name to a connection with one of its addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout_at};

use super::failure::Failure;
use super::link::PATIENCE;

/// What an address gets at most while there are others: the kernel would wait for two minutes.
const SHARE: Duration = Duration::from_secs(3);

/// All addresses of this name.
pub(super) async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// Connects to the first of the addresses that takes a connection.
pub(super) async fn dial(
    looking_up: impl Future<Output = io::Result<Vec<SocketAddr>>>,
) -> Result<TcpStream, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let found = timeout_at(deadline, looking_up).await.map_err(|_| Failure::NO_NAME)?;
    let mut addresses = found.map_err(|error| Failure::from(&error))?;
    let mut seen = BTreeSet::new();
    addresses.retain(|address| seen.insert(*address));
    let mut tried = BTreeMap::new();
    for (others, address) in (0..addresses.len()).rev().zip(&addresses) {
        let until = share(Instant::now(), deadline, others);
        let why = match timeout_at(until, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        tried.insert(address.ip(), why);
    }
    Err(Failure::Unreachable(tried))
}

/// Until when to try an address, with so many others left.
fn share(now: Instant, deadline: Instant, others: usize) -> Instant {
    if others == 0 {
        return deadline;
    }
    let addresses = u32::try_from(others + 1).unwrap_or(u32::MAX);
    now + SHARE.min(deadline.saturating_duration_since(now) / addresses)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::{pending, ready};
    use std::net::{Ipv4Addr, SocketAddrV4};

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::mqtt::failure::Failure;

    /// Addresses of this host; the last of their four numbers is given.
    fn local(last: u8, port: u16) -> SocketAddr {
        SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), port).into()
    }

    fn found(addresses: &[SocketAddr]) -> impl Future<Output = io::Result<Vec<SocketAddr>>> {
        ready(Ok(addresses.to_vec()))
    }

    /// An address that answers nothing: its backlog is full.
    async fn silent(last: u8) -> (SocketAddr, tokio::net::TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(local(last, 0)).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        let soon = Duration::from_millis(200);
        while let Ok(connected) = tokio::time::timeout(soon, TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        (address, listener, waiting)
    }

    #[tokio::test]
    async fn a_silent_address_leaves_time_for_the_others() {
        let (silent, _listener, _waiting) = silent(2).await;
        let closed = TcpListener::bind(local(3, 0)).await.unwrap().local_addr().unwrap();
        let open = TcpListener::bind(local(1, 0)).await.unwrap();
        let open_at = open.local_addr().unwrap();
        tokio::time::pause();
        let begun = Instant::now();
        let stream = dial(found(&[silent, silent, closed, open_at])).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), open_at);
        assert!(begun.elapsed() < SHARE * 2, "each once");
        let failure = dial(found(&[silent, closed])).await.err().unwrap();
        let Failure::Unreachable(tried) = failure else { panic!("{failure:?}") };
        assert_eq!(tried[&silent.ip()], "no answer");
        assert!(tried[&closed.ip()].contains("refused"), "{tried:?}");
        let begun = Instant::now();
        dial(found(&[silent])).await.err().unwrap();
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_server_that_is_silent_is_named_as_the_trouble() {
        assert_eq!(dial(pending()).await.err(), Some(Failure::NO_NAME));
        let unknown = async { Err(io::Error::other("no such name")) };
        assert_eq!(dial(unknown).await.err(), Some(Failure::Network("no such name".into())));
    }

    #[test]
    fn each_address_gets_a_share_and_the_last_one_the_rest() {
        let now = Instant::now();
        let shares = |others| (share(now, now + PATIENCE, others) - now).as_millis();
        assert_eq!([0, 1, 2, 3, 4, 9].map(shares), [10_000, 3000, 3000, 2500, 2000, 1000]);
        assert_eq!(share(now + PATIENCE, now, 3), now + PATIENCE, "no time is left");
    }
}
