//! Downloads datasets from the Hugging Face hub into its own cache. Needs the feature `hub`.
//!
//! The hub's usual variables apply: `HF_ENDPOINT` (a mirror), `HF_HOME` and `HF_HUB_CACHE` (the cache), `HF_TOKEN` (or the token that
//! `hf auth login` stored), `HF_HUB_OFFLINE`.

use std::path::PathBuf;

use gafi_core::{Context, Result};

#[cfg(feature = "hub")]
use super::hub_client::Client;
use super::hub_set::HubSet;

/// A download, or why it failed.
pub(crate) type Fetched<T> = std::result::Result<T, String>;

/// The branch with the files of a dataset.
#[cfg(feature = "hub")]
const MAIN: &str = "main";

/// The branch with the hub's own conversion of datasets in other formats.
#[cfg(feature = "hub")]
const CONVERTED: &str = "refs/convert/parquet";

/// The hub.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    #[cfg(feature = "hub")]
    client: Client,
}

impl Hub {
    pub(crate) fn standard() -> Self {
        Self {
            #[cfg(feature = "hub")]
            client: Client::standard(),
        }
    }
}

/// Without the feature, nothing is tried.
#[cfg(not(feature = "hub"))]
impl Hub {
    pub(crate) fn fetch(&self, _: &str, _: &str, _: &Context) -> Result<Fetched<Vec<PathBuf>>> {
        Ok(Err(NOT_BUILT.into()))
    }

    pub(crate) fn fetch_set(&self, _: &HubSet, _: &Context) -> Result<Fetched<Vec<PathBuf>>> {
        Ok(Err(NOT_BUILT.into()))
    }
}

#[cfg(not(feature = "hub"))]
const NOT_BUILT: &str = "not tried, because this program was built without the feature hub";

#[cfg(feature = "hub")]
impl Hub {
    /// The training and the test file of a dataset, downloaded unless they are in the cache. `folder` holds them in the repository.
    ///
    /// # Errors
    /// [`gafi_core::Error::Interrupted`].
    pub(crate) fn fetch(&self, repo: &str, folder: &str, cx: &Context) -> Result<Fetched<Vec<PathBuf>>> {
        let files = ["train", "test"].map(|split| format!("{folder}/{split}-00000-of-00001.parquet"));
        self.download(repo, MAIN, &files, cx)
    }

    /// The parquet files of a dataset, downloaded unless they are in the cache. A repository without parquet files is read from the
    /// hub's own conversion.
    ///
    /// # Errors
    /// [`gafi_core::Error::Interrupted`].
    pub(crate) fn fetch_set(&self, set: &HubSet, cx: &Context) -> Result<Fetched<Vec<PathBuf>>> {
        let listed = match self.client.list(&set.repo, MAIN, cx)? {
            Ok(files) => files,
            Err(why) => return Ok(Err(self.explain(&why))),
        };
        let (files, revision) = if listed.iter().any(|file| file.ends_with(".parquet")) {
            (set.choose(&listed, false), MAIN)
        } else {
            let converted = self.client.list(&set.repo, CONVERTED, cx)?;
            let none = |why: String| {
                format!(
                    "no parquet files, and no conversion by the hub ({CONVERTED}: {why}); download the files and import their \
                     folder"
                )
            };
            (converted.map_err(none).and_then(|files| set.choose(&files, true)), CONVERTED)
        };
        match files {
            Ok(files) => self.download(&set.repo, revision, &files, cx),
            Err(why) => Ok(Err(self.explain(&why))),
        }
    }

    fn download(&self, repo: &str, revision: &str, files: &[String], cx: &Context) -> Result<Fetched<Vec<PathBuf>>> {
        let mut paths = Vec::new();
        for file in files {
            match self.client.get(repo, revision, file, cx)? {
                Ok(path) => paths.push(path),
                Err(why) => return Ok(Err(format!("{file}: {}", self.explain(&why)))),
            }
        }
        Ok(Ok(paths))
    }

