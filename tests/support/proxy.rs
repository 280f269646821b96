//! A relay between an agent and its broker, which can be made to fail.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use super::agent::eventually;

/// Listens on a free port of 127.0.0.1 until the last of its handles is dropped.
#[derive(Clone)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _end: Arc<End>,
}

/// Ends the listener.
struct End {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    broker: u16,
    rules: Mutex<Rules>,
    /// Connections that were cut in mid-packet.
    cuts: AtomicUsize,
    /// Bytes that did not reach the broker.
    swallowed: AtomicUsize,
}

#[derive(Default)]
struct Rules {
    closed: bool,
    /// Nothing that is said to the broker reaches it.
    deaf: bool,
    /// So much may still come from the broker.
    allowance: Option<usize>,
    connections: Vec<TcpStream>,
}

impl Proxy {
    pub fn start(broker: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            broker,
            rules: Mutex::default(),
            cuts: AtomicUsize::new(0),
            swallowed: AtomicUsize::new(0),
        });
        thread::spawn({
            let shared = shared.clone();
            move || {
                for client in listener.incoming() {
                    if shared.rules.lock().unwrap().closed {
                        return;
                    }
                    shared.relay(client.unwrap());
                }
            }
        });
        let end = Arc::new(End { port, shared: shared.clone() });
        Self { port, shared, _end: end }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the connection, and waits until it is, once so many more bytes have come from the broker.
    pub fn cut_after(&self, bytes: usize, meanwhile: impl FnOnce()) {
        let cuts = self.shared.cuts.load(Ordering::SeqCst);
        self.shared.rules.lock().unwrap().allowance = Some(bytes);
        meanwhile();
        let cut = || (self.shared.cuts.load(Ordering::SeqCst) > cuts).then_some(());
        eventually(cut, || format!("{bytes} bytes have not come"));
    }

    /// The broker hears nothing any more.
    pub fn deafen(&self) {
        self.shared.rules.lock().unwrap().deaf = true;
    }

    /// Waits until something was said to the broker in vain.
    pub fn swallowed(&self) {
        let swallowed = || (self.shared.swallowed.load(Ordering::SeqCst) > 0).then_some(());
        eventually(swallowed, || "nothing was said to the broker".to_owned());
    }

    /// Cuts all connections; the next ones are good again.
    pub fn cut(&self) {
        self.shared.rules.lock().unwrap().cut();
    }
}

impl Rules {
    fn cut(&mut self) {
        self.deaf = false;
        self.allowance = None;
        for connection in self.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    /// Where the broker is down, the client's connection is closed at once.
    fn relay(self: &Arc<Self>, client: TcpStream) {
        let Ok(broker) = TcpStream::connect(("127.0.0.1", self.broker)) else { return };
        let both = [client.try_clone().unwrap(), broker.try_clone().unwrap()];
        self.rules.lock().unwrap().connections.extend(both);
        let up = (self.clone(), client.try_clone().unwrap(), broker.try_clone().unwrap());
        thread::spawn(move || up.0.copy(up.1, up.2, Self::up));
        let down = (self.clone(), broker, client);
        thread::spawn(move || down.0.copy(down.1, down.2, Self::down));
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, pass: fn(&Self, usize) -> usize) {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let passed = pass(self, count);
            if to.write_all(&buffer[..passed]).is_err() {
                break;
            }
            self.cut_if_used_up();
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }

    fn up(&self, count: usize) -> usize {
        if self.rules.lock().unwrap().deaf {
            self.swallowed.fetch_add(count, Ordering::SeqCst);
            return 0;
        }
        count
    }

    fn down(&self, count: usize) -> usize {
        let mut rules = self.rules.lock().unwrap();
        let Some(allowance) = &mut rules.allowance else { return count };
        let passed = count.min(*allowance);
        *allowance -= passed;
        passed
    }

    fn cut_if_used_up(&self) {
        let mut rules = self.rules.lock().unwrap();
        if rules.allowance == Some(0) {
            rules.cut();
            self.cuts.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut rules = self.shared.rules.lock().unwrap();
        rules.closed = true;
        rules.cut();
        // Wakes the listener, which then ends.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}
