//! The status page: what it shows, to whom, and what it never shows.

use std::collections::{HashMap, HashSet};
use std::thread;
use std::time::Duration;

use serde_json::{json, Value};
use testbed::nginx::Builder;
use testbed::{closed_port, eventually, Client, Fault, Nginx, Npm, Reply};

use crate::site::*;

const PAGE: &str = "/status";

const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4";

/// How a browser asks.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,image/webp,*/*;q=0.8";

/// A secret that stands nowhere else.
const SECRET: &str = "CorrectHorse1";

/// [`site`] with a status page at [`PAGE`].
fn status_site(npm: &Npm) -> Builder {
    site(npm).location("= /status", "npm_token_inject_status; allow 127.0.0.1; deny all;")
}

/// The same; `akadmin` and `guest` have accounts, `wrong` has one that NPM refuses, `down` one at
/// an NPM that does not run, and others have none.
fn site_of_all_kinds(npm: &Npm) -> Builder {
    let admin = npm.secret(ADMIN);
    let guest = npm.secret("guest@example.com");
    let down = format!("http://127.0.0.1:{}", closed_port());
    let there = format!(
        "npm_token_inject down.json user=$user trust_headers=on; proxy_pass {};",
        npm.url()
    );
    let accounts = json!({"api": npm.url(), "accounts": [
        {"user": "akadmin", "identity": ADMIN, "secret": admin},
        {"user": "guest", "identity": "guest@example.com", "secret": guest},
        {"user": "wrong", "identity": "bob@example.com", "secret": SECRET},
    ]});
    let at_down = json!({"api": down, "accounts": [
        {"user": "*", "identity": "down@example.com", "secret": SECRET},
    ]});
    status_site(npm)
        .accounts(&accounts.to_string())
        .file_with_mode("down.json", at_down.to_string(), 0o600)
        .location("/down/", &there)
}

fn status_of(nginx: &Nginx) -> Value {
    nginx.client().get(PAGE).json()
}

/// The account of that identity on the page.
pub fn account(page: &Value, identity: &str) -> Value {
    let accounts = page["accounts"].as_array().expect("accounts");
    let mut found = accounts.iter().filter(|account| account["identity"] == identity);
    let account = found.next().unwrap_or_else(|| panic!("no {identity} in {page}")).clone();
    assert!(found.next().is_none(), "{identity} twice in {page}");
    account
}

/// These counters of an account: hits, waits, logins, renewals, failures.
fn counters(account: &Value) -> [u64; 5] {
    ["hits", "waits", "logins", "renewals", "failures"]
        .map(|name| account[name].as_u64().unwrap_or_else(|| panic!("{name} in {account}")))
}

fn get_as(client: &Client, user: &str, target: &str) -> Reply {
    client.request("GET", target).header("X-User", user).send()
}

/// One request of every kind, with the status of its token.
fn visit(nginx: &Nginx) {
    let client = nginx.client();
    for (user, target, expected) in [
        ("akadmin", "/echo", "miss"),
        ("akadmin", "/echo", "hit"),
        ("akadmin", "/deny/echo", "hit"),
        ("guest", "/echo", "miss"),
        ("wrong", "/echo", "error"),
        ("wrong", "/echo", "error"),
        ("x", "/down/echo", "error"),
        ("nobody", "/echo", "no_account"),
    ] {
        let reply = get_as(&client, user, target);
        assert_eq!(status(&reply), expected, "{user} {target}");
    }
    let cross = client.request("GET", "/echo").header("Sec-Fetch-Site", "cross-site");
    assert_eq!(status(&cross.header("Sec-Fetch-Mode", "cors").send()), "cross_site");
}

/// The page in each of its forms.
fn forms(nginx: &Nginx) -> [Reply; 3] {
    ["json", "html", "prometheus"].map(|f| nginx.client().get(&format!("{PAGE}?format={f}")))
}

