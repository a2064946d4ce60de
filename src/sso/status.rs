//! What the status page shows: for people, for programs, for Prometheus. No secret, no token.

use std::fmt::Write;

use serde::{Serialize, Serializer};

use super::npm::Cause;
use super::time::iso8601;
use super::token::Millis;

/// What is counted of an account. All zeros at the start.
#[derive(Clone, Copy, Debug, Default, Serialize, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Requests that found a token in the cache.
    pub hits: u64,
    /// Requests that waited for a login.
    pub waits: u64,
    /// How long they waited in all, in milliseconds.
    pub waited_ms: u64,
    /// Logins that gave a token.
    pub logins: u64,
    /// Tokens renewed without a login.
    pub renewals: u64,
    /// Logins and renewals that failed.
    pub failures: u64,
}

impl Counters {
    pub fn add(&mut self, other: &Self) {
        self.hits += other.hits;
        self.waits += other.waits;
        self.waited_ms += other.waited_ms;
        self.logins += other.logins;
        self.renewals += other.renewals;
        self.failures += other.failures;
    }
}

/// What is counted of all requests and logins. All zeros at the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Totals {
    /// Requests that another site started.
    pub cross_site: u64,
    /// Requests with a token of the client's own.
    pub kept: u64,
    /// Requests of users whom no account fits.
    pub no_account: u64,
    /// Requests that went without a token, for NPM gave none.
    pub errors: u64,
    /// Logins that failed, by [`Cause`].
    pub failures_by_cause: [u64; Cause::ALL.len()],
}

/// The state of an account.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There is a token.
    SignedIn,
    /// There will be one soon.
    SigningIn,
    /// There is none, and it is not yet time for the next try.
    Failing,
    /// There is none, and nobody has asked for one lately.
    Idle,
}

impl State {
    fn words(self) -> &'static str {
        match self {
            Self::SignedIn => "signed in",
            Self::SigningIn => "signing in",
            Self::Failing => "failing",
            Self::Idle => "idle",
        }
    }
}

/// An account, as far as it may be shown.
#[derive(Clone, Debug, Serialize)]
pub struct AccountStatus {
    pub identity: String,
    /// The Authentik user whose own NPM user this is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    pub api: String,
    pub state: State,
    #[serde(serialize_with = "in_words")]
    pub token_expires: Option<Millis>,
    #[serde(serialize_with = "in_words")]
    pub last_login: Option<Millis>,
    #[serde(serialize_with = "in_words")]
    pub last_failure: Option<Millis>,
    pub last_error: Option<String>,
    #[serde(serialize_with = "in_words")]
    pub next_try: Option<Millis>,
    #[serde(flatten)]
    pub counters: Counters,
}

fn in_words<S: Serializer>(at: &Option<Millis>, serializer: S) -> Result<S::Ok, S::Error> {
    at.map(iso8601).serialize(serializer)
}

/// All that may be shown.
#[derive(Clone, Debug)]
pub struct Status {
    pub now: Millis,
    pub accounts: Vec<AccountStatus>,
    pub totals: Totals,
}

