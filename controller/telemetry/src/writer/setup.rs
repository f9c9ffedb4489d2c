//! Makes the collections and indexes that are missing. Done at each connect: a server may be new or emptied.

use std::time::Duration;

use mongodb::bson::{Document, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{IndexOptions, TimeseriesGranularity, TimeseriesOptions};
use mongodb::{Database, IndexModel};

use crate::schema::Collection;

/// How long the database keeps documents; without a time, for ever. It is set when a collection is made; docs/telemetry.md
/// says how to change it later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Of the time-series collections. Whole seconds.
    pub samples: Option<Duration>,
    /// Of events. Whole seconds.
    pub events: Option<Duration>,
}

impl Default for Retention {
    /// A week of samples and a quarter of a year of events.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { samples: Some(7 * DAY), events: Some(90 * DAY) }
    }
}

/// The server's code for "a collection of this name exists".
const NAMESPACE_EXISTS: i32 = 48;
/// The server's code for "an index of this name exists with other options".
const INDEX_OPTIONS_CONFLICT: i32 = 85;

/// Makes what is missing; what is there stays as it is.
pub(super) async fn ensure(database: &Database, retention: Retention) -> mongodb::error::Result<()> {
    let present = database.list_collection_names().await?;
    for collection in Collection::SERIES {
        if present.iter().any(|name| name == collection.name()) {
            continue;
        }
        let series = TimeseriesOptions::builder()
            .time_field("ts")
            .meta_field("meta".to_owned())
            .granularity(TimeseriesGranularity::Seconds)
            .build();
        let mut create = database.create_collection(collection.name()).timeseries(series);
        if let Some(keep) = retention.samples {
            create = create.expire_after_seconds(keep);
        }
        // Two controllers may make it at the same time.
        unless_code(create.await, NAMESPACE_EXISTS)?;
    }
    let events = database.collection::<Document>(Collection::Events.name());
    let ttl = IndexOptions::builder().name("ts".to_owned()).expire_after(retention.events).build();
    let by_time = IndexModel::builder().keys(doc! { "ts": 1 }).options(ttl).build();
    // The user may have changed how long events are kept: that stands.
    unless_code(events.create_index(by_time).await.map(drop), INDEX_OPTIONS_CONFLICT)?;
    let by_vm = IndexModel::builder().keys(doc! { "experiment": 1, "vm": 1, "ts": 1 }).build();
    events.create_index(by_vm).await.map(drop)
}

fn unless_code(result: mongodb::error::Result<()>, code: i32) -> mongodb::error::Result<()> {
    match result {
        Err(error) if matches!(error.kind.as_ref(), ErrorKind::Command(command) if command.code == code) => Ok(()),
        other => other,
    }
}