#[test]
fn the_form_is_what_the_client_asks_for() {
    let npm = quick_npm();
    let nginx = status_site(&npm).start();
    let client = nginx.client();
    for (accept, query, expected) in [
        (None, "", JSON),
        (Some("*/*"), "", JSON),
        (Some("application/json"), "", JSON),
        (Some(BROWSER), "", HTML),
        (Some("text/html"), "", HTML),
        (Some(BROWSER), "?format=json", JSON),
        (Some(BROWSER), "?format=prometheus", PROMETHEUS),
        (None, "?format=html", HTML),
        (None, "?format=prometheus", PROMETHEUS),
        (None, "?a=b&format=prometheus", PROMETHEUS),
        (None, "?format=rubbish", JSON),
        (None, "?format=", JSON),
        (None, "?xformat=html", JSON),
    ] {
        let mut request = client.request("GET", &format!("{PAGE}{query}"));
        if let Some(accept) = accept {
            request = request.header("Accept", accept);
        }
        let reply = request.send();
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("Content-Type"), Some(expected), "{accept:?} {query}");
        assert_eq!(reply.headers.all("Cache-Control"), ["no-store"]);
    }
}

#[test]
fn head_is_answered_without_a_body_and_other_methods_are_not() {
    let npm = quick_npm();
    let nginx = status_site(&npm).start();
    let client = nginx.client();
    for (query, expected) in [("", JSON), ("?format=html", HTML)] {
        let reply = client.request("HEAD", &format!("{PAGE}{query}")).send();
        assert_eq!((reply.status, reply.header("Content-Type")), (200, Some(expected)));
        let length = reply.header("Content-Length").and_then(|length| length.parse::<usize>().ok());
        assert!(length.is_some_and(|length| length > 100), "{reply:?}");
        assert!(reply.body.is_empty());
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let reply = client.request(method, PAGE).body("x").send();
        assert_eq!(reply.status, 405, "{method}");
    }
    assert_eq!(client.get(PAGE).status, 200);
}

#[test]
fn allow_and_deny_are_respected() {
    let npm = quick_npm();
    let nginx = site(&npm)
        .location("= /denied", "npm_token_inject_status; deny all;")
        .location("= /elsewhere", "npm_token_inject_status; allow 192.0.2.1; deny all;")
        .location("= /here", "npm_token_inject_status; allow 127.0.0.1; deny all;")
        .start();
    for (target, expected) in [("/denied", 403), ("/elsewhere", 403), ("/here", 200)] {
        assert_eq!(nginx.client().get(target).status, expected, "{target}");
    }
}

#[test]
fn without_an_access_rule_the_page_is_for_this_machine_alone() {
    let npm = quick_npm();
    let page = "npm_token_inject_status;";
    let nginx = site(&npm)
        .http("real_ip_header X-Real-IP;\nset_real_ip_from unix:;")
        .server("listen unix:socket;\nlocation = /outer { satisfy all; }")
        .location("= /bare", page)
        .location("= /open", &format!("{page} allow all;"))
        .location("= /allowed", &format!("{page} allow 127.0.0.1; deny all;"))
        .location("= /basic", &format!("{page} auth_basic x; auth_basic_user_file none;"))
        .location("= /basic-off", &format!("{page} auth_basic off;"))
        .location("= /yes", "return 204;")
        .location("= /asks", &format!("{page} auth_request /yes;"))
        .location("= /asks-not", &format!("{page} auth_request off;"))
        .location("/outer/", &format!("allow all; location = /outer/inner {{ {page} }}"))
        .start();
    let status = |reply: String| reply.split(' ').nth(1).unwrap_or_default().to_owned();
    for (path, here, elsewhere) in [
        ("/bare", 200, "403"),
        ("/basic-off", 200, "403"),
        ("/asks-not", 200, "403"),
        ("/open", 200, "200"),
        ("/asks", 200, "200"),
        ("/basic", 401, "401"),
        ("/outer/inner", 200, "200"),
        // Here the rule is the administrator's own, and goes by what the client says.
        ("/allowed", 200, "200"),
    ] {
        assert_eq!(nginx.client().get(path).status, here, "{path}");
        assert_eq!(status(get_by_socket(&nginx, path, "127.0.0.1")), elsewhere, "{path}");
    }
    let lines = nginx.log_lines("the status page is for this machine alone");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("[error]") && lines[0].contains("\"unix:\""), "{lines:?}");
}

