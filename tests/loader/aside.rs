//! What lies there, and what the loader makes of it.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::process::Command;

use sha2::{Digest, Sha256};
use testbed::nginx::binary;

use crate::builds::*;
use crate::site::*;

#[test]
fn the_build_for_this_nginx_takes_its_place_among_builds_for_others() {
    let npm = npm();
    let installed = Installed::fitting();
    for (name, content) in others() {
        installed.put(&name, &content);
    }
    live(site(&npm, &installed), &npm, Module::Injects);
}

#[test]
fn with_builds_for_others_alone_nginx_runs_on() {
    let npm = npm();
    let installed = Installed::new();
    for (name, content) in others() {
        installed.put(&name, &content);
    }
    live(site_with_anything(&npm, &installed), &npm, Module::StandsAside);
}

#[test]
fn with_no_build_nginx_runs_on() {
    let npm = npm();
    let installed = Installed::new();
    live(site_with_anything(&npm, &installed), &npm, Module::StandsAside);
    fs::remove_dir(installed.folder()).expect("an empty folder");
    live(site_with_anything(&npm, &installed), &npm, Module::StandsAside);
}

/// What lies under the name of the fitting build, and why it cannot be used.
fn unfit() -> Vec<(Vec<u8>, &'static str)> {
    let sound = fitting();
    // Where an ELF header has its class and its processor; the low byte of that is 62, x86-64, or
    // 183, aarch64.
    let (class, machine) = (4, 18);
    let other = if sound[machine] == 62 { 183 } else { 62 };
    let signature = sound.windows(6).position(|bytes| bytes == b"8,4,8,").expect("a signature");
    let flag = sound[signature + 6] ^ 1;
    vec![
        (vec![], "cut off"),
        (b"junk".to_vec(), "cut off"),
        (b"No library at all. ".repeat(1000), "not a library"),
        (sound[..100].to_vec(), "cut off"),
        (sound[..4096].to_vec(), "cut off"),
        (sound[..sound.len() / 2].to_vec(), "cut off"),
        (fs::read("/bin/true").expect("a program"), ""),
        (with_byte(&sound, class, 1), "another processor"),
        (with_byte(&sound, machine, other), "another processor"),
        (with_byte(&sound, signature + 6, flag), "configured otherwise"),
        (
            patched(&sound, b"\0ngx_http_add_variable\0", b"\0ngx_http_add_variablX\0"),
            "undefined symbol: ngx_http_add_variablX",
        ),
        (patched(&sound, b"\0GLIBC_2.34\0", b"\0GLIBC_9.34\0"), "version `GLIBC_9.34' not found"),
        (
            patched(&sound, b"\0libc.so.6\0", b"\0libX.so.6\0"),
            "libX.so.6: cannot open shared object",
        ),
        (patched(&sound, b"\0ngx_modules\0", b"\0ngx_modulXs\0"), "no module"),
        (patched(&sound, b"\0ngx_module_names\0", b"\0ngx_modulX_names\0"), "no module"),
    ]
}

#[test]
fn with_a_build_that_is_broken_nginx_runs_on_and_the_log_says_why() {
    let npm = npm();
    for (content, why) in unfit() {
        let installed = Installed::new();
        installed.put(&fitting_name(), &content);
        let site = site_with_anything(&npm, &installed);
        let test = site.test();
        let expected = format!("{} cannot be used: ", fitting_name());
        assert!(test.output.contains(&expected) && test.output.contains(why), "{why}: {test:?}");
        live(site, &npm, Module::StandsAside);
    }
}

#[test]
fn a_build_for_another_version_under_the_name_of_the_fitting_one_is_not_used() {
    let npm = npm();
    for (name, content) in others() {
        if version(&name) == version(&fitting_name()) {
            continue;
        }
        let installed = Installed::new();
        installed.put(&fitting_name(), &content);
        live(site_with_anything(&npm, &installed), &npm, Module::StandsAside);
    }
}

#[test]
fn what_is_no_file_under_the_name_of_the_fitting_build_is_not_waited_for() {
    let npm = npm();
    for is_folder in [true, false] {
        let installed = Installed::new();
        let path = installed.folder().join(fitting_name());
        if is_folder {
            fs::create_dir(path).expect("a folder");
        } else {
            let path = CString::new(path.as_os_str().as_bytes()).expect("a path");
            // SAFETY: the path is ended by a null byte.
            assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
        }
        let site = site_with_anything(&npm, &installed);
        assert!(site.test().output.contains("it is not a regular file"));
        live(site, &npm, Module::StandsAside);
    }
}

#[test]
fn one_line_says_what_runs_what_lies_there_and_what_to_do() {
    let installed = Installed::new();
    let names: Vec<String> = (0..12).map(|n| format!("1.0.{n:02}-0123456789abcdef.so")).collect();
    for name in &names {
        installed.put(name, b"");
    }
    let test = site(&npm(), &installed).test();
    assert!(test.ok, "{test:?}");
    let lines: Vec<&str> = test.output.lines().filter(|line| line.contains(ASIDE)).collect();
    let [line] = lines[..] else { panic!("{test:?}") };
    let fitting = fitting_name();
    let core: Vec<&str> = version(&fitting).split('.').take(3).collect();
    for part in [
        format!("nginx {} with build id {}", core.join("."), id(&binary())),
        installed.folder().display().to_string(),
        format!("{} and 4 more", names[7]),
        format!("make module NGINX={}", binary().display()),
    ] {
        assert!(line.contains(&part), "{part:?} in {line}");
    }
}

/// As NPM's image has its version in its environment.
#[test]
fn in_npms_container_the_line_names_the_command_for_that_image() {
    let npm = npm();
    let installed = Installed::new();
    let said = |version: &str| {
        let variable = format!("NPM_BUILD_VERSION={version}");
        site(&npm, &installed).run_by(&["env", &variable]).test().output
    };
    let image = "--build-arg NPM_IMAGE=jc21/nginx-proxy-manager:2.16.0 -t npm .";
    assert!(said("2.16.0").contains(image), "{}", said("2.16.0"));
    for none in ["", "2.16.0; true", "$(true)"] {
        assert!(said(none).contains("make module NGINX="), "{none}");
    }
}

#[test]
fn an_nginx_without_a_build_id_is_known_by_the_sha256_of_its_file() {
    let npm = npm();
    let installed = Installed::new();
    // The note's kind, 3, becomes one that nobody knows.
    let note = |kind| [&[4, 0, 0, 0, 20, 0, 0, 0, kind, 0, 0, 0][..], b"GNU\0"].concat();
    let nginx = patched(&fs::read(binary()).expect("nginx"), &note(3), &note(0x7f));
    let program = installed.folder().join("nginx");
    // By a process of its own: a program that a process of ours had open could not be started.
    fs::write(program.with_extension("bytes"), &nginx).expect("a file in a new folder");
    let mut install = Command::new("install");
    let done = install.arg(program.with_extension("bytes")).arg(&program).status();
    assert!(done.is_ok_and(|status| status.success()));
    let site = site(&npm, &installed).binary(&program);
    live(site.clone(), &npm, Module::StandsAside);

    let sum: String = Sha256::digest(&nginx).iter().map(|byte| format!("{byte:02x}")).collect();
    installed.put(&format!("{}-{sum}.so", version(&fitting_name())), &fitting());
    live(site, &npm, Module::Injects);
}
