//! NPM's page opens signed in, whichever way it comes, and all else passes as it is; what stands in
//! the page, and what `GET /api/tokens` is answered with.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::ops::Deref;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use testbed::client::RequestBuilder;
use testbed::nginx::Builder;
use testbed::server::Answer;
use testbed::{
    eventually, Client, Fault, Nginx, Outpost, Reply, Request, Response, Server, Session, Visitor,
    TOKEN_BEGINNING,
};

use crate::http2::Connection;
use crate::{status, Elsewhere, World, ASKED, SHOWN};

/// What a browser says of a page that it opens.
pub const NAVIGATION: [(&str, &str); 4] = [
    ("Sec-Fetch-Site", "none"),
    ("Sec-Fetch-Mode", "navigate"),
    ("Sec-Fetch-Dest", "document"),
    ("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
];

/// What asks for less than the whole page, or for another form of it.
const CONDITIONS: [(&str, &str); 7] = [
    ("Accept-Encoding", "gzip, br"),
    ("If-Match", "\"v1\""),
    ("If-None-Match", "\"v1\""),
    ("If-Modified-Since", "Tue, 24 Nov 2026 06:07:17 GMT"),
    ("If-Unmodified-Since", "Tue, 24 Nov 2026 06:07:17 GMT"),
    ("Range", "bytes=0-9"),
    ("If-Range", "\"v1\""),
];

/// What an upstream says of a page for caches, and for conditional requests.
const VALIDATORS: &str = "Content-Type: text/html\r\n\
    ETag: \"v1\"\r\nLast-Modified: Tue, 24 Nov 2026 06:07:17 GMT\r\nAccept-Ranges: bytes\r\n\
    Cache-Control: public, max-age=600\r\nExpires: Wed, 25 Nov 2026 06:07:17 GMT\r\n\
    Pragma: cache\r\nX-Other: kept\r\n";

/// Pages with `|` where the script goes.
const PAGES: [&str; 10] = [
    "<!DOCTYPE html>\n<html lang=\"en\">\n\t<head>|\n<script src=\"/x.js\"></script></head>\u{e9}",
    "<HTML><hEaD class='a>b' data-x=\"<script>\">|<title>x</title><head></head>",
    "<!-- <head> --><!doctype html PUBLIC \"-//W3C//DTD > \" \"x\"><html\n><head\n>|<meta>",
    "<!--><html><head>--><html><head>|<script>",
    "\u{feff}<!doctype html><head/>|",
    "<!doctype html>|<title>x</title><script></script>",
    "<html>|<header><head>",
    "<html>|<body><script></script>",
    "|<script>1</script><head></head>",
    "|plain text <head>",
];

/// Pages that end before there is a place for the script.
const CUT: [&str; 8] =
    ["<", "<he", "<head", "<head class=\"", "<!-- <head>", "<!doctype", " \n ", "<html lang"];

/// An nginx whose log has none of what it must never say.
pub struct Watched(Nginx);

impl Watched {
    pub fn start(builder: Builder) -> Self {
        Self(builder.start())
    }
}

impl Deref for Watched {
    type Target = Nginx;

    fn deref(&self) -> &Nginx {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !thread::panicking() {
            let log = self.error_log();
            let never = |line: &&str| {
                !line.contains("[debug]")
                    && ["[alert]", "[crit]", "zero size buf"].iter().any(|word| line.contains(word))
            };
            assert_eq!(log.lines().find(never), None);
        }
    }
}

/// A response of an upstream, byte by byte what it says.
#[derive(Clone)]
struct Raw {
    head: Vec<u8>,
    /// Each is sent by itself.
    pieces: Vec<Vec<u8>>,
}

/// How an upstream says where a body ends.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Length,
    Chunked,
    /// By closing the connection, as HTTP/1.0 does.
    Close,
}

const FRAMINGS: [Framing; 3] = [Framing::Length, Framing::Chunked, Framing::Close];

/// All in one piece.
const WHOLE: usize = usize::MAX;

impl Raw {
    fn new(status: &str, headers: &str, body: &[u8], framing: Framing, size: usize) -> Self {
        let (version, last_header) = match framing {
            Framing::Length => ("1.1", format!("Content-Length: {}\r\n", body.len())),
            Framing::Chunked => ("1.1", "Transfer-Encoding: chunked\r\n".to_owned()),
            Framing::Close => ("1.0", String::new()),
        };
        let mut head = format!("HTTP/{version} {status}\r\n{headers}{last_header}\r\n").into();
        let mut pieces: Vec<_> = body.chunks(size).map(<[u8]>::to_vec).collect();
        if let Framing::Chunked = framing {
            for piece in &mut pieces {
                *piece = [format!("{:x}\r\n", piece.len()).as_bytes(), &*piece, b"\r\n".as_slice()]
                    .concat();
            }
            pieces.push(b"0\r\n\r\n".to_vec());
        }
        if size == WHOLE {
            pieces = vec![pieces.concat()];
        }
        Self { head: std::mem::take(&mut head), pieces }
    }

    /// A page.
    fn page(body: impl AsRef<[u8]>) -> Self {
        Self::html("200 OK", body)
    }

    fn html(status: &str, body: impl AsRef<[u8]>) -> Self {
        Self::new(status, VALIDATORS, body.as_ref(), Framing::Length, WHOLE)
    }

    fn write(&self, to: &mut dyn Write, is_head: bool) -> std::io::Result<()> {
        match &self.pieces[..] {
            _ if is_head => to.write_all(&self.head)?,
            [whole] => to.write_all(&[&self.head[..], whole].concat())?,
            pieces => {
                to.write_all(&self.head)?;
                for piece in pieces {
                    to.flush()?;
                    // Time to be seen alone.
                    thread::sleep(Duration::from_micros(100));
                    to.write_all(piece)?;
                }
            }
        }
        to.flush()
    }
}

/// A server in NPM's place, whose answer a test chooses.
struct Upstream {
    server: Server,
    answer: Arc<Mutex<Raw>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Upstream {
    fn start() -> Self {
        let answer = Arc::new(Mutex::new(Raw::page("")));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (chosen, seen) = (answer.clone(), requests.clone());
        let server = Server::start(None, None, move |request, _| {
            seen.lock().expect("no test panics here").push(request.clone());
            let raw = chosen.lock().expect("no test panics here").clone();
            let is_head = request.method == "HEAD";
            Answer::TakeOver(Box::new(move |stream| raw.write(stream, is_head)))
        });
        Self { server, answer, requests }
    }

    fn answers(&self, raw: Raw) {
        *self.answer.lock().expect("no test panics here") = raw;
    }

    fn count(&self) -> usize {
        self.requests.lock().expect("no test panics here").len()
    }

    fn last(&self) -> Request {
        let requests = self.requests.lock().expect("no test panics here");
        requests.last().expect("a request").clone()
    }
}

/// That upstream behind nginx, and `akadmin`, who is signed in.
struct Site {
    world: World,
    upstream: Upstream,
    nginx: Watched,
    session: Session,
}

/// A location that opens NPM's page, from the directive on.
fn opening(directive: &str) -> String {
    format!("{ASKED}\n{SHOWN}\n{directive}")
}

const DIRECTIVE: &str = "npm_token_inject accounts.json;\n";

impl Site {
    /// `/` is the upstream; `more` has its address for locations of its own.
    fn with(more: impl FnOnce(Builder, &str) -> Builder) -> Self {
        let (world, upstream) = (World::new(), Upstream::start());
        let url = upstream.server.url();
        let pass = format!("proxy_http_version 1.1;\nproxy_pass {url};");
        let builder = world
            .nginx()
            // At debug level the log of these pages is longer than they are.
            .http("error_log error.log info;")
            .location("/", &format!("{}{pass}", opening(DIRECTIVE)));
        let nginx = Watched::start(more(builder, &pass));
        let session = world.sign_in("akadmin");
        Self { world, upstream, nginx, session }
    }

    fn start() -> Self {
        Self::with(|builder, _| builder)
    }

    fn open(&self, client: &Client, path: &str) -> Reply {
        navigation(client, "GET", path, &self.session).send()
    }
}

/// A request for a page.
pub fn navigation<'c>(
    client: &'c Client,
    method: &str,
    path: &str,
    session: &Session,
) -> RequestBuilder<'c> {
    with(client.request(method, path).cookie(session), &NAVIGATION)
}

pub fn with<'c>(request: RequestBuilder<'c>, headers: &[(&str, &str)]) -> RequestBuilder<'c> {
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// The script in a body that is `page` with one instead of `|`, and nothing else.
#[track_caller]
fn script_in(body: &[u8], page: &[u8]) -> String {
    let at = page.iter().position(|&b| b == b'|').expect("a place");
    let script = body.strip_prefix(&page[..at]).and_then(|rest| rest.strip_suffix(&page[at + 1..]));
    let Some(script) = script else {
        let text =
            |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
        panic!("{:?}\nis not\n{:?}\nwith a script", text(body), text(page));
    };
    let script = String::from_utf8(script.to_vec()).expect("a script in UTF-8");
    assert!(script.starts_with("<script>(function ("), "{script:?}");
    assert!(script.ends_with(");</script>"), "{script:?}");
    let lowercase = script.to_ascii_lowercase();
    for (tag, count) in [("<script", 1), ("</script", 1), ("<!--", 0)] {
        assert_eq!(lowercase.matches(tag).count(), count, "{script}");
    }
    script
}

