//! Downloads sets from the Hugging Face hub into the hub's own cache. Needs the feature `hub`.
//!
//! The variables of the hub's own programs hold here: `HF_ENDPOINT` (a mirror), `HF_HOME` and `HF_HUB_CACHE` (the cache), `HF_TOKEN` (or
//! the token that `hf auth login` stored), `HF_HUB_OFFLINE`.
//!
//! The client has no time limits, so it runs in a thread that is abandoned when no bytes arrive for a while. An import
//! therefore doesn't hang without a network, or behind one that drops packets.

use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use gafi_core::{Context, Error, Result};

use crate::formats::split_names::split_of;

/// What a path to a dataset of the hub starts with.
const SCHEME: &str = "hf://";

/// The branch to which the hub converts sets of other formats.
const CONVERTED: &str = "refs/convert/parquet";

/// A dataset of the hub: `hf://OWNER/NAME`, or `hf://OWNER/NAME/CONFIGURATION` for one of several in a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HubSet {
    pub(crate) repo: String,
    configuration: Option<String>,
}

impl HubSet {
    /// The dataset that `path` names; `None` for a path to files.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn of(path: &Path) -> Result<Option<Self>> {
        let Some(text) = path.to_str().and_then(|text| text.strip_prefix(SCHEME)) else { return Ok(None) };
        let text = text.strip_prefix("datasets/").unwrap_or(text).trim_end_matches('/');
        let plain = |word: &&str| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
            !word.is_empty() && word.chars().all(allowed) && !word.starts_with('.')
        };
        let words: Vec<&str> = text.split('/').collect();
        match words[..] {
            [owner, name, ref rest @ ..] if rest.len() < 2 && words.iter().all(plain) => {
                Ok(Some(Self { repo: format!("{owner}/{name}"), configuration: rest.first().map(ToString::to_string) }))
            }
            _ => Err(Error::config("path", path.display(), "hf://OWNER/NAME, or hf://OWNER/NAME/CONFIGURATION")),
        }
    }

    /// The configuration that a parquet file of the repository belongs to. The converted branch has a folder for each; elsewhere
    /// it is the folder of the file, without that of the split.
    fn configuration_of(file: &str, converted: bool) -> &str {
        let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
        if converted {
            return folder.split('/').next().unwrap_or_default();
        }
        match folder.rsplit_once('/') {
            Some((above, last)) if split_of(last).is_some() => above,
            None if split_of(folder).is_some() => "",
            _ => folder,
        }
    }

    /// The parquet files of the set among `files`, or what is wrong with them.
    fn choose(&self, files: &[String], converted: bool) -> std::result::Result<Vec<String>, String> {
        // A name is joined to the folder of the cache.
        let inside =
            |file: &&String| Path::new(file.as_str()).components().all(|part| matches!(part, Component::Normal(_)));
        let files: Vec<&String> = files.iter().filter(|file| file.ends_with(".parquet")).filter(inside).collect();
        let mut names: Vec<&str> = files.iter().map(|file| Self::configuration_of(file, converted)).collect();
        names.sort_unstable();
        names.dedup();
        let name = match (&self.configuration, &names[..]) {
            (Some(wanted), names) => *names
                .iter()
                .find(|name| *name == wanted || name.rsplit('/').next() == Some(wanted))
                .ok_or_else(|| format!("no configuration {wanted:?} among {}", names.join(", ")))?,
            (None, [only]) => only,
            (None, []) => return Err("no parquet files".into()),
            (None, several) => {
                let first = several.iter().find(|name| !name.is_empty()).unwrap_or(&"CONFIGURATION");
                let first = first.rsplit('/').next().unwrap_or(first);
                return Err(format!(
                    "several configurations, such as hf://{}/{first}: {}",
                    self.repo,
                    several.join(", ")
                ));
            }
        };
        let of_it = files.into_iter().filter(|file| Self::configuration_of(file, converted) == name);
        Ok(of_it.cloned().collect())
    }
}

impl std::fmt::Display for HubSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{SCHEME}{}", self.repo)?;
        self.configuration.as_ref().map_or(Ok(()), |name| write!(f, "/{name}"))
    }
}

/// The training and the test file, or why they could not be downloaded.
pub(crate) type Fetched = std::result::Result<(PathBuf, PathBuf), String>;

