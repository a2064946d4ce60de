//! Responses: headers added to one, and whole ones of the module's own.

use ngx::core::Status;

use super::bindings::{
    ngx_http_complex_value_t, ngx_http_request_t, ngx_http_send_response, ngx_str_t,
    ngx_table_elt_t, NGX_HTTP_OK,
};
use super::pool::{copy, push, OutOfMemory};
use super::request::Request;

/// Has nobody keep the response.
///
/// # Errors
///
/// When memory is out.
pub fn forbid_keeping(r: &mut ngx_http_request_t) -> Result<(), OutOfMemory> {
    let text = |text: &'static str| ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
    // SAFETY: all zeros is a header without a name, which is set below.
    let mut header: ngx_table_elt_t = unsafe { std::mem::zeroed() };
    header.hash = 1;
    header.key = text("Cache-Control");
    header.value = text("no-store");
    push(&mut r.headers_out.headers, header)?;
    Ok(())
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
    // SAFETY: all zeros but for the text is a value without variables, which nginx only reads.
    unsafe {
        let mut body: ngx_http_complex_value_t = std::mem::zeroed();
        body.value = text;
        let status = NGX_HTTP_OK as usize;
        Ok(Status(ngx_http_send_response(request.as_mut(), status, &mut content_type, &mut body)))
    }
}