/// The marker in such a body.
#[track_caller]
fn marker_in(body: &[u8], page: &[u8]) -> String {
    let script = script_in(body, page);
    let (_, arguments) = script.rsplit_once("})(\"").expect("the function's arguments");
    let (marker, _) = arguments.split_once('"').expect("the end of a text");
    assert_is_marker(marker);
    marker.to_owned()
}

#[track_caller]
fn assert_is_marker(marker: &str) {
    let secret = marker.strip_prefix("npm-token-inject-").expect(marker);
    assert_eq!(secret.len(), 43, "{marker}");
    assert!(secret.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)), "{marker}");
}

/// The longest that a marker is valid, in seconds.
const MARKER_LIFE: u64 = 2 * 86_400;

/// How many scripts a page has that open it.
pub fn scripts_in(page: &str) -> usize {
    page.matches("})(\"npm-token-inject-").count()
}

/// The marker in NPM's own page, opened by a user.
fn marker_of(client: &Client, session: &Session) -> String {
    let text = navigation(client, "GET", "/", session).send().text();
    let (_, rest) = text.split_once("})(\"").unwrap_or_else(|| panic!("no script in {text}"));
    let marker = rest.split('"').next().unwrap_or_default().to_owned();
    assert_is_marker(&marker);
    marker
}

#[track_caller]
fn assert_opens(reply: &Reply, page: impl AsRef<[u8]>) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_is_fresh(reply);
    marker_in(&reply.body, page.as_ref())
}

/// No cache keeps it, and nothing can be asked of it but the whole.
#[track_caller]
fn assert_is_fresh(reply: &Reply) {
    assert_eq!(reply.headers.all("Cache-Control"), ["no-store"], "{reply:?}");
    for name in [
        "Content-Length",
        "ETag",
        "Last-Modified",
        "Accept-Ranges",
        "Expires",
        "Pragma",
        "Content-Range",
    ] {
        assert_eq!(reply.header(name), None, "{reply:?}");
    }
}

/// The upstream was asked for the whole page, as it is.
#[track_caller]
fn assert_asked_for_all(arrived: &Request) {
    for (name, _) in CONDITIONS {
        assert_eq!(arrived.header(name), None, "{arrived:?}");
    }
}

#[track_caller]
fn assert_arrived(arrived: &Request, headers: &[(&str, &str)]) {
    for (name, value) in headers {
        assert_eq!(arrived.headers.all(name), [*value], "{arrived:?}");
    }
}

fn curl(nginx: &Nginx, session: &Session, arguments: &[&str], path: &str) -> (String, Vec<u8>) {
    let mut curl = Command::new("curl");
    curl.args(["-sSi", "-H", &format!("Cookie: {}", session.cookie())]);
    for (name, value) in NAVIGATION {
        curl.args(["-H", &format!("{name}: {value}")]);
    }
    let output = curl.args(arguments).arg(format!("{}{path}", nginx.url())).output().expect("curl");
    let all = output.stdout;
    let end = all.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (String::from_utf8_lossy(&all[..end]).to_lowercase(), all[end + 4..].to_vec())
}

/// nginx keeps little of a response in memory, or passes on what it has at once.
const BUFFERS: [(&str, &str); 4] = [
    ("/", ""),
    ("/unbuffered", "proxy_buffering off;\n"),
    ("/tiny", "proxy_buffer_size 1k;\nproxy_buffers 2 64;\nproxy_busy_buffers_size 1k;\n"),
    ("/small", "proxy_buffer_size 512;\nproxy_buffering off;\npostpone_output 0;\n"),
];

fn site_with_buffers() -> Site {
    Site::with(|builder, pass| {
        BUFFERS[1..].iter().fold(builder, |builder, (path, lines)| {
            // Twice the largest buffer is what the busy ones may be.
            let lines = lines.replace("2 64", "32 64");
            builder.location(path, &format!("{}{lines}{pass}", opening(DIRECTIVE)))
        })
    })
}

#[test]
fn the_script_stands_at_the_beginning_of_the_head_and_the_rest_is_as_it_was() {
    let site = site_with_buffers();
    let client = site.nginx.client();
    let mut markers = BTreeSet::new();
    for page in PAGES {
        // Bytes of no text, too.
        let page = [page.as_bytes(), b"\xff\x00\xfe"].concat();
        let plain: Vec<u8> = page.iter().copied().filter(|&b| b != b'|').collect();
        for (path, _) in BUFFERS {
            for framing in FRAMINGS {
                for size in [1, 3, 7, WHOLE] {
                    let raw = Raw::new("200 OK", VALIDATORS, &plain, framing, size);
                    site.upstream.answers(raw);
                    let reply = site.open(&client, path);
                    println!("{path} {framing:?} {size}");
                    markers.insert(assert_opens(&reply, &page));
                    assert_eq!(reply.header("X-Other"), Some("kept"));
                    assert_eq!(reply.header("Content-Type"), Some("text/html"));
                }
            }
        }
    }
    assert_eq!(markers.len(), 1);
}

#[test]
fn a_page_that_ends_before_its_head_is_left_as_it_is() {
    let site = site_with_buffers();
    let client = site.nginx.client();
    for page in CUT.into_iter().chain([""]) {
        for (path, _) in BUFFERS {
            for framing in FRAMINGS {
                for size in [1, 3, WHOLE] {
                    let raw = Raw::new("200 OK", VALIDATORS, page.as_bytes(), framing, size);
                    site.upstream.answers(raw);
                    let reply = site.open(&client, path);
                    assert_eq!((reply.status, &*reply.text()), (200, page), "{path} {framing:?}");
                    assert_is_fresh(&reply);
                }
            }
        }
    }
}

#[test]
fn a_page_that_breaks_off_breaks_off_behind_nginx_too() {
    let site = site_with_buffers();
    let client = site.nginx.client();
    for page in ["<!doctype html><he", "<head><title>x", ""] {
        for (path, _) in BUFFERS {
            let mut raw = Raw::new("200 OK", VALIDATORS, page.as_bytes(), Framing::Chunked, 5);
            raw.pieces.pop();
            site.upstream.answers(raw);
            let reply = navigation(&client, "GET", path, &site.session).try_send();
            assert!(reply.is_err(), "{path} {page:?} {reply:?}");
        }
    }
    // And the next page is whole.
    site.upstream.answers(Raw::page("<head></head>"));
    assert_opens(&site.open(&client, "/"), "<head>|</head>");
}

/// Text of a megabyte that no byte could be missing from.
fn megabyte() -> String {
    (0..150_000).map(|n| format!("{n:06} ")).collect()
}

#[test]
fn a_page_of_a_megabyte_comes_whole_wherever_its_head_is() {
    let site = site_with_buffers();
    let client = site.nginx.client();
    let (long, late) =
        (format!("<head>|</head>{}", megabyte()), format!("<!-- {} --><head>|<b>", megabyte()));
    let both = format!("<!--{}--><html><head a='{}'>|{}", megabyte(), megabyte(), megabyte());
    for page in [long, late, both] {
        for (path, _) in BUFFERS {
            for framing in FRAMINGS {
                let plain = page.replacen('|', "", 1);
                let raw = Raw::new("200 OK", VALIDATORS, plain.as_bytes(), framing, 100_000);
                site.upstream.answers(raw);
                assert_opens(&site.open(&client, path), &page);
            }
        }
    }
}

/// How nginx sends files: for the whole of it, for the question to Authentik sets that of its own
/// location for the connection.
const FILES: [&str; 2] = ["sendfile off;", "sendfile on;\ntcp_nopush on;"];

#[test]
fn a_page_that_nginx_keeps_in_a_file_for_a_slow_client_comes_whole() {
    let filler = megabyte().repeat(6);
    for files in FILES {
        let site = Site::with(|builder, pass| {
            let lines = "proxy_buffer_size 2k;\nproxy_buffers 4 2k;\nproxy_busy_buffers_size 4k;\n";
            builder
                .http(files)
                .listen("sndbuf=8k")
                .location("/slow", &format!("{}{lines}{pass}", opening(DIRECTIVE)))
        });
        let pages = [format!("<head>|</head>{filler}"), format!("<!--{filler}--><head>|<b>")];
        for (pages, page) in pages.into_iter().enumerate() {
            site.upstream.answers(Raw::page(page.replacen('|', "", 1)));
            let mut stream = site.nginx.client().connect().expect("a connection");
            let cookie = site.session.cookie();
            let request = format!(
                "GET /slow HTTP/1.0\r\nHost: npm\r\nCookie: {cookie}\r\nAccept: text/html\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).expect("an open connection");
            eventually(Duration::from_secs(10), "a temporary file", || {
                site.nginx.log_lines("buffered to a temporary file").len() > pages
            });
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).expect("a reply");
            let end = reply.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
            marker_in(&reply[end + 4..], page.as_bytes());
        }
    }
}

