//! The answer to `GET /api/tokens`, by which NPM's UI renews its token: the marker, renewed.
//!
//! NPM itself would answer with a JWT, and the UI would keep it in the browser.

use ngx::core::Status;
use ngx::http::HttpModuleLocationConf;
use ngx::ngx_string;

use super::bindings::{ngx_http_request_t, ngx_int_t, NGX_HTTP_INTERNAL_SERVER_ERROR};
use super::page::marker;
use super::pool::OutOfMemory;
use super::request::Request;
use super::respond::send_text;
use super::settings::Directive;
use super::TokenInject;

/// Answers in the place of the location's own content handler.
pub unsafe extern "C" fn answer(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ngx_http_request(r) };
    send(request).map_or(NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t, Into::into)
}

fn send(request: &mut Request) -> Result<Status, OutOfMemory> {
    let Some(Directive::On(settings)) = TokenInject::location_conf(request.as_ref()) else {
        return Ok(Status(NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t));
    };
    let json = marker(request, settings)?.to_json();
    send_text(request, ngx_string!("application/json; charset=utf-8"), &json)
}
