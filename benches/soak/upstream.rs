//! The MCP server behind the gateway: it answers every call, `big` with a long text.
//! Not here: the calls (`good`, `slow`).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::Failure;

/// Longer than all buffers between the server and a client that does not read, those of the kernel included. Written
/// from one piece, again and again: thousands may be on their way at once.
const BIG_PIECES: usize = 128;
static PIECE: [u8; 64 * 1024] = [b'x'; 64 * 1024];

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
            let pieces = match message.pointer("/params/name").and_then(|name| name.as_str()) {
                Some("big") => BIG_PIECES,
                _ => 0,
            };
            let id = message.get("id").cloned().unwrap_or_default();
            let begin = format!(
                r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","content":[{{"type":"text","text":"fine"#
            );
            let end_of_answer = r#""}]}}"#;
            let length = begin.len() + pieces * PIECE.len() + end_of_answer.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{begin}"
            );
            got.drain(..end);
            stream.write_all(head.as_bytes()).await?;
            for _ in 0..pieces {
                stream.write_all(&PIECE).await?;
            }
            stream.write_all(end_of_answer.as_bytes()).await?;
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
