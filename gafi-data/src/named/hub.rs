//! Downloads sets from the Hugging Face hub into the hub's own cache. Needs the feature `hub`.
//!
//! The client has no time limits, so it runs in a thread that is abandoned when no bytes arrive for a while. An import
//! therefore doesn't hang without a network, or behind one that drops packets.

use std::path::PathBuf;
use std::time::Duration;

use gafi_core::{Context, Result};

/// The training and the test file, or why they could not be downloaded.
pub(crate) type Fetched = std::result::Result<(PathBuf, PathBuf), String>;

/// How to reach the hub.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "unused without the feature"))]
pub(crate) struct Hub {
    /// Address and cache of another hub, for tests.
    pub(crate) elsewhere: Option<(String, PathBuf)>,
    /// Longest wait for the first answer.
    pub(crate) answer: Duration,
    /// Longest wait for more bytes.
    pub(crate) stall: Duration,
}

impl Hub {
    pub(crate) fn standard() -> Self {
        Self { elsewhere: None, answer: Duration::from_secs(10), stall: Duration::from_secs(30) }
    }

    /// Returns the two parquet files of a dataset, downloading those that are not in the cache.
    ///
    /// # Errors
    /// [`gafi_core::Error::Interrupted`]. A failed download is the inner error.
    #[cfg(not(feature = "hub"))]
    pub(crate) fn fetch(&self, _repo: &str, _folder: &str, _cx: &Context) -> Result<Fetched> {
        Ok(Err("not tried, because this program was built without the feature hub".into()))
    }

    /// Returns the two parquet files of a dataset, downloading those that are not in the cache.
    ///
    /// # Errors
    /// [`gafi_core::Error::Interrupted`]. A failed download is the inner error.
    #[cfg(feature = "hub")]
    pub(crate) fn fetch(&self, repo: &str, folder: &str, cx: &Context) -> Result<Fetched> {
        let files = ["train", "test"].map(|split| format!("{folder}/{split}-00000-of-00001.parquet"));
        let mut paths = Vec::new();
        for file in files {
            match client::get(self, repo, &file, cx)? {
                Ok(path) => paths.push(path),
                Err(why) => return Ok(Err(format!("{file}: {why}"))),
            }
        }
        let [train, test] = [paths.swap_remove(0), paths.swap_remove(0)];
        Ok(Ok((train, test)))
    }
}

#[cfg(feature = "hub")]
mod client {
    use std::path::PathBuf;
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
    use std::time::{Duration, Instant};

    use gafi_core::{Context, Result};
    use hf_hub::api::sync::{ApiBuilder, ApiError};
    use hf_hub::{Cache, Repo, RepoType};

    use super::Hub;

    enum Event {
        Size(u64),
        Bytes(u64),
        Done(Result<PathBuf, String>),
    }

    /// Reports a download from its thread. Send errors are ignored, because the download may be abandoned.
    struct Reporter(Sender<Event>);

    impl hf_hub::api::Progress for Reporter {
        fn init(&mut self, size: usize, _: &str) {
            let _ = self.0.send(Event::Size(size as u64));
        }
        fn update(&mut self, size: usize) {
            let _ = self.0.send(Event::Bytes(size as u64));
        }
        fn finish(&mut self) {}
    }

    pub(super) fn get(hub: &Hub, repo: &str, file: &str, cx: &Context) -> Result<Result<PathBuf, String>> {
        let (sender, events) = channel();
        let elsewhere = hub.elsewhere.clone();
        let repo = repo.to_owned();
        let name = file.to_owned();
        std::thread::spawn(move || {
            let done = download(elsewhere, repo, &name, Reporter(sender.clone())).map_err(|e| chain(&e));
            let _ = sender.send(Event::Done(done));
        });
        let mut task = None;
        let mut limit = hub.answer;
        let mut last = Instant::now();
        loop {
            cx.checkpoint()?;
            match events.recv_timeout(Duration::from_millis(100)) {
                Ok(Event::Done(done)) => return Ok(done),
                Ok(Event::Size(size)) if task.is_none() => {
                    task = Some(cx.progress.begin(&format!("download {file}"), Some(size)));
                    limit = hub.stall;
                    last = Instant::now();
                }
                Ok(Event::Size(_)) => last = Instant::now(),
                Ok(Event::Bytes(n)) => {
                    last = Instant::now();
                    if let Some(task) = &mut task {
                        task.advance(n);
                    }
                }
                Err(RecvTimeoutError::Timeout) if last.elapsed() < limit => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Ok(Err(format!("no answer within {} s", limit.as_secs_f64())));
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(Err("the client stopped without an answer".into())),
            }
        }
    }

    fn download(
        elsewhere: Option<(String, PathBuf)>,
        repo: String,
        file: &str,
        reporter: Reporter,
    ) -> Result<PathBuf, ApiError> {
        let repo = Repo::new(repo, RepoType::Dataset);
        let cache = elsewhere.as_ref().map_or_else(Cache::from_env, |(_, cache)| Cache::new(cache.clone()));
        if let Some(path) = cache.repo(repo.clone()).get(file) {
            return Ok(path);
        }
        // The client's own progress bar would print, which a library must not.
        let mut builder = ApiBuilder::from_env().with_progress(false);
        if let Some((endpoint, cache)) = elsewhere {
            builder = builder.with_endpoint(endpoint).with_cache_dir(cache);
        }
        builder.build()?.repo(repo).download_with_progress(file, reporter)
    }

    fn chain(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(e) = cause {
            let next = e.to_string();
            if !text.contains(&next) {
                text = format!("{text}: {next}");
            }
            cause = e.source();
        }
        text
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

    use super::Hub;

    const CONTENT: &[u8] = b"PAR1 not really, but as good as any bytes PAR1";

    fn hub(address: &str, cache: &Path) -> Hub {
        let elsewhere = Some((format!("http://{address}"), cache.to_path_buf()));
        Hub { elsewhere, answer: Duration::from_millis(400), stall: Duration::from_millis(400) }
    }

    /// Answers one request for a range of [`CONTENT`] with the hub's headers.
    fn answer(stream: TcpStream, send: usize) {
        let mut lines = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|l| !l.is_empty());
        let request = lines.next().unwrap_or_default();
        let range =
            lines.find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned)).unwrap_or_default();
        let (first, last) = range.split_once('-').unwrap_or(("0", ""));
        let first = first.parse().unwrap_or(0);
        let end = last.parse().map_or(CONTENT.len(), |l: usize| l + 1);
        let known = request.contains("/datasets/uoft-cs/cifar10/resolve/main/plain_text/");
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
        let (train, test) = hub.fetch("uoft-cs/cifar10", "plain_text", &Context::default()).unwrap().unwrap();
        assert!(train.ends_with("plain_text/train-00000-of-00001.parquet"), "{}", train.display());
        assert_eq!(std::fs::read(&train).unwrap(), CONTENT);
        assert_eq!(std::fs::read(&test).unwrap(), CONTENT);
        let sent = requests.load(Ordering::SeqCst);
        assert!(sent >= 4, "{sent} requests for two files");
        assert_eq!(hub.fetch("uoft-cs/cifar10", "plain_text", &Context::default()).unwrap().unwrap(), (train, test));
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
}
