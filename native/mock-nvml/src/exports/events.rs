//! Event sets, and waiting for events.

use std::sync::Arc;
use std::time::Duration;

use crate::abi::{EventData, EventDataLegacy, Handle, Out};
use crate::code::{Answer, Code};
use crate::events::{Event, EventSet};
use crate::exports::{gpu_calls, returned, system_calls};
use crate::faults;
use crate::functions::Function;
use crate::session::{self, Session};

fn set(session: &Session, handle: Handle) -> Answer<Arc<EventSet>> {
    let sets = session
        .event_sets
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    sets.get(&handle).cloned().ok_or(Code::INVALID_ARGUMENT)
}

/// Waits without keeping the session: a shutdown meanwhile ends it, and the wait within 200 ms.
fn wait(
    function: Function,
    handle: Handle,
    timeout_ms: u32,
    told: impl FnOnce(EventData) -> Answer,
) -> u32 {
    returned(function, || {
        faults::around(function, &[], || {
            let waited_on = set(&*session::current()?, handle)?;
            let timeout = Duration::from_millis(u64::from(timeout_ms));
            let event = waited_on.wait(timeout, || session::current().is_ok());
            let session = session::current()?;
            told(data(&session, event.ok_or(Code::TIMEOUT)?)?)
        })
    })
}

fn data(session: &Session, event: Event) -> Answer<EventData> {
    let seen = session.with_minor(event.minor).ok_or(Code::UNKNOWN)?;
    Ok(EventData {
        device: session.handle(seen),
        kind: event.kind,
        data: event.data,
        gpu_instance_id: event.instance,
        compute_instance_id: event.compute,
    })
}

/// The first form leaves the instance ids as they were.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlEventSetWait(
    handle: Handle,
    out: Out<EventDataLegacy>,
    timeout_ms: u32,
) -> u32 {
    wait(Function::nvmlEventSetWait, handle, timeout_ms, |data| {
        out.set(EventDataLegacy {
            device: data.device,
            kind: data.kind,
            data: data.data,
        })
    })
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlEventSetWait_v2(handle: Handle, out: Out<EventData>, timeout_ms: u32) -> u32 {
    wait(Function::nvmlEventSetWait_v2, handle, timeout_ms, |data| {
        out.set(data)
    })
}

system_calls! {
    nvmlEventSetCreate(session, out: Out<Handle>) {
        let mut sets = session.event_sets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let handle = sets.last_key_value().map_or(1, |(last, _)| last + 1);
        out.set(handle)?;
        sets.insert(handle, Arc::new(EventSet::new(session.state.events())));
        Ok(())
    }

    nvmlEventSetFree(session, set: Handle) {
        let mut sets = session.event_sets.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        sets.remove(&set).map(drop).ok_or(Code::INVALID_ARGUMENT)
    }
}

gpu_calls! {
    // Documented: kinds the GPU does not support are refused, all together.
    nvmlDeviceRegisterEvents(session, gpu, kinds: u64, handle: Handle) {
        let set = set(session, handle)?;
        if kinds & !session.model(gpu).event_types.value != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        set.register(session.gpu(gpu).minor, kinds);
        Ok(())
    }
}
