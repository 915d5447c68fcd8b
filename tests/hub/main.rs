//! Pulls from a hub on this machine: a small HTTP server that misbehaves like real ones.

mod package;
mod server;

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use llm_bench::model::hub::{Hub, HubConfig, HubError, HubFile, PulledFile, Token};
use server::{Reply, Seen, Server};
use sha2::{Digest, Sha256};

const REPO: &str = "owner/model-GGUF";
const FILE: &str = "model-Q4_0.gguf";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SECRET: &str = "hf_SECRETsecretSECRET";

fn weights() -> Vec<u8> {
    (0..300_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// The hub's statement of a large file, as headers of its redirect or of the file itself.
fn stated(bytes: &[u8], sha: &str) -> Vec<(&'static str, String)> {
    vec![
        ("X-Repo-Commit", COMMIT.into()),
        ("X-Linked-Etag", format!("\"{sha}\"")),
        ("X-Linked-Size", bytes.len().to_string()),
    ]
}

/// A hub that does everything right: metadata, bodies, ranges.
fn good(request: &Seen, bytes: &[u8]) -> Reply {
    let mut headers = stated(bytes, &sha256(bytes));
    let from = request
        .header("range")
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match from {
        Some(from) => {
            let last = bytes.len() - 1;
            headers.push(("Content-Range", format!("bytes {from}-{last}/{}", bytes.len())));
            Reply { status: 206, headers, body: bytes[from..].to_vec(), ..Reply::default() }
        }
        None => Reply { status: 200, headers, body: bytes.to_vec(), ..Reply::default() },
    }
}

/// Short timeouts, so that no test waits for seconds.
fn config(endpoint: &str, cache: &Path) -> HubConfig {
    let mut config = HubConfig::new(endpoint, cache.to_owned());
    config.stall_limit = Duration::from_millis(150);
    config.backoff = Duration::from_millis(1);
    config.retries = 2;
    config
}

fn what() -> HubFile {
    HubFile::new(REPO, FILE)
}

fn pull(config: HubConfig) -> Result<PulledFile, HubError> {
    Hub::new(config).unwrap().pull(&what(), &mut |_| {})
}

fn files_named(folder: &Path, ending: &str) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries
        .map(|e| e.unwrap())
        .map(|e| match e.file_type().unwrap().is_dir() {
            true => files_named(&e.path(), ending),
            false => usize::from(e.file_name().to_string_lossy().ends_with(ending)),
        })
        .sum()
}

#[test]
fn a_pull_checks_size_and_checksum_and_tells_its_progress() {
    let bytes = weights();
    let server = Server::start({
        let bytes = bytes.clone();
        move |request, _| good(request, &bytes)
    });
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(config(&server.url(), cache.path())).unwrap();
    assert_eq!(hub.cached(&what()), None);
    let mut steps = Vec::new();
    let pulled = hub
        .pull(&what(), &mut |p| {
            assert_eq!(p.file, FILE);
            steps.push((p.done, p.total));
        })
        .unwrap();
    let total = bytes.len() as u64;
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
    assert_eq!((pulled.size, pulled.sha256), (total, sha256(&bytes)));
    assert_eq!((steps[0], *steps.last().unwrap()), ((0, total), (total, total)));
    assert!(steps.is_sorted() && steps.len() > 2, "{steps:?}");
    assert_eq!(hub.cached(&what()), Some(pulled.path.clone()));
    // The layout that the hub's other tools read.
    let snapshot = format!("models--owner--model-GGUF/snapshots/{COMMIT}/{FILE}");
    assert_eq!(pulled.path, cache.path().join(snapshot));
    assert_eq!(files_named(cache.path(), ".part"), 0);
}

#[test]
fn a_second_pull_of_the_same_file_downloads_nothing() {
    let bytes = weights();
    let server = Server::start(move |request, _| good(request, &bytes));
    let cache = tempfile::tempdir().unwrap();
    let first = pull(config(&server.url(), cache.path())).unwrap();
    let second = pull(config(&server.url(), cache.path())).unwrap();
    assert_eq!(first, second);
    let bodies = server.seen().iter().filter(|r| r.method == "GET").count();
    assert_eq!(bodies, 1);
}

#[test]
fn a_damaged_file_in_the_cache_is_downloaded_again() {
    let bytes = weights();
    let server = Server::start(move |request, _| good(request, &bytes));
    let cache = tempfile::tempdir().unwrap();
    let first = pull(config(&server.url(), cache.path())).unwrap();
    let mut damaged = std::fs::read(&first.path).unwrap();
    damaged[1000] ^= 1;
    std::fs::write(&first.path, damaged).unwrap();
    assert_eq!(pull(config(&server.url(), cache.path())).unwrap(), first);
    assert_eq!(std::fs::read(&first.path).unwrap(), weights());
}

#[test]
fn a_download_that_was_cut_goes_on_where_it_stopped() {
    let bytes = weights();
    let cut = 700_000;
    let server = Server::start({
        let bytes = bytes.clone();
        let mut bodies = 0;
        move |request, _| {
            let mut reply = good(request, &bytes);
            if request.method == "GET" {
                bodies += 1;
                reply.cut_at = (bodies == 1).then_some(cut);
            }
            reply
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let pulled = pull(config(&server.url(), cache.path())).unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
    let ranges: Vec<_> = server
        .seen()
        .iter()
        .filter(|r| r.method == "GET")
        .map(|r| r.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, [None, Some(format!("bytes={cut}-"))]);
}

#[test]
fn a_later_process_goes_on_with_a_partial_download() {
    let bytes = weights();
    let cut = 700_000;
    let cache = tempfile::tempdir().unwrap();
    let broken = Server::start({
        let bytes = bytes.clone();
        move |request, _| match request.header("range") {
            None => Reply { cut_at: Some(cut), ..good(request, &bytes) },
            Some(_) => Reply { cut_at: Some(0), ..good(request, &bytes) },
        }
    });
    let error = pull(config(&broken.url(), cache.path())).unwrap_err();
    assert!(matches!(error, HubError::Interrupted { done: 700_000, .. }), "{error:?}");
    assert!(error.to_string().contains("Run the same command again"), "{error}");

    let server = Server::start({
        let bytes = bytes.clone();
        move |request, _| good(request, &bytes)
    });
    let mut first = None;
    let hub = Hub::new(config(&server.url(), cache.path())).unwrap();
    let pulled = hub.pull(&what(), &mut |p| first = first.or(Some(p.done))).unwrap();
    assert_eq!(first, Some(cut as u64));
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
    assert_eq!(server.seen()[1].header("range"), Some("bytes=700000-"));
}

#[test]
fn a_server_that_ignores_ranges_does_not_spoil_a_resumed_download() {
    let bytes = weights();
    let server = Server::start({
        let bytes = bytes.clone();
        let mut bodies = 0;
        move |request, _| {
            let headers = stated(&bytes, &sha256(&bytes));
            bodies += usize::from(request.method == "GET");
            let cut_at = (bodies == 1).then_some(500_000);
            Reply { status: 200, headers, body: bytes.clone(), cut_at, ..Reply::default() }
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let pulled = pull(config(&server.url(), cache.path())).unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
}

#[test]
fn bytes_with_another_checksum_are_deleted_and_named() {
    let bytes = weights();
    let wrong = sha256(b"something else");
    let server = Server::start({
        let (bytes, wrong) = (bytes.clone(), wrong.clone());
        move |_, _| Reply {
            status: 200,
            headers: stated(&bytes, &wrong),
            body: bytes.clone(),
            ..Reply::default()
        }
    });
    let cache = tempfile::tempdir().unwrap();
    match pull(config(&server.url(), cache.path())) {
        Err(HubError::ChecksumMismatch { expected, found, .. }) => {
            assert_eq!((expected, found), (wrong, sha256(&bytes)));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(files_named(cache.path(), ".gguf") + files_named(cache.path(), ".part"), 0);
}

#[test]
fn more_bytes_than_stated_are_a_size_mismatch() {
    let bytes = weights();
    let server = Server::start(move |_, _| Reply {
        status: 200,
        headers: stated(&bytes[..1000], &sha256(&bytes)),
        body: bytes.clone(),
        ..Reply::default()
    });
    let cache = tempfile::tempdir().unwrap();
    let error = pull(config(&server.url(), cache.path())).unwrap_err();
    assert!(matches!(error, HubError::SizeMismatch { expected: 1000, .. }), "{error:?}");
    assert_eq!(files_named(cache.path(), ".part"), 0);
}

#[test]
fn a_gated_model_says_licence_and_token() {
    for status in [401, 403] {
        let server = Server::start(move |_, _| Reply::status(status));
        let cache = tempfile::tempdir().unwrap();
        let error = pull(config(&server.url(), cache.path())).unwrap_err();
        assert!(matches!(error, HubError::Unauthorized { .. }), "{error:?}");
        let text = error.to_string();
        for part in [REPO, FILE, "licence", "HF_TOKEN", &status.to_string()] {
            assert!(text.contains(part), "{part} not in {text}");
        }
        assert_eq!(server.seen().len(), 1, "not retried");
        assert!(!error.hub_is_away());
    }
}

#[test]
fn a_missing_file_is_named_with_repository_and_revision() {
    let server = Server::start(|_, _| Reply::status(404));
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(config(&server.url(), cache.path())).unwrap();
    let tagged = HubFile { revision: "v1.5".into(), ..what() };
    let error = hub.pull(&tagged, &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error:?}");
    for part in [REPO, FILE, "v1.5"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(server.seen().len(), 1, "not retried");
}

#[test]
fn a_server_error_is_retried_until_it_passes() {
    let bytes = weights();
    let server = Server::start({
        let bytes = bytes.clone();
        move |request, n| match n {
            0 => Reply::status(503),
            2 => Reply::status(502),
            _ => good(request, &bytes),
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let pulled = pull(config(&server.url(), cache.path())).unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
    assert_eq!(server.seen().len(), 4);
}

#[test]
fn a_server_error_that_stays_is_reported_with_the_number_of_attempts() {
    let server = Server::start(|_, _| Reply::status(503));
    let cache = tempfile::tempdir().unwrap();
    let error = pull(config(&server.url(), cache.path())).unwrap_err();
    assert!(matches!(error, HubError::Server { status: 503, attempts: 3, .. }), "{error:?}");
    assert!(error.hub_is_away());
    assert_eq!(server.seen().len(), 3);
}

#[test]
fn a_connection_that_falls_silent_is_a_stall_and_not_a_hang() {
    let bytes = weights();
    let server = Server::start(move |request, _| {
        let silent_at = Some(if request.header("range").is_some() { 0 } else { 400_000 });
        Reply { silent_at, ..good(request, &bytes) }
    });
    let cache = tempfile::tempdir().unwrap();
    let begin = Instant::now();
    let error = pull(config(&server.url(), cache.path())).unwrap_err();
    match error {
        HubError::Stalled { done, total, .. } => assert_eq!((done, total), (400_000, 1_200_000)),
        other => panic!("{other:?}"),
    }
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert_eq!(files_named(cache.path(), ".part"), 1, "kept for the next try");
}

#[test]
fn a_stall_in_mid_body_is_overcome_by_going_on() {
    let bytes = weights();
    let server = Server::start({
        let bytes = bytes.clone();
        move |request, _| {
            let silent_at = request.header("range").is_none().then_some(400_000);
            Reply { silent_at, ..good(request, &bytes) }
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let pulled = pull(config(&server.url(), cache.path())).unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
}

#[test]
fn the_token_goes_to_the_hub_and_to_nobody_else() {
    let bytes = weights();
    let storage = Server::start({
        let bytes = bytes.clone();
        move |request, _| good(request, &bytes)
    });
    let location = format!("{}/blob?signature=abc", storage.url());
    let hub = Server::start({
        let bytes = bytes.clone();
        move |request, _| {
            let mut headers = stated(&bytes, &sha256(&bytes));
            // The first redirect is a rename inside the hub, the second leads to the storage host.
            let renamed = request.path.starts_with("/new-owner/");
            let target = format!("/new-owner/model-GGUF/resolve/main/{FILE}");
            headers.push(("Location", if renamed { location.clone() } else { target }));
            if !renamed {
                headers.retain(|(name, _)| *name == "Location");
            }
            Reply { status: if renamed { 302 } else { 307 }, headers, ..Reply::default() }
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let mut config = config(&hub.url(), cache.path());
    config.token = Token::new(SECRET);
    assert!(!format!("{config:?}").contains(SECRET));
    let pulled = pull(config).unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
    let bearer = format!("Bearer {SECRET}");
    assert_eq!(hub.seen().len(), 4);
    assert!(hub.seen().iter().all(|r| r.header("authorization") == Some(&bearer)));
    assert_eq!(storage.seen().len(), 1, "the size is known without asking the storage host");
    assert_eq!(storage.seen()[0].header("authorization"), None);
}

#[test]
fn a_storage_host_that_refuses_an_old_signature_is_asked_again() {
    let bytes = weights();
    let storage = Server::start({
        let bytes = bytes.clone();
        move |request, n| if n == 0 { Reply::status(403) } else { good(request, &bytes) }
    });
    let location = format!("{}/blob?signature=abc", storage.url());
    let hub = Server::start({
        let bytes = bytes.clone();
        move |_, _| {
            let mut headers = stated(&bytes, &sha256(&bytes));
            headers.push(("Location", location.clone()));
            Reply { status: 302, headers, ..Reply::default() }
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let pulled = pull(config(&hub.url(), cache.path())).unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
    assert_eq!(storage.seen().len(), 2);
}

#[test]
fn no_error_carries_the_token_or_a_signed_address() {
    let storage = Server::start(|_, _| Reply::status(403));
    let location = format!("{}/blob?signature=SIGNED", storage.url());
    for mode in 0..6 {
        let location = location.clone();
        let server = Server::start(move |request, _| {
            let bytes = weights();
            match mode {
                0 => Reply::status(401),
                1 => Reply::status(404),
                2 => Reply::status(500),
                3 => Reply { cut_at: Some(10), ..good(request, &bytes) },
                4 => Reply::status(418),
                _ => {
                    let mut headers = stated(&bytes, &sha256(&bytes));
                    headers.push(("Location", location.clone()));
                    Reply { status: 302, headers, ..Reply::default() }
                }
            }
        });
        let cache = tempfile::tempdir().unwrap();
        let mut config = config(&server.url(), cache.path());
        config.token = Token::new(SECRET);
        let hub = Hub::new(config).unwrap();
        // In mode 3 the cut would repeat forever with progress, so this asks once.
        let error = match hub.pull(&what(), &mut |_| {}) {
            Err(error) => format!("{error} {error:?} {hub:?}"),
            Ok(_) => format!("{hub:?}"),
        };
        assert!(!error.contains("SECRET") && !error.contains("SIGNED"), "{error}");
    }
}

#[test]
fn a_refused_connection_is_unreachable_at_once_and_remembered() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(config(&url, cache.path())).unwrap();
    let begin = Instant::now();
    let error = hub.pull(&what(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("--weights synthetic"), "{error}");
    assert!(error.hub_is_away());
    assert!(begin.elapsed() < Duration::from_secs(2));
    // Whatever listens there now, this process does not ask again.
    let again = hub.pull(&what(), &mut |_| {}).unwrap_err();
    assert_eq!(again.to_string(), error.to_string());
}

#[test]
fn a_name_that_does_not_resolve_is_unreachable() {
    let cache = tempfile::tempdir().unwrap();
    let error = pull(config("http://hub.invalid", cache.path())).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { .. }), "{error:?}");
}

#[test]
fn offline_mode_asks_nobody() {
    let server = Server::start(|_, _| Reply::status(500));
    let cache = tempfile::tempdir().unwrap();
    let mut config = config(&server.url(), cache.path());
    config.offline = true;
    let error = pull(config).unwrap_err();
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert!(server.seen().is_empty());
}

#[test]
fn a_file_larger_than_the_disk_is_refused_before_the_first_byte() {
    let size = 1u64 << 60;
    let server = Server::start(move |_, _| {
        let mut headers = stated(&[], &sha256(b""));
        headers.retain(|(name, _)| *name != "X-Linked-Size");
        headers.push(("X-Linked-Size", size.to_string()));
        Reply { status: 200, headers, ..Reply::default() }
    });
    let cache = tempfile::tempdir().unwrap();
    let error = pull(config(&server.url(), cache.path())).unwrap_err();
    match &error {
        HubError::DiskFull { needed, available, .. } => {
            assert_eq!(*needed, size);
            assert!(*available < size);
        }
        other => panic!("{other:?}"),
    }
    assert!(error.to_string().contains("HF_HOME"), "{error}");
    assert_eq!(server.seen().len(), 1, "only the metadata was asked for");
}

#[test]
fn a_mirror_without_head_requests_is_asked_for_the_first_byte() {
    let bytes = weights();
    let server = Server::start({
        let bytes = bytes.clone();
        move |request, _| {
            if request.method == "HEAD" {
                return Reply::status(501);
            }
            if request.header("range") != Some("bytes=0-0") {
                return good(request, &bytes);
            }
            let headers = vec![
                ("X-Repo-Commit", COMMIT.into()),
                ("ETag", format!("\"{}\"", sha256(&bytes))),
                ("Content-Range", format!("bytes 0-0/{}", bytes.len())),
            ];
            Reply { status: 206, headers, body: bytes[..1].to_vec(), ..Reply::default() }
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let pulled = pull(config(&server.url(), cache.path())).unwrap();
    assert_eq!(std::fs::read(&pulled.path).unwrap(), bytes);
}

#[test]
fn names_from_the_server_cannot_leave_the_cache() {
    for (etag, commit) in [("../../evil", COMMIT), ("abc", "../evil")] {
        let server = Server::start(move |_, _| Reply {
            status: 200,
            headers: vec![
                ("X-Repo-Commit", commit.into()),
                ("ETag", format!("\"{etag}\"")),
                ("X-Linked-Size", "1".into()),
            ],
            body: b"x".to_vec(),
            ..Reply::default()
        });
        let cache = tempfile::tempdir().unwrap();
        let error = pull(config(&server.url(), &cache.path().join("hub"))).unwrap_err();
        assert!(matches!(error, HubError::BadAnswer { .. }), "{error:?}");
    }
}
