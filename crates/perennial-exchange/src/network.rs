//! The executors of a job among themselves: who is connected, and where channels from outside end.

use std::collections::HashMap;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use perennial_types::JobId;

use crate::event_time::Control;
use crate::frame::{self, ChannelKey, Greeting};
use crate::inbound::Inbound;
use crate::outbound::{Outbound, RemoteSender, prepare};
use crate::{Element, Gate, Room};

/// Longest wait for the greeting of who has connected.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept, so that a process out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Channels that may have been opened by others before their consumer was deployed here. More are no early birds.
const WAITING_MAX: usize = 1 << 16;

/// Barriers, and times behind them, on a channel whose consumer has not come. Checkpoints are triggered when all tasks run: one
/// barrier is rare already.
const WAITING_CONTROLS_MAX: usize = 32;

/// A channel that was opened before its consumer was deployed.
struct Waiting {
    inbound: Arc<Inbound>,
    number: u32,
    /// What has come already without credit: no data.
    controls: Vec<Control>,
    /// Its end has come already.
    ended: bool,
}

#[derive(Default)]
struct InputState {
    registered: HashMap<ChannelKey, (Arc<Gate>, usize)>,
    waiting: HashMap<ChannelKey, Waiting>,
}

/// Where channels from other executors end.
pub(crate) struct Inputs {
    state: Mutex<InputState>,
    credit: u32,
}

impl Inputs {
    fn lock(&self) -> MutexGuard<'_, InputState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn open(&self, key: ChannelKey, inbound: &Arc<Inbound>, number: u32) -> Result<(), String> {
        let mut state = self.lock();
        if let Some((gate, index)) = state.registered.remove(&key) {
            inbound.attach(number, gate, index, self.credit);
        } else if state.waiting.len() < WAITING_MAX {
            let inbound = Arc::clone(inbound);
            state.waiting.insert(key, Waiting { inbound, number, controls: Vec::new(), ended: false });
        } else {
            return Err(format!("{WAITING_MAX} channels wait for tasks that are not here"));
        }
        Ok(())
    }

    fn register(&self, key: ChannelKey, gate: Arc<Gate>, index: usize) {
        let mut state = self.lock();
        let Some(Waiting { inbound, number, controls, ended }) = state.waiting.remove(&key) else {
            state.registered.insert(key, (gate, index));
            return;
        };
        // Before the channel is attached: what is read from then on comes behind them.
        controls.into_iter().for_each(|control| gate.put(index, control.into()));
        if ended {
            gate.put(index, Element::End);
        } else {
            inbound.attach(number, gate, index, self.credit);
        }
    }

    /// Notes the end of a channel whose consumer has not come yet; false when there is none.
    pub(crate) fn end_waiting(&self, inbound: &Arc<Inbound>, number: u32) -> bool {
        let mut state = self.lock();
        let mut of = state.waiting.values_mut();
        let found = of.find(|waiting| waiting.number == number && Arc::ptr_eq(&waiting.inbound, inbound));
        found.map(|waiting| waiting.ended = true).is_some()
    }

    /// Keeps a control element of a channel whose consumer has not come yet; false when there is none.
    pub(crate) fn control_waiting(
        &self,
        inbound: &Arc<Inbound>,
        number: u32,
        control: Control,
    ) -> Result<bool, String> {
        let mut state = self.lock();
        let mut of = state.waiting.values_mut();
        let found = of.find(|waiting| waiting.number == number && Arc::ptr_eq(&waiting.inbound, inbound));
        let Some(waiting) = found else { return Ok(false) };
        control.append_to(&mut waiting.controls);
        if waiting.controls.len() > WAITING_CONTROLS_MAX {
            return Err(format!(
                "more than {WAITING_CONTROLS_MAX} barriers and times on channel {number}, which nobody reads yet"
            ));
        }
        Ok(true)
    }

    pub(crate) fn close_waiting(&self, inbound: &Arc<Inbound>, number: u32) {
        self.lock().waiting.retain(|_, other| other.number != number || !Arc::ptr_eq(&other.inbound, inbound));
    }

    pub(crate) fn forget_connection(&self, inbound: &Arc<Inbound>) {
        self.lock().waiting.retain(|_, other| other.ended || !Arc::ptr_eq(&other.inbound, inbound));
    }
}