#[test]
fn before_the_first_request_there_is_nothing_to_show() {
    let npm = quick_npm();
    let nginx = status_site(&npm).start();
    let page = status_of(&nginx);
    assert_eq!(page["accounts"], json!([]));
    assert_eq!(page["version"], env!("CARGO_PKG_VERSION"));
    let time = page["time"].as_str().expect("a time");
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    assert_eq!(page["requests"], json!({"cross_site": 0, "kept": 0, "no_account": 0, "error": 0}));
    let html = nginx.client().get("/status?format=html").text();
    assert!(html.contains("Nobody has asked for a token yet"), "{html}");
    families(&nginx.client().get("/status?format=prometheus").text());
}

#[test]
fn the_page_needs_no_other_directive() {
    let nginx = Nginx::builder().location("= /status", "npm_token_inject_status;").start();
    for reply in forms(&nginx) {
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

#[test]
fn an_account_is_signed_in_failing_or_idle() {
    let npm = quick_npm();
    let nginx = site_of_all_kinds(&npm).start();
    visit(&nginx);
    let page = status_of(&nginx);

    let admin = account(&page, ADMIN);
    assert_eq!((&admin["state"], &admin["api"]), (&json!("signed_in"), &json!(npm.url())));
    let time = |value: &Value| value.as_str().map(str::to_owned).expect("a time");
    assert!(time(&admin["token_expires"]) > time(&admin["last_login"]));
    for nothing in ["last_failure", "last_error", "next_try"] {
        assert_eq!(admin[nothing], Value::Null, "{nothing}");
    }

    let wrong = account(&page, "bob@example.com");
    assert_eq!(wrong["state"], "failing");
    assert_eq!(wrong["last_error"], "NPM refused identity and secret");
    assert!(time(&wrong["next_try"]) > time(&wrong["last_failure"]));
    for nothing in ["token_expires", "last_login"] {
        assert_eq!(wrong[nothing], Value::Null, "{nothing}");
    }
    let down = account(&page, "down@example.com");
    let error = time(&down["last_error"]);
    assert!(error.starts_with("NPM could not be reached: "), "{error}");

    // When the pause is over, and nobody has asked again.
    eventually(SOON, "the pause to end", || {
        account(&status_of(&nginx), "down@example.com")["state"] == "idle"
    });
    let html = nginx.client().get("/status?format=html").text();
    for part in ["signed in", "failing, next try 20", "idle", "NPM refused identity and secret"] {
        assert!(html.contains(part), "{part:?} in {html}");
    }
}

#[test]
fn an_account_whose_login_is_under_way_is_signing_in() {
    let npm = quick_npm();
    npm.fault(Fault::Hold);
    let nginx = status_site(&npm).workers(2).start();
    thread::scope(|scope| {
        let waiting = scope.spawn(|| nginx.client().get(ME));
        eventually(SOON, "the login", || npm.logins() == 1);
        let page = status_of(&nginx);
        npm.clear_fault();
        assert_eq!(account(&page, ADMIN)["state"], "signing_in");
        assert!(is_signed_in(&waiting.join().expect("a reply")));
    });
    assert_eq!(account(&status_of(&nginx), ADMIN)["state"], "signed_in");
}

#[test]
fn an_account_whose_token_has_expired_is_idle() {
    let npm = quick_npm();
    npm.set_token_lifetime(Duration::from_secs(5));
    let nginx = status_site(&npm).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    assert_eq!(account(&status_of(&nginx), ADMIN)["state"], "signed_in");
    eventually(SOON, "its end", || account(&status_of(&nginx), ADMIN)["state"] == "idle");
    let admin = account(&status_of(&nginx), ADMIN);
    assert_eq!(admin["token_expires"], Value::Null);
    assert!(admin["last_login"].is_string());
}

#[test]
fn counters_tell_what_was_sent_to_all_workers_and_outlive_a_reload() {
    const HITS: u64 = 5;
    let npm = quick_npm();
    let nginx = busy(site_of_all_kinds(&npm)).workers(4).start();
    let workers = clients_by_worker(&nginx, 1);
    let own = npm.issue_token("guest@example.com", Duration::from_secs(3600));

    // The first of each wait, the others do not.
    npm.fault(Fault::Hold);
    thread::scope(|scope| {
        for clients in workers.values() {
            scope.spawn(|| assert_eq!(status(&clients[0].get("/echo")), "miss"));
        }
        wait_until_under_way(&nginx, workers.len());
        thread::sleep(Duration::from_millis(100));
        npm.clear_fault();
    });
    for clients in workers.values() {
        let client = &clients[0];
        for _ in 0..HITS {
            assert_eq!(status(&client.get("/echo")), "hit");
        }
        let kept = client.request("GET", "/echo").bearer(&own).send();
        assert_eq!(status(&kept), "kept");
        let cross = client.request("GET", "/echo").header("Sec-Fetch-Site", "cross-site");
        assert_eq!(status(&cross.header("Sec-Fetch-Mode", "cors").send()), "cross_site");
        assert_eq!(status(&get_as(client, "nobody", "/echo")), "no_account");
        assert_eq!(status(&get_as(client, "wrong", "/echo")), "error");
    }
    let first = workers.values().next().expect("a worker");
    assert_eq!(status(&get_as(&first[0], "x", "/down/echo")), "error");

    let check = |page: &Value| {
        let count = workers.len() as u64;
        let admin = account(page, ADMIN);
        assert_eq!(counters(&admin), [HITS * count, count, 1, 0, 0], "{admin}");
        let waited = admin["waited_ms"].as_u64().expect("a number");
        assert!((80 * count..2_000 * count).contains(&waited), "{waited} ms");
        // The first request of all has waited; those that came in the pause after have not.
        assert_eq!(counters(&account(page, "bob@example.com")), [0, 1, 0, 0, 1]);
        assert_eq!(counters(&account(page, "down@example.com")), [0, 1, 0, 0, 1]);
        assert_eq!(
            page["requests"],
            json!({"cross_site": count, "kept": count, "no_account": count, "error": count + 1})
        );
        assert_eq!(
            page["failures"],
            json!({"refused": 1, "unreachable": 1, "timeout": 0, "tls": 0, "answer": 0, "local": 0})
        );
    };
    for clients in workers.values() {
        check(&clients[0].get(PAGE).json());
    }
    nginx.reload();
    check(&status_of(&nginx));
}

#[test]
fn failures_are_counted_by_their_cause() {
    let npm = quick_npm();
    let tls_npm = Npm::builder().tls(&std::sync::Arc::new(testbed::Tls::localhost())).start();
    let account_at = |url: &str, identity: &str| {
        // What is to fail otherwise has the time for it, on a machine that has much to do, too.
        let timeout = if identity == "timeout" { "300ms" } else { "10s" };
        json!({"api": url, "timeout": timeout, "accounts": [
            {"user": "*", "identity": identity, "secret": SECRET}]})
        .to_string()
    };
    let unreachable = format!("http://127.0.0.1:{}", closed_port());
    let hangs = Npm::start();
    hangs.fault(Fault::Hang);
    let garbles = Npm::start();
    garbles.fault(Fault::Garbage);
    let causes = [
        ("refused", npm.url()),
        ("unreachable", unreachable),
        ("timeout", hangs.url()),
        ("tls", tls_npm.url()),
        ("answer", garbles.url()),
    ];
    let mut builder = status_site(&npm);
    for (cause, url) in &causes {
        let file = format!("{cause}.json");
        let location = format!(
            "npm_token_inject {file} user=$user trust_headers=on; proxy_pass {}/;",
            npm.url()
        );
        builder = builder
            .file_with_mode(&file, account_at(url, cause), 0o600)
            .location(&format!("/{cause}/"), &location);
    }
    let nginx = builder.start();
    for (cause, _) in &causes {
        assert_eq!(status(&nginx.client().get(&format!("/{cause}/echo"))), "error", "{cause}");
    }
    // A request does not wait for longer than NPM may take: that one may be answered first.
    let expected =
        json!({"refused": 1, "unreachable": 1, "timeout": 1, "tls": 1, "answer": 1, "local": 0});
    eventually(SOON, "all failures", || status_of(&nginx)["failures"] == expected);
    let page = status_of(&nginx);
    for (cause, error) in [
        ("refused", "NPM refused identity and secret"),
        ("unreachable", "NPM could not be reached: "),
        ("timeout", "NPM did not answer within 300ms"),
        ("tls", "NPM could not be trusted: "),
        ("answer", "NPM sent an answer that is not a token"),
    ] {
        let account = account(&page, cause);
        let said = account["last_error"].as_str().expect("an error");
        assert!(said.starts_with(error), "{cause}: {said}");
    }
    let text = nginx.client().get("/status?format=prometheus").text();
    assert!(text.contains("npm_token_inject_failures_total{cause=\"timeout\"} 1\n"), "{text}");
}

#[test]
fn logins_and_renewals_are_counted() {
    let npm = quick_npm();
    npm.set_token_lifetime(Duration::from_secs(8));
    let nginx = busy(status_site(&npm)).workers(2).start();
    let client = nginx.client();
    eventually(Duration::from_secs(30), "renewals", || {
        assert!(is_signed_in(&client.get(ME)));
        counters(&account(&client.get(PAGE).json(), ADMIN))[3] == 2
    });
    let [_, waits, logins, _, failures] = counters(&account(&status_of(&nginx), ADMIN));
    let asked = npm.requests_to("/api/tokens");
    assert_eq!(asked.iter().filter(|request| request.method == "GET").count(), 2);
    assert_eq!((logins, failures), (npm.logins() as u64, 0));
    // A renewal that took too long is waited for.
    assert!((logins..=logins + 2).contains(&waits), "{waits}");
}

#[test]
fn after_a_changed_secret_and_a_reload_each_account_is_shown_once() {
    let npm = quick_npm();
    let nginx = status_site(&npm).start();
    let prometheus = || families(&nginx.client().get("/status?format=prometheus").text());
    assert!(is_signed_in(&nginx.client().get(ME)));
    assert_eq!(account(&status_of(&nginx), ADMIN)["state"], "signed_in");

    // Nobody has asked for a token by the new secret: there is no such account any more.
    npm.set_secret(ADMIN, SECRET);
    nginx.write_accounts(&accounts_at(&npm.url(), SECRET).to_string());
    nginx.reload();
    assert_eq!(status_of(&nginx)["accounts"], json!([]));
    assert!(is_signed_in(&nginx.client().get(ME)));
    assert_eq!(account(&status_of(&nginx), ADMIN)["logins"], 1);
    assert_eq!(prometheus()["npm_token_inject_signed_in"].len(), 1);

    // By credentials that Authentik hands over, the same.
    let other = npm.secret(BOB);
    for secret in [&other, "changed", "wrong"] {
        if secret != "wrong" {
            npm.set_secret(BOB, secret);
        }
        me_with(&nginx.client(), BOB, secret).send();
        assert_eq!(prometheus()["npm_token_inject_signed_in"].len(), 2);
    }
    let bob = account(&status_of(&nginx), BOB);
    assert_eq!((&bob["state"], &bob["logins"]), (&json!("failing"), &json!(2)));
}

#[test]
fn an_account_that_no_configuration_names_any_more_is_not_shown() {
    let npm = quick_npm();
    let nginx = status_site(&npm).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    let nobody = json!({"api": npm.url(), "accounts": []}).to_string();
    nginx.write_accounts(&nobody);
    nginx.reload();
    assert_eq!(status(&nginx.client().get("/echo")), "no_account");
    assert_eq!(status_of(&nginx)["accounts"], json!([]));
}

#[test]
fn no_secret_and_no_token_is_shown_in_any_form() {
    let npm = quick_npm();
    let nginx = site_of_all_kinds(&npm).start();
    visit(&nginx);
    let mut hidden = vec![SECRET.to_owned(), npm.secret(ADMIN), npm.secret("guest@example.com")];
    for request in npm.requests() {
        for token in request.authorization().iter().filter_map(|a| a.strip_prefix("Bearer ")) {
            hidden.extend(token.split('.').map(str::to_owned));
        }
    }
    assert!(hidden.len() >= 6, "{hidden:?}");
    hidden.push("Bearer".to_owned());
    for reply in forms(&nginx) {
        let shown = format!("{reply:?}");
        assert!(shown.contains(ADMIN), "{shown}");
        for secret in &hidden {
            assert!(!shown.contains(secret.as_str()), "{secret:?} in {shown}");
        }
    }
}

/// A page for people: no script, nothing that it loads or sends.
fn assert_stands_alone(page: &str) {
    let lower = page.to_lowercase();
    for nothing in [
        "<script",
        "javascript:",
        " src=",
        "url(",
        "@import",
        "<link",
        "<img",
        "<iframe",
        "<form",
        "http-equiv=\"refresh\" content=\"10;",
        " onload",
        " onerror",
    ] {
        assert!(!lower.contains(nothing), "{nothing:?} in {page}");
    }
    for link in lower.split("href=").skip(1) {
        assert!(link.starts_with("\"?format="), "{link}");
    }
}

#[test]
fn the_page_for_people_stands_alone_refreshes_itself_and_fits_a_phone() {
    let npm = quick_npm();
    let nginx = site_of_all_kinds(&npm).start();
    visit(&nginx);
    let page = nginx.client().request("GET", PAGE).header("Accept", BROWSER).send().text();
    assert_stands_alone(&page);
    for part in [
        "<!DOCTYPE html>",
        "<html lang=\"en\">",
        "<meta charset=\"utf-8\">",
        "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">",
        "<meta http-equiv=\"refresh\" content=\"10\">",
        "<title>NPM tokens</title>",
        ADMIN,
        "guest@example.com",
    ] {
        assert!(page.contains(part), "{part:?} in {page}");
    }
}

#[test]
fn the_page_for_people_is_not_taken_for_npms() {
    // The status page within a site where all else is NPM's.
    let npm = quick_npm();
    let nginx = site(&npm)
        .server("npm_token_inject accounts.json user=$user trust_headers=on;")
        .location("= /status", "npm_token_inject_status;")
        .start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    let client = nginx.client();
    let request = client.request("GET", PAGE).header("Accept", BROWSER);
    let reply = request.header("Sec-Fetch-Mode", "navigate").send();
    assert_eq!((reply.status, reply.header("Content-Type")), (200, Some(HTML)));
    assert_stands_alone(&reply.text());
    assert_eq!(reply.headers.all("Cache-Control"), ["no-store"]);
}

#[test]
fn what_accounts_are_called_is_escaped() {
    const ODD: &str = "a\"b'<i>&\\c\u{e9}@example.com";
    let npm = Npm::builder().administrator(ADMIN, "t").administrator(ODD, "s").start();
    let accounts = json!({"api": npm.url(), "accounts": [
        {"user": "*", "identity": ODD, "secret": "s"}]});
    let nginx = status_site(&npm).accounts(&accounts.to_string()).start();
    assert_eq!(status(&nginx.client().get("/echo")), "miss");
    let [json, html, prometheus] = forms(&nginx);
    account(&json.json(), ODD);
    let html = html.text();
    assert!(html.contains("&lt;i&gt;&amp;\\c\u{e9}@example.com"), "{html}");
    assert!(!html.contains("<i>") && !html.contains("a\"b"), "{html}");
    let samples = families(&prometheus.text());
    let hits = &samples["npm_token_inject_hits_total"];
    assert_eq!(hits[0].0["identity"], ODD);
}

/// Labels and value of a sample.
type Sample = (HashMap<String, String>, f64);

/// The samples of a Prometheus text, by family, each of its lines checked against the format
/// (<https://prometheus.io/docs/instrumenting/exposition_formats/>).
fn families(text: &str) -> HashMap<String, Vec<Sample>> {
    assert!(text.ends_with('\n'), "{text}");
    let mut families = HashMap::<String, Vec<Sample>>::new();
    let mut helped = HashSet::new();
    let mut current = String::new();
    let mut seen = HashSet::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').expect("a name and words");
            assert!(!words.is_empty() && helped.insert(name.to_owned()), "{line}");
            name.clone_into(&mut current);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a name and a type");
            assert_eq!(name, current, "HELP before TYPE");
            assert!(matches!(kind, "counter" | "gauge"), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            assert!(families.insert(name.to_owned(), Vec::new()).is_none(), "{line}");
        } else {
            let name: String =
                line.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            assert_eq!(name, current, "{line}");
            assert!(seen.insert(line.rsplit_once(' ').expect("a value").0.to_owned()), "{line}");
            let sample = sample(&line[name.len()..]).unwrap_or_else(|| panic!("{line}"));
            families.get_mut(&name).expect("TYPE before samples").push(sample);
        }
    }
    assert_eq!(helped.len(), families.len());
    families
}

/// Reads `{label="value",…} 1`.
fn sample(text: &str) -> Option<Sample> {
    let mut labels = HashMap::new();
    let mut rest = text;
    if let Some(inner) = text.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (name, value) = rest.split_once("=\"")?;
            let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(is_name) {
                return None;
            }
            let mut unescaped = String::new();
            let mut chars = value.char_indices();
            let end = loop {
                match chars.next()? {
                    (end, '"') => break end,
                    (_, '\\') => unescaped.push(match chars.next()?.1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        _ => return None,
                    }),
                    (_, c) => unescaped.push(c),
                }
            };
            labels.insert(name.to_owned(), unescaped);
            rest = &value[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = rest.strip_prefix('}')?;
    }
    Some((labels, rest.strip_prefix(' ')?.parse().ok()?))
}