#[test]
fn a_page_that_nginx_serves_itself_opens_too() {
    let late = format!("<!-- {} --><head>|<b>", megabyte());
    for files in FILES {
        let site = Site::with(|builder, _| {
            let own = |lines: &str| format!("{}root html;\n{lines}", opening(DIRECTIVE));
            builder
                .http(&format!("types {{ text/html html; }}\n{files}"))
                .file("html/own/index.html", PAGES[0].replacen('|', "", 1))
                .file("html/own/late.html", late.replacen('|', "", 1))
                .file("html/tried/index.html", PAGES[0].replacen('|', "", 1))
                .file("html/tried/late.html", late.replacen('|', "", 1))
                .file("html/own/empty.html", "")
                .file("html/own/cut.html", "<html><he")
                .location("/own/", &own("aio off;"))
                .location("/tried/", &own("aio off;\ntry_files $uri $uri/index.html =404;"))
        });
        let client = site.nginx.client();
        for folder in ["/own/", "/tried/"] {
            for (name, page) in [("", PAGES[0]), ("index.html", PAGES[0]), ("late.html", &late)] {
                page_of_a_file_opens(&site, &client, &format!("{folder}{name}"), page);
            }
        }
        for (name, page) in [("empty.html", ""), ("cut.html", "<html><he")] {
            let reply = site.open(&client, &format!("/own/{name}"));
            assert_eq!((reply.status, &*reply.text()), (200, page));
        }
        let head = navigation(&client, "HEAD", "/own/empty.html", &site.session).send();
        assert_eq!(head.status, 200);
    }
}

