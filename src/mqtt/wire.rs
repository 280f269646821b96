//! The socket, and the library's packets on it. Many answers go out in one write, and many messages come in by one read:
//! that is most of what a message costs.

use std::io;
use std::pin::Pin;

use rumqttc::tokio_rustls::TlsConnector;
use rumqttc::tokio_rustls::client::TlsStream;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::select;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::bytes::BytesMut;

use super::due::Due;
use super::failure::Failure;
use super::frame::Head;
use super::incoming::{Incoming, READ, Read};
use super::link::{self, Access, Connected, Event, PATIENCE, Request};
use super::settings::{MqttSettings, Protocol};
use super::unfit::{Dropped, Unfit};
use super::{v4, v5};
use crate::slack;

/// RFC 8446, 5.1 and 6: how an alert begins, whichever the version of TLS. No packet of MQTT for clients does.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// The packets of one version of MQTT.
pub(super) enum Packets {
    V4(v4::Packets),
    V5(v5::Packets),
}

impl Packets {
    pub(super) fn of(settings: &MqttSettings) -> Self {
        match settings.protocol {
            Protocol::V311 => Self::V4(v4::Packets::new(settings)),
            Protocol::V5 => Self::V5(v5::Packets::default()),
        }
    }

    fn connect(
        &self,
        settings: &MqttSettings,
        access: &Access,
        clean: bool,
        output: &mut BytesMut,
    ) -> Result<(), Failure> {
        match self {
            Self::V4(packets) => packets.connect(settings, access, clean, output),
            Self::V5(packets) => packets.connect(settings, access, clean, output),
        }
    }

    /// Reads a packet that is all there, and no message.
    pub(super) fn read(&mut self, head: Head, packet: BytesMut) -> Result<Event, Failure> {
        match self {
            Self::V4(_) => v4::read(packet),
            Self::V5(packets) => packets.read(head, packet),
        }
    }

    fn write(&self, request: Request, id: u16, output: &mut BytesMut) -> Result<(), Failure> {
        match self {
            Self::V4(packets) => packets.write(request, id, output),
            Self::V5(packets) => packets.write(request, id, output),
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// Has the kernel acknowledge what comes next without its usual delay, where the broker may wait for that.
    fn acknowledge_soon(&self) {}
}

impl Stream for TcpStream {}

impl Stream for TlsStream<TcpStream> {
    fn acknowledge_soon(&self) {
        // Without it the greeting takes 40 ms longer, no more.
        let _ = self.get_ref().0.set_quickack(true);
    }
}

/// A connection that the broker has accepted.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    packets: Packets,
    incoming: Incoming,
    /// What is written before the next read.
    output: BytesMut,
    ping: Pin<Box<Sleep>>,
    keep_alive: std::time::Duration,
    /// Nothing was heard since the last ping. A large message takes its time, and the answer comes behind it.
    silent: bool,
    due: Due,
    last_id: u16,
}

impl Wire {
    pub(super) async fn connect(
        tcp: TcpStream,
        settings: &MqttSettings,
        access: &Access,
        clean: bool,
    ) -> Result<(Self, Connected), Failure> {
        let mut wire = Self::over(stream(tcp, settings, access).await?, settings);
        wire.packets.connect(settings, access, clean, &mut wire.output)?;
        let greeting = wire.greeting().await?;
        wire.greeted(&greeting);
        Ok((wire, greeting))
    }

    fn greeted(&mut self, greeting: &Connected) {
        // A broker that says 0 asks for no proof of life; it gets one all the same, for it proves the broker's too. For
        // the same reason one that would wait for longer is not waited for.
        if let Some(wanted) = greeting.keep_alive.filter(|wanted| !wanted.is_zero()) {
            self.keep_alive = self.keep_alive.min(wanted);
        }
        self.ping.as_mut().reset(slack::deadline(self.keep_alive));
    }

    fn over(stream: Box<dyn Stream>, settings: &MqttSettings) -> Self {
        let keep_alive = link::keep_alive(settings);
        Self {
            stream,
            packets: Packets::of(settings),
            incoming: Incoming::new(settings),
            output: BytesMut::new(),
            ping: Box::pin(sleep_until(slack::deadline(keep_alive))),
            keep_alive,
            silent: false,
            due: Due::default(),
            last_id: 0,
        }
    }

