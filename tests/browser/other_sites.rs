//! No other site can use what the module gives to NPM's own page.

use testbed::{eventually, Client, Request, Response, Server};

use super::chromium::SOON;
use super::*;

/// The user that other sites try to make.
const EVIL: &str = "evil@example.org";

/// A server that is not NPM. `/redirect?to=URL` sends a request on, method and body included;
/// everything else is an empty page.
struct Elsewhere {
    server: Server,
    scheme: Scheme,
}

impl Elsewhere {
    fn start(scheme: Scheme) -> Self {
        let server = Server::start(None, scheme.tls().as_deref(), |request, _| {
            let origin = request.header("Origin").unwrap_or("*").to_owned();
            let answer = match request.query_value("to") {
                Some(to) => Response::new(307).header("Location", to),
                None => Response::html(200, "<!DOCTYPE html><title>Elsewhere</title><body>"),
            };
            answer
                .header("Access-Control-Allow-Origin", origin)
                .header("Access-Control-Allow-Credentials", "true")
                .into()
        });
        Self { server, scheme }
    }

    fn url(&self, host: &str) -> String {
        format!("{}://{host}:{}", self.scheme.name(), self.server.port())
    }

    /// A URL that redirects.
    fn redirect(&self, host: &str) -> String {
        format!("{}/redirect?to=", self.url(host))
    }
}

/// What a page tries.
struct Attempt {
    name: &'static str,
    /// Where to, below NPM's origin.
    path: &'static str,
    /// Does it, to `url`.
    script: &'static str,
}

const fn attempt(name: &'static str, path: &'static str, script: &'static str) -> Attempt {
    Attempt { name, path, script }
}

/// What the scripts have at hand.
const PRELUDE: &str = "
    const load = (tag, fields) =>
        document.body.append(Object.assign(document.createElement(tag), fields));
    const post = (enctype, nameless) => {
        const form = document.createElement('form');
        Object.assign(form, {method: 'POST', action: url, enctype});
        if (nameless) load('meta', {name: 'referrer', content: 'no-referrer'});
        const fields = {name: 'Evil', nickname: 'evil', email: 'evil@example.org', 'roles[]': 'admin'};
        for (const [name, value] of Object.entries(fields)) {
            const input = document.createElement('input');
            Object.assign(input, {name, value});
            form.append(input);
        }
        document.body.append(form);
        form.submit();
    };
    const user = 'name=Evil&nickname=evil&email=evil@example.org&roles[]=admin';
    const json = JSON.stringify(
        {name: 'Evil', nickname: 'evil', email: 'evil@example.org', roles: ['admin']});
    const send = (fields) => void fetch(url, {credentials: 'include', ...fields}).catch(() => {});
    const form = {'Content-Type': 'application/x-www-form-urlencoded'};
";

/// Forms, which lead to another page.
const FORMS: [Attempt; 5] = [
    attempt("form", "/api/users", "post('application/x-www-form-urlencoded')"),
    attempt("form-multipart", "/api/users", "post('multipart/form-data')"),
    attempt("form-text", "/api/users", "post('text/plain')"),
    attempt("form-null", "/api/users", "post('application/x-www-form-urlencoded', true)"),
    attempt("form-page", "/", "post('application/x-www-form-urlencoded')"),
];

/// What a page asks for that stays where it is.
const REQUESTS: [Attempt; 7] = [
    attempt("fetch", "/api/users", "send({})"),
    attempt("fetch-token", "/api/tokens", "send({})"),
    attempt("fetch-form", "/api/users", "send({method: 'POST', body: user, headers: form})"),
    attempt(
        "fetch-form-no-cors",
        "/api/users",
        "send({method: 'POST', mode: 'no-cors', body: user, headers: form})",
    ),
    attempt(
        "fetch-text-no-cors",
        "/api/users",
        "send({method: 'POST', mode: 'no-cors', body: json})",
    ),
    attempt("beacon", "/api/users", "navigator.sendBeacon(url, new URLSearchParams(user))"),
    attempt(
        "script-cors",
        "/api/users",
        "load('script', {crossOrigin: 'use-credentials', src: url})",
    ),
];

/// Requests that only read. Over plain http browsers do not say which site starts these.
const READS: [Attempt; 6] = [
    attempt("fetch-no-cors", "/api/users", "send({mode: 'no-cors'})"),
    attempt("img", "/api/users", "load('img', {src: url})"),
    attempt("script", "/api/users", "load('script', {src: url})"),
    attempt("iframe", "/", "load('iframe', {src: url})"),
    attempt("iframe-api", "/api/users", "load('iframe', {src: url})"),
    attempt("embed", "/", "load('embed', {type: 'text/html', src: url})"),
];

