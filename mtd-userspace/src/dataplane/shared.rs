//! Array maps in this process's own memory: the programs see what is written there, without a system call.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use aya::Pod;
use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::error::Error;

/// All elements of an array map (made with `BPF_F_MMAPABLE`).
pub(super) struct Shared<T> {
    /// Kept open: a program that is loaded once more refers to the map by this descriptor.
    _map: Option<MapData>,
    base: NonNull<T>,
    length: usize,
    bytes: NonZeroUsize,
}

// SAFETY: it is memory that other CPUs and processes share anyhow; whoever has the value may use it from any thread.
unsafe impl<T: Pod + Send> Send for Shared<T> {}

impl<T: Pod> Shared<T> {
    /// Maps the elements of a map whose values are `T`.
    ///
    /// # Errors
    /// When the kernel refuses, or the map has other elements.
    pub(super) fn new(name: &'static str, map: MapData) -> Result<Self, Error> {
        // The kernel aligns elements to eight bytes.
        const { assert!(size_of::<T>().is_multiple_of(8) && align_of::<T>() <= 4096) };
        let refused = |cause: std::io::Error| Error::Shared { map: name, cause };
        let info = map.info().map_err(Error::map(name))?;
        let length = info.max_entries() as usize;
        let bytes = NonZeroUsize::new(length * size_of::<T>());
        let bytes = bytes.filter(|_| info.value_size() as usize == size_of::<T>());
        let bytes = bytes.ok_or_else(|| refused(std::io::ErrorKind::InvalidData.into()))?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses, of all elements of the map.
        let base = unsafe { mmap(None, bytes, access, MapFlags::MAP_SHARED, map.fd(), 0) };
        let base = base.map_err(|errno| refused(errno.into()))?.cast();
        Ok(Self { _map: Some(map), base, length, bytes })
    }

    /// Zeroed memory in place of a map.
    #[cfg(test)]
    pub(super) fn anonymous(length: usize) -> Self {
        use nix::sys::mman::mmap_anonymous;

        let bytes = NonZeroUsize::new(length * size_of::<T>()).unwrap();
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, at an address that the kernel chooses.
        let base = unsafe { mmap_anonymous(None, bytes, access, MapFlags::MAP_PRIVATE) }.unwrap();
        Self { _map: None, base: base.cast(), length, bytes }
    }

    /// Number of elements.
    pub(super) const fn len(&self) -> usize {
        self.length
    }

    fn at(&self, index: usize) -> Option<*mut T> {
        // SAFETY: inside the mapping (checked).
        (index < self.length).then(|| unsafe { self.base.as_ptr().add(index) })
    }

    /// An element. The programs may change it meanwhile: each aligned word is consistent, but not the element as a whole.
    pub(super) fn read(&self, index: u32) -> Option<T> {
        // SAFETY: an element of the mapping, aligned; any bytes are a valid value.
        self.at(index as usize).map(|element| unsafe { element.read_volatile() })
    }

    /// Sets an element; this is ordered before all later writes. False: there is no such element.
    pub(super) fn write(&mut self, index: u32, value: T) -> bool {
        let Some(element) = self.at(index as usize) else { return false };
        // SAFETY: an element of the mapping, aligned; nobody but the programs has it, and they read it word by word.
        unsafe { element.write_volatile(value) };
        fence(Ordering::Release);
        true
    }

    /// The word that begins `offset` bytes into an element.
    pub(super) fn word(&self, index: u32, offset: usize) -> Option<u64> {
        let words = size_of::<T>() / 8;
        let within = Some(offset / 8).filter(|at| *at < words)?;
        self.words().get(index as usize * words + within).map(|word| word.load(Ordering::Relaxed))
    }

    /// Sets that word, if there is one.
    pub(super) fn set_word(&self, index: u32, offset: usize, value: u64) {
        let words = size_of::<T>() / 8;
        let within = Some(offset / 8).filter(|at| *at < words);
        if let Some(word) = within.and_then(|at| self.words().get(index as usize * words + at)) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The elements as words.
    pub(super) fn words(&self) -> &[AtomicU64] {
        let words = self.bytes.get() / 8;
        // SAFETY: the mapping, which is aligned to pages and lives as long as `self`; the programs read and write it by aligned words.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().cast(), words) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, of which no reference is left. It cannot fail for such a one.
        let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
    }
}
