//! The process's own metrics as Prometheus reads them: `GET /metrics` on a local port.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How often histograms are folded, as the exporter asks for.
const UPKEEP: Duration = Duration::from_secs(5);

/// Serves the metrics until told to stop. Gives the address; empty when it cannot be had, which stops nothing.
pub async fn serve(address: &str, stop: CancellationToken) -> String {
    let handle = match PrometheusBuilder::new().install_recorder() {
        Ok(handle) => handle,
        Err(error) => {
            tracing::warn!(%error, "no metrics: another recorder is there");
            return String::new();
        }
    };
    fleet_telemetry_db::metric_definitions::describe();
    let bound = TcpListener::bind(address).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
    match bound {
        Ok((address, listener)) => {
            tokio::spawn(keep_up(handle.clone(), stop.clone()));
            let router = Router::new().route("/metrics", get(move || std::future::ready(handle.render())));
            tokio::spawn(async move {
                let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
                if let Err(error) = served {
                    tracing::warn!(%error, "metrics are not served any more");
                }
            });
            address.to_string()
        }
        Err(error) => {
            tracing::warn!(address, %error, "no metrics for Prometheus here; set `metrics_address` to a free one");
            String::new()
        }
    }
}

async fn keep_up(handle: PrometheusHandle, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => handle.run_upkeep(),
        }
    }
}
