//! The directive `npm_token_inject_status`: the page that it makes of a location.

use std::net::IpAddr;

use ngx::core::{NgxStr, Status};
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf};
use ngx::ngx_string;

use super::bindings::{
    ngx_http_arg, ngx_http_request_t, ngx_int_t, ngx_str_t, NGX_HTTP_FORBIDDEN,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_NOT_ALLOWED, NGX_OK,
};
use super::context::{Page, RequestContext};
use super::headers_in;
use super::log::Throttle;
use super::others::Others;
use super::pool::OutOfMemory;
use super::process::now;
use super::request::{is_read, Request};
use super::respond::{restrict_framing, send_text};
use super::settings::Directive;
use super::{AccessPhase, TokenInject};
use crate::sso::account::AccountKey;
use crate::sso::cache::Kind;
use crate::sso::framing::Framing;

/// The content handler.
pub unsafe extern "C" fn handle(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ngx_http_request(r) };
    if !is_let_in(request) {
        return NGX_HTTP_FORBIDDEN as ngx_int_t;
    }
    if !is_read(request) {
        return NGX_HTTP_NOT_ALLOWED as ngx_int_t;
    }
    send(request).map_or(NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t, Into::into)
}

/// Whether the location lets others in than this machine, or the request is of this machine: by the
/// address that its connection comes from, for a proxy may believe a header's, as NPM does.
fn is_let_in(request: &Request) -> bool {
    static REFUSED: Throttle = Throttle::new();

    let location = AccessPhase::location_conf(request.as_ref());
    if location.is_some_and(Others::have_access_rule) {
        return true;
    }
    let peer = TokenInject::main_conf(request.as_ref()).and_then(|main| main.peer.as_ref());
    let peer = peer.and_then(|peer| peer.evaluate(request)).unwrap_or_default();
    let address = std::str::from_utf8(peer).ok().and_then(|peer| peer.parse::<IpAddr>().ok());
    let is_of_this_machine = address.is_some_and(|address| address.to_canonical().is_loopback());
    if !is_of_this_machine && REFUSED.lets_through(now()) {
        log_error!(
            request.log(),
            "the status page is for this machine alone, and a connection from \"{}\" is refused; say \
             in its location who else may see it, with auth_request, auth_basic, or allow and deny",
            NgxStr::from_bytes(peer)
        );
    }
    is_of_this_machine
}

fn send(request: &mut Request) -> Result<Status, OutOfMemory> {
    let main = TokenInject::main_conf(request.as_ref()).ok_or(OutOfMemory)?;
    let is_used = |key: &AccountKey, kind| {
        main.settings.iter().any(|settings| {
            let accounts = settings.accounts.as_ref();
            match kind {
                Kind::Named => accounts.is_some_and(|accounts| accounts.name(key)),
                Kind::HandedOver => settings.credentials.is_some(),
                Kind::Person => accounts.is_some_and(|accounts| accounts.sign_in_as().is_some()),
            }
        })
    };
    let status = main.zone.ok_or(OutOfMemory)?.lock().status(now(), is_used);
    let (content_type, body) = match &format(request)[..] {
        b"prometheus" => (ngx_string!("text/plain; version=0.0.4"), status.to_prometheus()),
        b"html" => (ngx_string!("text/html; charset=utf-8"), status.to_html()),
        _ => (ngx_string!("application/json"), status.to_json()),
    };
    // Where the directive stands, the filter sees to it.
    let directive = TokenInject::location_conf(request.as_ref());
    if content_type.as_bytes().starts_with(b"text/html")
        && !matches!(directive, Some(Directive::On(_)))
    {
        restrict_framing(request, &Framing::SELF)?;
    }
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