impl Attempt {
    /// Makes it on the page that `tab` shows, by way of `via`, and waits until nginx has answered.
    /// The status of its token, as nginx logs it.
    fn run(&self, world: &World, tab: &Tab, via: &str) -> String {
        let mark = format!("attempt={} ", self.name);
        let url = world.url(&format!("{}?{}", self.path, mark.trim_end()));
        let url = if via.is_empty() { url } else { format!("{via}{}", encoded(&url)) };
        tab.run(&format!(
            "void (() => {{ const url = {}; {PRELUDE} {} }})()",
            Value::from(url),
            self.script
        ));
        let mut status = None;
        eventually(SOON, &mark, || {
            let log = world.nginx.access_log();
            let line = log.lines().find(|line| line.contains(&mark));
            status = line.and_then(|line| line.rsplit(' ').next()).map(str::to_owned);
            status.is_some()
        });
        status.unwrap_or_default()
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What other sites had NPM do.
fn attempts_at(npm: &Npm) -> Vec<Request> {
    let mut requests = npm.requests();
    requests.retain(|request| request.query.starts_with("attempt="));
    requests
}

fn evil_exists(world: &World) -> bool {
    let token = world.npm.issue_token(ADMIN, Duration::from_secs(3600));
    let client = Client::new(&world.npm.url());
    let users = client.request("GET", "/api/users").bearer(&token).send();
    assert_eq!(users.status, 200, "{users:?}");
    users.text().contains(EVIL)
}

/// Signs a browser in whose Authentik session goes along with all requests, wherever possible.
fn exposed(world: &World) -> (Browser, Tab) {
    if world.scheme == Https {
        world.outpost.set_cookies_for_all_sites();
    }
    let (browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    (browser, tab)
}

/// Makes every attempt on the page at `from`, by way of `via`, and hands over what became of each.
fn attempt_all(world: &World, tab: &Tab, from: &str, via: &str, check: impl Fn(&Attempt, &str)) {
    let reads = READS.iter().filter(|_| world.scheme == Https);
    tab.open(from);
    for attempt in REQUESTS.iter().chain(reads) {
        check(attempt, &attempt.run(world, tab, via));
    }
    for attempt in &FORMS {
        tab.open(from);
        check(attempt, &attempt.run(world, tab, via));
    }
}

/// None of the attempts on the page at `from` gets a token, though the session goes along.
fn assert_none_gets_a_token(world: &World, from: &str, via: &str) {
    let (_browser, tab) = exposed(world);
    attempt_all(world, &tab, from, via, |attempt, status| {
        assert_eq!(status, "cross_site", "{} from {from}", attempt.name);
    });
    assert_nothing_was_done(world);
}

fn assert_nothing_was_done(world: &World) {
    for request in attempts_at(&world.npm) {
        assert!(request.authorization().is_empty(), "{request:?}");
    }
    assert!(!evil_exists(world));
}

#[test]
fn another_site_gets_no_token() {
    let world = World::new(Https);
    let elsewhere = Elsewhere::start(Https);
    assert_none_gets_a_token(&world, &elsewhere.url("www.example.org"), "");
}

#[test]
fn another_port_gets_no_token() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let elsewhere = Elsewhere::start(scheme);
        assert_none_gets_a_token(&world, &elsewhere.url("npm.example.com"), "");
    }
}

#[test]
fn a_sibling_subdomain_gets_no_token() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let elsewhere = Elsewhere::start(scheme);
        assert_none_gets_a_token(&world, &elsewhere.url("www.example.com"), "");
    }
}

#[test]
fn another_scheme_gets_no_token() {
    let world = World::new(Https);
    let elsewhere = Elsewhere::start(Http);
    assert_none_gets_a_token(&world, &elsewhere.url("npm.example.com"), "");
}

#[test]
fn a_redirect_through_another_site_gets_no_token() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let elsewhere = Elsewhere::start(scheme);
        let via = elsewhere.redirect("www.example.com");
        assert_none_gets_a_token(&world, &world.url("/"), &via);
    }
}

#[test]
fn a_page_in_a_sandbox_gets_no_token() {
    let world = World::new(Http);
    let elsewhere = Elsewhere::start(Http);
    let (browser, _own) = exposed(&world);
    let tab = browser.tab();
    tab.open(&elsewhere.url("npm.example.com"));
    // A page whose origin is "null" posts a form.
    let form = "<form method=POST action=URL><input name=name value=Evil><input name=nickname \
                value=evil><input name=email value=evil@example.org><input name=roles[] \
                value=admin></form><script>document.forms[0].submit()</script>";
    let form = form.replace("URL", &world.url("/api/users?attempt=sandbox"));
    tab.run(&format!(
        "void document.body.append(Object.assign(document.createElement('iframe'),
            {{sandbox: 'allow-forms allow-scripts', srcdoc: {}}}))",
        Value::from(form)
    ));
    eventually(SOON, "the form", || world.nginx.access_log().contains("attempt=sandbox"));
    assert_nothing_was_done(&world);
}

