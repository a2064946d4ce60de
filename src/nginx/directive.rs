//! How the directives are written: parsing, and every error of it.

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
use super::settings::{
    AuthRequestSet, Browser, ClientToken, Directive, Identity, MainConf, OnError, Settings,
};
use super::status_page;
use super::value::{variable_names, Value};
use super::zone::Zone;
use super::TokenInject;
use crate::sso::accounts::{Accounts, AccountsError};
use crate::sso::framing::{Framing, FramingError};
use crate::sso::groups::Separator;
use crate::sso::npm::BaseUrl;

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
    #[error("unknown parameter \"{0}\"")]
    UnknownParameter(String),
    #[error("duplicate parameter \"{0}\"")]
    DuplicateParameter(&'static str),
    #[error("parameter \"{0}\" has no value")]
    EmptyParameter(&'static str),
    #[error(
        "invalid value \"{value}\" of parameter \"{name}\": it is \"{first}\" or \"{second}\""
    )]
    InvalidValue { name: &'static str, value: String, first: &'static str, second: &'static str },
    #[error("invalid value \"{0}\" of parameter \"sign_out\": it is a path that begins with \"/\", or an http URL")]
    InvalidSignOut(String),
    #[error("\"sign_out\" needs browser=on")]
    SignOutWithoutBrowser,
    #[error("invalid value of parameter \"api\": {0}")]
    InvalidApi(String),
    #[error("invalid value of parameter \"frame_ancestors\": {0}")]
    InvalidFrameAncestors(#[from] FramingError),
    #[error(
        "\"{parameter}\" comes from the client: anybody could send ${variable}; \
         take it from the answer to auth_request, with auth_request_set, \
         or say trust_headers=on where nobody can reach this server but through a proxy that sets it"
    )]
    FromClient { parameter: &'static str, variable: String },
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

/// The parameters as they are written.
#[derive(Default)]
struct Parameters {
    user: Option<ngx_str_t>,
    email: Option<ngx_str_t>,
    groups: Option<ngx_str_t>,
    groups_separator: Option<ngx_str_t>,
    name: Option<ngx_str_t>,
    credentials: Option<ngx_str_t>,
    api: Option<ngx_str_t>,
    on_error: Option<ngx_str_t>,
    client_token: Option<ngx_str_t>,
    browser: Option<ngx_str_t>,
    sign_out: Option<ngx_str_t>,
    frame_ancestors: Option<ngx_str_t>,
    trust_headers: Option<ngx_str_t>,
}

impl Parameters {
    fn parse(arguments: &[ngx_str_t]) -> Result<Self, DirectiveError> {
        let mut parameters = Self::default();
        for argument in arguments {
            let text = argument.as_bytes();
            // What follows the name may be a secret: it is not quoted.
            let equals = text.iter().position(|&b| b == b'=').unwrap_or(text.len());
            let unknown = || {
                let name = String::from_utf8_lossy(&text[..equals]);
                DirectiveError::UnknownParameter(name.into_owned())
            };
            if equals == text.len() {
                return Err(unknown());
            }
            let (name, place) = match &text[..equals] {
                b"user" => ("user", &mut parameters.user),
                b"email" => ("email", &mut parameters.email),
                b"groups" => ("groups", &mut parameters.groups),
                b"groups_separator" => ("groups_separator", &mut parameters.groups_separator),
                b"name" => ("name", &mut parameters.name),
                b"credentials" => ("credentials", &mut parameters.credentials),
                b"api" => ("api", &mut parameters.api),
                b"on_error" => ("on_error", &mut parameters.on_error),
                b"client_token" => ("client_token", &mut parameters.client_token),
                b"browser" => ("browser", &mut parameters.browser),
                b"sign_out" => ("sign_out", &mut parameters.sign_out),
                b"frame_ancestors" => ("frame_ancestors", &mut parameters.frame_ancestors),
                b"trust_headers" => ("trust_headers", &mut parameters.trust_headers),
                _ => return Err(unknown()),
            };
            let value = match argument.split_at(equals + 1) {
                Some((_, value)) if !value.is_empty() => value,
                _ => return Err(DirectiveError::EmptyParameter(name)),
            };
            if place.replace(value).is_some() {
                return Err(DirectiveError::DuplicateParameter(name));
            }
        }
        Ok(parameters)
    }

    /// The identity parameters that are given.
    fn identity(&self) -> impl Iterator<Item = (&'static str, ngx_str_t)> {
        let given = [
            ("user", self.user),
            ("email", self.email),
            ("groups", self.groups),
            ("name", self.name),
            ("credentials", self.credentials),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name, value?)))
    }
}

