//! The list of a user's groups, as the answer to `auth_request` has it.

/// What stands between two groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Separator {
    /// `|`, as Authentik has it.
    #[default]
    Bar,
    /// `,`, as Authelia, oauth2-proxy, tinyauth and Vouch have it. White space around a name and
    /// quotes around it (Vouch's) do not belong to it.
    Comma,
}

impl Separator {
    pub const fn byte(self) -> u8 {
        match self {
            Self::Bar => b'|',
            Self::Comma => b',',
        }
    }

    /// The groups of a list.
    pub fn split(self, list: &[u8]) -> impl Iterator<Item = &[u8]> {
        list.split(move |&b| b == self.byte()).map(move |name| match self {
            Self::Bar => name,
            Self::Comma => unquoted(name.trim_ascii()),
        })
    }
}

fn unquoted(name: &[u8]) -> &[u8] {
    name.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(separator: Separator, list: &str) -> Vec<&str> {
        let names = separator.split(list.as_bytes());
        names.map(|name| std::str::from_utf8(name).expect("text")).collect()
    }

    #[test]
    fn authentiks_names_are_what_stands_between_bars() {
        assert_eq!(
            split(Separator::Bar, "a|b c| d |\"e\"|f,g"),
            ["a", "b c", " d ", "\"e\"", "f,g"]
        );
        assert_eq!(split(Separator::Bar, ""), [""]);
    }

    #[test]
    fn white_space_and_quotes_around_a_name_do_not_belong_to_it_between_commas() {
        assert_eq!(
            split(Separator::Comma, "a, b c ,\"d\", \" e\" ,f|g,\"h"),
            ["a", "b c", "d", " e", "f|g", "\"h"]
        );
        // A quote by itself is a name as any other.
        assert_eq!(split(Separator::Comma, "\",\"\""), ["\"", ""]);
    }
}