#[test]
fn a_token_that_another_site_sends_along_is_removed() {
    let world = World::new(Https);
    let elsewhere = Elsewhere::start(Https);
    let (browser, own) = exposed(&world);
    own.follow("Sign in as bob@example.com");
    assert_signed_in(&own, BOB);
    let jwt = tokens(&own).pop().expect("a token");

    let tab = browser.tab();
    tab.open(&elsewhere.url("www.example.com"));
    let url = world.url("/api/users?attempt=own");
    tab.run(&format!(
        "void fetch('{url}', {{method: 'POST', credentials: 'include', headers:
            {{Authorization: 'Bearer {jwt}', 'Content-Type': 'application/json'}}, body: '{{}}'}})
            .catch(() => {{}})"
    ));
    eventually(SOON, "a preflight", || world.nginx.access_log().contains("attempt=own"));
    assert_nothing_was_done(&world);
}

#[test]
fn all_of_this_works_where_a_token_is_given_blindly() {
    let world = World::with(Https, |host, npm| {
        let token = npm.issue_token(ADMIN, Duration::from_secs(3600));
        let blind = format!("proxy_set_header Authorization \"Bearer {token}\";");
        host.location("/", &blind)
            .http("map '' $npm_token_status { default blind; }")
            .without_module()
    });
    let elsewhere = Elsewhere::start(Https);
    world.outpost.set_cookies_for_all_sites();
    let (_browser, tab) = world.sign_in("akadmin");
    assert_login_page(&tab);

    attempt_all(&world, &tab, &elsewhere.url("www.example.org"), "", |attempt, _| {
        let requests = attempts_at(&world.npm);
        let request = requests.last().unwrap_or_else(|| panic!("{}: no request", attempt.name));
        assert!(request.query.ends_with(attempt.name), "{request:?}");
        assert_eq!(request.authorization().len(), 1, "{request:?}");
        let is_null = request.header("Origin") == Some("null");
        assert_eq!(is_null, attempt.name.ends_with("-null"), "{request:?}");
    });
    assert!(evil_exists(&world));
}

#[test]
fn npms_own_page_may_do_all_of_this() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let (_browser, tab) = exposed(&world);
        attempt_all(&world, &tab, &world.url("/"), "", |attempt, status| {
            // A page that withholds its origin could be any.
            let is_unknown = attempt.name.ends_with("-null");
            assert_eq!(status, if is_unknown { "cross_site" } else { "hit" }, "{}", attempt.name);
        });
        assert!(evil_exists(&world));
    }
}

#[test]
fn a_link_from_another_site_opens_the_ui_signed_in() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let elsewhere = Elsewhere::start(scheme);
        let (browser, _own) = world.sign_in("akadmin");
        for host in ["www.example.org", "www.example.com", "npm.example.com"] {
            let tab = browser.tab();
            tab.open(&elsewhere.url(host));
            let link =
                "Object.assign(document.createElement('a'), {textContent: 'NPM', href: URL})";
            let link = link.replace("URL", &Value::from(world.url("/")).to_string());
            tab.run(&format!("void document.body.append({link})"));
            tab.follow("NPM");
            assert_signed_in(&tab, ADMIN);
            assert_marker_alone(&tab);
        }
    }
}

#[test]
fn a_link_from_another_site_to_the_api_gets_no_token() {
    let world = World::new(Https);
    let elsewhere = Elsewhere::start(Https);
    let (browser, _own) = exposed(&world);
    for host in ["www.example.org", "www.example.com"] {
        let tab = browser.tab();
        tab.open(&elsewhere.url(host));
        let attempt = attempt(host, "/api/users", "location.assign(url)");
        assert_eq!(attempt.run(&world, &tab, ""), "cross_site", "{host}");
        tab.until("document.body.textContent.includes('Not Found')");
    }
    assert_nothing_was_done(&world);
}

#[test]
fn a_redirect_from_another_site_opens_the_ui_signed_in() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let elsewhere = Elsewhere::start(scheme);
        let (browser, _own) = world.sign_in("akadmin");
        for host in ["www.example.org", "www.example.com"] {
            let tab = browser.tab();
            let url = format!("{}{}", elsewhere.redirect(host), encoded(&world.url("/")));
            tab.open(&elsewhere.url(host));
            tab.leave(&format!("location.assign('{url}')"));
            assert_signed_in(&tab, ADMIN);
        }
    }
}
