//! No other site acts with a user's session: what it starts goes to NPM without a token.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use testbed::{Client, Nginx, Reply, Session, Tls};

use crate::page::{navigation, scripts_in, with, Watched};
use crate::{status, World, ASKED, SHOWN};

const ADMINS: &str = "the token of admin@example.com";
const GUESTS: &str = "the token of guest@example.com";
const NOTHING: &str = "nothing";

/// NPM's site, by http or https, and who has signed in there.
struct Site {
    world: World,
    nginx: Watched,
    tls: Option<Arc<Tls>>,
    session: Session,
    live: String,
}

impl Site {
    fn start(https: bool) -> Self {
        Self::with(https, "", "npm_token_inject accounts.json;")
    }

    fn with(https: bool, listen: &str, directive: &str) -> Self {
        let world = World::new();
        let tls = https.then(|| Arc::new(Tls::localhost()));
        let host = world.host().listen(listen).directive(directive);
        let host = tls.iter().fold(host, |host, tls| host.tls(tls).file("ca.crt", tls.ca_pem()));
        let nginx = Watched::start(host);
        let session = world.sign_in("akadmin");
        let live = world.npm.issue_token("guest@example.com", Duration::from_secs(60));
        Self { world, nginx, tls, session, live }
    }

    /// What a client may carry, and what NPM gets of it from NPM's own page.
    fn carried(&self) -> [(Option<String>, &'static str, &'static str); 5] {
        [
            (None, "hit", ADMINS),
            (Some("Basic dmlzaXRvcjpwYXNzd29yZA==".to_owned()), "hit", ADMINS),
            (Some("Bearer garbage".to_owned()), "hit", ADMINS),
            (Some(String::new()), "hit", ADMINS),
            (Some(format!("Bearer {}", self.live)), "kept", GUESTS),
        ]
    }

    /// Sends it with whatever a client may carry, and says whether it was another site's.
    #[track_caller]
    fn is_cross_site(&self, method: &str, headers: &[(&str, &str)]) -> bool {
        let client = self.nginx.client();
        let mut is_cross_site = None;
        for (sent, own_status, own) in self.carried() {
            let request = with(client.request(method, "/echo").cookie(&self.session), headers);
            let request = sent.iter().fold(request, |r, sent| r.header("Authorization", sent));
            let reply = if method == "POST" { request.body("x").send() } else { request.send() };
            assert_eq!(reply.status, 200, "{reply:?}");
            let carried = self.world.carried_to("/echo");
            let this = match status(&reply) {
                "cross_site" => {
                    assert_eq!(carried, NOTHING, "{method} {headers:?} {sent:?}");
                    assert_eq!(reply.header("X-Token-Identity"), None);
                    true
                }
                what => {
                    let own_status = if what == "miss" { "miss" } else { own_status };
                    assert_eq!((what, &*carried), (own_status, own), "{method} {headers:?}");
                    false
                }
            };
            assert_eq!(*is_cross_site.get_or_insert(this), this, "{method} {headers:?} {sent:?}");
        }
        is_cross_site.expect("something was sent")
    }

    /// `http://127.0.0.1:PORT`, without the port.
    fn scheme_and_name(&self) -> (String, String) {
        let url = self.nginx.url();
        let (scheme, rest) = url.split_once("://").expect("a URL");
        (scheme.to_owned(), rest.split(':').next().unwrap_or_default().to_owned())
    }
}

fn fetch<'a>(site: &'a str, mode: &'a str, dest: &'a str) -> [(&'static str, &'a str); 3] {
    [("Sec-Fetch-Site", site), ("Sec-Fetch-Mode", mode), ("Sec-Fetch-Dest", dest)]
}

