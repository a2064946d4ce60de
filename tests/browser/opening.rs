//! NPM's web UI opens signed in, and keeps a marker for a token.

use serde_json::{json, Value};
use testbed::{eventually, Client, Fault, Reply, Visitor, TOKEN_BEGINNING};

use super::chromium::{Received, SOON};
use super::*;

/// As a browser asks for a page over https.
fn page(world: &World, user: &str) -> Reply {
    let session = world.outpost.sign_in(Visitor::new(user));
    let client = world.nginx.client();
    let request = client.request("GET", "/").cookie(&session).header("Accept", "text/html,*/*");
    request.header("Sec-Fetch-Mode", "navigate").header("Sec-Fetch-Site", "none").send()
}

/// Whatever this browser has been told and keeps.
fn all_known(tab: &Tab) -> Value {
    let page = tab.run(
        "({page: document.documentElement.outerHTML, local: {...localStorage},
           session: {...sessionStorage}, cookies: document.cookie})",
    );
    let received: Vec<Value> = tab
        .received()
        .into_iter()
        .map(|response| json!([response.url, response.headers, response.body]))
        .collect();
    json!({"page": page, "cookies": tab.cookies(), "received": received})
}

fn assert_no_jwt(tab: &Tab) {
    let known = all_known(tab).to_string();
    let at = known.find(TOKEN_BEGINNING).map(|at| &known[at.saturating_sub(300)..]);
    assert_eq!(at, None, "a JWT is in the browser");
}

#[test]
fn the_ui_opens_signed_in_at_first_sight() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let (_browser, tab) = world.sign_in("akadmin");
        assert_signed_in(&tab, ADMIN);
        assert_eq!(tab.run("npm.shown"), json!(["dashboard"]));
        assert_eq!(world.npm.requests_to("/").len(), 1);
        assert_marker_alone(&tab);
    }
}

#[test]
fn no_jwt_is_anywhere_in_the_browser() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let (_browser, tab) = world.sign_in("akadmin");
        assert_signed_in(&tab, ADMIN);
        assert_no_jwt(&tab);

        tab.run("npm.refresh()");
        tab.run("npm.api('GET', 'tokens?expiry=5m')");
        // While the page is there: Chromium forgets the bodies with it.
        let heard = |path: &str| {
            let is_it = |it: &Received| it.url.ends_with(path) && !it.body.is_empty();
            eventually(SOON, path, || tab.received().iter().any(is_it));
        };
        ["/", "/api/tokens", "/api/tokens?expiry=5m"].into_iter().for_each(heard);
        assert_no_jwt(&tab);

        tab.reload();
        assert_signed_in(&tab, ADMIN);
        assert_no_jwt(&tab);

        assert!(world
            .npm
            .requests_to("/api/tokens")
            .iter()
            .all(|request| request.method == "POST"));
    }
}

#[test]
fn after_a_refresh_the_marker_is_still_there_and_the_page_still_works() {
    let world = World::new(Https);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    let marker = assert_marker_alone(&tab);

    tab.run("npm.refresh()");
    assert_eq!(assert_marker_alone(&tab), marker);
    assert_eq!(tab.run("npm.api('GET', 'users/me')")["email"], ADMIN);
    tab.reload();
    assert_signed_in(&tab, ADMIN);
    assert_eq!(assert_marker_alone(&tab), marker);
}

#[test]
fn a_refresh_renews_the_markers_expiry() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    let marker = assert_marker_alone(&tab);
    let soon = "new Date(Date.now() + 3600e3).toISOString()";
    let entry = format!("JSON.stringify([{{token: '{marker}', expires: {soon}}}])");
    tab.run(&format!("localStorage.setItem('authentications', {entry})"));

    tab.run("npm.refresh()");
    let expires = "new Date(JSON.parse(localStorage.authentications)[0].expires)";
    tab.until(&format!("{expires} - Date.now() > 86400e3"));
}

#[test]
fn what_else_was_in_the_storage_is_replaced() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    let marker = assert_marker_alone(&tab);
    let other_marker = assert_marker_alone(&{
        let (_browser, tab) = world.sign_in("bob");
        assert_signed_in(&tab, BOB);
        tab
    });
    assert_ne!(marker, other_marker);

    let jwt = world.npm.issue_token(BOB, Duration::from_secs(86_400));
    let entry = |token: &str, year: &str| json!({"token": token, "expires": format!("{year}-01-01T00:00:00.000Z")});
    for stored in [
        json!([entry(&jwt, "2099")]),
        json!([entry(&jwt, "2099"), entry(&jwt, "2099")]),
        json!([entry(&other_marker, "2099")]),
        json!([entry(&other_marker, "2099"), entry(&jwt, "2099")]),
        json!([entry(&marker, "2020")]),
        json!([entry("null", "2099")]),
        json!([{}]),
        json!([null]),
        json!([]),
        json!({}),
        json!(7),
        json!("text"),
        json!(null),
    ] {
        keep(&tab, &stored.to_string());
        tab.reload();
        assert_signed_in(&tab, ADMIN);
        assert_eq!(assert_marker_alone(&tab), marker, "after {stored}");
    }
    for garbage in ["", "[", "undefined", &jwt] {
        keep(&tab, garbage);
        tab.reload();
        assert_signed_in(&tab, ADMIN);
        assert_eq!(assert_marker_alone(&tab), marker, "after {garbage}");
    }
    assert_no_jwt(&tab);
}

