//! Files of programs and libraries.

use alloc::format;
use alloc::string::String;
use core::ffi::{c_int, CStr};
use core::mem::{size_of, MaybeUninit};

use libc::{Elf64_Ehdr, Elf64_Phdr};

/// This processor, as a library's header says it (`e_machine`).
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = libc::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = libc::EM_AARCH64;

/// A file open for reading.
pub struct File(c_int);

impl File {
    pub fn open(path: &CStr) -> Option<Self> {
        // Not to wait for the other end of a pipe.
        let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: the path is ended by a null byte.
        let descriptor = unsafe { libc::open(path.as_ptr(), flags) };
        (descriptor >= 0).then_some(Self(descriptor))
    }

    pub fn stat(&self) -> Option<libc::stat> {
        let mut stat = MaybeUninit::uninit();
        // SAFETY: fstat fills what it is given, unless it fails.
        unsafe { (libc::fstat(self.0, stat.as_mut_ptr()) == 0).then(|| stat.assume_init()) }
    }

    /// Reads into the buffer, and returns how much it has read: less at the file's end.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Option<usize> {
        let offset = i64::try_from(offset).ok()?;
        // SAFETY: the buffer is as long as it says.
        let length =
            unsafe { libc::pread(self.0, buffer.as_mut_ptr().cast(), buffer.len(), offset) };
        usize::try_from(length).ok()
    }

    /// Reads a structure of the file.
    ///
    /// # Safety
    ///
    /// Whatever the file holds is a `T`.
    unsafe fn read<T>(&self, offset: u64) -> Option<T> {
        let mut value = MaybeUninit::<T>::zeroed();
        // SAFETY: the buffer is that of the value, which is initialized.
        let buffer = unsafe {
            core::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>())
        };
        let whole = self.read_at(buffer, offset)? == size_of::<T>();
        // SAFETY: as promised by the caller.
        whole.then(|| unsafe { value.assume_init() })
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // SAFETY: the descriptor is this file's own.
        unsafe { libc::close(self.0) };
    }
}

/// Looks whether a file is a library for this processor, and whole: the dynamic linker maps one
/// that is cut off, and crashes where it goes on reading.
///
/// # Errors
///
/// What is wrong with it.
pub fn check(file: &File) -> Result<(), String> {
    let stat = file.stat().ok_or("it cannot be read")?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFREG {
        return Err("it is not a regular file".into());
    }
    // SAFETY: both structures have numbers alone.
    let header: Elf64_Ehdr = unsafe { file.read(0) }.ok_or("it is cut off")?;
    let [0x7f, b'E', b'L', b'F', class, order, ..] = header.e_ident else {
        return Err("it is not a library".into());
    };
    if (class, order, header.e_machine) != (libc::ELFCLASS64, libc::ELFDATA2LSB, MACHINE) {
        return Err("it is for another processor".into());
    }
    if usize::from(header.e_phentsize) != size_of::<Elf64_Phdr>() || header.e_type != libc::ET_DYN {
        return Err("it is not a library".into());
    }
    for index in 0..u64::from(header.e_phnum) {
        let offset = header.e_phoff.checked_add(index * size_of::<Elf64_Phdr>() as u64);
        // SAFETY: as above.
        let part = offset.and_then(|offset| unsafe { file.read::<Elf64_Phdr>(offset) });
        let end = part.and_then(|part| part.p_offset.checked_add(part.p_filesz));
        match end {
            Some(end) if end <= stat.st_size as u64 => {}
            _ => return Err(format!("it is cut off after {} bytes", stat.st_size)),
        }
    }
    Ok(())
}

/// The build id among notes, as a segment `PT_NOTE` holds them.
pub fn build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    loop {
        let (name_length, rest) = number(notes)?;
        let (length, rest) = number(rest)?;
        let (kind, rest) = number(rest)?;
        let (name, rest) = padded(rest, name_length)?;
        let (value, rest) = padded(rest, length)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" {
            return Some(value);
        }
        notes = rest;
    }
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), rest))
}

/// So many bytes, and what follows them on the next multiple of four.
fn padded(bytes: &[u8], length: u32) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(length).ok()?;
    let rest = bytes.get(length.checked_next_multiple_of(4)?..).unwrap_or_default();
    Some((bytes.get(..length)?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(name: &[u8], kind: u8, value: &[u8]) -> std::vec::Vec<u8> {
        let mut note = std::vec![];
        for length in [name.len(), value.len(), kind.into()] {
            note.extend((length as u32).to_le_bytes());
        }
        for bytes in [name, value] {
            note.extend(bytes);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    }

    #[test]
    fn the_build_id_is_found_among_other_notes() {
        let notes =
            [note(b"GNU\0", 5, b"property"), note(b"Xen\0", 3, b"no"), note(b"GNU\0", 3, b"12345")];
        assert_eq!(build_id(&notes.concat()), Some(&b"12345"[..]));
        assert_eq!(build_id(&notes[..2].concat()), None);
    }

    #[test]
    fn notes_that_are_cut_off_hold_no_build_id() {
        let note = note(b"GNU\0", 3, b"12345678");
        for length in 0..note.len() {
            assert_eq!(build_id(&note[..length]), None, "{length}");
        }
        assert_eq!(build_id(&[0xff; 64]), None);
    }
}