#[test]
fn prometheus_can_read_its_text() {
    let npm = quick_npm();
    let nginx = site_of_all_kinds(&npm).start();
    visit(&nginx);
    let text = nginx.client().get("/status?format=prometheus").text();
    let families = families(&text);
    let value = |family: &str, label: (&str, &str)| {
        let samples = &families[&format!("npm_token_inject_{family}")];
        let found =
            samples.iter().find(|sample| sample.0.get(label.0).is_some_and(|v| v == label.1));
        found.map(|sample| sample.1)
    };
    let admin = ("identity", ADMIN);
    assert_eq!(value("signed_in", admin), Some(1.0));
    assert_eq!(value("signed_in", ("identity", "bob@example.com")), Some(0.0));
    assert_eq!(value("hits_total", admin), Some(2.0));
    assert_eq!(value("waits_total", admin), Some(1.0));
    assert_eq!(value("logins_total", admin), Some(1.0));
    assert_eq!(value("renewals_total", admin), Some(0.0));
    assert_eq!(value("failures_total", ("cause", "refused")), Some(1.0));
    assert_eq!(value("failures_total", ("cause", "unreachable")), Some(1.0));
    for (kind, expected) in
        [("cross_site", 1.0), ("kept", 0.0), ("no_account", 1.0), ("error", 3.0)]
    {
        assert_eq!(value("requests_total", ("status", kind)), Some(expected), "{kind}");
    }
    let (expiry, login) =
        (value("token_expiry_seconds", admin), value("last_login_seconds", admin));
    let life = expiry.expect("a time") - login.expect("a time");
    assert!((86_000.0..=86_400.0).contains(&life), "{life}");
    assert_eq!(value("token_expiry_seconds", ("identity", "bob@example.com")), None);
}

/// nginx does not start, and says why.
#[track_caller]
fn is_refused(builder: &Builder, message: &str) {
    let test = builder.test();
    assert!(!test.ok && test.output.contains(message), "{}", test.output);
}

#[test]
fn the_directive_stands_alone_in_a_location() {
    let line = "npm_token_inject_status;";
    assert!(Nginx::builder().location("= /status", line).test().ok);
    assert!(Nginx::builder().location("/", line).location("= /b", line).test().ok);
    for arguments in ["on", "json", "a b"] {
        is_refused(
            &Nginx::builder()
                .location("= /status", &format!("npm_token_inject_status {arguments};")),
            "invalid number of arguments in \"npm_token_inject_status\" directive",
        );
    }
    let not_here = "\"npm_token_inject_status\" directive is not allowed here";
    is_refused(&Nginx::builder().http(line), not_here);
    is_refused(&Nginx::builder().server(line), not_here);
    is_refused(&Nginx::builder().main(line), not_here);
}
