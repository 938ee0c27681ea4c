//! Slot threads: one thread per slot, cooperative over the tasks that share the slot.
//!
//! The thread polls its tasks in turn, each for some batches. A task that finds no input sends its open batches at
//! once, a busy one at the latest after the buffer timeout. When no task can do anything the thread waits to be woken: by
//! an element that arrives, by credit that comes back, by a command, or by the clock: of a source or of an operator. A task
//! that has taken a snapshot encodes its tables between its batches, a piece per turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use perennial_exchange::{Counters, Room, Signal};
use perennial_types::{ExecutionAttemptId, ExecutionState};

use crate::builder::TaskBuilder;
use crate::mailbox::Mailbox;
use crate::panics;
use crate::settings::TaskSettings;
use crate::task::{Checkpointing, Input, Polled, Stage, Task, nanos};
use crate::upload::{SnapshotOf, Taken};
use crate::valve::Valve;
use crate::{TaskError, VertexFactory};

/// A subtask that is to be built and run.
pub(crate) struct NewTask {
    pub(crate) attempt: ExecutionAttemptId,
    pub(crate) builder: TaskBuilder,
    pub(crate) factory: Arc<dyn VertexFactory>,
    pub(crate) input: Input,
    pub(crate) room: Arc<Room>,
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) mailbox: Arc<Mailbox>,
    /// Whether it stays until a checkpoint has all that it has done.
    pub(crate) last_checkpoint: bool,
}

/// An execution changed its state, or its input has ended.
pub(crate) struct TaskEvent {
    pub(crate) attempt: ExecutionAttemptId,
    pub(crate) state: ExecutionState,
    /// Whether it waits for its last checkpoint.
    pub(crate) input_ended: bool,
    /// Why; only with FAILED.
    pub(crate) error: Option<TaskError>,
}

impl TaskEvent {
    fn new(attempt: ExecutionAttemptId, state: ExecutionState, error: Option<TaskError>) -> Self {
        Self { attempt, state, input_ended: false, error }
    }
}

#[derive(Default)]
struct Inbox {
    tasks: Mutex<Vec<NewTask>>,
    closing: AtomicBool,
}

/// A slot thread. Dropped, it takes no more tasks, and ends when those it has do.
pub(crate) struct Slot {
    signal: Arc<Signal>,
    inbox: Arc<Inbox>,
    thread: Option<JoinHandle<()>>,
}

impl Slot {
    /// Starts the thread. States of its tasks, and their snapshots, go to `events`.
    pub(crate) fn start<E>(name: &str, settings: TaskSettings, events: Sender<E>) -> std::io::Result<Self>
    where
        E: From<TaskEvent> + From<Taken> + Send + 'static,
    {
        let signal = Arc::new(Signal::new());
        let inbox = Arc::new(Inbox::default());
        let cuts = events.clone();
        let mut slot = SlotThread {
            signal: Arc::clone(&signal),
            inbox: Arc::clone(&inbox),
            tasks: Vec::new(),
            settings,
            // Nobody listens any more: whoever started the slot has gone, and nobody is left to tell.
            tell: Box::new(move |event| drop(events.send(event.into()))),
            tell_cut: Box::new(move |cut| drop(cuts.send(cut.into()))),
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || slot.run())?;
        Ok(Self { signal, inbox, thread: Some(thread) })
    }

    /// Wakes the thread; what its tasks read and write has to be attached to this.
    pub(crate) fn signal(&self) -> &Arc<Signal> {
        &self.signal
    }

    /// Hands a task to the thread.
    pub(crate) fn run(&self, task: NewTask) {
        self.inbox.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
        self.signal.wake();
    }

    /// Waits until all tasks have ended.
    pub(crate) fn join(mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // The thread catches panics of tasks; one of its own has been printed by the hook.
            let _ = thread.join();
        }
    }

    fn close(&self) {
        self.inbox.closing.store(true, Ordering::Release);
        self.signal.wake();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.close();
    }
}

struct SlotThread {
    signal: Arc<Signal>,
    inbox: Arc<Inbox>,
    tasks: Vec<(ExecutionAttemptId, Task)>,
    settings: TaskSettings,
    tell: Box<dyn Fn(TaskEvent) + Send>,
    tell_cut: Box<dyn Fn(Taken) + Send>,
}

impl SlotThread {
    fn run(&mut self) {
        self.signal.attach();
        let mut now = Instant::now();
        let mut flushed = now;
        loop {
            self.signal.clear();
            let closing = self.inbox.closing.load(Ordering::Acquire);
            self.take_new_tasks();
            if closing && self.tasks.is_empty() {
                return;
            }
            let must_flush = now.saturating_duration_since(flushed) >= self.settings.buffer_timeout;
            if must_flush {
                flushed = now;
            }
            let (worked, wake_at) = self.turn(&mut now, must_flush);
            if !worked {
                self.signal.wait(wake_at.map(|time| time.saturating_duration_since(now)));
                now = Instant::now();
            }
        }
    }

