//! No other site frames NPM's UI: every page says who may.

use std::time::Duration;

use testbed::{Client, Fault, Reply, Response};

use crate::page::{navigation, with, Watched, NAVIGATION};
use crate::{status, Elsewhere, World, ASKED, SHOWN};

const POLICY: &str = "Content-Security-Policy";
const OPTIONS: &str = "X-Frame-Options";
const SELF: &str = "frame-ancestors 'self'";

#[track_caller]
fn assert_framing(reply: &Reply, policies: &[&str], options: &[&str]) {
    let said = (reply.headers.all(POLICY), reply.headers.all(OPTIONS));
    assert_eq!(said, (policies.to_vec(), options.to_vec()), "{reply:?}");
}

#[track_caller]
fn assert_own_only(reply: &Reply) {
    assert_framing(reply, &[SELF], &["SAMEORIGIN"]);
}

#[track_caller]
fn assert_says_nothing(reply: &Reply) {
    assert_framing(reply, &[], &[]);
}

fn location(directive: &str) -> String {
    format!("{ASKED}\n{SHOWN}\n{directive}\n")
}

const DIRECTIVE: &str = "npm_token_inject accounts.json;";

#[test]
fn whatever_a_request_got_its_page_says_who_may_frame_it() {
    let world = World::new();
    let pass = format!("proxy_pass {};", world.npm.url());
    let mount = |parameters: &str| {
        let directive = format!("npm_token_inject accounts.json {parameters};");
        format!("{}proxy_pass {}/;", location(&directive), world.npm.url())
    };
    let nginx = world
        .nginx()
        .location("/", &format!("{}{pass}", location(DIRECTIVE)))
        .location("/off/", &mount("browser=off"))
        .location("/deny/", &mount("on_error=deny"));
    let nginx = Watched::start(nginx);
    let client = nginx.client();
    let live = world.npm.issue_token("guest@example.com", Duration::from_secs(60));
    let own = format!("Bearer {live}");
    let frame = [
        ("Sec-Fetch-Site", "same-site"),
        ("Sec-Fetch-Mode", "navigate"),
        ("Sec-Fetch-Dest", "iframe"),
    ];
    let kept = [("Authorization", &*own)];
    assert_eq!(status(&navigation(&client, "GET", "/", &world.sign_in("akadmin")).send()), "miss");
    world.npm.fault(Fault::Status(500));
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case; 6] = [
        ("akadmin", &NAVIGATION, "hit"),
        ("akadmin", &frame, "cross_site"),
        ("akadmin", &kept, "kept"),
        ("nobody", &NAVIGATION, "no_account"),
        ("bob", &NAVIGATION, "error"),
        ("", &NAVIGATION, "none"),
    ];
    for (user, headers, what) in cases {
        let session = world.sign_in(user);
        for path in ["/", "/nginx/proxy", "/off/", "/deny/"] {
            for method in ["GET", "HEAD"] {
                let request = client.request(method, path).cookie(&session);
                let reply = with(request, headers).send();
                assert_eq!(status(&reply), what, "{path}");
                assert_own_only(&reply);
            }
        }
        // What is no page cannot be clicked on; where there is none, nginx says so with a page.
        for path in ["/", "/off/", "/deny/"] {
            let request = client.request("GET", &format!("{path}assets/index-1.js"));
            let reply = with(request.cookie(&session), headers).send();
            assert_eq!(reply.headers.all(POLICY).len(), usize::from(reply.status >= 400), "{path}");
        }
    }
}

