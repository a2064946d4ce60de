//! The small outpost answers nginx as Authentik's does.

use testbed::{Client, Outpost, Visitor};

const AUTH: &str = "/outpost.goauthentik.io/auth/nginx";

#[test]
fn a_session_tells_who_it_is() {
    let outpost = Outpost::start();
    let client = Client::new(&outpost.url());
    let ask = |cookie: &str, url: &str| {
        client.request("GET", AUTH).header("X-Original-URL", url).header("Cookie", cookie).send()
    };
    let visitor = Visitor::new("akadmin")
        .email("root@example.com")
        .groups(&["npm-admins", "everybody"])
        .name("Ada")
        .basic("admin@example.com", "admin-secret")
        .header("X-Npm", "yes");
    let session = outpost.sign_in(visitor);
    let reply = ask(&session.cookie(), "http://npm/");
    assert_eq!(reply.status, 200);
    for (name, value) in [
        ("X-authentik-username", "akadmin"),
        ("X-authentik-groups", "npm-admins|everybody"),
        ("X-authentik-email", "root@example.com"),
        ("X-authentik-name", "Ada"),
        ("Authorization", "Basic YWRtaW5AZXhhbXBsZS5jb206YWRtaW4tc2VjcmV0"),
        ("X-Npm", "yes"),
    ] {
        assert_eq!(reply.header(name), Some(value));
    }

    let open = ask("", "http://npm/open/x");
    assert_eq!((open.status, open.header("X-authentik-username")), (200, None));
    assert_eq!(ask("", "http://npm/?x=/open/").status, 401);
    assert_eq!(ask("authentik_proxy_test=forged", "http://npm/").status, 401);
    assert_eq!(client.get(AUTH).status, 500);

    outpost.sign_out(&session);
    assert_eq!(ask(&session.cookie(), "http://npm/").status, 401);
    assert_eq!(outpost.requests().len(), 6);
}

#[test]
fn a_visitor_signs_in_and_out_by_browser() {
    let outpost = Outpost::start();
    outpost.offer(Visitor::new("akadmin"));
    let client = Client::new(&outpost.url());
    let back = format!("{}/nginx/proxy", outpost.url());

    let start = client.get(&format!("/outpost.goauthentik.io/start?rd={back}"));
    let page = client.get(start.header("Location").unwrap()).text();
    let link = page.split_once("href=\"").unwrap().1.split_once('"').unwrap().0;
    let signed_in = client.get(link);
    assert_eq!(signed_in.header("Location"), Some(&*back));
    let cookie = signed_in.header("Set-Cookie").unwrap().split(';').next().unwrap().to_owned();

    let ask = |path: &str| {
        let request = client.request("GET", path).header("Cookie", &cookie);
        request.header("X-Original-URL", "http://npm/").send()
    };
    assert_eq!(ask(AUTH).header("X-authentik-username"), Some("akadmin"));
    assert_eq!(ask("/outpost.goauthentik.io/sign_out").status, 302);
    assert_eq!(ask(AUTH).status, 401);
}
