//! What happens to a request.
//!
//! The handler that decides stands in the access phase, behind the access checks of nginx's own
//! modules: a request that was denied never arrives, and what the handler returns can grant
//! nothing. That is so where all checks must grant access, as they must by default. Under `satisfy
//! any`, the first module that grants access, as `auth_request` does for a signed-in user, ends the
//! phase, and later handlers are not called (`ngx_http_core_access_phase`). There, and only there,
//! the same handler acts in the next phase that there is for it, precontent: see [`acts_in`].
//!
//! Two others stand in the rewrite phases, for requests that are redirected internally.

use std::rc::Rc;
use std::sync::Arc;

use ngx::core::{NgxStr, Status};
use ngx::http::HttpModuleLocationConf;

use super::bindings::{
    ngx_http_core_loc_conf_t, ngx_http_request_t, ngx_int_t, ngx_str_t, ngx_uint_t, HttpCore,
    NGX_HTTP_BAD_GATEWAY, NGX_HTTP_FORBIDDEN, NGX_HTTP_SATISFY_ANY,
};
use super::context::{self, Page, RequestContext, TokenStatus};
use super::granted;
use super::headers_in::{self, Sent};
use super::log::{Throttle, ThrottleEach};
use super::logins::{self, Found};
use super::pool::OutOfMemory;
use super::process::now;
use super::request::{asks_for_token, host, is_api, is_https, is_read, Request};
use super::settings::{Directive, Settings};
use super::tokens_answer;
use super::waiting::{self, Outcome};
use super::TokenInject;
use crate::sso::account::{Account, Authorization, NoAccount, Visitor};
use crate::sso::npm::Role;
use crate::sso::origin::Target;
use crate::sso::parameters::{ClientToken, OnError};
use crate::sso::token::{is_live_npm_token, Millis};

/// The handler of the rewrite phase: takes back what the module did to a request in the
/// location that it has been redirected from.
///
/// nginx clears module contexts at an internal redirect, and keeps headers. Without this, the
/// location that the request goes to would send a token that was not meant for it, be it with
/// `proxy_pass` or, before that, with the subrequest of an `auth_request` of its own.
pub extern "C" fn take_back(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a request that is valid for the call.
    let request = unsafe { Request::from_ngx_http_request(r) };
    let is_untouched = match request.is_main() {
        true => is_as_it_came(request),
        // As the question to Authentik is, most often.
        false => !is_concerned(request),
    };
    match is_untouched {
        true => Status::NGX_DECLINED.into(),
        false => hand_back(request, authorize_subrequest),
    }
}

/// The handler of the rewrite phase that comes before a location is known: the server's own `set` and
/// `if` read the headers there. nginx has no such phase on the way to a named location.
pub extern "C" fn take_back_early(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a request that is valid for the call.
    let request = unsafe { Request::from_ngx_http_request(r) };
    let is_untouched = match request.is_main() {
        true => is_as_it_came(request),
        false => RequestContext::of_main(request).is_none(),
    };
    match is_untouched {
        true => Status::NGX_DECLINED.into(),
        false => hand_back(request, restore_subrequest),
    }
}

/// Whether a main request has not been redirected.
fn is_as_it_came(request: &mut Request) -> bool {
    granted::note_route(request);
    request.as_ref().internal() == 0
}

/// Gives a request back what the client sent, where it has been changed; a subrequest by `restore`.
#[inline(never)]
fn hand_back(
    request: &mut Request,
    restore: fn(&mut Request) -> Result<(), OutOfMemory>,
) -> ngx_int_t {
    let result = match request.is_main() {
        true => context::take_back(request),
        false => restore(request),
    };
    match result {
        Ok(()) => Status::NGX_DECLINED.into(),
        Err(OutOfMemory) => Status::NGX_ERROR.into(),
    }
}

/// Gives a subrequest what the client sent, where the module has changed that in its main request.
fn restore_subrequest(request: &mut Request) -> Result<(), OutOfMemory> {
    let changed = RequestContext::of_main(request)
        .and_then(|context| Some((context.original?, context.sent)));
    match changed {
        Some((original, sent)) => headers_in::restore_in_subrequest(request, original, sent),
        None => Ok(()),
    }
}

/// Whether the module has to do with a subrequest: with where it goes, or with its main request.
fn is_concerned(request: &Request) -> bool {
    RequestContext::of_main(request).is_some()
        || matches!(TokenInject::location_conf(request.as_ref()), Some(Directive::On(_)))
}

