//! A metadata service as strict as EC2's, and stricter: what a client must not do fails the test.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::agent::eventually;

pub const INSTANCE_ID: &str = "i-0123456789abcdef0";

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// This status, and no body.
    Status(u16),
    /// The answer comes so much later.
    Slow(Duration),
    /// No answer comes.
    Silent,
    /// The connection ends.
    Closed,
}

/// What there is to be told.
#[derive(Debug, Default)]
pub struct State {
    pub user_data: Option<Vec<u8>>,
    /// `None`: the metadata holds no tags.
    pub tags: Option<BTreeMap<String, String>>,
    /// For the next requests, one each.
    pub troubles: VecDeque<Trouble>,
    /// For all requests after those.
    pub trouble: Option<Trouble>,
    /// Method and path of each request.
    pub requests: Vec<String>,
    tokens: HashMap<String, Instant>,
    issued: usize,
    violations: Vec<String>,
}

/// A metadata service on a free port of this host; gone when dropped.
pub struct Imds {
    state: Arc<Mutex<State>>,
    address: SocketAddr,
}

struct Request {
    method: String,
    path: String,
    headers: HashMap<String, String>,
}

type Answer = (u16, Vec<u8>, String);

impl Imds {
    pub fn start() -> Self {
        Self::on(TcpListener::bind(("127.0.0.1", 0)).unwrap())
    }

    pub fn on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let weak = Arc::downgrade(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Some(state) = weak.upgrade() else { return };
                let stream = stream.unwrap();
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self { state, address }
    }

    pub fn with_user_data(user_data: impl Into<Vec<u8>>) -> Self {
        let imds = Self::start();
        imds.state().user_data = Some(user_data.into());
        imds
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Replaces all tags.
    pub fn tag(&self, tags: &[(&str, &str)]) {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.state().tags = Some(tags);
    }

    /// The tokens given so far are known no more.
    pub fn forget_tokens(&self) {
        self.state().tokens.clear();
    }

    /// How many tokens it has given.
    pub fn issued(&self) -> usize {
        self.state().issued
    }

    /// How many requests for this there were.
    pub fn requests(&self, what: &str) -> usize {
        self.state().requests.iter().filter(|request| request.ends_with(what)).count()
    }

    /// Waits for so many more requests for this.
    pub fn wait_for_requests(&self, more: usize, what: &str) {
        let enough = self.requests(what) + more;
        eventually(|| (self.requests(what) >= enough).then_some(()), || format!("not {more} more of {what}"));
    }
}

impl Drop for Imds {
    fn drop(&mut self) {
        let violations = std::mem::take(&mut self.state().violations);
        // Lets the thread see that nobody is there any more.
        self.state = Arc::default();
        let _ = TcpStream::connect(self.address);
        if !thread::panicking() {
            assert!(violations.is_empty(), "the metadata service was asked wrongly: {violations:#?}");
        }
    }
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream);
    let Some(request) = read(&mut reader) else { return };
    let trouble = {
        let mut state = state.lock().unwrap();
        state.requests.push(format!("{} {}", request.method, request.path));
        state.troubles.pop_front().or(state.trouble)
    };
    let mut stream = reader.into_inner();
    let answer = match trouble {
        // To something that is there: who follows gets it.
        Some(Trouble::Status(302)) => {
            (302, Vec::new(), "Location: /latest/meta-data/instance-id\r\n".to_owned())
        }
        Some(Trouble::Status(status)) => (status, Vec::new(), String::new()),
        Some(Trouble::Closed) => return,
        Some(Trouble::Silent) => {
            // Until the client has had enough.
            let _ = stream.read(&mut [0]);
            return;
        }
        Some(Trouble::Slow(by)) => {
            thread::sleep(by);
            state.lock().unwrap().answer(&request)
        }
        None => state.lock().unwrap().answer(&request),
    };
    let (status, body, headers) = answer;
    let head = format!(
        "HTTP/1.1 {status} X\r\nServer: EC2ws\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

fn read(reader: &mut impl BufRead) -> Option<Request> {
    let mut lines = reader.lines().map_while(Result::ok).take_while(|line| !line.is_empty());
    let first = lines.next()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let header = |line: String| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_lowercase(), value.trim().to_owned())
    };
    Some(Request { method, path, headers: lines.map(header).collect() })
}

fn text(text: &str) -> Answer {
    // Emulators and proxies end their answers like this.
    (200, format!("{text}\n").into_bytes(), "Content-Type: text/plain\r\n".to_owned())
}

impl State {
    fn answer(&mut self, request: &Request) -> Answer {
        if request.headers.contains_key("x-forwarded-for") {
            return self.violation(403, request, "forwarded");
        }
        if request.method == "PUT" {
            return self.token(request);
        }
        let Some(token) = request.headers.get("x-aws-ec2-metadata-token") else {
            return self.violation(401, request, "version 1: without a token");
        };
        if self.tokens.get(token).is_none_or(|end| *end < Instant::now()) {
            return (401, Vec::new(), String::new());
        }
        let segments: Vec<String> = request.path.split('/').skip(1).map(decoded).collect();
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        match segments[..] {
            ["latest", "user-data"] => self.user_data.clone().map(|body| (200, body, String::new())),
            ["latest", "meta-data", "instance-id"] => Some(text(INSTANCE_ID)),
            ["latest", "meta-data", "tags", "instance"] => {
                let keys =
                    |tags: &BTreeMap<String, String>| tags.keys().cloned().collect::<Vec<_>>().join("\n");
                self.tags.as_ref().map(|tags| text(&keys(tags)))
            }
            ["latest", "meta-data", "tags", "instance", key] => {
                self.tags.as_ref().and_then(|tags| tags.get(key)).map(|value| text(value))
            }
            _ => return self.violation(404, request, "nothing the agent should ask for"),
        }
        .unwrap_or((404, Vec::new(), String::new()))
    }

    fn token(&mut self, request: &Request) -> Answer {
        if request.path != "/latest/api/token" {
            return self.violation(404, request, "no path for tokens");
        }
        let ttl = request.headers.get("x-aws-ec2-metadata-token-ttl-seconds");
        let Some(ttl) = ttl.and_then(|it| it.parse().ok()).filter(|ttl| (1..=21600).contains(ttl)) else {
            return self.violation(400, request, "no valid time to live");
        };
        self.issued += 1;
        let token = format!("TOKEN{}==", self.issued);
        self.tokens.insert(token.clone(), Instant::now() + Duration::from_secs(ttl));
        (200, token.into_bytes(), format!("X-Aws-Ec2-Metadata-Token-Ttl-Seconds: {ttl}\r\n"))
    }

    fn violation(&mut self, status: u16, request: &Request, what: &str) -> Answer {
        self.violations.push(format!("{} {}: {what}", request.method, request.path));
        (status, Vec::new(), String::new())
    }
}

fn decoded(segment: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = segment.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        let hex = (*first == b'%').then(|| std::str::from_utf8(&more[..2]).unwrap());
        bytes.push(hex.map_or(*first, |hex| u8::from_str_radix(hex, 16).unwrap()));
        rest = if hex.is_some() { &rest[2..] } else { rest };
    }
    String::from_utf8(bytes).unwrap()
}
