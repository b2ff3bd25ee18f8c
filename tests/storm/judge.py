"""Whether a run that is closed did what its plan says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from storm.effects import Effects
from storm.line import Line
from storm.plans import CANCELLED, FAILS, RETURNS, TERMINATED, TIMES_OUT, Job, Plan, Step, attributes
from storm.signals import Sender

STATUS = {
    RETURNS: "COMPLETED",
    FAILS: "FAILED",
    CANCELLED: "CANCELLED",
    TERMINATED: "FAILED",
    TIMES_OUT: "TIMED_OUT",
}
REASON = "storm"
VERSION = "assay_engine_version"


class Judge:
    """Compares runs with their plans; every method yields sentences that say what is wrong."""

    def __init__(self, line: Line, effects: Effects, senders: Mapping[str, Sender]) -> None:
        self._line = line
        self._effects = effects
        self._senders = senders

    def job(self, job: Job) -> Iterator[str]:
        """A run that was started, and everything under it."""
        *_, last = self._line.chain(job.id)
        ending = last["status"], last["error"]
        if ending != (STATUS[job.ending], _error(job)):
            yield f"{job.id} {job.ending}, but it ended as {ending}"
        elif job.ending == RETURNS:
            yield from self.returned(job.id, job.plan)

    def returned(self, workflow_id: str, plan: Plan) -> Iterator[str]:
        """A chain of runs whose last one returned."""
        chain = self._line.chain(workflow_id)
        last = chain[-1]
        result = last["result"]
        if not isinstance(result, list) or len(result) != len(plan):
            yield f"{workflow_id}: {len(plan)} steps gave {result!r}"
            return
        for step, value in zip(plan, result, strict=True):
            problem = self._step(step, value)
            if problem:
                yield f"{workflow_id}: {step}: {problem}"
            elif step["op"] == "child" and value[0]:
                yield from self.returned(step["id"], step["plan"])
        yield from self._records(last, plan)
        yield from self._recorded_once([record["id"] for record in chain], result)

    def _step(self, step: Step, value: Any) -> str | None:
        """What is wrong with the value of one step, None when nothing is."""
        op = step["op"]
        if op in ("add", "side"):
            return self._is_effect(step["input"]["key"], value)
        if op == "parallel":
            problems = map(self._is_effect, (item["key"] for item in step["inputs"]), value)
            return next(filter(None, problems), None if len(value) == len(step["inputs"]) else f"it gave {value}")
        if op == "signals":
            return self._senders[step["name"]].check(value)
        expected = _expected(step)
        if op == "child" and expected is None:
            return None if value[0] is True else f"it gave {value}"
        return None if value == expected else f"it gave {value!r}, not {expected!r}"

    def _is_effect(self, key: str, serial: Any) -> str | None:
        found = self._effects.key(serial) if isinstance(serial, int) else None
        return None if found == key else f"it gave {serial!r}, which is an execution of {found!r}"

    def _records(self, last: dict[str, Any], plan: Plan) -> Iterator[str]:
        """Search attributes and query values of the last run of a chain."""
        attrs = {name: value for name, value in last["search_attributes"].items() if name != VERSION}
        if attrs != attributes(plan):
            yield f"{last['id']}: search attributes {attrs}, not {attributes(plan)}"
        state = self._line.ask("workflows", last["id"], "state", "done")
        if state is None or state["value"] != len(plan):
            yield f"{last['id']}: the query shows {state}, not {len(plan)}"

    def _recorded_once(self, workflow_ids: list[str], result: list[Any]) -> Iterator[str]:
        """The results in the histories are those that the run returned: none is missing, none came twice."""
        recorded = sorted(serial for workflow_id in workflow_ids for serial in self._serials(workflow_id))
        returned = sorted(_serials_of(result))
        if recorded != returned:
            yield f"{workflow_ids}: recorded results {recorded}, returned {returned}"

    def _serials(self, workflow_id: str) -> Iterator[int]:
        for event in self._line.ask("workflows", workflow_id, "events"):
            payload = event["payload"]
            if event["event_type"] == "ActivityCompleted":
                yield payload["result"]
            elif event["event_type"] == "SideEffectRecorded" and payload["name"] == "effect":
                yield payload["value"]

    def open_descendants(self, workflow_id: str) -> list[str]:
        """The runs below a chain of runs that are not closed."""
        found = []
        for record in self._line.chain(workflow_id):
            for child in self._line.ask("workflows", record["id"], "children"):
                if child["status"] in ("PENDING", "RUNNING"):
                    found.append(child["id"])
                found += self.open_descendants(child["id"])
        return found


def _error(job: Job) -> str | None:
    if job.ending == FAILS:
        return str(job.plan[-1]["text"])
    if job.ending == TIMES_OUT:
        return f"execution timeout after {job.timeout_secs:g} s"
    return None if job.ending == RETURNS else REASON


def _expected(step: Step) -> Any:
    """The one value that a step can give; None for a child that returns."""
    op = step["op"]
    if op == "doomed":
        return f"activity 'doomed' failed: doomed {step['text']}"
    if op == "side_error":
        return step["text"]
    if op == "child":
        fails = step["plan"] and step["plan"][-1]["op"] == "fail"
        return [False, f"child workflow '{step['id']}' failed: {step['id']} fails"] if fails else None
    return True


def _serials_of(result: list[Any]) -> Iterator[int]:
    """The serial numbers in what a plan returned; in lists only those of parallel activities."""
    for value in result:
        if isinstance(value, bool):
            continue
        if isinstance(value, int):
            yield value
        elif isinstance(value, list):
            yield from (item for item in value if isinstance(item, int) and not isinstance(item, bool))
