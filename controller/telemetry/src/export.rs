//! Rows as text: an aligned table, JSON or CSV. Rows may be many, so none of them keeps all.

use std::io::{self, Write};

use crate::schema::{Collection, METRICS};

/// A form of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Columns aligned for people. Widths come from the first rows; later ones may stick out.
    Table,
    /// An array of objects, one a line; numbers are numbers, missing values are null.
    Json,
    /// RFC 4180 with a header line.
    Csv,
}

/// Writes rows in a format. Columns and values are those of `TelemetryRows`.
pub struct Exporter<W: Write> {
    form: Form<W>,
    columns: Vec<String>,
}

enum Form<W: Write> {
    Table { out: W, widths: Option<Vec<usize>>, first: Vec<Vec<String>> },
    Json { out: W, any: bool },
    Csv(Box<csv::Writer<W>>),
}

/// So many rows decide a table's widths.
const ROWS_FOR_WIDTHS: usize = 1000;

impl<W: Write> Exporter<W> {
    /// Begins the text.
    pub fn new(format: Format, columns: &[String], out: W) -> io::Result<Self> {
        let form = match format {
            Format::Table => Form::Table { out, widths: None, first: Vec::new() },
            Format::Json => Form::Json { out, any: false },
            Format::Csv => {
                let mut csv = csv::WriterBuilder::new().flexible(true).from_writer(out);
                csv.write_record(columns)?;
                Form::Csv(Box::new(csv))
            }
        };
        Ok(Self { form, columns: columns.to_vec() })
    }

    /// Adds a row: one value for each column.
    pub fn row(&mut self, values: &[String]) -> io::Result<()> {
        match &mut self.form {
            Form::Csv(csv) => Ok(csv.write_record(values)?),
            Form::Json { out, any } => {
                out.write_all(if *any { b",\n" } else { b"[\n" })?;
                *any = true;
                write_object(out, &self.columns, values)
            }
            Form::Table { out, widths: Some(widths), .. } => write_line(out, &self.columns, widths, values),
            Form::Table { out, widths: widths @ None, first } => {
                first.push(values.to_vec());
                if first.len() >= ROWS_FOR_WIDTHS {
                    *widths = Some(begin_table(out, &self.columns, first)?);
                }
                Ok(())
            }
        }
    }

    /// Ends the text and gives the writer back, flushed.
    pub fn finish(self) -> io::Result<W> {
        let mut out = match self.form {
            Form::Csv(csv) => csv.into_inner().map_err(|error| error.into_error())?,
            Form::Json { mut out, any } => {
                out.write_all(if any { b"\n]\n" } else { b"[]\n" })?;
                out
            }
            Form::Table { mut out, widths, mut first } => {
                if widths.is_none() {
                    begin_table(&mut out, &self.columns, &mut first)?;
                }
                out
            }
        };
        out.flush()?;
        Ok(out)
    }
}

fn begin_table(out: &mut impl Write, columns: &[String], first: &mut Vec<Vec<String>>) -> io::Result<Vec<usize>> {
    let mut widths: Vec<usize> = columns.iter().map(|column| column.chars().count()).collect();
    for row in first.iter() {
        for (width, value) in widths.iter_mut().zip(row) {
            *width = (*width).max(value.chars().count());
        }
    }
    write_line(out, columns, &widths, columns)?;
    for row in first.drain(..) {
        write_line(out, columns, &widths, &row)?;
    }
    Ok(widths)
}

/// One line: numbers to the right, text to the left, no blanks at the end.
fn write_line(out: &mut impl Write, columns: &[String], widths: &[usize], values: &[String]) -> io::Result<()> {
    let mut line = String::new();
    for (index, ((column, width), value)) in columns.iter().zip(widths).zip(values).enumerate() {
        if index > 0 {
            line.push_str("  ");
        }
        let blanks = width.saturating_sub(value.chars().count());
        let (before, after) = if is_number(column) { (blanks, 0) } else { (0, blanks) };
        line.extend(std::iter::repeat_n(' ', before));
        // Messages of guests end up here: nothing in them may steer the terminal.
        line.extend(value.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }));
        line.extend(std::iter::repeat_n(' ', after));
    }
    writeln!(out, "{}", line.trim_end())
}

