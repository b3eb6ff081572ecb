"""The plan, the queues and the decoders' memory in the summary of a dry run and in the report."""

from __future__ import annotations

import json

from pipeline.observe.memory import plan_lines, summary_line
from pipeline.observe.status import RunStatus
from pipeline.observe.summary import as_dict, render_plan
from pipeline.queues import QueueStats
from pipeline.vram import MIB, Allowance, MemoryPlan, Part, Shares

PARTS = (Part("decoders", 100 * MIB, "2 at a time"), Part("TensorFlow", 600 * MIB + 1, "m: at least"))
SHARES = Shares(1000 * MIB, 500 * MIB, 250 * MIB, 1000 * MIB)
PLAN = MemoryPlan(PARTS, 2000 * MIB, 4000 * MIB, SHARES, ("1 of 2 sources counts as large",))


def test_the_table() -> None:
    assert plan_lines(PLAN) == [
        "decoders      100 MB  2 at a time",
        "TensorFlow    601 MB  m: at least",
        "together      701 MB",
        "free        4,000 MB  when the plan was made",
        "budget      2,000 MB  fits",
        "divided               TensorFlow at most 1,000 MB, decoders 500 MB",
        "note: 1 of 2 sources counts as large",
    ]
    assert "701 MB of 2,000 MB are planned" in summary_line(PLAN)


def test_without_a_gpu_and_with_a_budget_that_is_too_small() -> None:
    lines = plan_lines(MemoryPlan(PARTS, 500 * MIB, None, None))
    assert "free        unknown  there is no GPU to ask" in lines
    assert "budget       500 MB  does NOT fit" in lines


def test_a_dry_run_shows_the_plan_of_the_cuda_engine() -> None:
    status = RunStatus(device="cuda", memory=PLAN)
    assert "GPU memory\n    decoders      100 MB  2 at a time" in render_plan(status, [])
    assert "GPU memory" not in render_plan(RunStatus(), [])


def test_the_report_holds_plan_queues_and_what_decoders_took(status: RunStatus) -> None:
    bare = as_dict(status)
    assert (bare["memory"], bare["decoder_memory"], bare["queues"]) == (None, None, {})
    assert bare["sources"][0]["surfaces"] is None
    status.memory, status.decoder_memory = PLAN, Allowance(500)
    assert status.decoder_memory.take(300)
    status.decoder_memory.give_back(100)
    status.queues["results"] = QueueStats(2, 1, 2, 5, 0.25, 7, 1.5)
    status.sources["yard"].slot = QueueStats(4, 0, 3, 1, 0.5)
    status.sources["yard"].decode.surfaces = QueueStats(15, 2, 9, 4, 0.75, item_bytes=1000)
    report = json.loads(json.dumps(as_dict(status)))
    assert report["memory"]["total_bytes"] == 700 * MIB + 1
    assert report["memory"]["fits"] is True
    assert report["memory"]["shares"]["source_bytes"] == 250 * MIB
    assert report["decoder_memory"] == {"limit_bytes": 500, "taken_bytes": 200, "high_water_bytes": 300}
    assert report["queues"]["results"] == {
        "capacity": 2,
        "items": 1,
        "high_water": 2,
        "put_waits": 5,
        "put_wait_s": 0.25,
        "get_waits": 7,
        "get_wait_s": 1.5,
        "item_bytes": 0,
        "high_water_bytes": 0,
    }
    yard = report["sources"][0]
    assert (yard["slot"]["high_water"], yard["slot"]["put_wait_s"]) == (3, 0.5)
    assert (yard["surfaces"]["high_water"], yard["surfaces"]["high_water_bytes"]) == (9, 9000)
