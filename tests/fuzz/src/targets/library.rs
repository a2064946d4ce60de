//! Files of programs and libraries, as the loader reads them.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};

use crate::{elf, names};

pub fn build_id(data: &[u8]) {
    let found = elf::build_id(data);
    assert_eq!(found, by_offsets(data));
}

/// The same, by offsets that cannot overflow.
fn by_offsets(notes: &[u8]) -> Option<&[u8]> {
    let number = |at: u64| -> Option<u64> {
        let at = usize::try_from(at).ok()?;
        let bytes = notes.get(at..at + 4)?;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    let part = |from: u64, to: u64| notes.get(from as usize..to as usize);
    let mut at = 0;
    loop {
        let (name, value, kind) = (number(at)?, number(at + 4)?, number(at + 8)?);
        let name_at = at + 12;
        let value_at = name_at + name.div_ceil(4) * 4;
        let end = value_at + value.div_ceil(4) * 4;
        let name = part(name_at, name_at + name)?;
        // What is cut off is none, but for the padding after the last.
        let value = part(value_at.min(notes.len() as u64), value_at + value)?;
        if (kind, name) == (3, b"GNU\0") {
            return Some(value);
        }
        at = end;
    }
}

pub fn build_names(data: &[u8]) {
    let mut lines = data.split(|&b| b == b'\n');
    // As the loader writes what it has read: in hexadecimal.
    let id: String = lines.next().unwrap_or_default().iter().map(|b| format!("{b:02x}")).collect();
    for name in lines {
        let is_for = names::is_for(name, &id);
        let ending = name.rsplit(|&b| b == b'-').next().unwrap_or_default();
        let is_own =
            name.contains(&b'-') && !id.is_empty() && ending == format!("{id}.so").as_bytes();
        assert_eq!(is_for, is_own);
        assert!(!is_for || names::is_library(name));
        let own = [name, b"-", id.as_bytes(), b".so"].concat();
        assert_eq!(names::is_for(&own, &id), !id.is_empty());
        let other = [name, b"-", id.as_bytes(), b"0.so"].concat();
        assert!(!names::is_for(&other, &id));
    }
}

pub fn file(data: &[u8]) {
    // SAFETY: the name is ended by a null byte, and the descriptor is nobody else's.
    let mut file = unsafe {
        let descriptor = libc::memfd_create(c"library".as_ptr(), libc::MFD_CLOEXEC);
        assert!(descriptor >= 0, "no file in memory: {}", std::io::Error::last_os_error());
        File::from_raw_fd(descriptor)
    };
    file.write_all(data).expect("a file in memory takes it");
    let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("a path");
    let opened = elf::File::open(&path).expect("a file in memory opens");
    match elf::check(&opened) {
        Ok(()) => {
            let number = |at: usize, size: usize| {
                let bytes = data.get(at..at + size).expect("it is within");
                bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
            };
            assert!(data.starts_with(b"\x7fELF\x02\x01"));
            // e_type is ET_DYN; of each of e_phnum parts from e_phoff on: p_offset and p_filesz.
            assert_eq!(number(16, 2), 3);
            for part in 0..number(56, 2) as usize {
                let at = number(32, 8) as usize + part * 56;
                let end = number(at + 8, 8).checked_add(number(at + 32, 8));
                assert!(end.is_some_and(|end| end <= data.len() as u64));
            }
        }
        Err(error) => assert!(error.starts_with("it "), "{error}"),
    }
}
