//! A query's rows, as a stream from the database's cursor: memory does not grow with their number.

use std::time::Duration;

use fleet_proto::v1::{TelemetryRow, TelemetryRows};
use futures::{Stream, TryStreamExt, stream};
use mongodb::bson::{Bson, Document};
use mongodb::{Cursor, Database};

use super::{Query, QueryError, What};

/// Rows in one message of [`RowStream::into_messages`].
const ROWS_PER_MESSAGE: usize = 500;

/// The rows of a query.
#[derive(Debug)]
pub struct RowStream {
    columns: Vec<String>,
    keys: Vec<String>,
    cursor: Cursor<Document>,
    deadline: Duration,
}

impl Query {
    /// Starts the query. `deadline` is for the first answer and for each further batch of rows.
    pub async fn run(&self, database: &Database, deadline: Duration) -> Result<RowStream, QueryError> {
        let collection = database.collection::<Document>(self.collection().name());
        let aggregate = collection.aggregate(self.pipeline()).allow_disk_use(true).max_time(deadline);
        let cursor = within(deadline, async { aggregate.await }).await?;
        Ok(RowStream { columns: self.columns(), keys: self.keys(), cursor, deadline })
    }

    /// The fields of the server's answer, in the order of the columns.
    fn keys(&self) -> Vec<String> {
        let mut keys = self.columns();
        if let What::Samples { metrics, .. } = &self.what {
            keys.truncate(keys.len() - metrics.len());
            keys.extend((0..metrics.len()).map(|index| format!("m{index}")));
        }
        keys
    }
}

impl RowStream {
    /// Names of the columns.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The next row, or `None` after the last.
    pub async fn next_row(&mut self) -> Result<Option<TelemetryRow>, QueryError> {
        let document = within(self.deadline, self.cursor.try_next()).await?;
        Ok(document
            .map(|document| TelemetryRow { values: self.keys.iter().map(|key| value(document.get(key))).collect() }))
    }

    /// The rows as messages of the API: the first has the columns, and comes even when there is no row.
    pub fn into_messages(self) -> impl Stream<Item = Result<TelemetryRows, QueryError>> + Send {
        let columns = self.columns.clone();
        stream::try_unfold((self, Some(columns)), |(mut rows, columns)| async move {
            let first = columns.is_some();
            let mut message = TelemetryRows { columns: columns.unwrap_or_default(), rows: Vec::new() };
            while message.rows.len() < ROWS_PER_MESSAGE {
                match rows.next_row().await? {
                    Some(row) => message.rows.push(row),
                    None => break,
                }
            }
            let any = first || !message.rows.is_empty();
            Ok(any.then_some((message, (rows, None))))
        })
    }
}

/// Waits for the driver no longer than `deadline`.
async fn within<T>(
    deadline: Duration,
    answer: impl Future<Output = Result<T, mongodb::error::Error>>,
) -> Result<T, QueryError> {
    match tokio::time::timeout(deadline, answer).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(QueryError::Deadline(deadline)),
    }
}

/// A value as text: numbers as JSON numbers, times as RFC 3339 in UTC, nothing as "".
fn value(value: Option<&Bson>) -> String {
    match value {
        None | Some(Bson::Null) => String::new(),
        Some(Bson::String(text)) => text.clone(),
        Some(Bson::Int32(number)) => number.to_string(),
        Some(Bson::Int64(number)) => number.to_string(),
        Some(Bson::Double(number)) => decimal(*number),
        Some(Bson::DateTime(time)) => match jiff::Timestamp::from_millisecond(time.timestamp_millis()) {
            Ok(time) => format!("{time:.3}"),
            Err(_) => String::new(),
        },
        // The pipeline makes no other types.
        Some(other) => other.to_string(),
    }
}

/// At most three decimals; whole numbers without any.
fn decimal(number: f64) -> String {
    if !number.is_finite() {
        return String::new();
    }
    let rounded = (number * 1000.0).round() / 1000.0;
    if rounded.is_finite() { format!("{rounded}") } else { format!("{number}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mongodb::bson::DateTime;

    #[test]
    fn values_are_json_numbers_rfc_3339_times_or_nothing() {
        assert_eq!(value(Some(&Bson::Double(12.345_678))), "12.346");
        assert_eq!(value(Some(&Bson::Double(7.0))), "7");
        assert_eq!(value(Some(&Bson::Double(f64::INFINITY))), "");
        assert_eq!(value(Some(&Bson::Int64(-5))), "-5");
        assert_eq!(value(Some(&Bson::Null)), "");
        assert_eq!(value(None), "");
        let time = DateTime::from_millis(1_700_000_000_120);
        assert_eq!(value(Some(&Bson::DateTime(time))), "2023-11-14T22:13:20.120Z");
        assert_eq!(value(Some(&Bson::DateTime(DateTime::MAX))), "");
    }
}
