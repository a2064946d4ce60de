//! Where in nginx' course of a request the token comes in: after every access check, in the
//! location that has the directive, and nowhere else. In the access phase where all checks must
//! grant access, behind that phase where one is enough: these tests run under both.

use std::io::{Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{json, Value};
use testbed::nginx::{has_debug_log, Builder};
use testbed::{closed_port, eventually, Client, Fault, Nginx, Npm, Reply, Request, Response};

use crate::http2::{Connection, Stream};
use crate::site::SIGNED_IN;
use crate::{status, Elsewhere, World, ASKED, SHOWN};

const ADMINS: &str = "the token of admin@example.com";
const BOBS: &str = "the token of bob@example.com";
const BASIC: &str = "Basic dmlzaXRvcjpwYXNzd29yZA==";
const WRONG_BASIC: &str = "Basic d3Jvbmc6d3Jvbmc=";
const DIRECTIVE: &str = "npm_token_inject accounts.json;";
const SOON: Duration = Duration::from_secs(10);

/// What `satisfy` says in the tests of this module, which is compiled for each value once.
fn satisfy() -> &'static str {
    match module_path!().ends_with("any") {
        true => "any",
        false => "all",
    }
}

/// An Authentik that does what the request's `X-Case` says.
fn authentik() -> Elsewhere {
    Elsewhere::answering(|request| match request.header("X-Case") {
        Some("user") => Response::new(200).header("X-authentik-username", "akadmin"),
        Some("open") => Response::new(200),
        status => Response::new(status.and_then(|s| s.parse().ok()).unwrap_or(401)),
    })
}

/// Locations for `satisfy`, `allow` and `deny`, and `auth_basic` in all combinations, each with
/// auth_request. Below them is NPM.
fn checks(world: &World, authentik: &Elsewhere) -> (Builder, Vec<String>) {
    let auth = format!("internal;\nproxy_pass {};", authentik.url());
    let basic = "auth_basic closed;\nauth_basic_user_file users;";
    let mut nginx = Nginx::builder()
        .file("users", "visitor:{PLAIN}password\n")
        .accounts(&world.accounts())
        .location("= /auth", &auth);
    let mut paths = Vec::new();
    for satisfy in ["all", "any"] {
        for access in ["", "allow all;", "deny all;"] {
            for basic in ["", basic] {
                let path = format!("/{}/", paths.len());
                let lines = format!("satisfy {satisfy};\n{access}\n{basic}\n{ASKED}");
                let npm = format!("npm_token_inject on;\nproxy_pass {};", world.npm.url());
                nginx = nginx.location(&path, &format!("{lines}\n{npm}"));
                paths.push(path);
            }
        }
    }
    (nginx, paths)
}

/// A request to one of those locations.
#[derive(Debug)]
struct Attempt {
    path: String,
    case: &'static str,
    basic: Option<&'static str>,
}

impl Attempt {
    fn send(&self, nginx: &Client) -> Reply {
        let request = nginx.request("GET", &self.path).header("X-Case", self.case);
        let request = self.basic.iter().fold(request, |r, basic| r.header("Authorization", basic));
        request.send()
    }
}

fn attempts(paths: &[String]) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for path in paths {
        for case in ["user", "open", "401", "403", "500"] {
            for basic in [None, Some(BASIC), Some(WRONG_BASIC)] {
                attempts.push(Attempt { path: path.clone(), case, basic });
            }
        }
    }
    attempts
}

#[test]
fn a_token_is_there_exactly_where_authentik_named_the_user_and_access_was_granted() {
    let (world, authentik) = (World::under(satisfy()), authentik());
    let (builder, paths) = checks(&world, &authentik);
    let nginx = builder.directive(DIRECTIVE).start();
    let client = nginx.client();
    let (mut tokens, mut grants) = (0, 0);
    for attempt in attempts(&paths) {
        let asked = authentik.requests().len();
        let seen = world.npm.requests_to(&attempt.path).len();
        let granted = attempt.send(&client).status == 200;
        assert_eq!(world.npm.requests_to(&attempt.path).len(), seen + usize::from(granted));
        if !granted {
            continue;
        }
        let named = authentik.requests().len() > asked && attempt.case == "user";
        let carried = if named { ADMINS } else { attempt.basic.unwrap_or("nothing") };
        assert_eq!(world.carried_to(&attempt.path), carried, "{attempt:?}");
        tokens += usize::from(named);
        grants += 1;
    }
    // Neither is a matter of course.
    assert!(tokens > 10 && grants > tokens + 10, "{tokens} of {grants}");
}

#[test]
fn the_module_never_grants_access_and_refuses_only_where_it_is_told_to() {
    let (world, authentik) = (World::under(satisfy()), authentik());
    let (builder, paths) = checks(&world, &authentik);
    let attempts = attempts(&paths);
    let statuses = |nginx: Builder| -> Vec<_> {
        let nginx = nginx.start();
        let client = nginx.client();
        let send = |attempt: &Attempt| {
            let asked = authentik.requests().len();
            let status = attempt.send(&client).status;
            (status, authentik.requests().len() > asked)
        };
        attempts.iter().map(send).collect()
    };
    let without = statuses(builder.clone().without_module());
    assert!(without.iter().any(|(status, _)| *status == 200));

    let nobody = r#"{"accounts": []}"#;
    let passes = statuses(builder.clone().accounts(nobody).directive(DIRECTIVE));
    let denies = "npm_token_inject accounts.json on_error=deny;";
    let denies = statuses(builder.clone().accounts(nobody).directive(denies));
    let signs_in = statuses(builder.directive(DIRECTIVE));
    for (index, attempt) in attempts.iter().enumerate() {
        let expected = without[index];
        assert_eq!(signs_in[index], expected, "{attempt:?}");
        assert_eq!(passes[index], expected, "{attempt:?}");
        let refused = attempt.case == "user" && expected == (200, true);
        let expected = if refused { (403, true) } else { expected };
        assert_eq!(denies[index], expected, "{attempt:?}");
    }
}

#[test]
fn a_location_that_does_not_ask_authentik_gives_no_token() {
    let world = World::under(satisfy());
    let npm = world.npm.url();
    let nginx = world
        .nginx()
        .server(&format!("{ASKED}\n{DIRECTIVE}\n{SHOWN}"))
        .location("/", &format!("proxy_pass {npm};"))
        .location("/unasked/", &format!("auth_request off;\nproxy_pass {npm};"))
        .start();
    let client = nginx.client();
    let session = world.sign_in("akadmin");
    let get = |path| client.request("GET", path).cookie(&session);
    assert_eq!(status(&get("/echo").send()), "miss");
    let reply = get("/unasked/").header("Authorization", BASIC).send();
    assert_eq!((status(&reply), &*world.carried_to("/unasked/")), ("none", BASIC));
}