#[test]
fn the_browsers_word_decides_on_http_and_https() {
    for https in [false, true] {
        let site = Site::start(https);
        for (headers, methods) in [
            (fetch("same-origin", "cors", "empty"), &["GET", "POST", "PUT", "DELETE"][..]),
            (fetch("same-origin", "navigate", "document"), &["GET", "POST"]),
            (fetch("same-origin", "no-cors", "image"), &["GET"]),
            (fetch("none", "navigate", "document"), &["GET", "HEAD", "POST"]),
            // A link, and a redirect from Authentik.
            (fetch("cross-site", "navigate", "document"), &["GET", "HEAD"]),
            (fetch("same-site", "navigate", "document"), &["GET", "HEAD"]),
        ] {
            for method in methods {
                assert!(!site.is_cross_site(method, &headers), "{method} {headers:?}");
            }
        }
        for other in ["cross-site", "same-site"] {
            for (mode, dest) in [
                ("navigate", "iframe"),
                ("navigate", "frame"),
                ("navigate", "embed"),
                ("navigate", "object"),
                ("navigate", "empty"),
                ("no-cors", "image"),
                ("no-cors", "script"),
                ("no-cors", "style"),
                ("no-cors", "document"),
                ("no-cors", "empty"),
                ("cors", "empty"),
                ("cors", "script"),
                ("websocket", "websocket"),
                ("", ""),
            ] {
                let headers = fetch(other, mode, dest);
                assert!(site.is_cross_site("GET", &headers), "{headers:?}");
            }
            for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
                let headers = fetch(other, "navigate", "document");
                assert!(site.is_cross_site(method, &headers), "{method} {other}");
            }
            assert!(site.is_cross_site("GET", &[("Sec-Fetch-Site", other)]));
            assert!(site.is_cross_site("POST", &[("sec-fetch-site", other)]));
        }
        for unknown in ["", "same-origin, cross-site", "SAME-ORIGIN", "something-new", "null"] {
            assert!(site.is_cross_site("GET", &fetch(unknown, "cors", "empty")), "{unknown}");
            assert!(site.is_cross_site("POST", &[("Sec-Fetch-Site", unknown)]), "{unknown}");
        }
        // Whatever the origin says.
        let own = site.nginx.url();
        for method in ["GET", "POST"] {
            assert!(
                site.is_cross_site(method, &[("Sec-Fetch-Site", "cross-site"), ("Origin", &own)])
            );
            let page = [("Sec-Fetch-Site", "same-origin"), ("Origin", &*own)];
            assert!(!site.is_cross_site(method, &page));
        }
    }
}

/// A certificate's key, for one, would come as a file.
#[test]
fn a_link_of_another_sites_leads_to_no_answer_of_the_api() {
    for https in [false, true] {
        let site = Site::start(https);
        let client = site.nginx.client();
        let go = |method: &str, path: &str, from: &str| {
            let request = client.request(method, path).cookie(&site.session);
            let request = with(request, &fetch(from, "navigate", "document"));
            let reply = request.header("Accept", "text/html,*/*;q=0.8").send();
            (status(&reply).to_owned(), reply)
        };
        assert_eq!(go("GET", "/api/users", "none").0, "miss");
        for path in [
            "/api/nginx/certificates/1/download",
            "/api/users",
            "/api/",
            "//api/users",
            "/api//users",
            "/API/users",
            "/%61pi/users",
            "/api/tokens",
        ] {
            for method in ["GET", "HEAD"] {
                for from in ["cross-site", "same-site"] {
                    site.world.npm.forget_requests();
                    let (what, reply) = go(method, path, from);
                    assert_eq!(what, "cross_site", "{method} {path} {from}");
                    assert!(!reply.text().contains("npm-token-inject"), "{reply:?}");
                    // Beside the module's own question whether a token is still good: the request
                    // before this one was answered with an error.
                    let mut requests = site.world.npm.requests();
                    requests.retain(|request| request.path != "/api/users/me");
                    assert_eq!(requests.len(), 1, "{method} {path} {from}");
                    assert!(requests[0].authorization().is_empty());
                }
                for from in ["same-origin", "none"] {
                    assert_eq!(go(method, path, from).0, "hit", "{method} {path} {from}");
                }
            }
        }
        for path in ["/", "/login", "/nginx/proxy", "/apis"] {
            assert_eq!(go("GET", path, "cross-site").0, "hit", "{path}");
        }
    }
}

#[test]
fn a_write_of_another_origin_gets_no_token_whatever_the_browsers_word() {
    for https in [false, true] {
        let site = Site::start(https);
        let own = site.nginx.url();
        let (_, authority) = own.split_once("://").expect("a URL");
        // TLS may end at a proxy before nginx.
        for own in [format!("http://{authority}"), format!("https://{authority}")] {
            for from in ["same-origin", "none"] {
                let headers = [("Sec-Fetch-Site", from), ("Origin", &*own)];
                assert!(!site.is_cross_site("POST", &headers), "{headers:?}");
            }
        }
        let evil = format!("{own}.evil.example");
        for origin in ["https://evil.example", "http://evil.example", "null", "", &*evil] {
            for from in ["same-origin", "none", "same-site", "cross-site"] {
                let headers = [("Sec-Fetch-Site", from), ("Origin", origin)];
                for method in ["POST", "PUT", "DELETE", "PATCH"] {
                    assert!(site.is_cross_site(method, &headers), "{method} {headers:?}");
                }
            }
        }
    }
}