#[test]
fn errors_redirections_and_what_has_not_changed_say_it_too() {
    let world = World::new();
    let upstream = Elsewhere::answering(|request| match &*request.path {
        "/304" => Response::new(304).header("ETag", "\"v1\""),
        "/none" => Response::new(200).body("<html>"),
        "/302" => Response::html(302, "x").header("Location", "/"),
        "/json" => Response::json(404, "{}"),
        _ => Response::html(404, "<html>"),
    });
    let at = location(DIRECTIVE);
    let nginx = world
        .nginx()
        .http("types { text/html html; text/css css; }")
        .file("html/page.html", "<html>")
        .file("html/x.css", "")
        .location("/", &format!("{at}proxy_pass {};", upstream.url()))
        .location("/own/", &format!("{at}alias html/;"))
        .location("/gone", &format!("{at}proxy_pass http://127.0.0.1:1;"))
        .location(
            "/page",
            &format!(
                "{at}error_page 404 /404.html;\nproxy_intercept_errors on;\nproxy_pass {};",
                upstream.url()
            ),
        )
        .location("= /404.html", &format!("{at}return 404 'not here';\ndefault_type text/html;"));
    let nginx = Watched::start(nginx);
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    let get = |path: &str| client.request("GET", path).cookie(&session).send();
    for (path, status) in [
        ("/304", 304),
        ("/none", 200),
        ("/302", 302),
        ("/404", 404),
        ("/gone", 502),
        ("/page", 404),
        ("/own/page.html", 200),
        ("/own/missing", 404),
    ] {
        let reply = get(path);
        assert_eq!(reply.status, status, "{reply:?}");
        assert_own_only(&reply);
    }
    let page = get("/own/page.html");
    let request = client.request("GET", "/own/page.html").cookie(&session);
    let request = request.header("Accept", "*/*").header("Authorization", "Basic x");
    assert_own_only(&request.header("If-None-Match", page.header("ETag").unwrap_or("*")).send());
    for path in ["/json", "/own/x.css"] {
        assert_says_nothing(&get(path));
    }
    // Who has not signed in to Authentik.
    let reply = client.request("GET", "/").send();
    assert_eq!(reply.status, 401);
    assert_own_only(&reply);
}

#[test]
fn a_policy_that_is_there_stays_and_no_option_is_said_twice() {
    let world = World::new();
    let upstream = Elsewhere::answering(|request| {
        let options = request.query_value("options");
        let page = Response::html(200, "<html>").header(POLICY, "default-src 'self'");
        options.iter().fold(page, |page, options| page.header("x-frame-options", options.clone()))
    });
    let pass = format!("proxy_pass {};", upstream.url());
    let at = location(DIRECTIVE);
    let added =
        format!("add_header {OPTIONS} SAMEORIGIN always;\nadd_header {POLICY} \"img-src *\";");
    let nginx = world
        .nginx()
        .location("/", &format!("{at}{pass}"))
        .location("/added", &format!("{at}{added}\n{pass}"));
    let nginx = Watched::start(nginx);
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    let get = |path: &str| client.request("GET", path).cookie(&session).send();
    let theirs = "default-src 'self'";
    assert_framing(&get("/"), &[theirs, SELF], &["SAMEORIGIN"]);
    assert_framing(&get("/?options=DENY"), &[theirs, SELF], &["DENY"]);
    assert_framing(&get("/?options=SAMEORIGIN"), &[theirs, SELF], &["SAMEORIGIN"]);
    assert_framing(&get("/added"), &[theirs, "img-src *", SELF], &["SAMEORIGIN"]);
}

#[test]
fn who_else_may_frame_the_ui_is_named_by_a_parameter() {
    for (value, policy, options) in [
        ("'self'", SELF, Some("SAMEORIGIN")),
        ("'none'", "frame-ancestors 'none'", Some("DENY")),
        ("https://dash.example.com", "frame-ancestors https://dash.example.com", None),
        (
            "'self',https://dash.example.com:8443,http://nas",
            "frame-ancestors 'self' https://dash.example.com:8443 http://nas",
            None,
        ),
    ] {
        let world = World::new();
        let line = format!("npm_token_inject accounts.json frame_ancestors={value};");
        let nginx = Watched::start(world.host().directive(&line));
        for user in ["akadmin", "nobody"] {
            let reply = navigation(&nginx.client(), "GET", "/", &world.sign_in(user)).send();
            assert_framing(&reply, &[policy], options.as_slice());
        }
        // A dashboard that is named opens the UI; which page frames it, a browser does not say here.
        let session = world.sign_in("akadmin");
        for (other, dest, path) in [
            ("same-site", "iframe", "/"),
            ("cross-site", "iframe", "/"),
            ("same-site", "embed", "/"),
            ("same-site", "iframe", "/api/users"),
        ] {
            let frame = [
                ("Sec-Fetch-Site", other),
                ("Sec-Fetch-Mode", "navigate"),
                ("Sec-Fetch-Dest", dest),
            ];
            let client = nginx.client();
            let request = client.request("GET", path).cookie(&session);
            let is_named = options.is_none() && dest == "iframe" && path == "/";
            let what = if is_named { "hit" } else { "cross_site" };
            assert_eq!(status(&with(request, &frame).send()), what, "{value} {frame:?} {path}");
            let request = client.request("POST", path).cookie(&session);
            assert_eq!(status(&with(request, &frame).send()), "cross_site", "{value}");
        }
    }
}

