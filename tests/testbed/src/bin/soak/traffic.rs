//! The clients: what they ask for, and what they are to get.

use std::time::Duration;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde_json::Value;
use testbed::client::RequestBuilder;
use testbed::{Client, Reply, TOKEN_BEGINNING};

use super::judge::{Problem, Symptom};
use super::people::{By, Host, User};
use super::World;

/// How long a client pauses between two requests.
const BREATH: Duration = Duration::from_millis(30);

/// How long a token lives that a client has itself: longer than NPM's clock is ever off.
const OWN_LIFETIME: Duration = Duration::from_secs(3 * 60 * 60);

/// How long the body of a form is.
const BODY: usize = 20_000;

type Verdict = Result<(), Problem>;

/// What `/api/users/me` is, which NPM's UI asks for first.
const ME: &str = "/api/users/me";

impl World {
    /// Sends requests until all is over.
    pub fn visit(&self, number: u64) {
        let mut dice = Dice(number + 1);
        let mut client = self.site.nginx.client();
        while !self.stop.pause(BREATH) {
            let Some(_pass) = self.gate.pass() else {
                // Leaves no connection behind.
                client = self.site.nginx.client();
                self.gate.wait();
                continue;
            };
            let user = self.somebody(&mut dice);
            match dice.throw(20) {
                0 | 1 => self.page(&client, user),
                2..=4 => self.post(&client, user),
                5 | 6 => self.cross_site(&client, user),
                7 | 8 => self.own_token(&client, &mut dice),
                9 => self.stranger(&client),
                10 => self.without_session(&client),
                11 => self.leave(user, &mut dice),
                12 => self.wrong_password(&client),
                _ => self.api(&client, user),
            }
        }
    }

    fn somebody(&self, dice: &mut Dice) -> &User {
        let people = &self.people;
        match dice.throw(20) {
            0..=8 => self.named(dice),
            9..=13 => dice.one_of(&people.persons[0]),
            14..=17 => dice.one_of(&people.persons[1]),
            _ => dice.one_of(&people.keepers),
        }
    }

    /// The last of them comes rarely.
    fn named(&self, dice: &mut Dice) -> &User {
        let named = &self.people.named;
        match dice.throw(50) {
            0 => &named[named.len() - 1],
            throw => &named[throw % (named.len() - 1)],
        }
    }

    /// Who am I?
    fn api(&self, client: &Client, user: &User) {
        let ticket = user.ticket();
        let request = to(user.host, client, "GET", ME).cookie(&ticket.session);
        self.judge("API", user, request, |reply| {
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            match token(reply) {
                Ok(()) if reply.status != 200 => return Err(Problem::refused(reply)),
                Err(problem) if problem.symptom.has_no_token() && reply.status == 200 => {
                    return wrong(&format!("signed in as {} without a token", body["email"]));
                }
                other => other?,
            }
            same("user", body["email"].as_str().unwrap_or_default(), &user.identity)?;
            let roles = body["roles"].as_array().map_or(0, Vec::len);
            match ticket.is_standard && roles > 0 {
                true => wrong("an administrator, by groups that make none"),
                false => Ok(()),
            }
        });
    }

    /// NPM's page, as a browser opens it.
    fn page(&self, client: &Client, user: &User) {
        let request = to(user.host, client, "GET", "/")
            .cookie(&user.ticket().session)
            .header("Accept", "text/html,application/xhtml+xml")
            .header("Sec-Fetch-Site", "none")
            .header("Sec-Fetch-Mode", "navigate")
            .header("Sec-Fetch-Dest", "document");
        self.judge("page", user, request, |reply| {
            let page = reply.text();
            if page.contains(TOKEN_BEGINNING) {
                return wrong("a token in the page");
            }
            token(reply)?;
            is(reply, 200)?;
            match page.contains("npm-token-inject-") {
                true => Ok(()),
                false => wrong("no marker in the page"),
            }
        });
    }

