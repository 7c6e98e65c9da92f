//! Webhook endpoints of the tests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

/// A received request.
#[derive(Clone, Debug)]
pub struct Got {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub answered: u16,
}

impl Got {
    pub fn seq(&self) -> u64 {
        let body: Value = serde_json::from_slice(&self.body).expect("JSON");
        body["data"]["user_seq"].as_u64().expect("a number")
    }
}

/// An endpoint with configured answers, by path and by the number of earlier requests for this
/// path.
#[derive(Clone)]
pub struct Endpoint {
    pub at: SocketAddr,
    pub got: Arc<Mutex<Vec<Got>>>,
}

impl Endpoint {
    pub async fn start(answer: impl Fn(&str, usize) -> u16 + Send + Sync + 'static) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = Endpoint {
            at: listener.local_addr().expect("bound"),
            got: Arc::default(),
        };

        let got = endpoint.got.clone();
        let answer = Arc::new(answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let got = got.clone();
                let answer = answer.clone();
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    let mut lines = Vec::new();
                    loop {
                        let mut line = String::new();
                        stream.read_line(&mut line).await.expect("a line");
                        if line.trim().is_empty() {
                            break;
                        }

                        lines.push(line.trim().to_string());
                    }

                    let path = lines[0].split(' ').nth(1).expect("a path").to_string();
                    let pairs = lines[1..].iter().filter_map(|l| l.split_once(": "));
                    let headers: BTreeMap<_, _> = pairs
                        .map(|(n, v)| (n.to_lowercase(), v.to_string()))
                        .collect();
                    let mut body = vec![0; headers["content-length"].parse().expect("a length")];
                    stream.read_exact(&mut body).await.expect("a body");
                    let status = {
                        let mut got = got.lock().expect("a list");
                        let before = got.iter().filter(|g| g.path == path).count();
                        let answered = answer(&path, before);
                        got.push(Got {
                            path,
                            headers,
                            body,
                            answered,
                        });

                        answered
                    };

                    if status == 0 {
                        // Never answers.
                        tokio::time::sleep(Duration::from_secs(60)).await;
                    }

                    let text = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                    stream
                        .get_mut()
                        .write_all(text.as_bytes())
                        .await
                        .expect("answered");
                });
            }
        });

        endpoint
    }

    pub fn got(&self, path: &str) -> Vec<Got> {
        self.got
            .lock()
            .expect("a list")
            .iter()
            .filter(|g| g.path == path)
            .cloned()
            .collect()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.at)
    }
}