/// What nginx says of the file is not to be held against the next request.
fn page_of_a_file_opens(site: &Site, client: &Client, path: &str, page: &str) {
    assert_opens(&site.open(client, path), page);
    let since = "Sun, 01 Jan 2090 00:00:00 GMT";
    for (name, value) in [
        ("If-Modified-Since", since),
        ("If-None-Match", "*"),
        ("If-Match", "\"other\""),
        ("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        ("Range", "bytes=0-9"),
    ] {
        let request = navigation(client, "GET", path, &site.session);
        assert_opens(&request.header(name, value).send(), page);
    }
    let head = navigation(client, "HEAD", path, &site.session).send();
    assert_eq!(head.status, 200);
    assert_is_fresh(&head);
}

#[test]
fn what_the_location_says_of_caches_is_not_said_of_the_page() {
    let site = Site::with(|builder, pass| {
        let lines =
            "expires 1h;\nadd_header Cache-Control public always;\nadd_header ETag '\"x\"';\n";
        builder.location("/kept", &format!("{}{lines}{pass}", opening(DIRECTIVE)))
    });
    let client = site.nginx.client();
    site.upstream.answers(Raw::page("<head></head>"));
    assert_opens(&site.open(&client, "/kept"), "<head>|</head>");
    let headers = VALIDATORS.replace("text/html", "text/css");
    site.upstream.answers(Raw::new("200 OK", &headers, b"x", Framing::Length, WHOLE));
    let reply = site.open(&client, "/kept");
    assert!(reply.headers.all("Cache-Control").contains(&"public"), "{reply:?}");
}

#[test]
fn head_has_the_headers_of_get() {
    let site = Site::start();
    let client = site.nginx.client();
    site.upstream.answers(Raw::page("<head></head>"));
    assert_eq!(status(&site.open(&client, "/")), "miss");
    for _ in 0..2 {
        let get = site.open(&client, "/");
        let head = navigation(&client, "HEAD", "/", &site.session).send();
        assert_eq!(site.upstream.last().method, "HEAD");
        let names = |reply: &Reply| -> Vec<(String, String)> {
            let all = reply.headers.iter();
            let all = all.filter(|h| !["Transfer-Encoding", "Date"].contains(&h.0));
            all.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        assert_eq!((head.status, names(&head)), (200, names(&get)));
        assert_is_fresh(&head);
    }
}

#[test]
fn whatever_a_navigation_has_of_the_page_it_gets_the_whole() {
    // NPM answers with 304 and 206 where it is asked to.
    let world = World::new();
    let nginx = Watched::start(world.host());
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    let page = navigation(&client, "GET", "/", &session).send();
    assert_is_fresh(&page);
    let etag = Client::new(&world.npm.url()).get("/");
    let etag = etag.header("ETag").expect("a page with an ETag");
    for conditions in [
        vec![("If-None-Match", etag)],
        vec![("If-None-Match", "*")],
        vec![("If-Modified-Since", "Tue, 24 Nov 2026 06:07:17 GMT")],
        vec![("Range", "bytes=0-9")],
        vec![("Range", "bytes=0-9"), ("If-Range", etag)],
        vec![("range", "bytes=-5")],
    ] {
        for method in ["GET", "HEAD"] {
            let request = navigation(&client, method, "/", &session);
            let reply = with(request, &conditions).send();
            assert_eq!((reply.status, status(&reply)), (200, "hit"), "{conditions:?}");
            if method == "GET" {
                let expires = |reply: &Reply| reply.body.len();
                assert_eq!(expires(&reply), expires(&page), "{conditions:?}");
                assert_eq!(scripts_in(&reply.text()), 1);
            }
            assert_is_fresh(&reply);
        }
    }
}

#[test]
fn the_upstream_is_not_asked_for_less_or_for_another_form() {
    let site = Site::start();
    let client = site.nginx.client();
    site.upstream.answers(Raw::page("<head></head>"));
    for round in 0..2 {
        for headers in [&CONDITIONS[..], &CONDITIONS[..1], &CONDITIONS[1..]] {
            for upper in [false, true] {
                let name = |name: &str| if upper { name.to_uppercase() } else { name.to_owned() };
                let request = navigation(&client, "GET", "/", &site.session);
                let request = headers.iter().fold(request.header("X-First", "1"), |r, (n, v)| {
                    r.header(&name(n), v).header("X-Between", "2")
                });
                // The first one waits for the login.
                let reply = request.header("Authorization", "Basic eDp5").send();
                let what = if round == 0 && status(&reply) == "miss" { "miss" } else { "hit" };
                assert_eq!(status(&reply), what);
                assert_opens(&reply, "<head>|</head>");
                let arrived = site.upstream.last();
                assert_asked_for_all(&arrived);
                assert_eq!(arrived.headers.all("X-First"), ["1"]);
                assert_eq!(arrived.headers.all("X-Between").len(), headers.len());
                let carried = site.world.authorization_of(&arrived);
                assert_eq!(carried, "the token of admin@example.com");
            }
        }
    }
}

#[test]
fn a_program_that_does_not_say_what_it_asks_for_gets_the_page_as_it_asks_for_it() {
    let site = Site::start();
    let client = site.nginx.client();
    let ask = |headers: &[(&str, &str)]| {
        with(client.request("GET", "/").cookie(&site.session), headers).send()
    };
    site.upstream.answers(Raw::page("<head></head>"));
    assert_opens(&ask(&[("Accept", "*/*")]), "<head>|</head>");
    assert_opens(&ask(&[]), "<head>|</head>");
    let page = ask(&[("Accept", "*/*"), ("If-None-Match", "\"v0\""), ("Range", "bytes=0-9")]);
    assert_opens(&page, "<head>|</head>");
    assert_eq!(site.upstream.last().header("If-None-Match"), Some("\"v0\""));
    assert_eq!(site.upstream.last().header("Range"), Some("bytes=0-9"));
    // A browser that does not send Sec-Fetch-Mode, over http.
    let page = ask(&[("Accept", NAVIGATION[3].1), ("If-None-Match", "\"v1\"")]);
    assert_opens(&page, "<head>|</head>");
    assert_eq!(site.upstream.last().header("If-None-Match"), None);
}

#[test]
fn several_headers_of_one_name_are_all_dealt_with() {
    let site = Site::start();
    let client = site.nginx.client();
    let cookies = "cache-control: private\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n";
    let headers = format!("{VALIDATORS}{cookies}");
    site.upstream.answers(Raw::new("200 OK", &headers, b"<head>", Framing::Length, WHOLE));
    let request = navigation(&client, "GET", "/", &site.session);
    let twice = [("Accept-Encoding", "gzip"), ("Accept-Encoding", "br")];
    let reply = with(request, &twice).send();
    assert_opens(&reply, "<head>|");
    assert_eq!(reply.headers.all("Set-Cookie"), ["a=1", "b=2"]);
    assert_asked_for_all(&site.upstream.last());
}

#[test]
fn an_upstream_that_says_everything_twice_is_no_different() {
    let site = Site::start();
    let client = site.nginx.client();
    let headers = VALIDATORS.repeat(2).replacen("Content-Type: text/html\r\n", "", 1);
    site.upstream.answers(Raw::new("200 OK", &headers, b"<head>", Framing::Length, WHOLE));
    let reply = site.open(&client, "/");
    assert_opens(&reply, "<head>|");
    assert_eq!(reply.headers.all("X-Other").len(), 2);
}

#[test]
fn what_nginx_does_to_the_page_afterwards_still_works() {
    let site = Site::with(|builder, pass| {
        let page = |lines: &str| format!("{}{lines}{pass}", opening(DIRECTIVE));
        builder
            .location("/gzip", &page("gzip on;\ngzip_min_length 0;\n"))
            .location("/sub", &page("sub_filter_once off;\nsub_filter token TOKEN;\n"))
            .location("/ssi", &page("ssi on;\n"))
            .location("/charset", &page("charset utf-8;\n"))
            .location("/part", &format!("{}{pass}", opening(DIRECTIVE)))
            .location("= /own", "root html;\ntypes {}\ndefault_type text/html;")
            .file("html/own", "<head>own</head>")
    });
    let client = site.nginx.client();
    let page = format!("<html><head>|</head>{}", "token ".repeat(5000));
    for framing in FRAMINGS {
        for size in [1000, WHOLE] {
            let plain = page.replacen('|', "", 1);
            let raw = Raw::new("200 OK", VALIDATORS, plain.as_bytes(), framing, size);
            site.upstream.answers(raw);
            let (head, body) = curl(&site.nginx, &site.session, &["--compressed"], "/gzip");
            assert!(head.contains("content-encoding: gzip"), "{head}");
            assert!(head.contains("cache-control: no-store"), "{head}");
            assert!(!head.contains("etag") && !head.contains("content-length"), "{head}");
            marker_in(&body, page.as_bytes());
            assert_eq!(site.upstream.last().header("Accept-Encoding"), None);

            let reply = site.open(&client, "/sub");
            let text = reply.text();
            assert!(text.ends_with(&"TOKEN ".repeat(5000)), "{framing:?}");
            assert!(text.starts_with("<html><head><script>(function (TOKEN, expires"), "{text}");
            assert!(!text.contains("token"));
            assert_is_fresh(&reply);
        }
    }
    site.upstream.answers(Raw::page("<head></head><!--#include virtual=\"/own\" -->!"));
    assert_opens(&site.open(&client, "/ssi"), "<head>|</head><head>own</head>!");
    site.upstream.answers(Raw::page("<head></head>"));
    let reply = site.open(&client, "/charset");
    assert_opens(&reply, "<head>|</head>");
    assert_eq!(reply.header("Content-Type"), Some("text/html; charset=utf-8"));
}

#[test]
fn the_whole_proxy_host_compresses_the_page_for_the_browser() {
    let world = World::new();
    let nginx = Watched::start(world.host());
    let session = world.sign_in("akadmin");
    let (head, body) = curl(&nginx, &session, &["--compressed"], "/");
    assert!(head.contains("content-encoding: gzip"), "{head}");
    let body = String::from_utf8(body).expect("a page");
    assert_eq!(scripts_in(&body), 1, "{body}");
    let script = body.find("<script>(function").expect("the script");
    assert!(script < body.find("<script type=\"module\"").expect("NPM's script"));
    assert_eq!(world.last("/").header("Accept-Encoding"), None);
}

#[test]
fn http_1_0_and_http_2_are_no_different() {
    let site = Site::with(|builder, _| builder.listen("http2"));
    for page in [PAGES[0].to_owned(), format!("<!--{}--><head>|{}", megabyte(), megabyte())] {
        let plain = page.replacen('|', "", 1);
        for (framing, size) in [(Framing::Length, WHOLE), (Framing::Chunked, 9)] {
            let size = if plain.len() > 1000 { WHOLE } else { size };
            let raw = Raw::new("200 OK", VALIDATORS, plain.as_bytes(), framing, size);
            site.upstream.answers(raw);
            for argument in ["--http2-prior-knowledge", "--compressed"] {
                let arguments = ["--http2-prior-knowledge", argument, "-H", "If-None-Match: *"];
                let (head, body) = curl(&site.nginx, &site.session, &arguments, "/");
                assert!(head.starts_with("http/2 200"), "{head}");
                assert!(head.contains("cache-control: no-store"), "{head}");
                assert!(!head.contains("content-length") && !head.contains("etag"), "{head}");
                marker_in(&body, page.as_bytes());
                assert_eq!(site.upstream.last().header("If-None-Match"), None);
            }
            let arguments = ["--http2-prior-knowledge", "--head"];
            let (head, body) = curl(&site.nginx, &site.session, &arguments, "/");
            assert!(head.starts_with("http/2 200") && body.is_empty(), "{head}");
        }
    }

    let site = Site::start();
    site.upstream.answers(Raw::page("<head></head>"));
    let cookie = site.session.cookie();
    for more in ["", "Connection: keep-alive\r\n", "Accept: text/html\r\nRange: bytes=0-1\r\n"] {
        let request = format!("GET / HTTP/1.0\r\nHost: npm\r\nCookie: {cookie}\r\n{more}\r\n");
        let reply = site.nginx.client().raw(request);
        assert_opens(&reply, "<head>|</head>");
        assert_eq!(reply.header("Transfer-Encoding"), None);
        assert_eq!(reply.header("Connection"), Some("close"));
    }
}

/// A site whose pages nginx keeps, under `/cached`, and such a page.
fn cached_site(files: &str) -> (Site, String) {
    let site = Site::with(|builder, pass| {
        let lines = "proxy_cache pages;\nproxy_cache_key /;\nproxy_cache_valid 1h;\n";
        builder
            .http(&format!("proxy_cache_path cache keys_zone=pages:1m;\n{files}"))
            .location("/cached", &format!("{}{lines}{pass}", opening(DIRECTIVE)))
    });
    let headers = VALIDATORS.replace("Expires: Wed, 25 Nov 2026 06:07:17 GMT\r\n", "");
    let page = format!("<head>|</head>{}", megabyte());
    let plain = page.replacen('|', "", 1);
    site.upstream.answers(Raw::new("200 OK", &headers, plain.as_bytes(), Framing::Length, WHOLE));
    (site, page)
}

#[test]
fn a_page_in_nginxs_cache_opens_for_each_user_as_theirs() {
    for files in FILES {
        let (site, page) = cached_site(files);
        let client = site.nginx.client();
        let first = assert_opens(&site.open(&client, "/cached"), &page);
        let bob = site.world.sign_in("bob");
        let second = assert_opens(&navigation(&client, "GET", "/cached", &bob).send(), &page);
        assert_ne!(first, second);
        assert_eq!(assert_opens(&site.open(&client, "/cached"), &page), first);
        let part = navigation(&client, "GET", "/cached", &site.session);
        assert_opens(&part.header("Range", "bytes=0-9").send(), &page);
        assert_eq!(site.upstream.count(), 1);
    }
}

#[test]
fn a_page_in_nginxs_cache_comes_whole_to_who_had_it_before() {
    for (name, value) in CONDITIONS {
        let (site, page) = cached_site(FILES[1]);
        let client = site.nginx.client();
        // What is not in the cache yet, and what is.
        for _ in 0..2 {
            let request = navigation(&client, "GET", "/cached", &site.session);
            let value = if name == "If-Match" { "\"v0\"" } else { value };
            let reply = request.header(name, value).send();
            assert_eq!(reply.status, 200, "{name}");
            assert_opens(&reply, &page);
        }
    }
}

#[test]
fn an_encoded_page_passes_as_it_is_with_one_warning() {
    let site = Site::start();
    let client = site.nginx.client();
    // To the module these are bytes.
    let body = b"\x1f\x8b\x08<head>\x00\xff</head>";
    for encoding in ["gzip", "br", "GZIP", "gzip, br"] {
        let headers = format!("{VALIDATORS}Content-Encoding: {encoding}\r\n");
        site.upstream.answers(Raw::new("200 OK", &headers, body, Framing::Length, WHOLE));
        for accept in [None, Some(("Accept-Encoding", "gzip"))] {
            let request = navigation(&client, "GET", "/", &site.session);
            let reply = with(request, accept.as_slice()).send();
            assert_eq!((reply.status, &*reply.body), (200, &body[..]), "{encoding}");
            assert_eq!(reply.header("Content-Encoding"), Some(encoding));
            assert_eq!(status(&reply).len(), if status(&reply) == "miss" { 4 } else { 3 });
        }
    }
    let warnings = site.nginx.log_lines("[warn]");
    let warnings: Vec<_> =
        warnings.iter().filter(|line| line.contains("npm_token_inject")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    for word in ["gzip", "proxy_set_header Accept-Encoding"] {
        assert!(warnings[0].contains(word), "{warnings:?}");
    }

    let headers = format!("{VALIDATORS}Content-Encoding: identity\r\n");
    site.upstream.answers(Raw::new("200 OK", &headers, b"<head>", Framing::Length, WHOLE));
    assert_opens(&site.open(&client, "/"), "<head>|");
}

/// The reply is the upstream's, to the byte and the header.
#[track_caller]
fn assert_untouched(reply: &Reply, status: u16, kind: &str, body: &[u8]) {
    assert_eq!((reply.status, &*reply.body), (status, body), "{reply:?}");
    assert_eq!(reply.header("Content-Type"), Some(kind), "{reply:?}");
    for line in VALIDATORS.lines().skip(1) {
        let (name, value) = line.split_once(": ").expect("a header");
        // nginx writes this one itself, to the upstream's effect.
        assert_eq!(reply.headers.all(name), [value], "{reply:?}");
    }
}

const HTML: &[u8] = b"<html><head></head>\xff</html>";

#[test]
fn what_is_no_page_passes_as_it_is() {
    let site = Site::start();
    let client = site.nginx.client();
    for status in
        ["201 Created", "203 X", "400 X", "401 X", "403 X", "404 Not Found", "500 X", "502 X"]
    {
        for framing in FRAMINGS {
            site.upstream.answers(Raw::new(status, VALIDATORS, HTML, framing, WHOLE));
            let code = status[..3].parse().expect("a status");
            assert_untouched(&site.open(&client, "/"), code, "text/html", HTML);
        }
    }
    for kind in [
        "application/json",
        "text/htmlx",
        "text/plain",
        "text/html5; charset=utf-8",
        "application/xhtml+xml",
        "text/javascript",
        "xtext/html",
        "text/",
    ] {
        let headers = VALIDATORS.replace("text/html", kind);
        for size in [4, WHOLE] {
            site.upstream.answers(Raw::new("200 OK", &headers, HTML, Framing::Length, size));
            assert_untouched(&site.open(&client, "/"), 200, kind, HTML);
        }
    }
    // All of these are pages.
    for kind in [
        "text/html; charset=utf-8",
        "TEXT/HTML",
        "text/html ;charset=x",
        "Text/Html;charset=\"utf-8\"",
    ] {
        let headers = VALIDATORS.replace("text/html", kind);
        site.upstream.answers(Raw::new("200 OK", &headers, b"<head>", Framing::Length, WHOLE));
        let reply = site.open(&client, "/");
        assert_opens(&reply, "<head>|");
    }
}

#[test]
fn what_is_no_navigation_by_a_user_with_a_token_passes_as_it_is_both_ways() {
    let site = Site::with(|builder, pass| {
        let off = opening("npm_token_inject accounts.json browser=off;\n");
        builder
            .location("/off", &format!("{off}{pass}"))
            .location("/without", &format!("{ASKED}\n{SHOWN}\n{pass}"))
            .location("/inherited/off", &format!("{ASKED}\n{SHOWN}\nnpm_token_inject off;\n{pass}"))
    });
    let client = site.nginx.client();
    site.upstream.answers(Raw::page(HTML));
    assert_eq!(status(&site.open(&client, "/")), "miss");
    let live = site.world.npm.issue_token("guest@example.com", Duration::from_secs(60));
    let own = format!("Bearer {live}");
    let iframe = [
        ("Sec-Fetch-Site", "cross-site"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "iframe"),
    ];
    let post = [
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "document"),
    ];
    let fetch = [
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Dest", "empty"),
    ];
    let script = [
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "no-cors"),
        ("Sec-Fetch-Dest", "script"),
    ];
    let kept = [NAVIGATION[0], NAVIGATION[1], NAVIGATION[2], ("Authorization", &*own)];
    type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case; 19] = [
        ("akadmin", "GET", "/", &fetch, "hit"),
        ("akadmin", "GET", "/", &script, "hit"),
        ("akadmin", "GET", "/api/", &NAVIGATION, "hit"),
        ("akadmin", "GET", "/api/users", &NAVIGATION, "hit"),
        ("akadmin", "GET", "/api/schema", &[], "hit"),
        ("akadmin", "POST", "/", &post, "hit"),
        ("akadmin", "PUT", "/", &[], "hit"),
        ("akadmin", "GET", "/off", &NAVIGATION, "hit"),
        ("akadmin", "GET", "/without", &NAVIGATION, ""),
        ("akadmin", "GET", "/inherited/off", &NAVIGATION, ""),
        ("", "GET", "/", &NAVIGATION, "none"),
        ("nobody", "GET", "/", &fetch, "no_account"),
        ("nobody", "GET", "/api/users", &NAVIGATION, "no_account"),
        ("nobody", "POST", "/", &post, "no_account"),
        ("nobody", "GET", "/off", &NAVIGATION, "no_account"),
        ("bob", "GET", "/", &fetch, "error"),
        ("nobody", "GET", "/", &iframe, "cross_site"),
        ("akadmin", "GET", "/", &iframe, "cross_site"),
        ("akadmin", "GET", "/", &kept, "kept"),
    ];
    site.world.npm.fault(Fault::Status(500));
    for (user, method, path, headers, what) in cases {
        let session = site.world.sign_in(user);
        let request = with(client.request(method, path).cookie(&session), headers);
        // Not a range, which nginx could take from a page whose ETag fits.
        let conditions =
            [("Accept-Encoding", "gzip"), ("If-None-Match", "\"v0\""), ("If-Match", "\"v1\"")];
        let reply = with(request, &conditions).send();
        assert_eq!(status(&reply), what, "{method} {path} {headers:?}");
        assert_untouched(&reply, 200, "text/html", HTML);
        let arrived = site.upstream.last();
        assert_arrived(&arrived, &conditions);
    }
    // Without a session of Authentik's there is no page at all.
    let count = site.upstream.count();
    assert_eq!(with(client.request("GET", "/"), &NAVIGATION).send().status, 401);
    assert_eq!(site.upstream.count(), count);
}

