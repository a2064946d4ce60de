//! Authentik's sessions come and go, and so do NPM's tokens.

use testbed::{eventually, Request, TOKEN_BEGINNING};

use super::chromium::SOON;
use super::*;

/// What the UI's bundler tells the page when a part of the UI does not load.
const PART_MISSING: &str = "void dispatchEvent(new Event('vite:preloadError'))";

/// What the UI does all the time.
const API_CALL: &str = "void npm.api('GET', 'users').catch(() => {})";

fn leave_authentik(world: &World, tab: &Tab) {
    tab.open(&world.url(SIGN_OUT));
    assert_at(tab, SIGN_IN);
}

/// Ends the sessions at Authentik, and runs what makes the UI notice, which leads to its sign-in.
fn assert_end_is_noticed(world: &World, tab: &Tab, by: &str) {
    world.outpost.sign_everybody_out();
    tab.leave(by);
    assert_at(tab, SIGN_IN);
}

#[test]
fn two_users_one_after_the_other_each_see_their_own_account() {
    let world = World::new(Https);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    let first = assert_marker_alone(&tab);

    leave_authentik(&world, &tab);
    world.pass_sign_in(&tab, "/", "bob");
    assert_signed_in(&tab, BOB);
    assert_ne!(assert_marker_alone(&tab), first);

    leave_authentik(&world, &tab);
    world.pass_sign_in(&tab, "/", "akadmin");
    assert_signed_in(&tab, ADMIN);
    assert_eq!(assert_marker_alone(&tab), first);
}

#[test]
fn nobody_inherits_the_sign_in_as_of_another_user() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    tab.follow("Sign in as bob@example.com");
    assert_signed_in(&tab, BOB);

    leave_authentik(&world, &tab);
    world.pass_sign_in(&tab, "/", "guest");
    assert_signed_in(&tab, GUEST);
    assert_marker_alone(&tab);
}

/// Without an account, or with one whose login fails.
fn assert_inherits_nothing(path: &str, user: &str) {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in_to(path, "akadmin");
    tab.follow("Sign in as bob@example.com");
    assert_signed_in(&tab, BOB);
    let kept = tab.run("JSON.stringify({...localStorage})").to_string();
    assert!(kept.contains(TOKEN_BEGINNING) && kept.contains("npm-token-inject-"), "{kept}");

    world.npm.set_secret(GUEST, "another-secret");
    let before = tab.cookies();
    leave_authentik(&world, &tab);
    world.npm.forget_requests();
    world.pass_sign_in(&tab, path, user);
    assert_login_page(&tab);
    let kept = tab.run("JSON.stringify({...localStorage})").to_string();
    assert!(!kept.contains(TOKEN_BEGINNING) && !kept.contains("npm-token-inject-"), "{kept}");
    // Chromium asks for a page's icon by itself: that of the first user's page may come late.
    let is_of_first = |request: &Request| {
        let cookies = request.header("Cookie").unwrap_or_default();
        before.iter().any(|cookie| cookies.contains(cookie.as_str()))
    };
    for request in world.npm.requests().iter().filter(|request| !is_of_first(request)) {
        assert!(
            !request.authorization().iter().any(|sent| sent.contains(TOKEN_BEGINNING)),
            "{request:?}"
        );
    }

    // Whose browser it was before finds it as ever.
    leave_authentik(&world, &tab);
    world.pass_sign_in(&tab, path, "akadmin");
    assert_signed_in(&tab, ADMIN);
}

#[test]
fn a_user_without_a_token_inherits_no_sign_in_as() {
    assert_inherits_nothing("/", "nobody");
    assert_inherits_nothing("/", "guest");
}

#[test]
fn a_user_without_a_token_inherits_no_sign_in_as_in_the_older_ui() {
    assert_inherits_nothing("/old", "nobody");
    assert_inherits_nothing("/old", "guest");
}

