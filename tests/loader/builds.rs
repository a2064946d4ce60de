//! The loader in a folder of its own, and the builds that lie beside it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use testbed::nginx::{binary, module};

use crate::site::Module;

/// A loader that is installed.
pub struct Installed {
    folder: TempDir,
}

impl Installed {
    /// With no build.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("loader-").tempdir().expect("a folder");
        let installed = Self { folder };
        fs::copy(module(), installed.loader()).expect("the loader");
        fs::create_dir(installed.folder()).expect("a folder for builds");
        installed
    }

    /// With the build for the nginx of the tests.
    pub fn fitting() -> Self {
        let installed = Self::new();
        installed.put(&fitting_name(), &fitting());
        installed
    }

    /// What becomes of a request where this is loaded, and the fitting build alone may be there.
    pub fn module(&self) -> Module {
        match self.folder().join(fitting_name()).exists() {
            true => Module::Injects,
            false => Module::StandsAside,
        }
    }

    /// What `load_module` names.
    pub fn loader(&self) -> PathBuf {
        self.folder.path().join("ngx_http_npm_token_inject_module.so")
    }

    /// The folder of the builds.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().join("npm_token_inject")
    }

    /// Puts a build there, as a new file under its name.
    pub fn put(&self, name: &str, content: &[u8]) {
        let new = self.folder().join("new");
        fs::write(&new, content).expect("a file in a new folder");
        fs::rename(new, self.folder().join(name)).expect("a file in a new folder");
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.folder().join(name)).expect("a build to remove");
    }
}

/// The build id of a program.
pub fn id(program: &Path) -> String {
    let said = Command::new("readelf").arg("-n").arg(program).output().expect("readelf").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    let id = said.lines().find_map(|line| line.trim().strip_prefix("Build ID: "));
    id.unwrap_or_else(|| panic!("{} has no build id", program.display())).to_owned()
}

/// What the name of the fitting build ends with.
fn ending() -> String {
    format!("-{}.so", id(&binary()))
}

/// All builds that were made, with their names.
fn made() -> Vec<(String, PathBuf)> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("build");
    let folders = fs::read_dir(&build).into_iter().flatten().flatten().map(|entry| entry.path());
    let folders = folders.chain([build.clone()]).map(|folder| folder.join("npm_token_inject"));
    let beside = module().parent().map(|folder| folder.join("npm_token_inject"));
    let files = folders.chain(beside).filter_map(|folder| fs::read_dir(folder).ok());
    let files = files.flatten().flatten().map(|entry| entry.path());
    files
        .filter(|file| file.extension().is_some_and(|extension| extension == "so"))
        .filter_map(|file| Some((file.file_name()?.to_str()?.to_owned(), file)))
        .collect()
}

/// `VERSION-BUILDID.so` of the nginx of the tests.
pub fn fitting_name() -> String {
    let name = made().into_iter().map(|build| build.0).find(|name| name.ends_with(&ending()));
    name.expect("a build for TEST_NGINX beside TEST_NGINX_MODULE")
}

/// The build for the nginx of the tests.
pub fn fitting() -> Vec<u8> {
    let file = made().into_iter().find(|(name, _)| name.ends_with(&ending()));
    fs::read(file.expect("a build for TEST_NGINX").1).expect("a build")
}

/// The builds for other nginx.
pub fn others() -> Vec<(String, Vec<u8>)> {
    let others = made().into_iter().filter(|(name, _)| !name.ends_with(&ending()));
    others.map(|(name, file)| (name, fs::read(file).expect("a build"))).collect()
}

/// The version in a build's name.
pub fn version(name: &str) -> &str {
    name.split('-').next().unwrap_or_default()
}

/// `bytes` with `old` replaced by `new`, as long, wherever it stands.
///
/// # Panics
///
/// When it stands nowhere.
pub fn patched(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    assert_eq!(old.len(), new.len());
    let mut patched = bytes.to_vec();
    let places = bytes.windows(old.len()).enumerate().filter(|(_, window)| *window == old);
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    assert!(!places.is_empty(), "{:?} in a build", String::from_utf8_lossy(old));
    for place in places {
        patched[place..place + new.len()].copy_from_slice(new);
    }
    patched
}

/// `bytes` with one changed.
pub fn with_byte(bytes: &[u8], place: usize, byte: u8) -> Vec<u8> {
    let mut patched = bytes.to_vec();
    patched[place] = byte;
    patched
}
