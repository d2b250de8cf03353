//! stub, replaced by the real room
#![allow(missing_docs, reason = "stub")]
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use crate::catalog::{ServerId, Snapshot};
use crate::conf::Limits;

pub struct Bridge(PathBuf);
pub enum Started {
    Now,
    Already,
}
pub enum Stopped {
    Now,
    Already,
}
#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub struct BridgeError;
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Stopped,
    Starting,
    Running,
    Stopping,
    Failed,
}
#[derive(Debug, Clone)]
pub struct Status {
    pub state: State,
    pub pids: Vec<u32>,
    pub started_at: Option<SystemTime>,
    pub last_activity: Option<SystemTime>,
    pub restarts: u64,
    pub in_flight: usize,
    pub last_error: Option<String>,
    pub stderr_tail: Vec<String>,
}
pub trait Observer: Send + Sync {
    fn started(&self, server: &ServerId);
    fn exited(&self, server: &ServerId, clean: bool);
    fn restarted(&self, server: &ServerId);
    fn rubbish(&self, server: &ServerId);
}
impl Bridge {
    pub fn new(state_dir: &Path, _: Limits, _: Arc<dyn Observer>) -> Result<Arc<Bridge>, BridgeError> {
        Ok(Arc::new(Self(state_dir.join("bridge.sock"))))
    }
    pub fn socket(&self) -> &Path {
        &self.0
    }
    pub fn path(id: &ServerId, instance: u16) -> String {
        format!("/{id}/{instance}")
    }
    pub fn reconcile(&self, _: &Snapshot) {}
    pub async fn serve(self: &Arc<Self>, mut shutdown: tokio::sync::watch::Receiver<bool>) {
        let _ = std::fs::remove_file(&self.0);
        let _listener = tokio::net::UnixListener::bind(&self.0);
        let _ = shutdown.changed().await;
    }
    pub async fn start(&self, _: &str) -> Result<Started, BridgeError> {
        Err(BridgeError)
    }
    pub async fn stop(&self, _: &str) -> Result<Stopped, BridgeError> {
        Err(BridgeError)
    }
    pub fn status(&self, _: &str) -> Option<Status> {
        None
    }
}