/// By this script a browser that another user has left, or the same one when there was a token,
/// shows NPM's login page.
#[test]
fn a_user_without_a_token_gets_the_whole_page_with_a_script_that_opens_nothing() {
    let site = Site::with(|builder, pass| {
        let deny = opening("npm_token_inject accounts.json on_error=deny;\n");
        builder.location("/deny", &format!("{deny}{pass}"))
    });
    let client = site.nginx.client();
    site.upstream.answers(Raw::page("<head></head>"));
    site.world.npm.fault(Fault::Status(500));
    for (user, what, denied) in [("nobody", "no_account", 403), ("bob", "error", 502)] {
        let session = site.world.sign_in(user);
        for _ in 0..2 {
            let reply = with(navigation(&client, "GET", "/", &session), &CONDITIONS).send();
            assert_eq!((reply.status, status(&reply)), (200, what));
            let script = script_in(&reply.body, b"<head>|</head>");
            assert!(script.ends_with("})();</script>"), "{script}");
            assert_eq!(scripts_in(&script), 0);
            assert_is_fresh(&reply);
            assert_asked_for_all(&site.upstream.last());
            let head = navigation(&client, "HEAD", "/", &session).send();
            assert_eq!((head.status, status(&head)), (200, what));
            assert_is_fresh(&head);
        }
        let reply = navigation(&client, "GET", "/deny", &session).send();
        assert_eq!((reply.status, status(&reply)), (denied, what));
        assert!(!reply.text().contains("script"), "{reply:?}");
    }
    let warnings = site.nginx.log_lines("[warn]");
    assert!(!warnings.iter().any(|line| line.contains("encoded")), "{warnings:?}");
}

#[test]
fn what_asks_for_no_page_is_not_warned_of() {
    let site = Site::start();
    let client = site.nginx.client();
    let headers = format!("{VALIDATORS}Content-Encoding: gzip\r\n");
    site.upstream.answers(Raw::new("200 OK", &headers, HTML, Framing::Length, WHOLE));
    let favicon = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8";
    for accept in [Some(favicon), Some("*/*"), Some("application/json"), Some(""), None] {
        let request = client.request("GET", "/favicon.ico").cookie(&site.session);
        let request = request.header("Accept-Encoding", "gzip");
        let reply = accept.iter().fold(request, |r, accept| r.header("Accept", accept)).send();
        assert_untouched(&reply, 200, "text/html", HTML);
    }
    let warnings = site.nginx.log_lines("npm_token_inject: NPM's page");
    assert!(warnings.is_empty(), "{warnings:?}");
    // To who opens the page it matters.
    site.open(&client, "/");
    assert_eq!(site.nginx.log_lines("npm_token_inject: NPM's page").len(), 1);
}

