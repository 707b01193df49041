//! What a scenario said and heard, to be shown when it fails.

use core::fmt::{self, Display};
use std::{
    env, fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use anyhow::Result;
use tempfile::TempDir;

/// Has each line shown as it comes, too.
const LIVE_VARIABLE: &str = "TRAPLINE_E2E_LIVE";
/// How many lines are kept of one scenario. The oldest go first.
const LINES: usize = 4000;
/// How much of the end of a packet log is shown, in bytes.
const LOG_BYTES: usize = 16 * 1024;

/// A growing list of lines, shared by everything that takes part in a scenario.
#[derive(Clone, Debug)]
pub struct Transcript {
    start: Instant,
    is_live: bool,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: std::collections::VecDeque<String>,
    logs: Vec<(String, PathBuf)>,
    directory: Option<TempDir>,
}

impl Transcript {
    /// Makes an empty transcript whose time begins now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            is_live: env::var_os(LIVE_VARIABLE).is_some(),
            shared: Arc::default(),
        }
    }

    /// Adds what `who` said, a line for each of `text`'s.
    pub fn say(&self, who: &str, text: impl Display) {
        let seconds = self.start.elapsed().as_secs_f64();
        let mut shared = self.lock();
        for line in text.to_string().lines() {
            if shared.lines.len() == LINES {
                shared.lines.pop_front();
            }
            if self.is_live {
                eprintln!("{seconds:8.3} {who:>8} {line}");
            }
            shared
                .lines
                .push_back(format!("{seconds:8.3} {who:>8} {line}"));
        }
    }

    /// Returns the path of a file to be written whose end is shown after the lines, such as a
    /// debugger's packet log.
    ///
    /// # Errors
    /// When no directory can be made for it.
    pub fn log(&self, title: &str) -> Result<PathBuf> {
        let mut shared = self.lock();
        let directory = match shared.directory.take() {
            Some(directory) => directory,
            None => tempfile::tempdir()?,
        };
        let path = directory.path().join(shared.logs.len().to_string());
        shared.directory = Some(directory);
        shared.logs.push((title.to_owned(), path.clone()));
        Ok(path)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Transcript {
    fn default() -> Self {
        Self::new()
    }
}

impl Display for Transcript {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        for line in &shared.lines {
            writeln!(formatter, "{line}")?;
        }
        for (title, path) in &shared.logs {
            let bytes = fs::read(path).unwrap_or_default();
            let end = bytes
                .get(bytes.len().saturating_sub(LOG_BYTES)..)
                .unwrap_or_default();
            writeln!(
                formatter,
                "--- {title}\n{}",
                String::from_utf8_lossy(end).trim_end()
            )?;
        }
        Ok(())
    }
}