#[test]
fn the_question_to_authentik_never_carries_the_token() {
    let world = World::under(satisfy());
    let nginx = world.host().start();
    let client = nginx.client();
    let session = world.sign_in("akadmin");
    for sent in [None, Some(BASIC), None, Some("garbage")] {
        let request = client.request("GET", "/echo").cookie(&session);
        sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent)).send();
        assert_eq!(world.carried_to("/echo"), ADMINS);
        let asked = world.outpost.requests().pop().expect("a question");
        assert_eq!(world.authorization_of(&asked), sent.unwrap_or("nothing"));
    }
}

/// NPM, each of whose requests is mirrored to somebody else.
fn mirrored(world: &World, mirror: &Elsewhere) -> Builder {
    let npm = world.npm.url();
    world
        .nginx()
        .location("/", &format!("{ASKED}\n{DIRECTIVE}\nmirror /mirror;\nproxy_pass {npm};"))
        .location("= /mirror", &format!("internal;\nproxy_pass {};", mirror.url()))
}

#[test]
fn a_mirror_never_sees_the_token() {
    let (world, mirror) = (World::under(satisfy()), Elsewhere::start());
    let nginx = mirrored(&world, &mirror).start();
    let client = nginx.client();
    let (akadmin, nobody) = (world.sign_in("akadmin"), world.sign_in("nobody"));
    for (count, sent) in [None, None, Some(BASIC)].into_iter().enumerate() {
        let request = client.request("POST", "/echo").cookie(&akadmin).body("body");
        sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent)).send();
        assert_eq!(world.carried_to("/echo"), ADMINS);
        eventually(SOON, "the mirror", || mirror.requests().len() == count + 1);
        assert_eq!(mirror.last().body, b"body");
        assert_eq!(world.authorization_of(&mirror.last()), sent.unwrap_or("nothing"));
    }
    client.request("GET", "/echo").cookie(&nobody).header("Authorization", BASIC).send();
    eventually(SOON, "the mirror", || mirror.requests().len() == 4);
    assert_eq!(world.authorization_of(&mirror.last()), BASIC);
}

/// A line of many configurations, by which a location's upstream gets what the request carries.
const AS_IT_IS: &str = "proxy_set_header Authorization $http_authorization;";

#[test]
fn a_mirror_that_is_sent_what_the_request_carries_never_sees_the_token() {
    let (world, mirror) = (World::under(satisfy()), Elsewhere::start());
    let nginx = mirrored(&world, &mirror).server(AS_IT_IS).start();
    let client = nginx.client();
    let akadmin = world.sign_in("akadmin");
    for (count, sent) in [None, None, Some(BASIC)].into_iter().enumerate() {
        for (again, body) in ["", "body"].into_iter().enumerate() {
            let request = client.request("POST", "/echo").cookie(&akadmin).body(body);
            sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent)).send();
            assert_eq!(world.carried_to("/echo"), ADMINS, "{sent:?}");
            eventually(SOON, "the mirror", || mirror.requests().len() == 2 * count + again + 1);
            assert_eq!(world.authorization_of(&mirror.last()), sent.unwrap_or("nothing"));
        }
    }
}

#[test]
fn a_location_that_is_sent_what_the_request_carries_never_sees_the_token_of_another() {
    let to = Elsewhere::start();
    let pass = format!("{SHOWN}\nproxy_pass {};", to.url());
    let nginx = Redirections::start(&pass, |nginx, _| nginx.server(AS_IT_IS));
    for way in WAYS {
        for (accept, sent) in nginx.asked_and_sent() {
            let told = format!("{way} {accept} {sent:?}");
            let (count, first) = (to.requests().len(), nginx.npm.requests().len());
            nginx.send(way, "akadmin", accept, sent.as_deref());
            assert_eq!(to.requests().len(), count + 1, "{told}");
            let sent: Vec<_> = sent.iter().map(|sent| &**sent).collect();
            assert_eq!(to.last().authorization(), sent, "{told}");
            for request in &nginx.npm.requests()[first..] {
                assert_eq!(nginx.world.authorization_of(request), ADMINS, "{told}");
            }
        }
    }
    assert!(nginx.npm.requests().len() > 30);
}

#[test]
fn what_a_volatile_map_makes_of_the_header_is_never_the_token_elsewhere() {
    let to = Elsewhere::start();
    let pass = format!("{SHOWN}\nproxy_pass {};", to.url());
    let nginx = Redirections::start(&pass, |nginx, _| {
        let map = "map $http_authorization $mapped {\nvolatile;\ndefault x$http_authorization;\n}";
        nginx.http(map).server("proxy_set_header X-Mapped $mapped;")
    });
    for way in WAYS {
        for sent in [None, Some(BASIC)] {
            nginx.send(way, "akadmin", "text/html", sent);
            let mapped = format!("x{}", sent.unwrap_or_default());
            assert_eq!(to.last().header("X-Mapped"), Some(&*mapped), "{way} {sent:?}");
        }
    }
}

#[test]
fn what_a_server_keeps_of_the_header_is_never_the_token() {
    let (to, mirror) = (Elsewhere::start(), Elsewhere::start());
    let pass = format!("{SHOWN}\nproxy_pass {};", to.url());
    let nginx = Redirections::start(&pass, |nginx, world| {
        let lines =
            format!("{ASKED}\n{DIRECTIVE}\nmirror /mirror;\nproxy_pass {};", world.npm.url());
        nginx
            .server("set $kept x$http_authorization;\nproxy_set_header X-Kept $kept;")
            .location("/echo", &lines)
            .location("= /mirror", &format!("internal;\nproxy_pass {};", mirror.url()))
    });
    for sent in [None, Some(BASIC)] {
        let kept = format!("x{}", sent.unwrap_or_default());
        for way in WAYS {
            nginx.send(way, "akadmin", "text/html", sent);
            assert_eq!(to.last().header("X-Kept"), Some(&*kept), "{way} {sent:?}");
        }
        let (client, session) = (nginx.nginx.client(), nginx.world.sign_in("akadmin"));
        let request = client.request("GET", "/echo").cookie(&session);
        let count = mirror.requests().len();
        sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent)).send();
        assert_eq!(nginx.world.carried_to("/echo"), ADMINS);
        eventually(SOON, "the mirror", || mirror.requests().len() == count + 1);
        assert_eq!(mirror.last().header("X-Kept"), Some(&*kept), "{sent:?}");
    }
}

