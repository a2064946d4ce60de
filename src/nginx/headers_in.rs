//! The headers of a request: what the module reads of them, and the few that it changes.

use std::mem::size_of;
use std::ptr::{self, NonNull};

use ngx::core::Pool;

use super::bindings::{
    ngx_http_request_t, ngx_list_part_t, ngx_list_t, ngx_palloc, ngx_str_t, ngx_table_elt_t,
    ngx_uint_t,
};
use super::pool::{parts, push, put, OutOfMemory};
use super::request::Request;
use crate::sso::origin::Provenance;

const AUTHORIZATION: Name = Name::new(b"Authorization", b"authorization");
const ORIGIN: Name = Name::new(b"Origin", b"origin");
const ACCEPT: Name = Name::new(b"Accept", b"accept");
const SEC_FETCH_SITE: Name = Name::new(b"Sec-Fetch-Site", b"sec-fetch-site");
const SEC_FETCH_MODE: Name = Name::new(b"Sec-Fetch-Mode", b"sec-fetch-mode");
const SEC_FETCH_DEST: Name = Name::new(b"Sec-Fetch-Dest", b"sec-fetch-dest");

/// Headers by which a client asks for less than the whole page, or for it in another form.
const PAGE_CONDITIONS: [Name; 7] = [
    Name::new(b"Accept-Encoding", b"accept-encoding"),
    Name::new(b"If-Match", b"if-match"),
    Name::new(b"If-Modified-Since", b"if-modified-since"),
    Name::new(b"If-None-Match", b"if-none-match"),
    Name::new(b"If-Range", b"if-range"),
    Name::new(b"If-Unmodified-Since", b"if-unmodified-since"),
    Name::new(b"Range", b"range"),
];

/// A header's name: as it is usually written, in lowercase, and its hash as nginx makes it.
struct Name {
    usual: &'static [u8],
    lowercase: &'static [u8],
    hash: ngx_uint_t,
}

impl Name {
    const fn new(usual: &'static [u8], lowercase: &'static [u8]) -> Self {
        // ngx_hash_key, by which ngx_http_proxy_create_request looks up what it does not pass on.
        let mut hash: ngx_uint_t = 0;
        let mut i = 0;
        while i < lowercase.len() {
            hash = hash.wrapping_mul(31).wrapping_add(lowercase[i] as ngx_uint_t);
            i += 1;
        }
        Self { usual, lowercase, hash }
    }

    #[inline(always)]
    fn is_of(&self, header: &ngx_table_elt_t) -> bool {
        if header.hash != self.hash || header.key.len != self.usual.len() {
            return false;
        }
        let name = header.key.as_bytes();
        // Browsers write it in one of these ways, which saves looking at each letter.
        name == self.usual || name == self.lowercase || name.eq_ignore_ascii_case(self.usual)
    }
}

/// The `Authorization` that stands in a request.
#[derive(Clone, Copy)]
pub struct Sent {
    /// The value; of several, the first one's.
    value: ngx_str_t,
    /// nginx refuses a client's second one (`ngx_http_process_unique_header_line`); another module
    /// may have put it there.
    count: u32,
}

impl Sent {
    const NONE: Self = Self { value: ngx_str_t { len: 0, data: ptr::null_mut() }, count: 0 };

    /// Its value, if there is one and not several.
    pub fn only_one(&self) -> Option<ngx_str_t> {
        (self.count == 1).then_some(self.value)
    }

    fn value(&self) -> Option<ngx_str_t> {
        (self.count > 0).then_some(self.value)
    }
}

/// Reads what matters of a request's headers, all in one go.
#[inline(always)]
pub fn read(request: &Request) -> (Sent, Provenance<'_>) {
    let r: &ngx_http_request_t = request.as_ref();
    let mut sent = Sent::NONE;
    let mut provenance = Provenance::default();
    for part in header_parts(r) {
        for header in part {
            // Most headers end here, with no more than a look at the length of their names.
            let place = match header.key.len {
                6 if ACCEPT.is_of(header) => &mut provenance.accept,
                6 if ORIGIN.is_of(header) => &mut provenance.origin,
                14 if SEC_FETCH_SITE.is_of(header) => &mut provenance.fetch_site,
                14 if SEC_FETCH_MODE.is_of(header) => &mut provenance.fetch_mode,
                14 if SEC_FETCH_DEST.is_of(header) => &mut provenance.fetch_dest,
                13 if AUTHORIZATION.is_of(header) => {
                    if sent.count == 0 {
                        sent.value = header.value;
                    }
                    sent.count += 1;
                    continue;
                }
                _ => continue,
            };
            // Said twice, it says nothing: no browser does that.
            if place.replace(header.value.as_bytes()).is_some() {
                *place = Some(&[]);
            }
        }
    }
    (sent, provenance)
}

