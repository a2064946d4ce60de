//! Directives of other modules, as far as this one has to know them: who sets the variables that
//! say who a user is, and whether a location has access rules.
//!
//! nginx hands a directive to the first module that has one of its name (`ngx_conf_handler`). The
//! module that these belong to stands before nginx's own that check access (`tables` in `mod.rs`).
//! It notes what matters, and hands the directive on, as nginx would have.

use std::ffi::{c_char, c_void};
use std::ptr;
use std::rc::Rc;

use ngx::core::{NgxStr, NGX_CONF_ERROR};
use ngx::http::{HttpModule, HttpModuleLocationConf, HttpModuleMainConf, Merge, MergeConfigError};
use ngx::{ngx_conf_log_error, ngx_string};

use super::bindings::{
    modules, ngx_command_t, ngx_conf_t, ngx_http_conf_ctx_t, ngx_str_t, ngx_uint_t, NGX_CONF_TAKE1,
    NGX_CONF_TAKE2, NGX_HTTP_LMT_CONF, NGX_HTTP_LOC_CONF, NGX_HTTP_LOC_CONF_OFFSET,
    NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF, NGX_LOG_EMERG,
};
use super::log::place;
use super::settings::AuthRequestSet;
use super::{AccessPhase, TokenInject};

const EVERYWHERE: u32 = NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF;

/// They stand where the originals do, and take as many arguments.
pub static mut COMMANDS: [ngx_command_t; 6] = [
    command(ngx_string!("auth_request_set"), EVERYWHERE | NGX_CONF_TAKE2),
    command(ngx_string!("auth_request"), EVERYWHERE | NGX_CONF_TAKE1),
    command(ngx_string!("auth_basic"), EVERYWHERE | NGX_HTTP_LMT_CONF | NGX_CONF_TAKE1),
    command(ngx_string!("allow"), EVERYWHERE | NGX_HTTP_LMT_CONF | NGX_CONF_TAKE1),
    command(ngx_string!("deny"), EVERYWHERE | NGX_HTTP_LMT_CONF | NGX_CONF_TAKE1),
    ngx_command_t::empty(),
];

const fn command(name: ngx_str_t, kind: u32) -> ngx_command_t {
    ngx_command_t {
        name,
        type_: kind as ngx_uint_t,
        set: Some(note_and_hand_on),
        conf: NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: ptr::null_mut(),
    }
}

/// What they say in a location.
#[derive(Default)]
pub struct Others {
    /// What `auth_request_set` says there.
    pub sets: Vec<Rc<AuthRequestSet>>,
    /// Whether `allow` or `deny` stands there.
    has_rules: bool,
    auth_request: Option<bool>,
    auth_basic: Option<bool>,
}

impl Others {
    /// Whether the location has an access rule, be it of a level outside it.
    pub fn have_access_rule(&self) -> bool {
        self.has_rules || self.auth_request == Some(true) || self.auth_basic == Some(true)
    }
}

impl Merge for Others {
    /// As each of the modules does it.
    fn merge(&mut self, outer: &Self) -> Result<(), MergeConfigError> {
        if self.sets.is_empty() {
            self.sets.clone_from(&outer.sets);
        }
        self.has_rules |= outer.has_rules;
        self.auth_request = self.auth_request.or(outer.auth_request);
        self.auth_basic = self.auth_basic.or(outer.auth_basic);
        Ok(())
    }
}

unsafe extern "C" fn note_and_hand_on(
    cf: *mut ngx_conf_t,
    command: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: nginx passes a valid configuration, and the location's part that create_loc_conf made;
    // the arguments are an array of ngx_str_t.
    let (cf, others, arguments) = unsafe {
        let arguments = (*(*cf).args).as_slice::<ngx_str_t>().to_vec();
        (&mut *cf, &mut *conf.cast::<Others>(), arguments)
    };
    let [name, first, rest @ ..] = &arguments[..] else {
        return NGX_CONF_ERROR;
    };
    let is_on = first.as_bytes() != b"off";
    match (name.as_bytes(), rest) {
        (b"auth_request_set", [value]) => note_set(cf, others, first, value),
        (b"auth_request", _) => others.auth_request = Some(is_on),
        (b"auth_basic", _) => others.auth_basic = Some(is_on),
        _ => others.has_rules = true,
    }
    // SAFETY: as above.
    unsafe { hand_on(cf, &(*command).name) }
}

fn note_set(cf: &mut ngx_conf_t, others: &mut Others, variable: &ngx_str_t, value: &ngx_str_t) {
    let Some(name) = variable.as_bytes().strip_prefix(b"$") else {
        return;
    };
    let set = Rc::new(AuthRequestSet {
        variable: String::from_utf8_lossy(name).to_ascii_lowercase(),
        value: value.as_bytes().to_vec(),
        server: server(cf),
        place: place(cf),
    });
    others.sets.push(set.clone());
    if let Some(main) = TokenInject::main_conf_mut(cf) {
        main.auth_request_sets.push(set);
    }
}

/// What tells the server that is being read, or merged, from all others.
pub fn server(cf: &ngx_conf_t) -> *const c_void {
    // SAFETY: within http, the context is this one.
    unsafe { (*cf.ctx.cast::<ngx_http_conf_ctx_t>()).srv_conf.cast_const().cast() }
}

/// What they say in the location that is being merged.
pub fn of(cf: &ngx_conf_t) -> Option<&Others> {
    AccessPhase::location_conf(cf)
}

/// Hands a directive on to the next module that has one of its name
/// (as `ngx_conf_handler` does it).
///
/// # Safety
///
/// It is the directive that is being read.
unsafe fn hand_on(cf: &mut ngx_conf_t, name: &ngx_str_t) -> *mut c_char {
    let ours = AccessPhase::module();
    // SAFETY: the modules are nginx's, their commands end with one without a name, and the context
    // is that of http.
    unsafe {
        let mut found = None;
        let later = modules(cf).skip_while(|module| !ptr::eq(*module, ours)).skip(1);
        for module in later.filter(|module| module.type_ == cf.module_type) {
            let mut command = module.commands;
            while found.is_none() && !command.is_null() && (*command).name.len != 0 {
                let fits = (*command).type_ & cf.cmd_type as ngx_uint_t != 0;
                if fits && (*command).name.as_bytes() == name.as_bytes() {
                    found = Some((module.ctx_index, command));
                }
                command = command.add(1);
            }
        }
        if let Some((index, command)) = found {
            if let Some(set) = (*command).set {
                let part = cf.ctx.cast::<u8>().add((*command).conf).cast::<*mut *mut c_void>();
                let conf = *(*part).add(index);
                return set(cf, command, conf);
            }
        }
    }
    let name = NgxStr::from_bytes(name.as_bytes());
    ngx_conf_log_error!(NGX_LOG_EMERG, cf, "unknown directive \"{}\"", name);
    NGX_CONF_ERROR
}
