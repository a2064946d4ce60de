//! Responses: what kind one is, headers added to one, and whole ones of the module's own.

use ngx::core::Status;

use super::bindings::{
    ngx_http_complex_value_t, ngx_http_request_t, ngx_http_send_response, ngx_list_part_t,
    ngx_str_t, ngx_table_elt_t, NGX_HTTP_OK,
};
use super::pool::{copy, push, OutOfMemory};
use super::request::Request;
use crate::sso::framing::Framing;

/// Whether the response is a page, by its type.
pub fn is_html(r: &ngx_http_request_t) -> bool {
    const HTML: &[u8] = b"text/html";
    let kind = r.headers_out.content_type.as_bytes();
    let Some((kind, rest)) = kind.split_at_checked(HTML.len()) else {
        return false;
    };
    kind.eq_ignore_ascii_case(HTML) && matches!(rest.first(), None | Some(b';' | b' ' | b'\t'))
}

/// Whether a browser may take the response for a page, or, as of status 304, for one that it has.
pub fn may_be_page(r: &ngx_http_request_t) -> bool {
    r.headers_out.content_type.is_empty() || is_html(r)
}

/// The headers of the response, but for those that nginx knows otherwise.
pub fn headers(r: &mut ngx_http_request_t) -> impl Iterator<Item = &mut ngx_table_elt_t> {
    let mut next = Some(&mut r.headers_out.headers.part);
    std::iter::from_fn(move || {
        let part: &mut ngx_list_part_t = next.take()?;
        // SAFETY: parts are linked by valid pointers, the last one's being null; each holds nelts
        // headers, which nobody else refers to as long as the request is borrowed.
        unsafe {
            next = part.next.as_mut();
            Some(match part.nelts {
                0 => &mut [],
                nelts => std::slice::from_raw_parts_mut(part.elts.cast(), nelts),
            })
        }
    })
    .flatten()
}

/// Says who may frame the response. What is said of that already stays.
///
/// # Errors
///
/// When memory is out.
pub fn restrict_framing(request: &mut Request, framing: &Framing) -> Result<(), OutOfMemory> {
    const OPTIONS: &str = "X-Frame-Options";

    let policy = copy(&request.pool(), framing.policy.as_bytes())?;
    let r = request.as_mut();
    // A browser heeds every policy, and of several options none.
    add_header(r, "Content-Security-Policy", policy)?;
    let is_options = |header: &ngx_table_elt_t| {
        header.hash != 0 && header.key.as_bytes().eq_ignore_ascii_case(OPTIONS.as_bytes())
    };
    match framing.options {
        Some(options) if !headers(r).any(|header| is_options(header)) => {
            add_header(r, OPTIONS, text(options))
        }
        _ => Ok(()),
    }
}

/// Has nobody keep the response.
///
/// # Errors
///
/// When memory is out.
pub fn forbid_keeping(r: &mut ngx_http_request_t) -> Result<(), OutOfMemory> {
    add_header(r, "Cache-Control", text("no-store"))
}

fn add_header(
    r: &mut ngx_http_request_t,
    name: &'static str,
    value: ngx_str_t,
) -> Result<(), OutOfMemory> {
    let header = ngx_table_elt_t { hash: 1, key: text(name), value, ..Default::default() };
    push(&mut r.headers_out.headers, header)?;
    Ok(())
}

fn text(text: &'static str) -> ngx_str_t {
    ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() }
}

/// Answers with a text, which nobody is to keep.
///
/// # Errors
///
/// When memory is out.
pub fn send_text(
    request: &mut Request,
    content_type: ngx_str_t,
    text: &str,
) -> Result<Status, OutOfMemory> {
    forbid_keeping(request.as_mut())?;
    let text = copy(&request.pool(), text.as_bytes())?;
    let mut content_type = content_type;
    let mut body = ngx_http_complex_value_t { value: text, ..Default::default() };
    let status = NGX_HTTP_OK as usize;
    // SAFETY: the request is valid; nginx only reads the type and the value, which has no variables.
    let sent =
        unsafe { ngx_http_send_response(request.as_mut(), status, &mut content_type, &mut body) };
    Ok(Status(sent))
}