    async fn greeting(&mut self) -> Result<Connected, Failure> {
        self.flush().await?;
        loop {
            if self.incoming.buffer.starts_with(&TLS_ALERT) {
                return Err(Failure::Tls);
            }
            match self.incoming.next(&mut self.packets)? {
                Read::Event(Event::Connected(greeting)) => return Ok(greeting),
                Read::Event(_) => return Err(Failure::Network("its first packet was no CONNACK".into())),
                Read::Incomplete(missing) => self.incoming.buffer.reserve(missing),
            }
            // TLS 1.3 tickets come first; a broker with Nagle's algorithm sends the rest once they are acknowledged.
            self.stream.acknowledge_soon();
            received(self.stream.read_buf(&mut self.incoming.buffer).await)?;
        }
    }

    /// The next event. What is requested meanwhile is sent.
    pub(super) async fn next(&mut self, requests: &mut UnboundedReceiver<Request>) -> Result<Event, Failure> {
        loop {
            while let Ok(request) = requests.try_recv() {
                if let Some(event) = self.request(request)? {
                    return Ok(event);
                }
            }
            match self.incoming.next(&mut self.packets)? {
                Read::Event(Event::Connected(_)) => {
                    return Err(Failure::Network("it accepted the connection twice".into()));
                }
                Read::Event(Event::Released(packet_id)) => {
                    self.packets.write(Request::Complete(packet_id), 0, &mut self.output)?;
                }
                Read::Event(event) => {
                    self.due.heard(&event);
                    if let Event::Dropped(Dropped { why: Unfit::ExactlyOnce { packet_id }, .. }) = event {
                        self.packets.write(Request::Received(packet_id), 0, &mut self.output)?;
                    }
                    return Ok(event);
                }
                Read::Incomplete(missing) => {
                    // A large packet gets no more room than it needs: what is read beyond it would keep all of it in memory.
                    let large = self.incoming.buffer.len() + missing > READ;
                    self.incoming.buffer.reserve(if large { missing } else { READ });
                    if let Some(event) = self.wait(requests).await? {
                        return Ok(event);
                    }
                }
            }
        }
    }

    /// Sends what is to be sent, then waits for anything at all.
    async fn wait(&mut self, requests: &mut UnboundedReceiver<Request>) -> Result<Option<Event>, Failure> {
        // Under a flood the wait below never gets as far as the clock.
        if self.ping.deadline() <= Instant::now() {
            self.send_ping()?;
        }
        self.flush().await?;
        select! {
            biased;
            Some(request) = requests.recv() => return self.request(request),
            count = self.stream.read_buf(&mut self.incoming.buffer) => {
                received(count)?;
                self.silent = false;
            }
            () = &mut self.ping => self.send_ping()?,
            () = self.due.over() => {
                if self.incoming.is_at_rest() {
                    return Err(Failure::UNANSWERED);
                }
                // The answer may be behind a large message that is on its way.
                self.due.postpone();
            }
        }
        Ok(None)
    }

    fn send_ping(&mut self) -> Result<(), Failure> {
        if self.silent {
            return Err(Failure::SILENT);
        }
        self.silent = true;
        self.ping.as_mut().reset(slack::deadline(self.keep_alive));
        self.packets.write(Request::Ping, 0, &mut self.output)
    }

    fn request(&mut self, request: Request) -> Result<Option<Event>, Failure> {
        let numbered = matches!(request, Request::Subscribe(_) | Request::Unsubscribe(_));
        if numbered || matches!(request, Request::Publish(_)) {
            // Far more numbers than are in use at any time; 0 is none.
            self.last_id = self.last_id.checked_add(1).unwrap_or(1);
        }
        self.packets.write(request, self.last_id, &mut self.output)?;
        if numbered {
            self.due.asked();
        }
        Ok(numbered.then_some(Event::Requested(self.last_id)))
    }

    /// A large message may take as long as it needs, so long as any of it gets away.
    async fn flush(&mut self) -> Result<(), Failure> {
        while !self.output.is_empty() {
            let step = async {
                let written = self.stream.write_buf(&mut self.output).await?;
                if self.output.is_empty() {
                    self.stream.flush().await?;
                }
                Ok::<_, io::Error>(written)
            };
            match timeout(PATIENCE, step).await.map_err(|_| Failure::STALLED)? {
                Ok(0) => return Err(Failure::from(&io::Error::from(io::ErrorKind::WriteZero))),
                Ok(_) => {}
                Err(error) => return Err(Failure::from(&error)),
            }
        }
        Ok(())
    }

