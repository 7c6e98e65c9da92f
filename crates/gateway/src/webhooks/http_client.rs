//! Sends one HTTP request to an endpoint. Each request has a new connection, to an address that was
//! just checked. Only the status of the response is used.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::url_policy::{self, WebhookUrl};

/// Sends webhook requests.
pub(crate) struct Client {
    tls: TlsConnector,
    private: bool,
    timeout: Duration,
}

impl Client {
    /// `private`: addresses that are not public are allowed. `timeout`: bound of a whole request,
    /// from name resolution to the response.
    pub(crate) fn new(private: bool, timeout: Duration) -> Result<Client, String> {
        let roots = RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        };

        let config =
            ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|e| format!("TLS cannot be set up: {e}"))?
                .with_root_certificates(roots)
                .with_no_client_auth();
        Ok(Client {
            tls: TlsConnector::from(Arc::new(config)),
            private,
            timeout,
        })
    }

    /// Sends a request. Returns the status of the response, or the reason for a missing response.
    pub(crate) async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<u16, String> {
        let target = url_policy::parse(url, self.private)?;
        let work = async {
            let stream = url_policy::connect(&target, self.private).await?;
            if !target.https {
                return send(stream, &target, headers, body).await;
            }

            let name = ServerName::try_from(target.host.clone())
                .map_err(|e| format!("{}: {e}", target.host))?;
            let stream = self
                .tls
                .connect(name, stream)
                .await
                .map_err(|e| format!("TLS with {}: {e}", target.host))?;
            send(stream, &target, headers, body).await
        };

        tokio::time::timeout(self.timeout, work)
            .await
            .map_err(|_| format!("no answer within {:?}", self.timeout))?
    }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    target: &WebhookUrl,
    headers: &[(&'static str, String)],
    body: Bytes,
) -> Result<u16, String> {
    let wrong = |e: &dyn std::fmt::Display| format!("{}: {e}", target.authority);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| wrong(&e))?;
    let mut request = Request::post(&target.path)
        .header("host", &target.authority)
        .header("connection", "close");
    request = request.header("content-type", "application/json").header(
        "user-agent",
        concat!("processor/", env!("CARGO_PKG_VERSION")),
    );
    for (name, value) in headers {
        request = request.header(*name, value);
    }

    let request = request.body(Full::new(body)).map_err(|e| wrong(&e))?;

    // Drive the connection here, and drop the connection with this future. The rest of the response
    // after the status is not needed.
    let mut answer = std::pin::pin!(sender.send_request(request));
    let mut connection = std::pin::pin!(connection);
    let answered = tokio::select! {
        answered = &mut answer => answered,
        // A short response and the end of the connection often arrive together; the response is
        // valid.
        _ = &mut connection => answer.await,
    };

    answered.map(|a| a.status().as_u16()).map_err(|e| wrong(&e))
}
