//! Standing aside: nginx runs as if the module were not there. Its directives do nothing, its
//! variables are as where the directive is off, and one line in the log says why.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::{c_char, c_void, CStr};
use core::ptr;

use crate::builds::Lack;
use crate::running::{executable, Running};
use crate::structures::*;

/// The module's name, as nginx knows it where there is a build.
pub const NAME: &CStr = c"ngx_http_npm_token_inject_module";

/// The module that stands there instead of a build's.
pub fn module(running: &Running) -> ngx_module_t {
    let mut module = ngx_module_t::new(NGX_HTTP_MODULE, ptr::addr_of!(CONTEXT).cast());
    module.commands = ptr::addr_of!(COMMANDS).cast();
    module.version = running.version;
    module.signature = running.signature;
    module
}

/// Why, which nginx is running, what lies there, and how to mend it: one line, short enough for
/// nginx's log (`NGX_MAX_ERROR_STR`).
pub fn message(running: &Running, lack: &Lack) -> String {
    /// So many builds are named.
    const NAMED: usize = 8;
    let Lack { folder, builds, unfit } = lack;
    let why = match unfit {
        Some((name, reason)) => format!("{folder}/{name} cannot be used: {reason}"),
        None => format!("{folder} has no build for it"),
    };
    let named = builds.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>();
    let held = match builds.len() {
        0 => "no build at all".into(),
        count if count > NAMED => format!("{} and {} more", named.join(", "), count - NAMED),
        _ => named.join(", "),
    };
    format!(
        "npm_token_inject stands aside, and NPM shows its own login page: this is nginx {} with \
         build id {}, and {why}. There is {held}. To make it, in a checkout of the module: {}",
        running.version(),
        running.id,
        command(folder)
    )
}

/// What makes the build that is missing: in NPM's container, whose image says which NPM it is, the
/// Dockerfile for that image.
fn command(folder: &str) -> String {
    match npm_version() {
        Some(version) => {
            let target = match folder.starts_with("/data/") {
                true => "--target module --output data/nginx/custom",
                false => "-t npm",
            };
            format!(
                "docker build -f nginx-conf/Dockerfile --build-arg \
                 NPM_IMAGE=jc21/nginx-proxy-manager:{version} {target} ."
            )
        }
        None => {
            let executable = executable().unwrap_or_default();
            format!("make module NGINX={}", executable.to_string_lossy())
        }
    }
}

/// The version of the NPM whose container this is, as its image's environment has it.
fn npm_version() -> Option<String> {
    // SAFETY: nginx reads its configuration in one thread, and changes no variable meanwhile.
    let value = unsafe {
        let value = libc::getenv(c"NPM_BUILD_VERSION".as_ptr());
        if value.is_null() {
            return None;
        }
        CStr::from_ptr(value).to_str().ok()?
    };
    let is_tag = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    (!value.is_empty() && value.bytes().all(is_tag)).then(|| value.into())
}

static CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(preconfiguration),
    postconfiguration: 0,
    create_main_conf: 0,
    init_main_conf: 0,
    create_srv_conf: 0,
    merge_srv_conf: 0,
    create_loc_conf: 0,
    merge_loc_conf: 0,
};

static COMMANDS: [ngx_command_t; 4] = [
    accepted(c"npm_token_inject", NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF),
    accepted(c"npm_token_inject_status", NGX_HTTP_LOC_CONF),
    accepted(c"npm_token_inject_zone", NGX_HTTP_MAIN_CONF),
    ngx_command_t { set: None, ..accepted(c"", 0) },
];

/// A directive that is taken with any arguments, and does nothing.
const fn accepted(name: &'static CStr, contexts: usize) -> ngx_command_t {
    ngx_command_t {
        name: text(name),
        type_: contexts | NGX_CONF_ANY,
        set: Some(ignore),
        conf: 0,
        offset: 0,
        post: ptr::null(),
    }
}

unsafe extern "C" fn ignore(
    _: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    _: *mut c_void,
) -> *mut c_char {
    ptr::null_mut()
}

unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> isize {
    // SAFETY: nginx passes a valid configuration, and copies the names.
    unsafe {
        let sent = ngx_http_get_variable_index(cf, &mut text(c"http_authorization"));
        let Ok(sent) = usize::try_from(sent) else {
            return NGX_ERROR;
        };
        let variables = [
            (text(c"npm_token_status"), empty as _),
            (text(c"npm_token_identity"), empty as _),
            (text(c"npm_token_authorization"), authorization as _),
        ];
        for (mut name, get) in variables {
            let variable = ngx_http_add_variable(cf, &mut name, NGX_HTTP_VAR_NOCACHEABLE);
            let Some(variable) = variable.as_mut() else {
                return NGX_ERROR;
            };
            variable.get_handler = Some(get);
            variable.data = sent;
        }
    }
    NGX_OK
}

unsafe extern "C" fn empty(
    _: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> isize {
    // SAFETY: nginx passes a value to fill.
    unsafe { *value = ngx_http_variable_null_value };
    NGX_OK
}

/// What the client sent, as `$http_authorization` has it, whose index is passed.
unsafe extern "C" fn authorization(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    sent: usize,
) -> isize {
    // SAFETY: nginx passes a valid request, and a value to fill.
    unsafe {
        match ngx_http_get_indexed_variable(r, sent).as_ref() {
            Some(sent) => *value = *sent,
            None => return NGX_ERROR,
        }
    }
    NGX_OK
}
