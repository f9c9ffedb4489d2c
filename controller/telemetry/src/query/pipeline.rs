//! A query as an aggregation pipeline: pure, so it is tested as BSON. What the server gives back is flat: `time`, the
//! identity fields by name, and the metrics as `m0`, `m1`, … in the order of the request.

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};

use super::{Aggregate, Query, Shape, What};
use crate::document::time;
use crate::schema::{Collection, Kind, Metric};

impl Query {
    /// The stages, for `aggregate` on [`Query::collection`].
    pub fn pipeline(&self) -> Vec<Document> {
        let mut stages = vec![doc! { "$match": self.filter() }];
        match &self.what {
            What::Events => stages.push(doc! { "$project": self.events() }),
            What::Samples { metrics, shape: Shape::Raw } => stages.push(doc! { "$project": self.raw(metrics) }),
            What::Samples { metrics, shape: Shape::Aggregated { bucket, aggregate } } => {
                stages.extend(aggregated(self.collection(), metrics, *bucket, *aggregate));
            }
        }
        stages.extend(self.order());
        stages
    }

    fn filter(&self) -> Document {
        let mut filter = self.selection.filter(self.collection());
        let mut range = Document::new();
        if let Some(from) = self.from_ms {
            range.insert("$gte", time(from));
        }
        if let Some(until) = self.until_ms {
            range.insert("$lt", time(until));
        }
        if !range.is_empty() {
            filter.insert("ts", range);
        }
        filter
    }

    fn events(&self) -> Document {
        let mut fields = doc! { "_id": 0, "time": "$ts", "kind": 1 };
        fields.extend(self.collection().identity().iter().map(|field| (field.to_string(), Bson::Int32(1))));
        fields.insert("message", 1);
        fields
    }

    fn raw(&self, metrics: &[&Metric]) -> Document {
        let mut fields = doc! { "_id": 0, "time": "$ts" };
        for field in self.collection().identity() {
            fields.insert(*field, format!("$meta.{field}"));
        }
        for (index, metric) in metrics.iter().enumerate() {
            fields.insert(format!("m{index}"), format!("${}", metric.field));
        }
        fields
    }

    /// The latest rows up to the limit, then oldest first.
    fn order(&self) -> [Document; 3] {
        let by = |direction: i32| {
            let mut keys = doc! { "time": direction };
            keys.extend(self.collection().identity().iter().map(|field| (field.to_string(), Bson::Int32(1))));
            doc! { "$sort": keys }
        };
        [by(-1), doc! { "$limit": i64::from(self.limit) }, by(1)]
    }
}

/// `$group` by series and bucket, with what must come before and after it.
fn aggregated(
    collection: Collection,
    metrics: &[&Metric],
    bucket: Option<Duration>,
    aggregate: Aggregate,
) -> Vec<Document> {
    let mut stages = Vec::new();
    if metrics.iter().any(|metric| metric.kind == Kind::Counter) {
        stages.extend(rates(collection, metrics));
    }
    if aggregate == Aggregate::Last {
        stages.push(doc! { "$sort": { "ts": 1 } });
    }

    let mut series = Document::new();
    for field in collection.identity() {
        series.insert(*field, format!("$meta.{field}"));
    }
    if let Some(bucket) = bucket {
        let milliseconds = i64::try_from(bucket.as_millis()).unwrap_or(i64::MAX);
        series.insert("time", doc! { "$dateTrunc": { "date": "$ts", "unit": "millisecond", "binSize": milliseconds } });
    }
    let mut group = doc! { "_id": series };
    let mut fields = doc! { "_id": 0 };
    match bucket {
        Some(_) => {
            fields.insert("time", "$_id.time");
        }
        None => {
            group.insert("time", doc! { "$min": "$ts" });
            fields.insert("time", 1);
        }
    }
    for field in collection.identity() {
        fields.insert(*field, format!("$_id.{field}"));
    }
    for (index, metric) in metrics.iter().enumerate() {
        let (grouped, shown) = accumulate(index, metric, aggregate);
        group.extend(grouped);
        fields.insert(format!("m{index}"), shown);
    }
    stages.push(doc! { "$group": group });
    stages.push(doc! { "$project": fields });
    stages
}