    /// Polls each task once. Returns whether any did something, and if not, when one wants to be asked again.
    fn turn(&mut self, now: &mut Instant, must_flush: bool) -> (bool, Option<Instant>) {
        let mut any_worked = false;
        let mut wake_at: Option<Instant> = None;
        let mut i = 0;
        while let Some((attempt, task)) = self.tasks.get_mut(i) {
            let before = *now;
            task.presence().turn();
            let result = if task.is_cancelled() {
                panics::catch(|| task.obey_last()).map(|()| None)
            } else {
                panics::catch(|| {
                    let polled = task.poll(before)?;
                    if must_flush || matches!(polled, Polled::Idle(_) | Polled::Blocked) {
                        task.flush()?;
                    }
                    Ok(polled)
                })
                .map(Some)
            };
            task.presence().turn();
            *now = Instant::now();
            task.checkpointing.cuts.drain(..).for_each(&self.tell_cut);
            let end = match result {
                Ok(Some(Polled::Worked)) => {
                    any_worked = true;
                    Counters::add(&task.counters.busy_ns, nanos(now.saturating_duration_since(before)));
                    i += 1;
                    continue;
                }
                // It has nothing else to do, so it goes on with its snapshot at once.
                Ok(Some(Polled::Idle(_) | Polled::Blocked)) if task.checkpointing.sweeping => {
                    any_worked = true;
                    i += 1;
                    continue;
                }
                Ok(Some(Polled::Idle(time))) => {
                    wake_at = [wake_at, time].into_iter().flatten().min();
                    i += 1;
                    continue;
                }
                Ok(Some(Polled::Blocked)) => {
                    i += 1;
                    continue;
                }
                Ok(Some(Polled::InputEnded)) => {
                    any_worked = true;
                    let event = TaskEvent::new(*attempt, ExecutionState::Running, None);
                    (self.tell)(TaskEvent { input_ended: true, ..event });
                    i += 1;
                    continue;
                }
                Ok(Some(Polled::Finished)) => (ExecutionState::Finished, None),
                Ok(None) => (ExecutionState::Canceled, None),
                Err(error) => (ExecutionState::Failed, Some(error)),
            };
            any_worked = true;
            let attempt = *attempt;
            let (_, task) = self.tasks.remove(i);
            self.end(attempt, task, end);
        }
        (any_worked, wake_at)
    }

    /// Drops what is left of a task and says how it ended.
    fn end(&self, attempt: ExecutionAttemptId, task: Task, (state, error): (ExecutionState, Option<TaskError>)) {
        task.input.close();
        let dropped = panics::catch(|| {
            drop(task);
            Ok(())
        });
        // The user's destructors belong to the task: it failed if they panic, unless it had failed before.
        match (error, dropped) {
            (None, Err(error)) if state == ExecutionState::Finished => {
                (self.tell)(TaskEvent::new(attempt, ExecutionState::Failed, Some(error)));
            }
            (error, _) => (self.tell)(TaskEvent::new(attempt, state, error)),
        }
    }

    fn take_new_tasks(&mut self) {
        let new = std::mem::take(&mut *self.inbox.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for NewTask { attempt, mut builder, factory, input, room, cancelled, mailbox, last_checkpoint } in new {
            (self.tell)(TaskEvent::new(attempt, ExecutionState::Initializing, None));
            if builder.has_nothing_to_do() {
                input.close();
                builder.end_outputs();
                (self.tell)(TaskEvent::new(attempt, ExecutionState::Running, None));
                (self.tell)(TaskEvent::new(attempt, ExecutionState::Finished, None));
                continue;
            }
            let vertex_name = builder.context.vertex_name.clone();
            let (counters, clock) = (builder.counters(), builder.clock());
            let checkpointing =
                Checkpointing::new(SnapshotOf::new(&builder.context), mailbox, &input, self.settings.incremental);
            let valve = Valve::new(input.channels());
            let stage = if builder.was_finished() { Stage::Finished } else { Stage::Working };
            checkpointing.presence().turn();
            let built = panics::catch(|| {
                let head = factory.build(&mut builder)?;
                Ok((head, builder.into_writers()?))
            });
            checkpointing.presence().turn();
            match built {
                Ok((head, writers)) => {
                    let (unflushed, blocked_since) = (false, None);
                    let task = Task {
                        vertex_name,
                        head,
                        input,
                        writers,
                        room,
                        counters,
                        clock,
                        valve,
                        cancelled,
                        stage,
                        last_checkpoint,
                        unflushed,
                        blocked_since,
                        checkpointing,
                    };
                    (self.tell)(TaskEvent::new(attempt, ExecutionState::Running, None));
                    self.tasks.push((attempt, task));
                }
                Err(error) => {
                    input.close();
                    (self.tell)(TaskEvent::new(attempt, ExecutionState::Failed, Some(error)));
                }
            }
        }
    }
}
