//! Lists as scripts, hosts files and Prometheus read them, and the list of those who are gone.
//!
//! Pure. Nothing that comes from outside has a control character in it (it would have been refused),
//! so lines and columns are what they seem.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::super::asked::Form;
use crate::registry::{Gone, ListedPeer};
use crate::wire::{self, CellId, host_port};

/// What stands before all peers.
pub(super) fn begin(out: &mut Vec<u8>, form: Form) {
    out.extend_from_slice(match form {
        Form::Tsv => b"id\tip\tport\ttype\tlevel\tlast_seen\tage\n",
        Form::Prometheus => b"[",
        Form::Json | Form::Ids | Form::Hosts => b"",
    });
}

/// A peer, which is not the first one, where it `follows` another. Its level and when it was last seen
/// stand in [`Form::Tsv`] alone.
pub(super) fn write(
    out: &mut Vec<u8>,
    form: Form,
    peer: &ListedPeer<'_>,
    follows: bool,
    now: SystemTime,
) -> serde_json::Result<()> {
    let facts = peer.facts;
    match form {
        Form::Tsv => {
            let port = facts.port.to_string();
            let level = serde_json::to_string(&peer.level)?;
            let age = now.duration_since(peer.last_seen).unwrap_or_default();
            line(
                out,
                &[
                    facts.cell_id.as_str(),
                    &facts.ip,
                    &port,
                    &facts.kind,
                    &level,
                    &wire::timestamp(peer.last_seen),
                    &seconds(age),
                ],
            );
        }
        Form::Ids => line(out, &[facts.cell_id.as_str()]),
        Form::Hosts => line(out, &[&facts.ip, facts.cell_id.as_str()]),
        Form::Prometheus => {
            if follows {
                out.push(b',');
            }
            let services = facts.services.iter();
            // As Prometheus writes lists: a separator on either side of each.
            let services = services.fold(String::from(","), |list, service| list + service + ",");
            let target = Target {
                targets: [host_port(&facts.ip, facts.port)],
                labels: Labels {
                    id: &facts.cell_id,
                    kind: &facts.kind,
                    branch: &facts.branch,
                    hostname: &facts.hostname,
                    services,
                },
            };
            serde_json::to_writer(out, &target)?;
        }
        Form::Json => {}
    }
    Ok(())
}

/// What stands behind all peers.
pub(super) fn end(out: &mut Vec<u8>, form: Form) {
    if form == Form::Prometheus {
        out.push(b']');
    }
}

/// Those who are gone, newest first.
pub(super) fn write_gone<'a>(
    out: &mut Vec<u8>,
    form: Form,
    gone: impl Iterator<Item = &'a Gone>,
    revision: u64,
    epoch: &str,
) -> serde_json::Result<()> {
    match form {
        Form::Tsv => {
            out.extend_from_slice(b"id\treason\tat\twas_here\tlate\n");
            for gone in gone {
                line(
                    out,
                    &[
                        gone.facts.cell_id.as_str(),
                        gone.reason.name(),
                        &wire::timestamp(gone.at),
                        &seconds(gone.was_here),
                        &seconds(gone.late),
                    ],
                );
            }
            Ok(())
        }
        Form::Ids | Form::Hosts | Form::Prometheus => {
            begin(out, form);
            for (number, gone) in gone.enumerate() {
                let peer = ListedPeer {
                    facts: &gone.facts,
                    level: 0.0,
                    last_seen: gone.at,
                };
                write(out, form, &peer, number > 0, gone.at)?;
            }
            end(out, form);
            Ok(())
        }
        Form::Json => {
            let gone: Vec<_> = gone.map(Departed::from).collect();
            let list = Departures {
                count: gone.len(),
                gone,
                revision,
                epoch,
            };
            serde_json::to_writer(out, &list)
        }
    }
}

fn line(out: &mut Vec<u8>, columns: &[&str]) {
    for (number, column) in columns.iter().enumerate() {
        if number > 0 {
            out.push(b'\t');
        }
        out.extend_from_slice(column.as_bytes());
    }
    out.push(b'\n');
}

fn seconds(duration: Duration) -> String {
    format!("{:.3}", duration.as_secs_f64())
}

/// A peer as Prometheus's HTTP service discovery reads it:
/// <https://prometheus.io/docs/prometheus/latest/http_sd/>.
#[derive(Serialize)]
struct Target<'a> {
    targets: [String; 1],
    labels: Labels<'a>,
}

#[derive(Serialize)]
struct Labels<'a> {
    #[serde(rename = "__meta_mesh_id")]
    id: &'a CellId,
    #[serde(rename = "__meta_mesh_type")]
    kind: &'a str,
    #[serde(rename = "__meta_mesh_branch")]
    branch: &'a str,
    #[serde(rename = "__meta_mesh_hostname")]
    hostname: &'a str,
    #[serde(rename = "__meta_mesh_services")]
    services: String,
}

