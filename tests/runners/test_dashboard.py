"""The workspace that runners.dashboard saves: every key that a panel uses exists in the runs of a real sweep."""

import json
import socket
import sys
import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import wandb
from helpers.wandb_offline import log_out, offline_runs, save_world, start_sweep

from runners import dashboard

KEY = "0123456789abcdef0123456789abcdef01234567"
# Attributes that W&B itself gives to every run.
RUN_ATTRIBUTES = {"displayName", "state"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The offline runs of a small, timed sweep."""
    folder = tmp_path_factory.mktemp("dashboard")
    assert start_sweep(save_world(folder), folder / "out", "latency.repeats=1", "logger.mode=offline") == 0
    return offline_runs(folder / "out")


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    log_out(monkeypatch, tmp_path)


@pytest.fixture
def specification(monkeypatch, capsys):
    """What --dry-run prints without a login; any use of the network fails the test."""

    def refuse(*_):
        raise AssertionError("a dry run must not contact a server")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert dashboard.main(["project=tokensel", "--dry-run"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def panels(specification):
    sections = specification["spec"]["section"]["panelBankConfig"]["sections"]
    return [panel for section in sections for panel in section["panels"]]


def used_keys(specification):
    """All keys in the specification, grouped by where runs must have them: history, summary, config, images, ..."""
    used = defaultdict(set)

    def add(accessor):
        section, _, name = accessor.partition(":")
        used[section].add(name.removesuffix(".value") if section == "config" else name)

    for panel in panels(specification):
        config = panel["config"]
        match panel["viewType"]:
            case "Run History Line Plot":
                used["history"] |= {config["xAxis"], *config["metrics"]}
                used["config"].add(config["groupBy"].removesuffix(".value"))
            case "Scatter Plot":
                add(config["xAxis"])
                add(config["yAxis"])
            case "Parallel Coordinates Plot":
                for column in config["columns"]:
                    add(column["accessor"])
            case "Media Browser":
                used["images"] |= set(config["mediaKeys"])
            case "Weave":
                used["tables"] |= set(picked(config))
            case unknown:
                raise AssertionError(f"which keys does {unknown} use?")
    (runset,) = specification["spec"]["section"]["runSets"]
    for column in runset["runFeed"]["columnOrder"]:
        add(column)
    for key in runset["sort"]["keys"]:
        used[key["key"]["section"]].add(key["key"]["name"])
    for condition in runset["filters"]["filters"]:
        used[condition["key"]["section"]].add(condition["key"]["name"])
    return dict(used)


def picked(node):
    """The keys that a query picks from the runs' summaries."""
    if isinstance(node, dict):
        if node.get("name") == "pick":
            yield node["inputs"]["key"]["val"]
        for child in node.values():
            yield from picked(child)
    elif isinstance(node, list):
        for child in node:
            yield from picked(child)


def held_keys(runs):
    """The keys that runs really have, grouped likewise: numbers, settings that are not null, pictures and tables."""
    held = defaultdict(set, run=set(RUN_ATTRIBUTES))
    for run in runs:
        held["history"] |= {key for row in run.history for key, value in row.items() if isinstance(value, int | float)}
        held["summary"] |= {key for key, value in run.summary.items() if isinstance(value, int | float)}
        held["config"] |= {key for key, value in run.config.items() if value is not None}
        held["images"] |= {key for key, kind in run.media.items() if kind in ("image-file", "images/separated")}
        held["tables"] |= {key for key, kind in run.media.items() if kind == "table-file"}
    return held


def missing(specification, runs):
    held = held_keys(runs)
    return {f"{section}:{key}" for section, keys in used_keys(specification).items() for key in keys - held[section]}


@pytest.mark.slow
def test_no_panel_uses_a_key_that_no_run_has(specification, runs):
    assert missing(specification, runs) == set()


@pytest.mark.slow
def test_a_key_that_no_run_has_is_found_wherever_it_is_used(specification, runs):
    text = json.dumps(specification)
    for name, sections in [
        ("prefill_ms_p50", {"history", "summary"}),
        ("method", {"config"}),
        ("kept_tokens", {"images"}),
        ("predictions", {"tables"}),
    ]:
        renamed = json.loads(text.replace(f'"{name}', '"nowhere').replace(f":{name}", ":nowhere"))
        assert {key.partition(":")[0] for key in missing(renamed, runs)} == sections


def test_the_workspace_has_the_panels_that_compare_methods(specification):
    kinds = defaultdict(list)
    for panel in panels(specification):
        kinds[panel["viewType"]].append(panel["config"])
    lines = {key: config for config in kinds["Run History Line Plot"] for key in config["metrics"]}
    assert {"accuracy", "prefill_ms_p50"} <= lines.keys()
    progress = {key for key in lines if key.startswith("progress/")}
    assert progress == {"progress/accuracy", "progress/questions_per_second"}
    assert {lines.pop(key)["xAxis"] for key in progress} == {"progress/questions"}
    assert {(config["xAxis"], config["groupBy"]) for config in lines.values()} == {("kept", "method.value")}
    fronts = {(config["xAxis"], config["yAxis"]) for config in kinds["Scatter Plot"] if config["showMaxYAxisLine"]}
    assert {("summary:prefill_ms_p50", "summary:accuracy"), ("summary:flops", "summary:accuracy")} <= fronts
    (grid,) = kinds["Parallel Coordinates Plot"]
    assert {"config:method.value", "config:agg_layer.value", "config:temperature.value", "summary:kept"} <= {
        column["accessor"] for column in grid["columns"]
    }
    assert kinds["Media Browser"]
    assert specification["displayName"] == dashboard.TITLE


def test_a_dry_run_takes_entity_and_name(capsys):
    assert dashboard.main(["--dry-run", "entity=team", "project=mine", "name=Two words"]) == 0
    made = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (made["entity"], made["project"], made["displayName"]) == ("team", "mine", "Two words")


@pytest.fixture
def server(monkeypatch):
    """A W&B server with one project, tokensel of the user me; yields the variables of the saved views."""
    views = []
    project = {"id": "p", "name": "tokensel", "entityName": "me", "createdAt": "2026-01-01T00:00:00Z"}
    project |= {"isBenchmark": False, "user": None, "__typename": "Project"}
    page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
    viewer = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            data = {}
            if self.path == "/graphql":
                query = json.loads(body)
                data = {"viewer": viewer}
                if "models(" in query["query"]:
                    data = {"models": {"pageInfo": page, "edges": [{"cursor": "", "node": project}]}}
                elif "upsertView" in query["query"]:
                    views.append(query["variables"])
                    name = query["variables"]["name"]
                    data = {"upsertView": {"view": {"id": "v", "name": name}, "inserted": True}}
            answer = json.dumps({"data": data}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_): ...

    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{served.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    wandb.teardown()  # W&B reads the environment only once
    yield views
    wandb.teardown()
    served.shutdown()
    served.server_close()


def without_ids(value):
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key not in ("__id__", "id")}
    return [without_ids(item) for item in value] if isinstance(value, list) else value


def test_a_dry_run_prints_what_is_saved(server, capsys):
    assert dashboard.main(["project=nowhere"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert server == []
    assert "error: project=nowhere: me has no such project" in err.splitlines()[-1]

    assert dashboard.main(["project=tokensel"]) == 0
    saved = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (saved["entity"], saved["project"], saved["name"]) == ("me", "tokensel", dashboard.TITLE)
    (view,) = server
    assert view["name"] == f"nw-{saved['url'].partition('?nw=')[2]}-v"
    assert (view["entityName"], view["projectName"], view["type"]) == ("me", "tokensel", "project-view")
    assert dashboard.main(["project=tokensel", "--dry-run"]) == 0
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert without_ids(json.loads(view["spec"])) == without_ids(printed["spec"])


def test_a_server_that_refuses_is_one_line(monkeypatch, capsys):
    def refuse(_):
        raise wandb.errors.CommError(f"permission denied at https://user:{KEY}@host\nand more")

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(dashboard, "_save", refuse)
    assert dashboard.main(["project=tokensel"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: W&B could not save the workspace (permission denied at https://***@host)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "project: missing"),
        (["--dry-run"], "project: missing"),
        (["project="], "project=: must be a name"),
        (["project=a", "panel=b"], "panel: unknown key; keys are project, entity, name"),
        (["project=a", "--dry"], "--dry: unknown; allowed are project="),
        (["project=a"], "not logged in to W&B: run `wandb login`"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, capsys):
    assert dashboard.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"error: {message}")


def test_without_wandb_workspaces_it_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert dashboard.main(["project=a", "--dry-run"]) == 2
    assert capsys.readouterr().err == "error: wandb-workspaces is not installed: pip install wandb-workspaces\n"