#[test]
fn an_authentik_that_is_sent_what_the_request_carries_does_not_keep_the_token_from_npm() {
    let world = World::under(satisfy());
    let (npm, outpost) = (world.npm.url(), world.outpost.url());
    let ask = format!(
        "internal;
         {AS_IT_IS}
         proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
         proxy_pass {outpost}/outpost.goauthentik.io/auth/nginx;"
    );
    let asked = ASKED.replace("/auth;", "/ask;");
    let nginx = world
        .nginx()
        .location("= /ask", &ask)
        .location("/", &format!("{asked}\n{DIRECTIVE}\n{AS_IT_IS}\nproxy_pass {npm};"))
        .start();
    let client = nginx.client();
    let (akadmin, nobody) = (world.sign_in("akadmin"), world.sign_in("nobody"));
    for (session, carried) in [(&akadmin, ADMINS), (&akadmin, ADMINS), (&nobody, "nothing")] {
        for sent in [None, Some(BASIC)] {
            let request = client.request("GET", "/echo").cookie(session);
            sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent)).send();
            assert_eq!(world.carried_to("/echo"), carried, "{sent:?}");
            let asked = world.outpost.requests().pop().expect("a question");
            assert_eq!(world.authorization_of(&asked), sent.unwrap_or("nothing"));
        }
    }
}

#[test]
fn a_part_of_a_page_carries_the_token_where_the_directive_is_on_and_not_where_it_is_off() {
    let (world, other) = (World::under(satisfy()), Elsewhere::start());
    let page = r#"<!--# include virtual="/below/" --><!--# include virtual="/other/" -->"#;
    let npm = Elsewhere::answering(move |request| match &*request.path {
        "/" => Response::html(200, page),
        _ => Response::html(200, "part"),
    });
    let lines = "npm_token_inject accounts.json browser=off;\n\
                 proxy_set_header X-Copy $npm_token_authorization;";
    let nginx = world
        .nginx()
        .location("/", &format!("{ASKED}\n{lines}\nssi on;\nproxy_pass {};", npm.url()))
        .location("/other/", &format!("proxy_pass {};", other.url()))
        .start();
    let client = nginx.client();
    let session = world.sign_in("akadmin");
    for sent in [None, Some(BASIC)] {
        let request = client.request("GET", "/").cookie(&session);
        let request = sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent));
        assert_eq!(request.send().text(), "partelsewhere");
        let seen: Vec<Request> = npm.requests();
        let last = &seen[seen.len() - 2..];
        assert_eq!((&*last[0].path, &*last[1].path), ("/", "/below/"));
        for request in last {
            assert_eq!(world.authorization_of(request), ADMINS);
            // The variable is the same in all parts.
            assert_eq!(request.headers.all("X-Copy"), request.authorization());
        }
        assert_eq!(world.authorization_of(&other.last()), sent.unwrap_or("nothing"));
    }
}

/// The ways in which nginx goes on with a request in another location, after it has been in one
/// with the directive.
const WAYS: [&str; 10] = [
    "error-page",
    "error-page-named",
    "down",
    "down-named",
    "accel",
    "accel-named",
    "try-files",
    "try-files-named",
    "index",
    "back-again",
];

/// What else a browser may send, which the module does not hand on where it wants the whole page.
const OTHERS: [(&str, &str); 5] = [
    ("X-Before", "1"),
    ("Accept-Encoding", "gzip, br"),
    ("If-None-Match", "\"tag\""),
    ("Range", "bytes=0-1"),
    ("X-Behind", "2"),
];

/// nginx with a location `/WAY/` for each of [`WAYS`], that all go on to `/to/` or `@to`, whose
/// lines are given.
struct Redirections {
    world: World,
    /// Whom the requests are passed to at first.
    npm: Elsewhere,
    nginx: Nginx,
}

impl Redirections {
    fn start(to: &str, builder: impl FnOnce(Builder, &World) -> Builder) -> Self {
        let world = World::under(satisfy());
        let npm = Elsewhere::answering(|request| match request.path.split('/').nth(1) {
            Some("accel") => Response::new(200).header("X-Accel-Redirect", "/to/"),
            Some("accel-named") => Response::new(200).header("X-Accel-Redirect", "@to"),
            _ => Response::new(404),
        });
        let url = npm.url();
        let mut nginx = builder(world.nginx(), &world)
            .server("proxy_intercept_errors on;\nrecursive_error_pages on;")
            .location("/to/", to)
            .location("@to", to);
        for way in WAYS {
            let pass = format!("proxy_pass {url};");
            let way_on = match way {
                "error-page" => format!("error_page 404 = /to/;\n{pass}"),
                "error-page-named" => format!("error_page 404 = @to;\n{pass}"),
                "down" => {
                    format!(
                        "error_page 502 = /to/;\nproxy_pass http://127.0.0.1:{};",
                        closed_port()
                    )
                }
                "down-named" => {
                    format!("error_page 502 = @to;\nproxy_pass http://127.0.0.1:{};", closed_port())
                }
                "try-files" => "root nowhere;\ntry_files /nosuch /to/;".to_owned(),
                "try-files-named" => "root nowhere;\ntry_files /nosuch @to;".to_owned(),
                "index" => "index /to/;".to_owned(),
                // Through another location with a directive, and by a name.
                "back-again" => format!("error_page 404 = /error-page-named/;\n{pass}"),
                _ => pass,
            };
            let lines = format!("{ASKED}\nnpm_token_inject accounts.json client_token=replace;");
            nginx = nginx.location(&format!("/{way}/"), &format!("{lines}\n{way_on}"));
        }
        let nginx = nginx.start();
        Self { world, npm, nginx }
    }

    fn send(&self, way: &str, user: &str, accept: &str, sent: Option<&str>) -> Reply {
        let client = self.nginx.client();
        let session = self.world.sign_in(user);
        let mut request = client.request("GET", &format!("/{way}/")).cookie(&session);
        request = request.header("Accept", accept);
        for (name, value) in OTHERS {
            request = request.header(name, value);
        }
        sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent)).send()
    }

    /// What a client may ask for, and send. For a page the module changes more headers than one.
    fn asked_and_sent(&self) -> Vec<(&'static str, Option<String>)> {
        let hour = Duration::from_secs(3600);
        let live = self.world.npm.issue_token("guest@example.com", hour);
        let expired = self.world.npm.issue_expired_token("guest@example.com");
        let bearer = |token| Some(format!("Bearer {token}"));
        let sent = [None, Some(BASIC.to_owned()), bearer(live), bearer(expired)];
        let asked = ["text/html", "application/json"].into_iter();
        asked.flat_map(|accept| sent.iter().map(move |sent| (accept, sent.clone()))).collect()
    }
}

