//! NPM's page: the script that goes into it, and where in the page that is.

use std::sync::LazyLock;

use serde_json::Value;

use super::marker::Marker;

/// Opens the page signed in: a function of the marker's token, its expiry, and where Logout leads
/// to, or null.
static OPEN: LazyLock<String> = LazyLock::new(|| compact(include_str!("page.open.js")));

/// Takes back what was left by a page that opened signed in: by that of somebody else, or by an
/// earlier one of the same user. A function without arguments.
static LEAVE: LazyLock<String> = LazyLock::new(|| compact(include_str!("page.leave.js")));

/// Without comments and indents, which are for who reads it here.
fn compact(script: &str) -> String {
    let lines = script.lines().map(str::trim_start).filter(|line| !line.starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The script for a user who has a token, as an HTML element.
pub fn opening_script(marker: &Marker, sign_out: Option<&str>) -> String {
    let argument = |text: Option<&str>| {
        // Within <script>, "<" may not stand for itself (HTML, section 4.12.1.3).
        Value::from(text).to_string().replace('<', "\\u003c")
    };
    let arguments = [Some(&marker.token[..]), Some(&marker.expires[..]), sign_out].map(argument);
    format!("<script>{}({});</script>", *OPEN, arguments.join(","))
}

/// The script for a user who has none, likewise.
pub fn leaving_script() -> String {
    format!("<script>{}();</script>", *LEAVE)
}

/// The longest beginning of a tag that is held back until it is known which tag it is: `<html`.
pub const HELD_MAX: usize = 5;

/// Where the script goes, as far as a piece of the page tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Not in here. So many bytes at the end, of this piece and of what is held back already, are
    /// to be held back until the next one: the script may have to go before them.
    NotYet { hold: usize },
    /// Before what is held back.
    BeforeHeld,
    /// At this offset of the piece, after what is held back.
    At(usize),
}

/// Looks for the place in a page that comes piece by piece: behind the start tag of the head, or
/// where the head begins without one, which is before anything but white space, a declaration,
/// a comment and the start tag of the document (HTML, section 13.2.6.4).
#[derive(Debug, Default)]
pub struct Scanner {
    state: State,
    /// What is held back: a tag's beginning.
    name: [u8; HELD_MAX],
    held: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Between,
    /// Behind `<`, in the name of a tag.
    TagName,
    /// Behind `<!` and so many dashes.
    Declaration { dashes: u8 },
    /// In a comment, behind so many dashes.
    Comment { dashes: u8 },
    /// In a tag or declaration, within quotes if so.
    Inside { quote: Option<u8>, is_head: bool },
}

impl Scanner {
    /// Looks at the next piece.
    pub fn feed(&mut self, piece: &[u8]) -> Place {
        for (offset, &byte) in piece.iter().enumerate() {
            match self.step(byte) {
                Step::Go(state) => self.state = state,
                Step::Behind => return Place::At(offset + 1),
                // Its tag, if it is one, began in this piece or in an earlier one.
                Step::Before => {
                    return offset.checked_sub(self.held).map_or(Place::BeforeHeld, Place::At);
                }
            }
        }
        Place::NotYet { hold: self.held }
    }

    fn step(&mut self, byte: u8) -> Step {
        Step::Go(match (self.state, byte) {
            (State::Between, b'<') => {
                self.hold(byte);
                State::TagName
            }
            // White space, or a byte order mark.
            (State::Between, b' ' | b'\t' | b'\r' | b'\n' | b'\x0c' | 0xef | 0xbb | 0xbf) => {
                State::Between
            }
            (State::Between, _) => return Step::Before,

            (State::TagName, b'!') if self.held == 1 => {
                self.let_go(State::Declaration { dashes: 0 })
            }
            (State::TagName, b' ' | b'\t' | b'\r' | b'\n' | b'\x0c' | b'/' | b'>') => {
                let is_head = self.is_held(b"<head");
                if !is_head && !self.is_held(b"<html") {
                    return Step::Before;
                }
                self.let_go(State::Inside { quote: None, is_head });
                return self.step_inside(byte, None, is_head);
            }
            (State::TagName, letter) => {
                if self.held == HELD_MAX {
                    return Step::Before;
                }
                self.hold(letter);
                if !self.begins(b"<head") && !self.begins(b"<html") {
                    self.held -= 1;
                    return Step::Before;
                }
                State::TagName
            }

            (State::Declaration { dashes: 0 }, b'-') => State::Declaration { dashes: 1 },
            (State::Declaration { dashes: 1 }, b'-') => State::Comment { dashes: 0 },
            (State::Declaration { .. }, byte) => return self.step_inside(byte, None, false),

            (State::Comment { dashes: 2.. }, b'>') => State::Between,
            (State::Comment { dashes }, b'-') => {
                State::Comment { dashes: dashes.saturating_add(1) }
            }
            (State::Comment { .. }, _) => State::Comment { dashes: 0 },

            (State::Inside { quote, is_head }, byte) => {
                return self.step_inside(byte, quote, is_head);
            }
        })
    }

    fn step_inside(&self, byte: u8, quote: Option<u8>, is_head: bool) -> Step {
        let quote = match (quote, byte) {
            (None, b'>') if is_head => return Step::Behind,
            (None, b'>') => return Step::Go(State::Between),
            (None, b'"' | b'\'') => Some(byte),
            (Some(quote), byte) if byte == quote => None,
            (quote, _) => quote,
        };
        Step::Go(State::Inside { quote, is_head })
    }

    fn hold(&mut self, byte: u8) {
        if let Some(place) = self.name.get_mut(self.held) {
            *place = byte;
            self.held += 1;
        }
    }

    fn let_go(&mut self, state: State) -> State {
        self.held = 0;
        state
    }

    fn is_held(&self, tag: &[u8]) -> bool {
        self.held == tag.len() && self.begins(tag)
    }

    fn begins(&self, tag: &[u8]) -> bool {
        let held = self.name.get(..self.held).unwrap_or_default();
        tag.get(..self.held).is_some_and(|begin| begin.eq_ignore_ascii_case(held))
    }
}

/// What a byte of the page means for the place.
enum Step {
    Go(State),
    /// The script goes before the tag or the text that begins with this byte, or that this byte
    /// belongs to.
    Before,
    /// The script goes behind this byte.
    Behind,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page with `|` in the place, when it comes in pieces of `size` bytes.
    fn placed(page: &str, size: usize) -> String {
        let mut scanner = Scanner::default();
        let (mut out, mut held) = (Vec::new(), Vec::new());
        let mut pieces = page.as_bytes().chunks(size);
        for piece in &mut pieces {
            match scanner.feed(piece) {
                Place::NotYet { hold } => {
                    held.extend_from_slice(piece);
                    assert!(hold <= HELD_MAX && hold <= held.len());
                    out.extend(held.drain(..held.len() - hold));
                }
                Place::BeforeHeld => {
                    out.push(b'|');
                    out.append(&mut held);
                    out.extend_from_slice(piece);
                    break;
                }
                Place::At(offset) => {
                    out.append(&mut held);
                    out.extend_from_slice(&piece[..offset]);
                    out.push(b'|');
                    out.extend_from_slice(&piece[offset..]);
                    break;
                }
            }
        }
        out.append(&mut held);
        out.extend(pieces.flatten());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_script_goes_to_the_beginning_of_the_head_in_whatever_pieces_the_page_comes() {
        for page in [
            "<!DOCTYPE html>\n<html lang=\"en\">\n\t<head>|\n<script src=\"/x.js\"></script></head>",
            "<!doctype html><HTML><HEAD class='a>b' data-x=\"<script>\">|<title>x</title>",
            "<html><head/>|<script></script>",
            "<!-- <head> --><!doctype html PUBLIC \"-//W3C//DTD > \" \"x\"><html\n><head\n>|<meta>",
            "<!--><html><head>--><html><head>|<script>",
            "<!----><head>|<script>",
            "\u{feff}<!doctype html><head>|",
            "<!doctype html>|<title>x</title><script></script>",
            "|<script>1</script><head></head>",
            "<html>|<script>1</script>",
            "<html>|<header><head>",
            "<html>|<he></he>",
            "<html>|<htmlx>",
            "<html>|</body>",
            "<html>|<body><script></script>",
            "<html> \n|text<head>",
            "|<",
            "|plain text",
            "|<?xml version=\"1.0\"?><html><head>",
        ] {
            let plain = page.replace('|', "");
            // A page that is nothing but the beginning of a tag ends before that is decided.
            let page = if plain == "<" { plain.as_str() } else { page };
            for size in 1..=plain.len() {
                assert_eq!(placed(&plain, size), page, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn a_page_that_ends_too_early_is_left_whole() {
        for page in ["", "<", "<he", "<head", "<head class=\"", "<!-- <head>", "<!doctype", "   "] {
            for size in 1..=page.len() {
                assert_eq!(placed(page, size), page);
            }
        }
    }

    #[test]
    fn nothing_in_the_script_ends_it_early() {
        let marker = Marker { token: "t".to_owned(), expires: "e".to_owned() };
        let script = opening_script(&marker, Some("/out?</script><script>alert(\"1\")//"));
        assert_eq!(script.matches('<').count() - script.matches(" < ").count(), 2, "{script}");
        assert!(script.starts_with("<script>") && script.ends_with("</script>"));
        assert!(script.contains(r#"("t","e","/out?\u003c/script>\u003cscript>alert(\"1\")//")"#));
        assert!(opening_script(&marker, None).ends_with(r#"("t","e",null);</script>"#));
    }

    #[test]
    fn the_script_that_leaves_knows_a_marker_when_it_sees_one() {
        let script = leaving_script();
        assert!(script.contains(&format!("/^{}/.test", super::super::marker::PREFIX)), "{script}");
        assert_eq!(script.matches('<').count(), 2, "{script}");
        assert!(script.starts_with("<script>(function () {") && script.ends_with("})();</script>"));
    }
}