/// The answer to `GET /peers?state=gone`.
#[derive(Serialize)]
struct Departures<'a> {
    gone: Vec<Departed<'a>>,
    count: usize,
    revision: u64,
    epoch: &'a str,
}

/// A peer that is gone, as it is told.
#[derive(Serialize)]
pub(in crate::discovery) struct Departed<'a> {
    cell_id: &'a CellId,
    reason: &'static str,
    at: String,
    was_here_ms: u64,
    late_ms: u64,
    registered_by: Option<IpAddr>,
    deregistered_by: Option<IpAddr>,
}

impl<'a> From<&'a Gone> for Departed<'a> {
    fn from(gone: &'a Gone) -> Self {
        Self {
            cell_id: &gone.facts.cell_id,
            reason: gone.reason.name(),
            at: wire::timestamp(gone.at),
            was_here_ms: wire::millis(gone.was_here),
            late_ms: wire::millis(gone.late),
            registered_by: gone.registered_by,
            deregistered_by: gone.deregistered_by,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::registry::{Facts, Reason, Tally};

    fn facts(ip: &str) -> Arc<Facts> {
        Arc::new(Facts {
            cell_id: CellId::new("a \"b\"").expect("valid"),
            ip: ip.into(),
            port: 8002,
            services: ["x".into(), "y".into()].into_iter().collect(),
            branch: "main".into(),
            kind: "pure_cell".into(),
            hostname: "rack".into(),
        })
    }

    fn written(form: Form, ips: &[&str]) -> String {
        let mut out = Vec::new();
        let seen = SystemTime::UNIX_EPOCH;
        begin(&mut out, form);
        for (number, ip) in ips.iter().enumerate() {
            let peer = ListedPeer {
                facts: &facts(ip),
                level: 5.0,
                last_seen: seen,
            };
            let now = seen + Duration::from_millis(2340);
            write(&mut out, form, &peer, number > 0, now).expect("written");
        }
        end(&mut out, form);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn each_form_is_written_like_this() {
        assert_eq!(
            written(Form::Tsv, &["::1"]),
            "id\tip\tport\ttype\tlevel\tlast_seen\tage\n\
             a \"b\"\t::1\t8002\tpure_cell\t5.0\t1970-01-01T00:00:00.000000Z\t2.340\n"
        );
        assert_eq!(written(Form::Ids, &["h", "h"]), "a \"b\"\na \"b\"\n");
        assert_eq!(written(Form::Hosts, &["::1"]), "::1\ta \"b\"\n");
        assert_eq!(written(Form::Prometheus, &[]), "[]");
        let target = concat!(
            r#"{"targets":["[::1]:8002"],"labels":{"__meta_mesh_id":"a \"b\"","#,
            r#""__meta_mesh_type":"pure_cell","__meta_mesh_branch":"main","#,
            r#""__meta_mesh_hostname":"rack","__meta_mesh_services":",x,y,"}}"#
        );
        let both = format!("[{target},{target}]");
        assert_eq!(written(Form::Prometheus, &["::1", "::1"]), both);
    }

    #[test]
    fn those_who_are_gone_are_written_like_this() {
        let gone = [Gone {
            facts: facts("h"),
            reason: Reason::Reaped,
            at: SystemTime::UNIX_EPOCH,
            was_here: Duration::from_secs(60),
            late: Duration::from_millis(11_200),
            registered_by: "10.0.0.1".parse().ok(),
            deregistered_by: None,
            tally: Tally::default(),
        }];
        let written = |form| {
            let mut out = Vec::new();
            write_gone(&mut out, form, gone.iter(), 7, "e").expect("written");
            String::from_utf8(out).expect("UTF-8")
        };
        assert_eq!(
            written(Form::Tsv),
            "id\treason\tat\twas_here\tlate\n\
             a \"b\"\treaped\t1970-01-01T00:00:00.000000Z\t60.000\t11.200\n"
        );
        assert_eq!(written(Form::Ids), "a \"b\"\n");
        assert_eq!(written(Form::Hosts), "h\ta \"b\"\n");
        assert_eq!(
            written(Form::Json),
            concat!(
                r#"{"gone":[{"cell_id":"a \"b\"","reason":"reaped","#,
                r#""at":"1970-01-01T00:00:00.000000Z","was_here_ms":60000,"late_ms":11200,"#,
                r#""registered_by":"10.0.0.1","deregistered_by":null}],"#,
                r#""count":1,"revision":7,"epoch":"e"}"#
            )
        );
    }
}