#[test]
fn where_the_directive_is_not_nothing_is_said() {
    let world = World::new();
    let pass = format!("proxy_pass {};", world.npm.url());
    let nginx = world
        .nginx()
        .server(DIRECTIVE)
        .location("/", &format!("{}{pass}", location("npm_token_inject off;")))
        .location("/on", &format!("{ASKED}\n{SHOWN}\n{pass}"));
    let nginx = Watched::start(nginx);
    let session = world.sign_in("akadmin");
    assert_says_nothing(&navigation(&nginx.client(), "GET", "/", &session).send());
    assert_own_only(&navigation(&nginx.client(), "GET", "/on", &session).send());
}

#[test]
fn a_part_of_a_page_adds_nothing_to_it() {
    let world = World::new();
    let upstream = Elsewhere::answering(|request| {
        let is_part = request.path == "/part";
        let page = Response::html(
            200,
            if is_part { "part" } else { "<!--#include virtual=\"/part\" -->" },
        );
        if is_part {
            page.header(OPTIONS, "DENY")
        } else {
            page
        }
    });
    let pass = format!("proxy_pass {};", upstream.url());
    let at = location(DIRECTIVE);
    let nginx = world
        .nginx()
        .location("/", &format!("{at}ssi on;\n{pass}"))
        .location("/part", &format!("{at}{pass}"))
        .location("/outside", &format!("{ASKED}\nssi on;\n{pass}"));
    let nginx = Watched::start(nginx);
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    let reply = navigation(&client, "GET", "/", &session).send();
    assert!(reply.text().ends_with("part"), "{reply:?}");
    assert_own_only(&reply);
    assert_says_nothing(&navigation(&client, "GET", "/outside", &session).send());
}

#[test]
fn the_status_page_is_framed_by_nobody_else_either() {
    let world = World::new();
    let page = "npm_token_inject_status;";
    let nginx = world
        .nginx()
        .location("/", &format!("{}proxy_pass {};", location(DIRECTIVE), world.npm.url()))
        .location("= /status", page)
        .location("= /inherited", &format!("{DIRECTIVE}\n{page}"));
    let nginx = Watched::start(nginx);
    let client = nginx.client();
    for path in ["/status", "/inherited"] {
        for method in ["GET", "HEAD"] {
            assert_own_only(&client.request(method, &format!("{path}?format=html")).send());
        }
        for format in ["json", "prometheus"] {
            let reply: Reply = client.get(&format!("{path}?format={format}"));
            assert_eq!(reply.status, 200);
            assert_says_nothing(&reply);
        }
    }
}

#[test]
fn who_may_frame_the_ui_is_looked_at_by_the_configuration_test() {
    let world = World::new();
    let not_an_ancestor = "is neither 'self', with its quotes, nor an origin such as";
    for (parameters, message) in [
        ("frame_ancestors=", "parameter \"frame_ancestors\" has no value"),
        (
            "frame_ancestors='self' frame_ancestors='self'",
            "duplicate parameter \"frame_ancestors\"",
        ),
        ("frame_ancestors=self", not_an_ancestor),
        ("frame_ancestors=*", not_an_ancestor),
        ("frame_ancestors=dash.example.com", not_an_ancestor),
        ("frame_ancestors=https://dash.example.com/", not_an_ancestor),
        ("frame_ancestors=https://$host", not_an_ancestor),
        ("\"frame_ancestors='self', https://dash.example.com\"", not_an_ancestor),
        ("\"frame_ancestors='self'; script-src *\"", not_an_ancestor),
        ("frame_ancestors='none',https://dash.example.com", "'none' stands alone"),
    ] {
        let line = format!("npm_token_inject accounts.json {parameters};");
        let test = world.host().directive(&line).test();
        assert!(!test.ok, "{parameters}");
        let said = test.output.lines().find(|line| line.contains(message));
        let said = said.unwrap_or_else(|| panic!("{parameters}: {}", test.output));
        assert!(said.contains("[emerg]") && said.contains("nginx.conf:"), "{said}");
    }
    for parameters in
        ["frame_ancestors='self'", "browser=off frame_ancestors=https://dash.example.com:8443"]
    {
        let line = format!("npm_token_inject accounts.json {parameters};");
        let test = world.host().directive(&line).test();
        assert!(test.ok, "{}", test.output);
    }
}

/// The small NPM says nothing of frames, as the real one.
#[test]
fn npms_own_page_says_nothing() {
    let world = World::new();
    assert_says_nothing(&Client::new(&world.npm.url()).get("/"));
}
