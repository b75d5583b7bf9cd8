//! The shutdown of a controller, as all of its parts observe it.

use tokio::sync::watch;

/// Whether the controller is stopping. Clones observe the same shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// A new shutdown, and the sender that begins it by sending true or on drop.
    pub fn new() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }

    /// Ready when it begins.
    pub async fn begun(mut self) {
        // An error means that the sender is gone, which also begins the shutdown.
        let _ = self.0.wait_for(|&stopped| stopped).await;
    }
}
