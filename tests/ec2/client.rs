//! The client of the metadata service.

use std::net::TcpListener;
use std::time::Duration;

use instance_agent::imds::{Imds as Client, ImdsError, Tags};
use tokio::time::{Instant, advance, pause, resume};

use crate::support::free_port;
use crate::support::imds::{INSTANCE_ID, Imds, Trouble};

const LONG: Duration = Duration::from_secs(60);

fn client(imds: &Imds) -> Client {
    Client::new(&imds.endpoint()).unwrap()
}

fn soon() -> Instant {
    Instant::now() + LONG
}

async fn trouble(client: &Client, limit: Duration) -> ImdsError {
    client.user_data(Instant::now() + limit).await.unwrap_err()
}

#[tokio::test]
async fn everything_is_asked_for_with_one_token() {
    let imds = Imds::with_user_data("#!/bin/sh\n\n");
    let keys =
        ["Name", "instance-agent:app:a.b_c@d", "instance-agent:app:x+y=z", "instance-agent:app:50% &ä#?"];
    imds.tag(&keys.map(|key| (key, "value of it")));
    let client = client(&imds);
    assert_eq!(client.user_data(soon()).await.unwrap().as_deref(), Some(&b"#!/bin/sh\n\n"[..]));
    assert_eq!(client.instance_id(soon()).await.unwrap().as_str(), INSTANCE_ID);
    let tags = client.tags(|key| key != "Name", soon()).await.unwrap();
    let expected: Tags = keys[1..].iter().map(|key| ((*key).to_owned(), "value of it".to_owned())).collect();
    assert_eq!(tags, expected);
    assert_eq!(imds.issued(), 1);
    assert_eq!(imds.requests("Name"), 0);
}

#[tokio::test]
async fn what_does_not_exist_is_none() {
    let imds = Imds::start();
    assert_eq!(client(&imds).user_data(soon()).await, Ok(None));
}

#[tokio::test]
async fn tags_that_are_off_are_not_tags_that_are_missing() {
    let imds = Imds::start();
    let off = client(&imds).tags(|_| true, soon()).await.unwrap_err();
    assert!(matches!(off, ImdsError::TagsOff { .. }), "{off}");
    assert!(off.to_string().contains("InstanceMetadataTags=enabled"), "{off}");
    imds.tag(&[]);
    assert_eq!(client(&imds).tags(|_| true, soon()).await, Ok(Tags::new()));
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced() {
    let imds = Imds::with_user_data("x");
    let client = client(&imds);
    client.user_data(soon()).await.unwrap();
    imds.forget_tokens();
    assert!(client.user_data(soon()).await.is_ok());
    assert_eq!(imds.issued(), 2);
    imds.state().troubles.extend([Trouble::Status(401), Trouble::Status(200), Trouble::Status(401)]);
    let twice = client.user_data(soon()).await.unwrap_err();
    assert!(twice.to_string().contains("401"), "{twice}");
}

#[tokio::test]
async fn a_token_is_replaced_before_it_runs_out() {
    let imds = Imds::with_user_data("x");
    let client = client(&imds);
    client.user_data(soon()).await.unwrap();
    for (later, issued) in [(6 * 60 * 60 - 61, 1), (1, 2)] {
        pause();
        advance(Duration::from_secs(later)).await;
        resume();
        client.user_data(soon()).await.unwrap();
        assert_eq!(imds.issued(), issued);
    }
}

#[tokio::test]
async fn trouble_that_passes_is_waited_out() {
    let imds = Imds::with_user_data("x");
    let slow = Trouble::Slow(Duration::from_millis(300));
    let troubles = [
        Trouble::Status(503),
        Trouble::Status(500),
        Trouble::Status(429),
        Trouble::Closed,
        slow,
        Trouble::Status(503),
    ];
    imds.state().troubles.extend(troubles);
    assert_eq!(client(&imds).user_data(soon()).await.unwrap().as_deref(), Some(&b"x"[..]));
    assert!(imds.state().troubles.is_empty());
}

#[tokio::test]
async fn a_service_that_is_off_is_not_asked_again() {
    let imds = Imds::start();
    imds.state().trouble = Some(Trouble::Status(403));
    let off = trouble(&client(&imds), LONG).await;
    assert!(off.to_string().contains("is off") && off.to_string().contains("403"), "{off}");
    assert!(!off.may_pass());
    assert_eq!(imds.state().requests.len(), 1);
}

/// As it is where a firewall is set up before, or the service after the agent.
#[tokio::test]
async fn a_service_that_refuses_connections_is_asked_until_it_does_not() {
    let port = free_port();
    let client = Client::new(&format!("http://127.0.0.1:{port}")).unwrap();
    let refused = trouble(&client, Duration::from_millis(300)).await;
    assert!(refused.may_pass(), "{refused}");
    assert!(refused.to_string().contains("is off") && refused.to_string().contains("refuses"), "{refused}");
    let (answer, imds) = tokio::join!(client.user_data(soon()), async {
        // The client has been refused once when this goes on.
        tokio::task::yield_now().await;
        Imds::on(TcpListener::bind(("127.0.0.1", port)).unwrap())
    });
    assert_eq!(answer, Ok(None));
    assert_eq!(imds.requests("user-data"), 1);
}

#[tokio::test]
async fn the_service_may_be_at_an_address_of_version_6() {
    let imds = Imds::on(TcpListener::bind(("::1", 0)).unwrap());
    assert_eq!(client(&imds).instance_id(soon()).await.unwrap().as_str(), INSTANCE_ID);
}

#[tokio::test]
async fn silence_hints_at_the_hop_limit_and_keeps_the_deadline() {
    let imds = Imds::start();
    imds.state().trouble = Some(Trouble::Silent);
    let begun = Instant::now();
    let silent = trouble(&client(&imds), Duration::from_millis(300)).await;
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(silent.may_pass() && silent.to_string().contains("hop limit"), "{silent}");
}

#[tokio::test]
async fn trouble_that_stays_is_given_up_at_the_deadline() {
    let imds = Imds::start();
    imds.state().trouble = Some(Trouble::Status(503));
    let begun = Instant::now();
    let busy = trouble(&client(&imds), Duration::from_millis(500)).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(busy.may_pass() && busy.to_string().contains("503"), "{busy}");
    assert!((2..10).contains(&imds.state().requests.len()), "{:?}", imds.state().requests);
}

#[tokio::test]
async fn odd_answers_are_refused() {
    let imds = Imds::with_user_data(vec![b'x'; 16 * 1024]);
    assert!(client(&imds).user_data(soon()).await.is_ok());
    imds.state().user_data = Some(vec![b'x'; 16 * 1024 + 1]);
    let large = trouble(&client(&imds), LONG).await;
    assert!(large.to_string().contains("larger than 16384 bytes"), "{large}");
    for status in [302, 400, 418] {
        imds.state().troubles.push_back(Trouble::Status(status));
        let odd = trouble(&client(&imds), LONG).await;
        assert!(!odd.may_pass() && odd.to_string().contains(&status.to_string()), "{odd}");
    }
}

#[tokio::test]
async fn a_token_that_cannot_be_had_is_no_reason_for_version_1() {
    let imds = Imds::with_user_data("x");
    imds.state().troubles.push_back(Trouble::Status(404));
    let old = trouble(&client(&imds), LONG).await;
    assert!(old.to_string().contains("404"), "{old}");
    assert_eq!(imds.requests("user-data"), 0);
}
