//! A small HTTP/1.1 client that sends what it is told.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, StreamOwned};
use serde_json::Value;

use crate::headers::Headers;
use crate::outpost::Session;
use crate::server::{lock, read_body, read_more, Stream};
use crate::tls::Tls;

/// How long a client waits for the next bytes.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A client of one server. It keeps its connection.
pub struct Client {
    /// Host and port.
    authority: String,
    tls: Option<Arc<ClientConfig>>,
    timeout: Duration,
    idle: Mutex<Option<Box<dyn Stream>>>,
}

impl Client {
    /// A client of the server at `url`, `http://HOST:PORT`.
    ///
    /// # Panics
    ///
    /// When `url` is another one.
    pub fn new(url: &str) -> Self {
        let authority = url.trim_end_matches('/').strip_prefix("http://");
        let authority = authority.unwrap_or_else(|| panic!("{url} is not an http:// URL"));
        Self::to(authority, None)
    }

    /// A client of the server at `url`, `https://HOST:PORT`, that trusts the authority of `tls`.
    ///
    /// # Panics
    ///
    /// When `url` is another one.
    pub fn with_tls(url: &str, tls: &Tls) -> Self {
        let authority = url.trim_end_matches('/').strip_prefix("https://");
        let authority = authority.unwrap_or_else(|| panic!("{url} is not an https:// URL"));
        Self::to(authority, Some(tls.client_config()))
    }

    fn to(authority: &str, tls: Option<Arc<ClientConfig>>) -> Self {
        let idle = Mutex::new(None);
        Self { authority: authority.to_owned(), tls, timeout: TIMEOUT, idle }
    }

    /// Sets how long to wait for the next bytes; 30 seconds by default.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends a GET.
    ///
    /// # Panics
    ///
    /// When there is no whole reply.
    pub fn get(&self, target: &str) -> Reply {
        self.request("GET", target).send()
    }

    /// A request to send. `target` is a path, with its query.
    pub fn request(&self, method: &str, target: &str) -> RequestBuilder<'_> {
        RequestBuilder {
            client: self,
            method: method.to_owned(),
            target: target.to_owned(),
            headers: Headers::default(),
            body: None,
        }
    }

    /// Sends `bytes` on a connection of their own, and reads the reply.
    ///
    /// # Panics
    ///
    /// When there is no whole reply.
    pub fn raw(&self, bytes: impl AsRef<[u8]>) -> Reply {
        let started = Instant::now();
        let sent = self.connect().and_then(|mut stream| {
            stream.write_all(bytes.as_ref())?;
            stream.flush()?;
            read_reply(&mut *stream, "GET", started)
        });
        sent.unwrap_or_else(|error| panic!("{}: {error}", self.authority)).0
    }

    /// A connection of its own, for what a request cannot say.
    ///
    /// # Errors
    ///
    /// Those of the connection.
    pub fn connect(&self) -> io::Result<Box<dyn Stream>> {
        let stream = TcpStream::connect(&self.authority)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        let Some(config) = &self.tls else { return Ok(Box::new(stream)) };
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        let name = host.to_owned().try_into().map_err(io::Error::other)?;
        let tls = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        Ok(Box::new(StreamOwned::new(tls, stream)))
    }

    fn exchange(&self, method: &str, message: &[u8]) -> io::Result<Reply> {
        let started = Instant::now();
        let idle = lock(&self.idle).take();
        if let Some(mut stream) = idle {
            match self.exchange_on(&mut stream, method, message, started) {
                // The server closed it while it was idle: a new one then.
                Err(error) if is_closed(&error) => {}
                Ok(reply) => return Ok(self.keep(stream, reply)),
                Err(error) => return Err(error),
            }
        }
        let mut stream = self.connect()?;
        let reply = self.exchange_on(&mut stream, method, message, started)?;
        Ok(self.keep(stream, reply))
    }

    fn exchange_on(
        &self,
        stream: &mut Box<dyn Stream>,
        method: &str,
        message: &[u8],
        started: Instant,
    ) -> io::Result<(Reply, bool)> {
        stream.write_all(message)?;
        stream.flush()?;
        read_reply(&mut **stream, method, started)
    }

    fn keep(&self, stream: Box<dyn Stream>, (reply, reusable): (Reply, bool)) -> Reply {
        if reusable {
            *lock(&self.idle) = Some(stream);
        }
        reply
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
    ) || error.get_ref().is_some_and(|inner| inner.is::<NoReply>())
}