    /// A failure, with the address of the hub and what may help.
    fn explain(&self, why: &str) -> String {
        let (address, is_mirror) = self.client.address();
        let denied = ["401", "403"].iter().any(|code| why.contains(code));
        let help = match (denied, is_mirror) {
            (true, _) => "; a private or gated dataset needs a token: set HF_TOKEN, or run `hf auth login`",
            (false, true) => ", the mirror that HF_ENDPOINT sets",
            (false, false) => "; HF_ENDPOINT sets a mirror",
        };
        format!("{why}, from {address}{help}")
    }
}

#[cfg(all(test, feature = "hub"))]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use gafi_core::Context;

    use super::{Client, Hub, HubSet};

    const CONTENT: &[u8] = b"PAR1 not really, but as good as any bytes PAR1";

    fn hub(address: &str, cache: &Path) -> Hub {
        let elsewhere = Some((format!("http://{address}"), cache.to_path_buf(), Some("secret".into())));
        Hub { client: Client { elsewhere, answer: Duration::from_millis(400), stall: Duration::from_millis(400) } }
    }

    /// Answers one request for a range of [`CONTENT`] with the hub's headers.
    fn answer(stream: TcpStream, send: usize) {
        let lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty());
        let lines: Vec<String> = lines.collect();
        let request = lines.first().cloned().unwrap_or_default();
        let authorized = lines.iter().any(|l| l.eq_ignore_ascii_case("authorization: Bearer secret"));
        let range = lines
            .iter()
            .find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned))
            .unwrap_or_default();
        let (first, last) = range.split_once('-').unwrap_or(("0", ""));
        let first = first.parse().unwrap_or(0);
        let end = last.parse().map_or(CONTENT.len(), |l: usize| l + 1);
        if let Some(set) = request.strip_prefix("GET /api/datasets/").and_then(|rest| rest.split(' ').next()) {
            return list(&stream, set, authorized);
        }
        let known = request.contains("/datasets/uoft-cs/cifar10/resolve/main/plain_text/")
            || request.contains("/datasets/me/folder/resolve/refs%2Fconvert%2Fparquet/default/train/");
        let head = format!(
            "HTTP/1.1 {}\r\nETag: \"e{}\"\r\nX-Repo-Commit: c0ffee\r\nContent-Range: bytes {first}-{}/{}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            if known { "206 Partial Content" } else { "404 Not Found" },
            request.len(),
            end - 1,
            CONTENT.len(),
            end - first,
        );
        let mut out = &stream;
        let _ = out.write_all(head.as_bytes());
        let _ = out.write_all(&CONTENT[first..end.min(first + send)]);
        let _ = out.flush();
        if send < end - first {
            // The rest never arrives, but the connection stays open.
            std::thread::sleep(Duration::from_secs(2));
        }
    }

    /// Answers a request for the files of a repository.
    fn list(mut stream: &TcpStream, set: &str, authorized: bool) {
        let files = match set {
            "uoft-cs/cifar10/revision/main" => {
                "README.md plain_text/train-00000-of-00001.parquet plain_text/test-00000-of-00001.parquet"
            }
            "two/sets/revision/main" => "a/train-0.parquet b/train-0.parquet b/test-0.parquet",
            "me/folder/revision/main" => "train/cat/0.png",
            "me/folder/revision/refs%2Fconvert%2Fparquet" => "default/train/0000.parquet ../../../x.parquet",
            _ => "",
        };
        let siblings: Vec<_> = files.split_whitespace().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "siblings": siblings, "sha": "c0ffee" }).to_string();
        let status = match (authorized, files.is_empty()) {
            (false, _) => "401 Unauthorized",
            (true, true) => "404 Not Found",
            (true, false) => "200 OK",
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        let _ = write!(stream, "{head}Connection: close\r\n\r\n{body}");
        let _ = stream.flush();
    }

    /// A local hub that sends at most `send` bytes of a file.
    fn serve(send: usize) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests: Arc<AtomicUsize> = Arc::default();
        let counter = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten().take(32) {
                counter.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || answer(stream, send));
            }
        });
        (address, requests)
    }

    #[test]
    fn files_are_downloaded_once() {
        let cache = tempfile::tempdir().unwrap();
        let (address, requests) = serve(usize::MAX);
        let hub = hub(&address, cache.path());
        let fetch = || hub.fetch("uoft-cs/cifar10", "plain_text", &Context::default()).unwrap().unwrap();
        let paths = fetch();
        for (path, split) in paths.iter().zip(["train", "test"]) {
            assert!(path.ends_with(format!("plain_text/{split}-00000-of-00001.parquet")), "{}", path.display());
            assert_eq!(std::fs::read(path).unwrap(), CONTENT);
        }
        let sent = requests.load(Ordering::SeqCst);
        assert!(sent >= 4, "{sent} requests for two files");
        assert_eq!((paths.len(), fetch()), (2, paths));
        assert_eq!(requests.load(Ordering::SeqCst), sent, "the second time both are in the cache");
    }

    #[test]
    fn failures_are_distinguished_and_never_hang() {
        let cache = tempfile::tempdir().unwrap();
        let fails = |address: &str, repo: &str| {
            let begun = Instant::now();
            let why = hub(address, cache.path()).fetch(repo, "plain_text", &Context::default()).unwrap().unwrap_err();
            assert!(begun.elapsed() < Duration::from_secs(30), "waited {:?}", begun.elapsed());
            assert!(why.starts_with("plain_text/train-00000-of-00001.parquet: "), "{why}");
            why
        };
        assert!(fails(&serve(usize::MAX).0, "nobody/nothing").contains("404"));
        // No program listens on a port that was just released.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        assert!(fails(&port, "uoft-cs/cifar10").contains("refused"));
        // A server that accepts and never answers, then one that stalls after ten bytes.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap().to_string();
        assert!(fails(&address, "uoft-cs/cifar10").contains("no answer within"));
        assert!(fails(&serve(10).0, "uoft-cs/cifar10").contains("no answer within"));
    }

    #[test]
    fn datasets_are_found_by_name() {
        let cache = tempfile::tempdir().unwrap();
        let (address, _) = serve(usize::MAX);
        let set = |path: &str| HubSet::of(Path::new(path)).unwrap().unwrap();
        let fetch = |path: &str| hub(&address, cache.path()).fetch_set(&set(path), &Context::default()).unwrap();
        let paths = fetch("hf://uoft-cs/cifar10").unwrap();
        assert_eq!(paths.len(), 2);
        assert!(paths[0].ends_with("plain_text/train-00000-of-00001.parquet"), "{}", paths[0].display());
        assert_eq!(std::fs::read(&paths[1]).unwrap(), CONTENT);
        // Files of another format are read from the hub's conversion. Names that lead out of the cache are ignored.
        let paths = fetch("hf://datasets/me/folder").unwrap();
        assert_eq!(paths.len(), 1);
        assert!(paths[0].ends_with("default/train/0000.parquet"), "{}", paths[0].display());

        let error = fetch("hf://two/sets").unwrap_err();
        assert!(error.starts_with("several configurations, such as hf://two/sets/a: a, b, from http://"), "{error}");
        assert!(error.ends_with(", the mirror that HF_ENDPOINT sets"), "{error}");
        assert!(fetch("hf://two/sets/c").unwrap_err().starts_with("no configuration \"c\" among a, b"));
        assert!(fetch("hf://nobody/nothing").unwrap_err().contains("404"));
        let mut stranger = hub(&address, cache.path());
        stranger.client.elsewhere.as_mut().unwrap().2 = None;
        let error = stranger.fetch_set(&set("hf://uoft-cs/cifar10"), &Context::default()).unwrap().unwrap_err();
        assert!(error.contains("401") && error.ends_with("set HF_TOKEN, or run `hf auth login`"), "{error}");

        assert_eq!(HubSet::of(Path::new("images/hf")).unwrap(), None);
        for wrong in ["hf://", "hf://mnist", "hf://a/../b", "hf://a/b/c/d", "hf:///a"] {
            let error = HubSet::of(Path::new(wrong)).unwrap_err().to_string();
            assert!(error.contains("hf://OWNER/NAME"), "{error}");
        }
    }
}
