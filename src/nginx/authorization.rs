//! The `Authorization` of a request: the one header that the module changes.

use std::mem::size_of;
use std::ptr;

use ngx::ffi::{
    ngx_http_request_t, ngx_int_t, ngx_list_init, ngx_list_part_t, ngx_list_push, ngx_list_t,
    ngx_str_t, ngx_table_elt_t, ngx_uint_t, NGX_OK,
};
use ngx::http::Request;

const NAME: &[u8] = b"Authorization";
const NAME_LOWERCASE: &[u8] = b"authorization";

/// Memory of the request is out.
#[derive(Debug)]
pub struct OutOfMemory;

/// The value that stands in the request, the client's own or the module's.
pub fn current(request: &Request) -> Option<ngx_str_t> {
    let r: &ngx_http_request_t = request.as_ref();
    // SAFETY: nginx points at the first such header in the list, or at none.
    unsafe { r.headers_in.authorization.as_ref() }.map(|header| header.value)
}

/// Whether there is one such header, and not several. nginx refuses a client's second one
/// (`ngx_http_process_unique_header_line`); another module may have put it there.
pub fn is_the_only_one(request: &Request) -> bool {
    let r: &ngx_http_request_t = request.as_ref();
    let mut count = 0;
    for part in parts(&r.headers_in.headers) {
        for header in part {
            count += usize::from(is_authorization(header));
        }
    }
    count == 1
}

/// Makes `value` the one and only `Authorization`, or leaves none.
///
/// # Errors
///
/// When memory is out. The request must not go on then: what the client sent may still be there.
pub fn replace(request: &mut Request, value: Option<ngx_str_t>) -> Result<(), OutOfMemory> {
    let only_one = current(request).map(|_| is_the_only_one(request));
    let r: &mut ngx_http_request_t = request.as_mut();
    match (only_one, value) {
        (None, None) => Ok(()),
        (None, Some(value)) => push(r, value),
        (Some(true), Some(value)) => {
            // SAFETY: `current` has just found a header there.
            unsafe { (*r.headers_in.authorization).value = value };
            Ok(())
        }
        (Some(_), value) => {
            remove(r)?;
            value.map_or(Ok(()), |value| push(r, value))
        }
    }
}

fn push(r: &mut ngx_http_request_t, value: ngx_str_t) -> Result<(), OutOfMemory> {
    // SAFETY: the list is the request's own, of ngx_table_elt_t; the names are static, and nginx
    // does not write to them.
    unsafe {
        let header = ngx_list_push(&mut r.headers_in.headers).cast::<ngx_table_elt_t>();
        if header.is_null() {
            return Err(OutOfMemory);
        }
        header.write(std::mem::zeroed());
        (*header).hash = HASH;
        (*header).key = ngx_str_t { len: NAME.len(), data: NAME.as_ptr().cast_mut() };
        (*header).value = value;
        (*header).lowcase_key = NAME_LOWERCASE.as_ptr().cast_mut();
        r.headers_in.authorization = header;
    }
    Ok(())
}

/// Removes every `Authorization`, by copying the others to a new list.
///
/// Elements cannot be taken out of a list in place: nginx holds pointers to others behind them,
/// and a part that becomes empty is read all the same (`ngx_http_proxy_create_request`). The old
/// elements stay where those pointers expect them.
fn remove(r: &mut ngx_http_request_t) -> Result<(), OutOfMemory> {
    let kept = || parts(&r.headers_in.headers).flatten().filter(|h| !is_authorization(h));
    let room = kept().count() + 1;
    // SAFETY: the pool is the request's. The list is filled through a copy, whose `last` is set
    // right when it has come to rest.
    unsafe {
        let mut list: ngx_list_t = std::mem::zeroed();
        let size = size_of::<ngx_table_elt_t>();
        if ngx_list_init(&mut list, r.pool, room, size) != NGX_OK as ngx_int_t {
            return Err(OutOfMemory);
        }
        let elements = list.part.elts.cast::<ngx_table_elt_t>();
        for (index, header) in kept().enumerate() {
            elements.add(index).write(ptr::read(header));
        }
        list.part.nelts = room - 1;
        r.headers_in.headers = list;
        r.headers_in.headers.last = ptr::addr_of_mut!(r.headers_in.headers.part);
    }
    r.headers_in.authorization = ptr::null_mut();
    Ok(())
}

fn is_authorization(header: &ngx_table_elt_t) -> bool {
    if header.hash != HASH || header.key.len != NAME.len() {
        return false;
    }
    let name = header.key.as_bytes();
    // Browsers write it in one of these ways, which saves looking at each letter.
    name == NAME || name == NAME_LOWERCASE || name.eq_ignore_ascii_case(NAME)
}

fn parts(list: &ngx_list_t) -> impl Iterator<Item = &[ngx_table_elt_t]> {
    let mut next: Option<&ngx_list_part_t> = Some(&list.part);
    std::iter::from_fn(move || {
        let part = next?;
        // SAFETY: parts are linked by valid pointers, the last one's being null; each holds nelts
        // elements, of this type in a list of headers.
        unsafe {
            next = part.next.as_ref();
            Some(match part.nelts {
                0 => &[],
                nelts => std::slice::from_raw_parts(part.elts.cast(), nelts),
            })
        }
    })
}

/// The hash by which `ngx_http_proxy_create_request` finds the header among those that
/// `proxy_set_header` sets (`ngx_hash_key`).
const HASH: ngx_uint_t = {
    let mut hash: ngx_uint_t = 0;
    let mut i = 0;
    while i < NAME_LOWERCASE.len() {
        hash = hash.wrapping_mul(31).wrapping_add(NAME_LOWERCASE[i] as ngx_uint_t);
        i += 1;
    }
    hash
};

/// A copy in the request's pool.
///
/// # Errors
///
/// When memory is out.
pub fn copy(request: &Request, text: &[u8]) -> Result<ngx_str_t, OutOfMemory> {
    let data = request.pool().alloc_unaligned(text.len()).cast::<u8>();
    if data.is_null() {
        return Err(OutOfMemory);
    }
    // SAFETY: the pool has just given text.len() bytes.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr(), data, text.len()) };
    Ok(ngx_str_t { len: text.len(), data })
}