    /// Whether the socket has taken all that was to be sent.
    pub(super) fn all_sent(&self) -> bool {
        self.output.is_empty()
    }
}

fn received(count: io::Result<usize>) -> Result<(), Failure> {
    match count {
        Ok(0) => Err(Failure::Closed),
        Ok(_) => Ok(()),
        Err(error) => Err((&error).into()),
    }
}

async fn stream(
    tcp: TcpStream,
    settings: &MqttSettings,
    access: &Access,
) -> Result<Box<dyn Stream>, Failure> {
    let failure = |error| Failure::from(&error);
    // Answers are collected here, and shall then not wait for the other side's.
    tcp.set_nodelay(true).map_err(failure)?;
    let Some(config) = access.tls() else { return Ok(Box::new(tcp)) };
    let name = ServerName::try_from(settings.host.clone())
        .map_err(|_| Failure::Certificate("mqtt.url names no host that a certificate can be for".into()))?;
    Ok(Box::new(TlsConnector::from(config).connect(name, tcp).await.map_err(failure)?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod patience;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use tokio::io::{DuplexStream, duplex};
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::sleep;

    use super::*;

    impl Stream for DuplexStream {}

    /// MQTT 3.1.1, section 3.3: a message of QoS 0 on the topic `t`, of 100 bytes.
    pub(super) fn message() -> Vec<u8> {
        [[0x30, 103, 0, 1, b't'].as_slice(), &[b'x'; 100]].concat()
    }

    pub(super) fn settings() -> MqttSettings {
        MqttSettings {
            host: "broker.example".into(),
            port: 1883,
            tls: None,
            protocol: Protocol::V311,
            client_id: "web-7".into(),
            username: None,
            password_file: None,
            keep_alive: Duration::from_secs(5),
            session_expiry: Duration::from_secs(60),
            max_payload: 1 << 20,
        }
    }

    /// The answers to pings would come behind the message.
    #[tokio::test(start_paused = true)]
    async fn a_broker_is_alive_as_long_as_anything_comes_from_it() {
        let (ours, mut theirs) = duplex(READ);
        let mut wire = Wire::over(Box::new(ours), &settings());
        let (_sender, mut requests) = unbounded_channel();
        let slowly = async {
            for byte in message() {
                sleep(Duration::from_secs(1)).await;
                theirs.write_all(&[byte]).await.unwrap();
            }
        };
        let (event, ()) = tokio::join!(wire.next(&mut requests), slowly);
        assert!(matches!(event, Ok(Event::Publish(publish)) if publish.payload.len() == 100));
        let silence = wire.next(&mut requests).await.err();
        assert_eq!(silence, Some(Failure::SILENT));
    }

    /// MQTT 5, 3.2.2.3.14, lets the broker wish for any time.
    #[tokio::test(start_paused = true)]
    async fn a_broker_may_ask_for_more_pings_and_not_for_fewer() {
        let keep_alive = Duration::from_secs(30);
        for (wanted, expected) in [(None, 30), (Some(0), 30), (Some(12), 12), (Some(18_000), 30)] {
            let (ours, mut theirs) = duplex(READ);
            let mut wire = Wire::over(Box::new(ours), &MqttSettings { keep_alive, ..settings() });
            wire.greeted(&Connected {
                session_present: false,
                session_expiry: None,
                receive_maximum: u16::MAX,
                keep_alive: wanted.map(Duration::from_secs),
            });
            let begun = Instant::now();
            let (_sender, mut requests) = unbounded_channel();
            select! {
                _ = wire.next(&mut requests) => panic!("the connection is lost"),
                ping = theirs.read_u16() => assert_eq!(ping.unwrap(), 0xc000),
            }
            // Up to a slot of the timers earlier.
            let took = begun.elapsed().as_secs();
            assert!((expected - 5..=expected).contains(&took), "{wanted:?}: {took} s");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn pings_share_the_wake_ups_of_other_long_timers() {
        let (ours, mut theirs) = duplex(READ);
        let keep_alive = Duration::from_secs(30);
        let mut wire = Wire::over(Box::new(ours), &MqttSettings { keep_alive, ..settings() });
        let (_sender, mut requests) = unbounded_channel();
        let answering = async {
            for _ in 0..3 {
                let shared = slack::deadline(keep_alive);
                // MQTT 3.1.1, sections 3.12 and 3.13.
                assert_eq!(theirs.read_u16().await.unwrap(), 0xc000);
                theirs.write_u16(0xd000).await.unwrap();
                let late = Instant::now() - shared;
                assert!(late < Duration::from_millis(1), "{late:?}");
            }
        };
        let polling = async { while wire.next(&mut requests).await.is_ok() {} };
        select! {
            () = polling => panic!("the connection is lost"),
            () = answering => {}
        }
    }
}