/// A request's headers as they were before the module changed them, beside what it [`Sent`].
#[derive(Clone, Copy)]
pub struct Original {
    /// Where nginx had its `Authorization`.
    header: *mut ngx_table_elt_t,
    /// Where the list was replaced by another. In the request's pool.
    replaced: Option<NonNull<Replaced>>,
}

#[derive(Clone, Copy)]
struct Replaced {
    list: ngx_list_t,
    /// What nginx knew, where the whole page is asked for.
    conditions: Option<Conditions>,
}

impl Original {
    fn replaced(&self) -> Option<&Replaced> {
        // SAFETY: `change` has put it into the pool of the request, which outlives this.
        self.replaced.map(|replaced| unsafe { replaced.as_ref() })
    }
}

/// Where nginx itself knows of conditional headers, which its not-modified filter heeds.
type Conditions = [*mut ngx_table_elt_t; 4];

fn exchange_conditions(r: &mut ngx_http_request_t, mut conditions: Conditions) -> Conditions {
    let headers = &mut r.headers_in;
    let [a, b, c, d] = &mut conditions;
    std::mem::swap(&mut headers.if_match, a);
    std::mem::swap(&mut headers.if_modified_since, b);
    std::mem::swap(&mut headers.if_none_match, c);
    std::mem::swap(&mut headers.if_unmodified_since, d);
    conditions
}

/// Makes `value` the one and only `Authorization`, or leaves none. For a `whole_page`, what asks
/// for less than that, or for another form of it, does not go to the upstream either. nginx itself
/// still knows what encodings the client accepts, and compresses the page for it.
///
/// # Errors
///
/// When memory is out. The request must not go on then: what the client sent may still be there.
#[inline(always)]
pub fn change(
    request: &mut Request,
    sent: Sent,
    value: Option<ngx_str_t>,
    whole_page: bool,
) -> Result<Original, OutOfMemory> {
    let r: &mut ngx_http_request_t = request.as_mut();
    let header = r.headers_in.authorization;
    let replaced = match (sent.count, value) {
        (0, _) | (1, Some(_)) if !whole_page => None,
        _ => {
            let list = leave_out(r, whole_page)?;
            let conditions = whole_page.then(|| exchange_conditions(r, [ptr::null_mut(); 4]));
            // SAFETY: the pool is the request's.
            let pool = unsafe { Pool::from_ngx_pool(r.pool) };
            Some(put(&pool, Replaced { list, conditions })?)
        }
    };
    if let Some(value) = value {
        // SAFETY: null, or the header in the list that nginx, or `add_authorization`, has pointed at.
        match unsafe { r.headers_in.authorization.as_mut() } {
            Some(header) => header.value = value,
            None => add_authorization(r, value)?,
        }
    }
    Ok(Original { header, replaced })
}

/// Takes a change back.
///
/// # Errors
///
/// When memory is out. The request must not go on then: the module's token may still be there.
pub fn restore(request: &mut Request, original: Original, sent: Sent) -> Result<(), OutOfMemory> {
    let r: &mut ngx_http_request_t = request.as_mut();
    match (original.replaced(), sent.value()) {
        (Some(Replaced { list, conditions }), _) => {
            r.headers_in.headers = *list;
            conditions.map(|conditions| exchange_conditions(r, conditions));
        }
        (None, Some(value)) => {
            // SAFETY: where there was a value, there was a header, and it has stayed in its place.
            if let Some(header) = unsafe { original.header.as_mut() } {
                header.value = value;
            }
        }
        (None, None) => {
            leave_out(r, false)?;
        }
    }
    r.headers_in.authorization = original.header;
    Ok(())
}