#[test]
fn a_location_without_the_directive_gets_what_the_client_sent_and_never_the_token() {
    let to = Elsewhere::start();
    let pass = format!("{SHOWN}\nproxy_pass {}", to.url());
    // A named location has no path of its own.
    let nginx = Redirections::start(&format!("{pass};"), |nginx, _| nginx);
    for way in WAYS {
        for user in ["akadmin", "nobody"] {
            for (accept, sent) in nginx.asked_and_sent() {
                let told = format!("{way} {user} {accept} {sent:?}");
                let (count, first) = (to.requests().len(), nginx.npm.requests().len());
                let reply = nginx.send(way, user, accept, sent.as_deref());
                assert_eq!((reply.status, status(&reply)), (200, ""), "{told}");
                assert_eq!(to.requests().len(), count + 1, "{told}");
                let sent: Vec<_> = sent.iter().map(|sent| &**sent).collect();
                assert_eq!(to.last().authorization(), sent, "{told}");
                let arrived = to.last();
                let others = arrived.headers.iter().filter(|h| OTHERS.iter().any(|o| o.0 == h.0));
                assert_eq!(others.collect::<Vec<_>>(), OTHERS, "{told}");
                // But NPM got it, where it was asked at all.
                for request in &nginx.npm.requests()[first..] {
                    let carried = if user == "akadmin" { ADMINS } else { "nothing" };
                    assert_eq!(nginx.world.authorization_of(request), carried, "{told}");
                }
                // And Authentik, which was asked once or twice, what the client sent.
                let asked = nginx.world.outpost.requests();
                assert!(!asked.is_empty());
                for request in asked {
                    assert_eq!(request.authorization(), sent, "{told}");
                }
                nginx.world.outpost.forget_requests();
            }
        }
    }
    assert!(nginx.npm.requests().len() > 30);
}

#[test]
fn a_location_with_another_directive_gets_that_ones_token() {
    let to = Elsewhere::start();
    let pass = to.url();
    let lines = format!("{ASKED}\n{SHOWN}\nnpm_token_inject others.json;\nproxy_pass {pass};");
    let nginx = Redirections::start(&lines, |nginx, world| {
        let mut others: Value = serde_json::from_str(&world.accounts()).expect("JSON");
        others["accounts"][0]["identity"] = "bob@example.com".into();
        others["accounts"][0]["secret"] = world.npm.secret("bob@example.com").into();
        nginx.file_with_mode("others.json", others.to_string(), 0o600)
    });
    for way in WAYS {
        for (accept, sent) in nginx.asked_and_sent() {
            let told = format!("{way} {accept} {sent:?}");
            let reply = nginx.send(way, "akadmin", accept, sent.as_deref());
            let is_live = sent.as_ref().is_some_and(|sent| {
                nginx.world.owner(sent).is_some_and(|owner| owner == "guest@example.com")
            });
            let (what, carried) = match is_live {
                true => ("kept", "the token of guest@example.com"),
                false if status(&reply) == "miss" => ("miss", BOBS),
                false => ("hit", BOBS),
            };
            assert_eq!((reply.status, status(&reply)), (200, what), "{told}");
            assert_eq!(nginx.world.authorization_of(&to.last()), carried, "{told}");

            // Authentik was asked again, and has seen neither token.
            let sent: Vec<_> = sent.iter().map(|sent| &**sent).collect();
            let asked = nginx.world.outpost.requests();
            assert!(asked.len() >= 2, "{told}");
            for request in asked {
                assert_eq!(request.authorization(), sent, "{told}");
            }
            nginx.world.outpost.forget_requests();
        }
        let reply = nginx.send(way, "nobody", "text/html", Some(BASIC));
        assert_eq!(status(&reply), "no_account", "{way}");
        assert_eq!(nginx.world.authorization_of(&to.last()), "nothing", "{way}");
        nginx.world.outpost.forget_requests();
    }
    // One for each of the two accounts.
    assert_eq!(nginx.world.npm.logins(), 2);
}

#[test]
fn a_refusal_may_have_a_page_of_its_own_which_gets_no_token() {
    let (world, to) = (World::under(satisfy()), Elsewhere::start());
    let npm = world.npm.url();
    let directive = "npm_token_inject accounts.json on_error=deny;";
    let pages = "error_page 403 502 /sorry/;";
    let nginx = world
        .nginx()
        .location("/", &format!("{ASKED}\n{directive}\n{pages}\nproxy_pass {npm};"))
        .location("/sorry/", &format!("proxy_pass {};", to.url()))
        .start();
    world.npm.fault(Fault::Status(500));
    for (user, status) in [("nobody", 403), ("akadmin", 502)] {
        let client = nginx.client();
        let request = client.request("GET", "/echo").cookie(&world.sign_in(user));
        let reply = request.header("Authorization", BASIC).send();
        assert_eq!((reply.status, &*reply.text()), (status, "elsewhere"));
        assert_eq!(to.last().authorization(), [BASIC]);
    }
    assert!(world.npm.requests_to("/echo").is_empty());
}

#[test]
fn what_is_done_after_the_reply_gets_no_token() {
    let (world, after) = (World::under(satisfy()), Elsewhere::start());
    let npm = world.npm.url();
    let nginx = world
        .nginx()
        .location("/", &format!("{ASKED}\n{DIRECTIVE}\npost_action @after;\nproxy_pass {npm};"))
        .location("@after", &format!("proxy_pass {};", after.url()))
        .start();
    let session = world.sign_in("akadmin");
    let client = nginx.client();
    client.request("GET", "/echo").cookie(&session).header("Authorization", BASIC).send();
    assert_eq!(world.carried_to("/echo"), ADMINS);
    eventually(SOON, "what is done after", || after.requests().len() == 1);
    assert_eq!(after.last().authorization(), [BASIC]);
}

#[test]
fn a_request_that_is_answered_before_the_access_checks_gets_no_token() {
    let world = World::under(satisfy());
    let text = "return 200 '<$npm_token_status><$npm_token_authorization>';";
    let nginx = world.nginx().location("/", &format!("{ASKED}\n{DIRECTIVE}\n{text}")).start();
    let reply = nginx.client().request("GET", "/").cookie(&world.sign_in("akadmin")).send();
    assert_eq!(reply.text(), "<none><>");
    assert_eq!(world.npm.logins(), 0);
}

