//! nginx as a plain reverse proxy: one worker, upstream connections kept alive, no access log.
//! Not here: how it is installed (`scripts/prerequisites bench`).

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use crate::Failure;

/// Writes the configuration into `folder` and gives the command that serves it in the foreground.
pub(crate) fn command(
    folder: &Path,
    listen: SocketAddr,
    upstream: SocketAddr,
) -> Result<Vec<String>, Failure> {
    let folder = folder.join("nginx");
    fs::create_dir_all(folder.join("logs"))?;
    let conf = folder.join("nginx.conf");
    fs::write(&conf, text(&folder, listen, upstream))?;
    let program = ["/usr/sbin/nginx", "/usr/bin/nginx", "/usr/local/sbin/nginx"];
    let program = program.into_iter().find(|path| Path::new(path).exists()).unwrap_or("nginx");
    let prefix = format!("{}/", folder.display());
    let conf = conf.display().to_string();
    Ok([program, "-p", &prefix, "-c", &conf, "-e", "stderr"].map(str::to_owned).to_vec())
}

fn text(folder: &Path, listen: SocketAddr, upstream: SocketAddr) -> String {
    let folder = folder.display();
    format!(
        "daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_buffer_size 64k;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream backend {{
        server {upstream};
        keepalive 1024;
        keepalive_requests 1000000000;
    }}
    server {{
        listen {listen} backlog=1024;
        location / {{
            proxy_pass http://backend;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
        }}
    }}
}}
"
    )
}
