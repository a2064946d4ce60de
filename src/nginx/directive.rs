//! The directives, as nginx reads them: what each says, and what is wrong with it.

use std::cell::RefCell;
use std::ffi::{c_char, c_void, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::rc::Rc;

use ngx::core::{NgxStr, Status, NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf};
use ngx::{ngx_conf_log_error, ngx_log_error, ngx_string};
use thiserror::Error;

use super::bindings::{
    ngx_command_t, ngx_conf_full_name, ngx_conf_t, ngx_hash_key_t, ngx_http_core_main_conf_t,
    ngx_http_get_variable_pt, ngx_http_variable_t, ngx_int_t, ngx_parse_size, ngx_str_t,
    ngx_uint_t, HttpCore, NGX_CONF_1MORE, NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_HTTP_LOC_CONF,
    NGX_HTTP_LOC_CONF_OFFSET, NGX_HTTP_MAIN_CONF, NGX_HTTP_MAIN_CONF_OFFSET, NGX_HTTP_SRV_CONF,
    NGX_LOG_EMERG, NGX_LOG_WARN, NGX_OK,
};
#[cfg(nginx_pcre)]
use super::bindings::{ngx_http_regex_compile, ngx_regex_compile_t};
use super::log::place;
use super::others;
use super::process::is_cold_start;
use super::settings::{AuthRequestSet, Directive, Identity, MainConf, Settings};
use super::status_page;
use super::value::Value;
use super::zone::Zone;
use super::TokenInject;
use crate::sso::accounts::{Accounts, AccountsError};
use crate::sso::parameters::{ParameterError, Parameters};
use crate::sso::variables;

/// The accounts file of `npm_token_inject on`.
const DEFAULT_FILE: &str = "/data/npm_token_inject.json";

/// The module's directives, as nginx reads them.
pub static mut COMMANDS: [ngx_command_t; 4] = [
    ngx_command_t {
        name: ngx_string!("npm_token_inject"),
        type_: (NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | NGX_CONF_1MORE)
            as ngx_uint_t,
        set: Some(set),
        conf: NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("npm_token_inject_status"),
        type_: (NGX_HTTP_LOC_CONF | NGX_CONF_NOARGS) as ngx_uint_t,
        set: Some(set_status),
        conf: NGX_HTTP_LOC_CONF_OFFSET,
        offset: 0,
        post: ptr::null_mut(),
    },
    ngx_command_t {
        name: ngx_string!("npm_token_inject_zone"),
        type_: (NGX_HTTP_MAIN_CONF | NGX_CONF_TAKE1) as ngx_uint_t,
        set: Some(set_zone),
        conf: NGX_HTTP_MAIN_CONF_OFFSET,
        offset: 0,
        post: ptr::null_mut(),
    },
    ngx_command_t::empty(),
];

/// What is wrong with a directive, in words that follow its name.
#[derive(Debug, Error)]
enum DirectiveError {
    #[error("the directive is duplicate")]
    Duplicate,
    #[error("\"off\" takes no parameters")]
    OffWithParameters,
    #[error("{0}")]
    Parameter(#[from] ParameterError),
    #[error(
        "invalid size \"{value}\": it is a number with k or m, as 1m, and no less than {least}k"
    )]
    InvalidSize { value: String, least: usize },
    #[error("{0}")]
    Accounts(#[from] AccountsError),
    /// nginx has said it already.
    #[error("no memory, or not a value that nginx can read")]
    Nginx,
}

extern "C" fn set(cf: *mut ngx_conf_t, _: *mut ngx_command_t, conf: *mut c_void) -> *mut c_char {
    // SAFETY: nginx passes a valid configuration, and the location's part that
    // create_loc_conf made.
    let (cf, directive) = unsafe { (&mut *cf, &mut *conf.cast::<Directive>()) };
    match parse(cf, directive) {
        Ok(parsed) => {
            *directive = parsed;
            NGX_CONF_OK
        }
        Err(error) => {
            ngx_conf_log_error!(NGX_LOG_EMERG, cf, "npm_token_inject: {}", error);
            NGX_CONF_ERROR
        }
    }
}

extern "C" fn set_status(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    _: *mut c_void,
) -> *mut c_char {
    // SAFETY: nginx passes a valid configuration.
    let cf = unsafe { &mut *cf };
    let zone = Zone::request(cf);
    // The module realip, where nginx has it, changes the other one.
    let peer = match is_defined(cf, b"realip_remote_addr") {
        true => Value::variable(cf, b"realip_remote_addr"),
        false => Value::variable(cf, b"remote_addr"),
    };
    let main = TokenInject::main_conf_mut(cf);
    let location = HttpCore::location_conf_mut(cf);
    let (Some(zone), Some(main), Some(location)) = (zone, main, location) else {
        return NGX_CONF_ERROR;
    };
    main.zone = Some(zone);
    main.peer = peer;
    location.handler = Some(status_page::handle);
    NGX_CONF_OK
}

extern "C" fn set_zone(
    cf: *mut ngx_conf_t,
    _: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: nginx passes a valid configuration, whose arguments are an array of ngx_str_t, and what
    // create_main_conf made.
    let (cf, main, arguments) = unsafe {
        let arguments = (*(*cf).args).as_slice::<ngx_str_t>().to_vec();
        (&mut *cf, &mut *conf.cast::<MainConf>(), arguments)
    };
    let size = match arguments[..] {
        _ if main.zone_size.is_some() => Err(DirectiveError::Duplicate),
        [_, mut size] => {
            // SAFETY: nginx reads the text, and keeps nothing of it.
            let bytes = usize::try_from(unsafe { ngx_parse_size(&mut size) });
            let least = Zone::least_size();
            let is_enough = |bytes: &usize| *bytes >= least;
            bytes.ok().filter(is_enough).ok_or_else(|| DirectiveError::InvalidSize {
                value: display(&size),
                least: least / 1024,
            })
        }
        _ => Err(DirectiveError::Nginx),
    };
    match size {
        Ok(size) => {
            main.zone_size = Some(size);
            NGX_CONF_OK
        }
        Err(error) => {
            ngx_conf_log_error!(NGX_LOG_EMERG, cf, "npm_token_inject_zone: {}", error);
            NGX_CONF_ERROR
        }
    }
}

fn parse(cf: &mut ngx_conf_t, before: &Directive) -> Result<Directive, DirectiveError> {
    if !matches!(before, Directive::Unset) {
        return Err(DirectiveError::Duplicate);
    }
    // SAFETY: the arguments are an array of ngx_str_t; the first is the directive's name.
    let arguments = unsafe { (*cf.args).as_slice::<ngx_str_t>() }.to_vec();
    let (file, rest) = match &arguments[..] {
        [_, file, rest @ ..] => (*file, rest),
        _ => return Err(DirectiveError::Nginx),
    };
    if file.as_bytes() == b"off" {
        return match rest {
            [] => Ok(Directive::Off),
            _ => Err(DirectiveError::OffWithParameters),
        };
    }

    let parameters = Parameters::parse(rest.iter().map(ngx_str_t::as_bytes))?;
    if parameters.is_one_user() {
        ngx_conf_log_error!(
            NGX_LOG_WARN,
            cf,
            "npm_token_inject: \"user\" names no variable: everybody is signed in as that one user"
        );
    }
    let mut compile = |text: &[u8]| Value::compile(cf, text).ok_or(DirectiveError::Nginx);
    let user = compile(parameters.user)?;
    let email = parameters.email.map(&mut compile).transpose()?;
    let groups = parameters.groups.map(&mut compile).transpose()?;
    let credentials = parameters.credentials.map(&mut compile).transpose()?;
    let name = parameters.name.map(&mut compile).transpose()?;

    let accounts = match load_accounts(cf, file, &parameters) {
        Err(DirectiveError::Accounts(error)) if is_cold_start(cf) => {
            ngx_conf_log_error!(
                NGX_LOG_EMERG,
                cf,
                "npm_token_inject: {}; mend it and reload nginx, which starts all the same: nobody \
                 is signed in by the directive",
                error
            );
            None
        }
        result => Some(result?),
    };
    let zone = Zone::request(cf).ok_or(DirectiveError::Nginx)?;
    let settings = Rc::new(Settings {
        zone,
        accounts,
        user,
        credentials,
        on_error: parameters.on_error,
        client_token: parameters.client_token,
        browser: parameters.browser,
        trust_headers: parameters.trust_headers,
        framing: parameters.framing,
        email: Identity::new("authentik_email", email),
        groups: Identity::new("authentik_groups", groups),
        groups_separator: parameters.groups_separator,
        name: Identity::new("authentik_name", name),
        markers: RefCell::default(),
        variables: parameters.variables,
        place: place(cf),
    });
    let main = TokenInject::main_conf_mut(cf).ok_or(DirectiveError::Nginx)?;
    main.zone = Some(zone);
    main.settings.push(settings.clone());
    Ok(Directive::On(settings))
}

fn load_accounts(
    cf: &mut ngx_conf_t,
    file: ngx_str_t,
    parameters: &Parameters<'_>,
) -> Result<Accounts, DirectiveError> {
    let is_default = file.as_bytes() == b"on";
    let mut name = match is_default {
        true => ngx_str_t { len: DEFAULT_FILE.len(), data: DEFAULT_FILE.as_ptr().cast_mut() },
        false => file,
    };
    // SAFETY: cf is valid; the name is made a full one in the pool, beside the configuration file.
    if unsafe { ngx_conf_full_name(cf.cycle, &mut name, 1) } != NGX_OK as ngx_int_t {
        return Err(DirectiveError::Nginx);
    }
    let path = Path::new(OsStr::from_bytes(name.as_bytes()));
    let mut warn = |message: String| {
        ngx_conf_log_error!(NGX_LOG_WARN, cf, "npm_token_inject: {}", message);
    };
    let api = parameters.api.clone();
    match Accounts::load(path, api, parameters.groups_separator, &mut warn) {
        Err(error) if is_default && parameters.credentials.is_some() && error.is_missing_file() => {
            Ok(Accounts::none(parameters.api.clone(), &mut warn))
        }
        result => Ok(result?),
    }
}

/// Ends the reading of the configuration: all variables are known now.
///
/// # Errors
///
/// When a variable is not, which is logged, or memory is out.
pub fn finish(cf: &mut ngx_conf_t) -> Result<(), Status> {
    let Some(main) = TokenInject::main_conf(cf) else {
        return Ok(());
    };
    if let Some(zone) = main.zone {
        zone.set_size(main.zone_size);
    }
    if !main.is_in_use() {
        return Ok(());
    }
    let settings = main.settings.clone();
    let capture = match settings.iter().all(|settings| settings.trust_headers) {
        true => None,
        false => capture_handler(cf),
    };
    for settings in &settings {
        for (parameter, name) in settings.says_who().filter(|_| !settings.trust_headers) {
            let get = get_handler(cf, name.as_bytes());
            if get.zip(capture).is_some_and(|(get, capture)| ptr::fn_addr_eq(get, capture)) {
                let error = ParameterError::FromClient { parameter, variable: name.to_owned() };
                ngx_log_error!(
                    NGX_LOG_EMERG,
                    cf.log,
                    "npm_token_inject: {error}, in {place}",
                    place = settings.place
                );
                return Err(Status::NGX_ERROR);
            }
        }
        for (parameter, name) in &settings.variables {
            if !is_defined(cf, name.as_bytes()) {
                ngx_log_error!(
                    NGX_LOG_EMERG,
                    cf.log,
                    "npm_token_inject: nothing sets ${name}, which \"{parameter}\" needs; add the \
                     line \"auth_request_set ${name} {source};\" beside auth_request, in {place}",
                    source = variables::answer(parameter),
                    place = settings.place
                );
                return Err(Status::NGX_ERROR);
            }
        }
        for identity in [&settings.email, &settings.groups, &settings.name] {
            let name = identity.variable.as_bytes();
            if identity.value.get().is_none() && is_defined(cf, name) {
                let value = Value::variable(cf, name).ok_or(Status::NGX_ERROR)?;
                identity.value.get_or_init(|| value);
            }
        }
        check_sign_in_as(cf, settings)?;
    }
    Ok(())
}

/// Looks whether Authentik says what `sign_in_as` goes by.
fn check_sign_in_as(cf: &ngx_conf_t, settings: &Settings) -> Result<(), Status> {
    let sign_in_as = settings.accounts.as_ref().and_then(Accounts::sign_in_as);
    let Some(sign_in_as) = sign_in_as else {
        return Ok(());
    };
    let needs_groups = !sign_in_as.terms().groups.is_empty();
    let needed = [("email", &settings.email, true), ("groups", &settings.groups, needs_groups)];
    for (parameter, identity, is_needed) in needed {
        if is_needed && identity.value.get().is_none() {
            ngx_log_error!(
                NGX_LOG_EMERG,
                cf.log,
                "npm_token_inject: nothing sets ${variable}, which \"sign_in_as\" needs; add the \
                 line \"auth_request_set ${variable} {source};\" beside auth_request, or give \
                 {parameter}=, in {place}",
                variable = identity.variable,
                source = variables::answer(parameter),
                place = settings.place
            );
            return Err(Status::NGX_ERROR);
        }
    }
    Ok(())
}

/// Looks whether who a user is comes from the client all the same in a location, by way of
/// `auth_request_set`. Where the location says nothing of a variable, it is what the server's others
/// say: nginx may come from there.
///
/// # Errors
///
/// When it does, which is logged.
pub fn check_sources(cf: &ngx_conf_t, directive: &Directive) -> Result<(), Status> {
    let Directive::On(settings) = directive else {
        return Ok(());
    };
    if settings.trust_headers {
        return Ok(());
    }
    let here = others::of(cf).map(|others| &others.sets[..]).unwrap_or_default();
    let all = TokenInject::main_conf(cf).map(|main| &main.auth_request_sets[..]);
    let server = others::server(cf);
    let of_server = all
        .unwrap_or_default()
        .iter()
        .filter(|set| set.server == server && !here.iter().any(|own| own.variable == set.variable));
    let sets: Vec<&AuthRequestSet> = here.iter().chain(of_server).map(|set| &**set).collect();
    let texts: Vec<_> = sets.iter().map(|set| set.text()).collect();
    for (parameter, name) in settings.says_who() {
        let Some(variable) = variables::source(name, &texts) else {
            continue;
        };
        let own = sets.iter().find(|set| set.variable == name);
        ngx_log_error!(
            NGX_LOG_EMERG,
            cf.log,
            "npm_token_inject: \"{parameter}\" comes from the client: anybody could send \
             ${variable}, which auth_request_set gives to ${name}; take it from the answer, with \
             \"auth_request_set ${name} {source};\", or say trust_headers=on where nobody can \
             reach this server but through a proxy that sets it, in {place}",
            source = variables::answer(parameter),
            place = own.map_or(&settings.place, |set| &set.place),
        );
        return Err(Status::NGX_ERROR);
    }
    Ok(())
}

/// By what nginx gives a value to the parts of regular expressions that have a name; `None` where it
/// has no regular expressions.
#[cfg(nginx_pcre)]
fn capture_handler(cf: &mut ngx_conf_t) -> ngx_http_get_variable_pt {
    let mut pattern = *b"(?<npm_token_capture>)\0";
    let mut error = [0u8; 128];
    let mut compile = ngx_regex_compile_t {
        pattern: ngx_str_t { len: pattern.len() - 1, data: pattern.as_mut_ptr() },
        err: ngx_str_t { len: error.len(), data: error.as_mut_ptr() },
        ..Default::default()
    };
    // SAFETY: cf is valid; the pattern is ended by a null byte, and nginx keeps neither text.
    let regex = unsafe { ngx_http_regex_compile(cf, &mut compile) };
    match regex.is_null() {
        true => None,
        false => get_handler(cf, b"npm_token_capture"),
    }
}

#[cfg(not(nginx_pcre))]
fn capture_handler(_: &mut ngx_conf_t) -> ngx_http_get_variable_pt {
    None
}

/// By what nginx gives a variable its value.
fn get_handler(cf: &ngx_conf_t, name: &[u8]) -> ngx_http_get_variable_pt {
    let core: &ngx_http_core_main_conf_t = HttpCore::main_conf(cf)?;
    // SAFETY: as in `is_defined`; a key of variables has a variable as its value.
    unsafe {
        let keys = core.variables_keys.as_ref()?.keys.as_slice::<ngx_hash_key_t>();
        let key = keys.iter().find(|key| key.key.as_bytes() == name)?;
        (*key.value.cast::<ngx_http_variable_t>()).get_handler
    }
}

/// Whether the configuration knows a variable, by its name or by the prefix of its name
/// (as `ngx_http_variables_init_vars` looks it up).
fn is_defined(cf: &ngx_conf_t, name: &[u8]) -> bool {
    let Some(core): Option<&ngx_http_core_main_conf_t> = HttpCore::main_conf(cf) else {
        return false;
    };
    // SAFETY: both arrays have elements of these types, and are there until nginx has initialized
    // its variables, which it does after the modules' postconfiguration.
    unsafe {
        let named = core.variables_keys.as_ref().is_some_and(|keys| {
            keys.keys.as_slice::<ngx_hash_key_t>().iter().any(|key| key.key.as_bytes() == name)
        });
        let prefixes = core.prefix_variables.as_slice::<ngx_http_variable_t>();
        named || prefixes.iter().any(|variable| name.starts_with(variable.name.as_bytes()))
    }
}

fn display(text: &ngx_str_t) -> String {
    NgxStr::from_bytes(text.as_bytes()).to_string_lossy().into_owned()
}
