//! The directive `npm_token_inject_status`: the page that it makes of a location.

use ngx::core::Status;
use ngx::http::HttpModuleMainConf;
use ngx::ngx_string;

use super::bindings::{
    ngx_http_arg, ngx_http_request_t, ngx_int_t, ngx_str_t, NGX_HTTP_INTERNAL_SERVER_ERROR,
    NGX_HTTP_NOT_ALLOWED, NGX_OK,
};
use super::context::{Page, RequestContext};
use super::headers_in;
use super::pool::OutOfMemory;
use super::process::now;
use super::request::{is_read, Request};
use super::respond::send_text;
use super::TokenInject;

/// The content handler.
pub unsafe extern "C" fn handle(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ngx_http_request(r) };
    if !is_read(request) {
        return NGX_HTTP_NOT_ALLOWED as ngx_int_t;
    }
    send(request).map_or(NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t, Into::into)
}

fn send(request: &mut Request) -> Result<Status, OutOfMemory> {
    let zone = TokenInject::main_conf(request.as_ref()).and_then(|main| main.zone);
    let status = zone.ok_or(OutOfMemory)?.lock().status(now());
    let (content_type, body) = match &format(request)[..] {
        b"prometheus" => (ngx_string!("text/plain; version=0.0.4"), status.to_prometheus()),
        b"html" => (ngx_string!("text/html; charset=utf-8"), status.to_html()),
        _ => (ngx_string!("application/json"), status.to_json()),
    };
    // Where NPM's pages get a script, this is none of them.
    if let Some(context) = RequestContext::of_mut(request) {
        context.page = Page::No;
    }
    send_text(request, content_type, &body)
}

/// What is asked for: by the argument `format`, else by what the client accepts.
fn format(request: &mut Request) -> Vec<u8> {
    let mut argument = ngx_str_t::empty();
    let name = ngx_string!("format");
    // SAFETY: nginx looks the name up in the request's arguments, and writes to the string only.
    let found = unsafe { ngx_http_arg(request.as_mut(), name.data, name.len, &mut argument) };
    if found == NGX_OK as ngx_int_t {
        return argument.as_bytes().to_vec();
    }
    let accept = headers_in::read(request).1.accept.unwrap_or_default();
    match accept.windows(9).any(|w| w == b"text/html") {
        true => b"html".to_vec(),
        false => b"json".to_vec(),
    }
}