#[test]
fn without_the_browsers_word_the_origin_is_compared_with_the_host() {
    for https in [false, true] {
        let site = Site::start(https);
        let (scheme, name) = site.scheme_and_name();
        let (other_scheme, port, other_port) =
            if https { ("http", "443", "80") } else { ("https", "80", "443") };
        let own = site.nginx.url();
        let authority = own.rsplit('/').next().unwrap_or_default();
        assert!(!site.is_cross_site("POST", &[("Origin", &own)]));
        assert!(!site.is_cross_site("POST", &[("ORIGIN", &own.to_uppercase())]));
        assert!(!site.is_cross_site("GET", &[("Origin", &own)]));
        for (origin, host) in [
            (format!("{scheme}://npm.example.com"), "npm.example.com".to_owned()),
            (format!("{scheme}://npm.example.com"), format!("NPM.example.COM:{port}")),
            (format!("{scheme}://Npm.Example.com:{port}"), "npm.example.com".to_owned()),
            (format!("{scheme}://npm.example.com:8181"), "npm.example.com:8181".to_owned()),
            (format!("{scheme}://[::1]"), format!("[::1]:{port}")),
            (format!("{scheme}://[::1]:8181"), "[::1]:8181".to_owned()),
            (format!("{scheme}://[2001:DB8::1]"), "[2001:db8::1]".to_owned()),
        ] {
            for method in ["POST", "GET", "DELETE"] {
                let headers = [("Origin", &*origin), ("Host", &*host)];
                assert!(!site.is_cross_site(method, &headers), "{method} {origin} {host}");
            }
        }
        for (origin, host) in [
            ("null".to_owned(), "npm.example.com".to_owned()),
            ("null".to_owned(), "null".to_owned()),
            (String::new(), "npm.example.com".to_owned()),
            ("garbage".to_owned(), "garbage".to_owned()),
            ("*".to_owned(), "npm.example.com".to_owned()),
            ("npm.example.com".to_owned(), "npm.example.com".to_owned()),
            (format!("{scheme}://"), "npm.example.com".to_owned()),
            (format!("{other_scheme}://npm.example.com"), "npm.example.com".to_owned()),
            (format!("{other_scheme}://{authority}"), authority.to_owned()),
            (format!("{scheme}://npm.example.com:8443"), "npm.example.com".to_owned()),
            (format!("{scheme}://npm.example.com"), "npm.example.com:8443".to_owned()),
            (format!("{scheme}://npm.example.com:{other_port}"), "npm.example.com".to_owned()),
            (format!("{scheme}://{name}"), authority.to_owned()),
            (format!("{scheme}://{name}:1"), authority.to_owned()),
            (format!("{scheme}://example.com"), "npm.example.com".to_owned()),
            (format!("{scheme}://evil.npm.example.com"), "npm.example.com".to_owned()),
            (format!("{scheme}://npm.example.com.evil.org"), "npm.example.com".to_owned()),
            (format!("{scheme}://npm.example.com@evil.org"), "npm.example.com".to_owned()),
            (format!("{scheme}://evil.org/npm.example.com"), "npm.example.com".to_owned()),
            (
                format!("{scheme}://npm.example.com, {scheme}://evil.org"),
                "npm.example.com".to_owned(),
            ),
            (
                format!("{scheme}://npm.example.com {scheme}://evil.org"),
                "npm.example.com".to_owned(),
            ),
            (format!("{scheme}://[::1]:8181"), "[::1]".to_owned()),
            (format!("{scheme}://[::2]"), "[::1]".to_owned()),
        ] {
            for method in ["POST", "GET", "DELETE"] {
                let headers = [("Origin", &*origin), ("Host", &*host)];
                assert!(site.is_cross_site(method, &headers), "{method} {origin} {host}");
            }
        }
    }
}

/// No browser sends several, and a page cannot.
#[test]
fn of_several_origins_each_has_to_be_the_own() {
    let site = Site::start(false);
    let own = site.nginx.url();
    let evil = "http://evil.example";
    assert!(site.is_cross_site("POST", &[("Origin", evil), ("Origin", &own)]));
    assert!(site.is_cross_site("POST", &[("Origin", &own), ("Origin", evil)]));
    let sites = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Site", "same-origin")];
    assert!(site.is_cross_site("POST", &sites));
    assert!(site.is_cross_site("POST", &[sites[1], sites[0]]));
}

