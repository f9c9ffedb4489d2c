//! Queries: a request becomes a typed [`Query`], the query a pipeline (pure, see `pipeline`), the pipeline rows
//! (see `run`).
//!
//! One query asks one collection, so its rows have one identity: `cpu` and `memory` go together, `cpu` and `rx_bytes`
//! do not. Three shapes:
//!
//! | bucket | aggregate | rows |
//! |---|---|---|
//! | none | none | the samples as they were written |
//! | given | given, or `avg` | one a series and bucket |
//! | none | given | one a series over the whole time |
//!
//! Gauges are aggregated as they are. Counters are turned into rates first: the difference to the sample before of the
//! same series, per second; a counter that fell began anew at nought. `avg` of a counter is the mean rate of the
//! bucket weighted by time, `sum` is the total of the bucket in the counter's own unit.

mod pipeline;
mod run;
mod selection;

use std::time::Duration;

use fleet_proto::v1::TelemetryQueryRequest;

pub use run::RowStream;
pub use selection::{Selection, VmNames};

use crate::schema::{self, Collection, Kind, METRICS, Metric};

/// What is added to a counter's name where the column holds its rate.
pub const PER_SECOND: &str = "_per_s";

/// Rows that are given when a request names no limit.
pub const DEFAULT_LIMIT: u32 = 10_000;

/// Why a query was not run or did not end.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// No metric of this name.
    #[error("no metric is called `{name}`; {hint}")]
    UnknownMetric {
        /// As written.
        name: String,
        /// The nearest one, or all.
        hint: String,
    },
    /// No aggregate of this name.
    #[error("no aggregate is called `{0}`; there are avg, min, max, sum, last, p50, p95 and p99")]
    UnknownAggregate(String),
    /// Nothing to ask for.
    #[error("a query needs at least one metric; there are {}", metric_list())]
    NoMetric,
    /// A metric is named twice.
    #[error("the metric `{0}` is named twice; name it once")]
    RepeatedMetric(String),
    /// Metrics of several collections.
    #[error("`{first}` is measured of {first_of} and `{second}` of {second_of}: ask for them in two queries")]
    MixedMetrics {
        /// A metric of the request.
        first: String,
        /// What it is measured of.
        first_of: &'static str,
        /// A later one.
        second: String,
        /// What that is measured of.
        second_of: &'static str,
    },
    /// A metric of hosts was asked of VMs.
    #[error("`{0}` is measured of hosts, not of an experiment or its VMs: ask for it without a target")]
    HostMetricOfTarget(String),
    /// The time range is empty.
    #[error("the time range is empty: it begins at {from_ms} ms and ends at {until_ms} ms; swap the two")]
    EmptyRange {
        /// Milliseconds since 1970.
        from_ms: u64,
        /// Milliseconds since 1970.
        until_ms: u64,
    },
    /// The database did not do it.
    #[error("the telemetry database did not answer the query: {0}")]
    Database(#[from] mongodb::error::Error),
    /// The database is too slow.
    #[error("the telemetry database did not answer within {} s; ask for less time or fewer targets", .0.as_secs())]
    Deadline(Duration),
}

/// All names, for an error message.
fn metric_list() -> String {
    METRICS.iter().map(|metric| metric.name).collect::<Vec<_>>().join(", ")
}

/// How the values of a series and bucket become one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Aggregate {
    /// The mean; of a counter, weighted by time.
    Avg,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The sum; of a counter, what it grew by.
    Sum,
    /// The latest.
    Last,
    /// A percentile, as a fraction: 0.95.
    Percentile(f64),
}