/// How to reach the hub.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "hub"), expect(dead_code, reason = "unused without the feature"))]
pub(crate) struct Hub {
    /// Address, cache and token of another hub, for tests.
    pub(crate) elsewhere: Option<(String, PathBuf, Option<String>)>,
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
            match client::get(self, repo, None, &file, cx)? {
                Ok(path) => paths.push(path),
                Err(why) => return Ok(Err(format!("{file}: {}", self.explain(&why)))),
            }
        }
        let [train, test] = [paths.swap_remove(0), paths.swap_remove(0)];
        Ok(Ok((train, test)))
    }

    /// Returns the parquet files of a dataset, downloading those that are not in the cache. A repository without any is read from the
    /// branch to which the hub converts it.
    ///
    /// # Errors
    /// [`gafi_core::Error::Interrupted`]. A failed download is the inner error.
    #[cfg(not(feature = "hub"))]
    pub(crate) fn fetch_set(&self, _set: &HubSet, _cx: &Context) -> Result<std::result::Result<Vec<PathBuf>, String>> {
        Ok(Err("not tried, because this program was built without the feature hub".into()))
    }

    /// Returns the parquet files of a dataset, downloading those that are not in the cache. A repository without any is read from the
    /// branch to which the hub converts it.
    ///
    /// # Errors
    /// [`gafi_core::Error::Interrupted`]. A failed download is the inner error.
    #[cfg(feature = "hub")]
    pub(crate) fn fetch_set(&self, set: &HubSet, cx: &Context) -> Result<std::result::Result<Vec<PathBuf>, String>> {
        let listed = match client::list(self, &set.repo, None, cx)? {
            Ok(files) => files,
            Err(why) => return Ok(Err(self.explain(&why))),
        };
        let (files, revision) = if listed.iter().any(|file| file.ends_with(".parquet")) {
            (set.choose(&listed, false), None)
        } else {
            let converted = client::list(self, &set.repo, Some(CONVERTED), cx)?;
            let none = |why: String| {
                format!(
                    "no parquet files, and none converted ({CONVERTED}: {why}); download the files and import their folder"
                )
            };
            (converted.map_err(none).and_then(|files| set.choose(&files, true)), Some(CONVERTED))
        };
        let files = match files {
            Ok(files) => files,
            Err(why) => return Ok(Err(self.explain(&why))),
        };
        let mut paths = Vec::new();
        for file in files {
            match client::get(self, &set.repo, revision, &file, cx)? {
                Ok(path) => paths.push(path),
                Err(why) => return Ok(Err(format!("{file}: {}", self.explain(&why)))),
            }
        }
        Ok(Ok(paths))
    }

    /// A failure with the address of the hub, and what may help.
    #[cfg(feature = "hub")]
    fn explain(&self, why: &str) -> String {
        let (address, is_mirror) = client::address(self);
        let denied = ["401", "403"].iter().any(|code| why.contains(code));
        let help = match (denied, is_mirror) {
            (true, _) => "; a private or gated set needs a token: HF_TOKEN, or `hf auth login`",
            (false, true) => ", the mirror that HF_ENDPOINT sets",
            (false, false) => "; HF_ENDPOINT sets a mirror",
        };
        format!("{why}, from {address}{help}")
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

    type Elsewhere = (String, PathBuf, Option<String>);

    enum Answer {
        File(PathBuf),
        List(Vec<String>),
    }

    enum Event {
        Size(u64),
        Bytes(u64),
        Done(Result<Answer, String>),
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

    /// The address of the hub, and whether it is a mirror's.
    pub(super) fn address(hub: &Hub) -> (String, bool) {
        if let Some((address, ..)) = &hub.elsewhere {
            return (address.clone(), true);
        }
        let mirror = std::env::var("HF_ENDPOINT").ok().filter(|address| !address.is_empty());
        mirror.map_or(("https://huggingface.co".into(), false), |address| (address, true))
    }

    /// A file of a repository, from the cache or downloaded.
    pub(super) fn get(
        hub: &Hub,
        repo: &str,
        revision: Option<&str>,
        file: &str,
        cx: &Context,
    ) -> Result<Result<PathBuf, String>> {
        let (elsewhere, repo, name) = (hub.elsewhere.clone(), dataset(repo, revision), file.to_owned());
        let done = wait(hub, &format!("download {file}"), cx, move |reporter| {
            let cache = cache(elsewhere.as_ref());
            if let Some(path) = cache.repo(repo.clone()).get(&name) {
                return Ok(Answer::File(path));
            }
            builder(elsewhere).build()?.repo(repo).download_with_progress(&name, reporter).map(Answer::File)
        })?;
        Ok(done.and_then(|answer| match answer {
            Answer::File(path) => Ok(path),
            Answer::List(_) => Err("a list of files".into()),
        }))
    }

    /// The names of all files of a repository.
    pub(super) fn list(
        hub: &Hub,
        repo: &str,
        revision: Option<&str>,
        cx: &Context,
    ) -> Result<Result<Vec<String>, String>> {
        let (elsewhere, name) = (hub.elsewhere.clone(), format!("list {repo}"));
        let repo = dataset(repo, revision);
        let done = wait(hub, &name, cx, move |_| {
            let info = builder(elsewhere).build()?.repo(repo).info()?;
            Ok(Answer::List(info.siblings.into_iter().map(|file| file.rfilename).collect()))
        })?;
        Ok(done.and_then(|answer| match answer {
            Answer::List(files) => Ok(files),
            Answer::File(_) => Err("a file".into()),
        }))
    }

    /// Runs `work` in a thread, which is abandoned when it reports nothing for too long.
    fn wait(
        hub: &Hub,
        name: &str,
        cx: &Context,
        work: impl FnOnce(Reporter) -> Result<Answer, ApiError> + Send + 'static,
    ) -> Result<Result<Answer, String>> {
        let (sender, events) = channel();
        std::thread::spawn(move || {
            let done = work(Reporter(sender.clone())).map_err(|e| chain(&e));
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
                    task = Some(cx.progress.begin(name, Some(size)));
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

    fn dataset(repo: &str, revision: Option<&str>) -> Repo {
        match revision {
            Some(revision) => Repo::with_revision(repo.into(), RepoType::Dataset, revision.into()),
            None => Repo::new(repo.into(), RepoType::Dataset),
        }
    }

    fn cache(elsewhere: Option<&Elsewhere>) -> Cache {
        let own = std::env::var_os("HF_HUB_CACHE").filter(|path| !path.is_empty()).map(PathBuf::from);
        match elsewhere {
            Some((_, cache, _)) => Cache::new(cache.clone()),
            None => own.map_or_else(Cache::from_env, Cache::new),
        }
    }

    fn builder(elsewhere: Option<Elsewhere>) -> ApiBuilder {
        // The client's own progress bar would print, which a library must not.
        let builder =
            ApiBuilder::from_env().with_progress(false).with_cache_dir(cache(elsewhere.as_ref()).path().clone());
        let given =
            std::env::var("HF_TOKEN").ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        match elsewhere {
            Some((address, _, token)) => builder.with_endpoint(address).with_token(token),
            None if given.is_some() => builder.with_token(given),
            None => builder,
        }
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

    use super::{Hub, HubSet};

    const CONTENT: &[u8] = b"PAR1 not really, but as good as any bytes PAR1";

    fn hub(address: &str, cache: &Path) -> Hub {
        let elsewhere = Some((format!("http://{address}"), cache.to_path_buf(), Some("secret".into())));
        Hub { elsewhere, answer: Duration::from_millis(400), stall: Duration::from_millis(400) }
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
        // Files of another format are read from the hub's conversion, and names can't lead out of the cache.
        let paths = fetch("hf://datasets/me/folder").unwrap();
        assert_eq!(paths.len(), 1);
        assert!(paths[0].ends_with("default/train/0000.parquet"), "{}", paths[0].display());

        let error = fetch("hf://two/sets").unwrap_err();
        assert!(error.starts_with("several configurations, such as hf://two/sets/a: a, b, from http://"), "{error}");
        assert!(error.ends_with(", the mirror that HF_ENDPOINT sets"), "{error}");
        assert!(fetch("hf://two/sets/c").unwrap_err().starts_with("no configuration \"c\" among a, b"));
        assert!(fetch("hf://nobody/nothing").unwrap_err().contains("404"));
        let mut stranger = hub(&address, cache.path());
        stranger.elsewhere.as_mut().unwrap().2 = None;
        let error = stranger.fetch_set(&set("hf://uoft-cs/cifar10"), &Context::default()).unwrap().unwrap_err();
        assert!(error.contains("401") && error.ends_with("HF_TOKEN, or `hf auth login`"), "{error}");

        assert_eq!(HubSet::of(Path::new("images/hf")).unwrap(), None);
        for wrong in ["hf://", "hf://mnist", "hf://a/../b", "hf://a/b/c/d", "hf:///a"] {
            let error = HubSet::of(Path::new(wrong)).unwrap_err().to_string();
            assert!(error.contains("hf://OWNER/NAME"), "{error}");
        }
    }
}
