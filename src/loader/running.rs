//! The nginx that is running.

use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int, c_void};

use sha2::{Digest, Sha256};

use crate::elf::{self, File};
use crate::structures::ngx_module_t;

pub struct Running {
    pub version: usize,
    pub signature: *const c_char,
    /// What names its builds: the build id that its linker gave it, in hexadecimal; the SHA-256 of
    /// its file where it has none; empty where that cannot be read.
    pub id: String,
}

impl Running {
    pub fn new(core: &ngx_module_t) -> Self {
        let id = build_id().or_else(sha256).unwrap_or_default();
        Self { version: core.version, signature: core.signature, id: hexadecimal(&id) }
    }

    /// `1.28.3`.
    pub fn version(&self) -> String {
        version_of(self.version)
    }
}

/// nginx's number of a version, 1028003, as it is written.
pub fn version_of(number: usize) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}

/// Where the running program's file is.
pub fn executable() -> Option<CString> {
    let mut path = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is as long as it says.
    let length =
        unsafe { libc::readlink(c"/proc/self/exe".as_ptr(), path.as_mut_ptr().cast(), path.len()) };
    let path = path.get(..usize::try_from(length).ok()?)?;
    CString::new(path).ok()
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The build id in the notes of the running program.
fn build_id() -> Option<Vec<u8>> {
    let mut id: Option<Vec<u8>> = None;
    // SAFETY: `visit` is given this pointer, and only while this call lasts.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut id).cast()) };
    id
}

/// Called with the program itself first, and ends there.
unsafe extern "C" fn visit(info: *mut libc::dl_phdr_info, _: usize, found: *mut c_void) -> c_int {
    // SAFETY: the dynamic linker describes what it has mapped, and `build_id` passes the pointer.
    unsafe {
        let (info, found) = (&*info, &mut *found.cast::<Option<Vec<u8>>>());
        let headers = core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into());
        *found = headers.iter().filter(|header| header.p_type == libc::PT_NOTE).find_map(|note| {
            let start = info.dlpi_addr.wrapping_add(note.p_vaddr) as *const u8;
            let notes = core::slice::from_raw_parts(start, note.p_memsz as usize);
            elf::build_id(notes).map(<[u8]>::to_vec)
        });
    }
    1
}

fn sha256() -> Option<Vec<u8>> {
    let file = File::open(c"/proc/self/exe")?;
    let mut hash = Sha256::new();
    let mut buffer = [0; 64 * 1024];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => return Some(hash.finalize().to_vec()),
            length => {
                hash.update(buffer.get(..length)?);
                offset += length as u64;
            }
        }
    }
}
