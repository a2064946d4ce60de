//! Complex values: text with variables, as nginx's directives take it.

use std::ptr::NonNull;

use super::bindings::{
    ngx_conf_t, ngx_http_compile_complex_value, ngx_http_compile_complex_value_t,
    ngx_http_complex_value, ngx_http_complex_value_t, ngx_http_get_flushed_variable,
    ngx_http_get_variable_index, ngx_int_t, ngx_str_t, ngx_uint_t, NGX_ERROR, NGX_OK,
};
use super::request::Request;
use crate::sso::variables::names;
use ngx::core::Pool;

/// A compiled complex value.
#[derive(Clone, Copy)]
pub enum Value {
    /// One variable and nothing else, by its index. The usual case, and the fast one.
    Variable(ngx_uint_t),
    /// Any other text. Lives in the configuration's pool.
    Complex(NonNull<ngx_http_complex_value_t>),
}

impl Value {
    /// Compiles a value. `None` when nginx has logged why it cannot.
    pub fn compile(cf: &mut ngx_conf_t, text: &[u8]) -> Option<Self> {
        if let [name] = &names(text)[..] {
            if text.len() == name.len() + 1 {
                return Self::variable(cf, name.as_bytes());
            }
        }
        let mut text = ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() };
        // SAFETY: cf and its pool are valid; the value compiled is allocated in that pool.
        unsafe {
            let value = Pool::from_ngx_pool(cf.pool).calloc_type::<ngx_http_complex_value_t>();
            let value = NonNull::new(value)?;
            let mut compile = ngx_http_compile_complex_value_t {
                cf,
                value: &mut text,
                complex_value: value.as_ptr(),
                ..Default::default()
            };
            let done = ngx_http_compile_complex_value(&mut compile) == NGX_OK as ngx_int_t;
            done.then_some(Self::Complex(value))
        }
    }

    /// The value of one variable.
    pub fn variable(cf: &mut ngx_conf_t, name: &[u8]) -> Option<Self> {
        // SAFETY: cf and its pool are valid; nginx copies the name.
        let index = unsafe {
            let mut name = ngx_str_t::from_bytes(cf.pool, name)?;
            ngx_http_get_variable_index(cf, &mut name)
        };
        (index != NGX_ERROR as ngx_int_t).then_some(Self::Variable(index as ngx_uint_t))
    }

    /// The text for this request; empty where a variable is not found. `None` when memory is out.
    pub fn evaluate<'r>(&self, request: &'r Request) -> Option<&'r [u8]> {
        let request = request.as_ptr();
        // SAFETY: the request is valid; what is returned lives as long, and nginx sets data wherever it
        // sets a length.
        unsafe {
            match self {
                Self::Variable(index) => {
                    let value = ngx_http_get_flushed_variable(request, *index).as_ref()?;
                    match value.not_found() {
                        0 => Some(value.as_bytes()),
                        _ => Some(&[]),
                    }
                }
                Self::Complex(value) => {
                    let mut text = ngx_str_t::empty();
                    if ngx_http_complex_value(request, value.as_ptr(), &mut text)
                        != NGX_OK as ngx_int_t
                    {
                        return None;
                    }
                    match text.len {
                        0 => Some(&[]),
                        len => Some(std::slice::from_raw_parts(text.data, len)),
                    }
                }
            }
        }
    }
}
