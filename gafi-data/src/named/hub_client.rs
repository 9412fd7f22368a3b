//! The client of the Hugging Face hub.
//!
//! It has no time limits of its own, so each call runs in a thread that is abandoned when nothing arrives for too long. An import
//! therefore doesn't hang without a network, or behind a firewall that drops packets.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use gafi_core::{Context, Result};
use hf_hub::api::sync::{ApiBuilder, ApiError};
use hf_hub::{Cache, Repo, RepoType};

/// Address, cache and token of a hub.
type Server = (String, PathBuf, Option<String>);

/// How to reach the hub.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// A server for tests; `None` for the hub, or its mirror that `HF_ENDPOINT` sets.
    pub(super) elsewhere: Option<Server>,
    /// Longest wait for the first answer.
    pub(super) answer: Duration,
    /// Longest wait for more bytes.
    pub(super) stall: Duration,
}

/// What the thread of a call reports.
enum Event<T> {
    Size(u64),
    Bytes(u64),
    Done(Result<T, String>),
}

/// Reports the progress of a download. Send errors are ignored, because the download may have been abandoned.
struct Reporter<T>(Sender<Event<T>>);

impl<T> hf_hub::api::Progress for Reporter<T> {
    fn init(&mut self, size: usize, _: &str) {
        let _ = self.0.send(Event::Size(size as u64));
    }
    fn update(&mut self, size: usize) {
        let _ = self.0.send(Event::Bytes(size as u64));
    }
    fn finish(&mut self) {}
}

impl Client {
    pub(super) fn standard() -> Self {
        Self { elsewhere: None, answer: Duration::from_secs(10), stall: Duration::from_secs(30) }
    }

    /// The address of the hub, and whether it is a mirror.
    pub(super) fn address(&self) -> (String, bool) {
        if let Some((address, ..)) = &self.elsewhere {
            return (address.clone(), true);
        }
        let mirror = std::env::var("HF_ENDPOINT").ok().filter(|address| !address.is_empty());
        mirror.map_or(("https://huggingface.co".into(), false), |address| (address, true))
    }

    /// A file of a repository, from the cache or downloaded. The inner error says why it cannot be downloaded.
    ///
    /// # Errors
    /// [`gafi_core::Error::Interrupted`].
    pub(super) fn get(&self, repo: &str, revision: &str, file: &str, cx: &Context) -> Result<Result<PathBuf, String>> {
        let (elsewhere, repo, name) = (self.elsewhere.clone(), dataset(repo, revision), file.to_owned());
        self.wait(&format!("download {file}"), cx, move |reporter| {
            if let Some(path) = cache(elsewhere.as_ref()).repo(repo.clone()).get(&name) {
                return Ok(path);
            }
            builder(elsewhere).build()?.repo(repo).download_with_progress(&name, reporter)
        })
    }

    /// The names of all files of a repository. The inner error says why they could not be listed.
    ///
    /// # Errors
    /// [`gafi_core::Error::Interrupted`].
    pub(super) fn list(&self, repo: &str, revision: &str, cx: &Context) -> Result<Result<Vec<String>, String>> {
        let (elsewhere, name, repo) = (self.elsewhere.clone(), format!("list {repo}"), dataset(repo, revision));
        self.wait(&name, cx, move |_| {
            let info = builder(elsewhere).build()?.repo(repo).info()?;
            Ok(info.siblings.into_iter().map(|file| file.rfilename).collect())
        })
    }

    /// Runs `work` in a thread, and abandons it when it reports nothing for too long.
    fn wait<T: Send + 'static>(
        &self,
        name: &str,
        cx: &Context,
        work: impl FnOnce(Reporter<T>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<Result<T, String>> {
        let (sender, events) = channel();
        std::thread::spawn(move || {
            let done = work(Reporter(sender.clone())).map_err(|e| chain(&e));
            let _ = sender.send(Event::Done(done));
        });
        let mut task = None;
        let mut limit = self.answer;
        let mut last = Instant::now();
        loop {
            cx.checkpoint()?;
            match events.recv_timeout(Duration::from_millis(100)) {
                Ok(Event::Done(done)) => return Ok(done),
                Ok(Event::Size(size)) => {
                    last = Instant::now();
                    limit = self.stall;
                    task.get_or_insert_with(|| cx.progress.begin(name, Some(size)));
                }
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
}

fn dataset(repo: &str, revision: &str) -> Repo {
    Repo::with_revision(repo.into(), RepoType::Dataset, revision.into())
}

fn cache(elsewhere: Option<&Server>) -> Cache {
    let own = || std::env::var_os("HF_HUB_CACHE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = elsewhere.map(|(_, cache, _)| cache.clone()).or_else(own);
    folder.map_or_else(Cache::from_env, Cache::new)
}

fn builder(elsewhere: Option<Server>) -> ApiBuilder {
    // The client's own progress bar would print, which a library must not.
    let builder = ApiBuilder::from_env().with_progress(false).with_cache_dir(cache(elsewhere.as_ref()).path().clone());
    let given = std::env::var("HF_TOKEN").ok().map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
    match elsewhere {
        Some((address, _, token)) => builder.with_endpoint(address).with_token(token),
        None if given.is_some() => builder.with_token(given),
        None => builder,
    }
}

/// An error with its causes, each once.
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