/// Fields stay in the order of the columns, which a map of serde_json would not keep.
fn write_object(out: &mut impl Write, columns: &[String], values: &[String]) -> io::Result<()> {
    for (index, (column, value)) in columns.iter().zip(values).enumerate() {
        let value = match value.as_str() {
            "" => serde_json::Value::Null,
            text if is_number(column) => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
            text => text.into(),
        };
        out.write_all(if index == 0 { b"{" } else { b"," })?;
        serde_json::to_writer(&mut *out, column)?;
        write!(out, ":{value}")?;
    }
    out.write_all(b"}")
}

/// Columns of metrics hold numbers; all others (time, identity, what an event says) hold text.
fn is_number(column: &str) -> bool {
    let name = column.strip_suffix(crate::query::PER_SECOND).unwrap_or(column);
    METRICS.iter().any(|metric| metric.name == name && metric.collection != Collection::Events)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(format: Format, columns: &[&str], rows: &[&[&str]]) -> String {
        let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
        let mut exporter = Exporter::new(format, &columns, Vec::new()).unwrap();
        for row in rows {
            exporter.row(&row.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        }
        String::from_utf8(exporter.finish().unwrap()).unwrap()
    }

    #[test]
    fn a_table_is_aligned_with_numbers_to_the_right() {
        let table = text(Format::Table, &["vm", "cpu"], &[&["web[10]", "1.5"], &["a", "100"]]);
        assert_eq!(table, "vm       cpu\nweb[10]  1.5\na        100\n");
    }

    #[test]
    fn a_table_lets_no_control_character_through() {
        let table = text(Format::Table, &["message"], &[&["\u{1b}[31mred\u{7}\n"]]);
        assert_eq!(table, "message\n\u{fffd}[31mred\u{fffd}\u{fffd}\n");
    }

    #[test]
    fn a_table_longer_than_its_head_has_every_row() {
        let rows: Vec<Vec<String>> = (0..2500).map(|i| vec![format!("vm{i}"), i.to_string()]).collect();
        let columns = ["vm".to_owned(), "cpu".to_owned()];
        let mut exporter = Exporter::new(Format::Table, &columns, Vec::new()).unwrap();
        for row in &rows {
            exporter.row(row).unwrap();
        }
        let text = String::from_utf8(exporter.finish().unwrap()).unwrap();
        assert_eq!(text.lines().count(), 2501);
        assert_eq!(text.lines().last(), Some("vm2499  2499"));
    }

    #[test]
    fn json_has_numbers_text_and_nulls() {
        let json = text(Format::Json, &["vm", "cpu", "memory"], &[&["7", "1.5", ""]]);
        assert_eq!(json, "[\n{\"vm\":\"7\",\"cpu\":1.5,\"memory\":null}\n]\n");
        assert_eq!(text(Format::Json, &["vm"], &[]), "[]\n");
    }

    #[test]
    fn csv_quotes_what_must_be_quoted() {
        let csv = text(Format::Csv, &["vm", "message"], &[&["a,b", "he said \"no\"\nand left"], &["c", ""]]);
        assert_eq!(csv, "vm,message\n\"a,b\",\"he said \"\"no\"\"\nand left\"\nc,\n");
    }

    proptest! {
        #[test]
        fn csv_and_json_give_back_what_was_put_in(values in proptest::collection::vec(".*", 2..5)) {
            let columns: Vec<String> = (0..values.len()).map(|i| format!("column{i}")).collect();
            let export = |format| {
                let mut exporter = Exporter::new(format, &columns, Vec::new()).unwrap();
                exporter.row(&values).unwrap();
                exporter.finish().unwrap()
            };
            let csv = export(Format::Csv);
            let read: Vec<csv::StringRecord> = csv::Reader::from_reader(&csv[..]).records().map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), 1);
            prop_assert_eq!(read[0].iter().collect::<Vec<_>>(), values.iter().map(String::as_str).collect::<Vec<_>>());
            let json: serde_json::Value = serde_json::from_slice(&export(Format::Json)).unwrap();
            for (column, value) in columns.iter().zip(&values) {
                prop_assert_eq!(json[0][column].as_str().unwrap_or(""), value);
            }
        }
    }
}
