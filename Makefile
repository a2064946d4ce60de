## make help           this list
help:
	@sed -n 's/^## //p' Makefile

# Not for what make starts: its own flags and job server, which cargo and nginx' build would take
# for theirs; NGINX, where nginx looks for inherited sockets; a secret, for make would expand a `$`.
unexport MAKEFLAGS MFLAGS NGINX NPM_SECRET

# What to work with: the user's nginx, else the vendored one; and the module for it, built anew
# unless the user names one.
build  := .ci/module $(if $(NGINX),'$(NGINX)' '$(NGINX_SOURCE_DIR)')
nginx  := $(if $(NGINX),$(abspath $(NGINX)),$(CURDIR)/build/nginx)
module := $(if $(MODULE),$(abspath $(MODULE)),$$($(build)))

debian_nginx  := $(CURDIR)/build/debian/usr/sbin/nginx
debian_module := $$(.ci/module '$(debian_nginx)' build/debian/usr/share/nginx/src)

# The vendored nginx with the layout of newer ones, see .ci/newer.
newer_nginx  := $(CURDIR)/build/newer/nginx
newer_module := $$(.ci/module '$(newer_nginx)' build/newer/src)

# with NGINX,MODULE begins a command that finds both in its environment. Its `exec` lets Ctrl-C
# reach the program alone, so that make waits until it has ended.
with = module=$(2) && TEST_NGINX='$(1)' TEST_NGINX_MODULE="$$module" exec

.NOTPARALLEL:
.PHONY: help setup-build setup-test setup-lint setup-bench module image test-image test-reproducible debian newer peers test test-npm demo soak fuzz bench lint clean

# What the other targets need: system packages that are missing are installed where that is possible.
setup-build setup-test setup-lint setup-bench: setup-%:
	@.ci/setup $*

## make module         build/nginx, and the module for it: the loader, which nginx loads, and beside
##                     it, in npm_token_inject, the build that it finds
##      NGINX=/path/nginx [NGINX_SOURCE_DIR=/path]
##                     instead, the module for that nginx: both files in build/<version>
module: setup-build
	@$(build) >/dev/null

## make image [NPM_IMAGE=jc21/nginx-proxy-manager:2.16.0]
##                     npm-token-inject, an image of NPM with the module, by docker, podman or buildah
image:
	@.ci/image $(if $(NPM_IMAGE),--build-arg NPM_IMAGE='$(NPM_IMAGE)') -t npm-token-inject

## make test-image     the same by buildah, on a small image with Debian's nginx
test-image: debian
	@.ci/test-image

## make test-reproducible
##                     whether builds in two folders are the same, byte for byte
test-reproducible: debian
	@.ci/test-reproducible '$(debian_nginx)' build/debian/usr/share/nginx/src

# Debian's nginx and its source, in build/debian.
debian: setup-build
	@.ci/unpack build/debian nginx nginx-dev

# An nginx laid out as those of 1.29.5 and newer, in build/newer.
newer: module
	@.ci/newer

# Two sets of artefacts, whatever is made: the lower floor and the tests without features in the dev
# profile, the module and its clippy in the release profile. So nginx and its bindings are built
# once, and no test waits for the module's link-time optimization.

# Most of the module's tests wait for something: so more of them run at once than there are processors.
suite = cargo test --locked --test module -- --test-threads 4

## make test           every test, on build/nginx, on one laid out as newer ones, and on Debian's
test: setup-test debian newer
	cargo test --locked --workspace --exclude npm_token_inject_loader --lib --bins
	cargo test --locked --workspace --doc
	@# One after the other: these stop servers, whose ports another test could take meanwhile.
	@$(call with,$(CURDIR)/build/nginx,$$(.ci/module)) cargo test --locked -p testbed --test '*' -- --test-threads 1
	@$(call with,$(CURDIR)/build/nginx,$$(.ci/module)) cargo test --locked --test compose --test doctor --test layout
	@# All of the module on each nginx; the browser on the oldest, and on what NPM ships now.
	@$(call with,$(CURDIR)/build/nginx,$$(.ci/module)) $(suite)
	@$(call with,$(CURDIR)/build/nginx,$$(.ci/module)) cargo test --locked --test end_to_end --test loader
	@$(call with,$(newer_nginx),$(newer_module)) $(suite)
	@$(call with,$(newer_nginx),$(newer_module)) cargo test --locked --test browser --test end_to_end --test loader
	@$(call with,$(debian_nginx),$(debian_module)) $(suite)
	@$(call with,$(debian_nginx),$(debian_module)) cargo test --locked --test browser --test end_to_end --test loader

## make test-npm NPM=URL NPM_IDENTITY=... NPM_SECRET=... [NGINX=... [MODULE=...]]
##                     the end-to-end tests, on a running Nginx Proxy Manager
test-npm: export TEST_NPM = $(NPM)
test-npm: export TEST_NPM_IDENTITY = $(value NPM_IDENTITY)
test-npm: export TEST_NPM_SECRET = $(value NPM_SECRET)
test-npm: setup-build
	$(if $(NPM),,$(error say which NPM: make test-npm NPM=URL NPM_IDENTITY=... NPM_SECRET=...))
	@$(call with,$(nginx),$(module)) cargo test --locked --test end_to_end

## make demo [NGINX=... [MODULE=...]]
##                     nginx, a small Authentik outpost and a small NPM on loopback, until Ctrl-C
##      DEMO_ONCE=1    ends after the transcript of a visit
##      DEMO_NPM=URL   uses a real NPM
demo: setup-build
	@$(call with,$(nginx),$(module)) cargo run --locked --quiet -p testbed --bin demo

## make soak [NGINX=... [MODULE=...]]
##                     ten minutes of mixed traffic and of all that may go wrong: what failed, what
##                     the module did, and what nginx weighs
##      SOAK_SECONDS=N shorter, or longer
soak: setup-build
	@$(call with,$(nginx),$(module)) cargo run --locked --quiet -p testbed --bin soak

## make fuzz           searches for texts that break what reads them, by coverage, ten minutes for each
##                     kind; make test tries only those that are kept, and some thousand like them
##      FUZZ_SECONDS=N shorter, or longer
##      FUZZ_TARGETS="path page"
##                     these kinds alone, of those in tests/fuzz/corpus
fuzz: setup-build
	@.ci/fuzz '$(or $(FUZZ_SECONDS),600)' $(FUZZ_TARGETS)

# What people would put into the module's place, as Debian has it for its nginx.
peers := libnginx-mod-http-ndk libnginx-mod-http-lua libnginx-mod-http-js lua-resty-core \
         lua-resty-lrucache libluajit2-5.1-2 libpcre3
libraries = $(CURDIR)/build/peers/usr/lib/$(shell uname -m)-linux-gnu:$(CURDIR)/build/peers/lib/$(shell uname -m)-linux-gnu

peers: debian
	@.ci/unpack build/peers $(peers)

## make bench          the side-by-side tables, on Debian's nginx
bench: setup-bench debian peers
	@$(call with,$(debian_nginx),$(debian_module)) env LD_LIBRARY_PATH='$(libraries)' cargo bench --locked

## make lint           formatting, clippy with warnings as errors, and the packages: the Rust that they
##                     need, their licences, where they are from, advisories where those can be had
lint: setup-lint
	cargo fmt --all --check
	shellcheck --severity=warning .ci/* nginx-conf/npm-token-inject-doctor
	.ci/rust-version
	.ci/deny
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --release --features vendored --lib -- -D warnings
	cargo clippy --locked --profile loader --package npm_token_inject_loader -- -D warnings

## make clean          removes all that was made
clean:
	rm -rf build
	cargo clean
