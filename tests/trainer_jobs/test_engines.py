"""Runs of many workers, on other machines' storage, and while they grow: always the same bytes."""

import base64
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from upath import UPath

from at2 import LinearScoreEstimator
from at2.files import place_of
from tests.helpers.jobs import ROOT, data_file, fork, results, start, write_config

pytestmark = pytest.mark.usefixtures("one_thread")


def files_at(url: str) -> dict[str, bytes]:
    """Every result in another storage, by its name under the folder."""
    place = UPath(url, use_listings_cache=False)
    root = place.path.rstrip("/") + "/"
    kept = ("generations/", "features_and_outputs/", "estimators/")
    found = {
        path[len(root.lstrip("/")) if not path.startswith("/") else len(root) :]: path
        for path in place.fs.find(place.path)
    }
    return {name: place.fs.cat_file(path) for name, path in found.items() if name.startswith(kept)}


# -- ranks -----------------------------------------------------------------------------------------


def test_two_ranks_of_torchrun_share_a_whole_run(tmp_path: Path, finished: Path) -> None:
    config = write_config(tmp_path / "small.toml", tmp_path / "out")
    process = start(
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "trainer_jobs",
        "run",
        "--config",
        config,
        module="torch.distributed.run",
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert results(tmp_path / "out") == results(finished)
    name = "evaluation/default/evaluation.json"
    assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes()
    # Both have worked: each shard was made by one of them.
    made = [
        json.loads(path.read_text())["items"]
        for path in sorted((tmp_path / "out/status").glob("generate-*-of-2.json"))
    ]
    assert made == [[0, 2], [1, 3]]


def test_tasks_of_srun_are_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]
) -> None:
    for name, value in (("PROCID", "1"), ("NTASKS", "3"), ("LOCALID", "1")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert run("generate")[0] == 0
    assert [p.name for p in (tmp_path / "out/generations").glob("0*")] == ["00001.json"]


def test_a_gpu_that_the_scheduler_gave_and_torch_does_not_see_stops_the_run(
    monkeypatch: pytest.MonkeyPatch, run: Callable[..., tuple[int, str, str]]
) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "1")
    status, _, errors = run("generate")
    assert status == 1
    assert errors.splitlines()[-1].startswith("error: SLURM_GPUS_ON_NODE=1: a GPU was asked for")
    assert run("generate", "--device", "cpu")[0] == 0


# -- runs that grow --------------------------------------------------------------------------------


def times(out: Path) -> dict[str, int]:
    return {f"{path.parent.name}/{path.name}": path.stat().st_mtime_ns for path in out.glob("*/0*")}


