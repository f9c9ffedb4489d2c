//! Queries against a real server: what was written comes back, and every aggregate is what it says.
#![allow(clippy::unwrap_used)]

mod support;

use fleet_proto::v1::{TelemetryQueryRequest, TelemetryRows};
use fleet_telemetry_db::{Query, QueryError, Selection, VmNames};
use futures::TryStreamExt as _;
use std::time::Duration;
use support::{PATIENCE, Rig, T0, event, host, port, request, vm};

fn hello() -> Selection {
    Selection { experiment: Some("hello".into()), ..Selection::default() }
}

#[tokio::test]
async fn every_kind_of_sample_comes_back_as_it_was_written() {
    let rig = Rig::new().await;
    rig.write(vec![host(T0, 3), vm(T0 + 5000, "web[0]", 12.345), port(T0, "web[0]", 77), event(T0, "e1")]).await;

    let vms = rig.query(&request(&["cpu", "memory", "cpu_time"]), hello()).await;
    assert_eq!(vms[0], ["time", "experiment", "host", "vm", "cpu", "memory", "cpu_time"]);
    assert_eq!(vms[1..], [["2023-11-14T22:14:05.000Z", "hello", "h1", "web[0]", "12.35", "1000", "5"]]);

    let ports = rig.query(&request(&["rx_bytes", "tx_dropped"]), hello()).await;
    assert_eq!(ports[0], ["time", "experiment", "host", "vm", "port", "rx_bytes", "tx_dropped"]);
    assert_eq!(ports[1..], [["2023-11-14T22:14:00.000Z", "hello", "h1", "web[0]", "eth0", "77", "0"]]);

    let hosts = rig.query(&request(&["host_cpu", "dropped", "writer_dropped"]), Selection::default()).await;
    assert_eq!(hosts[0], ["time", "host", "host_cpu", "dropped", "writer_dropped"]);
    assert_eq!(hosts[1..], [["2023-11-14T22:14:00.000Z", "h1", "12.5", "3", "0"]]);

    let events = rig.query(&TelemetryQueryRequest { events: true, ..request(&[]) }, hello()).await;
    assert_eq!(events[0], ["time", "kind", "experiment", "host", "vm", "message"]);
    assert_eq!(events[1..], [["2023-11-14T22:14:00.000Z", "vm.running", "hello", "h1", "web[0]", "answered"]]);
    rig.end().await;
}

#[tokio::test]
async fn gauges_are_aggregated_by_series_and_bucket() {
    let rig = Rig::new().await;
    // web[0] has 1..=100 in the first bucket and 7 in the second; web[1] has 5 in the first.
    let mut batches: Vec<_> = (0u32..100).map(|i| vm(T0 + u64::from(i) * 100, "web[0]", f64::from(i + 1))).collect();
    batches.extend([vm(T0 + 31_000, "web[0]", 7.0), vm(T0 + 1, "web[1]", 5.0)]);
    rig.write(batches).await;

    for (aggregate, expected) in [
        ("avg", 50.5),
        ("min", 1.0),
        ("max", 100.0),
        ("sum", 5050.0),
        ("last", 100.0),
        ("p50", 50.0),
        ("p95", 95.0),
        ("p99", 99.0),
    ] {
        let query = TelemetryQueryRequest { bucket_ms: 30_000, aggregate: aggregate.into(), ..request(&["cpu"]) };
        let rows = rig.query(&query, hello()).await;
        let values: Vec<(&str, &str, f64)> =
            rows[1..].iter().map(|row| (row[0].as_str(), row[3].as_str(), row[4].parse().unwrap())).collect();
        let (first, second) = ("2023-11-14T22:14:00.000Z", "2023-11-14T22:14:30.000Z");
        assert_eq!(
            values.iter().map(|row| (row.0, row.1)).collect::<Vec<_>>(),
            [(first, "web[0]"), (first, "web[1]"), (second, "web[0]"),]
        );
        // An approximate percentile may be the value beside the exact one.
        let slack = if aggregate.starts_with('p') { 1.0 } else { 0.001 };
        assert!((values[0].2 - expected).abs() <= slack, "{aggregate}: {} is not {expected}", values[0].2);
        assert_eq!((values[1].2, values[2].2), (5.0, 7.0), "{aggregate}");
    }
    rig.end().await;
}

