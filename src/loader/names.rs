//! How builds are named: `VERSION-BUILDID.so`, as `.ci/module` does it.

/// Whether it is the name of a library.
pub fn is_library(name: &[u8]) -> bool {
    name.ends_with(b".so")
}

/// Whether it is the name of a build for the nginx that has this id. No build is for one without.
pub fn is_for(name: &[u8], id: &str) -> bool {
    let rest = name.strip_suffix(b".so").and_then(|name| name.strip_suffix(id.as_bytes()));
    !id.is_empty() && rest.is_some_and(|version| version.ends_with(b"-"))
}