/// A subrequest, as a mirror or a part of a page is, has the headers of the request that it is a part
/// of. It gets the token of its main request in a location with the same directive, for that is the
/// same NPM. In any other it gets none: nginx does not ask a subrequest's location for access, so
/// that nobody says whose token it would be.
#[inline(never)]
fn authorize_subrequest(request: &mut Request) -> Result<(), OutOfMemory> {
    let on = |r: &ngx_http_request_t| match TokenInject::location_conf(r) {
        Some(Directive::On(settings)) => Some(settings.clone()),
        _ => None,
    };
    let (directive, context) = (on(request.as_ref()), RequestContext::of_main(request));
    if let (Some(settings), Some(context)) = (&directive, context) {
        if context.is_of(settings) {
            let value = context.authorization();
            return match headers_in::is_authorized(request, value) {
                true => Ok(()),
                false => headers_in::authorize_subrequest(request, value),
            };
        }
    }
    let is_met = context.is_some();
    restore_subrequest(request)?;
    let Some(settings) = directive else {
        return Ok(());
    };
    let of_main = on(request.main().as_ref());
    // The question to Authentik is such a subrequest, too. Nobody is known yet.
    let is_early = !is_met && of_main.is_some_and(|main| Rc::ptr_eq(&main, &settings));
    match is_early || settings.user.evaluate(request).ok_or(OutOfMemory)?.is_empty() {
        true => Ok(()),
        false => headers_in::authorize_subrequest(request, None),
    }
}

/// The phases in which the handler stands.
#[derive(PartialEq)]
enum Phase {
    Access,
    Precontent,
}

/// Which of them is the one for this request, in this location.
fn acts_in(request: &Request) -> Phase {
    let any = |core: &ngx_http_core_loc_conf_t| core.satisfy == NGX_HTTP_SATISFY_ANY as ngx_uint_t;
    match HttpCore::location_conf(request.as_ref()).is_some_and(any) {
        true => Phase::Precontent,
        false => Phase::Access,
    }
}

/// The handler, in the access phase.
pub extern "C" fn access(r: *mut ngx_http_request_t) -> ngx_int_t {
    handle(r, Phase::Access)
}

/// The handler, in the precontent phase.
pub extern "C" fn precontent(r: *mut ngx_http_request_t) -> ngx_int_t {
    handle(r, Phase::Precontent)
}

/// Gives a request its token.
fn handle(r: *mut ngx_http_request_t, phase: Phase) -> ngx_int_t {
    // SAFETY: nginx passes a request that is valid for the call.
    let request = unsafe { Request::from_ngx_http_request(r) };
    // Subrequests have the headers of their main request, which has been here.
    if !request.is_main() {
        return Status::NGX_DECLINED.into();
    }
    let status = match acts_in(request) == phase {
        true => decide(request).unwrap_or(Status::NGX_ERROR),
        false => Status::NGX_DECLINED,
    };
    if phase == Phase::Precontent && status == Status::NGX_DECLINED {
        granted::note_access(request);
    }
    status.into()
}

fn decide(request: &mut Request) -> Result<Status, OutOfMemory> {
    let Some(Directive::On(settings)) = TokenInject::location_conf(request.as_ref()) else {
        return Ok(Status::NGX_DECLINED);
    };
    match RequestContext::of_mut(request) {
        Some(context) => resume(request, context, settings),
        None => begin(request, settings),
    }
}

/// Meets a request for the first time in this location.
#[inline(never)]
fn begin(request: &mut Request, settings: &Settings) -> Result<Status, OutOfMemory> {
    if !granted::is_granted(request) {
        return Ok(Status::NGX_DECLINED);
    }
    let now = now();
    let user = settings.user.evaluate(request).ok_or(OutOfMemory)?;
    if user.is_empty() {
        return Ok(Status::NGX_DECLINED);
    }
    let (sent, provenance) = headers_in::read(request);
    let is_cross_site = provenance.is_cross_site(|| Target {
        is_read: is_read(request),
        path: request.as_ref().uri.as_bytes(),
        may_be_framed: settings.framing.names_others(),
        is_https: is_https(request),
        host: host(request),
    });
    // Under `deny`, whoever has no account is denied whatever they send: that comes first.
    let account = match is_cross_site {
        true => None,
        false => Some(find_account(request, settings, user, now)?),
    };
    let page = match (&settings.browser, provenance.fetch_mode) {
        (Some(_), _) if provenance.is_navigation() => Page::Opens,
        (Some(_), None) => Page::MayOpen,
        _ => Page::No,
    };
    let can_be_page = page != Page::No && is_read(request) && !is_api(request);
    if let Some(Err(why)) = account {
        if !goes_on_with_own(settings, &sent) {
            tell(request, settings, user, why);
        }
    }

    let context = RequestContext::create(request, settings, sent)?;
    let Some(account) = account else {
        context.status = TokenStatus::CrossSite;
        settings.zone.lock().totals().cross_site += 1;
        context.authorize(request, None)?;
        return Ok(Status::NGX_DECLINED);
    };
    context.page = if can_be_page { page } else { Page::No };
    match account {
        Ok(account) => sign_in(request, context, settings, (account, now)),
        Err(why) => give_none(request, context, settings, why),
    }
}