/// One of two words; the first where none is given.
fn either<T>(
    name: &'static str,
    value: Option<ngx_str_t>,
    [first, second]: [(&'static str, T); 2],
) -> Result<T, DirectiveError> {
    match value {
        None => Ok(first.1),
        Some(value) if value.as_bytes() == first.0.as_bytes() => Ok(first.1),
        Some(value) if value.as_bytes() == second.0.as_bytes() => Ok(second.1),
        Some(value) => Err(DirectiveError::InvalidValue {
            name,
            value: display(&value),
            first: first.0,
            second: second.0,
        }),
    }
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

    let parameters = Parameters::parse(rest)?;
    let on_error = either(
        "on_error",
        parameters.on_error,
        [("pass", OnError::Pass), ("deny", OnError::Deny)],
    )?;
    let client_token = either(
        "client_token",
        parameters.client_token,
        [("keep", ClientToken::Keep), ("replace", ClientToken::Replace)],
    )?;
    let groups_separator = either(
        "groups_separator",
        parameters.groups_separator,
        [("|", Separator::Bar), (",", Separator::Comma)],
    )?;
    let trust_headers =
        either("trust_headers", parameters.trust_headers, [("off", false), ("on", true)])?;
    let api = match parameters.api {
        Some(api) => Some(BaseUrl::try_from(display(&api)).map_err(DirectiveError::InvalidApi)?),
        None => None,
    };
    let browser = browser(&parameters)?;
    let framing = match parameters.frame_ancestors {
        Some(list) => Framing::parse(&display(&list))?,
        None => Framing::SELF,
    };

    let mut variables = Vec::new();
    for (parameter, value) in parameters.identity() {
        for name in variable_names(value.as_bytes()) {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            if !trust_headers && is_from_client(&name) {
                return Err(DirectiveError::FromClient { parameter, variable: name });
            }
            variables.push((parameter, name));
        }
    }
    if parameters.user.is_some_and(|user| variable_names(user.as_bytes()).is_empty()) {
        ngx_conf_log_error!(
            NGX_LOG_WARN,
            cf,
            "npm_token_inject: \"user\" names no variable: everybody is signed in as that one user"
        );
    }
    let user = parameters.user.unwrap_or(ngx_string!("$authentik_username"));
    if parameters.user.is_none() {
        variables.push(("user", "authentik_username".to_owned()));
    }
    let mut compile = |value: Option<ngx_str_t>| match value {
        Some(text) => Value::compile(cf, text).map(Some).ok_or(DirectiveError::Nginx),
        None => Ok(None),
    };
    let user = compile(Some(user))?.ok_or(DirectiveError::Nginx)?;
    let email = compile(parameters.email)?;
    let groups = compile(parameters.groups)?;
    let credentials = compile(parameters.credentials)?;
    let name = compile(parameters.name)?;

    let accounts = match load_accounts(cf, file, (api, groups_separator), credentials.is_some()) {
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
        on_error,
        client_token,
        browser,
        trust_headers,
        framing,
        email: Identity::new("authentik_email", email),
        groups: Identity::new("authentik_groups", groups),
        groups_separator,
        name: Identity::new("authentik_name", name),
        markers: RefCell::default(),
        variables,
        place: place(cf),
    });
    let main = TokenInject::main_conf_mut(cf).ok_or(DirectiveError::Nginx)?;
    main.zone = Some(zone);
    main.settings.push(settings.clone());
    Ok(Directive::On(settings))
}

fn browser(parameters: &Parameters) -> Result<Option<Browser>, DirectiveError> {
    let sign_out = match parameters.sign_out.as_ref().map(display) {
        Some(uri) if !["/", "http://", "https://"].iter().any(|start| uri.starts_with(start)) => {
            return Err(DirectiveError::InvalidSignOut(uri));
        }
        sign_out => sign_out,
    };
    match either("browser", parameters.browser, [("on", true), ("off", false)])? {
        true => Ok(Some(Browser { sign_out })),
        false if sign_out.is_some() => Err(DirectiveError::SignOutWithoutBrowser),
        false => Ok(None),
    }
}

fn load_accounts(
    cf: &mut ngx_conf_t,
    file: ngx_str_t,
    (api, separator): (Option<BaseUrl>, Separator),
    has_credentials: bool,
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
    match Accounts::load(path, api.clone(), separator, &mut warn) {
        Err(error) if is_default && has_credentials && error.is_missing_file() => {
            Ok(Accounts::none(api, &mut warn))
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
                let error = DirectiveError::FromClient { parameter, variable: name.to_owned() };
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
                    source = answer_variable(parameter),
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
                source = answer_variable(parameter),
                place = settings.place
            );
            return Err(Status::NGX_ERROR);
        }
    }
    Ok(())
}

