//! What there is to ask of a request, beside its headers.

use ngx::ffi::{ngx_http_request_t, NGX_HTTP_GET, NGX_HTTP_HEAD};
use ngx::http::Request;

/// Whether the request only reads.
pub fn is_read(request: &Request) -> bool {
    request.as_ref().method as u32 & (NGX_HTTP_GET | NGX_HTTP_HEAD) != 0
}

/// Whether the request goes to NPM's API, which has no pages.
pub fn is_api(request: &Request) -> bool {
    request.as_ref().uri.as_bytes().starts_with(b"/api/")
}

/// Whether it came by https.
pub fn is_https(request: &Request) -> bool {
    let connection = request.connection();
    // SAFETY: a request has a connection.
    unsafe { !(*connection).ssl.is_null() }
}

/// The `Host` that the client sent, or its equivalent in HTTP/2.
pub fn host(request: &Request) -> &[u8] {
    let r: &ngx_http_request_t = request.as_ref();
    // SAFETY: null, or a header of the request.
    unsafe { r.headers_in.host.as_ref() }.map_or(&[], |host| host.value.as_bytes())
}
