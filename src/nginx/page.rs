//! NPM's page on its way to the browser: the script is put into it.

use std::mem::size_of;
use std::ptr;

use ngx::core::{NgxStr, Pool};

use super::bindings::{
    ngx_alloc_chain_link, ngx_buf_t, ngx_chain_t, ngx_http_request_t, ngx_str_t,
};
use super::context::Page;
use super::log::Throttle;
use super::pool::{copy, OutOfMemory};
use super::process::now;
use super::request::Request;
use super::respond::{forbid_keeping, headers, is_html};
use super::settings::Settings;
use crate::sso::marker::{self, Marker};
use crate::sso::page::{self, Place, Scanner, HELD_MAX};

/// Makes a response of status 200 ready for the script, if it is a page that can take it. Returns
/// the state of the body's filter, which lives in the request's pool, or null.
///
/// `kind` is what the page was asked for as, `has_token` whether its user has one.
pub fn prepare(
    request: &mut Request,
    settings: &Settings,
    kind: Page,
    has_token: bool,
) -> Result<*mut OpenPage, OutOfMemory> {
    static ENCODED: Throttle = Throttle::new();

    let r: &ngx_http_request_t = request.as_ref();
    if !is_html(r) {
        return Ok(ptr::null_mut());
    }
    if let Some(encoding) = encoding(r) {
        // To anything but a browser's navigation an encoded page may be no news.
        if kind == Page::Opens && has_token && ENCODED.lets_through(now()) {
            log_warn!(
                request.log(),
                "NPM's page is encoded as \"{}\" and opens at NPM's login; \
                 remove what makes the upstream compress it, such as a proxy_set_header \
                 Accept-Encoding in this location",
                NgxStr::from_bytes(encoding.as_bytes())
            );
        }
        return Ok(ptr::null_mut());
    }
    let header_only = r.header_only() != 0;
    let script = match has_token {
        true => opening_script(request, settings)?,
        false => copy(&request.pool(), page::leaving_script().as_bytes())?,
    };
    forbid_caching(request.as_mut())?;
    if header_only {
        return Ok(ptr::null_mut());
    }
    request.as_mut().set_filter_need_in_memory(1);
    let page = request.pool().alloc(size_of::<OpenPage>()).cast::<OpenPage>();
    if page.is_null() {
        return Err(OutOfMemory);
    }
    // SAFETY: the pool has given room for the state, which needs no dropping.
    unsafe { page.write(OpenPage::new(script)) };
    Ok(page)
}

fn opening_script(request: &Request, settings: &Settings) -> Result<ngx_str_t, OutOfMemory> {
    let marker = marker(request, settings)?;
    let sign_out = settings.browser.as_ref().and_then(|browser| browser.sign_out.as_deref());
    copy(&request.pool(), page::opening_script(&marker, sign_out).as_bytes())
}

/// The marker of the user whose request this is.
pub fn marker(request: &Request, settings: &Settings) -> Result<Marker, OutOfMemory> {
    let user = settings.user.evaluate(request).ok_or(OutOfMemory)?;
    let now = now();
    let mut markers = settings.markers.borrow_mut();
    let token = markers.find([user], now).unwrap_or_else(|| {
        let token = marker::token(user, &settings.zone.lock().marker_key());
        markers.add([user], token.clone(), now);
        token
    });
    Ok(Marker::new(token, now))
}

fn encoding(r: &ngx_http_request_t) -> Option<ngx_str_t> {
    // SAFETY: null, or a header of the response.
    let header = unsafe { r.headers_out.content_encoding.as_ref() }?;
    let is_none = header.value.is_empty() || header.value.as_bytes() == b"identity";
    (header.hash != 0 && !is_none).then_some(header.value)
}

/// What must not be said of the page, nor be said twice.
const FORBIDDEN: [&[u8]; 7] = [
    b"Content-Length",
    b"Last-Modified",
    b"ETag",
    b"Accept-Ranges",
    b"Expires",
    b"Cache-Control",
    b"Pragma",
];

/// The page is one user's, and is to be asked for anew each time: whatever says how long it is,
/// which version it is or how long it may be kept is taken away.
fn forbid_caching(r: &mut ngx_http_request_t) -> Result<(), OutOfMemory> {
    let out = &mut r.headers_out;
    out.content_length_n = -1;
    out.last_modified_time = -1;
    for known in [
        &mut out.content_length,
        &mut out.last_modified,
        &mut out.etag,
        &mut out.accept_ranges,
        &mut out.expires,
    ] {
        *known = ptr::null_mut();
    }
    r.set_allow_ranges(0);

    for header in headers(r) {
        let name = header.key.as_bytes();
        if FORBIDDEN.iter().any(|other| name.eq_ignore_ascii_case(other)) {
            // Such a header is not sent.
            header.hash = 0;
        }
    }
    forbid_keeping(r)
}

/// A page on its way to the browser. Lives in the request's pool.
pub struct OpenPage {
    scanner: Scanner,
    script: ngx_str_t,
    held: [u8; HELD_MAX],
    held_len: usize,
    is_done: bool,
}

impl OpenPage {
    fn new(script: ngx_str_t) -> Self {
        Self {
            scanner: Scanner::default(),
            script,
            held: [0; HELD_MAX],
            held_len: 0,
            is_done: false,
        }
    }

