//! Builds that come and go while nginx runs.

use std::net::TcpListener;
use std::{fs, thread};

use testbed::nginx::kill;
use testbed::{eventually, Fault, Nginx};

use crate::builds::*;
use crate::site::*;

#[test]
fn a_build_that_comes_or_goes_is_noticed_at_the_next_reload() {
    let npm = npm();
    let installed = Installed::new();
    let mut nginx = site(&npm, &installed).start();
    assert_aside(&nginx, &npm);
    for _ in 0..3 {
        installed.put(&fitting_name(), &fitting());
        assert_aside(&nginx, &npm);
        nginx.reload();
        assert_injects(&nginx, &npm);
        reload_broken(&nginx);
        assert_injects(&nginx, &npm);
        nginx.reload();
        assert_injects(&nginx, &npm);

        installed.remove(&fitting_name());
        assert_injects(&nginx, &npm);
        nginx.reload();
        assert_aside(&nginx, &npm);
        reload_broken(&nginx);
        assert_aside(&nginx, &npm);
        nginx.reload();
        assert_aside(&nginx, &npm);
    }
    assert!(nginx.quit().success());
    assert_eq!(nginx.log_lines("[alert]"), Vec::<String>::new());
}

#[test]
fn a_reload_that_is_refused_after_a_build_came_or_went_changes_nothing() {
    let npm = npm();
    let installed = Installed::new();
    let nginx = site(&npm, &installed).start();
    installed.put(&fitting_name(), &fitting());
    reload_broken(&nginx);
    assert_aside(&nginx, &npm);
    nginx.reload();
    assert_injects(&nginx, &npm);
    installed.remove(&fitting_name());
    reload_broken(&nginx);
    assert_injects(&nginx, &npm);
    nginx.reload();
    assert_aside(&nginx, &npm);
}

#[test]
fn a_build_that_is_replaced_is_taken_up_at_the_next_reload() {
    let npm = npm();
    let installed = Installed::fitting();
    let nginx = site(&npm, &installed).start();
    assert_injects(&nginx, &npm);
    // Another file, whose text differs where it can be seen.
    let newer = patched(&fitting(), b"npm_token_inject: ", b"npm_token_Inject: ");
    installed.put(&fitting_name(), &newer);
    for _ in 0..3 {
        nginx.reload();
        assert_injects(&nginx, &npm);
    }
    eventually(SOON, "a line of the newer build", || {
        !nginx.log_lines("npm_token_Inject: ").is_empty()
    });
    for _ in 0..3 {
        installed.put(&fitting_name(), b"junk");
        nginx.reload();
        assert_aside(&nginx, &npm);
        installed.put(&fitting_name(), &fitting());
        nginx.reload();
        assert_injects(&nginx, &npm);
    }
}

#[test]
fn an_old_worker_keeps_the_build_that_it_has() {
    let npm = npm();
    npm.fault(Fault::Hold);
    let installed = Installed::fitting();
    let nginx = site(&npm, &installed).start();
    thread::scope(|scope| {
        let client = nginx.client();
        let waiting = scope.spawn(move || client.get(ME));
        eventually(SOON, "a login", || npm.logins() == 1);
        installed.remove(&fitting_name());
        nginx.reload();
        npm.clear_fault();
        let reply = waiting.join().expect("a reply");
        assert_eq!(reply.status, 200, "{reply:?}");
    });
    assert_aside(&nginx, &npm);
}

#[test]
fn the_loader_comes_and_goes_with_its_line() {
    let npm = npm();
    for installed in [Installed::new(), Installed::fitting()] {
        let mut nginx = site(&npm, &installed).start();
        installed.module().assert(&nginx, &npm);
        let with = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("nginx.conf");
        for _ in 0..3 {
            nginx.write_file("nginx.conf", without_module(&with));
            nginx.reload();
            assert_eq!(nginx.client().get("/bare").status, 200);
            nginx.write_file("nginx.conf", &with);
            nginx.reload();
            installed.module().assert(&nginx, &npm);
        }
        assert!(nginx.quit().success());
    }
}

