//! A small HTTP/1.1 server: one thread a connection, on 127.0.0.1.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use percent_encoding::percent_decode_str;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::headers::Headers;
use crate::tls::Tls;
use crate::wait::{happens, hold_port, Stop};

/// The most that a request may bring, in bytes.
const REQUEST_MAX: usize = 64 * 1024 * 1024;

/// How many connections may wait to be accepted: the standard library's 128 are too few for a
/// thousand requests at once.
const BACKLOG: i32 = 4096;

/// How long a server waits for its port. Whoever had it may have closed it, and yet a process that
/// another test is starting listens on it until it runs its program: it has a copy of each descriptor.
const PORT_TIMEOUT: Duration = Duration::from_secs(5);

/// A request as it arrived.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// What follows `?`, else empty.
    pub query: String,
    /// In the order of arrival, with what came twice.
    pub headers: Headers,
    pub body: Vec<u8>,
    /// The same for all requests of one connection.
    pub connection: u64,
    pub received_at: Instant,
    keep_alive: bool,
}

impl Request {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    /// Every `Authorization` header.
    pub fn authorization(&self) -> Vec<&str> {
        self.headers.all("Authorization")
    }

    /// The cookie of that name.
    pub fn cookie(&self, name: &str) -> Option<&str> {
        let cookies = self.headers.all("Cookie").into_iter().flat_map(|line| line.split(';'));
        cookies
            .filter_map(|cookie| cookie.trim().split_once('='))
            .find(|c| c.0 == name)
            .map(|c| c.1)
    }

    /// The value of that name in the query.
    pub fn query_value(&self, name: &str) -> Option<String> {
        form_fields(&self.query).into_iter().find(|field| field.0 == name).map(|field| field.1)
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} {}?{}\n{:?}", self.method, self.path, self.query, self.headers)?;
        write!(f, "{}", String::from_utf8_lossy(&self.body))
    }
}

/// The fields of an `application/x-www-form-urlencoded` text.
pub(crate) fn form_fields(text: &str) -> Vec<(String, String)> {
    let decode =
        |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(n, v)| (decode(n), decode(v)))
        .collect()
}

/// A response to send.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Response {
    /// A response without a body.
    pub fn new(status: u16) -> Self {
        Self { status, headers: Headers::default(), body: Vec::new() }
    }

    /// A response with a JSON body.
    pub fn json(status: u16, body: impl fmt::Display) -> Self {
        Self::new(status)
            .header("Content-Type", "application/json; charset=utf-8")
            .body(body.to_string())
    }

    /// A response with a page.
    pub fn html(status: u16, body: impl Into<String>) -> Self {
        Self::new(status).header("Content-Type", "text/html").body(body.into())
    }

    /// A redirection.
    pub fn redirect(location: &str) -> Self {
        Self::new(302).header("Location", location)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// The status line, the headers and `Content-Length`.
    pub(crate) fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in self.headers.iter() {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.status != 204 && self.status != 304 {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Not Allowed",
        413 => "Payload Too Large",
        416 => "Requested Range Not Satisfiable",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Status",
    }
}

/// A connection to a client, with TLS or without.
pub trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// Writes to a connection, and reads from it, as it likes.
type TakeOver = dyn FnOnce(&mut dyn Stream) -> io::Result<()>;

/// What a handler makes of a request.
pub enum Answer {
    Response(Response),
    /// Is handed the connection, which is closed afterwards.
    TakeOver(Box<TakeOver>),
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self::Response(response)
    }
}

/// Answers requests. Its pauses are [`Stop::pause`]s, so that a server can be stopped at any time.
pub trait Handler: Fn(&Request, &Arc<Stop>) -> Answer + Send + Sync + 'static {}

impl<T: Fn(&Request, &Arc<Stop>) -> Answer + Send + Sync + 'static> Handler for T {}

/// A running server. It stops when dropped, whatever its connections are doing.
pub struct Server {
    port: u16,
    tls: Option<Arc<ServerConfig>>,
    handler: Arc<dyn Handler>,
    running: Mutex<Option<Running>>,
    /// The port, kept while the server is stopped.
    held: Mutex<Option<TcpListener>>,
}

