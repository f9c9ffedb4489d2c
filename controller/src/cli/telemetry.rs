//! `fleet telemetry query` and `tail`.

use clap::{Args, Subcommand, ValueEnum};
use fleet_proto::v1::{TelemetryBatch, TelemetryQueryRequest, TelemetryRow, TelemetryTailRequest};
use fleet_telemetry_db::export::{Exporter, Format};
use fleet_telemetry_db::schema::METRICS;
use tonic::Status;

use super::connect::{self, Client, Start};
use super::output::{self, Table};
use super::{Context, Exit, Failure};

#[derive(Args, Debug)]
pub struct TelemetryArgs {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Ask what was measured or what happened
    Query(QueryArgs),
    /// Show samples and events as they come
    Tail(TailArgs),
}

#[derive(Args, Debug)]
pub struct QueryArgs {
    /// Which VMs: hello.web[0..10], hello; everything when left out
    pub target: Option<String>,
    /// What was measured: cpu, memory, rx_bytes, … (`--metric help` lists them)
    #[arg(long, short, value_name = "NAME", value_delimiter = ',', default_value = "cpu,memory")]
    pub metric: Vec<String>,
    /// From so long ago: 90s, 10m, 2h, 1d
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = span)]
    pub since: u64,
    /// Until so long ago
    #[arg(long, value_name = "SPAN", default_value = "0s", value_parser = span)]
    pub until: u64,
    /// Gather samples into buckets of this length
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub bucket: Option<u64>,
    /// Fold the samples of a bucket, or of the whole time, into this
    #[arg(long, value_enum)]
    pub agg: Option<Aggregate>,
    /// Events instead of samples
    #[arg(long)]
    pub events: bool,
    /// At most so many rows
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub limit: u32,
    /// How to print the rows
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub format: OutputFormat,
}

