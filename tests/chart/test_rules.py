"""The alert rules: promtool's own unit tests, and their agreement with metrics, runbooks and the rendered object."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mochi_api import identity, metrics, runfile, status

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "mochi-operator"
RULES: dict[str, Any] = yaml.safe_load((CHART / "rules" / "mochi.yaml").read_text(encoding="utf-8"))
ALERTS = {rule["alert"]: rule for group in RULES["groups"] for rule in group["rules"]}
UNIT_TESTS = sorted((CHART / "tests").glob("*.yaml"))
RUNBOOKS = ROOT / "docs" / "runbooks"


def exposed() -> set[str]:
    """Names of all series the trainer and the operator expose."""
    names: set[str] = set()
    for metric in (*metrics.TRAINER_METRICS, *metrics.OPERATOR_METRICS):
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {metric.name + suffix for suffix in suffixes}
    return names


def test_promtool_accepts_the_rules(promtool) -> None:
    done = promtool("check", "rules", "rules/mochi.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALERTS)} rules found" in done.stdout


@pytest.mark.parametrize("file", [path.name for path in UNIT_TESTS])
def test_the_unit_tests_of_the_rules_pass(promtool, file: str) -> None:
    done = promtool("test", "rules", f"tests/{file}")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_rule_that_never_fires_does_not_pass_its_unit_tests(promtool, tmp_path: Path) -> None:
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    for group in (broken := yaml.safe_load(yaml.safe_dump(RULES)))["groups"]:
        for rule in group["rules"]:
            rule["expr"] = f"({rule['expr']}) and vector(1) < 0"
    (tmp_path / "rules" / "mochi.yaml").write_text(yaml.safe_dump(broken))
    for path in UNIT_TESTS:
        copy = tmp_path / "tests" / path.name
        copy.write_text(path.read_text(encoding="utf-8"))
        assert promtool("test", "rules", str(copy)).returncode != 0, path.name


def test_every_alert_is_seen_to_fire_and_to_be_silent() -> None:
    fired, silent = set(), set()
    for path in UNIT_TESTS:
        for case in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for check in case["alert_rule_test"]:
                (fired if check["exp_alerts"] else silent).add(check["alertname"])
    assert fired == silent == set(ALERTS)


def test_every_alert_says_what_is_wrong_how_bad_it_is_and_where_its_runbook_lies() -> None:
    for name, rule in ALERTS.items():
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
        assert rule["labels"]["severity"] in {"info", "warning", "critical"}, name
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{name}.md"


def test_alerts_and_runbooks_are_one_to_one() -> None:
    pages = {
        path.stem: path.read_text(encoding="utf-8") for path in RUNBOOKS.glob("*.md") if path.stem != "README"
    }
    assert pages.keys() == ALERTS.keys()
    for name, text in pages.items():
        assert text.startswith(f"# {name}\n")
        assert re.findall(r"^## (.+)$", text, re.MULTILINE) == [
            "Meaning",
            "Impact",
            "Diagnosis",
            "Mitigation",
        ]
        assert "kubectl" in text.split("## Diagnosis")[1].split("## Mitigation")[0], name


def test_the_list_of_runbooks_names_each_alert_with_its_severity() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\((\w+)\.md\) \| (\w+) \|", (RUNBOOKS / "README.md").read_text(), re.MULTILINE
    )
    assert rows == [(name, name, rule["labels"]["severity"]) for name, rule in ALERTS.items()]


def test_every_metric_the_rules_and_runbooks_name_is_exposed() -> None:
    texts = [rule["expr"] for rule in ALERTS.values()]
    texts += [path.read_text(encoding="utf-8") for path in RUNBOOKS.glob("*.md")]
    found = {name for text in texts for name in re.findall(r"\bmochi_(?:train|operator|finetune)_\w+", text)}
    histograms = {m.name for m in metrics.TRAINER_METRICS if m.kind == "histogram"}
    assert found
    assert found - histograms <= exposed()


def test_every_phase_the_rules_name_exists() -> None:
    named = {phase for rule in ALERTS.values() for phase in re.findall(r'phase="(\w+)"', rule["expr"])}
    assert named == {"Training"}
    assert named <= set(status.PHASES)


def test_the_rendered_rules_are_the_tested_ones_with_namespace_and_runbooks_of_the_release(render) -> None:
    (rendered,) = [
        d for d in render("everything", "--namespace", "elsewhere") if d["kind"] == "PrometheusRule"
    ]
    expected = yaml.safe_dump(RULES).replace('namespace="mochi-system"', 'namespace="elsewhere"')
    expected = expected.replace("docs/runbooks/", "https://runbooks.example.com/mochi/")
    assert rendered["spec"] == yaml.safe_load(expected)
    assert rendered["metadata"]["labels"]["release"] == "kube-prometheus-stack"


def test_the_monitors_give_the_job_names_and_the_run_label_that_the_rules_ask_for(render) -> None:
    by_kind = {document["kind"]: document for document in render("everything")}
    operator = by_kind["ServiceMonitor"]["spec"]["endpoints"][0]
    assert operator["honorLabels"] is True, (
        "mochi_finetune_* name the namespace of the run, not of the operator"
    )
    assert {"targetLabel": "job", "replacement": "mochi-operator"} in operator["relabelings"]
    assert 'job="mochi-operator"' in ALERTS["MochiOperatorDown"]["expr"]

    training = by_kind["PodMonitor"]["spec"]
    assert training["selector"] == {"matchLabels": {identity.LABEL_STAGE: "train"}}
    assert "train" in runfile.STAGES
    (endpoint,) = training["podMetricsEndpoints"]
    assert endpoint["port"] == identity.METRICS_PORT_NAME
    assert identity.LABEL_FINETUNE in training["podTargetLabels"]
    assert {"sourceLabels": ["mochi_finetune_dev_finetune"], "targetLabel": "finetune"} in endpoint[
        "relabelings"
    ]
    assert training["namespaceSelector"] == {"matchNames": ["team-a", "team-b"]}


def test_monitoring_is_off_by_default(render) -> None:
    assert [
        d["kind"] for d in render("defaults") if d["apiVersion"].startswith("monitoring.coreos.com")
    ] == []