#[test]
fn a_user_who_has_no_token_any_more_sees_npms_login_page_and_not_an_empty_dashboard() {
    let world = World::new(Https);
    let (browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    drop(tab);
    world.npm.disable(ADMIN);

    // While nobody was there, an API call of another tab's has found that out.
    let other = browser.tab();
    other.open(&world.url("/assets/index-1.js"));
    other.run("fetch('/api/users/me').then(() => null)");
    other.run(
        "(async () => {
            while ((await fetch('/api/users/me')).status !== 500) ;
        })()",
    );
    assert_marker_alone(&other);
    world.npm.forget_requests();
    let tab = browser.tab();
    tab.open(&world.url("/"));
    assert_login_page(&tab);
    assert_eq!(tab.run("npm.shown"), json!(["login"]));
    assert_eq!(world.npm.requests_to("/").len(), 1);
    assert!(tokens(&tab).is_empty());
}

#[test]
fn what_else_may_stand_in_the_storage_does_no_harm_to_a_user_without_a_token() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("nobody");
    for text in ["", "null", "[]", "{}", "[null]", "[1]", "[{}]", "nonsense", "[{\"token\":1}]"] {
        assert_login_page(&tab);
        keep(&tab, text);
        tab.run(&format!(
            "localStorage.setItem('nginx-proxy-manager-tokens', {})",
            Value::from(text)
        ));
        tab.leave("location.assign('/old')");
        assert_eq!(tab.run("localStorage.authentications"), text);
    }
}

#[test]
fn a_marker_lives_two_days_at_most() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    for _ in 0..2 {
        let left = "new Date(JSON.parse(localStorage.authentications)[0].expires) - Date.now()";
        let hours = tab.run(left).as_f64().expect("a number") / 3_600_000.0;
        assert!((1.0..=48.0).contains(&hours), "{hours}");
        tab.run("npm.refresh()");
    }
}

#[test]
fn a_session_that_ended_leads_to_authentiks_sign_in() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let (_browser, tab) = world.sign_in("akadmin");
        assert_signed_in(&tab, ADMIN);

        assert_end_is_noticed(&world, &tab, API_CALL);
        tab.follow("akadmin");
        assert_signed_in(&tab, ADMIN);
    }
}

#[test]
fn a_refresh_after_the_session_ended_leads_to_authentiks_sign_in() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    assert_end_is_noticed(&world, &tab, "void npm.refresh().catch(() => {})");
}

#[test]
fn a_session_that_ended_is_no_logout() {
    let world = World::with(Http, |host, _| host.directive(SIGN_OUT_TOO));
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);

    assert_end_is_noticed(&world, &tab, API_CALL);
    tab.follow("akadmin");
    assert_signed_in(&tab, ADMIN);
    let requests = world.outpost.requests();
    assert!(!requests.iter().any(|request| request.path == SIGN_OUT), "{requests:?}");
}

#[test]
fn a_part_of_the_ui_that_does_not_load_after_the_session_ended_leads_to_authentiks_sign_in() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    assert_end_is_noticed(&world, &tab, PART_MISSING);
}

#[test]
fn a_part_of_the_ui_that_never_loads_does_not_make_the_page_reload_for_ever() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    tab.leave(PART_MISSING);
    assert_signed_in(&tab, ADMIN);
    for _ in 0..10 {
        tab.run(PART_MISSING);
        tab.run("npm.api('GET', 'users')");
    }
    assert_eq!(world.npm.requests_to("/").len(), 2);
}

#[test]
fn a_token_that_npm_refuses_never_makes_the_page_reload() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);

    world.npm.replace_keys();
    world.npm.forget_requests();
    tab.reload();
    for _ in 0..10 {
        tab.run("npm.refresh().catch(() => {})");
        tab.run("npm.api('GET', 'users').catch(() => {})");
    }
    eventually(SOON, "NPM to be asked", || world.npm.requests_to("/api/users").len() >= 10);
    assert_eq!(world.npm.requests_to("/").len(), 1);
    assert_marker_alone(&tab);
}

#[test]
fn an_npm_that_came_back_is_seen_by_the_next_reload() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    world.npm.stop();
    tab.run("npm.api('GET', 'users').catch(() => {})");
    world.npm.start_again();
    tab.reload();
    assert_signed_in(&tab, ADMIN);
}