    /// A form, which comes to NPM whole and once, with the token of its user.
    fn post(&self, client: &Client, user: &User) {
        let request = to(user.host, client, "POST", "/echo")
            .cookie(&user.ticket().session)
            .header("Sec-Fetch-Site", "same-origin")
            .header("Authorization", "Bearer managed")
            .body("x".repeat(BODY));
        self.judge("POST", user, request, |reply| {
            if let Err(problem) = token(reply) {
                return without_token(reply).and(Err(problem));
            }
            is(reply, 200)?;
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            same("body", body["body_length"].as_u64(), Some(BODY as u64))?;
            let [one] = authorizations(&body)[..] else {
                return wrong(&format!("sent {} tokens", authorizations(&body).len()));
            };
            let Some(claims) = claims(one) else { return wrong(&format!("sent {one:?}")) };
            if let By::Name { id } = user.by {
                same("user", claims["attrs"]["id"].as_u64(), Some(id))?;
            }
            // What has reached NPM a moment ago has not ended since; but for this process's.
            let clock = i64::try_from(self.npms[user.host.npm()].seconds()).unwrap_or_default();
            match claims["exp"].as_i64().unwrap_or_default() - clock {
                left if left < -1 => {
                    let detail = format!("sent a token that ended {} s ago", -left);
                    Err(Problem { symptom: Symptom::Refused, detail })
                }
                _ => Ok(()),
            }
        });
    }

    /// What another site starts.
    fn cross_site(&self, client: &Client, user: &User) {
        let request = to(user.host, client, "POST", "/echo")
            .cookie(&user.ticket().session)
            .header("Origin", "https://evil.example")
            .header("Sec-Fetch-Site", "cross-site")
            .body("name=x");
        self.judge("cross-site", user, request, |reply| {
            reached_npm(reply)?;
            same("token status", status(reply), "cross_site")?;
            without_token(reply)
        });
    }

    /// A token of NPM's that the client has itself: kept for an administrator, and for nobody else
    /// but where there is no other.
    fn own_token(&self, client: &Client, dice: &mut Dice) {
        let (user, owner) = (self.named(dice), dice.one_of(&self.people.named));
        let token_of_owner = self.npms[0].issue_token(&owner.identity, OWN_LIFETIME);
        let request = to(user.host, client, "GET", ME).cookie(&user.ticket().session);
        let is_administrator = std::ptr::eq(user, &self.people.named[0]);
        self.judge("own token", user, request.bearer(&token_of_owner), |reply| {
            reached_npm(reply)?;
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            let seen = body["email"].as_str().unwrap_or_default();
            match (status(reply), reply.status) {
                ("kept", 200) => {
                    same("user", seen, &owner.identity)?;
                    Problem::unless(is_administrator, Symptom::NoToken, "kept")
                }
                ("kept", _) => Err(Problem::of(Symptom::OwnRefused, reply)),
                ("hit" | "miss", 200) => {
                    same("user", seen, &user.identity)?;
                    Problem::unless(!is_administrator, Symptom::NotKept, "not kept")
                }
                ("hit" | "miss", _) => Err(Problem::refused(reply)),
                (other, _) => wrong(&format!("token status {other:?}")),
            }
        });
    }

    /// Authentik knows the user, whose groups shut them out.
    fn stranger(&self, client: &Client) {
        let request = to(Host::First, client, "GET", "/echo").cookie(&self.people.stranger);
        self.judge_of_nobody("no account", request.bearer("managed"), |reply| {
            reached_npm(reply)?;
            same("token status", status(reply), "no_account")?;
            without_token(reply)
        });
    }

    /// Nobody, who says to be somebody.
    fn without_session(&self, client: &Client) {
        let request = to(Host::First, client, "GET", "/echo");
        let request = request.header("X-authentik-username", "akadmin");
        self.judge_of_nobody("no session", request, |reply| {
            reached_npm(reply)?;
            is(reply, 302)
        });
    }

