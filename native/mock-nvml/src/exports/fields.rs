//! Field values: of all fields, only those about a GPU's recovery have values.

use crate::abi::{FieldValue, Out};
use crate::code::{Answer, Code};
use crate::exports::gpu_calls;

const MOST: i32 = 1024;
const RESET_STATUS: u32 = 226;
const DRAIN_AND_RESET_STATUS: u32 = 227;
const RECOVERY_ACTION: u32 = 230;
const UNSIGNED_INT: u32 = 1; // nvmlValueType_t
const GPU_RESET: u32 = 1; // nvmlDeviceGpuRecoveryAction_t
const DRAIN_AND_RESET: u32 = 4;

/// The value of a field, given what the GPU needs in order to recover. All 0 on a healthy GPU is measured (H200).
fn value(field: u32, action: u32) -> Answer<u32> {
    match field {
        RECOVERY_ACTION => Ok(action),
        RESET_STATUS => Ok(u32::from(action == GPU_RESET)),
        DRAIN_AND_RESET_STATUS => Ok(u32::from(action == DRAIN_AND_RESET)),
        _ => Err(Code::NOT_SUPPORTED),
    }
}

gpu_calls! {
    nvmlDeviceGetFieldValues(session, gpu, count: i32, values: Out<FieldValue>) {
        if !(1..=MOST).contains(&count) || values.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        let action = session.state.recovery_action(session.gpu(gpu).minor)?;
        for place in (0..count as usize).map(|index| values.at(index)) {
            let asked = place.get()?;
            let answer = value(asked.field, action);
            place.set(FieldValue {
                value_type: UNSIGNED_INT,
                code: answer.err().map_or(0, |code| code.0),
                value: u64::from(answer.unwrap_or(0)),
                ..asked
            })?;
        }
        Ok(())
    }
}
