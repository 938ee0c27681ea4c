//! A watch channel for openraft that wakes those who wait in the order in which they came. tokio's draws lots.

use std::sync::Arc;

use futures_util::FutureExt;
use openraft::async_runtime::watch::{self, RecvError, SendError};
use openraft::{OptionalSend, OptionalSync};
use tokio::sync::Notify;
use tokio::sync::watch as tokio_watch;

pub(crate) struct Watch;

pub(crate) struct Sender<T> {
    /// `None` while it is dropped: the others are woken after they can see that.
    sender: Option<tokio_watch::Sender<T>>,
    turned: Arc<Notify>,
}

pub(crate) struct Receiver<T> {
    receiver: tokio_watch::Receiver<T>,
    turned: Arc<Notify>,
}

impl<T> Sender<T> {
    fn inner(&self) -> &tokio_watch::Sender<T> {
        self.sender.as_ref().expect("only `drop` takes it")
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), turned: self.turned.clone() }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { receiver: self.receiver.clone(), turned: self.turned.clone() }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.sender = None;
        self.turned.notify_waiters();
    }
}

impl watch::Watch for Watch {
    type Sender<T: OptionalSend + OptionalSync> = Sender<T>;
    type Receiver<T: OptionalSend + OptionalSync> = Receiver<T>;
    type Ref<'a, T: OptionalSend + 'a> = tokio_watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = tokio_watch::channel(init);
        let turned = Arc::new(Notify::new());
        (Sender { sender: Some(sender), turned: turned.clone() }, Receiver { receiver, turned })
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchSender<Watch, T> for Sender<T> {
    fn send(&self, value: T) -> Result<(), SendError<T>> {
        let sent = self.inner().send(value).map_err(|error| SendError(error.0));
        self.turned.notify_waiters();
        sent
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        let modified = self.inner().send_if_modified(modify);
        if modified {
            self.turned.notify_waiters();
        }
        modified
    }

    fn borrow_watched(&self) -> tokio_watch::Ref<'_, T> {
        self.inner().borrow()
    }

    fn subscribe(&self) -> Receiver<T> {
        Receiver { receiver: self.inner().subscribe(), turned: self.turned.clone() }
    }
}

impl<T: OptionalSend + OptionalSync> watch::WatchReceiver<Watch, T> for Receiver<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        loop {
            // Made before looking, so that what turns in between is not missed.
            let turned = self.turned.notified();
            if let Some(changed) = self.receiver.changed().now_or_never() {
                return changed.map_err(|_| RecvError(()));
            }
            turned.await;
        }
    }

    fn borrow_watched(&self) -> tokio_watch::Ref<'_, T> {
        self.receiver.borrow()
    }

    fn borrow_and_update(&mut self) -> tokio_watch::Ref<'_, T> {
        self.receiver.borrow_and_update()
    }
}
