//! The parameters of the directive `npm_token_inject`, as they are written.

use std::collections::BTreeMap;

use thiserror::Error;

use super::framing::{Framing, FramingError};
use super::groups::Separator;
use super::npm::BaseUrl;
use super::variables::{is_from_client, names};

/// What is wrong with them, in words that follow the directive's name.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ParameterError {
    #[error("unknown parameter \"{0}\"")]
    Unknown(String),
    #[error("duplicate parameter \"{0}\"")]
    Duplicate(&'static str),
    #[error("parameter \"{0}\" has no value")]
    Empty(&'static str),
    #[error(
        "invalid value \"{value}\" of parameter \"{name}\": it is \"{first}\" or \"{second}\""
    )]
    InvalidWord { name: &'static str, value: String, first: &'static str, second: &'static str },
    #[error("invalid value \"{0}\" of parameter \"sign_out\": it is a path that begins with \"/\", or an http URL")]
    InvalidSignOut(String),
    #[error("\"sign_out\" needs browser=on")]
    SignOutWithoutBrowser,
    #[error("invalid value of parameter \"api\": {0}")]
    InvalidApi(String),
    #[error("invalid value of parameter \"frame_ancestors\": {0}")]
    InvalidFrameAncestors(#[from] FramingError),
    #[error(
        "\"{parameter}\" comes from the client: anybody could send ${variable}; \
         take it from the answer to auth_request, with auth_request_set, \
         or say trust_headers=on where nobody can reach this server but through a proxy that sets it"
    )]
    FromClient { parameter: &'static str, variable: String },
}

/// What becomes of a request for which there is no token: the parameter `on_error`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    Pass,
    Deny,
}

/// What becomes of a token that the client sends itself: the parameter `client_token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientToken {
    Keep,
    Replace,
}

/// How NPM's page opens: the parameter `browser`, where it is on.
#[derive(Debug, PartialEq, Eq)]
pub struct Browser {
    /// Where the UI's Logout leads to: the parameter `sign_out`.
    pub sign_out: Option<String>,
}

/// The parameters that say who a user is, as texts that may name variables.
const IDENTITY: [&str; 5] = ["user", "email", "groups", "name", "credentials"];

/// All others.
const OTHERS: [&str; 8] = [
    "groups_separator",
    "api",
    "on_error",
    "client_token",
    "browser",
    "sign_out",
    "frame_ancestors",
    "trust_headers",
];

/// What they say.
#[derive(Debug, PartialEq, Eq)]
pub struct Parameters<'a> {
    pub user: &'a [u8],
    pub email: Option<&'a [u8]>,
    pub groups: Option<&'a [u8]>,
    pub name: Option<&'a [u8]>,
    pub credentials: Option<&'a [u8]>,
    pub groups_separator: Separator,
    pub api: Option<BaseUrl>,
    pub on_error: OnError,
    pub client_token: ClientToken,
    pub browser: Option<Browser>,
    pub framing: Framing,
    pub trust_headers: bool,
    /// The variables that they name, in lowercase, each with its parameter.
    pub variables: Vec<(&'static str, String)>,
}

impl<'a> Parameters<'a> {
    /// Reads what follows the name of the accounts file.
    ///
    /// # Errors
    ///
    /// When anything is not what it may be. What follows the name of an unknown parameter may be a
    /// secret: it is not quoted.
    pub fn parse(arguments: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, ParameterError> {
        let written = Written::read(arguments)?;
        let parameters = Self {
            on_error: written
                .word("on_error", [("pass", OnError::Pass), ("deny", OnError::Deny)])?,
            client_token: written.word(
                "client_token",
                [("keep", ClientToken::Keep), ("replace", ClientToken::Replace)],
            )?,
            groups_separator: written
                .word("groups_separator", [("|", Separator::Bar), (",", Separator::Comma)])?,
            trust_headers: written.word("trust_headers", [("off", false), ("on", true)])?,
            api: match written.text("api") {
                Some(api) => Some(BaseUrl::try_from(api).map_err(ParameterError::InvalidApi)?),
                None => None,
            },
            browser: written.browser()?,
            framing: match written.text("frame_ancestors") {
                Some(list) => Framing::parse(&list)?,
                None => Framing::SELF,
            },
            user: written.get("user").unwrap_or(b"$authentik_username"),
            email: written.get("email"),
            groups: written.get("groups"),
            name: written.get("name"),
            credentials: written.get("credentials"),
            variables: written.variables(),
        };
        if !parameters.trust_headers {
            if let Some((parameter, variable)) =
                parameters.variables.iter().find(|(_, name)| is_from_client(name))
            {
                return Err(ParameterError::FromClient { parameter, variable: variable.clone() });
            }
        }
        Ok(parameters)
    }

    /// Whether everybody is one and the same user.
    pub fn is_one_user(&self) -> bool {
        names(self.user).is_empty()
    }
}

/// The values that are given, by the names of their parameters.
struct Written<'a>(BTreeMap<&'static str, &'a [u8]>);

impl<'a> Written<'a> {
    fn read(arguments: impl IntoIterator<Item = &'a [u8]>) -> Result<Self, ParameterError> {
        let mut written = BTreeMap::new();
        for argument in arguments {
            let equals = argument.iter().position(|&b| b == b'=');
            let (name, value) = argument.split_at(equals.unwrap_or(argument.len()));
            let known = IDENTITY.iter().chain(&OTHERS).find(|known| known.as_bytes() == name);
            let (Some(name), [b'=', value @ ..]) = (known, value) else {
                return Err(ParameterError::Unknown(String::from_utf8_lossy(name).into_owned()));
            };
            if value.is_empty() {
                return Err(ParameterError::Empty(name));
            }
            if written.insert(*name, value).is_some() {
                return Err(ParameterError::Duplicate(name));
            }
        }
        Ok(Self(written))
    }

