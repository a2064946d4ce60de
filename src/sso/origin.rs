//! Which site started a request.
//!
//! A browser sends cookies along with whatever a page asks for, and with them the Authentik
//! session. So that no other site can act with it, only requests of NPM's own page get a token,
//! and navigations, which is how a person comes to that page.

use super::path;

/// What a browser says of the page that started a request, and where the request goes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Provenance<'a> {
    /// `Sec-Fetch-Site`, sent on https and on localhost (W3C Fetch Metadata).
    pub fetch_site: Option<&'a [u8]>,
    /// `Sec-Fetch-Mode`.
    pub fetch_mode: Option<&'a [u8]>,
    /// `Sec-Fetch-Dest`.
    pub fetch_dest: Option<&'a [u8]>,
    /// `Origin` (RFC 6454, section 7).
    pub origin: Option<&'a [u8]>,
    /// `Accept`.
    pub accept: Option<&'a [u8]>,
}

/// What a request is for, and the site that it came to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// It is GET or HEAD. A form that posts is a navigation as well.
    pub is_read: bool,
    /// Where it goes, see [`path::is_api`].
    pub path: &'a [u8],
    /// Pages of other sites may frame it: they lead to it as a link does.
    pub may_be_framed: bool,
    pub is_https: bool,
    pub host: &'a [u8],
}

impl Provenance<'_> {
    /// Whether another site than the target's started the request. Programs that are no browsers
    /// say nothing of the kind; no site can start those.
    #[inline(always)]
    pub fn is_cross_site<'a>(&self, target: impl FnOnce() -> Target<'a>) -> bool {
        match (self.fetch_site, self.origin) {
            (None | Some(b"same-origin" | b"none"), None) => false,
            _ => self.is_from_elsewhere(target()),
        }
    }

    /// The same of a request of which the browser says more than that its own page started it.
    #[inline(never)]
    fn is_from_elsewhere(&self, target: Target) -> bool {
        match (self.fetch_site, self.origin) {
            // The host alone: where TLS ends before nginx, the scheme is another.
            (Some(b"same-origin" | b"none"), Some(origin)) if !target.is_read => {
                !has_host(origin, target.host)
            }
            (Some(b"same-origin" | b"none"), _) => false,
            // A person may be led to a page, and to nothing else.
            (Some(_), _) => {
                !target.is_read || !self.leads_to_page(target) || path::is_api(target.path)
            }
            (None, Some(origin)) => !is_same_origin(origin, target.is_https, target.host),
            (None, None) => false,
        }
    }

    /// Whether the answer is going to be a page in the browser's window, as far as the browser
    /// says.
    pub fn is_navigation(&self) -> bool {
        match (self.fetch_mode, self.accept) {
            (Some(mode), _) => mode == b"navigate",
            // Browsers ask for a page first, and for other things if there is none.
            (None, Some(accept)) => accept.starts_with(b"text/html"),
            (None, None) => false,
        }
    }

    fn leads_to_page(&self, target: Target) -> bool {
        let is_page = match self.fetch_dest {
            Some(b"document") => true,
            Some(b"iframe" | b"frame") => target.may_be_framed,
            _ => false,
        };
        is_page && self.fetch_mode == Some(b"navigate")
    }
}

fn has_host(origin: &[u8], host: &[u8]) -> bool {
    [false, true].iter().any(|&https| is_same_origin(origin, https, host))
}

fn is_same_origin(origin: &[u8], https: bool, host: &[u8]) -> bool {
    let scheme: &[u8] = if https { b"https://" } else { b"http://" };
    let Some((theirs, authority)) = origin.split_at_checked(scheme.len()) else {
        return false;
    };
    !authority.is_empty()
        && theirs.eq_ignore_ascii_case(scheme)
        && without_default_port(authority, https)
            .eq_ignore_ascii_case(without_default_port(host, https))
}