impl Server {
    /// Starts a server on `port`, or on a free one.
    ///
    /// # Panics
    ///
    /// When the port is taken.
    pub fn start(port: Option<u16>, tls: Option<&Tls>, handler: impl Handler) -> Self {
        let listener = take_port(port.unwrap_or(0));
        let server = Self {
            port: listener.local_addr().expect("the port of a bound socket").port(),
            tls: tls.map(Tls::server_config),
            handler: Arc::new(handler),
            running: Mutex::new(None),
            held: Mutex::new(None),
        };
        server.serve(listener);
        server
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `http://127.0.0.1:PORT`, or `https://localhost:PORT`.
    pub fn url(&self) -> String {
        match self.tls {
            None => format!("http://127.0.0.1:{}", self.port),
            Some(_) => format!("https://localhost:{}", self.port),
        }
    }

    /// Closes the port and every connection, and waits for their ends. Nobody else gets the port.
    pub fn stop(&self) {
        self.end();
        *lock(&self.held) = hold_port(self.port).ok();
    }

    fn end(&self) {
        let running = lock(&self.running).take();
        if let Some(running) = running {
            running.stop();
        }
    }

    /// Listens on the same port again, after [`Self::stop`].
    ///
    /// # Panics
    ///
    /// When somebody else has the port.
    pub fn start_again(&self) {
        let held = lock(&self.held).take();
        self.serve(held.unwrap_or_else(|| take_port(self.port)));
    }

    fn serve(&self, listener: TcpListener) {
        // SAFETY: the descriptor is open, as `listener` owns it.
        let listens = unsafe { libc::listen(listener.as_raw_fd(), BACKLOG) };
        assert_eq!(listens, 0, "port {}: {}", self.port, io::Error::last_os_error());
        let connections = Arc::new(Connections::default());
        let acceptor = Acceptor {
            listener: listener.try_clone().expect("a second descriptor"),
            tls: self.tls.clone(),
            handler: self.handler.clone(),
            connections: connections.clone(),
        };
        let acceptor = spawn("acceptor", move || acceptor.run());
        *lock(&self.running) = Some(Running { listener, acceptor, connections });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// A port of 127.0.0.1, 0 being any.
fn take_port(port: u16) -> TcpListener {
    let mut taken = Err(io::ErrorKind::AddrInUse.into());
    happens(PORT_TIMEOUT, || {
        taken = hold_port(port);
        taken.is_ok()
    });
    taken.unwrap_or_else(|error| panic!("listening on port {port}: {error}"))
}

struct Running {
    listener: TcpListener,
    acceptor: JoinHandle<Vec<JoinHandle<()>>>,
    connections: Arc<Connections>,
}

impl Running {
    fn stop(self) {
        self.connections.stop.give();
        // SAFETY: the descriptor is open, as `listener` owns it. Linux ends an accept(2) that waits
        // on a socket that is shut down.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
        self.connections.shut_down();
        let threads = self.acceptor.join().unwrap_or_default();
        // Once more, for a connection accepted in between.
        self.connections.shut_down();
        for thread in threads {
            // A handler's panic was printed when it happened.
            let _ = thread.join();
        }
    }
}

/// The open connections of a server.
#[derive(Default)]
struct Connections {
    stop: Arc<Stop>,
    next: AtomicU64,
    open: Mutex<HashMap<u64, TcpStream>>,
}

impl Connections {
    fn shut_down(&self) {
        for stream in lock(&self.open).values() {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

struct Acceptor {
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    handler: Arc<dyn Handler>,
    connections: Arc<Connections>,
}

impl Acceptor {
    /// Accepts until the server stops. Returns the threads of the connections.
    fn run(self) -> Vec<JoinHandle<()>> {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        loop {
            let accepted = self.listener.accept();
            if self.connections.stop.is_given() {
                return threads;
            }
            let Ok((stream, _)) = accepted else { continue };
            threads.retain(|thread| !thread.is_finished());
            threads.extend(self.connect(stream).ok());
        }
    }

    fn connect(&self, stream: TcpStream) -> io::Result<JoinHandle<()>> {
        stream.set_nodelay(true)?;
        let id = self.connections.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.connections.open).insert(id, stream.try_clone()?);

        let (connections, handler) = (self.connections.clone(), self.handler.clone());
        let tls = match &self.tls {
            None => None,
            Some(config) => Some(ServerConnection::new(config.clone()).map_err(io::Error::other)?),
        };
        Ok(spawn("connection", move || {
            // A connection that breaks is its client's business.
            let _ = match tls {
                None => serve(stream, id, &*handler, &connections.stop),
                Some(tls) => {
                    let mut stream = StreamOwned::new(tls, stream);
                    let served = serve(&mut stream, id, &*handler, &connections.stop);
                    stream.conn.send_close_notify();
                    served.and_then(|()| stream.flush())
                }
            };
            lock(&connections.open).remove(&id);
        }))
    }
}

/// Answers the requests of one connection, until it is closed.
fn serve(
    mut stream: impl Stream,
    connection: u64,
    handler: &dyn Handler,
    stop: &Arc<Stop>,
) -> io::Result<()> {
    let mut received = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut received)? {
        let request = Request { connection, ..request };
        let response = match handler(&request, stop) {
            Answer::Response(response) => response,
            Answer::TakeOver(take) => return take(&mut stream),
        };
        // A pause that the stop has cut short is no reason to answer sooner.
        if stop.is_given() {
            break;
        }
        let keep_alive = request.keep_alive;
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let mut message =
            format!("{}Connection: {connection}\r\n\r\n", response.head()).into_bytes();
        if request.method != "HEAD" {
            message.extend_from_slice(&response.body);
        }
        stream.write_all(&message)?;
        stream.flush()?;
        if !keep_alive {
            break;
        }
    }
    Ok(())
}

/// Reads the next request. `received` keeps what arrived beyond it. `None` when there is none.
fn read_request(stream: &mut dyn Stream, received: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let (mut request, head) = loop {
        if let Some(parsed) = parse_head(received)? {
            break parsed;
        }
        if read_more(stream, received)? == 0 {
            return if received.is_empty() {
                Ok(None)
            } else {
                Err(ErrorKind::UnexpectedEof.into())
            };
        }
    };
    received.drain(..head);
    if request.header("Expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        stream.flush()?;
    }
    request.body = read_body(stream, received, &request.headers)?.unwrap_or_default();
    Ok(Some(request))
}

/// The request whose head `received` begins with, and the length of that head.
fn parse_head(received: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; 256];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(received).map_err(io::Error::other)? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers = Headers::parsed(parsed.headers);
    let connection = headers.get("Connection").unwrap_or_default();
    let request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        body: Vec::new(),
        connection: 0,
        received_at: Instant::now(),
        keep_alive: parsed.version == Some(1) && !connection.eq_ignore_ascii_case("close"),
        headers,
    };
    Ok(Some((request, head)))
}

/// Reads the body that `headers` announce; `None` where they announce none.
pub(crate) fn read_body(
    stream: &mut dyn Stream,
    received: &mut Vec<u8>,
    headers: &Headers,
) -> io::Result<Option<Vec<u8>>> {
    if headers.get("Transfer-Encoding").is_some() {
        let mut body = Vec::new();
        loop {
            let chunk = read_chunk(stream, received)?;
            if chunk.is_empty() {
                return Ok(Some(body));
            }
            body.extend(chunk);
        }
    }
    let Some(length) = headers.get("Content-Length") else { return Ok(None) };
    take(stream, received, length.parse().map_err(io::Error::other)?).map(Some)
}

/// Reads the next chunk; the last one is empty. Trailers are skipped.
fn read_chunk(stream: &mut dyn Stream, received: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let size = take_line(stream, received)?;
    let size = size.split(';').next().unwrap_or_default().trim();
    let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
    let chunk = take(stream, received, size)?;
    while !take_line(stream, received)?.is_empty() && size == 0 {}
    Ok(chunk)
}

fn take_line(stream: &mut dyn Stream, received: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(end) = received.windows(2).position(|pair| pair == b"\r\n") {
            let line = String::from_utf8_lossy(&received[..end]).into_owned();
            received.drain(..end + 2);
            return Ok(line);
        }
        if read_more(stream, received)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

fn take(stream: &mut dyn Stream, received: &mut Vec<u8>, length: usize) -> io::Result<Vec<u8>> {
    while received.len() < length {
        if read_more(stream, received)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = received.split_off(length);
    Ok(std::mem::replace(received, rest))
}

pub(crate) fn read_more(stream: &mut dyn Stream, received: &mut Vec<u8>) -> io::Result<usize> {
    let mut chunk = [0; 16 * 1024];
    let length = loop {
        match stream.read(&mut chunk) {
            // A process that is stopped and goes on finds a read with a timeout ended (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    received.extend_from_slice(&chunk[..length]);
    if received.len() > REQUEST_MAX {
        return Err(ErrorKind::FileTooLarge.into());
    }
    Ok(length)
}

/// Starts a thread; a test may have a thousand of them.
fn spawn<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let thread = thread::Builder::new().name(name.to_owned()).stack_size(256 * 1024);
    thread.spawn(run).expect("a thread")
}

/// The guarded value, also where a thread panicked with it.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