/// The connection was closed before the first byte of a reply.
#[derive(Debug)]
struct NoReply;

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connection closed without a reply")
    }
}

impl std::error::Error for NoReply {}

/// Reads a reply, and says whether its connection can be used again.
fn read_reply(
    stream: &mut dyn Stream,
    method: &str,
    started: Instant,
) -> io::Result<(Reply, bool)> {
    let mut received = Vec::new();
    let (mut reply, minor) = loop {
        match parse_head(&mut received)? {
            // 100 Continue and its like go before the reply itself.
            Some((reply, _)) if reply.status < 200 && reply.status != 101 => {}
            Some(parsed) => break parsed,
            None if read_more(stream, &mut received)? > 0 => {}
            None if received.is_empty() => return Err(io::Error::other(NoReply)),
            None => return Err(ErrorKind::UnexpectedEof.into()),
        }
    };
    let bodiless = method == "HEAD" || matches!(reply.status, 101 | 204 | 304);
    let mut reusable = minor == 1 && reply.header("Connection") != Some("close");
    if !bodiless {
        let body = read_body(stream, &mut received, &reply.headers)?;
        reusable &= body.is_some();
        reply.body = match body {
            Some(body) => body,
            None => {
                while read_more(stream, &mut received)? > 0 {}
                received
            }
        };
    }
    reply.time = started.elapsed();
    Ok((reply, reusable))
}

/// Takes the head of a reply off `received`. Returns it with its HTTP/1 minor version.
fn parse_head(received: &mut Vec<u8>) -> io::Result<Option<(Reply, u8)>> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(received).map_err(io::Error::other)? else {
        return Ok(None);
    };
    let reply = Reply {
        status: parsed.code.unwrap_or_default(),
        headers: Headers::parsed(parsed.headers),
        body: Vec::new(),
        time: Duration::ZERO,
    };
    let minor = parsed.version.unwrap_or_default();
    received.drain(..head);
    Ok(Some((reply, minor)))
}

/// A request on its way.
#[must_use]
pub struct RequestBuilder<'a> {
    client: &'a Client,
    method: String,
    target: String,
    headers: Headers,
    body: Option<Vec<u8>>,
}

impl RequestBuilder<'_> {
    /// Adds a header, also where there is one of that name. `Host` replaces the client's own.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Adds the cookie of a session.
    pub fn cookie(self, session: &Session) -> Self {
        let cookie = session.cookie();
        self.header("Cookie", &cookie)
    }

    /// Adds `Authorization: Bearer TOKEN`.
    pub fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    /// Sets the body, with its `Content-Length`.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Sets a JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.header("Content-Type", "application/json").body(body.to_string())
    }

    /// Sends the request and waits for the reply.
    ///
    /// # Panics
    ///
    /// When there is no whole reply.
    pub fn send(self) -> Reply {
        let (method, target, to) = (self.method.clone(), self.target.clone(), self.client);
        self.try_send().unwrap_or_else(|e| panic!("{method} {target} to {}: {e}", to.authority))
    }

    /// Sends the request and waits for the reply.
    ///
    /// # Errors
    ///
    /// When there is no whole reply.
    pub fn try_send(self) -> io::Result<Reply> {
        let mut message = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if self.headers.get("Host").is_none() {
            message.push_str(&format!("Host: {}\r\n", self.client.authority));
        }
        for (name, value) in self.headers.iter() {
            message.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            message.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        message.push_str("\r\n");
        let mut message = message.into_bytes();
        message.extend(self.body.unwrap_or_default());
        self.client.exchange(&self.method, &message)
    }
}

/// A reply.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
    /// From the first byte sent, the connection included, to the last byte received.
    pub time: Duration,
}

impl Reply {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    ///
    /// When it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{:?}\n{}", self.status, self.headers, self.text())
    }
}