    fn get(&self, name: &str) -> Option<&'a [u8]> {
        self.0.get(name).copied()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// One of two words; the first where none is given.
    fn word<T>(
        &self,
        name: &'static str,
        [first, second]: [(&'static str, T); 2],
    ) -> Result<T, ParameterError> {
        match self.text(name) {
            None => Ok(first.1),
            Some(value) if value == first.0 => Ok(first.1),
            Some(value) if value == second.0 => Ok(second.1),
            Some(value) => {
                Err(ParameterError::InvalidWord { name, value, first: first.0, second: second.0 })
            }
        }
    }

    fn browser(&self) -> Result<Option<Browser>, ParameterError> {
        let sign_out = match self.text("sign_out") {
            Some(uri)
                if !["/", "http://", "https://"].iter().any(|start| uri.starts_with(start)) =>
            {
                return Err(ParameterError::InvalidSignOut(uri));
            }
            sign_out => sign_out,
        };
        match self.word("browser", [("on", true), ("off", false)])? {
            true => Ok(Some(Browser { sign_out })),
            false if sign_out.is_some() => Err(ParameterError::SignOutWithoutBrowser),
            false => Ok(None),
        }
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        let texts = IDENTITY.iter().filter_map(|name| Some((*name, self.get(name)?)));
        let mut variables: Vec<_> = texts
            .flat_map(|(parameter, text)| {
                names(text).into_iter().map(move |name| (parameter, name))
            })
            .collect();
        if self.get("user").is_none() {
            variables.push(("user", "authentik_username".to_owned()));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse<'a>(arguments: &[&'a str]) -> Result<Parameters<'a>, ParameterError> {
        Parameters::parse(arguments.iter().map(|argument| argument.as_bytes()))
    }

    #[test]
    fn what_is_not_given_has_its_default() {
        let parameters = parse(&[]).unwrap();
        assert_eq!(parameters.user, b"$authentik_username");
        assert_eq!(parameters.variables, [("user", "authentik_username".to_owned())]);
        assert_eq!(parameters.browser, Some(Browser { sign_out: None }));
        assert_eq!(
            (parameters.on_error, parameters.client_token, parameters.groups_separator),
            (OnError::Pass, ClientToken::Keep, Separator::Bar)
        );
        assert_eq!((parameters.framing, parameters.api), (Framing::SELF, None));
        let given = [parameters.email, parameters.groups, parameters.name, parameters.credentials];
        assert_eq!((given, parameters.trust_headers), ([None; 4], false));
    }

    #[test]
    fn what_is_given_is_what_it_says() {
        let parameters = parse(&[
            "user=$a-${B}",
            "email=$a@example.com",
            "groups=x=y",
            "name=$name",
            "credentials=$authentik_authorization",
            "groups_separator=,",
            "api=http://npm:81",
            "on_error=deny",
            "client_token=replace",
            "browser=on",
            "sign_out=/out",
            "frame_ancestors='none'",
            "trust_headers=on",
        ])
        .unwrap();
        assert_eq!((parameters.user, parameters.groups), (&b"$a-${B}"[..], Some(&b"x=y"[..])));
        let variables: Vec<_> = parameters.variables.iter().map(|(p, v)| (*p, &**v)).collect();
        assert_eq!(
            variables,
            [
                ("user", "a"),
                ("user", "b"),
                ("email", "a"),
                ("name", "name"),
                ("credentials", "authentik_authorization"),
            ]
        );
        assert_eq!(parameters.browser, Some(Browser { sign_out: Some("/out".to_owned()) }));
        assert_eq!(
            (parameters.on_error, parameters.client_token, parameters.groups_separator),
            (OnError::Deny, ClientToken::Replace, Separator::Comma)
        );
        assert_eq!(parameters.framing.options, Some("DENY"));
        assert_eq!(parameters.api.as_ref().map(BaseUrl::as_str), Some("http://npm:81"));
        assert!(parameters.trust_headers && !parameters.is_one_user());
        assert!(parse(&["user=alice"]).unwrap().is_one_user());
    }

    #[test]
    fn what_is_wrong_is_named_and_no_secret_quoted() {
        for (arguments, expected) in [
            (&["secret=x"][..], "unknown parameter \"secret\""),
            (&["User=x"], "unknown parameter \"User\""),
            (&["user"], "unknown parameter \"user\""),
            (&["=x"], "unknown parameter \"\""),
            (&["user="], "parameter \"user\" has no value"),
            (&["api=http://a", "api=http://b"], "duplicate parameter \"api\""),
            (&["browser=off", "sign_out=/out"], "\"sign_out\" needs browser=on"),
            (
                &["on_error=stop"],
                "invalid value \"stop\" of parameter \"on_error\": it is \"pass\" or \"deny\"",
            ),
            (
                &["sign_out=javascript:x"],
                "invalid value \"javascript:x\" of parameter \"sign_out\": it is a path that begins \
                 with \"/\", or an http URL",
            ),
        ] {
            assert_eq!(parse(arguments).unwrap_err().to_string(), expected, "{arguments:?}");
        }
        for (argument, parameter, variable) in [
            ("user=$http_x_user", "user", "http_x_user"),
            ("email=a@${Arg_host}", "email", "arg_host"),
            ("credentials=$1", "credentials", "1"),
        ] {
            let expected = ParameterError::FromClient { parameter, variable: variable.to_owned() };
            assert_eq!(parse(&[argument]), Err(expected));
            assert!(parse(&[argument, "trust_headers=on"]).is_ok(), "{argument}");
        }
        let error = parse(&["api=http://user:secret@npm"]).unwrap_err().to_string();
        assert!(error.starts_with("invalid value of parameter \"api\": "), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }
}