#[test]
fn programs_that_say_nothing_of_a_site_work() {
    for https in [false, true] {
        let site = Site::start(https);
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"] {
            assert!(!site.is_cross_site(method, &[]), "{method}");
            assert!(!site.is_cross_site(method, &[("Referer", "https://evil.example/")]));
            assert!(!site.is_cross_site(method, &[("Accept", "*/*"), ("User-Agent", "curl/8")]));
        }
    }
}

/// Sends a request by HTTP/2. What NPM got, and the status of its token.
fn http2(site: &Site, arguments: &[&str]) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["-sSi", "-H", &format!("Cookie: {}", site.session.cookie())]);
    match site.tls {
        None => curl.arg("--http2-prior-knowledge"),
        Some(_) => curl.arg("--http2").arg("--cacert").arg(site.nginx.dir().join("ca.crt")),
    };
    let url = format!("{}/echo", site.nginx.url());
    let output = curl.args(arguments).arg(&url).output().expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.starts_with("HTTP/2 200"), "{output:?}");
    let status = text.lines().find_map(|line| line.strip_prefix("x-token-status: "));
    (status.unwrap_or_default().trim().to_owned(), site.world.carried_to("/echo"))
}

#[test]
fn http_2_names_its_host_in_another_way() {
    for https in [false, true] {
        let site = Site::with(https, "http2", "npm_token_inject accounts.json;");
        let scheme = site.scheme_and_name().0;
        let own = format!("Origin: {}", site.nginx.url());
        assert_eq!(http2(&site, &["-H", &own]).1, ADMINS);
        assert_eq!(http2(&site, &["-H", &own, "-d", "x"]), ("hit".to_owned(), ADMINS.to_owned()));
        assert_eq!(http2(&site, &[]), ("hit".to_owned(), ADMINS.to_owned()));
        let cross = ("cross_site".to_owned(), NOTHING.to_owned());
        let basic = "Authorization: Basic dmlzaXRvcjpwYXNzd29yZA==";
        let live = format!("Authorization: Bearer {}", site.live);
        for origin in [
            format!("{scheme}://evil.example"),
            "null".to_owned(),
            format!("{scheme}://localhost"),
            format!("{scheme}://127.0.0.1"),
        ] {
            let origin = format!("Origin: {origin}");
            for carried in [basic, &live] {
                assert_eq!(http2(&site, &["-H", &origin, "-d", "x", "-H", carried]), cross);
            }
        }
        // curl makes an :authority of it.
        let host = "Host: npm.example.com";
        let origin = format!("Origin: {scheme}://npm.example.com");
        assert_eq!(http2(&site, &["-H", host, "-H", &origin]).1, ADMINS);
        assert_eq!(http2(&site, &["-H", host, "-H", &own]), cross);
        let fetch = ["-H", "Sec-Fetch-Site: same-site", "-H", "Sec-Fetch-Mode: cors"];
        assert_eq!(http2(&site, &fetch), cross);
    }
}

#[test]
fn a_preflight_gets_no_token() {
    let site = Site::start(false);
    let client = site.nginx.client();
    for session in [None, Some(&site.session)] {
        site.world.npm.forget_requests();
        let request = client.request("OPTIONS", "/api/users");
        let request = session.into_iter().fold(request, |r, session| r.cookie(session));
        let reply = with(request, &fetch("cross-site", "cors", "empty"))
            .header("Origin", "https://evil.example")
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,content-type")
            .send();
        match session {
            // A browser sends no cookies along.
            None => assert!(site.world.npm.requests().is_empty() && reply.status == 401),
            Some(_) => {
                assert_eq!((reply.status, status(&reply)), (204, "cross_site"));
                assert_eq!(site.world.carried_to("/api/users"), NOTHING);
            }
        }
    }
}

