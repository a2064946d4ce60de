//! A password that is changed in NPM while its web UI is open. Up to 2.15 tokens outlive that; from
//! 2.16 on NPM answers them with 401, at which its UI drops what it keeps and loads its page anew.

use std::thread;

use serde_json::json;
use testbed::eventually;

use super::chromium::SOON;
use super::*;

/// What the UI does all the time.
const API_CALL: &str = "void npm.api('GET', 'users/me').catch(() => {})";

/// Long enough for a page that loads itself anew to do so again.
const A_WHILE: Duration = Duration::from_millis(700);

fn world(release: Release) -> World {
    World::like(release, Http, |host, _| host.directive(SIGN_OUT_TOO))
}

/// How many times the page was loaded since [`open_ui`].
fn loads(world: &World) -> usize {
    world.npm.requests_to("/").len()
}

/// The UI, open and signed in.
fn open_ui(world: &World, user: &str, email: &str) -> (Browser, Tab) {
    let (browser, tab) = world.sign_in(user);
    assert_signed_in(&tab, email);
    world.npm.forget_requests();
    (browser, tab)
}

/// The page has been loaded anew so many times, and no more will come.
fn assert_reloads(world: &World, count: usize) {
    assert_eq!(loads(world), count);
    thread::sleep(A_WHILE);
    assert_eq!(loads(world), count);
    // It was no logout.
    let requests = world.outpost.requests();
    assert!(!requests.iter().any(|request| request.path == SIGN_OUT), "{requests:?}");
}

/// What the accounts file says is what NPM knows, from now on.
fn mend_accounts(world: &World) {
    world.nginx.write_accounts(&accounts(&world.npm).to_string());
    world.nginx.reload_and_retire();
}

/// NPM's own login page, with nothing left in the storage, after one reload.
fn assert_left_to_npm(world: &World, tab: &Tab) {
    assert_login_page(tab);
    assert_eq!(tab.run("npm.shown"), json!(["login"]));
    assert!(tokens(tab).is_empty());
    assert_reloads(world, 1);
}

/// With the new password in the accounts file, the next load of the page signs in.
fn assert_mended(world: &World, tab: &Tab, email: &str) {
    mend_accounts(world);
    tab.reload();
    assert_signed_in(tab, email);
    assert_marker_alone(tab);
}

#[test]
fn a_changed_password_that_the_accounts_file_does_not_have_ends_at_npms_login_page() {
    for release in Release::ALL {
        let world = world(release);
        let (_browser, tab) = open_ui(&world, "akadmin", ADMIN);
        world.npm.set_secret(ADMIN, "another-secret");
        match release {
            Release::V2_15 => {
                tab.run("npm.api('GET', 'users/me')");
                tab.run("npm.refresh()");
                assert_signed_in(&tab, ADMIN);
                assert_reloads(&world, 0);
            }
            Release::V2_16 => {
                tab.leave(API_CALL);
                assert_left_to_npm(&world, &tab);
            }
        }
        assert_mended(&world, &tab, ADMIN);
    }
}

#[test]
fn a_changed_password_that_the_accounts_file_has_too_is_not_noticed() {
    for release in Release::ALL {
        let world = world(release);
        let (_browser, tab) = open_ui(&world, "akadmin", ADMIN);
        world.npm.set_secret(ADMIN, "another-secret");
        mend_accounts(&world);
        tab.run("npm.api('GET', 'users/me')");
        tab.run("npm.refresh()");
        tab.run("npm.api('GET', 'users/me')");
        assert_signed_in(&tab, ADMIN);
        assert_marker_alone(&tab);
        assert_reloads(&world, 0);
    }
}

#[test]
fn after_a_changed_password_with_which_a_login_works_one_reload_signs_in_again() {
    let world = world(Release::V2_16);
    let (_browser, tab) = open_ui(&world, "akadmin", ADMIN);
    // An error a moment before, by which NPM has been asked whether it takes the token.
    tab.run("npm.api('GET', 'nosuch').catch(() => {})");
    world.npm.set_secret(ADMIN, &world.npm.secret(ADMIN));
    tab.leave(&format!("[{calls}]", calls = [API_CALL; 6].join(", ")));
    assert_signed_in(&tab, ADMIN);
    assert_eq!(tab.run("npm.shown"), json!(["dashboard"]));
    assert_marker_alone(&tab);
    assert_reloads(&world, 1);
}

