//! NPM's page, and the script that goes into it.

use ngx_http_npm_token_inject_module::sso::marker::{token, Marker};
use ngx_http_npm_token_inject_module::sso::page::{opening_script, Place, Scanner, HELD_MAX};

/// The text as a page, in all kinds of pieces.
pub fn place(data: &[u8]) {
    let place = place_in(data);
    assert_eq!(placed(&mut [data].into_iter()), place, "in one piece");
    for size in 1..=9 {
        assert_eq!(placed(&mut data.chunks(size)), place, "in pieces of {size}");
    }
    // Pieces as long as the page's own bytes say, some of them empty.
    let mut rest = data;
    let mut lengths = data.iter().rev().map(|byte| usize::from(byte % 12));
    let mut pieces = std::iter::from_fn(|| {
        let (piece, after) = rest.split_at(lengths.next()?.min(rest.len()));
        rest = after;
        Some(piece)
    });
    let place_in_part = placed(&mut pieces);
    assert!(place_in_part == place || place_in_part.is_none() && !rest.is_empty());
}

/// Where the script goes, as the scanner says it and a filter does it: where no more bytes can be held
/// back than there are.
fn placed(pieces: &mut dyn Iterator<Item = &[u8]>) -> Option<usize> {
    let mut scanner = Scanner::default();
    let (mut passed, mut held) = (0, 0);
    for piece in pieces {
        match scanner.feed(piece) {
            Place::NotYet { hold } => {
                assert!(hold <= HELD_MAX && hold <= held + piece.len());
                passed += held + piece.len() - hold;
                held = hold;
            }
            Place::BeforeHeld => return Some(passed),
            Place::At(offset) => {
                assert!(offset <= piece.len());
                return Some(passed + held + offset);
            }
        }
    }
    None
}

/// Where it goes in a whole page.
fn place_in(page: &[u8]) -> Option<usize> {
    let tag_end = |mut at: usize| {
        let mut quote = None;
        loop {
            let byte = *page.get(at)?;
            match quote {
                None if byte == b'>' => return Some(at + 1),
                None if byte == b'"' || byte == b'\'' => quote = Some(byte),
                Some(open) if open == byte => quote = None,
                _ => {}
            }
            at += 1;
        }
    };
    let mut at = 0;
    loop {
        let rest = &page[at..];
        match rest {
            [] => return None,
            [b' ' | b'\t' | b'\r' | b'\n' | 0x0c | 0xef | 0xbb | 0xbf, ..] => at += 1,
            [b'<', b'!', b'-', b'-', comment @ ..] => {
                at += 4 + comment.windows(3).position(|end| end == b"-->")? + 3;
            }
            [b'<', b'!', ..] => at = tag_end(at + 2)?,
            [b'<', tag @ ..] => {
                let is_end = |b: &u8| b" \t\r\n\x0c/>".contains(b);
                let end = tag.iter().position(is_end);
                let name = tag[..end.unwrap_or(tag.len())].to_ascii_lowercase();
                match (&name[..], end) {
                    (b"head", Some(end)) => return tag_end(at + 1 + end),
                    (b"html", Some(end)) => at = tag_end(at + 1 + end)?,
                    // It may yet become one of them.
                    (begin, None) if b"head".starts_with(begin) || b"html".starts_with(begin) => {
                        return None;
                    }
                    _ => return Some(at),
                }
            }
            _ => return Some(at),
        }
    }
}

/// The text as the place where Logout leads to.
pub fn script(data: &[u8]) {
    let Ok(sign_out) = std::str::from_utf8(data) else { return };
    let marker = Marker::new(token(b"akadmin", &[7; 32]), 1_700_000_000_000);
    let without = opening_script(&marker, None);
    let with = opening_script(&marker, Some(sign_out));
    let argument = without
        .strip_suffix("null);</script>")
        .and_then(|begin| with.strip_prefix(begin))
        .and_then(|rest| rest.strip_suffix(");</script>"))
        .expect("nothing else differs");
    assert!(!argument.contains('<'), "{argument}");
    assert!(!argument.contains(['\n', '\r']), "{argument}");
    assert_eq!(serde_json::from_str::<String>(argument).expect("a string"), sign_out);
}
