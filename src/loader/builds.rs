//! The builds beside the loader: `npm_token_inject/VERSION-BUILDID.so`.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ffi::{c_char, c_void, CStr};
use core::mem::MaybeUninit;
use core::ptr;

use crate::elf::{self, File};
use crate::names::{is_for, is_library};
use crate::running::{version_of, Running};
use crate::structures::{ngx_module_t, NGX_MODULE_UNSET_INDEX};
use crate::{display, tables};

/// A build that is open, for the nginx that is running.
pub struct Build {
    _library: Library,
    /// Its modules, with their names.
    pub modules: Vec<(*mut ngx_module_t, *const c_char)>,
    /// Before which others each stands, as `ngx_module_order` says it.
    pub order: Vec<*const c_char>,
}

/// Why there is none.
#[derive(Default)]
pub struct Lack {
    /// The folder of the builds.
    pub folder: String,
    /// All that lie there, by their names.
    pub builds: Vec<String>,
    /// The one for this nginx that cannot be used, and why.
    pub unfit: Option<(String, String)>,
}

/// Opens the build for an nginx.
///
/// # Errors
///
/// When there is none that can be used.
pub fn open(running: &Running) -> Result<Build, Lack> {
    let mut lack = Lack::default();
    let Some(folder) = folder() else {
        return Err(lack);
    };
    let mut names = libraries(&folder);
    names.sort_unstable();
    lack.folder = lossy(&folder);
    lack.builds = names.iter().map(|name| lossy(name)).collect();

    for name in names.iter().filter(|name| is_for(name, &running.id)) {
        match Build::open(&folder, name, running) {
            Ok(build) => return Ok(build),
            Err(reason) => lack.unfit = Some((lossy(name), reason)),
        }
    }
    Err(lack)
}

impl Build {
    fn open(folder: &[u8], name: &[u8], running: &Running) -> Result<Self, String> {
        let path = |slashes: usize| {
            let slashes = "/".repeat(slashes);
            CString::new([folder, slashes.as_bytes(), name].concat()).map_err(|e| e.to_string())
        };
        let file = File::open(&path(1)?).ok_or("it cannot be opened")?;
        elf::check(&file)?;
        let library = Library::open(&path(slashes_for(&file))?)?;

        // SAFETY: nginx itself makes these tables for a module: ended by a null, with as many
        // names as modules.
        unsafe {
            let modules = library.table::<*mut ngx_module_t>(c"ngx_modules");
            let names = library.table::<*const c_char>(c"ngx_module_names");
            let order = library.table::<*const c_char>(c"ngx_module_order");
            let modules = until_null(modules).zip(until_null(names)).collect();
            let build = Self { _library: library, modules, order: until_null(order).collect() };
            build.check(running)?;
            Ok(build)
        }
    }

    /// Whether it is the same library, open once more.
    pub fn is(&self, other: &Self) -> bool {
        self.modules == other.modules
    }

    /// Takes back what nginx has written into its modules: their places among those of a
    /// configuration. In another one these may be others'.
    ///
    /// # Safety
    ///
    /// nginx is on one thread, and works by no configuration that has these modules.
    pub unsafe fn forget_places(&self) {
        for &(module, _) in &self.modules {
            // SAFETY: as promised by the caller; the library is open.
            unsafe {
                (*module).index = NGX_MODULE_UNSET_INDEX;
                (*module).ctx_index = NGX_MODULE_UNSET_INDEX;
            }
        }
    }

    /// Looks whether nginx will take it.
    ///
    /// # Safety
    ///
    /// The modules are such, and theirs and the running nginx's signature are ended by a null byte.
    unsafe fn check(&self, running: &Running) -> Result<(), String> {
        if self.modules.is_empty() {
            return Err("it holds no module".into());
        }
        if self.modules.len() > tables::MODULES || self.order.len() > tables::ORDER {
            return Err("it holds too many modules".into());
        }
        for (module, _) in &self.modules {
            // SAFETY: as promised by the caller.
            let module = unsafe { &**module };
            if module.version != running.version {
                return Err(format!("it is for nginx {}", version_of(module.version)));
            }
            // SAFETY: as promised by the caller.
            if unsafe { CStr::from_ptr(module.signature) != CStr::from_ptr(running.signature) } {
                return Err("it is for an nginx that is configured otherwise".into());
            }
        }
        Ok(())
    }
}