#[test]
fn the_uis_own_form_for_a_password_leads_to_npms_login_page() {
    for release in Release::ALL {
        let world = world(release);
        let (_browser, tab) = open_ui(&world, "akadmin", ADMIN);
        let fill = |name: &str, value: &str| {
            tab.run(&format!("document.querySelector('#password [name={name}]').value = '{value}'"))
        };
        fill("current", "wrong");
        fill("secret", "another-secret");
        tab.click("Change Password");
        tab.until("!!document.querySelector('#error').textContent");
        assert_reloads(&world, 0);

        fill("current", "admin-secret");
        match release {
            Release::V2_15 => {
                tab.click("Change Password");
                eventually(SOON, "the change", || world.npm.secret(ADMIN) == "another-secret");
                tab.run("npm.api('GET', 'users/me')");
                assert_signed_in(&tab, ADMIN);
                assert_reloads(&world, 0);
            }
            Release::V2_16 => {
                tab.follow("Change Password");
                assert_left_to_npm(&world, &tab);

                // There the new password works as ever.
                tab.run("document.querySelector('[name=identity]').value = 'admin@example.com'");
                tab.run("document.querySelector('[name=secret]').value = 'another-secret'");
                tab.click("Sign in");
                assert_signed_in(&tab, ADMIN);
            }
        }
        assert_eq!(world.npm.secret(ADMIN), "another-secret");
        assert_mended(&world, &tab, ADMIN);
    }
}

#[test]
fn an_administrator_who_changes_the_password_of_another_signs_out_that_one_alone() {
    for release in Release::ALL {
        let world = world(release);
        let (_admins, admin) = open_ui(&world, "akadmin", ADMIN);
        let (_bobs, bob) = open_ui(&world, "bob", BOB);
        admin.run("npm.api('PUT', 'users/2/auth', {type: 'password', secret: 'another-secret'})");
        match release {
            Release::V2_15 => drop(bob.run("npm.api('GET', 'users/me')")),
            Release::V2_16 => {
                bob.leave(API_CALL);
                assert_left_to_npm(&world, &bob);
            }
        }
        admin.run("npm.api('GET', 'users/me')");
        assert_signed_in(&admin, ADMIN);
        assert_mended(&world, &bob, BOB);
    }
}

#[test]
fn all_browsers_of_an_account_end_at_npms_login_page() {
    let world = World::like(Release::V2_16, Https, |host, npm| {
        let mut accounts = accounts(npm);
        accounts["accounts"][1]["identity"] = ADMIN.into();
        accounts["accounts"][1]["secret"] = npm.secret(ADMIN).into();
        host.accounts(&accounts.to_string())
    });
    let (browser, one) = open_ui(&world, "akadmin", ADMIN);
    let two = browser.tab();
    two.open(&world.url("/"));
    assert_signed_in(&two, ADMIN);
    let (_other, three) = open_ui(&world, "bob", ADMIN);
    world.npm.set_secret(ADMIN, "another-secret");

    one.leave(API_CALL);
    assert_left_to_npm(&world, &one);
    // The other browser's marker stands for a token that there is not any more.
    three.leave(API_CALL);
    assert_login_page(&three);
    assert!(tokens(&three).is_empty());
    assert_reloads(&world, 2);
    // What the tabs of one browser keep is the same.
    two.reload();
    assert_login_page(&two);
}

#[test]
fn a_marker_without_a_token_ends_at_npms_login_page() {
    for release in Release::ALL {
        let world = world(release);
        let (_browser, tab) = open_ui(&world, "akadmin", ADMIN);
        world.npm.disable(ADMIN);
        // NPM's own answers say nothing to the UI.
        tab.until(
            "npm.api('GET', 'users/me').catch(() => {})
                .then(() => !!document.querySelector('#login'))",
        );
        assert!(tokens(&tab).is_empty());
        assert_reloads(&world, 1);
    }
}

#[test]
fn what_a_user_may_not_do_signs_nobody_out() {
    for release in Release::ALL {
        let world = world(release);
        let (_browser, tab) = open_ui(&world, "guest", GUEST);
        for _ in 0..20 {
            let denied = tab.run("npm.api('GET', 'users').then(() => 'done', () => 'denied')");
            assert_eq!(denied, "denied");
        }
        assert_signed_in(&tab, GUEST);
        assert_marker_alone(&tab);
        assert_reloads(&world, 0);
        assert_eq!(world.npm.logins(), 1);
    }
}

#[test]
fn a_user_whom_an_administrator_signed_in_as_may_change_the_password() {
    let world = world(Release::V2_16);
    let (_browser, tab) = open_ui(&world, "akadmin", ADMIN);
    tab.follow("Sign in as guest@example.com");
    assert_signed_in(&tab, GUEST);
    world.npm.forget_requests();
    world.npm.set_secret(GUEST, "another-secret");
    tab.leave(API_CALL);
    assert_signed_in(&tab, ADMIN);
    assert_marker_alone(&tab);
    assert_reloads(&world, 1);
}

#[test]
fn a_visit_to_npms_own_login_address_opens_the_ui() {
    for release in Release::ALL {
        let world = world(release);
        let (_browser, tab) = world.sign_in_to("/login", "akadmin");
        assert_signed_in(&tab, ADMIN);
        let path = if release == Release::V2_16 { "/" } else { "/login" };
        assert_eq!(tab.run("location.pathname"), path);
        assert_marker_alone(&tab);
    }
}
