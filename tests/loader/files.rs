//! What the loader's file needs, and what it shows.

use std::process::Command;

use testbed::nginx::module;

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).arg(module()).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The numbers of a version.
fn numbers(version: &str) -> Vec<u32> {
    version.split('.').filter_map(|number| number.parse().ok()).collect()
}

#[test]
fn it_needs_no_newer_c_library_than_debian_bookworms_and_no_other_library() {
    let needs = said("readelf", &["-V"]);
    let versions: Vec<&str> =
        needs.split_whitespace().filter_map(|word| word.strip_prefix("GLIBC_")).collect();
    assert!(!versions.is_empty(), "{needs}");
    for version in versions {
        assert!(numbers(version) <= numbers("2.36"), "GLIBC_{version}");
    }
    let needed = said("readelf", &["-d"]);
    let needed: Vec<&str> = needed.lines().filter(|line| line.contains("(NEEDED)")).collect();
    assert!(needed.len() == 1 && needed[0].contains("[libc.so.6]"), "{needed:?}");
}

#[test]
fn it_shows_its_tables_to_nginx_and_one_word_to_other_loaders() {
    let symbols = said("nm", &["-D", "--defined-only"]);
    let mut names: Vec<&str> = symbols.lines().filter_map(|line| line.split(' ').nth(2)).collect();
    names.sort_unstable();
    let tables = ["ngx_module_names", "ngx_module_order", "ngx_modules"];
    assert_eq!(names, [&tables[..], &["npm_token_inject_latest"]].concat());
}

#[test]
fn nothing_keeps_it_from_being_closed() {
    // Neither flags nor variables of a thread's own.
    assert!(!said("readelf", &["-d"]).contains("NODELETE"));
    assert!(!said("readelf", &["-lW"]).contains("TLS"));
}