/// A library that is open, until dropped.
struct Library(*mut c_void);

impl Library {
    fn open(path: &CStr) -> Result<Self, String> {
        // SAFETY: what runs when the library is opened is this project's own.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if handle.is_null() {
            // SAFETY: it has just failed.
            let error = unsafe { display(libc::dlerror()) };
            let path = path.to_string_lossy();
            let cause = error.strip_prefix(&*path).map(|cause| cause.trim_start_matches(": "));
            return Err(cause.unwrap_or(&error).into());
        }
        Ok(Self(handle))
    }

    /// Where the library's table of that name is, else null.
    fn table<T>(&self, name: &CStr) -> *const T {
        // SAFETY: the library is open, and the name ended by a null byte.
        unsafe { libc::dlsym(self.0, name.as_ptr()).cast_const().cast() }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: the handle is this library's own.
        unsafe { libc::dlclose(self.0) };
    }
}

/// The pointers of a table up to the null that ends it; none where there is no table.
///
/// # Safety
///
/// The table is null, or ended by a null.
unsafe fn until_null<P: Pointer>(table: *const P) -> impl Iterator<Item = P> {
    let mut next = table;
    core::iter::from_fn(move || {
        if next.is_null() {
            return None;
        }
        // SAFETY: no pointer before this one was the null at the end; after that, `fuse` asks no more.
        let pointer = unsafe {
            let pointer = *next;
            next = next.add(1);
            pointer
        };
        (!pointer.is_null()).then_some(pointer)
    })
    .fuse()
}

trait Pointer: Copy {
    fn is_null(self) -> bool;
}

impl<T> Pointer for *const T {
    fn is_null(self) -> bool {
        <*const T>::is_null(self)
    }
}

impl<T> Pointer for *mut T {
    fn is_null(self) -> bool {
        <*mut T>::is_null(self)
    }
}

/// With how many slashes the path of this file is written. glibc takes a library for one that is
/// open if the path is the same, whatever file is there now: so another file's is another.
fn slashes_for(file: &File) -> usize {
    /// More than there are ever open at a time.
    const MOST: usize = 64;
    static mut LAST: (u64, u64, usize) = (0, 0, 0);

    let (device, inode) = file.stat().map_or((0, 0), |stat| (stat.st_dev, stat.st_ino));
    // SAFETY: nginx reads its configuration on one thread.
    unsafe {
        let (_, _, count) = LAST;
        if LAST != (device, inode, count) {
            LAST = (device, inode, count % MOST + 1);
        }
        LAST.2
    }
}

/// The path by which nginx has opened the loader: what `load_module` names.
pub fn own_path() -> *const c_char {
    static HERE: u8 = 0;
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: dladdr fills what it is given, unless it fails.
    unsafe {
        match libc::dladdr((&raw const HERE).cast(), info.as_mut_ptr()) {
            0 => c"npm_token_inject_loader".as_ptr(),
            _ => info.assume_init().dli_fname,
        }
    }
}

/// The folder of the builds, beside the loader.
fn folder() -> Option<Vec<u8>> {
    // SAFETY: the path is ended by a null byte.
    let path = unsafe { CStr::from_ptr(own_path()) }.to_bytes();
    let end = path.iter().rposition(|&byte| byte == b'/')?;
    Some([path.get(..=end)?, b"npm_token_inject"].concat())
}

/// The names of the libraries in a folder; none where it cannot be read.
fn libraries(folder: &[u8]) -> Vec<Vec<u8>> {
    let mut names = Vec::new();
    let Ok(folder) = CString::new(folder) else {
        return names;
    };
    // SAFETY: the path is ended by a null byte, and so are the entries' names, each of which is
    // there until the next is read.
    unsafe {
        let entries = libc::opendir(folder.as_ptr());
        if entries.is_null() {
            return names;
        }
        while let Some(entry) = libc::readdir(entries).as_ref() {
            let name = CStr::from_ptr(ptr::addr_of!(entry.d_name).cast()).to_bytes();
            if is_library(name) {
                names.push(name.to_vec());
            }
        }
        libc::closedir(entries);
    }
    names
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