#[test]
fn assets_keep_their_caches_ranges_and_encodings() {
    let site = Site::start();
    let client = site.nginx.client();
    let headers = VALIDATORS.replace("text/html", "application/javascript");
    let asset = [
        ("Sec-Fetch-Site", "same-origin"),
        ("Sec-Fetch-Mode", "cors"),
        ("Sec-Fetch-Dest", "script"),
        ("Accept", "*/*"),
    ];
    for as_what in [&asset[..], &NAVIGATION, &asset[3..], &[]] {
        let get = |conditions: &[(&str, &str)]| {
            let request = client.request("GET", "/assets/index-1.js").cookie(&site.session);
            let reply = with(with(request, as_what), conditions).send();
            (reply, site.upstream.last())
        };
        let encoded = format!("{headers}Content-Encoding: gzip\r\n");
        site.upstream.answers(Raw::new(
            "200 OK",
            &encoded,
            b"\x1f\x8b\xff",
            Framing::Length,
            WHOLE,
        ));
        let (reply, arrived) = get(&[("Accept-Encoding", "gzip")]);
        assert_untouched(&reply, 200, "application/javascript", b"\x1f\x8b\xff");
        assert_eq!(reply.header("Content-Encoding"), Some("gzip"));
        assert_eq!(reply.header("Content-Length"), Some("3"));
        if as_what != NAVIGATION {
            assert_eq!(arrived.header("Accept-Encoding"), Some("gzip"));

            let conditions = [("If-None-Match", "\"v1\""), ("If-Modified-Since", CONDITIONS[3].1)];
            let raw = Raw {
                pieces: vec![Vec::new()],
                ..Raw::new("304 Not Modified", &headers, b"", Framing::Close, WHOLE)
            };
            site.upstream.answers(raw);
            let (reply, arrived) = get(&conditions);
            assert_eq!((reply.status, reply.header("ETag")), (304, Some("\"v1\"")));
            assert_arrived(&arrived, &conditions);

            let conditions = [("Range", "bytes=0-1"), ("If-Range", "\"v1\"")];
            let range = format!("{headers}Content-Range: bytes 0-1/9\r\n");
            site.upstream.answers(Raw::new("206 X", &range, b"ab", Framing::Length, WHOLE));
            let (reply, arrived) = get(&conditions);
            assert_eq!((reply.status, &*reply.body), (206, &b"ab"[..]));
            assert_eq!(reply.header("Content-Range"), Some("bytes 0-1/9"));
            assert_arrived(&arrived, &conditions);
        }
    }
    let warnings = site.nginx.log_lines("[warn]");
    assert!(!warnings.iter().any(|line| line.contains("npm_token_inject")), "{warnings:?}");
}

#[test]
fn a_redirection_inside_nginx_takes_the_page_and_the_clients_own_headers_with_it() {
    let elsewhere = Elsewhere::answering(|_| {
        Response::html(200, "<head>elsewhere</head>").header("ETag", "\"e\"")
    });
    let other = format!("proxy_pass {};", elsewhere.url());
    let site = Site::with(|builder, pass| {
        builder
            .location("/", "proxy_intercept_errors on;\nerror_page 404 = /other;\nerror_page 403 = @other;\nerror_page 410 /other;\nerror_page 409 = /again;")
            .location("/again", &format!("{}{pass}", opening(DIRECTIVE)))
            .location("/tried", &format!("{}try_files /none /other;\n{pass}", opening(DIRECTIVE)))
            .location("/asked", &format!("{}rewrite ^ /other last;\n{pass}", opening(DIRECTIVE)))
            .location("/other", &format!("{SHOWN}\n{other}"))
            .location("@other", &format!("{SHOWN}\n{other}"))
    });
    let client = site.nginx.client();
    // Of such an answer nginx keeps what it says for caches.
    let accel = "Content-Type: text/html\r\nX-Accel-Redirect: /other\r\n";
    let accel = Raw::new("200 OK", accel, b"<head>", Framing::Length, WHOLE);
    let conditions = [CONDITIONS[0], CONDITIONS[2], CONDITIONS[3], CONDITIONS[5]];
    for (path, raw, code) in [
        ("/", Raw::html("404 X", "<head>"), 200),
        ("/", Raw::html("403 X", "<head>"), 200),
        ("/", Raw::html("410 X", "<head>"), 410),
        ("/", accel, 200),
        ("/tried", Raw::page("<head>"), 200),
        ("/asked", Raw::page("<head>"), 200),
    ] {
        site.upstream.answers(raw);
        for sent in [None, Some("Basic eDp5"), Some("Bearer garbage")] {
            let request = navigation(&client, "GET", path, &site.session);
            let request = with(request, &conditions);
            let request = sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent));
            let reply = request.header("X-Last", "1").send();
            assert_eq!((reply.status, status(&reply)), (code, ""), "{path} {sent:?}");
            assert_eq!(reply.text(), "<head>elsewhere</head>", "{path} {sent:?}");
            assert_eq!(reply.header("ETag"), Some("\"e\""), "{path}");
            assert_eq!(reply.header("Cache-Control"), None, "{path}");
            let arrived = elsewhere.last();
            assert_eq!(arrived.authorization(), Vec::from_iter(sent), "{path}");
            assert_arrived(&arrived, &conditions);
            assert_arrived(&arrived, &[("X-Last", "1")]);
        }
    }

    // To another location that opens pages.
    let count = site.upstream.count();
    site.upstream.answers(Raw::html("409 X", "<head>"));
    let request = with(navigation(&client, "GET", "/", &site.session), &conditions);
    let reply = request.header("Authorization", "Basic eDp5").send();
    assert_eq!(site.upstream.count(), count + 2);
    assert_untouched(&reply, 409, "text/html", b"<head>");
    let arrived = site.upstream.last();
    assert_eq!(site.world.authorization_of(&arrived), "the token of admin@example.com");
    assert_eq!(arrived.header("If-None-Match"), None);
}

#[test]
fn nginxs_index_leads_to_a_page_that_opens_with_its_clients_headers_dealt_with() {
    let site = Site::with(|builder, pass| {
        builder
            .location("= /folder/", &format!("{}root html;\nindex page.html;", opening(DIRECTIVE)))
            .location("= /folder/page.html", &format!("{}{pass}", opening(DIRECTIVE)))
            .file("html/folder/page.html", "<head>file</head>")
    });
    let client = site.nginx.client();
    site.upstream.answers(Raw::page("<head></head>"));
    for _ in 0..2 {
        let request = navigation(&client, "GET", "/folder/", &site.session);
        let reply = with(request, &CONDITIONS).send();
        assert_opens(&reply, "<head>|</head>");
        assert_eq!(site.upstream.last().path, "/folder/page.html");
        assert_asked_for_all(&site.upstream.last());
    }
}

#[test]
fn a_users_marker_is_the_same_in_every_worker_and_after_a_reload_and_another_after_a_restart() {
    let world = World::new();
    let host = world.host().workers(3);
    let (akadmin, bob) = (world.sign_in("akadmin"), world.sign_in("bob"));
    let nginx = Watched::start(host.clone());
    let everywhere = |session: &Session| {
        let markers = || marker_of(&nginx.client(), session);
        (0..20).map(|_| markers()).collect::<BTreeSet<_>>()
    };
    let first = everywhere(&akadmin);
    assert_eq!(first.len(), 1);
    assert_eq!(everywhere(&bob).len(), 1);
    assert!(first.is_disjoint(&everywhere(&bob)));
    // Another session of the same user, and another account's user of the same account.
    assert_eq!(everywhere(&world.sign_in("akadmin")), first);
    nginx.reload();
    assert_eq!(everywhere(&akadmin), first);
    nginx.reload();
    assert_eq!(everywhere(&akadmin), first);
    drop(nginx);
    let nginx = Watched::start(host);
    assert!(!first.contains(&marker_of(&nginx.client(), &akadmin)));
}

#[test]
fn a_marker_opens_nothing() {
    let world = World::new();
    let nginx = Watched::start(world.host());
    let client = nginx.client();
    let marker = marker_of(&client, &world.sign_in("akadmin"));
    world.npm.forget_requests();
    for value in [
        format!("Bearer {marker}"),
        marker.clone(),
        format!("Basic {marker}"),
        format!("bearer {marker}"),
    ] {
        // Not without a session of Authentik's...
        for path in ["/api/users/me", "/api/tokens"] {
            let reply = client.request("GET", path).header("Authorization", &value).send();
            assert_eq!(reply.status, 401, "{reply:?}");
            assert!(!reply.text().contains("token\""), "{reply:?}");
        }
        for (name, value) in [("Cookie", &*format!("token={marker}")), ("Authorization", &value)] {
            let page = with(client.request("GET", "/"), &NAVIGATION).header(name, value).send();
            assert_eq!(page.status, 302, "{page:?}");
        }
        assert!(world.npm.requests().is_empty());
        // ... not at NPM...
        let npm = Client::new(&world.npm.url());
        let reply = npm.request("GET", "/api/users/me").header("Authorization", &value).send();
        assert_eq!(reply.status, 500, "{reply:?}");
        // ... and not as somebody else.
        let session = world.sign_in("bob");
        client.request("GET", "/echo").cookie(&session).header("Authorization", &value).send();
        assert_eq!(world.carried_to("/echo"), "the token of bob@example.com");
        let session = world.sign_in("nobody");
        client.request("GET", "/echo").cookie(&session).header("Authorization", &value).send();
        assert_eq!(world.carried_to("/echo"), "nothing");
        world.npm.forget_requests();
    }
}

#[test]
fn no_user_name_breaks_out_of_the_script() {
    let world = World::new();
    let everybody = crate::site::accounts(&world.npm).to_string();
    let nginx = Watched::start(world.host().accounts(&everybody));
    let client = nginx.client();
    let npms = Client::new(&world.npm.url()).get("/");
    let page = npms.text().replacen("<head>", "<head>|", 1);
    let names = [
        "\"",
        "'",
        "\\",
        "\");alert(1)//",
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "zo\u{eb} \u{1f600} \u{2028}",
        "a b",
        "%00",
        "${x}",
        &"x".repeat(1024),
        &"</script>".repeat(120),
    ];
    let mut markers = BTreeSet::new();
    for name in names {
        let reply = navigation(&client, "GET", "/", &world.sign_in(name)).send();
        markers.insert(assert_opens(&reply, &page));
        let script = script_in(&reply.body, page.as_bytes());
        assert!(!script.contains("alert") && !script.contains("zo\u{eb}"), "{script}");
        let renewed = client.request("GET", "/api/tokens").cookie(&world.sign_in(name)).send();
        assert!(markers.contains(renewed.json()["token"].as_str().expect("a token")));
    }
    assert_eq!(markers.len(), names.len());
    // Names are told apart to the last byte.
    for name in ["x".repeat(1023), "a  b".to_owned(), "A b".to_owned()] {
        markers.insert(marker_of(&client, &world.sign_in(&name)));
    }
    assert_eq!(markers.len(), names.len() + 3);
}