#[test]
fn a_rewritten_request_gets_the_token_of_the_location_where_it_ends() {
    let world = World::under(satisfy());
    let npm = world.npm.url();
    let end = format!("{ASKED}\n{SHOWN}\n{DIRECTIVE}\nproxy_pass {npm};");
    let nginx = world
        .nginx()
        .location("/echo/", &end)
        .location("/break/", &format!("rewrite ^/break/(.*) /echo/$1?b=2 break;\n{end}"))
        .location("/last/", "rewrite ^/last/(.*) /echo/$1 last;")
        .location("/on-last/", &format!("{ASKED}\n{DIRECTIVE}\nrewrite . /echo/x last;"))
        .location("/off/", &format!("rewrite ^ /plain/ last;\n{end}"))
        .location("/plain/", &format!("{SHOWN}\nproxy_pass {npm};"))
        .location("/if/", &format!("if ($arg_x) {{ set $y 1; }}\n{end}"))
        .start();
    let client = nginx.client();
    let session = world.sign_in("akadmin");
    let get = |path: &str| {
        let request = client.request("GET", path).cookie(&session).header("Authorization", BASIC);
        status(&request.send()).to_owned()
    };
    assert_eq!(get("/echo/x"), "miss");
    for (path, ends, what, carried) in [
        ("/break/x?a=1", "/echo/x", "hit", ADMINS),
        ("/last/x", "/echo/x", "hit", ADMINS),
        ("/on-last/x", "/echo/x", "hit", ADMINS),
        ("/off/x", "/plain/", "", BASIC),
        ("/if/?x=1", "/if/", "hit", ADMINS),
        ("/if/", "/if/", "hit", ADMINS),
    ] {
        world.npm.forget_requests();
        assert_eq!(get(path), what, "{path}");
        assert_eq!(world.carried_to(ends), carried, "{path}");
    }
}

/// A `rewrite` makes a request an internal one, but no redirected one.
#[test]
fn a_rewritten_request_gets_its_token_where_no_location_asks_authentik_too() {
    let world = World::under(satisfy());
    let npm = world.npm.url();
    let directive = "npm_token_inject accounts.json user=$http_x_user trust_headers=on;";
    let end = format!("{SHOWN}\n{directive}\nproxy_pass {npm};");
    let nginx = world
        .nginx()
        .server("rewrite ^/server/(.*) /echo/$1;")
        .location("/echo/", &end)
        .location("/break/", &format!("rewrite ^/break/(.*) /echo/$1 break;\n{end}"))
        .location("/last/", "rewrite ^/last/(.*) /echo/$1 last;")
        .start();
    let client = nginx.client();
    for path in ["/echo/x", "/break/x", "/last/x", "/server/x"] {
        client.request("GET", path).header("X-User", "akadmin").send();
        assert_eq!(world.carried_to("/echo/x"), ADMINS, "{path}");
        world.npm.forget_requests();
    }
}

#[test]
fn who_is_not_signed_in_goes_to_authentik_by_a_named_location() {
    let world = World::under(satisfy());
    let nginx = world.host().start();
    let client = nginx.client();
    let own = world.npm.issue_token("guest@example.com", Duration::from_secs(60));
    for request in [client.request("GET", "/a?b=c"), client.request("GET", "/a?b=c").bearer(&own)] {
        let reply = request.send();
        let back = format!("/outpost.goauthentik.io/start?rd={}/a?b=c", nginx.url());
        assert_eq!((reply.status, reply.header("Location")), (302, Some(&*back)));
    }
    assert!(world.npm.requests().is_empty());
}

#[test]
fn every_method_gets_a_token() {
    let world = World::under(satisfy());
    let nginx = world.host().start();
    let client = nginx.client();
    let session = world.sign_in("akadmin");
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"] {
        let reply = client.request(method, "/echo").cookie(&session).send();
        assert_eq!(reply.status, 200, "{method}");
        let arrived = world.last("/echo");
        assert_eq!((&*arrived.method, &*world.authorization_of(&arrived)), (method, ADMINS));
    }
    assert_eq!(world.npm.logins(), 1);
}

#[test]
fn requests_behind_one_that_waits_are_answered_after_it_in_their_order() {
    let world = World::under(satisfy());
    let nginx = world.host().start();
    world.npm.fault(Fault::Hold);
    let mut requests = String::new();
    for (index, user) in ["akadmin", "nobody", "bob", "akadmin"].into_iter().enumerate() {
        let (cookie, end) = (world.sign_in(user).cookie(), if index == 3 { "close" } else { "" });
        requests.push_str(&format!(
            "GET /echo/{index} HTTP/1.1\r\nHost: npm\r\nCookie: {cookie}\r\nConnection: {end}\r\n\r\n"
        ));
    }
    let mut stream = nginx.client().connect().expect("a connection");
    stream.write_all(requests.as_bytes()).expect("an open connection");
    eventually(SOON, "the login", || world.npm.logins() == 1);
    assert!(world.npm.requests_to("/echo/0").is_empty());
    world.npm.clear_fault();
    let mut replies = String::new();
    stream.read_to_string(&mut replies).expect("whole replies");
    assert_eq!(replies.matches("HTTP/1.1 200 OK\r\n").count(), 4);
    let statuses = replies.lines().filter_map(|line| line.strip_prefix("X-Token-Status: "));
    assert_eq!(statuses.collect::<Vec<_>>(), ["miss", "no_account", "miss", "hit"]);
    let carried = [0, 1, 2, 3].map(|index| world.carried_to(&format!("/echo/{index}")));
    assert_eq!(carried, [ADMINS, "nothing", BOBS, ADMINS]);
}

/// nginx whose requests wait for a login that NPM holds. It notes each answer of Authentik's:
/// right after it, in the same turn of its event loop, the request that asked waits.
fn holding(world: &World) -> Builder {
    holding_with(world, &world.accounts())
}

fn holding_with(world: &World, accounts: &str) -> Builder {
    world.npm.fault(Fault::Hold);
    let npm = world.npm.url();
    world
        .nginx_with(accounts)
        .location("= /auth", "log_subrequest on;\naccess_log answers.log;")
        .location("/", &format!("{ASKED}\n{SHOWN}\n{DIRECTIVE}\nproxy_pass {npm};"))
}

fn until_requests_wait(nginx: &Nginx, count: usize) {
    let log = nginx.dir().join("answers.log");
    let answers = || std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    eventually(SOON, "the answers of Authentik", || answers() == count);
}

fn until_clients_have_left(nginx: &Nginx, count: usize) {
    let left = || nginx.access_log().matches(" 499 ").count();
    eventually(SOON, "the ends of their requests", || left() == count);
}