def test_more_examples_and_a_larger_held_out_part_go_on(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    assert run("run", shuffle_seed=None, limit=4, held_out=2)[0] == 0
    before = times(tmp_path / "out")
    larger = {"shuffle_seed": None, "limit": 6, "held_out": 3, "dataset": data_file(20)}
    status, _, errors = run("run", save_name="larger", **larger)
    assert status == 0, errors
    after = times(tmp_path / "out")
    assert before.items() <= after.items()  # three whole shards, as they were
    assert len(after) == len(before) + 2 * 2
    assert run("run", save_name="larger", out=tmp_path / "fresh", **larger)[0] == 0
    grown, fresh = results(tmp_path / "out"), results(tmp_path / "fresh")
    assert fresh == {name: grown[name] for name in grown if "/default/" not in name}


def test_a_run_grows_while_other_workers_have_not_made_their_shards_again(
    run: Callable[..., tuple[int, str, str]],
) -> None:
    assert run("generate", shuffle_seed=None, limit=5, held_out=0)[0] == 0
    larger = {"shuffle_seed": None, "limit": 9, "held_out": 0}
    for index in ("1", "0"):  # shard 2, which was begun, is worker 0's
        flags = ("--num-jobs", "2", "--job-index", index)
        status, _, errors = run("generate", *flags, **larger)
        assert status == 0, errors


def test_training_does_not_load_the_model(
    tmp_path: Path, finished: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    assert run("generate")[0] == run("compute")[0] == 0
    model = tmp_path / "no-model/tiny-llama"  # of the same name
    features = json.loads((tmp_path / "out/features_and_outputs/manifest.json").read_text())
    assert features["settings"]["model"]["model"] == "tiny-llama"
    status, _, errors = run("train", model=str(model))
    assert status == 0, errors
    assert results(tmp_path / "out") == results(finished)
    for change, named in (
        ({"model": "another"}, "model is 'another', but was 'tiny-llama'"),
        ({"source_type": ["sentence"]}, "source_type is ['sentence'], but was 'token'"),
        ({"exponents": [1, 0.5]}, "exponents is [1.0, 0.5], but was [1.0]"),
        ({"contrast": True}, "contrast is True, but was False"),
        ({"num_masks": 5}, "num_masks is 5, but was 4"),
    ):
        status, _, errors = run("train", **{"save_name": "other", **change})
        assert status == 1
        assert errors.splitlines()[-1].startswith("error: features_and_outputs was made with other")
        assert named in errors


def test_an_evaluation_is_shared_and_finished_by_whoever_is_last(
    tmp_path: Path,
    finished: Path,
    run: Callable[..., tuple[int, str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for stage in ("generate", "compute", "train"):
        assert run(stage)[0] == 0
    folder = tmp_path / "out/evaluation/default"
    status, output, errors = run("evaluate", "--num-jobs", "2", "--job-index", "1")
    assert status == 0, errors
    assert len(list((folder / "examples").glob("*.json"))) == 1
    assert not (folder / "evaluation.json").exists() and "|" not in output
    assert "Evaluating: 1 of 2 are left to others" in caplog.messages
    status, output, _ = run("evaluate", "--num-jobs", "2", "--job-index", "0")
    assert status == 0 and "Linear datamodeling score" in output
    name = "evaluation/default/evaluation.json"
    assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes()


# -- other storages --------------------------------------------------------------------------------


def test_a_run_may_be_in_memory(finished: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    out = "memory://jobs/run"
    status, output, errors = run("run", out=out)
    assert status == 0, errors
    assert files_at(out) == results(finished)
    assert f"Estimator: {out}/estimators/default" in output
    loaded = LinearScoreEstimator.load(f"{out}/estimators/default")
    whole = LinearScoreEstimator.load(finished / "estimators/default")
    assert torch.equal(loaded.linear.weight, whole.linear.weight)
    # What is there is found; what is damaged is made again.
    place = place_of(out) / "features_and_outputs/00001.safetensors"
    content = place.read_bytes()
    place.write_bytes(content[:200] + b"x" + content[201:])
    (place_of(out) / "estimators/default/training.json").unlink()
    status, _, errors = run("train", out=out)
    assert status == 1 and "00001.safetensors is damaged" in errors.splitlines()[-1]
    place.unlink()
    assert run("compute", out=out)[0] == 0
    assert place.read_bytes() == content
    status, _, errors = run("generate", out=out, max_new_tokens=5)
    assert status == 1 and "max_new_tokens is 5, but was 6" in errors


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A server that speaks S3, and the variables that lead to it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    boto3.client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    ).create_bucket(Bucket="at2")
    yield variables
    server.stop()


def s3_files(variables: dict[str, str], prefix: str) -> dict[str, bytes]:
    import s3fs

    files = s3fs.S3FileSystem(
        key="key",
        secret="secret",
        client_kwargs={"endpoint_url": variables["AWS_ENDPOINT_URL"]},
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    kept = ("generations/", "features_and_outputs/", "estimators/")
    found = {path.removeprefix(f"{prefix}/"): path for path in files.find(prefix)}
    return {name: files.cat_file(path) for name, path in found.items() if name.startswith(kept)}


def test_workers_that_are_killed_share_a_bucket(
    finished: Path,
    s3: dict[str, str],
    run: Callable[..., tuple[int, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out: dict[str, Any] = {"out": "s3://at2/run", "checkpoint_every": 1}
    config = write_config(tmp_path / "both.toml", **out)
    both = [
        fork("generate", "--config", config, "--num-jobs", "2", "--job-index", str(index), **s3)
        for index in (0, 1)
    ]
    while both[0].poll() is None and not s3_files(s3, "at2/run"):
        time.sleep(0.01)
    both[0].kill()
    for process in both:
        process.communicate()
    assert both[1].returncode == 0
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    status, _, errors = run("run", **out)
    assert status == 0, errors
    assert s3_files(s3, "at2/run") == results(finished)


def test_a_storage_that_does_not_answer_is_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path / "small.toml", "s3://at2/run")
    process = start(
        "generate",
        "--config",
        config,
        AWS_ENDPOINT_URL="http://127.0.0.1:9",
        AWS_ACCESS_KEY_ID="key",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_MAX_ATTEMPTS="1",
    )
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("error: ") and "Traceback" not in errors


# -- Ray -------------------------------------------------------------------------------------------


RAY = {"RAY_worker_niceness": "0"}
"""Actors are as polite as this process, and no more: other tests may keep all cores busy."""


_ENDS_ITSELF = """
import os, signal
from pathlib import Path

def once(move):
    def moved(source, target, **how):
        if Path(target).match("generations/0*.json"):
            try:
                os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass  # that was another
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return move(source, target, **how)
    return moved

os.replace, os.link = once(os.replace), once(os.link)
"""
"""What Python reads at its start: the process that is the first to give a shard of responses its
name ends there instead, by SIGKILL. A moment that is the same on every machine."""


def test_actors_of_ray_make_the_same_bytes_also_when_one_is_killed(
    tmp_path: Path, finished: Path
) -> None:
    pytest.importorskip("ray")
    mark = tmp_path / "ended"
    (tmp_path / "sitecustomize.py").write_text(_ENDS_ITSELF.format(mark=str(mark)))
    config = write_config(tmp_path / "small.toml", tmp_path / "out")
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    process = start(
        "run", "--config", config, "--engine", "ray", "--num-jobs", "2", PYTHONPATH=path, **RAY
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert mark.exists()
    assert re.search(r"generate: an actor died at item \d+: again", errors), errors
    assert results(tmp_path / "out") == results(finished)
    name = "evaluation/default/evaluation.json"
    assert (tmp_path / "out" / name).read_bytes() == (finished / name).read_bytes()


def test_ray_tells_what_the_library_refuses_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    config = write_config(tmp_path / "small.toml", tmp_path / "out")
    process = start("compute", "--config", config, "--engine", "ray", "--num-jobs", "1", **RAY)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == "error: no responses yet: run generate() first"


# -- what leaves the folder ------------------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's interface that an upload uses."""

    files: dict[str, bytes]
    refuse = False

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if type(self).refuse:
            return self._answer({"error": "You are not welcome here"}, 403)
        if self.path == "/api/repos/create":
            name = json.loads(body)
            url = f"http://{self.headers['Host']}/{name.get('organization', 'me')}/{name['name']}"
            return self._answer({"url": url})
        if "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            return self._answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in wanted
                    ]
                }
            )
        if "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    value = entry["value"]
                    self.files[value["path"]] = base64.b64decode(value["content"])
            url = f"http://{self.headers['Host']}/owner/name/commit/{'0' * 40}"
            return self._answer({"success": True, "commitOid": "0" * 40, "commitUrl": url})
        return self._answer({})

    def do_GET(self) -> None:
        self._answer({"siblings": [], "sha": "0" * 40, "id": "owner/name"})

    def _answer(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture()
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """The address of a hub, and what it got."""
    kind = type("ThisHub", (Hub,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", kind
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_estimator_is_uploaded_with_its_card(
    tmp_path: Path, finished: Path, hub: tuple[str, type[Hub]]
) -> None:
    address, kind = hub
    config = write_config(tmp_path / "small.toml", finished)
    variables = {"HF_ENDPOINT": address, "HF_TOKEN": "hf_" + "x" * 20, "HF_HUB_OFFLINE": "0"}
    upload = ("train", "--config", config, "--push-to-hub", "owner/name")
    kind.refuse = True
    process = start(*upload, **variables)
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("error: cannot upload the estimator to owner/name: ")
    assert "the same command tries again" in errors and variables["HF_TOKEN"] not in errors
    kind.refuse = False
    process = start(*upload, **variables)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert f"Uploaded estimator to {address}/owner/name" in output
    folder = finished / "estimators/default"
    assert kind.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"README.md", "score_estimator.safetensors"} <= kind.files.keys()


def test_figures_are_shown_by_tensorboard(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    event_accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    assert run("run", "--report-to", "tensorboard")[0] == 0
    found = event_accumulator.EventAccumulator(str(tmp_path / "out/tensorboard/default")).Reload()
    record = json.loads((tmp_path / "out/estimators/default/training.json").read_text())
    losses = found.Scalars("train/loss")
    assert [each.step for each in losses] == [1, 2, 3, 4, 5, 6]
    assert [each.value for each in losses] == pytest.approx(record["losses"])
    rates = [each.value for each in found.Scalars("train/learning_rate")]
    assert rates[0] == pytest.approx(1e-3) and rates == sorted(rates, reverse=True)
    held_out = found.Scalars("held_out/correlation")
    assert [each.step for each in held_out] == [3, 6]
    assert held_out[-1].value == pytest.approx(record["held_out"]["6"]["correlation"])
    assert found.Scalars("train/steps_per_second")[-1].value > 0
