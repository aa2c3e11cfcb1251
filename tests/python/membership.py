"""What the stand-in cells share: a cell's side of the protocol, and its gauges.

A thread registers with back-off, then beats; a beat answered 404 registers
again. When the goodbye is said is up to the cell.

Environment: AIOS_DISCOVERY_URL (http://127.0.0.1:8001), AIOS_CELL_ID and
AIOS_CELL_PORT (the cell's own defaults; port 0 is any free one),
AIOS_CELL_HOST (0.0.0.0), AIOS_CELL_ADVERTISE, then HOSTNAME (the host's name),
AIOS_HEARTBEAT_EVERY (seconds, 5).
"""

import logging
import os
import socket
import sys
import threading
import time
from datetime import datetime, timezone
from urllib.parse import quote

import prometheus_client
import requests
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

DISCOVERY = os.environ.get("AIOS_DISCOVERY_URL", "http://127.0.0.1:8001").rstrip("/")
HOST = os.environ.get("AIOS_CELL_HOST", "0.0.0.0")
HOSTNAME = os.environ.get("HOSTNAME") or socket.gethostname()
ADVERTISE = os.environ.get("AIOS_CELL_ADVERTISE") or HOSTNAME
BEAT_EVERY = float(os.environ.get("AIOS_HEARTBEAT_EVERY", "5"))
REGISTER_TIMEOUT, HEARTBEAT_TIMEOUT, DEREGISTER_TIMEOUT = 5, 3, 2
LONGEST_BACK_OFF = 30

log = logging.getLogger("cell")
prometheus_client.disable_created_metrics()
started = time.time()


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def uptime() -> float:
    return time.time() - started


def say_where(ip: str, port: int):
    """The first line on stderr; the log follows it."""
    print(f"listening on http://{f'[{ip}]' if ':' in ip else ip}:{port}", file=sys.stderr, flush=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")


class Membership:
    """A cell in discovery's list: who it is, its heartbeat, its goodbye."""

    def __init__(self, cell_id: str, port: int, level: float, services: list[str], branch: str, kind: str):
        self.cell_id = os.environ.get("AIOS_CELL_ID", cell_id)
        self.port = int(os.environ.get("AIOS_CELL_PORT", port))
        self.level = level
        self.services = services
        self.branch = branch
        self.kind = kind
        self.registered = False
        self.beats = 0
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._pulse, daemon=True)

    def start(self):
        self._heart.start()

    def leave(self):
        self._stop.set()
        self._heart.join()  # a late beat would undo the DELETE
        if not self.registered:
            return
        try:
            requests.delete(f"{DISCOVERY}/peer/{quote(self.cell_id, safe='')}", timeout=DEREGISTER_TIMEOUT)
            log.info("Deregistered from discovery")
        except requests.RequestException as error:
            log.warning("Deregistration failed: %s", error)

    def metrics(self, primitives: dict[str, float]) -> bytes:
        """The text Prometheus reads."""
        registry = CollectorRegistry()
        gauges = {"consciousness_level": self.level, **primitives, "up": 1, "uptime_seconds": uptime()}
        for name, value in gauges.items():
            gauge = Gauge(f"aios_cell_{name}", name.replace("_", " "), ["cell_id"], registry=registry)
            gauge.labels(self.cell_id).set(value)
        beats = Counter("aios_cell_heartbeat_total", "heartbeats sent", ["cell_id"], registry=registry)
        beats.labels(self.cell_id).inc(self.beats)
        return generate_latest(registry)

    def _pulse(self):
        back_off = 1
        while not self._register():
            if self._stop.wait(back_off):
                return
            back_off = min(2 * back_off, LONGEST_BACK_OFF)
        while not self._stop.wait(BEAT_EVERY):
            self._beat()

    def _register(self) -> bool:
        body = {
            "cell_id": self.cell_id,
            "ip": ADVERTISE,
            "port": self.port,
            "consciousness_level": self.level,
            "services": self.services,
            "branch": self.branch,
            "type": self.kind,
            "hostname": HOSTNAME,
        }
        try:
            requests.post(f"{DISCOVERY}/register", json=body, timeout=REGISTER_TIMEOUT).raise_for_status()
        except requests.RequestException as error:
            log.warning("Registration failed: %s", error)
            return False
        self.registered = True
        log.info("Registered with discovery at %s", DISCOVERY)
        return True

    def _beat(self):
        body = {"cell_id": self.cell_id, "consciousness_level": self.level}
        try:
            reply = requests.post(f"{DISCOVERY}/heartbeat", json=body, timeout=HEARTBEAT_TIMEOUT)
            if reply.status_code == 404:
                log.warning("Discovery does not know this cell, registering again")
                self.registered = False
                self._register()
                return
            reply.raise_for_status()
            self.beats += 1
        except requests.RequestException as error:
            log.warning("Heartbeat failed: %s", error)