#[test]
fn where_logout_leads_to_stands_in_the_script_and_does_not_break_out_of_it() {
    for (written, read) in [
        ("/outpost.goauthentik.io/sign_out", "\"/outpost.goauthentik.io/sign_out\""),
        ("https://auth.example.com/out?a=1&b=2", "\"https://auth.example.com/out?a=1&b=2\""),
        ("/</script><script>alert(1)//", "\"/\\u003c/script>\\u003cscript>alert(1)//\""),
        ("/<!--<script>", "\"/\\u003c!--\\u003cscript>\""),
        ("/\"+alert(1)+\"", "\"/\\\"+alert(1)+\\\"\""),
    ] {
        let world = World::new();
        let quoted = written.replace('"', "\\\"");
        let line = format!("npm_token_inject accounts.json \"sign_out={quoted}\";");
        let nginx = Watched::start(world.host().directive(&line));
        let page = Client::new(&world.npm.url()).get("/").text().replacen("<head>", "<head>|", 1);
        let reply = navigation(&nginx.client(), "GET", "/", &world.sign_in("akadmin")).send();
        assert_opens(&reply, &page);
        let script = script_in(&reply.body, page.as_bytes());
        assert!(script.ends_with(&format!(",{read});</script>")), "{script}");
    }
}

/// Seconds since 1970 of a time as JavaScript writes it.
fn seconds(iso: &str) -> u64 {
    assert_eq!((iso.len(), &iso[10..11], &iso[19..20], &iso[23..]), (24, "T", ".", "Z"), "{iso}");
    let number = |from: usize, to: usize| iso[from..to].parse::<i64>().expect(iso);
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    // https://howardhinnant.github.io/date_algorithms.html#days_from_civil
    let year = if month <= 2 { year - 1 } else { year };
    let of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year.div_euclid(400) * 146_097 + of_era * 365 + of_era / 4 - of_era / 100
        + day_of_year
        - 719_468;
    let time = number(11, 13) * 3600 + number(14, 16) * 60 + number(17, 19);
    u64::try_from(days * 86_400 + time).expect("a time after 1970")
}

#[track_caller]
fn assert_renews(reply: &Reply, marker: &str) {
    assert_eq!(reply.status, 200, "{reply:?}");
    let kind = reply.header("Content-Type").unwrap_or_default();
    assert!(kind.starts_with("application/json"), "{reply:?}");
    assert_eq!(reply.headers.all("Cache-Control"), ["no-store"], "{reply:?}");
    let json = reply.json();
    let fields = json.as_object().expect("an object");
    assert_eq!(fields.keys().collect::<Vec<_>>(), ["expires", "token"]);
    assert_eq!(json["token"], *marker);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    // The UI drops a token a minute early, and renews one every five minutes.
    let left = seconds(json["expires"].as_str().expect("a time")).saturating_sub(now);
    assert!((3600..=MARKER_LIFE).contains(&left), "{json}");
    assert_eq!(reply.header("Content-Length"), Some(&*reply.body.len().to_string()));
}

#[test]
fn the_ui_renews_its_marker_and_never_gets_a_token() {
    let world = World::new();
    let nginx = Watched::start(world.host());
    let client = nginx.client();
    for user in ["akadmin", "guest"] {
        let session = world.sign_in(user);
        let marker = marker_of(&client, &session);
        world.npm.forget_requests();
        for path in [
            "/api/tokens",
            "/api/tokens/",
            "/API/TOKENS",
            "/Api/Tokens//",
            "/api//tokens",
            "//api/tokens",
            "/api/./tokens",
            "/api/x/../tokens",
            "/api/%74okens",
            "/%61pi/tokens",
            "/api%2Ftokens",
            "/api/tokens?expiry=5m",
            "/api/tokens?",
            "/api/tokens?expiry=5m&scope=user",
        ] {
            for sent in [None, Some(format!("Bearer {marker}")), Some("Bearer null".to_owned())] {
                let request = client.request("GET", path).cookie(&session);
                let request = sent.iter().fold(request, |r, sent| r.header("Authorization", sent));
                let reply = request.send();
                assert_renews(&reply, &marker);
                assert_eq!(status(&reply), "hit", "{path}");
            }
            let head = client.request("HEAD", path).cookie(&session).send();
            assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
            assert_eq!(head.headers.all("Cache-Control"), ["no-store"]);
        }
        assert!(world.npm.requests().is_empty(), "{:?}", world.npm.requests());
    }
}

/// NPM mounted in all ways, some of which have it see another path than the browser asked for.
#[test]
fn no_spelling_of_the_path_and_no_mount_gets_a_token_into_the_browser() {
    let world = World::new();
    let npm = world.npm.url();
    let mount = |lines: &str| format!("{}{lines}", opening(DIRECTIVE));
    let nginx = world
        .nginx()
        .server("merge_slashes off;")
        .location("/", &mount(&format!("proxy_pass {npm};")))
        .location("/pre/", &mount(&format!("proxy_pass {npm}/;")))
        .location("/npms-api/", &mount(&format!("proxy_pass {npm}/api/;")))
        .location("~ ^/found/(.*)$", &mount(&format!("proxy_pass {npm}/$1;")))
        .location(
            "/asis/",
            &mount(&format!("rewrite ^/asis(/.*) $1 break;\nproxy_pass {npm}$uri;")),
        )
        .location(
            "/raw/",
            &mount(&format!(
                "rewrite ^ $request_uri;\nrewrite ^/raw(/.*) $1 break;\nreturn 400;\n\
                 proxy_pass {npm}$uri;"
            )),
        );
    let nginx = Watched::start(nginx);
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    // There is a token to be had.
    assert_eq!(status(&client.request("GET", "/api/users").cookie(&session).send()), "miss");
    let mut renewed = 0;
    for mount in ["", "/pre", "/found", "/asis", "/raw"] {
        for path in [
            "/api/tokens",
            "//api/tokens",
            "///api//tokens//",
            "/api/tokens/",
            "/api/tokens/.",
            "/api/tokens/x/..",
            "/api/./tokens",
            "/api/%74okens",
            "/api/%2574okens",
            "/%61pi%2ftokens",
            "/%2561pi%252ftokens",
            "/api/%2e/tokens",
            "/api/x/%2e%2e/tokens",
            "/api/x/%252e%252e/tokens",
            // The last segment when it is decoded once, and not when it is decoded twice.
            "/api/tokens/%252e%252e/%2e%2e",
            "/x%253f/../api/tokens%3fx/y",
            "/api/tokens%3Fx",
            "/api/tokens%3fexpiry=5m",
            "/api/tokens%23x",
            "/api/tokens?expiry=10y",
            "/API/TOKENS",
        ] {
            let path = format!("{mount}{path}");
            let reply = client.request("GET", &path).cookie(&session).send();
            assert!(!reply.text().contains(TOKEN_BEGINNING), "{path}: {reply:?}");
            renewed += usize::from(reply.text().starts_with("{\"token\":\"npm-token-inject-"));
        }
    }
    assert!(renewed > 80, "{renewed}");
    for path in ["/npms-api/tokens", "/npms-api//tokens/", "/npms-api/%74okens"] {
        let reply = client.request("GET", path).cookie(&session).send();
        assert_renews(&reply, &marker_of(&client, &session));
    }
}

#[test]
fn a_path_that_ends_the_request_line_gets_no_token_into_the_browser() {
    let world = World::new();
    let lines = format!("{}proxy_pass {}$uri;", opening(DIRECTIVE), world.npm.url());
    let nginx = world.nginx().location("/", &lines).start();
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    for path in [
        "/api/tokens%20HTTP/1.0%0d%0aX:%20y",
        "/api/tokens/%20HTTP/1.0%0aX:%20y",
        "/api/tokens%20HTTP/1.0%0d%0aX:%2520y",
    ] {
        let reply = client.request("GET", path).cookie(&session).send();
        assert!(!reply.text().contains(TOKEN_BEGINNING), "{path}: {reply:?}");
    }
}

