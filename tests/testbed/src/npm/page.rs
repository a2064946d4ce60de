//! The page of NPM's web UI, as its nginx serves it. At `/old`, that of 2.12.

use super::Release;
use crate::server::{Request, Response};

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const OLD_PAGE: &str = include_str!("page.old.html");
const OLD_SCRIPT: &str = include_str!("page.old.js");
/// What 2.16 has otherwise than releases before it.
const LEAVES_LOGIN_PATH: &str = "const leavesLoginPath = false;";
const MODIFIED: &str = "Tue, 24 Nov 2026 06:07:17 GMT";
const ETAG: &str = "\"6b052a95-5ca\"";

/// What stands in the file that `request` asks for: the page, for every path that names no other.
pub(super) fn answer(request: &Request, release: Release) -> Response {
    if request.method != "GET" && request.method != "HEAD" {
        return error(405, "Not Allowed");
    }
    if let Some(name) = request.path.strip_suffix(".html") {
        return redirect(request, name);
    }
    if request.path.starts_with("/assets/") {
        let script = Response::new(200).header("Content-Type", "application/javascript");
        let is_old = request.path.starts_with("/assets/old-");
        return script.header("ETag", "\"6b052a95-1\"").body(match release {
            _ if is_old => OLD_SCRIPT.to_owned(),
            Release::V2_15 => SCRIPT.to_owned(),
            Release::V2_16 => SCRIPT.replace(LEAVES_LOGIN_PATH, "const leavesLoginPath = true;"),
        });
    }
    if request.path == "/old" {
        return Response::html(200, OLD_PAGE);
    }
    let page = |status| {
        Response::html(status, "")
            .header("Last-Modified", MODIFIED)
            .header("ETag", ETAG)
            .header("Accept-Ranges", "bytes")
    };
    let unchanged = match (request.header("If-None-Match"), request.header("If-Modified-Since")) {
        (Some(tags), _) => tags.split(',').any(|tag| tag.trim().trim_start_matches("W/") == ETAG),
        (None, since) => since == Some(MODIFIED),
    };
    if unchanged {
        return page(304);
    }
    match request.header("Range").and_then(range) {
        Some((first, last)) => page(206)
            .header("Content-Range", format!("bytes {first}-{last}/{}", PAGE.len()))
            .body(&PAGE[first..=last]),
        None => page(200).body(PAGE),
    }
}

/// The first and the last byte of a single range of the page.
fn range(header: &str) -> Option<(usize, usize)> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last = last.parse().unwrap_or(usize::MAX).min(PAGE.len() - 1);
    (first <= last).then_some((first, last))
}

/// A redirection to another path.
pub(super) fn redirect(request: &Request, path: &str) -> Response {
    let host = request.header("Host").unwrap_or("localhost");
    error(302, "Found").header("Location", format!("http://{host}{path}"))
}

/// A page of nginx's own.
pub(super) fn error(status: u16, reason: &str) -> Response {
    let line = format!("{status} {reason}");
    Response::html(
        status,
        format!("<html>\r\n<head><title>{line}</title></head>\r\n<body>\r\n<center><h1>{line}</h1></center>\r\n<hr><center>openresty</center>\r\n</body>\r\n</html>\r\n"),
    )
}
