//! The list of a user's groups.

use ngx_http_npm_token_inject_module::sso::groups::Separator;

pub fn list(data: &[u8]) {
    let names: Vec<&[u8]> = Separator::Bar.split(data).collect();
    assert_eq!(names.join(&b'|'), data);
    assert!(names.iter().all(|name| !name.contains(&b'|')));

    let names: Vec<&[u8]> = Separator::Comma.split(data).collect();
    assert_eq!(names, between_commas(data));
}

fn between_commas(list: &[u8]) -> Vec<&[u8]> {
    let is_space = |b: u8| matches!(b, b' ' | b'\t' | b'\n' | b'\r' | 0x0c);
    let mut names = Vec::new();
    let mut begin = 0;
    for end in 0..=list.len() {
        if end < list.len() && list[end] != b',' {
            continue;
        }
        let (mut from, mut to) = (begin, end);
        while from < to && is_space(list[from]) {
            from += 1;
        }
        while from < to && is_space(list[to - 1]) {
            to -= 1;
        }
        if to - from >= 2 && list[from] == b'"' && list[to - 1] == b'"' {
            (from, to) = (from + 1, to - 1);
        }
        names.push(&list[from..to]);
        begin = end + 1;
    }
    names
}
