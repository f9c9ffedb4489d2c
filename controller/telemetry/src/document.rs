//! Telemetry messages as documents of the database: constant field order, rounded numbers, identity below `meta`.

use fleet_proto::v1::{CameraSample, Event, HostSample, PortSample, TelemetryBatch, VmSample};
use mongodb::bson::{Bson, DateTime, Document, doc};

use crate::schema::Collection;

/// Documents for one collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Documents {
    /// Where they go.
    pub collection: Collection,
    /// In the order of the batch.
    pub documents: Vec<Document>,
}

/// The samples of a batch, by collection; collections without samples are left out. `writer_dropped` is stored with
/// each host sample: how many samples the writer itself has lost so far.
pub fn samples(batch: &TelemetryBatch, writer_dropped: u64) -> Vec<Documents> {
    let ts = time(batch.ts_ms);
    let all = [
        (
            Collection::HostSamples,
            batch.hosts.iter().map(|sample| host(ts, sample, writer_dropped)).collect::<Vec<_>>(),
        ),
        (Collection::VmSamples, batch.vms.iter().map(|sample| vm(ts, sample)).collect()),
        (Collection::PortSamples, batch.ports.iter().map(|sample| port(ts, sample)).collect()),
        (Collection::CameraSamples, batch.cameras.iter().map(|sample| camera(ts, sample)).collect()),
    ];
    all.into_iter()
        .filter(|(_, documents)| !documents.is_empty())
        .map(|(collection, documents)| Documents { collection, documents })
        .collect()
}

fn host(ts: DateTime, sample: &HostSample, writer_dropped: u64) -> Document {
    doc! {
        "ts": ts,
        "meta": { "host": &sample.host },
        "cpu": rounded(sample.cpu_percent),
        "memory_total": count(sample.memory_total),
        "memory_available": count(sample.memory_available),
        "psi_memory": rounded(sample.psi_memory_some10),
        "psi_cpu": rounded(sample.psi_cpu_some10),
        "load1": rounded(sample.load1),
        "vms_running": i64::from(sample.vms_running),
        "ksm_shared": count(sample.ksm_pages_shared),
        "ksm_sharing": count(sample.ksm_pages_sharing),
        "ksm_volatile": count(sample.ksm_pages_volatile),
        "ksm_scanned": count(sample.ksm_pages_scanned),
        "ksm_profit": sample.ksm_general_profit,
        "ksm_cpu": count(sample.ksm_cpu_ms),
        "agent_memory": count(sample.agent_rss),
        "dropped": count(sample.dropped),
        "writer_dropped": count(writer_dropped),
    }
}

fn vm(ts: DateTime, sample: &VmSample) -> Document {
    doc! {
        "ts": ts,
        "meta": { "experiment": &sample.experiment, "host": &sample.host, "vm": &sample.vm },
        "cpu": rounded(sample.cpu_percent),
        "memory": count(sample.memory),
        "cpu_time_ms": count(sample.cpu_time_ms),
    }
}

fn port(ts: DateTime, sample: &PortSample) -> Document {
    doc! {
        "ts": ts,
        "meta": {
            "experiment": &sample.experiment,
            "host": &sample.host,
            "vm": &sample.vm,
            "port": &sample.port,
        },
        "segment": &sample.segment,
        "rx_bytes": count(sample.rx_bytes),
        "tx_bytes": count(sample.tx_bytes),
        "rx_frames": count(sample.rx_frames),
        "tx_frames": count(sample.tx_frames),
        "rx_dropped": count(sample.rx_dropped),
        "tx_dropped": count(sample.tx_dropped),
    }
}

fn camera(ts: DateTime, sample: &CameraSample) -> Document {
    doc! {
        "ts": ts,
        "meta": {
            "experiment": &sample.experiment,
            "host": &sample.host,
            "vm": &sample.vm,
            "camera_host": &sample.camera_host,
            "camera": &sample.camera,
        },
        "to_guest": count(sample.to_guest_bytes),
        "from_guest": count(sample.from_guest_bytes),
    }
}

/// An event: its id is the document's `_id`, so that a repeated insert is no second event.
pub fn event(event: &Event) -> Document {
    doc! {
        "_id": &event.id,
        "ts": time(event.ts_ms),
        "kind": &event.kind,
        "experiment": &event.experiment,
        "host": &event.host,
        "vm": &event.vm,
        "message": &event.message,
    }
}

/// Milliseconds since 1970 as a BSON time.
pub(crate) fn time(ms: u64) -> DateTime {
    DateTime::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// BSON has no unsigned integers; no counter here comes near 2^63.
fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Two decimals: digits beyond what was measured only cost room. What is no number is null.
fn rounded(value: f64) -> Bson {
    if value.is_finite() { Bson::Double((value * 100.0).round() / 100.0) } else { Bson::Null }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::schema::METRICS;

    fn batch() -> TelemetryBatch {
        TelemetryBatch {
            ts_ms: 1_700_000_000_123,
            hosts: vec![HostSample { host: "h1".into(), cpu_percent: 12.3456, ..HostSample::default() }],
            vms: vec![VmSample {
                experiment: "hello".into(),
                host: "h1".into(),
                vm: "web[3]".into(),
                ..Default::default()
            }],
            ports: vec![PortSample {
                experiment: "hello".into(),
                host: "h1".into(),
                vm: "web[3]".into(),
                port: "eth0".into(),
                segment: "office".into(),
                rx_bytes: u64::MAX,
                ..PortSample::default()
            }],
            events: vec![],
            cameras: vec![CameraSample {
                host: "h1".into(),
                camera_host: "h2".into(),
                camera: "04b0:301".into(),
                experiment: "hello".into(),
                vm: "web[3]".into(),
                to_guest_bytes: 30 << 20,
                ..CameraSample::default()
            }],
        }
    }

    #[test]
    fn every_metric_has_its_field_and_the_identity_is_all_of_meta() {
        let documents = samples(&batch(), 7);
        for metric in METRICS {
            let of = documents.iter().find(|documents| documents.collection == metric.collection).unwrap();
            assert!(of.documents[0].contains_key(metric.field), "{} lacks {}", metric.collection, metric.field);
        }
        for Documents { collection, documents } in documents {
            let meta: Vec<_> = documents[0].get_document("meta").unwrap().keys().collect();
            assert_eq!(meta, collection.identity());
            assert_eq!(documents[0].get_datetime("ts").unwrap().timestamp_millis(), 1_700_000_000_123);
        }
    }

    #[test]
    fn numbers_are_rounded_and_fit() {
        let documents = samples(&batch(), 7);
        assert_eq!(documents[0].documents[0].get_f64("cpu").unwrap(), 12.35);
        assert_eq!(documents[0].documents[0].get_i64("writer_dropped").unwrap(), 7);
        assert_eq!(documents[2].documents[0].get_i64("rx_bytes").unwrap(), i64::MAX);
        assert_eq!(rounded(f64::NAN), Bson::Null);
    }

    #[test]
    fn collections_without_samples_are_left_out() {
        assert!(samples(&TelemetryBatch::default(), 0).is_empty());
    }
}
