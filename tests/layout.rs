//! That the build notices bindings which are wrong.
//!
//! What makes and checks the bindings is a part of this test. Here it runs bindgen 0.72, of which it is known that it
//! misplaces bits of `ngx_http_request_t` since nginx 1.29.5. (The build of the module for the same
//! headers runs a newer one, and passes the same check.)

extern crate bindgen_of_nginx_sys as bindgen;

#[allow(dead_code)]
#[path = "../src/nginx/layout.rs"]
mod layout;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use layout::{layouts, Headers};

/// The headers that an nginx in `build` was compiled with, which lie beside it.
fn headers(source: &Path) -> Headers {
    let folders = ["src/core", "src/event", "src/event/modules", "src/event/quic", "src/os/unix"];
    let more = ["src/http", "src/http/modules", "src/http/v2", "src/http/v3", "objs"];
    let folders: Vec<PathBuf> = folders.iter().chain(&more).map(|name| source.join(name)).collect();
    Headers::new(&folders, [].into_iter(), Command::new("cc"))
}

/// What the Rust compiler says of bindings by bindgen 0.72, and of the check beside them.
fn compile(source: &Path) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let bindings = headers(source).bindings(&[]);
    let check = headers(source).check(&layouts(&bindings), folder.path());
    let file = folder.path().join("lib.rs");
    fs::write(&file, format!("{bindings}\n{check}")).expect("a file in a new folder");
    let done = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned()))
        .args(["--edition", "2021", "--crate-type", "lib", "--emit", "metadata", "-A", "warnings"])
        .arg("--out-dir")
        .arg(folder.path())
        .arg(&file)
        .output()
        .expect("rustc");
    (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
}

#[test]
fn a_bit_in_another_place_than_c_has_it_fails_the_build_and_is_named() {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("build");
    let newer = build.join("newer/src");
    assert!(newer.join("objs").exists(), "{}: make newer", newer.display());
    let (compiles, said) = compile(&newer);
    assert!(!compiles);
    for field in ["internal", "filter_need_in_memory", "header_only", "allow_ranges"] {
        let line = format!("ngx_http_request_t.{field}: the bindings and the C compiler differ");
        assert!(said.contains(&line), "{line}: {said}");
    }
    // And nothing else.
    for line in said.lines().filter(|line| line.contains("the bindings and the C compiler differ"))
    {
        assert!(line.contains("ngx_http_request_t."), "{line}");
    }
}
