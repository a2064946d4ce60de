//! No page that `frame_ancestors` does not name has the UI in a frame, where a click could be meant
//! for something else.

use testbed::{eventually, Response, Server};

use super::chromium::SOON;
use super::*;

/// A server that is not NPM, with an empty page.
fn elsewhere(scheme: Scheme) -> Server {
    Server::start(None, scheme.tls().as_deref(), |_, _| {
        Response::html(200, "<!DOCTYPE html><title>Elsewhere</title><body>").into()
    })
}

fn url(scheme: Scheme, host: &str, server: &Server) -> String {
    format!("{}://{host}:{}", scheme.name(), server.port())
}

/// Opens the page at `from`, and in a frame of its own the UI. The frame has loaded when this is
/// done, whatever it shows.
fn frame(world: &World, tab: &Tab, from: &str, tag: &str) {
    tab.open(from);
    world.npm.forget_requests();
    let (ui, source) = (world.url("/"), if tag == "object" { "data" } else { "src" });
    tab.run(&format!(
        "new Promise((done) => {{
            const frame = document.createElement('{tag}');
            frame.type = 'text/html';
            frame.onload = frame.onerror = () => done(null);
            frame.{source} = '{ui}';
            document.body.append(frame);
        }})"
    ));
}

/// What the UI asked for from within the frame.
fn asked_for(world: &World) -> Vec<String> {
    let paths = world.npm.requests().into_iter().map(|request| request.path);
    paths.filter(|path| path.starts_with("/assets/") || path.starts_with("/api/")).collect()
}

fn assert_signed_in_within_the_frame(world: &World) {
    // The last that it asks for, as an administrator's.
    eventually(SOON, "the UI in the frame", || {
        world.npm.requests_to("/api/users").iter().any(|r| r.authorization().len() == 1)
    });
}

#[test]
fn the_frame_of_a_sibling_subdomain_stays_empty() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let other = elsewhere(scheme);
        // As somebody, and as who has no token.
        for user in ["akadmin", "nobody"] {
            let (_browser, tab) = world.sign_in(user);
            match user {
                "nobody" => assert_login_page(&tab),
                _ => assert_signed_in(&tab, ADMIN),
            }
            for host in ["www.example.com", "npm.example.com"] {
                for tag in ["iframe", "embed", "object"] {
                    frame(&world, &tab, &url(scheme, host, &other), tag);
                    assert!(!world.npm.requests_to("/").is_empty());
                    assert_eq!(asked_for(&world), Vec::<String>::new(), "{host} {tag}");
                }
            }
        }
    }
}

#[test]
fn the_frame_of_another_site_stays_empty() {
    let world = World::new(Https);
    world.outpost.set_cookies_for_all_sites();
    let other = elsewhere(Https);
    let (_browser, tab) = world.sign_in("akadmin");
    assert_signed_in(&tab, ADMIN);
    frame(&world, &tab, &url(Https, "www.example.org", &other), "iframe");
    assert_eq!(asked_for(&world), Vec::<String>::new());
}

#[test]
fn npms_own_page_may_frame_itself() {
    for scheme in BOTH {
        let world = World::new(scheme);
        let (_browser, tab) = world.sign_in("akadmin");
        assert_signed_in(&tab, ADMIN);
        frame(&world, &tab, &world.url("/"), "iframe");
        assert_signed_in_within_the_frame(&world);
    }
}

#[test]
fn a_dashboard_that_is_named_frames_the_ui_signed_in_and_no_other_page_does() {
    for scheme in BOTH {
        let other = elsewhere(scheme);
        let dashboard = url(scheme, "dash.example.com", &other);
        let directive = format!("npm_token_inject accounts.json frame_ancestors={dashboard};");
        let world = World::with(scheme, |host, _| host.directive(&directive));
        // No marker yet: the frame itself opens the UI.
        let (_browser, tab) = world.sign_in_to("/assets/index-1.js", "akadmin");
        assert!(tokens(&tab).is_empty());
        frame(&world, &tab, &dashboard, "iframe");
        assert_signed_in_within_the_frame(&world);

        frame(&world, &tab, &url(scheme, "www.example.com", &other), "iframe");
        assert_eq!(asked_for(&world), Vec::<String>::new());
    }
}
