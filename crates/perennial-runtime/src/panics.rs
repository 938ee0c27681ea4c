//! Panics of user code become errors of the task, with their place.

use std::cell::RefCell;
use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, Once, PoisonError};

use crate::TaskError;

thread_local! {
    /// `None` outside [`catch`]; inside, what the last panic said.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What the last panic outside [`catch`] said: of a thread that user code has started.
static ELSEWHERE: Mutex<Option<String>> = Mutex::new(None);

static HOOK: Once = Once::new();

/// Keeps message and place of a panic that [`catch`] will see; others go to the hook that was there before.
fn install_hook() {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let message = info.payload_as_str().unwrap_or("a value that is no text");
            let text = match info.location() {
                Some(place) => format!("{message}, at {place}"),
                None => message.to_owned(),
            };
            let left = CAUGHT.try_with(|caught| match &mut *caught.borrow_mut() {
                Some(caught) => {
                    *caught = text.clone();
                    None
                }
                None => Some(text.clone()),
            });
            if let Some(text) = left.unwrap_or(Some(text)) {
                let thread = std::thread::current().name().unwrap_or("<unnamed>").to_owned();
                let said = format!("thread `{thread}` panicked: {text}");
                *ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
                before(info);
            }
        }));
    });
}

/// Runs user code; a panic in it is [`TaskError::Panic`]. What the code left half done must not be used again.
pub(crate) fn catch<R>(code: impl FnOnce() -> Result<R, TaskError>) -> Result<R, TaskError> {
    install_hook();
    CAUGHT.with_borrow_mut(|caught| *caught = Some(String::new()));
    let result = std::panic::catch_unwind(AssertUnwindSafe(code));
    let message = CAUGHT.with_borrow_mut(Option::take).unwrap_or_default();
    result.unwrap_or(Err(TaskError::Panic { message }))
}

/// What the last panic of a thread that belongs to no task said, once. A task that fails right after it has mostly failed
/// because of it: a source that reads on a thread of its own only sees that the thread is gone.
pub(crate) fn take_elsewhere() -> Option<String> {
    ELSEWHERE.lock().unwrap_or_else(PoisonError::into_inner).take()
}