    /// Somebody for whom Authentik keeps a password that is not theirs.
    fn wrong_password(&self, client: &Client) {
        let user = &self.people.wrong;
        let request = to(user.host, client, "GET", "/echo").cookie(&user.ticket().session);
        self.judge("wrong password", user, request, |reply| {
            reached_npm(reply)?;
            same("token status", status(reply), "error")?;
            without_token(reply)
        });
    }

    /// A client that leaves before it has an answer, or while it sends.
    fn leave(&self, user: &User, dice: &mut Dice) {
        let (host, cookie) = (user.host.name(), user.ticket().session.cookie());
        let request = match dice.throw(2) {
            0 => format!("GET {ME} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\r\n"),
            _ => format!(
                "POST /echo HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\n\
                 Content-Length: {BODY}\r\n\r\nonly the beginning"
            ),
        };
        self.judge.attempt("left", || {
            let mut stream = self.site.nginx.client().connect()?;
            stream.write_all(request.as_bytes())?;
            stream.flush()
        });
    }

    fn judge(
        &self,
        kind: &'static str,
        user: &User,
        request: RequestBuilder<'_>,
        check: impl FnOnce(&Reply) -> Verdict,
    ) {
        self.judge.request(&self.site.nginx, kind, Some(user), request, check);
    }

    fn judge_of_nobody(
        &self,
        kind: &'static str,
        request: RequestBuilder<'_>,
        check: impl FnOnce(&Reply) -> Verdict,
    ) {
        self.judge.request(&self.site.nginx, kind, None, request, check);
    }
}

fn to<'c>(host: Host, client: &'c Client, method: &str, target: &str) -> RequestBuilder<'c> {
    client.request(method, target).header("Host", host.name())
}

pub fn status(reply: &Reply) -> &str {
    reply.header("X-Status").unwrap_or_default()
}

fn wrong(detail: &str) -> Verdict {
    Err(Problem { symptom: Symptom::Wrong, detail: detail.to_owned() })
}

fn is(reply: &Reply, status: u16) -> Verdict {
    same("status", reply.status, status)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Verdict {
    match found == expected {
        true => Ok(()),
        false => wrong(&format!("{what} {found:?} instead of {expected:?}")),
    }
}

/// NPM has answered, and not nginx in its place. NPM's own errors are JSON.
fn reached_npm(reply: &Reply) -> Verdict {
    let is_json = reply.header("Content-Type").is_some_and(|kind| kind.contains("json"));
    Problem::unless(reply.status < 500 || is_json, Symptom::Unavailable, "an error of nginx's")
}

/// The request had a token.
fn token(reply: &Reply) -> Verdict {
    reached_npm(reply)?;
    match status(reply) {
        "hit" | "miss" => Ok(()),
        "error" => Err(Problem::of(Symptom::NoToken, reply)),
        "no_account" => Err(Problem::of(Symptom::NoAccount, reply)),
        other => wrong(&format!("token status {other:?}")),
    }
}

/// The request to `/echo` reached NPM without any `Authorization`.
fn without_token(reply: &Reply) -> Verdict {
    reached_npm(reply)?;
    is(reply, 200)?;
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    same("tokens sent:", authorizations(&body).len(), 0)
}

/// Every `Authorization` that reached NPM, by its own words.
fn authorizations(echo: &Value) -> Vec<&str> {
    let headers = echo["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = headers.iter().filter(|pair| {
        pair[0].as_str().is_some_and(|name| name.eq_ignore_ascii_case("authorization"))
    });
    named.filter_map(|pair| pair[1].as_str()).collect()
}

/// What a JWT says.
fn claims(authorization: &str) -> Option<Value> {
    let payload = authorization.strip_prefix("Bearer ")?.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

/// Numbers in no order, the same each time (Knuth's MMIX).
pub struct Dice(pub u64);

impl Dice {
    pub fn throw(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }

    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.throw(all.len())]
    }
}
