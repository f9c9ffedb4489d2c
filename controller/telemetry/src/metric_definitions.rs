//! Names of the metrics that this crate keeps of itself, through the `metrics` facade. docs/telemetry.md lists them.

/// Counter, label `collection`: documents that the server has acknowledged.
pub const DOCUMENTS_WRITTEN: &str = "fleet_telemetry_documents_written_total";
/// Counter, label `reason` (`queue_full`, `write_failed`, `shutdown`): samples that were lost before the database.
pub const SAMPLES_DROPPED: &str = "fleet_telemetry_samples_dropped_total";
/// Counter: events that were lost, because too many waited or the server refused them for good.
pub const EVENTS_LOST: &str = "fleet_telemetry_events_lost_total";
/// Histogram, seconds: one `insert_many`, from sending to acknowledgement or failure.
pub const WRITE_SECONDS: &str = "fleet_telemetry_write_seconds";
/// Gauge, 1 or 0: the database answers.
pub const CONNECTED: &str = "fleet_telemetry_connected";
/// Counter: how often the local server was started again after it had ended by itself.
pub const SERVER_RESTARTS: &str = "fleet_telemetry_server_restarts_total";

/// Describes all of them to the installed recorder. Call it once, after the recorder is installed.
pub fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(DOCUMENTS_WRITTEN, "Telemetry documents that the database has acknowledged");
    describe_counter!(SAMPLES_DROPPED, "Samples that were lost before the database");
    describe_counter!(EVENTS_LOST, "Lifecycle events that were lost");
    describe_histogram!(WRITE_SECONDS, Unit::Seconds, "Time of one write to the database");
    describe_gauge!(CONNECTED, "Whether the telemetry database answers");
    describe_counter!(SERVER_RESTARTS, "Restarts of the local telemetry server");
}
