//! Index tables for word permutations of packed blocks, computed at compile time.

/// A table of 32 word indices from a function of the output's dword `j`, block `i` and half `h`.
pub const fn words(stride: i16, first: i16, per_j: i16, split: i16, base: i16) -> [i16; 32] {
    let mut table = [0i16; 32];
    let mut at = 0;
    while at < 32 {
        let (j, i, h) = (at as i16 / 8, at as i16 / 2 % 4, at as i16 % 2);
        let word = stride * i + first + per_j * j + h;
        // Words below `split` come from the first source, the others from the second, whose
        // word 0 is word `base` of the block.
        table[at] = if word < split { word } else { 32 + word - base };
        at += 1;
    }
    table
}

/// Scales of four blocks, four times: word indices `stride · i`, from two sources 32 or `second`
/// words apart.
pub const fn scale_words(stride: i16, split: i16, base: i16) -> [i16; 32] {
    let mut table = [0i16; 32];
    let mut at = 0;
    while at < 16 {
        let word = stride * (at as i16 % 4);
        table[at] = if word < split { word } else { 32 + word - base };
        at += 1;
    }
    table
}
