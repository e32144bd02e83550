"""Debian's Alertmanager with our configuration starts, and a page goes where pages go; Grafana's files by form.

Grafana itself is not run here: no Debian package has it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from loadtest.server_process import free_port
from tests.conftest import REPOSITORY
from tests.deploy.promtool import ALERTS, rules

CONFIGURATION = REPOSITORY / "deploy" / "alertmanager" / "alertmanager.yml"
PROVISIONING = REPOSITORY / "deploy" / "grafana" / "provisioning"


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[str]:
    """Its address."""
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("Alertmanager is not installed: apt-get install prometheus-alertmanager")
    address = f"127.0.0.1:{free_port()}"
    command = [program, f"--config.file={CONFIGURATION}", f"--storage.path={tmp_path}"]
    command += [f"--web.listen-address={address}", "--cluster.listen-address="]
    log = tmp_path / "log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            until = time.monotonic() + 60
            while not _ready(address):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def _ready(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/ready", timeout=5) as answer:  # loopback
            return bool(answer.status == 200)
    except OSError:
        return False


def test_each_alert_reaches_the_receiver_of_its_severity(alertmanager: str) -> None:
    url = f"http://{alertmanager}/api/v2/alerts"
    severities = {rule["alert"]: rule["labels"]["severity"] for rule in rules(ALERTS)}
    alerts = [
        {"labels": {"alertname": name, "severity": severity, "job": name}} for name, severity in severities.items()
    ]
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(alerts).encode(), headers)
    urllib.request.urlopen(request, timeout=20).close()  # noqa: S310  # loopback
    with urllib.request.urlopen(url, timeout=20) as answer:  # loopback
        found = json.load(answer)
    receivers = {each["labels"]["alertname"]: [r["name"] for r in each["receivers"]] for each in found}
    expected = {"page": ["pages"], "ticket": ["tickets"]}
    assert receivers == {name: expected[severity] for name, severity in severities.items()}


def test_compose_and_prometheus_name_it_alike() -> None:
    compose = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())
    prometheus = yaml.safe_load((REPOSITORY / "deploy" / "prometheus" / "prometheus.yml").read_text())
    [targets] = prometheus["alerting"]["alertmanagers"]
    assert targets["dns_sd_configs"] == [{"names": ["alertmanager"], "type": "A", "port": 9093}]
    assert "./alertmanager/alertmanager.yml:" in compose["services"]["alertmanager"]["volumes"][0]
    assert set(compose["services"]["alertmanager"]["networks"]) & set(
        compose["services"]["prometheus"]["networks"]
    )


def test_grafanas_provisioning_has_the_form_that_grafana_documents() -> None:
    source = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())
    assert source["apiVersion"] == 1
    [prometheus] = source["datasources"]
    assert prometheus.keys() == {"name", "type", "access", "url", "isDefault"}
    assert (prometheus["type"], prometheus["url"]) == ("prometheus", "http://prometheus:9090")
    dashboards = yaml.safe_load((PROVISIONING / "dashboards" / "mediround.yml").read_text())
    assert dashboards["apiVersion"] == 1
    [provider] = dashboards["providers"]
    assert provider.keys() == {"name", "type", "options"}
    assert provider["type"] == "file"
    assert Path(provider["options"]["path"]).is_absolute()