#[derive(Args, Debug)]
pub struct TailArgs {
    /// Which VMs: hello.web[0..10], hello; everything when left out
    pub target: Option<String>,
    /// Only events
    #[arg(long)]
    pub events: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OutputFormat {
    Table,
    Json,
    Csv,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Aggregate {
    Avg,
    Min,
    Max,
    Sum,
    Last,
    P50,
    P95,
    P99,
}

/// A span of time in ms: a number and ms, s, m (or min), h or d.
pub(super) fn span(text: &str) -> Result<u64, String> {
    let digits = text.find(|char: char| !char.is_ascii_digit()).unwrap_or(text.len());
    let unit = match &text[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("give a number and a unit: 500ms, 90s, 10m, 2h, 1d".into()),
    };
    text[..digits].parse::<u64>().ok().and_then(|count| count.checked_mul(unit)).ok_or("the number is too large".into())
}

pub async fn telemetry(context: &Context, args: &TelemetryArgs) -> Result<Exit, Failure> {
    match &args.verb {
        Verb::Query(args) => query(context, args).await,
        Verb::Tail(args) => tail(context, args).await,
    }
}

async fn query(context: &Context, args: &QueryArgs) -> Result<Exit, Failure> {
    if args.metric.iter().any(|metric| metric == "help") {
        metric_list().print();
        return Ok(Exit::Ok);
    }
    let mut client = connect::connect(context, Start::IfUsed).await?;
    let now = output::now_ms();
    let aggregate =
        args.agg.and_then(|agg| agg.to_possible_value()).map(|value| value.get_name().to_owned()).unwrap_or_default();
    let request = TelemetryQueryRequest {
        target: args.target.clone().unwrap_or_default(),
        metrics: args.metric.clone(),
        from_ms: now.saturating_sub(args.since),
        until_ms: now.saturating_sub(args.until),
        bucket_ms: args.bucket.unwrap_or(0),
        aggregate,
        limit: args.limit,
        events: args.events,
    };
    let answer = ask(&mut client, request).await;
    // A question about what is down may have started it.
    connect::end_if_idle(&mut client).await;
    let (columns, rows) = answer?;
    let format = match args.format {
        OutputFormat::Json => Format::Json,
        OutputFormat::Table if context.json => Format::Json,
        OutputFormat::Table => Format::Table,
        OutputFormat::Csv => Format::Csv,
    };
    let rendered = render(format, &columns, &rows)?;
    output::print(&String::from_utf8_lossy(&rendered));
    if rows.len() as u64 == u64::from(args.limit) {
        eprintln!("fleet: cut after {} rows; --limit N shows more, --bucket SPAN folds them", args.limit);
    }
    Ok(Exit::Ok)
}

/// Columns and rows of the answer.
async fn ask(client: &mut Client, request: TelemetryQueryRequest) -> Result<(Vec<String>, Vec<TelemetryRow>), Status> {
    let mut stream = client.telemetry_query(request).await?.into_inner();
    let mut columns = Vec::new();
    let mut rows = Vec::new();
    while let Some(chunk) = stream.message().await? {
        if columns.is_empty() {
            columns = chunk.columns;
        }
        rows.extend(chunk.rows);
    }
    Ok((columns, rows))
}

fn render(format: Format, columns: &[String], rows: &[TelemetryRow]) -> std::io::Result<Vec<u8>> {
    let mut exporter = Exporter::new(format, columns, Vec::new())?;
    for row in rows {
        exporter.row(&row.values)?;
    }
    exporter.finish()
}

/// What can be asked for.
fn metric_list() -> Table {
    let mut table = Table::new(&["METRIC", "OF", "UNIT", "WHAT"]);
    for metric in METRICS {
        table.row(vec![metric.name.into(), metric.collection.of().into(), metric.unit.into(), metric.about.into()]);
    }
    table
}

/// A time of day for people, in this machine's zone.
pub(super) fn time(ms: u64) -> String {
    let stamp = i64::try_from(ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or_default();
    stamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S").to_string()
}

async fn tail(context: &Context, args: &TailArgs) -> Result<Exit, Failure> {
    let mut client = connect::connect(context, Start::IfUp).await?;
    let request = TelemetryTailRequest { target: args.target.clone().unwrap_or_default(), events_only: args.events };
    let mut stream = client.telemetry_tail(request).await?.into_inner();
    while let Some(batch) = stream.message().await? {
        for line in lines(&batch, context.json) {
            output::print(&line);
        }
    }
    Ok(Exit::Ok)
}

/// A batch as lines: text for people, or one JSON document a line.
fn lines(batch: &TelemetryBatch, json: bool) -> Vec<String> {
    let at = time(batch.ts_ms);
    let mut lines = Vec::new();
    let mut line = |value: serde_json::Value, text: String| {
        lines.push(if json { format!("{value}\n") } else { format!("{text}\n") });
    };
    for event in &batch.events {
        line(
            serde_json::json!({ "event": event.kind, "ts_ms": event.ts_ms, "experiment": event.experiment,
                "host": event.host, "vm": event.vm, "message": event.message }),
            format!("{} {:14} {} {} {}", time(event.ts_ms), event.kind, event.experiment, event.vm, event.message),
        );
    }
    for host in &batch.hosts {
        line(
            serde_json::json!({ "ts_ms": batch.ts_ms, "host": host.host, "cpu": host.cpu_percent,
                "memory_available": host.memory_available, "vms_running": host.vms_running, "dropped": host.dropped }),
            format!(
                "{at} host {:12} cpu {:5.1} %  available {}  {} VMs",
                host.host,
                host.cpu_percent,
                output::bytes(host.memory_available),
                host.vms_running
            ),
        );
    }
    for vm in &batch.vms {
        line(
            serde_json::json!({ "ts_ms": batch.ts_ms, "experiment": vm.experiment, "vm": vm.vm, "cpu": vm.cpu_percent,
                "memory": vm.memory }),
            format!("{at} vm   {:12} cpu {:5.1} %  memory {}", vm.vm, vm.cpu_percent, output::bytes(vm.memory)),
        );
    }
    for port in &batch.ports {
        line(
            serde_json::json!({ "ts_ms": batch.ts_ms, "experiment": port.experiment, "vm": port.vm, "port": port.port,
                "segment": port.segment, "rx_bytes": port.rx_bytes, "tx_bytes": port.tx_bytes }),
            format!(
                "{at} port {:12} {} on {}  received {}  sent {}",
                port.vm,
                port.port,
                port.segment,
                output::bytes(port.rx_bytes),
                output::bytes(port.tx_bytes)
            ),
        );
    }
    for camera in &batch.cameras {
        line(
            serde_json::json!({ "ts_ms": batch.ts_ms, "experiment": camera.experiment, "vm": camera.vm,
                "camera_host": camera.camera_host, "camera": camera.camera,
                "to_guest_bytes": camera.to_guest_bytes, "from_guest_bytes": camera.from_guest_bytes }),
            format!(
                "{at} cam  {:12} {} of {}  to guest {}  from guest {}",
                camera.vm,
                camera.camera,
                camera.camera_host,
                output::bytes(camera.to_guest_bytes),
                output::bytes(camera.from_guest_bytes)
            ),
        );
    }
    lines
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn spans_need_a_unit() {
        assert_eq!(span("90s").unwrap(), 90_000);
        assert_eq!(span("10m").unwrap(), span("10min").unwrap());
        assert!(span("90").is_err());
        assert!(span("99999999999999999999d").is_err());
    }
}
