//! The form of messages on the wire, and what the codec refuses.

use super::*;
use proptest::prelude::*;

#[test]
fn messages_have_the_documented_form() {
    let hello = serde_json::to_string(&Request::Hello { protocol: 1 }).unwrap();
    assert_eq!(hello, r#"{"type":"hello","protocol":1}"#);
    let bye = serde_json::to_string(&Request::Bye).unwrap();
    assert_eq!(bye, r#"{"type":"bye"}"#);
    let error: Reply = decode(br#"{"type":"error","kind":"oom","message":"no room"}"#).unwrap();
    assert_eq!(error, Reply::Error(EngineError::new(ErrorKind::Oom, "no room")));
}

#[test]
fn unknown_fields_are_ignored_and_unknown_types_refused() {
    let ok: Result<Request, _> = decode(br#"{"type":"memory","later":true}"#);
    assert!(ok.is_ok());
    let bad: Result<Request, _> = decode(br#"{"type":"dance"}"#);
    assert!(bad.is_err());
}

#[test]
fn a_measured_request_has_no_field_of_the_others() {
    let sent = serde_json::to_string(&Request::Generate(Generate::greedy(1, vec![5], 2)));
    assert_eq!(sent.unwrap(), r#"{"type":"generate","id":1,"prompt":[5],"n":2,"ignore_eos":true}"#);
}

#[test]
fn a_measured_request_for_ids_has_texts_alone_and_its_answer_their_counts() {
    let sent = Request::Tokenize(Tokenize { id: 1, texts: vec!["a \"b\"".into()], ids: false });
    let sent = serde_json::to_string(&sent).unwrap();
    assert_eq!(sent, r#"{"type":"tokenize","id":1,"texts":["a \"b\""]}"#);
    let got = br#"{"type":"tokenized","id":1,"counts":[4],"t_begin_ns":1,"t_end_ns":2}"#;
    let Reply::Tokenized(got) = decode(got).unwrap() else { panic!("no ids") };
    assert_eq!((&got.counts[..], got.ids.len(), got.threads), (&[4][..], 0, None));
    let long = Tokenized { tokenizer: Some("x".repeat(MAX_TEXT + 1)), ..got };
    let long = serde_json::to_vec(&Reply::Tokenized(long)).unwrap();
    assert!(decode::<Reply>(&long).unwrap_err().to_string().contains("tokenizer: expected"));
}

#[test]
fn a_generation_behind_a_context_says_how_deep_it_is() {
    let deep = Generate { depth: 2048, ..Generate::greedy(2, vec![5], 2) };
    let sent = serde_json::to_string(&Request::Generate(deep)).unwrap();
    assert!(sent.contains(r#""n":2,"depth":2048,"#), "{sent}");
    let filled = br#"{"type":"context","id":1,"positions":9,"t_begin_ns":1,"t_end_ns":2}"#;
    let Reply::Context(filled) = decode(filled).unwrap() else { panic!("not a context") };
    assert_eq!((filled.id, filled.positions), (1, 9));
}

#[test]
fn a_batch_of_one_is_not_sent_and_a_request_without_one_means_one() {
    let sent = serde_json::to_string(&Request::Generate(Generate::greedy(1, vec![5], 2)));
    assert!(!sent.unwrap().contains("batch"));
    let many = Generate { batch: 2, others: vec![vec![6]], ..Generate::greedy(1, vec![5], 2) };
    let sent = serde_json::to_string(&Request::Generate(many)).unwrap();
    assert!(sent.contains(r#""prompt":[5],"n":2,"batch":2,"others":[[6]],"#), "{sent}");
    let got = br#"{"type":"generate","id":1,"prompt":[5],"n":2,"ignore_eos":true}"#;
    let Request::Generate(got) = decode(got).unwrap() else { panic!("not a generation") };
    assert_eq!(got.batch, 1);
}

#[test]
fn a_feature_of_a_later_version_is_no_error() {
    let ready = br#"{"type":"ready","t_ns":1,"features":["stream","telepathy"]}"#;
    let Reply::Ready(ready) = decode(ready).unwrap() else { panic!("not ready") };
    assert_eq!(ready.features, [Feature::Stream, Feature::Other]);
    let Reply::Ready(old) = decode(br#"{"type":"ready","t_ns":1}"#).unwrap() else { panic!() };
    assert!(old.features.is_empty());
}

#[test]
fn the_end_of_the_stream_is_not_an_error() {
    assert!(read_message::<Reply>(&mut &b""[..]).unwrap().is_none());
}

proptest! {
    #[test]
    fn a_generation_survives_the_wire(
        id: u64,
        prompt in proptest::collection::vec(any::<u32>(), 0..50),
        n: u32,
    ) {
        let sent = Request::Generate(Generate::greedy(id, prompt, n));
        let mut wire = Vec::new();
        write_message(&mut wire, &sent).unwrap();
        let got: Request = read_message(&mut &wire[..]).unwrap().unwrap();
        prop_assert_eq!(sent, got);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = read_message::<Reply>(&mut &bytes[..]);
    }
}