fn send_request(world: &World, nginx: &Nginx) -> Box<dyn testbed::server::Stream> {
    let cookie = world.sign_in("akadmin").cookie();
    let request = format!("GET /echo HTTP/1.1\r\nHost: npm\r\nCookie: {cookie}\r\n\r\n");
    let mut stream = nginx.client().connect().expect("a connection");
    stream.write_all(request.as_bytes()).expect("an open connection");
    stream
}

fn logs_no_error(nginx: &Nginx) {
    for level in ["[error]", "[crit]", "[alert]", "[emerg]"] {
        assert_eq!(nginx.log_lines(level), [""; 0]);
    }
}

#[test]
fn a_client_that_leaves_while_it_waits_is_forgotten_and_others_get_the_token() {
    let world = World::under(satisfy());
    let nginx = holding(&world).start();
    // The one that began the login, one that waits for it as well, and one that stays.
    let begins = send_request(&world, &nginx);
    until_requests_wait(&nginx, 1);
    let waits = send_request(&world, &nginx);
    until_requests_wait(&nginx, 2);
    let mut stays = send_request(&world, &nginx);
    until_requests_wait(&nginx, 3);
    drop(begins);
    until_clients_have_left(&nginx, 1);
    drop(waits);
    until_clients_have_left(&nginx, 2);

    world.npm.clear_fault();
    let mut start = [0; 15];
    stays.read_exact(&mut start).expect("a reply");
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    assert_eq!(world.carried_to("/echo"), ADMINS);
    assert_eq!((world.npm.requests_to("/echo").len(), world.npm.logins()), (1, 1));
    logs_no_error(&nginx);
}

#[test]
fn a_login_that_nobody_waits_for_any_more_serves_the_next() {
    let world = World::under(satisfy());
    let nginx = holding(&world).start();
    let leaves = send_request(&world, &nginx);
    until_requests_wait(&nginx, 1);
    drop(leaves);
    until_clients_have_left(&nginx, 1);
    world.npm.clear_fault();
    nginx.wait_for_log("npm_token_inject: signed in", SOON);
    let reply = nginx.client().request("GET", "/echo").cookie(&world.sign_in("akadmin")).send();
    assert_eq!(status(&reply), "hit");
    assert_eq!((world.npm.requests_to("/echo").len(), world.npm.logins()), (1, 1));
    logs_no_error(&nginx);
}

/// Sends fifty requests by one connection, which wait for a login.
fn send_fifty_streams(world: &World, nginx: &Nginx) -> (Connection, Vec<Stream>) {
    let cookie = world.sign_in("akadmin").cookie();
    let mut connection = Connection::open(nginx.port());
    let get = |n| connection.get(&format!("/echo/{n}"), &[("cookie", &*cookie)]);
    let streams = (0..50).map(get).collect();
    until_requests_wait(nginx, 50);
    (connection, streams)
}

#[test]
fn of_many_streams_that_wait_those_that_are_reset_are_forgotten() {
    let world = World::under(satisfy());
    let nginx = holding(&world).listen("http2").start();
    let (mut connection, mut streams) = send_fifty_streams(&world, &nginx);
    for index in [49, 7, 0] {
        connection.reset(streams.remove(index));
    }
    until_clients_have_left(&nginx, 3);
    world.npm.clear_fault();
    let bodies = connection.bodies(&streams);
    assert_eq!(bodies.len(), 47);
    for body in bodies.values() {
        assert!(body.contains("\"Authorization\",\"Bearer ey"), "{body}");
    }
    let requests = world.npm.requests().into_iter();
    let arrived: Vec<Request> = requests.filter(|r| r.path.starts_with("/echo/")).collect();
    assert_eq!((arrived.len(), world.npm.logins()), (47, 1));
    for request in arrived {
        assert!(!["/echo/0", "/echo/7", "/echo/49"].contains(&&*request.path));
        assert_eq!(world.authorization_of(&request), ADMINS);
    }
    logs_no_error(&nginx);
}

#[test]
fn a_connection_that_ends_takes_all_its_waiting_streams_along() {
    let world = World::under(satisfy());
    let nginx = holding(&world).listen("http2").start();
    let (connection, _) = send_fifty_streams(&world, &nginx);
    let cookie = world.sign_in("akadmin").cookie();
    let mut another = Connection::open(nginx.port());
    let stays = another.get("/echo", &[("cookie", &*cookie)]);
    until_requests_wait(&nginx, 51);
    drop(connection);
    until_clients_have_left(&nginx, 50);
    world.npm.clear_fault();
    assert_eq!(another.bodies(&[stays]).len(), 1);
    assert_eq!(world.carried_to("/echo"), ADMINS);
    assert_eq!(world.npm.logins(), 1);
    logs_no_error(&nginx);
}

#[test]
fn streams_that_end_just_as_their_login_does_do_no_harm() {
    let mut npm = Npm::builder().login_time(Duration::ZERO);
    let users: Vec<String> = (0..20).map(|n| format!("user{n}@example.com")).collect();
    for user in &users {
        npm = npm.user(user, "secret");
    }
    let world = World { npm: npm.start(), ..World::under(satisfy()) };
    let account = |user: &String| json!({"user": user, "identity": user, "secret": "secret"});
    let accounts: Value = users.iter().map(account).collect();
    let accounts = json!({"api": world.npm.url(), "accounts": accounts}).to_string();
    let nginx = holding_with(&world, &accounts).listen("http2").start();

    let mut connections = Vec::new();
    for (index, user) in users.iter().enumerate() {
        world.npm.fault(Fault::Hold);
        let cookie = world.sign_in(user).cookie();
        let mut connection = Connection::open(nginx.port());
        for n in 0..10 {
            connection.get(&format!("/echo/{n}"), &[("cookie", &*cookie)]);
        }
        until_requests_wait(&nginx, (index + 1) * 10);
        eventually(SOON, "the login", || world.npm.logins() == index + 1);
        // At times the login is the first to end, at times the connection.
        if index % 2 == 0 {
            world.npm.clear_fault();
            drop(connection);
        } else {
            drop(connection);
            world.npm.clear_fault();
        }
        eventually(SOON, "its end", || nginx.log_lines(SIGNED_IN).len() == index + 1);
        connections.push(cookie);
    }
    for cookie in connections {
        let mut connection = Connection::open(nginx.port());
        let stream = connection.get("/echo", &[("cookie", &*cookie)]);
        let bodies = connection.bodies(&[stream]);
        assert!(bodies[&stream].contains("\"Authorization\",\"Bearer ey"));
    }
    assert_eq!(world.npm.logins(), users.len());
}