impl Aggregate {
    /// Reads a name: avg, min, max, sum, last, p50, p95, p99.
    pub fn parse(name: &str) -> Result<Self, QueryError> {
        Ok(match name {
            "avg" => Self::Avg,
            "min" => Self::Min,
            "max" => Self::Max,
            "sum" => Self::Sum,
            "last" => Self::Last,
            "p50" => Self::Percentile(0.5),
            "p95" => Self::Percentile(0.95),
            "p99" => Self::Percentile(0.99),
            _ => return Err(QueryError::UnknownAggregate(name.to_owned())),
        })
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// Events, oldest first.
    Events,
    /// Metrics of one collection.
    Samples {
        /// At least one; all of one collection.
        metrics: Vec<&'static Metric>,
        /// Which rows.
        shape: Shape,
    },
}

/// Which rows are made of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// The samples themselves.
    Raw,
    /// One row a series and bucket.
    Aggregated {
        /// Length of a bucket; without one, the whole time is one.
        bucket: Option<Duration>,
        /// How values become one.
        aggregate: Aggregate,
    },
}

/// A checked query.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    what: What,
    selection: Selection,
    from_ms: Option<u64>,
    until_ms: Option<u64>,
    limit: u32,
}

impl Query {
    /// Checks a request. Its `target` is not read: the caller has resolved it to `selection`.
    ///
    /// A limit of nought is [`DEFAULT_LIMIT`]; when there are more rows, the latest are given. Times of nought are
    /// open ends.
    pub fn from_request(request: &TelemetryQueryRequest, selection: Selection) -> Result<Self, QueryError> {
        let given = |ms: u64| (ms > 0).then_some(ms);
        let (from_ms, until_ms) = (given(request.from_ms), given(request.until_ms));
        if let (Some(from_ms), Some(until_ms)) = (from_ms, until_ms)
            && from_ms >= until_ms
        {
            return Err(QueryError::EmptyRange { from_ms, until_ms });
        }
        let what = if request.events {
            What::Events
        } else {
            let metrics = metrics(&request.metrics)?;
            if metrics[0].collection == Collection::HostSamples && selection.names_vms() {
                return Err(QueryError::HostMetricOfTarget(metrics[0].name.to_owned()));
            }
            What::Samples { metrics, shape: shape(request)? }
        };
        let limit = if request.limit == 0 { DEFAULT_LIMIT } else { request.limit };
        Ok(Self { what, selection, from_ms, until_ms, limit })
    }

    /// The collection that is asked.
    pub fn collection(&self) -> Collection {
        match &self.what {
            What::Events => Collection::Events,
            // Never empty, and all of one collection: `from_request` is the only way to make one.
            What::Samples { metrics, .. } => metrics[0].collection,
        }
    }

    /// Names of the columns, in order: `time`, the identity, then what was asked for.
    pub fn columns(&self) -> Vec<String> {
        let mut columns = vec!["time".to_owned()];
        if let What::Events = self.what {
            columns.push("kind".to_owned());
        }
        columns.extend(self.collection().identity().iter().map(ToString::to_string));
        match &self.what {
            What::Events => columns.push("message".to_owned()),
            What::Samples { metrics, shape } => columns.extend(metrics.iter().map(|metric| column(metric, *shape))),
        }
        columns
    }
}

fn column(metric: &Metric, shape: Shape) -> String {
    match (metric.kind, shape) {
        (Kind::Counter, Shape::Aggregated { aggregate, .. }) if aggregate != Aggregate::Sum => {
            format!("{}{PER_SECOND}", metric.name)
        }
        _ => metric.name.to_owned(),
    }
}

fn metrics(names: &[String]) -> Result<Vec<&'static Metric>, QueryError> {
    let mut metrics: Vec<&'static Metric> = Vec::new();
    for name in names {
        let metric = schema::metric(name).ok_or_else(|| unknown(name))?;
        if let Some(first) = metrics.first()
            && first.collection != metric.collection
        {
            return Err(QueryError::MixedMetrics {
                first: first.name.to_owned(),
                first_of: first.collection.of(),
                second: metric.name.to_owned(),
                second_of: metric.collection.of(),
            });
        }
        if metrics.contains(&metric) {
            return Err(QueryError::RepeatedMetric(name.clone()));
        }
        metrics.push(metric);
    }
    if metrics.is_empty() { Err(QueryError::NoMetric) } else { Ok(metrics) }
}

