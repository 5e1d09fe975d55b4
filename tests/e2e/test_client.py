"""A client's story: register, sign in, upload a real table, follow its job, read what the worker found."""

from __future__ import annotations

import pytest

from tests.e2e.system import ended, register, until
from tests.e2e.tables import facts, made_table, real_table

pytestmark = pytest.mark.e2e

# Some 160 MB. Progress is written every half second, so the work must last for several also where the machine is quick.
ROWS = 4_000_000


def column(profile, name):
    (found,) = [item for item in profile["columns"] if item["name"] == name]
    return found


def test_a_user_registers_signs_in_and_is_known(client, user):
    me = user.data("GET", "/users/me")
    assert me["username"] == user.username
    assert client.get("/users/me").status_code == 401


def test_the_worker_profiles_a_real_table(system, user):
    content = real_table("seattle-weather.csv")
    accepted = user.upload("seattle-weather.csv", content)
    task = user.finished(accepted["task_id"], 120)
    assert task["attempt"] == 1
    profile = user.data("GET", f"/datasets/{accepted['id']}")["profile"]

    truth = facts(content)
    assert profile["rows"] == truth["rows"] == 1461
    assert profile["size_bytes"] == len(content)
    assert [item["name"] for item in profile["columns"]] == list(truth["columns"])
    for name in ("precipitation", "temp_max", "temp_min", "wind"):
        found, known = column(profile, name), truth["columns"][name]
        assert found["type"] == "number"
        assert (found["missing"], found["distinct"]) == (known["missing"], known["distinct"])
        for measure in ("min", "max", "mean", "std"):
            assert found[measure] == pytest.approx(known[measure], rel=1e-9), (name, measure)
        assert found["quantiles"]["p50"] == pytest.approx(known["p50"])
    weather, counts = column(profile, "weather"), truth["columns"]["weather"]["counts"]
    assert weather["type"] == "text"
    assert {item["value"]: item["count"] for item in weather["top_values"]} == dict(counts)
    assert column(profile, "date")["type"] == "date"

    # it was the worker pod that did it
    (worker,) = system.ready_pods("worker")
    assert task["id"] in system.kubectl("logs", worker)


def test_progress_can_be_followed(user):
    content = made_table(ROWS)
    accepted = user.upload("large.csv", content)
    seen = []

    def look():
        task = user.task(accepted["task_id"])
        if task["status"] == "running" and task["progress"]:
            seen.append(task["progress"]["fraction"])
        return ended(task)

    task = until(look, 300, "the large table is profiled", pause=0.1)
    assert task["status"] == "succeeded", task
    assert len(set(seen)) >= 3, seen
    assert seen == sorted(seen)
    assert all(0 <= fraction <= 1 for fraction in seen)
    profile = user.data("GET", f"/datasets/{accepted['id']}")["profile"]
    assert profile["rows"] == ROWS
    assert {item["value"]: item["count"] for item in column(profile, "category")["top_values"]} == {
        f"c{number}": len(range(number, ROWS, 7)) for number in range(7)
    }


def test_what_is_somebody_elses_does_not_exist(client, user):
    accepted = user.upload("stocks.csv", real_table("stocks.csv"))
    user.finished(accepted["task_id"], 120)
    stranger = register(client)
    for method, path in (
        ("GET", f"/datasets/{accepted['id']}"),
        ("DELETE", f"/datasets/{accepted['id']}"),
        ("GET", f"/tasks/{accepted['task_id']}"),
        ("POST", f"/tasks/{accepted['task_id']}/cancel"),
    ):
        answer = stranger.call(method, path)
        assert answer.status_code == 404, path
        assert answer.json()["success"] is False
    assert stranger.data("GET", "/datasets")["items"] == []
    assert user.data("GET", f"/datasets/{accepted['id']}")["profile"]["rows"] == 560


def test_a_deleted_dataset_is_gone(user):
    accepted = user.upload("stocks.csv", real_table("stocks.csv"))
    user.finished(accepted["task_id"], 120)
    user.data("DELETE", f"/datasets/{accepted['id']}")
    assert user.call("GET", f"/datasets/{accepted['id']}").status_code == 404
    assert user.data("GET", "/datasets")["items"] == []


def test_the_jobs_of_the_guide_run_in_the_worker(user):
    started = user.data("POST", "/process-data", 202, json={"id": "sales", "values": [1, 2, 3.5]})
    task = user.finished(started["task_id"], 60)
    assert task["result"]["numbers"]["values"] == {
        "count": 3,
        "min": 1,
        "max": 3.5,
        "mean": 6.5 / 3,
        "median": 2,
    }
    created = user.data("POST", "/tasks/background", 202, json={"numbers": [4, 6]})
    assert user.finished(created["task_id"], 60)["result"]["numbers"]["numbers"]["mean"] == 5
