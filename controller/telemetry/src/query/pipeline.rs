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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::query::{Selection, VmNames};
    use fleet_proto::v1::TelemetryQueryRequest;
    use mongodb::bson::DateTime;

    fn pipeline(metrics: &[&str], bucket_ms: u64, aggregate: &str) -> Vec<Document> {
        let request = TelemetryQueryRequest {
            metrics: metrics.iter().map(ToString::to_string).collect(),
            bucket_ms,
            aggregate: aggregate.into(),
            from_ms: 1000,
            until_ms: 2000,
            limit: 5,
            ..TelemetryQueryRequest::default()
        };
        let vms = vec![VmNames::Name("gw".into())];
        let selection = Selection { experiment: Some("hello".into()), hosts: vec![], vms };
        Query::from_request(&request, selection).unwrap().pipeline()
    }

    fn filter() -> Document {
        let range = doc! { "$gte": DateTime::from_millis(1000), "$lt": DateTime::from_millis(2000) };
        doc! { "$match": { "meta.experiment": "hello", "meta.vm": "gw", "ts": range } }
    }

    #[test]
    fn raw_samples_are_filtered_projected_and_limited_to_the_latest() {
        let fields = doc! {
            "_id": 0,
            "time": "$ts",
            "experiment": "$meta.experiment",
            "host": "$meta.host",
            "vm": "$meta.vm",
            "m0": "$memory",
            "m1": "$cpu_time_ms",
        };
        let by = |time: i32| doc! { "$sort": { "time": time, "experiment": 1, "host": 1, "vm": 1 } };
        let expected = [filter(), doc! { "$project": fields }, by(-1), doc! { "$limit": 5i64 }, by(1)];
        assert_eq!(pipeline(&["memory", "cpu_time"], 0, ""), expected);
    }

    #[test]
    fn gauges_are_grouped_by_series_and_bucket() {
        let stages = pipeline(&["cpu", "memory"], 30_000, "max");
        let id = doc! {
            "experiment": "$meta.experiment",
            "host": "$meta.host",
            "vm": "$meta.vm",
            "time": { "$dateTrunc": { "date": "$ts", "unit": "millisecond", "binSize": 30_000i64 } },
        };
        let group = doc! { "_id": id, "m0": { "$max": "$cpu" }, "m1": { "$max": "$memory" } };
        let fields = doc! {
            "_id": 0,
            "time": "$_id.time",
            "experiment": "$_id.experiment",
            "host": "$_id.host",
            "vm": "$_id.vm",
            "m0": 1,
            "m1": 1,
        };
        assert_eq!(stages[..3], [filter(), doc! { "$group": group }, doc! { "$project": fields }]);
    }

    #[test]
    fn percentiles_are_taken_out_of_their_array_and_last_is_sorted_before() {
        let stages = pipeline(&["cpu"], 1000, "p95");
        let percentile = doc! { "input": "$cpu", "p": [0.95], "method": "approximate" };
        assert_eq!(
            stages[1].get_document("$group").unwrap().get("m0"),
            Some(&doc! { "$percentile": percentile }.into())
        );
        let shown = doc! { "$arrayElemAt": ["$m0", 0] };
        assert_eq!(stages[2].get_document("$project").unwrap().get("m0"), Some(&shown.into()));
        assert_eq!(pipeline(&["cpu"], 1000, "last")[1], doc! { "$sort": { "ts": 1 } });
    }

    #[test]
    fn without_a_bucket_the_whole_time_is_one() {
        let stages = pipeline(&["cpu"], 0, "avg");
        let group = stages[1].get_document("$group").unwrap();
        assert!(!group.get_document("_id").unwrap().contains_key("time"));
        assert_eq!(group.get("time"), Some(&doc! { "$min": "$ts" }.into()));
    }

    #[test]
    fn counters_are_differenced_within_their_series_and_gauges_are_not() {
        let stages = pipeline(&["cpu", "cpu_time"], 1000, "avg");
        let window = stages[1].get_document("$setWindowFields").unwrap();
        let series = doc! { "experiment": "$meta.experiment", "host": "$meta.host", "vm": "$meta.vm" };
        assert_eq!(window.get_document("partitionBy").unwrap(), &series);
        let before: Vec<_> = window.get_document("output").unwrap().keys().collect();
        assert_eq!(before, ["ts0", "v1"], "the gauge of index 0 needs no value before");
        let group = stages[4].get_document("$group").unwrap();
        assert_eq!(group.get("m0"), Some(&doc! { "$avg": "$cpu" }.into()));
        assert_eq!(group.get("m1"), Some(&doc! { "$sum": "$d1" }.into()));
    }

    #[test]
    fn events_are_filtered_by_their_own_fields() {
        let request = TelemetryQueryRequest { events: true, limit: 5, ..TelemetryQueryRequest::default() };
        let selection = Selection { experiment: Some("hello".into()), ..Selection::default() };
        let stages = Query::from_request(&request, selection).unwrap().pipeline();
        assert_eq!(stages[0], doc! { "$match": { "experiment": "hello" } });
        let fields = doc! { "_id": 0, "time": "$ts", "kind": 1, "experiment": 1, "host": 1, "vm": 1, "message": 1 };
        assert_eq!(stages[1], doc! { "$project": fields });
    }
}