#[test]
fn the_loader_of_the_image_and_that_of_the_volume_take_nothing_down() {
    let npm = npm();
    for (first, second) in
        [(Installed::fitting(), Installed::new()), (Installed::new(), Installed::fitting())]
    {
        let line = format!("load_module {};", second.loader().display());
        let nginx = site(&npm, &first).main(&line).start();
        let with = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("nginx.conf");
        let unneeded = format!("{} is not needed", second.loader().display());
        assert!(!nginx.log_lines(&unneeded).is_empty());
        for _ in 0..3 {
            first.module().assert(&nginx, &npm);
            reload_broken(&nginx);
            first.module().assert(&nginx, &npm);
            nginx.reload();
        }
        // The first one goes: the second takes its place.
        let first_line = format!("load_module {};", first.loader().display());
        nginx.write_file("nginx.conf", with.replace(&first_line, ""));
        nginx.reload();
        second.module().assert(&nginx, &npm);
        nginx.write_file("nginx.conf", with);
        nginx.reload();
        first.module().assert(&nginx, &npm);
    }
}

/// Has nginx read a configuration that it refuses at the very end, for an address that is taken.
fn reload_in_vain(nginx: &Nginx) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    let right = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("nginx.conf");
    let listens = format!("server {{ listen {address}; }}\nserver {{");
    nginx.write_file("nginx.conf", right.replacen("server {", &listens, 1));
    let refusals = || nginx.log_lines("still could not bind()").len();
    let before = refusals();
    nginx.signal(libc::SIGHUP);
    eventually(SOON, "a refusal", || refusals() > before);
    nginx.write_file("nginx.conf", right);
}

/// Has nginx start another worker in the place of the one that it has.
fn replace_worker(nginx: &Nginx) {
    let workers = nginx.worker_pids();
    kill(workers[0], libc::SIGKILL);
    eventually(SOON, "a new worker", || {
        let now = nginx.worker_pids();
        now.len() == 1 && now != workers
    });
}

#[test]
fn a_worker_that_is_replaced_after_another_builds_refused_reload_serves_on() {
    let npm = npm();
    let newer = patched(&fitting(), b"npm_token_inject: ", b"npm_token_Inject: ");
    for installed in [Installed::new(), Installed::fitting()] {
        let mut nginx = site(&npm, &installed).start();
        nginx.expect_crash();
        let before = installed.module();
        before.assert(&nginx, &npm);
        installed.put(&fitting_name(), &newer);
        reload_in_vain(&nginx);
        replace_worker(&nginx);
        let workers = nginx.worker_pids();
        before.assert(&nginx, &npm);
        assert_eq!(nginx.worker_pids(), workers, "no worker has crashed");
        nginx.reload();
        assert_injects(&nginx, &npm);
    }
}

#[test]
fn a_worker_that_is_replaced_after_the_loaders_line_came_in_vain_serves_on() {
    let npm = npm();
    let installed = Installed::fitting();
    let mut nginx = site(&npm, &installed).start();
    nginx.expect_crash();
    let with = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("nginx.conf");
    nginx.write_file("nginx.conf", without_module(&with));
    nginx.reload();
    for _ in 0..2 {
        nginx.write_file("nginx.conf", &with);
        reload_in_vain(&nginx);
        replace_worker(&nginx);
        let workers = nginx.worker_pids();
        assert_eq!(nginx.client().get("/bare").status, 200);
        assert_eq!(nginx.worker_pids(), workers, "no worker has crashed");
    }
    nginx.reload();
    assert_injects(&nginx, &npm);
}

/// A configuration of nginx's without the module, with a server that has one location.
fn without_module(with: &str) -> String {
    let (head, server) = with.split_once("    server {").expect("a server");
    let of_module = |line: &&str| line.contains("npm_token_");
    let head: Vec<&str> = head.lines().filter(|line| !of_module(line)).collect();
    let listen = server.lines().find(|line| line.contains("listen ")).expect("a port");
    let server = format!("server {{ {listen} location = /bare {{ return 200 bare; }} }}");
    format!("{}\n{server}\n}}\n", head.join("\n"))
}
