//! A small HTTP/2 client that does with its streams what it is told (RFC 9113), over plain TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Types of frames, and flags.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The error code of a stream that its client no longer wants.
const CANCEL: u32 = 8;

/// A stream, by its number.
pub type Stream = u32;

/// A connection to nginx.
pub struct Connection {
    socket: TcpStream,
    last: Option<Stream>,
}

impl Connection {
    /// Opens a connection to a port of 127.0.0.1.
    pub fn open(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket");
        let mut connection = Self { socket, last: None };
        connection.socket.write_all(PREFACE).expect("an open connection");
        connection.send(SETTINGS, 0, 0, &[]);
        // Room for all that is sent back.
        connection.send(WINDOW_UPDATE, 0, 0, &0x00ff_ffffu32.to_be_bytes());
        connection
    }

    /// Sends a GET without a body.
    pub fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Stream {
        self.open_stream(path, headers, END_STREAM)
    }

    /// Sends a GET with a body, as no browser does.
    pub fn get_with_body(&mut self, path: &str, headers: &[(&str, &str)], body: &str) -> Stream {
        let stream = self.open_stream(path, headers, 0);
        self.send(DATA, END_STREAM, stream, body.as_bytes());
        stream
    }

    fn open_stream(&mut self, path: &str, headers: &[(&str, &str)], flags: u8) -> Stream {
        let stream = self.last.map_or(1, |last| last + 2);
        self.last = Some(stream);
        let mut block = Vec::new();
        let pseudo =
            [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "npm")];
        for (name, value) in pseudo.iter().chain(headers) {
            // A literal without indexing, its name and value without Huffman code (RFC 7541, 6.2.2).
            block.push(0);
            for text in [name, value] {
                block.push(
                    u8::try_from(text.len()).ok().filter(|l| *l < 127).expect("a short text"),
                );
                block.extend(text.as_bytes());
            }
        }
        self.send(HEADERS, flags | END_HEADERS, stream, &block);
        stream
    }

    /// Tells nginx that nobody waits for this stream any more.
    pub fn reset(&mut self, stream: Stream) {
        self.send(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    }

    /// Reads until each of the streams has ended. The bodies of those that were answered with 200.
    pub fn bodies(&mut self, streams: &[Stream]) -> BTreeMap<Stream, String> {
        let mut open: BTreeSet<Stream> = streams.iter().copied().collect();
        let mut bodies = BTreeMap::new();
        while !open.is_empty() {
            let (kind, flags, stream, payload) = self.receive();
            match kind {
                // nginx sends the status first, perhaps after a new size of the table (6.3); 200 is
                // 8 in the static table.
                HEADERS if payload.iter().find(|&&b| b & 0xe0 != 0x20) == Some(&0x88) => {
                    bodies.insert(stream, String::new());
                }
                DATA => {
                    if let Some(body) = bodies.get_mut(&stream) {
                        body.push_str(&String::from_utf8_lossy(&payload));
                    }
                }
                _ => {}
            }
            if kind == RST_STREAM || kind <= HEADERS && flags & END_STREAM != 0 {
                open.remove(&stream);
            }
        }
        bodies
    }

    fn send(&mut self, kind: u8, flags: u8, stream: Stream, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.socket.write_all(&frame).expect("an open connection");
    }

    fn receive(&mut self) -> (u8, u8, Stream, Vec<u8>) {
        let mut head = [0; 9];
        self.socket.read_exact(&mut head).expect("a frame");
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.socket.read_exact(&mut payload).expect("a whole frame");
        (kind, flags, u32::from_be_bytes(stream) & 0x7fff_ffff, payload)
    }
}