/// Where Authentik's answer to auth_request has what a parameter needs.
fn answer_variable(parameter: &str) -> &'static str {
    match parameter {
        "email" => "$upstream_http_x_authentik_email",
        "groups" => "$upstream_http_x_authentik_groups",
        "name" => "$upstream_http_x_authentik_name",
        "credentials" => "$upstream_http_authorization",
        _ => "$upstream_http_x_authentik_username",
    }
}

/// Whether a variable holds what the client sent, or chooses: of all that nginx and OpenResty have.
fn is_from_client(name: &str) -> bool {
    const PREFIXES: [&str; 8] =
        ["http_", "arg_", "cookie_", "proxy_protocol_", "ssl_", "uid_", "echo_", "fastcgi_"];
    const NAMES: [&str; 33] = [
        "ancient_browser",
        "args",
        "binary_remote_addr",
        "content_length",
        "content_type",
        "document_root",
        "document_uri",
        "host",
        "http2",
        "http3",
        "https",
        "is_args",
        "is_request_port",
        "modern_browser",
        "msie",
        "proxy_add_via",
        "proxy_add_x_forwarded_for",
        "query_string",
        "realpath_root",
        // By X-Real-IP, for one.
        "remote_addr",
        "remote_port",
        "remote_user",
        "request",
        "request_body",
        "request_body_file",
        "request_filename",
        "request_length",
        "request_method",
        "request_port",
        "request_uri",
        "scheme",
        "server_protocol",
        "uri",
    ];
    // What a part of a regular expression has found, as $1.
    let is_capture = name.starts_with(|first: char| first.is_ascii_digit());
    let is_other = matches!(name, "secure_link_expires" | "slice_range");
    let has_prefix = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    is_capture || is_other || has_prefix || NAMES.contains(&name)
}

/// The variable of the client's that this variable is set from, by one `auth_request_set` or more.
fn source(name: &str, sets: &[&AuthRequestSet], depth: usize) -> Option<String> {
    /// Longer chains nobody writes; a circle has no end.
    const LONGEST: usize = 8;
    let values = sets.iter().filter(|set| set.variable == name).flat_map(|set| {
        let names = variable_names(&set.value).into_iter();
        names.map(|name| String::from_utf8_lossy(name).to_ascii_lowercase())
    });
    let mut found = values.filter_map(|name| match is_from_client(&name) {
        true => Some(name),
        false if depth < LONGEST => source(&name, sets, depth + 1),
        false => None,
    });
    found.next()
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
    let of_server = all.unwrap_or_default().iter().filter(|set| set.server == server);
    let of_server: Vec<&AuthRequestSet> = of_server.map(|set| &**set).collect();
    let here: Vec<&AuthRequestSet> = here.iter().map(|set| &**set).collect();
    for (parameter, name) in settings.says_who() {
        let is_set = |set: &&&AuthRequestSet| set.variable == name;
        let sets = if here.iter().any(|set| is_set(&set)) { &here } else { &of_server };
        let Some(variable) = source(name, sets, 0) else {
            continue;
        };
        ngx_log_error!(
            NGX_LOG_EMERG,
            cf.log,
            "npm_token_inject: \"{parameter}\" comes from the client: anybody could send \
             ${variable}, which auth_request_set gives to ${name}; take it from the answer, with \
             \"auth_request_set ${name} {source};\", or say trust_headers=on where nobody can \
             reach this server but through a proxy that sets it, in {place}",
            source = answer_variable(parameter),
            place = sets.iter().find(is_set).map_or(&settings.place, |set| &set.place),
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
    // SAFETY: all zeros but for the pattern and the buffer for errors is what nginx expects; the
    // pattern is ended by a null byte, and nginx keeps neither.
    unsafe {
        let mut error = [0u8; 128];
        let mut compile: ngx_regex_compile_t = std::mem::zeroed();
        compile.pattern = ngx_str_t { len: pattern.len() - 1, data: pattern.as_mut_ptr() };
        compile.err = ngx_str_t { len: error.len(), data: error.as_mut_ptr() };
        if ngx_http_regex_compile(cf, &mut compile).is_null() {
            return None;
        }
    }
    get_handler(cf, b"npm_token_capture")
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
