//! Which tokens end a generation: those that the metadata names, and those whose spelling llama.cpp
//! knows. The tables are those of `llama_vocab::impl::load` in llama.cpp's `llama-vocab.cpp`.

use std::collections::HashMap;

use super::vocabulary::Kind;

/// End of a text, a turn, a message or a call.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];

/// Padding, repository and file of a fill-in-the-middle model: one of each ends a generation.
const MIDDLE: [&[&str]; 3] = [
    &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
    &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
    &["<|file_sep|>"],
];

/// Always shown, whatever the file says.
const SHOWN: [&str; 4] = ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// The ids that end a generation, ascending. `named` are the ids of the metadata: end of turn, end of
/// message, then the three of [`MIDDLE`]. A token of the tables is a control token, whatever kind
/// the file gives it.
pub fn find(
    tokens: &[&str],
    kinds: &mut [Kind],
    eos: Option<u32>,
    named: &[Option<u32>],
) -> Vec<u32> {
    // Every name of the tables begins with one of these; few tokens do.
    let candidates = tokens.iter().zip(0u32..).filter(|(t, _)| t.starts_with(['<', '[', '_']));
    let places: HashMap<&str, u32> = candidates.map(|(t, id)| (*t, id)).collect();
    let id_of = |name: &str| places.get(name).copied();
    let mut ends: Vec<u32> = eos.into_iter().chain(named.iter().flatten().copied()).collect();
    let known = ENDS.iter().filter_map(|name| id_of(name));
    let of_middle = MIDDLE.iter().zip(named.iter().skip(2)).filter(|(_, named)| named.is_none());
    let middle = of_middle.filter_map(|(names, _)| names.iter().find_map(|name| id_of(name)));
    for id in known.chain(middle) {
        kinds[id as usize] = Kind::Control;
        ends.push(id);
    }
    for id in SHOWN.iter().filter_map(|name| id_of(name)) {
        kinds[id as usize] = Kind::UserDefined;
    }
    let mut drop = |name: &str, kind: Kind| {
        if let Some(id) = id_of(name) {
            ends.retain(|end| *end != id);
            kinds[id as usize] = kind;
        }
    };
    // Where a vocabulary has ends of calls, `<|end|>` ends a part of an answer.
    let has = |name: &str| id_of(name).is_some();
    if (has("<|call|>") || has("<|calls|>")) && (has("<|return|>") || has("<|flush|>")) {
        drop("<|end|>", Kind::UserDefined);
    }
    if has("<|tool_response>") {
        drop("</s>", Kind::Normal);
    }
    ends.sort_unstable();
    ends.dedup();
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(tokens: &[&str], eos: Option<u32>, named: [Option<u32>; 5]) -> (Vec<u32>, Vec<Kind>) {
        let mut kinds = vec![Kind::Normal; tokens.len()];
        (find(tokens, &mut kinds, eos, &named), kinds)
    }

    #[test]
    fn the_end_of_a_turn_is_found_by_any_name_that_llama_cpp_knows() {
        for name in ENDS {
            let (found, kinds) = ends(&["a", name, "b"], None, [None; 5]);
            assert_eq!(found, [1], "{name}");
            assert_eq!(kinds, [Kind::Normal, Kind::Control, Kind::Normal]);
        }
    }

    #[test]
    fn metadata_adds_its_own_and_names_the_only_one_of_its_kind() {
        let tokens = ["a", "b", "<|fim_pad|>", "<PAD>", "</s>"];
        assert_eq!(ends(&tokens, Some(0), [Some(1), None, None, None, None]).0, [0, 1, 2, 4]);
        assert_eq!(ends(&tokens, None, [None, None, Some(3), None, None]).0, [3, 4]);
    }

    #[test]
    fn an_end_of_a_part_is_not_the_end_of_the_answer() {
        let tokens = ["<|end|>", "<|return|>", "<|call|>", "<|channel|>"];
        let (found, kinds) = ends(&tokens, None, [None; 5]);
        assert_eq!(found, [1, 2]);
        assert_eq!((kinds[0], kinds[3]), (Kind::UserDefined, Kind::UserDefined));
        assert_eq!(ends(&["<|end|>", "<|return|>"], None, [None; 5]).0, [0, 1]);
        assert_eq!(ends(&["<|tool_response>", "</s>"], None, [None; 5]).0, [0]);
    }
}