fn unknown(name: &str) -> QueryError {
    let hint = match schema::nearest_metric(name) {
        Some(nearest) => format!("did you mean `{}`?", nearest.name),
        None => format!("there are {}", metric_list()),
    };
    QueryError::UnknownMetric { name: name.to_owned(), hint }
}

fn shape(request: &TelemetryQueryRequest) -> Result<Shape, QueryError> {
    let bucket = (request.bucket_ms > 0).then(|| Duration::from_millis(request.bucket_ms));
    Ok(match (bucket, request.aggregate.as_str()) {
        (None, "") => Shape::Raw,
        (Some(_), "") => Shape::Aggregated { bucket, aggregate: Aggregate::Avg },
        (_, name) => Shape::Aggregated { bucket, aggregate: Aggregate::parse(name)? },
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn request(metrics: &[&str]) -> TelemetryQueryRequest {
        let metrics = metrics.iter().map(ToString::to_string).collect();
        TelemetryQueryRequest { metrics, ..TelemetryQueryRequest::default() }
    }

    fn error(request: &TelemetryQueryRequest) -> String {
        Query::from_request(request, Selection::default()).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_metric_is_answered_with_the_nearest_or_with_all() {
        assert_eq!(error(&request(&["cpuu"])), "no metric is called `cpuu`; did you mean `cpu`?");
        assert!(error(&request(&["temperature"])).contains("there are cpu, memory, cpu_time, rx_bytes"));
        assert!(error(&request(&[])).starts_with("a query needs at least one metric; there are cpu"));
    }

    #[test]
    fn metrics_of_two_collections_are_refused() {
        let expected = "`cpu` is measured of VMs and `rx_bytes` of ports: ask for them in two queries";
        assert_eq!(error(&request(&["cpu", "rx_bytes"])), expected);
        assert!(error(&request(&["cpu", "cpu"])).contains("named twice"));
    }

    #[test]
    fn a_metric_of_hosts_has_no_target() {
        let selection = Selection { experiment: Some("hello".into()), ..Selection::default() };
        let error = Query::from_request(&request(&["host_cpu"]), selection).unwrap_err();
        assert!(error.to_string().contains("without a target"));
    }

    #[test]
    fn the_shape_follows_from_bucket_and_aggregate() {
        let bucket = Some(Duration::from_secs(30));
        let with = |bucket_ms, aggregate: &str| {
            shape(&TelemetryQueryRequest { bucket_ms, aggregate: aggregate.into(), ..Default::default() }).unwrap()
        };
        assert_eq!(with(0, ""), Shape::Raw);
        assert_eq!(with(30_000, ""), Shape::Aggregated { bucket, aggregate: Aggregate::Avg });
        let whole = Shape::Aggregated { bucket: None, aggregate: Aggregate::Percentile(0.95) };
        assert_eq!(with(0, "p95"), whole);
        let bad = TelemetryQueryRequest { aggregate: "mean".into(), ..request(&["cpu"]) };
        assert!(error(&bad).starts_with("no aggregate is called `mean`"));
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_refused() {
        let bad = TelemetryQueryRequest { from_ms: 5, until_ms: 5, ..request(&["cpu"]) };
        assert!(error(&bad).contains("the time range is empty"));
    }

    #[test]
    fn columns_say_when_a_counter_is_a_rate() {
        let columns = |request| Query::from_request(&request, Selection::default()).unwrap().columns();
        let raw = request(&["rx_bytes"]);
        assert_eq!(columns(raw.clone()), ["time", "experiment", "host", "vm", "port", "rx_bytes"]);
        let rate = TelemetryQueryRequest { bucket_ms: 1000, ..raw.clone() };
        assert_eq!(columns(rate).last().unwrap(), "rx_bytes_per_s");
        let sum = TelemetryQueryRequest { bucket_ms: 1000, aggregate: "sum".into(), ..raw };
        assert_eq!(columns(sum).last().unwrap(), "rx_bytes");
        let events = TelemetryQueryRequest { events: true, ..request(&[]) };
        assert_eq!(columns(events), ["time", "kind", "experiment", "host", "vm", "message"]);
    }
}
