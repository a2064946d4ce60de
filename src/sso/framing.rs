//! Who may frame NPM's UI.
//!
//! In a frame, invisible, it would have its user's clicks done by whoever placed it there: what
//! such a frame asks for is no other site's, it comes from NPM's own page.

use std::borrow::Cow;

use thiserror::Error;

/// What is wrong with a list of those who may.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FramingError {
    #[error(
        "\"{0}\" is neither 'self', with its quotes, nor an origin such as \
         https://dash.example.com:8443; several are separated by commas"
    )]
    NotAnAncestor(String),
    #[error("'none' stands alone")]
    NotAlone,
}

/// What a page says of who may frame it.
#[derive(Debug, PartialEq, Eq)]
pub struct Framing {
    /// For the header `Content-Security-Policy` (CSP 3, section 6.4.2).
    pub policy: Cow<'static, str>,
    /// The same for older browsers' `X-Frame-Options`, as far as that can say it.
    pub options: Option<&'static str>,
}

impl Framing {
    /// NPM's own pages alone.
    pub const SELF: Self =
        Self { policy: Cow::Borrowed("frame-ancestors 'self'"), options: Some("SAMEORIGIN") };

    /// Whether it names other origins than NPM's own.
    pub fn names_others(&self) -> bool {
        self.options.is_none()
    }

    /// Reads what the parameter `frame_ancestors` says.
    ///
    /// # Errors
    ///
    /// When it is no list of origins and `'self'`, or `'none'`.
    pub fn parse(list: &str) -> Result<Self, FramingError> {
        let ancestors: Vec<&str> = list.split(',').collect();
        let other =
            ancestors.iter().find(|one| !matches!(**one, "'self'" | "'none'") && !is_origin(one));
        if let Some(other) = other {
            return Err(FramingError::NotAnAncestor((*other).to_owned()));
        }
        if ancestors.len() > 1 && ancestors.contains(&"'none'") {
            return Err(FramingError::NotAlone);
        }
        let options = match ancestors[..] {
            ["'self'"] => Some("SAMEORIGIN"),
            ["'none'"] => Some("DENY"),
            _ => None,
        };
        Ok(Self { policy: format!("frame-ancestors {}", ancestors.join(" ")).into(), options })
    }
}

/// Whether it is `http://` or `https://`, a host, and perhaps a port. (That directive knows no
/// IPv6 addresses.)
fn is_origin(text: &str) -> bool {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(authority) = authority else { return false };
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    let is_port = |port: &str| {
        port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    };
    host.split('.').all(is_label) && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_are_origins_and_self() {
        for (list, policy, options) in [
            ("'self'", "frame-ancestors 'self'", Some("SAMEORIGIN")),
            ("'none'", "frame-ancestors 'none'", Some("DENY")),
            ("https://dash.example.com", "frame-ancestors https://dash.example.com", None),
            (
                "'self',https://dash.example.com:8443,http://10.0.0.1:80",
                "frame-ancestors 'self' https://dash.example.com:8443 http://10.0.0.1:80",
                None,
            ),
            ("http://my_nas", "frame-ancestors http://my_nas", None),
        ] {
            let framing = Framing::parse(list).unwrap();
            assert_eq!((&*framing.policy, framing.options), (policy, options), "{list}");
        }
        assert_eq!(Framing::parse("'self'"), Ok(Framing::SELF));
    }

    #[test]
    fn nothing_else_gets_into_the_policy() {
        for list in [
            "",
            "self",
            "none",
            "*",
            "'self',",
            ",'self'",
            "'self', https://dash.example.com",
            "https:",
            "https://",
            "https://*",
            "https://*.example.com",
            "https://dash.example.com/",
            "https://dash.example.com/path",
            "https://dash.example.com;script-src",
            "https://dash.example.com https://evil.example",
            "https://dash.example.com\r\nX: y",
            "https://user@dash.example.com",
            "https://.example.com",
            "https://dash.example.com.",
            "https://dash.example.com:",
            "https://dash.example.com:0",
            "https://dash.example.com:+1",
            "https://dash.example.com:65536",
            "https://[::1]",
            "HTTPS://dash.example.com",
            "ftp://dash.example.com",
            "dash.example.com",
            "https://d\u{e4}sh.example.com",
        ] {
            let error = Framing::parse(list).unwrap_err();
            assert!(matches!(error, FramingError::NotAnAncestor(_)), "{list}");
        }
        for list in ["'none','self'", "https://dash.example.com,'none'", "'none','none'"] {
            assert_eq!(Framing::parse(list), Err(FramingError::NotAlone), "{list}");
        }
    }
}