fn without_default_port(authority: &[u8], https: bool) -> &[u8] {
    let port: &[u8] = if https { b":443" } else { b":80" };
    // What has two ports is no browser's, and not the same as what has one.
    let host = authority.strip_suffix(port).filter(|h| h.ends_with(b"]") || !h.contains(&b':'));
    host.unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Target = Target {
        is_read: true,
        path: b"/",
        may_be_framed: false,
        is_https: true,
        host: b"npm.example.com",
    };

    fn from_fetch(site: &str, mode: &str, dest: &str, is_read: bool) -> bool {
        let provenance = Provenance {
            fetch_site: Some(site.as_bytes()),
            fetch_mode: Some(mode.as_bytes()),
            fetch_dest: Some(dest.as_bytes()),
            ..Provenance::default()
        };
        provenance.is_cross_site(|| Target { is_read, ..PAGE })
    }

    fn from_origin(origin: &str, https: bool, host: &str) -> bool {
        let provenance = Provenance { origin: Some(origin.as_bytes()), ..Provenance::default() };
        let host = host.as_bytes();
        provenance.is_cross_site(|| Target { is_read: false, is_https: https, host, ..PAGE })
    }

    #[test]
    fn npms_own_page_and_the_address_bar_are_no_other_site() {
        assert!(!from_fetch("same-origin", "cors", "empty", false));
        assert!(!from_fetch("same-origin", "navigate", "document", false));
        assert!(!from_fetch("none", "navigate", "document", true));
    }

    #[test]
    fn another_site_may_lead_to_the_page_and_no_further() {
        for site in ["cross-site", "same-site"] {
            assert!(!from_fetch(site, "navigate", "document", true), "a link, or a redirect");
            assert!(from_fetch(site, "navigate", "document", false), "a form that posts");
            for (mode, dest) in [
                ("navigate", "iframe"),
                ("navigate", "frame"),
                ("navigate", "embed"),
                ("navigate", "object"),
                ("no-cors", "image"),
                ("no-cors", "script"),
                ("no-cors", "document"),
                ("cors", "empty"),
                ("websocket", "websocket"),
            ] {
                assert!(from_fetch(site, mode, dest, true), "{site} {mode} {dest}");
            }
        }
    }

    #[test]
    fn where_other_sites_may_frame_the_page_they_lead_to_it() {
        let framed = Target { may_be_framed: true, ..PAGE };
        for (dest, target, is_other) in [
            ("iframe", framed, false),
            ("frame", framed, false),
            ("document", framed, false),
            ("iframe", PAGE, true),
            ("embed", framed, true),
            ("object", framed, true),
            ("empty", framed, true),
            ("iframe", Target { is_read: false, ..framed }, true),
            ("iframe", Target { path: b"/api/users", ..framed }, true),
        ] {
            let provenance = Provenance {
                fetch_site: Some(b"same-site"),
                fetch_mode: Some(b"navigate"),
                fetch_dest: Some(dest.as_bytes()),
                ..Provenance::default()
            };
            assert_eq!(provenance.is_cross_site(|| target), is_other, "{dest} {target:?}");
        }
    }

    #[test]
    fn an_unknown_fetch_site_is_another_site() {
        for site in ["", "same-origin, cross-site", "SAME-ORIGIN", "something-new"] {
            assert!(from_fetch(site, "cors", "empty", true), "{site}");
        }
    }

    #[test]
    fn the_browsers_word_on_the_site_goes_before_the_origin() {
        let provenance = Provenance {
            fetch_site: Some(b"cross-site"),
            origin: Some(b"https://npm.example.com"),
            ..Provenance::default()
        };
        assert!(provenance.is_cross_site(|| PAGE));
    }

    #[test]
    fn a_write_of_another_origin_is_another_sites_whatever_the_browser_says() {
        for site in ["same-origin", "none"] {
            for (origin, is_other) in [
                ("https://npm.example.com", false),
                ("http://npm.example.com", false),
                ("https://npm.example.com:443", false),
                ("null", true),
                ("", true),
                ("https://npm.example.com:8443", true),
                ("https://example.com", true),
                ("https://evil.example", true),
            ] {
                let provenance = Provenance {
                    fetch_site: Some(site.as_bytes()),
                    origin: Some(origin.as_bytes()),
                    ..Provenance::default()
                };
                let write = Target { is_read: false, ..PAGE };
                assert_eq!(provenance.is_cross_site(|| write), is_other, "{site} {origin}");
                assert!(!provenance.is_cross_site(|| PAGE), "{site} {origin}");
            }
        }
    }

    #[test]
    fn another_site_leads_to_no_answer_of_the_api() {
        let api = Target { path: b"/api/users", ..PAGE };
        for (site, is_other) in
            [("cross-site", true), ("same-site", true), ("same-origin", false), ("none", false)]
        {
            let provenance = Provenance {
                fetch_site: Some(site.as_bytes()),
                fetch_mode: Some(b"navigate"),
                fetch_dest: Some(b"document"),
                ..Provenance::default()
            };
            assert_eq!(provenance.is_cross_site(|| api), is_other, "{site}");
        }
    }

    #[test]
    fn the_origin_is_compared_with_the_host_by_scheme_name_and_port() {
        for (origin, https, host) in [
            ("https://npm.example.com", true, "npm.example.com"),
            ("https://npm.example.com", true, "NPM.example.COM:443"),
            ("HTTPS://Npm.Example.com:443", true, "npm.example.com"),
            ("http://npm.example.com", false, "npm.example.com:80"),
            ("http://127.0.0.1:8181", false, "127.0.0.1:8181"),
            ("http://[::1]:8181", false, "[::1]:8181"),
            ("http://[::1]", false, "[::1]:80"),
        ] {
            assert!(!from_origin(origin, https, host), "{origin} {host}");
        }
        for (origin, https, host) in [
            ("null", false, "npm.example.com"),
            ("", false, "npm.example.com"),
            ("http://", false, ""),
            ("http://npm.example.com", true, "npm.example.com"),
            ("https://npm.example.com", false, "npm.example.com"),
            ("https://npm.example.com:8443", true, "npm.example.com"),
            ("https://npm.example.com", true, "npm.example.com:8443"),
            ("https://npm.example.com:80", true, "npm.example.com"),
            ("https://npm.example.com:8443:443", true, "npm.example.com:8443"),
            ("https://example.com", true, "npm.example.com"),
            ("https://evil.npm.example.com", true, "npm.example.com"),
            ("https://npm.example.com.evil.org", true, "npm.example.com"),
            ("https://evil.org/npm.example.com", true, "npm.example.com"),
        ] {
            assert!(from_origin(origin, https, host), "{origin} {host}");
        }
    }

    #[test]
    fn programs_that_are_no_browsers_are_no_other_site() {
        for is_read in [false, true] {
            let api = Target { is_read, path: b"/api/users", ..PAGE };
            assert!(!Provenance::default().is_cross_site(|| api));
        }
    }

    #[test]
    fn a_navigation_is_told_from_what_a_page_loads() {
        let mode = |mode: &'static [u8]| Provenance {
            fetch_mode: Some(mode),
            accept: Some(b"text/html"),
            ..Provenance::default()
        };
        assert!(mode(b"navigate").is_navigation());
        assert!(!mode(b"cors").is_navigation());
        let accept =
            |accept: &'static [u8]| Provenance { accept: Some(accept), ..Provenance::default() };
        assert!(accept(b"text/html,application/xhtml+xml,*/*;q=0.8").is_navigation());
        assert!(!accept(b"*/*").is_navigation());
        assert!(!accept(b"application/json").is_navigation());
        assert!(!Provenance::default().is_navigation());
    }
}
