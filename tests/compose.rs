//! The compose file names what the texts around it name.

use std::path::Path;

use serde_yaml_ng::Value;

const COMPOSE: &str = include_str!("../nginx-conf/compose.yaml");
const DOCKERFILE: &str = include_str!("../nginx-conf/Dockerfile");
const ADVANCED: &str = include_str!("../nginx-conf/advanced.conf");
const README: &str = include_str!("../README.md");

fn compose() -> Value {
    serde_yaml_ng::from_str(COMPOSE).expect("YAML")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value:?} is no text"))
}

fn list(value: &Value) -> impl Iterator<Item = &str> {
    value.as_sequence().unwrap_or_else(|| panic!("{value:?} is no list")).iter().map(text)
}

#[test]
fn npm_is_built_from_the_dockerfile() {
    let build = &compose()["services"]["npm"]["build"];
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(text(&build["context"]));
    assert!(folder.join(text(&build["dockerfile"])).is_file());
    for (name, value) in build["args"].as_mapping().expect("arguments") {
        assert!(DOCKERFILE.contains(&format!("ARG {}=", text(name))), "{name:?}");
        let repository = text(value).split(':').next().unwrap_or_default();
        assert!(DOCKERFILE.contains(&format!("={repository}:")), "{value:?}");
    }
}

#[test]
fn npm_keeps_what_it_has_where_the_texts_look_for_it() {
    let npm = &compose()["services"]["npm"];
    let targets: Vec<_> =
        list(&npm["volumes"]).filter_map(|v| v.split(':').nth(1)).map(str::to_owned).collect();
    assert_eq!(targets, ["/data", "/etc/letsencrypt"]);
    // The directive's default, and where the module's files go.
    for path in ["/data/npm_token_inject.json", "/data/nginx/custom"] {
        assert!(README.contains(path) && path.starts_with(&targets[0]), "{path}");
    }
    assert!(DOCKERFILE.contains("--output data/nginx/custom"));
}

#[test]
fn each_secret_is_a_file_that_the_texts_name() {
    let compose = compose();
    let secrets = compose["secrets"].as_mapping().expect("secrets");
    let used: Vec<&str> = list(&compose["services"]["npm"]["secrets"]).collect();
    assert_eq!(secrets.keys().map(text).collect::<Vec<_>>(), used);
    for (name, secret) in secrets {
        let (file, place) = (text(&secret["file"]), format!("/run/secrets/{}", text(name)));
        assert_eq!(file, format!("./secrets/{}", text(name)));
        for source in [COMPOSE, README] {
            assert!(source.contains(&format!("\"secret_file\": \"{place}\"")), "{place}");
        }
        assert!(COMPOSE.contains(&format!("> {}", &file[2..])));
    }
}

#[test]
fn the_outpost_is_at_the_address_in_advanced_conf() {
    let compose = compose();
    let services = compose["services"].as_mapping().expect("services");
    let address =
        ADVANCED.split("set $authentik http://").nth(1).and_then(|rest| rest.split(';').next());
    let (name, port) = address.and_then(|address| address.split_once(':')).expect("an address");
    assert_eq!(port, "9000", "where an outpost listens");
    let outpost = services.get(name).expect("an outpost");
    assert!(text(&outpost["image"]).starts_with("ghcr.io/goauthentik/proxy:"));
}

#[test]
fn nothing_but_the_proxy_itself_is_open_to_others() {
    let compose = compose();
    for port in list(&compose["services"]["npm"]["ports"]) {
        let is_own = port.starts_with("127.0.0.1:");
        assert!(is_own || ["80:80", "443:443"].contains(&port), "{port}");
    }
    assert!(compose["services"]["authentik"].get("ports").is_none());
}