#[test]
fn several_tabs_share_the_marker() {
    let world = World::new(Https);
    let (browser, one) = world.sign_in("akadmin");
    assert_signed_in(&one, ADMIN);
    let two = browser.tab();
    two.open(&world.url("/nginx/proxy"));
    assert_signed_in(&two, ADMIN);

    one.run("npm.refresh()");
    two.run("npm.refresh()");
    for tab in [&one, &two] {
        assert_marker_alone(tab);
        assert_eq!(tab.run("npm.api('GET', 'users/me')")["email"], ADMIN);
        tab.reload();
        assert_signed_in(tab, ADMIN);
    }
}

#[test]
fn the_page_is_npms_own_but_for_the_script() {
    let world = World::new(Http);
    let plain = Client::new(&world.npm.url()).get("/").text();
    for user in ["akadmin", "carol"] {
        let text = page(&world, user).text();
        let begin = text.find("<script>").expect("a script");
        let end = text.find("</script>").expect("its end") + "</script>".len();
        assert!(begin < text.find("<script type=\"module\"").expect("the UI's own script"));
        assert_eq!(format!("{}{}", &text[..begin], &text[end..]), plain);
    }
}

#[test]
fn without_a_token_the_page_is_npms_login_page_and_leaves_nothing_behind() {
    let world = World::new(Http);
    // An Authentik user whom no account fits.
    let (_browser, tab) = world.sign_in("carol");
    assert_login_page(&tab);
    assert_eq!(tab.run("({...localStorage})"), json!({}));

    // An NPM that lets nobody log in.
    world.npm.fault(Fault::Status(500));
    let (_browser, tab) = world.sign_in("bob");
    assert_login_page(&tab);
    assert_eq!(tab.run("({...localStorage})"), json!({}));
}

#[test]
fn the_login_page_of_npm_still_works_for_who_has_no_account() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("carol");
    assert_login_page(&tab);
    tab.run("document.querySelector('[name=identity]').value = 'guest@example.com'");
    tab.run("document.querySelector('[name=secret]').value = 'guest-secret'");
    tab.click("Sign in");
    assert_signed_in(&tab, GUEST);
    tab.reload();
    assert_signed_in(&tab, GUEST);
}

#[test]
fn npm_2_12_opens_signed_in_and_keeps_a_marker() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in_to("/old", "akadmin");
    let list = || tab.run("JSON.parse(localStorage['nginx-proxy-manager-tokens'])");
    for _ in 0..2 {
        assert_signed_in(&tab, ADMIN);
        let list = list();
        assert_eq!(list.as_array().map(Vec::len), Some(1), "{list}");
        assert!(list[0]["t"].as_str().is_some_and(is_marker), "{list}");
        tab.run("npm.refresh()");
        tab.reload();
    }
    assert_no_jwt(&tab);
}

#[test]
fn what_else_was_in_the_storage_of_npm_2_12_is_replaced() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in_to("/old", "akadmin");
    assert_signed_in(&tab, ADMIN);
    let list = || tab.run("JSON.parse(localStorage['nginx-proxy-manager-tokens'])");
    let markers = list();
    let jwt = world.npm.issue_token(BOB, Duration::from_secs(86_400));
    for stored in [
        json!([{"t": jwt, "n": "bob"}]).to_string(),
        json!([{"t": "npm-token-inject-of-another", "n": null}]).to_string(),
        "[]".into(),
        "7".into(),
        "[".into(),
    ] {
        tab.run(&format!("localStorage['nginx-proxy-manager-tokens'] = {}", Value::from(&*stored)));
        tab.reload();
        assert_signed_in(&tab, ADMIN);
        assert_eq!(list(), markers, "after {stored}");
    }
}

#[test]
fn sign_in_as_works_in_npm_2_12() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in_to("/old", "akadmin");
    assert_signed_in(&tab, ADMIN);
    tab.follow("Sign in as guest@example.com");
    assert_signed_in(&tab, GUEST);
    tab.run("npm.refresh()");
    tab.reload();
    assert_signed_in(&tab, GUEST);
    tab.follow("Logout");
    assert_signed_in(&tab, ADMIN);
}