    /// Whether the script has found its place, so that the rest needs no filter.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Puts the script into its place, if it is in this part of the page.
    pub fn filter(
        &mut self,
        pool: Pool,
        input: *mut ngx_chain_t,
    ) -> Result<*mut ngx_chain_t, OutOfMemory> {
        let mut output = Output::new(pool);
        let mut link = input;
        // SAFETY: nginx passes a chain of valid buffers.
        while let Some(this) = unsafe { link.as_mut() } {
            link = this.next;
            if self.is_done {
                output.append_rest(this);
                break;
            }
            // SAFETY: as above.
            let buffer = unsafe { &mut *this.buf };
            self.pass(&mut output, buffer)?;
        }
        Ok(output.first)
    }

    fn pass(&mut self, output: &mut Output, buffer: &mut ngx_buf_t) -> Result<(), OutOfMemory> {
        let piece = content(buffer);
        let is_last = buffer.last_buf() != 0;
        // What is in memory and in a file, nginx sends by the file (`ngx_output_chain_to_iovec`), as much
        // of it as there was before the filter.
        if is_in_memory(buffer) {
            buffer.set_in_file(0);
        }
        match self.scanner.feed(piece) {
            // What is held back is the beginning of one tag, and this piece its continuation.
            Place::NotYet { hold } if hold > piece.len() && !is_last => {
                self.hold(piece);
                buffer.pos = buffer.last;
            }
            Place::NotYet { hold } => {
                self.let_go(output)?;
                if !is_last {
                    let (_, end) = piece.split_at(piece.len() - hold);
                    self.hold(end);
                    buffer.last = buffer.last.wrapping_sub(hold);
                }
            }
            Place::BeforeHeld => {
                output.push(self.script.as_bytes())?;
                self.let_go(output)?;
                self.is_done = true;
            }
            Place::At(offset) => {
                self.let_go(output)?;
                output.push(&piece[..offset])?;
                output.push(self.script.as_bytes())?;
                buffer.pos = buffer.pos.wrapping_add(offset);
                self.is_done = true;
            }
        }
        output.forward(buffer)
    }

    fn hold(&mut self, bytes: &[u8]) {
        for (place, byte) in self.held.iter_mut().skip(self.held_len).zip(bytes) {
            *place = *byte;
            self.held_len += 1;
        }
    }

    fn let_go(&mut self, output: &mut Output) -> Result<(), OutOfMemory> {
        let held = self.held.get(..self.held_len).unwrap_or_default();
        self.held_len = 0;
        output.push(held)
    }
}

/// A chain that is being put together. Its links are new: those of the input are the caller's.
struct Output {
    pool: Pool,
    first: *mut ngx_chain_t,
    last: *mut ngx_chain_t,
}

impl Output {
    fn new(pool: Pool) -> Self {
        Self { pool, first: ptr::null_mut(), last: ptr::null_mut() }
    }

    /// Adds a copy of the bytes: where they are now may be used again before they are sent.
    fn push(&mut self, bytes: &[u8]) -> Result<(), OutOfMemory> {
        if bytes.is_empty() {
            return Ok(());
        }
        let text = copy(&self.pool, bytes)?;
        let buffer = self.new_buffer()?;
        buffer.pos = text.data;
        buffer.last = text.data.wrapping_add(text.len);
        buffer.start = buffer.pos;
        buffer.end = buffer.last;
        buffer.set_temporary(1);
        self.append(buffer)
    }

    /// Adds a buffer of the input. One that has been emptied is not sent on, which would be an
    /// error to nginx; the orders that it carries are.
    fn forward(&mut self, buffer: &mut ngx_buf_t) -> Result<(), OutOfMemory> {
        if !is_in_memory(buffer) || buffer.pos != buffer.last {
            return self.append(buffer);
        }
        let orders = buffer.flush() | buffer.sync() | buffer.last_buf() | buffer.last_in_chain();
        if orders == 0 {
            return Ok(());
        }
        let special = self.new_buffer()?;
        special.set_flush(buffer.flush());
        special.set_sync(1);
        special.set_last_buf(buffer.last_buf());
        special.set_last_in_chain(buffer.last_in_chain());
        self.append(special)
    }

    fn append(&mut self, buffer: &mut ngx_buf_t) -> Result<(), OutOfMemory> {
        // SAFETY: the pool is the request's.
        let link = unsafe { ngx_alloc_chain_link(self.pool.as_ptr()) };
        // SAFETY: a new link, or null.
        let this = unsafe { link.as_mut() }.ok_or(OutOfMemory)?;
        (this.buf, this.next) = (buffer, ptr::null_mut());
        self.append_rest(link);
        Ok(())
    }

    /// Adds a whole chain, after which nothing can be added.
    fn append_rest(&mut self, link: *mut ngx_chain_t) {
        // SAFETY: the last link is null, or one that `append` has made.
        match unsafe { self.last.as_mut() } {
            Some(last) => last.next = link,
            None => self.first = link,
        }
        self.last = link;
    }

    fn new_buffer(&self) -> Result<&'static mut ngx_buf_t, OutOfMemory> {
        // SAFETY: zeroed memory of the pool, for which all zeros is an empty buffer, or null. It
        // lives as long as the request, and is used only while it does.
        unsafe { self.pool.calloc_type::<ngx_buf_t>().as_mut() }.ok_or(OutOfMemory)
    }
}

fn is_in_memory(buffer: &ngx_buf_t) -> bool {
    buffer.temporary() | buffer.memory() | buffer.mmap() != 0
}

fn content(buffer: &ngx_buf_t) -> &'static [u8] {
    if !is_in_memory(buffer) || buffer.pos >= buffer.last {
        return &[];
    }
    // SAFETY: a buffer in memory holds what is between pos and last; it is not written to while
    // the filter runs.
    unsafe { std::slice::from_raw_parts(buffer.pos, buffer.last.offset_from(buffer.pos) as usize) }
}