#[tokio::test]
async fn counters_become_rates_and_survive_a_restart_of_their_vm() {
    let rig = Rig::new().await;
    // Grows by 500, 1000, then begins anew at nought and has 100, then grows by 500: in 5 s each.
    let series = [0, 500, 1500, 100, 600];
    rig.write(series.iter().zip(0..).map(|(bytes, i)| port(T0 + i * 5000, "web[0]", *bytes)).collect()).await;
    // Another port in between must not be taken for the same series.
    rig.write(vec![port(T0 + 2500, "web[1]", 1_000_000), port(T0 + 7500, "web[1]", 1_000_000)]).await;

    for (aggregate, column, expected) in [
        ("avg", "rx_bytes_per_s", ["105", "0"]),
        ("min", "rx_bytes_per_s", ["20", "0"]),
        ("max", "rx_bytes_per_s", ["200", "0"]),
        ("last", "rx_bytes_per_s", ["100", "0"]),
        ("sum", "rx_bytes", ["2100", "0"]),
    ] {
        let query = TelemetryQueryRequest { bucket_ms: 30_000, aggregate: aggregate.into(), ..request(&["rx_bytes"]) };
        let rows = rig.query(&query, hello()).await;
        assert_eq!(rows[0][5], column);
        assert_eq!(rows[1..].iter().map(|row| row[5].as_str()).collect::<Vec<_>>(), expected, "{aggregate}");
    }
    // The growth belongs to the bucket of the later sample; the first sample of a series has no rate.
    let query = TelemetryQueryRequest { bucket_ms: 5000, ..request(&["rx_bytes"]) };
    let only = Selection { vms: vec![VmNames::Name("web[0]".into())], ..hello() };
    let rows = rig.query(&query, only).await;
    assert_eq!(rows[1..].iter().map(|row| row[5].as_str()).collect::<Vec<_>>(), ["", "100", "200", "20", "100"]);
    rig.end().await;
}

#[tokio::test]
async fn an_aggregate_without_a_bucket_is_over_the_whole_time() {
    let rig = Rig::new().await;
    rig.write((0u32..10).map(|i| vm(T0 + u64::from(i) * 60_000, "web[0]", f64::from(i))).collect()).await;
    let query = TelemetryQueryRequest {
        aggregate: "max".into(),
        from_ms: T0 + 60_000,
        until_ms: T0 + 300_000,
        ..request(&["cpu"])
    };
    let rows = rig.query(&query, hello()).await;
    assert_eq!(rows[1..], [["2023-11-14T22:15:00.000Z", "hello", "h1", "web[0]", "4"]]);
    rig.end().await;
}

#[tokio::test]
async fn a_target_selects_its_vms_and_nothing_else() {
    let rig = Rig::new().await;
    let mut batch = vm(T0, "gw", 1.0);
    for index in 0..600 {
        batch.vms.extend(vm(T0, &format!("web[{index}]"), 1.0).vms);
    }
    batch.vms.extend(vm(T0, "webx[3]", 1.0).vms);
    let mut other = vm(T0, "web[3]", 1.0);
    other.vms[0].experiment = "other".into();
    rig.write(vec![batch, other]).await;

    let range = |first, count| VmNames::Range { group: "web".into(), first, count };
    for (vms, count) in [
        (vec![], 602),
        (vec![VmNames::Name("web[3]".into())], 1),
        (vec![range(10, 20)], 20),
        (vec![range(95, 310)], 310),
        (vec![range(590, 100), VmNames::Name("gw".into())], 11),
        (vec![VmNames::Group("web".into())], 600),
        (vec![range(0, 300), range(250, 250)], 500),
    ] {
        let rows = rig.query(&request(&["cpu"]), Selection { vms: vms.clone(), ..hello() }).await;
        assert_eq!(rows.len() - 1, count, "{vms:?}");
    }
    let elsewhere = Selection { hosts: vec!["h2".into()], ..hello() };
    assert_eq!(rig.query(&request(&["cpu"]), elsewhere).await.len(), 1);
    rig.end().await;
}

#[tokio::test]
async fn a_limit_gives_the_latest_rows_and_messages_are_bounded() {
    let rig = Rig::new().await;
    rig.write((0u32..1200).map(|i| vm(T0 + u64::from(i), "web[0]", f64::from(i))).collect()).await;
    let limited = rig.query(&TelemetryQueryRequest { limit: 3, ..request(&["cpu"]) }, hello()).await;
    assert_eq!(limited[1..].iter().map(|row| row[4].as_str()).collect::<Vec<_>>(), ["1197", "1198", "1199"]);

    let query = Query::from_request(&request(&["cpu"]), hello()).unwrap();
    let rows = query.run(&rig.database(), PATIENCE).await.unwrap();
    let messages: Vec<TelemetryRows> = rows.into_messages().try_collect().await.unwrap();
    assert_eq!(messages.iter().map(|message| message.rows.len()).collect::<Vec<_>>(), [500, 500, 200]);
    assert_eq!(messages.iter().map(|message| message.columns.len()).collect::<Vec<_>>(), [5, 0, 0]);

    let nobody = Selection { experiment: Some("nobody".into()), ..Selection::default() };
    let rows = Query::from_request(&request(&["cpu"]), nobody).unwrap().run(&rig.database(), PATIENCE).await.unwrap();
    let messages: Vec<TelemetryRows> = rows.into_messages().try_collect().await.unwrap();
    assert_eq!((messages.len(), messages[0].columns.len(), messages[0].rows.len()), (1, 5, 0));
    rig.end().await;
}

#[tokio::test]
async fn a_query_to_a_server_that_is_gone_is_an_error_and_no_hang() {
    let rig = Rig::new().await;
    let database = rig.database();
    rig.end().await;
    let query = Query::from_request(&request(&["cpu"]), hello()).unwrap();
    let error = query.run(&database, Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, QueryError::Deadline(_) | QueryError::Database(_)), "{error}");
    assert!(error.to_string().starts_with("the telemetry database did not answer"), "{error}");
}