/// Why there is no token.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// No account of the accounts file fits.
    NoAccount,
    /// Authentik says no e-mail address by which an NPM user could be found.
    NoAddress,
    /// Authentik's groups shut the user out.
    ShutOut,
    /// NPM has no user who may sign in, which the log has said.
    Nobody,
    /// The accounts file could not be used when nginx started.
    Unusable,
    /// NPM gave none, which the log has said.
    Failure,
}

/// The client's own token, where it may be kept: see [`keep`] and its callers.
///
/// A kept token is one that its sender got at some time, and NPM renews it for ever. So it is kept
/// only where it gives nothing that its sender does not have: for an administrator, who may be
/// anybody at NPM, and for somebody to whom the module gives nothing, as if it were not there.
fn own_token(settings: &Settings, sent: &Sent) -> Option<ngx_str_t> {
    match settings.client_token {
        ClientToken::Keep => sent.only_one().filter(|own| is_live_npm_token(own.as_bytes(), now())),
        ClientToken::Replace => None,
    }
}

/// Whether a request for which there is no token goes on with the client's own one.
fn goes_on_with_own(settings: &Settings, sent: &Sent) -> bool {
    settings.on_error == OnError::Pass && own_token(settings, sent).is_some()
}

/// Leaves the client's own token where it is.
fn keep(context: &mut RequestContext, settings: &Settings) -> Status {
    settings.zone.lock().totals().kept += 1;
    context.status = TokenStatus::Kept;
    context.account = None;
    context.page = Page::No;
    Status::NGX_DECLINED
}

fn find_account(
    request: &Request,
    settings: &Settings,
    user: &[u8],
    now: Millis,
) -> Result<Result<Arc<Account>, Why>, OutOfMemory> {
    static UNREADABLE: Throttle = Throttle::new();

    let Some(accounts) = &settings.accounts else {
        return Ok(Err(Why::Unusable));
    };
    if let Some(credentials) = &settings.credentials {
        let basic = credentials.evaluate(request).ok_or(OutOfMemory)?;
        if !basic.is_empty() {
            if let Some(account) = accounts.handed_over(basic, now) {
                return Ok(Ok(account));
            }
            if UNREADABLE.lets_through(now) {
                log_error!(
                    request.log(),
                    "credentials= is not \"Basic ...\" for Authentik user \"{}\"; set both of \
                     the attributes that the provider names for HTTP-Basic authentication",
                    NgxStr::from_bytes(user)
                );
            }
        }
    }

    let mut visitor = Visitor { user, separator: settings.groups_separator, ..Visitor::default() };
    if accounts.asks_for_email {
        visitor.email = settings.email(request)?;
    }
    if accounts.asks_for_groups {
        visitor.groups = settings.groups(request)?;
    }
    let found = accounts.find(visitor, || settings.name(request), now)?;
    Ok(found.map_err(|why| match why {
        NoAccount::NoneFits => Why::NoAccount,
        NoAccount::NoAddress => Why::NoAddress,
        NoAccount::ShutOut => Why::ShutOut,
    }))
}

/// Gets the account's token from the cache, or waits for a login.
fn sign_in(
    request: &mut Request,
    context: &mut RequestContext,
    settings: &Settings,
    (account, now): (Arc<Account>, Millis),
) -> Result<Status, OutOfMemory> {
    let own = own_token(settings, &context.sent);
    let found = logins::find_and_count(&mut settings.zone.lock(), &account, own.is_some(), now);
    let claim = match found {
        Found::Token { token, renew } => {
            if renew {
                logins::renew(settings.zone, &account, token.clone());
            }
            context.account = Some(account);
            return succeed(request, context, settings, TokenStatus::Hit, (token, own));
        }
        Found::LogIn => Some(true),
        Found::Wait => Some(false),
        Found::Pause => None,
        Found::Nobody => {
            context.account = Some(account);
            return give_none(request, context, settings, Why::Nobody);
        }
    };
    let ticket = claim.and_then(|claim| logins::wait(request, settings.zone, &account, claim));
    context.account = Some(account);
    context.waiting_since = now;
    let Some(ticket) = ticket else {
        return give_none(request, context, settings, Why::Failure);
    };
    let status = waiting::park(request);
    match status == Status::NGX_AGAIN {
        true => context.ticket = Some(ticket),
        // nginx ends the request.
        false => waiting::leave(ticket),
    }
    Ok(status)
}

