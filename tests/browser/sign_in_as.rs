//! NPM's own "Sign in as" another user, and Logout.

use super::*;

/// A tab of akadmin's, who has signed in as the guest.
fn guest(world: &World) -> (Browser, Tab) {
    let (browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    sign_in_as_guest(&tab);
    (browser, tab)
}

fn sign_in_as_guest(tab: &Tab) {
    tab.follow("Sign in as guest@example.com");
    assert_signed_in(tab, GUEST);
    assert_guest_above_marker(tab);
}

fn assert_guest_above_marker(tab: &Tab) {
    let tokens = tokens(tab);
    assert!(tokens.len() == 2 && is_marker(&tokens[0]) && is_jwt(&tokens[1]), "{tokens:?}");
}

#[test]
fn sign_in_as_shows_the_other_user_and_logout_comes_back() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let (_browser, tab) = guest(&world);
        tab.follow("Logout");
        assert_signed_in(&tab, ADMIN);
        assert_marker_alone(&tab);
    }
}

#[test]
fn sign_in_as_survives_a_reload() {
    let world = World::new(Https);
    let (_browser, tab) = guest(&world);
    tab.reload();
    assert_signed_in(&tab, GUEST);
    assert_guest_above_marker(&tab);
}

#[test]
fn sign_in_as_survives_refreshes_and_logout_still_comes_back() {
    let world = World::new(Https);
    let (_browser, tab) = guest(&world);
    let before = tokens(&tab);
    tab.run("npm.refresh()");
    tab.run("npm.refresh()");
    assert_guest_above_marker(&tab);
    assert_ne!(tokens(&tab), before);
    assert_eq!(tab.run("npm.api('GET', 'users/me')")["email"], GUEST);
    tab.reload();
    assert_signed_in(&tab, GUEST);
    tab.follow("Logout");
    assert_signed_in(&tab, ADMIN);
    assert_marker_alone(&tab);
}

#[test]
fn sign_in_as_one_after_the_other_is_left_one_by_one() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    tab.follow("Sign in as bob@example.com");
    assert_signed_in(&tab, BOB);
    tab.follow("Sign in as guest@example.com");
    assert_signed_in(&tab, GUEST);
    tab.run("npm.refresh()");
    assert_eq!(tokens(&tab).len(), 3);
    tab.follow("Logout");
    assert_signed_in(&tab, BOB);
    tab.follow("Logout");
    assert_signed_in(&tab, ADMIN);
}

#[test]
fn a_token_of_sign_in_as_that_has_expired_leads_back_to_the_first_user() {
    let world = World::new(Http);
    let (_browser, tab) = guest(&world);
    tab.run(
        "(() => {
            const list = JSON.parse(localStorage.authentications);
            list[1].expires = new Date().toISOString();
            localStorage.authentications = JSON.stringify(list);
        })()",
    );
    tab.reload();
    assert_signed_in(&tab, ADMIN);
    assert_marker_alone(&tab);
}

#[test]
fn logout_shows_the_login_page_and_a_reload_signs_in_again() {
    let world = World::new(Http);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    tab.click("Logout");
    assert_login_page(&tab);
    assert!(tokens(&tab).is_empty());
    tab.reload();
    assert_signed_in(&tab, ADMIN);
}

#[test]
fn what_one_tab_does_the_others_see() {
    let world = World::new(Http);
    let (browser, one) = world.sign_in("akadmin");
    assert_signed_in(&one, ADMIN);
    let two = browser.tab();
    two.open(&world.url("/"));
    assert_signed_in(&two, ADMIN);

    // What one tab writes, another may read a moment later: each has a process of its own.
    let keeps =
        |count: usize| format!("JSON.parse(localStorage.authentications).length === {count}");
    sign_in_as_guest(&one);
    two.until(&keeps(2));
    two.run("npm.refresh()");
    assert_guest_above_marker(&two);
    two.reload();
    assert_signed_in(&two, GUEST);
    two.follow("Logout");
    assert_signed_in(&two, ADMIN);
    one.until(&keeps(1));
    one.reload();
    assert_signed_in(&one, ADMIN);
    assert_marker_alone(&one);
}

#[test]
fn where_logout_leads_to_authentik_it_does_so_from_the_first_user_only() {
    let world = World::with(Https, |host, _| host.directive(SIGN_OUT_TOO));
    let (_browser, tab) = guest(&world);
    tab.follow("Logout");
    assert_signed_in(&tab, ADMIN);
    assert!(!world.outpost.requests().iter().any(|request| request.path == SIGN_OUT));

    tab.click("Logout");
    assert_at(&tab, SIGN_IN);
    let paths: Vec<String> =
        world.outpost.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(paths.iter().filter(|path| *path == SIGN_OUT).count(), 1, "{paths:?}");

    // And that has ended the session.
    tab.open(&world.url("/"));
    assert_at(&tab, SIGN_IN);
}
