//! Changes single settings of a topic, and leaves all other settings as they are (KIP-339).

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka_sys as sys;

use super::{ClientHandle, code, ms, take_error, text};

type AlterFailure = (Code, String);

/// The topic and its new settings.
struct Resource(NonNull<sys::rd_kafka_ConfigResource_t>);

impl Drop for Resource {
    fn drop(&mut self) {
        // SAFETY: `alter_topic` created the object, and it is destroyed exactly once. The request
        // uses a copy.
        unsafe { sys::rd_kafka_ConfigResource_destroy(self.0.as_ptr()) }
    }
}

struct AlterOptions(NonNull<sys::rd_kafka_AdminOptions_t>);

impl Drop for AlterOptions {
    fn drop(&mut self) {
        // SAFETY: we created the object and destroy it exactly once. The request uses a copy.
        unsafe { sys::rd_kafka_AdminOptions_destroy(self.0.as_ptr()) }
    }
}

struct AlterAnswers(NonNull<sys::rd_kafka_queue_t>);

impl Drop for AlterAnswers {
    fn drop(&mut self) {
        // SAFETY: we created the queue and destroy it exactly once. librdkafka drops a later
        // answer.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// Sends the changes and waits for the answer. An error has librdkafka's code and the broker's
/// text.
pub(in super::super) fn alter_topic(
    h: ClientHandle,
    name: &str,
    changes: &[(&str, &str)],
    wait: Duration,
) -> Result<(), AlterFailure> {
    let resource = Resource::of_topic(name, changes)?;
    let options = AlterOptions::with_time_limit(h, wait)?;

    // SAFETY: the handle is alive; the queue is ours.
    let answers =
        AlterAnswers(NonNull::new(unsafe { sys::rd_kafka_queue_new(h.0) }).ok_or_else(no_memory)?);
    let mut list = [resource.0.as_ptr()];

    // SAFETY: one resource, options and queue are alive for the call. The call copies its
    // arguments.
    unsafe {
        sys::rd_kafka_IncrementalAlterConfigs(
            h.0,
            list.as_mut_ptr(),
            1,
            options.0.as_ptr(),
            answers.0.as_ptr(),
        )
    };

    answers.wait_until(Instant::now() + wait * 2)
}

impl Resource {
    /// A topic with the changes of its settings.
    fn of_topic(name: &str, changes: &[(&str, &str)]) -> Result<Resource, AlterFailure> {
        let topic = c_string(name)?;

        // SAFETY: the name is a C string and copied.
        let resource = unsafe {
            sys::rd_kafka_ConfigResource_new(
                sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC,
                topic.as_ptr(),
            )
        };

        let resource = Resource(NonNull::new(resource).ok_or_else(no_memory)?);
        for (setting, value) in changes {
            let setting = c_string(setting)?;
            let value = c_string(value)?;
            let set = sys::rd_kafka_AlterConfigOpType_t::RD_KAFKA_ALTER_CONFIG_OP_TYPE_SET;

            // SAFETY: the resource is alive. Both texts are C strings, and librdkafka copies them.
            // We own a returned error.
            let added = unsafe {
                sys::rd_kafka_ConfigResource_add_incremental_config(
                    resource.0.as_ptr(),
                    setting.as_ptr(),
                    set,
                    value.as_ptr(),
                )
            };

            take_error(added).map_err(|e| (e.code, e.text))?;
        }

        Ok(resource)
    }
}

impl AlterOptions {
    fn with_time_limit(h: ClientHandle, wait: Duration) -> Result<AlterOptions, AlterFailure> {
        // SAFETY: the handle is alive (see `ClientHandle`); the object is ours.
        let options = unsafe {
            sys::rd_kafka_AdminOptions_new(
                h.0,
                sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_INCREMENTALALTERCONFIGS,
            )
        };

        let options = AlterOptions(NonNull::new(options).ok_or_else(no_memory)?);

        // SAFETY: the options are alive. The buffer for the error text is null with size 0, so
        // librdkafka writes no text.
        let bounded = unsafe {
            sys::rd_kafka_AdminOptions_set_request_timeout(
                options.0.as_ptr(),
                ms(wait),
                ptr::null_mut(),
                0,
            )
        };

        match code(bounded) {
            Some(code) => Err((code, "its time limit".into())),
            None => Ok(options),
        }
    }
}

impl AlterAnswers {
    /// Waits for the answer to the changes. Other events are dropped.
    fn wait_until(&self, deadline: Instant) -> Result<(), AlterFailure> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());

            // SAFETY: the queue is alive. We own the returned event and destroy it.
            let Some(event) =
                NonNull::new(unsafe { sys::rd_kafka_queue_poll(self.0.as_ptr(), ms(left)) })
            else {
                return Err((Code::OperationTimedOut, "no answer".into()));
            };

            // SAFETY: the event is alive until it is destroyed below. The outcome is copied before.
            let outcome = unsafe {
                let outcome = read(event.as_ptr());
                sys::rd_kafka_event_destroy(event.as_ptr());
                outcome
            };

            if let Some(outcome) = outcome {
                return outcome;
            }
        }
    }
}

fn c_string(s: &str) -> Result<CString, AlterFailure> {
    CString::new(s).map_err(|e| (Code::InvalidArgument, e.to_string()))
}

fn no_memory() -> AlterFailure {
    (Code::Unknown, "librdkafka has no memory".to_string())
}

/// Reads the outcome from an event. `None` if the event has another type.
///
/// # Safety
/// The event must be alive.
unsafe fn read(event: *mut sys::rd_kafka_event_t) -> Option<Result<(), AlterFailure>> {
    // SAFETY: the caller guarantees a live event. Result and resources belong to the event and are
    // not kept.
    unsafe {
        let result = sys::rd_kafka_event_IncrementalAlterConfigs_result(event);
        if result.is_null() {
            return None;
        }

        if let Some(code) = code(sys::rd_kafka_event_error(event)) {
            return Some(Err((code, text(sys::rd_kafka_event_error_string(event)))));
        }

        let mut n = 0;
        let resources = sys::rd_kafka_IncrementalAlterConfigs_result_resources(result, &mut n);
        for i in 0..n {
            let resource = *resources.add(i);
            if let Some(code) = code(sys::rd_kafka_ConfigResource_error(resource)) {
                return Some(Err((
                    code,
                    text(sys::rd_kafka_ConfigResource_error_string(resource)),
                )));
            }
        }

        Some(Ok(()))
    }
}