impl Status {
    /// As JSON.
    pub fn to_json(&self) -> String {
        let failures = Cause::ALL.map(|cause| {
            (cause.as_str().to_owned(), self.totals.failures_by_cause[cause as usize].into())
        });
        let json = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "time": iso8601(self.now),
            "accounts": self.accounts,
            "requests": {
                "cross_site": self.totals.cross_site,
                "kept": self.totals.kept,
                "no_account": self.totals.no_account,
                "error": self.totals.errors,
            },
            "failures": serde_json::Map::from_iter(failures),
        });
        format!("{json:#}\n")
    }

    /// In Prometheus' text format, version 0.0.4.
    pub fn to_prometheus(&self) -> String {
        let mut out = String::new();
        let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, f64)>| {
            let name = format!("npm_token_inject_{name}");
            // Writing to a String does not fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in samples {
                let _ = writeln!(out, "{name}{labels} {value}");
            }
        };
        let of_accounts = |value: &dyn Fn(&AccountStatus) -> Option<f64>| {
            let sample = |account: &AccountStatus| {
                let labels = format!(
                    "{{identity={},api={}}}",
                    label(&account.identity),
                    label(&account.api)
                );
                Some((labels, value(account)?))
            };
            self.accounts.iter().filter_map(sample).collect::<Vec<_>>()
        };
        let count = |counter: fn(&Counters) -> u64| {
            of_accounts(&|account| Some(counter(&account.counters) as f64))
        };
        let seconds = |at: Millis| at as f64 / 1000.0;

        let up = of_accounts(&|account| Some(f64::from(account.state == State::SignedIn)));
        family("signed_in", "gauge", "Whether there is a token for the account.", up);
        let expires = of_accounts(&|account| account.token_expires.map(seconds));
        family("token_expiry_seconds", "gauge", "When the token expires, Unix time.", expires);
        let login = of_accounts(&|account| account.last_login.map(seconds));
        family("last_login_seconds", "gauge", "When NPM last gave a token, Unix time.", login);
        family("hits_total", "counter", "Requests that found a token.", count(|c| c.hits));
        family("waits_total", "counter", "Requests that waited for a login.", count(|c| c.waits));
        let waited = of_accounts(&|account| Some(seconds(account.counters.waited_ms)));
        family("waited_seconds_total", "counter", "How long they waited.", waited);
        family("logins_total", "counter", "Logins that gave a token.", count(|c| c.logins));
        family(
            "renewals_total",
            "counter",
            "Tokens renewed without a login.",
            count(|c| c.renewals),
        );

        let failures = Cause::ALL.map(|cause| {
            let count = self.totals.failures_by_cause[cause as usize];
            (format!("{{cause={}}}", label(cause.as_str())), count as f64)
        });
        family("failures_total", "counter", "Logins that failed.", failures.to_vec());
        let totals = &self.totals;
        let requests = [
            ("cross_site", totals.cross_site),
            ("kept", totals.kept),
            ("no_account", totals.no_account),
            ("error", totals.errors),
        ];
        let requests =
            requests.map(|(status, n)| (format!("{{status={}}}", label(status)), n as f64));
        let help = "Requests that got no token of an account's, by $npm_token_status.";
        family("requests_total", "counter", help, requests.to_vec());
        out
    }

    /// As a page for people: no script, no other file; it loads itself anew every ten seconds.
    pub fn to_html(&self) -> String {
        let mut rows = String::new();
        for account in &self.accounts {
            let time = |at: Option<Millis>| at.map(readable).unwrap_or_default();
            let error = match (&account.last_error, account.last_failure) {
                (Some(error), Some(at)) => {
                    format!("{}<br><small>{}</small>", html(error), readable(at))
                }
                _ => String::new(),
            };
            let c = &account.counters;
            let _ = writeln!(
                rows,
                "<tr><th>{identity}<br><small>{user}{api}</small></th>\
                 <td data-name=\"State\" class=\"{class}\">{state}{next}</td>\
                 <td data-name=\"Token expires\">{expires}</td>\
                 <td data-name=\"Last login\">{login}</td>\
                 <td data-name=\"Last error\">{error}</td>\
                 <td data-name=\"Requests\">{hits} at once, {waits} after {waited} ms</td>\
                 <td data-name=\"Logins\">{logins}, {renewals} renewals, {failures} failures</td></tr>",
                identity = html(&account.identity),
                user = account.user.as_ref().map(|user| format!("{}, ", html(user))).unwrap_or_default(),
                api = html(&account.api),
                class = if account.state == State::Failing { "bad" } else { "" },
                state = account.state.words(),
                next = account.next_try.map(|at| format!(", next try {}", readable(at))).unwrap_or_default(),
                expires = time(account.token_expires),
                login = time(account.last_login),
                hits = c.hits,
                waits = c.waits,
                waited = c.waited_ms.checked_div(c.waits).unwrap_or_default(),
                logins = c.logins,
                renewals = c.renewals,
                failures = c.failures,
            );
        }
        if rows.is_empty() {
            rows.push_str("<tr><td>Nobody has asked for a token yet.</td></tr>");
        }
        let t = &self.totals;
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"refresh\" content=\"10\">\n<title>NPM tokens</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<h1>NPM tokens</h1>\n<table>\n\
             <thead><tr><td>Account</td><td>State</td><td>Token expires</td><td>Last login</td>\
             <td>Last error</td><td>Requests</td><td>Logins</td></tr></thead>\n<tbody>\n{rows}\
             </tbody>\n</table>\n<p>Other requests: {cross_site} from other sites, {kept} with a \
             token of their own, {no_account} of users without an account, {errors} without a token \
             for NPM gave none.</p>\n<p><small>{now} · version {version} · \
             <a href=\"?format=json\">JSON</a> · \
             <a href=\"?format=prometheus\">Prometheus</a></small></p>\n</body>\n</html>\n",
            cross_site = t.cross_site,
            kept = t.kept,
            no_account = t.no_account,
            errors = t.errors,
            now = readable(self.now),
            version = env!("CARGO_PKG_VERSION"),
        )
    }
}