/// A user as other sites would like to make one, in all that a form can send, and what NPM makes
/// of it with a token.
const FORMS: [(&str, &str, u16); 4] = [
    (
        "application/x-www-form-urlencoded",
        "name=Eve&nickname=eve&email=eve%40evil.example&roles%5B%5D=admin",
        201,
    ),
    (
        "multipart/form-data; boundary=x",
        "--x\r\nContent-Disposition: form-data; name=\"email\"\r\n\r\neve@evil.example\r\n--x--\r\n",
        400,
    ),
    ("text/plain", r#"{"name":"Eve","nickname":"eve","email":"eve@evil.example","roles":["admin"]}"#, 400),
    (
        "application/json",
        r#"{"name":"Eve","nickname":"eve","email":"eve@evil.example","roles":["admin"]}"#,
        201,
    ),
];

fn is_user(world: &World, email: &str) -> bool {
    let token = world.npm.issue_token("admin@example.com", Duration::from_secs(60));
    let users = Client::new(&world.npm.url()).request("GET", "/api/users").bearer(&token).send();
    users.json().as_array().expect("a list").iter().any(|user| user["email"] == email)
}

#[test]
fn no_form_of_another_site_makes_an_administrator() {
    for https in [false, true] {
        for (kind, body, with_token) in FORMS {
            let site = Site::start(https);
            let client = site.nginx.client();
            let scheme = site.scheme_and_name().0;
            let own = site.nginx.url();
            let post = |headers: &[(&str, &str)]| -> Reply {
                let request = client.request("POST", "/api/users").cookie(&site.session);
                with(request, headers).header("Content-Type", kind).body(body).send()
            };
            // There is a token to be had.
            assert!(!site.is_cross_site("GET", &[]));
            let sibling = format!("{scheme}://evil.{}", own.rsplit('/').next().unwrap_or_default());
            for origin in ["https://evil.example", "http://evil.example", "null", &sibling] {
                assert_eq!(status(&post(&[("Origin", origin)])), "cross_site", "{origin}");
                for other in ["cross-site", "same-site"] {
                    for (mode, dest) in [
                        ("navigate", "document"),
                        ("navigate", "iframe"),
                        ("no-cors", "empty"),
                        ("cors", "empty"),
                    ] {
                        let mut headers = fetch(other, mode, dest).to_vec();
                        headers.push(("Origin", origin));
                        headers.push(("Authorization", "Basic YWRtaW46YWRtaW4="));
                        let reply = post(&headers);
                        assert_eq!(status(&reply), "cross_site", "{headers:?}");
                        assert_eq!(site.world.carried_to("/api/users"), NOTHING);
                        assert!(reply.status >= 400, "{reply:?}");
                    }
                }
            }
            assert!(!is_user(&site.world, "eve@evil.example"), "{kind}");

            // The same from NPM's own page.
            let reply = post(&[("Origin", &own)]);
            assert_eq!((reply.status, status(&reply)), (with_token, "hit"), "{kind} {reply:?}");
            assert_eq!(site.world.carried_to("/api/users"), ADMINS);
            assert_eq!(is_user(&site.world, "eve@evil.example"), with_token == 201, "{kind}");
        }
    }
}

#[test]
fn what_another_sites_page_loads_gets_no_token() {
    let site = Site::start(true);
    let client = site.nginx.client();
    for (mode, dest) in [
        ("no-cors", "image"),
        ("no-cors", "script"),
        ("no-cors", "style"),
        ("cors", "font"),
        ("cors", "empty"),
        ("navigate", "iframe"),
    ] {
        for path in ["/api/users", "/api/tokens", "/api/tokens/", "/API/TOKENS"] {
            site.world.npm.forget_requests();
            let request = client.request("GET", path).cookie(&site.session);
            let reply = with(request, &fetch("cross-site", mode, dest)).send();
            assert_eq!(status(&reply), "cross_site", "{mode} {dest} {path}");
            assert_eq!(site.world.carried_to(path), NOTHING);
            // Neither a token nor a marker.
            assert!(!reply.text().contains("npm-token-inject"), "{reply:?}");
            assert!(!reply.text().contains("\"token\""), "{reply:?}");
        }
    }
}

#[test]
fn a_link_of_another_sites_opens_the_page_and_a_form_or_a_frame_does_not() {
    for https in [false, true] {
        let site = Site::start(https);
        let client = site.nginx.client();
        let npms = Client::new(&site.world.npm.url()).get("/").body;
        let go = |method: &str, headers: &[(&str, &str)]| {
            let request = client.request(method, "/").cookie(&site.session);
            with(request, headers).header("Accept", "text/html,*/*;q=0.8").send()
        };
        for other in ["cross-site", "same-site", "same-origin", "none"] {
            let reply = go("GET", &fetch(other, "navigate", "document"));
            assert_eq!(reply.status, 200);
            assert_eq!(scripts_in(&reply.text()), 1, "{other}");
            assert_eq!(site.world.carried_to("/"), ADMINS, "{other}");
        }
        for other in ["cross-site", "same-site"] {
            for dest in ["iframe", "frame", "embed", "object"] {
                let reply = go("GET", &fetch(other, "navigate", dest));
                assert_eq!((&*reply.body, status(&reply)), (&*npms, "cross_site"), "{dest}");
                assert_eq!(site.world.carried_to("/"), NOTHING);
            }
            let reply = go("POST", &fetch(other, "navigate", "document"));
            assert_eq!(status(&reply), "cross_site");
            assert!(!reply.text().contains("npm-token-inject"), "{reply:?}");
            assert_eq!(site.world.carried_to("/"), NOTHING);
        }
        let page = navigation(&client, "GET", "/", &site.session).send();
        assert_eq!(scripts_in(&page.text()), 1);
    }
}

#[test]
fn other_parameters_do_not_change_it() {
    for directive in [
        "npm_token_inject accounts.json on_error=deny;",
        "npm_token_inject accounts.json client_token=replace;",
        "npm_token_inject accounts.json client_token=keep on_error=deny;",
        "npm_token_inject accounts.json browser=off;",
        "npm_token_inject accounts.json sign_out=/outpost.goauthentik.io/sign_out;",
    ] {
        let site = Site::with(false, "", directive);
        for headers in [
            &[("Origin", "https://evil.example")][..],
            &[("Origin", "null")],
            &fetch("cross-site", "cors", "empty"),
            &fetch("same-site", "no-cors", "image"),
        ] {
            assert!(site.is_cross_site("POST", headers), "{directive} {headers:?}");
            // And for who would have got none.
            for user in ["nobody", "akadmin"] {
                let client = site.nginx.client();
                let request = client.request("POST", "/echo").cookie(&site.world.sign_in(user));
                let reply = with(request, headers).header("Authorization", "Basic eDp5").send();
                assert_eq!((reply.status, status(&reply)), (200, "cross_site"), "{directive}");
                assert_eq!(site.world.carried_to("/echo"), NOTHING, "{directive}");
            }
        }
    }
}

#[test]
fn a_directive_for_the_whole_of_nginx_is_no_different() {
    let world = World::new();
    let pass = format!("{ASKED}\n{SHOWN}\nproxy_pass {};", world.npm.url());
    let nginx = world
        .nginx()
        .http("npm_token_inject accounts.json;")
        .location("/", &pass)
        .location("/api/", &pass);
    let nginx = Watched::start(nginx);
    let (client, session) = (nginx.client(), world.sign_in("akadmin"));
    let own = nginx.url();
    for (headers, what, carried) in [
        (vec![], "miss", ADMINS),
        (vec![("Origin", &*own)], "hit", ADMINS),
        (fetch("same-origin", "cors", "empty").to_vec(), "hit", ADMINS),
        (vec![("Origin", "https://evil.example")], "cross_site", NOTHING),
        (fetch("cross-site", "no-cors", "image").to_vec(), "cross_site", NOTHING),
    ] {
        let request = with(client.request("POST", "/echo").cookie(&session), &headers);
        let reply = request.header("Authorization", "Basic eDp5").send();
        assert_eq!(status(&reply), what, "{headers:?}");
        assert_eq!(world.carried_to("/echo"), carried, "{headers:?}");
    }
    assert_page_and_form(&nginx, &world, &session);
}

fn assert_page_and_form(nginx: &Nginx, world: &World, session: &Session) {
    let client = nginx.client();
    let page = navigation(&client, "GET", "/", session).send();
    assert_eq!(scripts_in(&page.text()), 1);
    let (kind, body, _) = FORMS[0];
    for (origin, code) in [("https://evil.example", 404), (&*nginx.url(), 201)] {
        let request = client.request("POST", "/api/users").cookie(session);
        let request = request.header("Origin", origin).header("Content-Type", kind).body(body);
        assert_eq!(request.send().status, code, "{origin}");
        assert_eq!(is_user(world, "eve@evil.example"), code == 201);
    }
}

/// A session that is over is nobody's, whoever asks.
#[test]
fn without_a_session_the_site_makes_no_difference() {
    let site = Site::start(false);
    site.world.outpost.sign_out(&site.session);
    let client = site.nginx.client();
    for headers in [vec![], vec![("Origin", "null")], fetch("cross-site", "cors", "empty").to_vec()]
    {
        let request = client.request("POST", "/api/users").cookie(&site.session);
        assert_eq!(with(request, &headers).body("x").send().status, 401);
    }
    assert!(site.world.npm.requests().is_empty());
}