/// Another executor of the job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its name among the job's executors.
    pub name: String,
    /// Where its data port listens, `host:port`.
    pub address: String,
}

/// The executors of a job among themselves. One per executor; it lives as long as the process.
pub struct Network {
    job: JobId,
    name: String,
    inputs: Arc<Inputs>,
    outbound: Mutex<HashMap<Peer, Arc<Outbound>>>,
}

impl Network {
    /// Accepts the job's other executors on `listener`. `name` is this executor's, `credit` what each channel from outside
    /// is granted, in batches.
    pub fn start(listener: TcpListener, job: JobId, name: String, credit: u32) -> io::Result<Self> {
        let inputs = Arc::new(Inputs { state: Mutex::default(), credit });
        let (accepted, mine) = (Arc::clone(&inputs), name.clone());
        std::thread::Builder::new()
            .name("data-accept".to_owned())
            .spawn(move || accept(&listener, job, &mine, &accepted))?;
        Ok(Self { job, name, inputs, outbound: Mutex::default() })
    }

    /// Says where a channel from another executor ends. Its producer gets credit once both have come.
    pub fn register_input(&self, key: ChannelKey, gate: Arc<Gate>, index: usize) {
        self.inputs.register(key, gate, index);
    }

    /// Forgets the inputs of a gate that nobody has connected to.
    pub fn forget_inputs(&self, gate: &Arc<Gate>) {
        self.inputs.lock().registered.retain(|_, (other, _)| !Arc::ptr_eq(other, gate));
    }

    /// Opens a channel to a task of another executor, connecting to it in the background if need be.
    ///
    /// When it cannot be reached the task fails through `room`.
    pub fn open(&self, peer: &Peer, key: &ChannelKey, room: Arc<Room>) -> io::Result<RemoteSender> {
        let mut outbound = self.outbound.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match outbound.get(peer) {
            Some(connection) if connection.is_usable() => Arc::clone(connection),
            _ => {
                let greeting = Greeting { job: self.job, from: self.name.clone(), to: peer.name.clone() };
                let connection = Outbound::connect(greeting, peer.address.clone())?;
                outbound.insert(peer.clone(), Arc::clone(&connection));
                connection
            }
        };
        Ok(connection.open(key, room))
    }
}

fn accept(listener: &TcpListener, job: JobId, name: &str, inputs: &Arc<Inputs>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%job, %error, "a data connection could not be accepted");
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let (name, inputs) = (name.to_owned(), Arc::clone(inputs));
        let spawned =
            std::thread::Builder::new().name("data-in".to_owned()).spawn(move || match welcome(stream, job, &name) {
                Ok((peer, stream)) => Inbound::new(peer, stream).run(&inputs),
                Err(error) => tracing::warn!(%job, %error, "a data connection was refused"),
            });
        if let Err(error) = spawned {
            tracing::warn!(%job, %error, "a data connection could not be served");
        }
    }
}

/// Lets a peer in that belongs here.
fn welcome(mut stream: TcpStream, job: JobId, name: &str) -> io::Result<(String, TcpStream)> {
    prepare(&stream)?;
    stream.set_read_timeout(Some(GREETING_TIMEOUT))?;
    let greeting = Greeting::read(&mut stream)?;
    let refusal = if greeting.job != job {
        Some(format!("this executor runs job {job}, not {}", greeting.job))
    } else if greeting.to != name {
        Some(format!("this executor is `{name}`, not `{}`", greeting.to))
    } else {
        None
    };
    frame::write_welcome(&mut stream, refusal.as_deref())?;
    if let Some(refusal) = refusal {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("from `{}`: {refusal}", greeting.from)));
    }
    stream.set_read_timeout(None)?;
    let from = stream.peer_addr().map_or_else(|_| greeting.from.clone(), |at| format!("{} at {at}", greeting.from));
    Ok((from, stream))
}
