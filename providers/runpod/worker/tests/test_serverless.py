"""What RunPod is told beside a reply."""

from __future__ import annotations

from outboard_worker.failure import Failure
from outboard_worker.serverless import answer, refusal


def test_only_a_lack_of_memory_asks_for_another_worker() -> None:
    for kind, is_asked in (("out_of_memory", True), ("job_failed", False)):
        failure = Failure(kind, "a step of 64 rows does not fit in memory")
        for reply in (
            answer({"result": {"ended": {"failed": failure.to_json()}}}),
            refusal(failure),
        ):
            assert ("refresh_worker" in reply) == is_asked, reply
    assert answer({"result": {"ended": "cancelled"}}) == {"result": {"ended": "cancelled"}}
    assert answer({"loss": 0.5}) == {"loss": 0.5}
