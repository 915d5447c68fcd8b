//! The instruction sets of this processor, detected once at run time, for kernels that depend on
//! them, for records and for `doctor`. This is the only detector: nothing else asks the processor.

use std::sync::LazyLock;

/// The features of this processor that kernels here use or records name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Features {
    pub avx2: bool,
    pub fma: bool,
    pub f16c: bool,
    pub avxvnni: bool,
    pub avx512f: bool,
    pub avx512bw: bool,
    pub avx512dq: bool,
    pub avx512vl: bool,
    pub avx512vnni: bool,
    pub avx512bf16: bool,
    /// Tiles of int8 that this process may use.
    pub amx_int8: bool,
    /// Tiles of bfloat16 that this process may use.
    pub amx_bf16: bool,
    pub neon: bool,
    /// The dot product of bytes of 64-bit ARM.
    pub dotprod: bool,
    /// Whether the processor is AMD's: some choices depend on the maker, not on the instruction
    /// set.
    pub is_amd: bool,
}

impl Features {
    /// The names in records, in a fixed order. Records are compared by them, so sets that every
    /// processor with the others has are left out.
    pub fn names(&self) -> Vec<&'static str> {
        let all = [
            (self.avx2, "avx2"),
            (self.fma, "fma"),
            (self.f16c, "f16c"),
            (self.avxvnni, "avxvnni"),
            (self.avx512f, "avx512f"),
            (self.avx512bw, "avx512bw"),
            (self.avx512vl, "avx512vl"),
            (self.avx512vnni, "avx512vnni"),
            (self.avx512bf16, "avx512bf16"),
            (self.amx_int8, "amx_int8"),
            (self.amx_bf16, "amx_bf16"),
            (self.neon, "neon"),
        ];
        all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect()
    }
}

/// Detects the features once and asks the system for the tile registers.
pub fn features() -> &'static Features {
    static FOUND: LazyLock<Features> = LazyLock::new(detect);
    &FOUND
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Features {
    let amx = amx::detect();
    Features {
        avx2: is_x86_feature_detected!("avx2"),
        fma: is_x86_feature_detected!("fma"),
        f16c: is_x86_feature_detected!("f16c"),
        avxvnni: is_x86_feature_detected!("avxvnni"),
        avx512f: is_x86_feature_detected!("avx512f"),
        avx512bw: is_x86_feature_detected!("avx512bw"),
        avx512dq: is_x86_feature_detected!("avx512dq"),
        avx512vl: is_x86_feature_detected!("avx512vl"),
        avx512vnni: is_x86_feature_detected!("avx512vnni"),
        avx512bf16: is_x86_feature_detected!("avx512bf16"),
        amx_int8: amx.int8,
        amx_bf16: amx.bf16,
        is_amd: amx::is_amd(),
        ..Features::default()
    }
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Features {
    Features {
        neon: std::arch::is_aarch64_feature_detected!("neon"),
        dotprod: std::arch::is_aarch64_feature_detected!("dotprod"),
        ..Features::default()
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Features {
    Features::default()
}

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
pub use amx::{TileConfiguration, WHOLE_TILES};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wider_set_comes_with_the_narrower_ones() {
        let found = features();
        assert!(!found.avx512f || found.avx2 && found.fma, "{found:?}");
        assert!(!found.amx_bf16 || found.avx512f, "{found:?}");
        assert!(!found.dotprod || found.neon, "{found:?}");
    }

    #[test]
    fn records_keep_their_names_and_order() {
        let all =
            Features { avx2: true, avx512dq: true, amx_bf16: true, neon: true, ..*features() };
        let names = all.names();
        assert_eq!((names[0], names[names.len() - 1]), ("avx2", "neon"));
        assert!(!names.contains(&"avx512dq"));
        assert_eq!(Features::default().names(), [""; 0]);
    }
}
