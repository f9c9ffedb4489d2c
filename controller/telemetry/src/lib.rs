//! Telemetry in MongoDB: the writer, the queries and the server that fleet runs itself.
