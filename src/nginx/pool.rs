//! Memory that lives as long as a request: copies in its pool, headers in its lists; and nginx's lists.

use std::ptr::{self, NonNull};

use ngx::core::Pool;

use super::bindings::{ngx_list_part_t, ngx_list_push, ngx_list_t, ngx_str_t, ngx_table_elt_t};

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

/// A value put into a request's pool.
///
/// # Errors
///
/// When memory is out.
pub fn put<T: Copy>(pool: &Pool, value: T) -> Result<NonNull<T>, OutOfMemory> {
    let place = NonNull::new(pool.alloc_type::<T>()).ok_or(OutOfMemory)?;
    // SAFETY: the pool has just given room for it, aligned for any type.
    unsafe { place.write(value) };
    Ok(place)
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

/// The elements of one of nginx's lists, as it has them: a part at a time.
///
/// # Safety
///
/// The list has elements of this type.
pub unsafe fn parts<'a, T: 'a>(list: &'a ngx_list_t) -> impl Iterator<Item = &'a [T]> {
    let mut next: Option<&ngx_list_part_t> = Some(&list.part);
    std::iter::from_fn(move || {
        let part = next?;
        // SAFETY: parts are linked by valid pointers, the last one's being null; each holds nelts
        // elements, as promised by the caller.
        unsafe {
            next = part.next.as_ref();
            Some(match part.nelts {
                0 => &[],
                nelts => std::slice::from_raw_parts(part.elts.cast(), nelts),
            })
        }
    })
}