#[test]
fn whatever_npm_may_take_for_its_api_gets_no_script() {
    let site = Site::with(|builder, pass| {
        let mount = format!("{}proxy_http_version 1.1;\nproxy_pass {}/;", opening(DIRECTIVE), {
            pass.rsplit(' ').next().unwrap_or_default().trim_end_matches(';')
        });
        builder.server("merge_slashes off;").location("/pre/", &mount)
    });
    let client = site.nginx.client();
    site.upstream.answers(Raw::page("<head></head>"));
    for path in ["/", "/pre/", "/pre/login", "//login"] {
        assert_opens(&site.open(&client, path), "<head>|</head>");
    }
    for path in ["/api/x", "//api/x", "/pre/api/x", "/pre//api/x", "/Api/x", "/pre/%61pi/x"] {
        let reply = site.open(&client, path);
        assert_eq!((reply.status, &*reply.text()), (200, "<head></head>"), "{path}");
    }
}

#[test]
fn the_ui_renews_its_marker_by_http_2_with_a_body_and_in_parts() {
    let world = World::new();
    let nginx = Watched::start(world.host().listen("http2"));
    let session = world.sign_in("akadmin");
    let (_, page) = curl(&nginx, &session, &["--http2-prior-knowledge"], "/");
    let page = String::from_utf8(page).expect("a page");
    world.npm.forget_requests();

    // Not curl, which fails now and then when nginx answers before it has read the body.
    let mut connection = Connection::open(nginx.port());
    let cookie = session.cookie();
    let cookie = [("cookie", &*cookie)];
    let part = [cookie[0], ("accept-encoding", "gzip"), ("range", "bytes=0-5")];
    let streams = [
        connection.get("/api/tokens", &cookie),
        connection.get_with_body("/api/tokens", &cookie, "{}"),
        connection.get("/api/tokens", &part),
    ];
    let bodies = connection.bodies(&streams);
    for stream in streams {
        let text = bodies.get(&stream).expect("an answer with status 200");
        let marker = text.strip_prefix("{\"token\":\"").expect(text);
        assert!(page.contains(marker.split('"').next().expect("a marker")));
    }
    assert!(world.npm.requests().is_empty());
}

#[test]
fn a_request_body_to_get_api_tokens_does_not_spoil_the_next_request() {
    let world = World::new();
    let nginx = Watched::start(world.host());
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    let marker = marker_of(&client, &session);
    for size in [1, 1000, 100_000] {
        let request = client.request("GET", "/api/tokens").cookie(&session);
        assert_renews(&request.body("x".repeat(size)).send(), &marker);
        assert_renews(&client.request("GET", "/api/tokens").cookie(&session).send(), &marker);
    }
}

#[test]
fn all_else_that_has_to_do_with_tokens_goes_to_npm() {
    let world = World::new();
    let nginx = Watched::start(world.host());
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    let login = serde_json::json!({"identity": "bob@example.com", "secret": world.npm.secret("bob@example.com")});
    let reply = client.request("POST", "/api/tokens").cookie(&session).json(&login).send();
    assert_eq!(reply.status, 200);
    let jwt = reply.json()["token"].as_str().expect("a token").to_owned();
    assert_eq!(jwt.split('.').count(), 3);

    // "Sign in as" somebody else, whose token is renewed by NPM.
    let request = client.request("GET", "/api/tokens").cookie(&session).bearer(&jwt);
    let reply = request.send();
    assert_eq!((reply.status, status(&reply)), (200, "kept"));
    assert_eq!(reply.json()["token"].as_str().expect("a token").split('.').count(), 3);
    assert_eq!(world.last("/api/tokens").authorization(), [format!("Bearer {jwt}")]);

    for (method, path) in [
        ("POST", "/api/tokens/2fa"),
        ("GET", "/api/tokens/2fa"),
        ("DELETE", "/api/tokens"),
        ("PUT", "/api/tokens"),
        ("OPTIONS", "/api/tokens"),
        ("GET", "/api/tokensx"),
        ("GET", "/api/token"),
    ] {
        world.npm.forget_requests();
        client.request(method, path).cookie(&session).send();
        assert_eq!(world.npm.requests_to(path).len(), 1, "{method} {path}");
    }

    // Without Authentik's session, and without a token.
    world.npm.forget_requests();
    assert_eq!(client.request("GET", "/api/tokens").send().status, 401);
    assert_eq!(client.request("GET", "/api/tokens").bearer(&jwt).send().status, 401);
    assert!(world.npm.requests_to("/api/tokens").is_empty());
    let reply = client.request("GET", "/api/tokens").cookie(&world.sign_in("nobody")).send();
    assert_eq!((reply.status, status(&reply)), (500, "no_account"));
    assert_eq!(world.carried_to("/api/tokens"), "nothing");
    world.npm.fault(Fault::Status(500));
    let reply = client.request("GET", "/api/tokens").cookie(&world.sign_in("bob")).send();
    assert_eq!((reply.status, status(&reply)), (500, "error"));
}

#[test]
fn where_the_browser_is_off_a_token_is_renewed_by_npm() {
    let world = World::new();
    let line = "npm_token_inject accounts.json browser=off;";
    let nginx = Watched::start(world.host().directive(line));
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    let reply = client.request("GET", "/api/tokens").cookie(&session).send();
    assert_eq!((reply.status, status(&reply)), (200, "miss"));
    assert_eq!(reply.json()["token"].as_str().expect("a token").split('.').count(), 3);
    assert_eq!(world.carried_to("/api/tokens"), "the token of admin@example.com");
    let page = navigation(&client, "GET", "/", &session).send();
    assert_eq!(page.body, Client::new(&world.npm.url()).get("/").body);
}

#[test]
fn a_renewal_waits_for_the_login_like_any_request() {
    let world = World::new();
    world.npm.fault(Fault::Delay(Duration::from_millis(100)));
    let nginx = Watched::start(world.host());
    let session = world.sign_in("akadmin");
    let replies: Vec<_> = thread::scope(|scope| {
        let ask = || nginx.client().request("GET", "/api/tokens").cookie(&session).send();
        let open = || navigation(&nginx.client(), "GET", "/", &session).send();
        let all: Vec<_> = (0..4).flat_map(|_| [scope.spawn(ask), scope.spawn(open)]).collect();
        all.into_iter().map(|one| one.join().expect("a reply")).collect()
    });
    let marker = marker_of(&nginx.client(), &session);
    for (index, reply) in replies.iter().enumerate() {
        assert_eq!(reply.status, 200);
        assert_eq!(reply.text().matches(&marker).count(), 1);
        if index % 2 == 0 {
            assert_renews(reply, &marker);
        }
    }
    assert_eq!(world.npm.logins(), 1);
    assert!(world.npm.requests_to("/api/tokens").iter().all(|request| request.method == "POST"));
}

#[test]
fn the_parameters_of_the_browser_are_looked_at_by_the_configuration_test() {
    let outpost = Outpost::start();
    let world = World { outpost, npm: crate::site::quick_npm(), satisfy: "all" };
    for (parameters, message) in [
        ("browser=maybe", "invalid value \"maybe\" of parameter \"browser\""),
        ("browser=ON", "invalid value \"ON\" of parameter \"browser\""),
        ("browser=", "parameter \"browser\" has no value"),
        ("browser=on browser=on", "duplicate parameter \"browser\""),
        ("sign_out=javascript:alert(1)", "\"javascript:alert(1)\" of parameter \"sign_out\""),
        ("sign_out=JavaScript:alert(1)", "parameter \"sign_out\""),
        ("sign_out=data:text/html,x", "parameter \"sign_out\""),
        ("sign_out=sign_out", "parameter \"sign_out\""),
        ("'sign_out= /out'", "parameter \"sign_out\""),
        ("sign_out=", "parameter \"sign_out\" has no value"),
        ("sign_out=/a sign_out=/b", "duplicate parameter \"sign_out\""),
        ("browser=off sign_out=/out", "\"sign_out\" needs browser=on"),
        ("sign_out=/out browser=off", "\"sign_out\" needs browser=on"),
    ] {
        let line = format!("npm_token_inject accounts.json {parameters};");
        let test = world.host().directive(&line).test();
        assert!(!test.ok, "{parameters}");
        let said = test.output.lines().find(|line| line.contains(message));
        let said = said.unwrap_or_else(|| panic!("{parameters}: {}", test.output));
        assert!(said.contains("[emerg]") && said.contains("nginx.conf:"), "{said}");
    }
    for parameters in
        ["browser=on", "browser=off", "sign_out=/out", "browser=on sign_out=https://a.example/out"]
    {
        let line = format!("npm_token_inject accounts.json {parameters};");
        let test = world.host().directive(&line).test();
        assert!(test.ok, "{}", test.output);
    }
}

/// A visitor whom a location leaves open, by the outpost's word.
#[test]
fn who_is_nobody_to_authentik_sees_npms_own_page() {
    let world = World::new();
    let nginx = Watched::start(world.host());
    let client = nginx.client();
    let npms = Client::new(&world.npm.url()).get("/open/page");
    let reply = with(client.request("GET", "/open/page"), &NAVIGATION).send();
    assert_eq!((reply.status, status(&reply)), (200, "none"));
    assert_eq!(reply.body, npms.body);
    assert_eq!(reply.header("ETag"), npms.header("ETag"));
    let anonymous = world.outpost.sign_in(Visitor::new(""));
    let reply = navigation(&client, "GET", "/", &anonymous).send();
    assert_eq!((&*reply.body, status(&reply)), (&*npms.body, "none"));
}