/// Gives a subrequest the headers that the client sent, where the module has changed those of its
/// main request, of which a subrequest has a copy.
///
/// # Errors
///
/// When memory is out.
pub fn restore_in_subrequest(
    request: &mut Request,
    original: Original,
    sent: Sent,
) -> Result<(), OutOfMemory> {
    let r: &mut ngx_http_request_t = request.as_mut();
    match original.replaced() {
        Some(Replaced { list, .. }) => {
            r.headers_in.headers = *list;
            r.headers_in.authorization = original.header;
            Ok(())
        }
        // The elements are the main request's too: it keeps them as they are.
        None => {
            leave_out(r, false)?;
            sent.value().map_or(Ok(()), |value| add_authorization(r, value))
        }
    }
}

/// Makes `value` the one and only `Authorization` of a subrequest, or leaves none. The elements of
/// its list of headers are the main request's too: they are not written to.
///
/// # Errors
///
/// When memory is out.
pub fn authorize_subrequest(
    request: &mut Request,
    value: Option<ngx_str_t>,
) -> Result<(), OutOfMemory> {
    let r: &mut ngx_http_request_t = request.as_mut();
    leave_out(r, false)?;
    value.map_or(Ok(()), |value| add_authorization(r, value))
}

/// Whether this very value is the `Authorization` of a request, or whether it has none.
pub fn is_authorized(request: &Request, value: Option<ngx_str_t>) -> bool {
    // SAFETY: null, or a header of the request.
    let header = unsafe { request.as_ref().headers_in.authorization.as_ref() };
    header.map(|header| header.value.data) == value.map(|value| value.data)
}

#[inline(always)]
fn add_authorization(r: &mut ngx_http_request_t, value: ngx_str_t) -> Result<(), OutOfMemory> {
    // nginx does not write to the names.
    let name = AUTHORIZATION.usual;
    let header = ngx_table_elt_t {
        hash: AUTHORIZATION.hash,
        key: ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() },
        value,
        lowcase_key: AUTHORIZATION.lowercase.as_ptr().cast_mut(),
        ..Default::default()
    };
    r.headers_in.authorization = push(&mut r.headers_in.headers, header)?;
    Ok(())
}

/// Leaves every `Authorization` out, and for a `whole_page` what asks for less, by copying the
/// other headers to a new list. Returns the old one.
///
/// Elements cannot be taken out of a list in place: nginx holds pointers to others behind them,
/// and a part that becomes empty is read all the same (`ngx_http_proxy_create_request`). The old
/// elements stay where those pointers expect them.
#[inline(never)]
fn leave_out(r: &mut ngx_http_request_t, whole_page: bool) -> Result<ngx_list_t, OutOfMemory> {
    let is_left_out = |header: &ngx_table_elt_t| {
        AUTHORIZATION.is_of(header)
            || whole_page && PAGE_CONDITIONS.iter().any(|name| name.is_of(header))
    };
    let kept = || header_parts(r).flatten().filter(|header| !is_left_out(header));
    let count = kept().count();
    // Room for one header more: most often, another `Authorization` follows.
    let (size, nalloc) = (size_of::<ngx_table_elt_t>(), count + 1);
    // SAFETY: the pool is the request's.
    let elts = unsafe { ngx_palloc(r.pool, nalloc * size) };
    if elts.is_null() {
        return Err(OutOfMemory);
    }
    for (index, header) in kept().enumerate() {
        // SAFETY: there is room for as many headers, and each is a plain structure of C.
        unsafe { elts.cast::<ngx_table_elt_t>().add(index).write(ptr::read(header)) };
    }
    let part = ngx_list_part_t { elts, nelts: count, next: ptr::null_mut() };
    let list = ngx_list_t { last: ptr::null_mut(), part, size, nalloc, pool: r.pool };
    let old = std::mem::replace(&mut r.headers_in.headers, list);
    // A list points at its own first part, which has come to rest now.
    r.headers_in.headers.last = ptr::addr_of_mut!(r.headers_in.headers.part);
    r.headers_in.authorization = ptr::null_mut();
    Ok(old)
}

fn header_parts(r: &ngx_http_request_t) -> impl Iterator<Item = &[ngx_table_elt_t]> {
    // SAFETY: a list of headers has these.
    unsafe { parts(&r.headers_in.headers) }
}
