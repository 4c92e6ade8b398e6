"""The bookkeeping of `benchmarks`: what is measured again, and with what a ratio is taken. Nothing is measured here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.__main__ import continued
from benchmarks.metrics import METRICS, NULL, OURS
from benchmarks.report import Table, summary
from benchmarks.runner import Plan, finished, requests

PEERS = [OURS, NULL, "anyio", "ppe"]
PLAN = Plan(["latpin", "thr"], PEERS, rounds=2, loop="asyncio", workers=2, timeout=1, quick=True, seed=1)


def runs(*blocks):
    return [{"round": number, "case": case, "peer": peer} for number, case in blocks for peer in PEERS]


def test_a_measurement_goes_on_where_it_was_stopped():
    """A block (round, case) with all of its peers is not run again; one that lacks a peer is, whole."""
    kept = runs((0, "latpin"), (0, "thr"), (1, "thr"))[:-1]
    done = finished(PLAN, kept)
    assert done == {(0, "latpin"), (0, "thr")}
    left = [(number, request.case, request.peer) for number, request in requests(PLAN, done)]
    assert sorted(left) == sorted((1, case, peer) for case in PLAN.cases for peer in PEERS)


def test_the_order_of_what_is_left_is_that_of_the_whole():
    """The shuffling does not depend on what is left out."""
    whole = [(number, request) for number, request in requests(PLAN)]
    left = [(number, request) for number, request in requests(PLAN, {(0, "thr")})]
    assert left == [(number, request) for number, request in whole if (number, request.case) != (0, "thr")]


def test_parts_are_measured_under_one_set_of_conditions():
    """A file from another loop is not added to; more cases, peers and rounds are."""
    plan = {**vars(PLAN), "rounds": 1, "peers": [OURS, NULL], "cases": ["lat"]}
    old = {"machine": {"versions": {}}, "plan": plan, "runs": []}
    new = {"machine": {"versions": {"anyio": "4"}}, "plan": dict(vars(PLAN)), "runs": []}
    merged = continued(old, new)
    assert merged["plan"]["cases"] == ["lat", "latpin", "thr"]
    assert merged["plan"]["peers"] == PEERS
    assert merged["plan"]["rounds"] == 2
    uvloop = {**new, "plan": vars(replace(PLAN, loop="uvloop"))}
    with pytest.raises(SystemExit, match=r"measured with loop=asyncio: name another for --json"):
        continued(merged, uvloop)


def test_a_ratio_is_taken_within_a_round():
    """The median of the rounds' ratios, not the ratio of medians."""
    values = {OURS: (10, 40, 90), "ppe": (100, 200, 300), "anyio": (20, 100, 150), NULL: (10, 40, 90)}
    table = Table(
        [
            {
                "round": number,
                "case": "latpin",
                "peer": peer,
                "values": {"p50_us": us, "p99_us": us},
                "foreign": 0,
            }
            for peer, times in values.items()
            for number, us in enumerate(times)
        ]
    )
    assert summary(table) == [
        [
            "one trivial call, p50, pinned to one core",
            "40 us",
            "1",
            "anyio 100 us",
            "0.5",
            "<= 0.33 of anyio",
            "NOT MET",
        ],
        ["", "", "", "ppe 200 us", "0.2", "<= 0.2 of ppe", "met"],
    ]


def test_every_row_of_the_plan_has_its_case():
    """Fourteen cases, each with a number, and no number without its case."""
    from benchmarks.cases import CASES

    assert {metric.case for metric in METRICS} == set(CASES)
    assert len(CASES) == 14