#[test]
fn the_directive_acts_in_the_access_phase_unless_one_check_is_enough_there() {
    let world = World::under(satisfy());
    world.npm.fault(Fault::Hold);
    let nginx = world.host().start();
    let client = nginx.client();
    let request = client.request("GET", "/echo").cookie(&world.sign_in("akadmin"));
    std::thread::scope(|scope| {
        let reply = scope.spawn(|| request.send());
        eventually(SOON, "a login", || !world.npm.requests_to("/api/tokens").is_empty());
        let log = nginx.error_log();
        let last = log.lines().rfind(|line| line.contains(" phase: "));
        world.npm.clear_fault();
        assert_eq!(status(&reply.join().expect("a reply")), "miss");
        let expected = if satisfy() == "all" { "access phase: " } else { "generic phase: " };
        // An nginx without that log does not say where it is.
        let holds = last.is_some_and(|line| line.contains(expected));
        assert!(holds || !has_debug_log(), "{last:?}");
    });
}

/// Accounts at this NPM, which is another one: `akadmin` is bob there.
fn others(world: &World, api: &str) -> String {
    let account = json!({"user": "akadmin", "identity": "bob@example.com",
                         "secret": world.npm.secret("bob@example.com")});
    json!({"api": api, "accounts": [account]}).to_string()
}

#[test]
fn a_mirror_to_another_npm_never_sees_the_token_nor_what_the_client_sent() {
    let (world, other) = (World::under(satisfy()), Elsewhere::start());
    let npm = world.npm.url();
    let other_url = other.url();
    let nginx = world
        .nginx()
        .file_with_mode("others.json", others(&world, &other_url), 0o600)
        .location("/", &format!("{ASKED}\n{DIRECTIVE}\nmirror /mirror;\nproxy_pass {npm};"))
        .location("/plain/", &format!("{ASKED}\nmirror /mirror;\nproxy_pass {npm};"))
        .location(
            "= /mirror",
            &format!("internal;\nnpm_token_inject others.json;\nproxy_pass {other_url};"),
        )
        .start();
    let client = nginx.client();
    let session = world.sign_in("akadmin");
    let own = world.npm.issue_token("guest@example.com", Duration::from_secs(3600));
    let own = format!("Bearer {own}");
    for (path, sent) in [
        ("/echo", None),
        ("/echo", Some(BASIC)),
        ("/echo", Some(&*own)),
        ("/plain/echo", None),
        ("/plain/echo", Some(BASIC)),
        ("/plain/echo", Some(&*own)),
    ] {
        let seen = other.requests().len();
        let request = client.request("GET", path).cookie(&session);
        sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent)).send();
        eventually(SOON, "the mirror", || other.requests().len() == seen + 1);
        assert_eq!(other.last().authorization(), [""; 0], "{path} {sent:?}");
        let kept = sent == Some(&*own) || path == "/plain/echo";
        let arrived = world.last(path);
        match kept {
            true => assert_eq!(arrived.authorization(), Vec::from_iter(sent), "{path} {sent:?}"),
            false => assert_eq!(world.authorization_of(&arrived), ADMINS),
        }
        // The question to Authentik goes as the client sent it.
        let asked = world.outpost.requests().pop().expect("a question");
        assert_eq!(asked.authorization(), Vec::from_iter(sent), "{path} {sent:?}");
    }
    // Who is nobody to Authentik is left alone.
    let seen = other.requests().len();
    client.request("GET", "/open/echo").header("Authorization", BASIC).send();
    eventually(SOON, "the mirror", || other.requests().len() == seen + 1);
    assert_eq!(other.last().authorization(), [BASIC]);
}

#[test]
fn parts_of_parts_get_the_token_of_the_same_directive_and_of_no_other() {
    let (world, other) = (World::under(satisfy()), Elsewhere::start());
    let include = |path: &str| format!("<!--# include virtual=\"{path}\" -->");
    let pages = (include("/other/page"), include("/npm/below"));
    let npm = Elsewhere::answering(move |request| match &*request.path {
        "/" => Response::html(200, &pages.0),
        "/other/page" => Response::html(200, &pages.1),
        _ => Response::html(200, "part"),
    });
    let pass = format!("proxy_pass {};", npm.url());
    let copy = "proxy_set_header X-Copy $npm_token_authorization;
                proxy_set_header X-Copied-Identity $npm_token_identity;
                proxy_set_header X-Copied-Status $npm_token_status;";
    let nginx = world
        .nginx()
        .server(&format!("npm_token_inject accounts.json browser=off;\n{copy}\nssi on;"))
        .location("= /", &format!("{ASKED}\n{pass}"))
        .location("/npm/", &pass)
        .location("/other/", &format!("npm_token_inject off;\n{pass}\nmirror /mirror;"))
        .location("= /mirror", &format!("npm_token_inject off;\nproxy_pass {};", other.url()))
        .start();
    let client = nginx.client();
    let session = world.sign_in("akadmin");
    for (count, sent) in [None, Some(BASIC)].into_iter().enumerate() {
        let request = client.request("GET", "/").cookie(&session);
        let request = sent.into_iter().fold(request, |r, sent| r.header("Authorization", sent));
        assert_eq!(request.send().text(), "part");
        let seen = npm.requests();
        let last = &seen[seen.len() - 3..];
        let paths: Vec<_> = last.iter().map(|request| &*request.path).collect();
        assert_eq!(paths, ["/", "/other/page", "/npm/below"]);
        for request in [&last[0], &last[2]] {
            assert_eq!(world.authorization_of(request), ADMINS);
            assert_eq!(request.headers.all("X-Copy"), request.authorization());
            assert_eq!(request.header("X-Copied-Identity"), Some("admin@example.com"));
        }
        assert_eq!(last[1].authorization(), Vec::from_iter(sent));
        for name in ["X-Copy", "X-Copied-Identity", "X-Copied-Status"] {
            assert_eq!(last[1].headers.all(name), [""; 0], "{name}");
        }
        assert_eq!(npm.requests().len(), 3 * (count + 1));
    }
    assert!(other.requests().is_empty(), "nginx mirrors no subrequest");
}

