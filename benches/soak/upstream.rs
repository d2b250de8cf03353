//! The MCP server behind the gateway: it answers every call, `big` with a long text.
//! Not here: the calls (`good`, `slow`).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Failure;

/// Longer than all buffers between the server and a client that does not read.
const BIG: usize = 1024 * 1024;

/// Starts it; it ends with the program.
pub(crate) async fn start() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Whoever leaves in the middle is its own affair.
            tokio::spawn(async move { serve(stream).await.ok() });
        }
    });
    Ok(address)
}

async fn serve(mut stream: TcpStream) -> Result<(), Failure> {
    let mut got = Vec::new();
    while stream.read_buf(&mut got).await? > 0 {
        while let Some((body, end)) = whole(&got) {
            let message: serde_json::Value = serde_json::from_slice(body)?;
            let text = match message.pointer("/params/name").and_then(|name| name.as_str()) {
                Some("big") => "x".repeat(BIG),
                _ => "fine".to_owned(),
            };
            let result =
                serde_json::json!({"content": [{"type": "text", "text": text}], "resultType": "complete"});
            let answer = serde_json::json!({"jsonrpc": "2.0", "id": message.get("id"), "result": result});
            let answer = answer.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                answer.len()
            );
            got.drain(..end);
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(answer.as_bytes()).await?;
        }
    }
    Ok(())
}

/// The body of a whole message at the beginning of `bytes`, and where the message ends.
pub(crate) fn whole(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(bytes.get(..head)?).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse::<usize>();
    let end = head + length.ok()?;
    Some((bytes.get(head..end)?, end))
}
