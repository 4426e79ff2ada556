"""The dashboard for Grafana: valid by Grafana's own schema, and true of a server's `/metrics`."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[1]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "at2.json").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text("utf-8")
EVERYWHERE = {"instance", "le"}
"""Labels that Prometheus gives to all, and to buckets."""


def _queries(panel: dict[str, Any]) -> list[str]:
    return [_filled(target["expr"]) for target in panel["targets"]]


def _filled(query: str) -> str:
    """A query as Grafana sends it."""
    return query.replace("$__rate_interval", "5m").replace("$instance", ".*")


def _parts(query: str, kind: Any) -> list[Any]:
    """The parts of a query that are of some kind."""
    parts: list[Any] = []
    promql_parser.walk(promql_parser.parse(query), parts.append)
    return [part for part in parts if isinstance(part, kind)]


def _series(family: Metric) -> set[str]:
    """The names of a metric's series."""
    ends = {
        "counter": ("_total",),
        "histogram": ("_bucket", "_sum", "_count"),
        "gauge": ("",),
        "info": ("_info",),
    }
    return {family.name + end for end in ends[family.type]}


@pytest.fixture(scope="module")
def families(server: str) -> list[Metric]:
    """The metrics of a running server."""
    with httpx.Client(base_url=server) as client:
        return list(text_string_to_metric_families(client.get("/metrics").text))


def _lost(given: Any, kept: Any, where: str = "") -> Iterator[str]:
    """What a value does not have any more, or has otherwise."""
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            yield from _lost(value, kept.get(name, "lost"), f"{where}.{name}")
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        for number, pair in enumerate(zip(given, kept, strict=True)):
            yield from _lost(*pair, f"{where}[{number}]")
    elif given != kept:
        yield where


def test_every_field_is_known_to_grafana() -> None:
    register_default_plugins()
    read = Dashboard.from_json(DASHBOARD)
    assert not list(_lost(DASHBOARD, json.loads(json.dumps(read, cls=JSONEncoder))))


def test_panels_have_a_place_of_their_own_and_a_name() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert panel["title"] and at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken
        taken |= cells


def test_every_metric_that_is_asked_for_is_there_and_all_of_ours_are_shown(
    families: list[Metric],
) -> None:
    there = {name for family in families for name in _series(family)}
    asked = {
        selector.name
        for panel in PANELS
        for query in _queries(panel)
        for selector in _parts(query, promql_parser.VectorSelector)
    }
    assert asked and asked <= there, asked - there
    ours = [
        _series(family)
        for family in families
        if family.name.startswith("at2") and not family.name.endswith("_created")
    ]
    assert ours and all(names & asked for names in ours)


def test_metrics_are_grouped_and_filtered_by_labels_that_they_have() -> None:
    rows = re.findall(r"^\| `(at2_\w+)` \| ([\w, ]*) \|", OPERATIONS, flags=re.MULTILINE)
    labels = {name: set(filter(None, given.split(", "))) for name, given in rows}
    grouped = 0
    for panel in PANELS:
        for query, target in zip(_queries(panel), panel["targets"], strict=True):
            known = set(EVERYWHERE)
            for selector in _parts(query, promql_parser.VectorSelector):
                known |= labels.get(re.sub("_bucket$", "", selector.name), set())
                used = {matcher.name for matcher in selector.matchers.matchers}
                assert "instance" in used and used <= known
            for aggregate in _parts(query, promql_parser.AggregateExpr):
                by = set(aggregate.modifier.labels) if aggregate.modifier else set()
                assert by <= known
                grouped += len(by)
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= known
    assert grouped


def test_variables_that_are_used_are_defined() -> None:
    defined = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD)))
    assert {name for name in used if not name.startswith("__")} == defined
