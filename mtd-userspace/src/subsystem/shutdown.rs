//! The end of a controller, for all who have to know of it.

use tokio::sync::watch;

/// Whether the controller stops. Clones are of the same end.
#[derive(Clone, Debug)]
pub struct Shutdown(watch::Receiver<bool>);

impl Shutdown {
    /// The end, and what brings it about: sending true, or dropping the sender.
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
        // An error means that the sender has gone, which ends the wait just as well.
        let _ = self.0.wait_for(|&stopped| stopped).await;
    }
}
