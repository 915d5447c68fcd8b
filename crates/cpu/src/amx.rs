//! Detects AMX, which the standard library does not: products of whole tiles.

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

/// The tiles that this process may use.
#[derive(Clone, Copy)]
pub struct Amx {
    pub int8: bool,
    pub bf16: bool,
}

/// Whether the processor is AMD's.
pub fn is_amd() -> bool {
    let id = __cpuid(0);
    [id.ebx, id.edx, id.ecx] == [*b"Auth", *b"enti", *b"cAMD"].map(u32::from_le_bytes)
}

/// Detects AMX and asks the system for the tile registers.
pub fn detect() -> Amx {
    let has = reported();
    match has.int8 || has.bf16 {
        true if permitted() => has,
        _ => Amx { int8: false, bf16: false },
    }
}

/// CPUID's report, if the system saves tiles when it switches threads.
fn reported() -> Amx {
    let none = Amx { int8: false, bf16: false };
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(0).eax < 7 || __cpuid(1).ecx & OSXSAVE == 0 {
        return none;
    }
    #[target_feature(enable = "xsave")]
    fn saved() -> u64 {
        // SAFETY: register 0 always exists.
        unsafe { _xgetbv(0) }
    }
    const CONFIGURATION_AND_DATA: u64 = 0b11 << 17;
    // SAFETY: OSXSAVE says that programs may read this register.
    if unsafe { saved() } & CONFIGURATION_AND_DATA != CONFIGURATION_AND_DATA {
        return none;
    }
    let features = __cpuid_count(7, 0).edx;
    let has = |bit: u32| features & (1 << bit) != 0;
    let tiles = has(24);
    Amx { int8: tiles && has(25), bf16: tiles && has(22) }
}

/// Asks Linux for permission to use the tile registers in all threads of the process.
fn permitted() -> bool {
    #[cfg(target_os = "linux")]
    {
        const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
        const XTILEDATA: libc::c_long = 18;
        // SAFETY: changes nothing but that permission.
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XTILEDATA) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    {
        false
    }
}

/// The operand of `ldtilecfg`.
#[repr(C, align(64))]
pub struct TileConfiguration([u8; 64]);

/// Palette 1: all eight tiles have 16 rows of 64 bytes.
pub static WHOLE_TILES: TileConfiguration = {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    let mut i = 0;
    while i < 8 {
        bytes[16 + 2 * i] = 64;
        bytes[48 + i] = 16;
        i += 1;
    }
    TileConfiguration(bytes)
};
