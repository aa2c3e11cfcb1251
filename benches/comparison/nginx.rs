//! nginx, which gives a ready reply: what a server does that is made for nothing else.

use std::fs;

use tempfile::TempDir;

use crate::child::{Child, free_port};
use crate::{Result, folder};

/// An nginx of one worker that answers everything with one body.
pub struct Nginx {
    pub server: Child,
    _folder: TempDir,
}

impl Nginx {
    /// Starts it.
    pub fn start(body: &str) -> Result<Self> {
        let folder = folder()?;
        let path = folder.path().display();
        let port = free_port()?;
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .iter()
            .map(|what| format!("    {what}_temp_path {path}/{what};\n"))
            .collect();
        let configuration = format!(
            "daemon off;
master_process off;
pid {path}/pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    default_type application/json;
{temporary}    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{ return 200 '{body}'; }}
    }}
}}
"
        );
        let file = folder.path().join("nginx.conf");
        fs::write(&file, configuration)?;
        let arguments = [
            "-e",
            "stderr",
            "-p",
            &path.to_string(),
            "-c",
            &file.to_string_lossy(),
        ];
        let server = Child::start("nginx", &arguments.map(str::to_owned), port)?;
        Ok(Self {
            server,
            _folder: folder,
        })
    }
}
