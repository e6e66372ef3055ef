//! How the C library keeps freed memory.

/// Lets the C library keep two arenas at most. A chunk is laid together on one thread and freed on
/// another; with an arena for each thread (glibc's default: eight for each processor) freed chunks
/// pile up in arenas that nobody allocates from. On the first backup of 120,000 small files this
/// takes the peak from 195–219 MiB to 134–147 at the same speed (`docs/design/0001-format-sizes.md`).
///
/// Must be called before any thread is started; otherwise it changes nothing.
pub(crate) fn keep_few_arenas() {
    #[cfg(target_env = "gnu")]
    set(libc::M_ARENA_MAX, 2);
}

/// Lets the C library keep what is freed, for programs that go on filling chunks. Given
/// back to the kernel they are faulted in again page by page: that they are kept takes a third of
/// the system time off the first backup of a disk image (`docs/design/0001-format-sizes.md`).
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        // Larger blocks come from the kernel and go back to it: packs, whose room would otherwise be cut up by what is
        // smaller and lives longer, and grow with the time that a run takes.
        set(libc::M_MMAP_THRESHOLD, 8 << 20);
        set(libc::M_TRIM_THRESHOLD, 256 << 20);
    }
}

#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
fn set(parameter: libc::c_int, value: libc::c_int) {
    // SAFETY: `mallopt` only sets a number in the allocator, under its own lock. That it fails
    // leaves the default as it is.
    let _ = unsafe { libc::mallopt(parameter, value) };
}