const STYLE: &str =
    "body{font:16px/1.4 system-ui,sans-serif;margin:1rem;color:#222;background:#fff}\
table{border-collapse:collapse}td,th{padding:.4rem .8rem;text-align:left;vertical-align:top;\
border-top:1px solid #ccc;font-weight:normal}th{font-weight:bold}thead td{border:0;color:#666}\
small{color:#666;font-weight:normal}.bad{color:#b00}\
@media(max-width:50rem){thead{display:none}tr,td,th{display:block;border:0;padding:.1rem 0}\
tr{border-top:1px solid #ccc;padding:.6rem 0}td:empty{display:none}\
td[data-name]::before{content:attr(data-name) \": \";color:#666}}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#111}.bad{color:#f66}\
small,thead td,td::before{color:#999!important}a{color:#8bf}}";

/// A time as a person reads it: UTC, to the second.
fn readable(at: Millis) -> String {
    let text = iso8601(at);
    let (date_and_time, _) = text.split_once('.').unwrap_or((&text, ""));
    format!("{} UTC", date_and_time.replace('T', " "))
}

fn html(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn label(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Status {
        let counters =
            Counters { hits: 5, waits: 2, waited_ms: 840, logins: 1, renewals: 3, failures: 1 };
        let account = AccountStatus {
            identity: "a\"<b>&\\@example.com".to_owned(),
            user: None,
            api: "http://127.0.0.1:81".to_owned(),
            state: State::Failing,
            token_expires: None,
            last_login: Some(1_700_000_000_000),
            last_failure: Some(1_700_000_100_000),
            last_error: Some("NPM refused identity and secret".to_owned()),
            next_try: Some(1_700_000_160_000),
            counters,
        };
        let totals = Totals { cross_site: 7, ..Totals::default() };
        Status { now: 1_700_000_120_000, accounts: vec![account], totals }
    }

    #[test]
    fn json_says_what_there_is_to_say_of_an_account() {
        let json: serde_json::Value = serde_json::from_str(&status().to_json()).unwrap();
        let account = &json["accounts"][0];
        assert_eq!(account["identity"], "a\"<b>&\\@example.com");
        assert_eq!(account["state"], "failing");
        assert_eq!(account["token_expires"], serde_json::Value::Null);
        assert_eq!(account["last_login"], "2023-11-14T22:13:20.000Z");
        assert_eq!(account["last_error"], "NPM refused identity and secret");
        assert_eq!(account["waited_ms"], 840);
        assert_eq!(json["requests"]["cross_site"], 7);
        assert_eq!(json["failures"]["timeout"], 0);
    }

    #[test]
    fn prometheus_labels_are_escaped() {
        let text = status().to_prometheus();
        let line = r#"npm_token_inject_hits_total{identity="a\"<b>&\\@example.com",api="http://127.0.0.1:81"} 5"#;
        assert!(text.lines().any(|l| l == line), "{text}");
        assert!(text.contains("\nnpm_token_inject_waited_seconds_total{"), "{text}");
        assert!(
            text.contains("\nnpm_token_inject_failures_total{cause=\"refused\"} 0\n"),
            "{text}"
        );
        assert!(!text.contains("token_expiry_seconds{"), "{text}");
    }

    #[test]
    fn the_page_escapes_what_it_shows_and_loads_nothing() {
        let page = status().to_html();
        assert!(page.contains("a&quot;&lt;b&gt;&amp;\\@example.com"), "{page}");
        assert!(page.contains("failing, next try 2023-11-14 22:16:00 UTC"), "{page}");
        for not_in in ["<script", "src=", "<b>", "url(", "@import"] {
            assert!(!page.contains(not_in), "{not_in}");
        }
    }
}
