//! Memory that lives as long as a request: copies in its pool, headers in its lists.

use std::ptr;

use ngx::core::Pool;

use super::bindings::{ngx_list_push, ngx_list_t, ngx_str_t, ngx_table_elt_t};

/// Memory of the request is out.
#[derive(Debug)]
pub struct OutOfMemory;

/// A copy in a request's pool.
///
/// # Errors
///
/// When memory is out.
pub fn copy(pool: &Pool, text: &[u8]) -> Result<ngx_str_t, OutOfMemory> {
    let data = pool.alloc_unaligned(text.len()).cast::<u8>();
    if data.is_null() {
        return Err(OutOfMemory);
    }
    // SAFETY: the pool has just given text.len() bytes.
    unsafe { ptr::copy_nonoverlapping(text.as_ptr(), data, text.len()) };
    Ok(ngx_str_t { len: text.len(), data })
}

/// Adds a header to a list of headers, a request's or a response's.
///
/// # Errors
///
/// When memory is out.
pub fn push(
    headers: &mut ngx_list_t,
    header: ngx_table_elt_t,
) -> Result<*mut ngx_table_elt_t, OutOfMemory> {
    // SAFETY: the list is one of headers, and gives room for one more, or null.
    unsafe {
        let place = ngx_list_push(headers).cast::<ngx_table_elt_t>();
        if place.is_null() {
            return Err(OutOfMemory);
        }
        place.write(header);
        Ok(place)
    }
}