#[test]
fn the_variables_are_empty_in_a_mirror_without_the_directive() {
    let (world, mirror) = (World::under(satisfy()), Elsewhere::start());
    let copy = "proxy_set_header Authorization $npm_token_authorization;
                proxy_set_header X-Identity $npm_token_identity;
                proxy_set_header X-Status $npm_token_status;";
    let nginx = mirrored(&world, &mirror).server(copy).start();
    let client = nginx.client();
    let request = client.request("GET", "/echo").cookie(&world.sign_in("akadmin"));
    request.header("Authorization", BASIC).send();
    assert_eq!(world.carried_to("/echo"), ADMINS);
    assert_eq!(world.last("/echo").header("X-Status"), Some("miss"));
    eventually(SOON, "the mirror", || mirror.requests().len() == 1);
    for name in ["Authorization", "X-Identity", "X-Status"] {
        assert_eq!(mirror.last().headers.all(name), [""; 0], "{name}");
    }
}

/// An Authentik that names the user whatever it answers, which the request's `X-Case` says.
fn naming_authentik() -> Elsewhere {
    Elsewhere::answering(|request| {
        let status = request.header("X-Case").and_then(|s| s.parse().ok()).unwrap_or(200);
        Response::new(status).header("X-authentik-username", "akadmin")
    })
}

#[test]
fn an_error_page_of_a_denied_request_gets_no_token_though_authentik_names_the_user() {
    let (world, authentik) = (World::under(satisfy()), naming_authentik());
    let to = Elsewhere::answering(|request| match request.header("X-Again") {
        Some("1") => Response::new(404),
        _ => Response::new(200),
    });
    let lacks = Elsewhere::answering(|_| Response::new(404));
    let (npm, to_url) = (lacks.url(), to.url());
    let pages = |page: &str| format!("error_page 401 403 404 500 502 = {page};");
    let nginx = Nginx::builder()
        .http(&format!("satisfy {};", satisfy()))
        .accounts(&world.accounts())
        .server(&format!("{DIRECTIVE}\n{SHOWN}\nrecursive_error_pages on;"))
        .server("proxy_intercept_errors on;")
        .location("= /auth", &format!("npm_token_inject off;\nproxy_pass {};", authentik.url()))
        .location("/named/", &format!("{ASKED}\n{}\nproxy_pass {npm};", pages("@x")))
        .location("/path/", &format!("{ASKED}\n{}\nproxy_pass {npm};", pages("/x/")))
        .location("/rewritten/", &format!("{ASKED}\n{}\nproxy_pass {npm};", pages("/last/")))
        .location("/asks/", &format!("{ASKED}\n{}\nproxy_pass {npm};", pages("/asked/")))
        .location("/last/", "rewrite ^ /x/ last;")
        .location("@x", &format!("proxy_pass {to_url};"))
        // From where the request is sent on once more, its denial behind it.
        .location("/x/", &format!("error_page 404 = @again;\nproxy_pass {to_url};"))
        .location("@again", &format!("proxy_set_header X-Again '';\nproxy_pass {to_url};"))
        .location("/asked/", &format!("{ASKED}\n{}\nproxy_pass {to_url};", pages("@x")))
        .start();
    let client = nginx.client();
    let send = |path: &str, case: &str, again: &str| {
        let seen = to.requests().len();
        let request = client.request("GET", path).header("X-Case", case);
        let reply = request.header("X-Again", again).header("Authorization", BASIC).send();
        assert!(to.requests().len() > seen, "{path} {case}: {reply:?}");
        (reply.status, status(&reply).to_owned(), world.authorization_of(&to.last()))
    };
    for path in ["/named/", "/path/", "/rewritten/", "/asks/"] {
        for case in ["401", "403", "500"] {
            let expected = (200, "none".to_owned(), BASIC.to_owned());
            assert_eq!(send(path, case, ""), expected, "{path} {case}");
            if ["/path/", "/rewritten/"].contains(&path) {
                assert_eq!(send(path, case, "1"), expected, "{path} {case}, sent on");
            }
        }
    }
    assert_eq!(world.npm.logins(), 0);
    // A page that there is not, of a request that was let in, is another thing.
    for path in ["/named/no", "/path/no", "/rewritten/no", "/asks/no"] {
        let (code, _, carried) = send(path, "200", "");
        assert_eq!((code, &*carried), (200, ADMINS), "{path}");
    }
    assert_eq!(send("/path/no", "200", "1").2, ADMINS);
}

#[test]
fn an_error_page_of_a_user_without_an_account_gets_no_token_of_anybodys() {
    let (world, to) = (World::under(satisfy()), Elsewhere::start());
    let npm = world.npm.url();
    let all = json!({"api": npm, "accounts": [{"user": "*", "identity": "guest@example.com",
                     "secret": world.npm.secret("guest@example.com")}]});
    let nginx = world
        .nginx()
        .file_with_mode("all.json", all.to_string(), 0o600)
        .server("npm_token_inject all.json;")
        .location("/", &format!("{ASKED}\nnpm_token_inject accounts.json on_error=deny;"))
        .location("/", &format!("error_page 403 = @sorry;\nproxy_pass {npm};"))
        .location("@sorry", &format!("proxy_pass {};", to.url()))
        .start();
    let client = nginx.client();
    let request = client.request("GET", "/echo").cookie(&world.sign_in("nobody"));
    request.header("Authorization", BASIC).send();
    assert_eq!(to.last().authorization(), [BASIC]);
}

#[test]
fn what_is_done_after_a_client_has_left_that_waited_is_done_once() {
    let world = World::under(satisfy());
    let over = Arc::new((Mutex::new(false), Condvar::new()));
    let waits = over.clone();
    let after = Elsewhere::answering(move |_| {
        let over = waits.0.lock().expect("no panic");
        drop(waits.1.wait_while(over, |over| !*over));
        Response::new(200)
    });
    let nginx = holding(&world)
        .location("/", "post_action @after;")
        .location("@after", &format!("proxy_pass {};", after.url()))
        .start();
    let leaves = send_request(&world, &nginx);
    until_requests_wait(&nginx, 1);
    drop(leaves);
    eventually(SOON, "what is done after", || after.requests().len() == 1);
    // The login ends while that is under way.
    world.npm.clear_fault();
    nginx.wait_for_log("npm_token_inject: signed in", SOON);
    let client = nginx.client();
    let request = client.request("GET", "/echo").cookie(&world.sign_in("akadmin"));
    std::thread::scope(|scope| {
        let reply = scope.spawn(|| request.send());
        eventually(SOON, "a request", || world.npm.requests_to("/echo").len() == 1);
        *over.0.lock().expect("no panic") = true;
        over.1.notify_all();
        assert_eq!(status(&reply.join().expect("a reply")), "hit");
    });
    eventually(SOON, "both to be done", || after.requests().len() == 2);
    assert_eq!(world.npm.requests_to("/echo").len(), 1);
    logs_no_error(&nginx);
}