/// Gives each document, for the counter of index n, `dn`: what it grew by since the sample before of its series, and
/// `rn`: that per second; `dt`: the seconds between. All null in the first sample of a series. A counter that is
/// smaller than before began anew, so all of it is growth.
fn rates(collection: Collection, metrics: &[&Metric]) -> [Document; 3] {
    let mut series = Document::new();
    for field in collection.identity() {
        series.insert(*field, format!("$meta.{field}"));
    }
    let mut before = doc! { "ts0": { "$shift": { "output": "$ts", "by": -1 } } };
    let milliseconds = doc! { "$dateDiff": { "startDate": "$ts0", "endDate": "$ts", "unit": "millisecond" } };
    let mut growth = doc! { "dt": { "$divide": [milliseconds, 1000] } };
    let mut rate = Document::new();
    for (index, metric) in metrics.iter().enumerate().filter(|(_, metric)| metric.kind == Kind::Counter) {
        let (now, then) = (format!("${}", metric.field), format!("$v{index}"));
        before.insert(format!("v{index}"), doc! { "$shift": { "output": &now, "by": -1 } });
        let fell = doc! { "$lt": [&now, &then] };
        let grown = doc! { "$cond": [fell, &now, { "$subtract": [&now, &then] }] };
        growth.insert(format!("d{index}"), doc! { "$cond": [{ "$gt": ["$ts0", null] }, grown, null] });
        let per_second = doc! { "$divide": [format!("$d{index}"), "$dt"] };
        rate.insert(format!("r{index}"), doc! { "$cond": [{ "$gt": ["$dt", 0] }, per_second, null] });
    }
    [
        doc! { "$setWindowFields": { "partitionBy": series, "sortBy": { "ts": 1 }, "output": before } },
        doc! { "$set": growth },
        doc! { "$set": rate },
    ]
}

/// The accumulators of a metric, and the expression that shows their result.
fn accumulate(index: usize, metric: &Metric, aggregate: Aggregate) -> (Document, Bson) {
    let name = format!("m{index}");
    let (value, growth) = match metric.kind {
        Kind::Gauge => (format!("${}", metric.field), format!("${}", metric.field)),
        Kind::Counter => (format!("$r{index}"), format!("$d{index}")),
    };
    let one = |operator: &str, value: String| (doc! { &name: { operator: value } }, Bson::Int32(1));
    match aggregate {
        Aggregate::Avg if metric.kind == Kind::Counter => {
            let seconds = format!("s{index}");
            // Only where there is growth to go with it, so that both sums are over the same samples.
            let counted = doc! { "$cond": [{ "$gte": [&growth, 0] }, "$dt", 0] };
            let grouped = doc! { &name: { "$sum": &growth }, &seconds: { "$sum": counted } };
            let (total, seconds) = (format!("${name}"), format!("${seconds}"));
            let mean = doc! { "$cond": [{ "$gt": [&seconds, 0] }, { "$divide": [total, &seconds] }, null] };
            (grouped, mean.into())
        }
        Aggregate::Avg => one("$avg", value),
        Aggregate::Min => one("$min", value),
        Aggregate::Max => one("$max", value),
        Aggregate::Sum => one("$sum", growth),
        Aggregate::Last => one("$last", value),
        Aggregate::Percentile(fraction) => {
            let percentile = doc! { "input": value, "p": [fraction], "method": "approximate" };
            let first = doc! { "$arrayElemAt": [format!("${name}"), 0] };
            (doc! { &name: { "$percentile": percentile } }, first.into())
        }
    }
}