/// Goes on with a request that has waited for a login.
#[inline(never)]
fn resume(
    request: &mut Request,
    context: &mut RequestContext,
    settings: &Settings,
) -> Result<Status, OutOfMemory> {
    // The handler has had its say here.
    let Some(ticket) = context.ticket else {
        return Ok(Status::NGX_DECLINED);
    };
    // Not the login, but something else woke the request.
    let Some(outcome) = waiting::outcome(ticket) else {
        return Ok(Status::NGX_AGAIN);
    };
    context.ticket = None;
    if let Some(account) = &context.account {
        let waited = now().saturating_sub(context.waiting_since);
        settings.zone.lock().count_wait(&account.key, waited, now());
    }
    match outcome {
        Outcome::Token(token) => {
            let own = own_token(settings, &context.sent);
            succeed(request, context, settings, TokenStatus::Miss, (token, own))
        }
        Outcome::Failure => give_none(request, context, settings, Why::Failure),
        Outcome::Nobody => give_none(request, context, settings, Why::Nobody),
    }
}

/// There is a token: the request goes on with it, or with an administrator's own one. Only the one
/// request whose answer would be a token is answered here, so that none gets into the browser.
#[inline(always)]
fn succeed(
    request: &mut Request,
    context: &mut RequestContext,
    settings: &Settings,
    status: TokenStatus,
    (token, own): (Arc<Authorization>, Option<ngx_str_t>),
) -> Result<Status, OutOfMemory> {
    if token.role == Role::Administrator && own.is_some() {
        return Ok(keep(context, settings));
    }
    context.status = status;
    context.authorize(request, Some(token))?;
    if settings.browser.is_some() && asks_for_token(request) {
        request.as_mut().content_handler = Some(tokens_answer::answer);
    }
    Ok(Status::NGX_DECLINED)
}

/// There is no token: the request goes on with the client's own one or with nothing, or not at all.
fn give_none(
    request: &mut Request,
    context: &mut RequestContext,
    settings: &Settings,
    why: Why,
) -> Result<Status, OutOfMemory> {
    if goes_on_with_own(settings, &context.sent) {
        return Ok(keep(context, settings));
    }
    let denied = match why {
        Why::NoAccount | Why::NoAddress | Why::ShutOut | Why::Nobody => {
            settings.zone.lock().totals().no_account += 1;
            context.status = TokenStatus::NoAccount;
            NGX_HTTP_FORBIDDEN
        }
        Why::Unusable | Why::Failure => {
            settings.zone.lock().totals().errors += 1;
            context.status = TokenStatus::Error;
            NGX_HTTP_BAD_GATEWAY
        }
    };
    context.authorize(request, None)?;
    Ok(match settings.on_error {
        OnError::Pass => Status::NGX_DECLINED,
        OnError::Deny => Status(denied as ngx_int_t),
    })
}

/// Says in the log why there is no token, and what to do, where nothing has yet.
fn tell(request: &Request, settings: &Settings, name: &[u8], why: Why) {
    static UNKNOWN: Throttle = Throttle::new();
    static NO_ADDRESS: Throttle = Throttle::new();
    static SHUT_OUT: ThrottleEach = ThrottleEach::new();
    static UNUSABLE: Throttle = Throttle::new();

    let log = request.log();
    let user = NgxStr::from_bytes(name);
    let lets_through = |throttle: &Throttle| throttle.lets_through(now());
    match why {
        Why::NoAccount if lets_through(&UNKNOWN) => log_error!(
            log,
            "no account fits Authentik user \"{user}\"; add one to the accounts file and reload nginx"
        ),
        Why::NoAddress if lets_through(&NO_ADDRESS) => log_error!(
            log,
            "Authentik says no e-mail address of its user \"{user}\", or none that is one; set it \
             there, or make one with email="
        ),
        Why::ShutOut if SHUT_OUT.lets_through(name, now()) => log_notice!(
            log,
            "Authentik user \"{user}\" is in none of the groups of \"sign_in_as\", and is shut out"
        ),
        Why::Unusable if lets_through(&UNUSABLE) => log_error!(
            log,
            "the accounts file could not be used when nginx started, which said why; mend it, and \
             reload nginx, in {place}",
            place = settings.place
        ),
        _ => {}
    }
}
