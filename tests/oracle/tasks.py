"""The verbs of workers and the passes of time: claims, leases, submissions, attempts, turns, time-outs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracle.model import CLOSING, NEW_WORK, RECORDS, Runs
from oracle.records import (
    ANY,
    COMPLETED,
    FAILED,
    FIRED,
    PENDING,
    RUNNING,
    STATUS,
    Activity,
    Fresh,
    Refused,
    Run,
    Worker,
    is_token,
)

STICKY_SECS = 1.0
LOST_ROWS_KEPT_SECS = 600.0


class Model(Runs):
    """The whole engine without schedules and archival."""

    # -- workers -------------------------------------------------------------------------------------------------

    def worker(self, worker_id: str) -> Worker:
        worker = self.workers.get(worker_id)
        if worker is None or worker.lost:
            raise Refused("unknown_worker")
        return worker

    def register(self, worker_id: str, namespace: str, **more: Any) -> dict[str, Any]:
        if namespace not in self.namespaces:
            raise Refused("namespace_not_found")
        self.workers[worker_id] = Worker(worker_id, namespace, last_heartbeat=self.now, registered_at=self.now, **more)
        self.tell("worker_registered")
        return self.settings(worker_id)

    def settings(self, worker_id: str) -> dict[str, Any]:
        return {"worker_id": worker_id, "heartbeat_interval_secs": self.lease / 3, "lease_secs": self.lease}

    def heartbeat(self, worker_id: str, task_tokens: list[str] | None) -> dict[str, Any]:
        worker = self.worker(worker_id)
        self.renew(worker, task_tokens)
        held = {thing.token.value for thing in (*self.leases(worker), *self.attempts(worker)) if thing.token}
        lost = [token for token in task_tokens or () if token not in held]
        return {**self.settings(worker_id), "lost_task_tokens": lost}

    def touch(self, worker: Worker, task_tokens: Sequence[str] | None = None) -> None:
        """The sign of life of a poll or turn; it may be written as rarely as every tenth of a lease."""
        if self.now - worker.last_heartbeat >= self.lease / 10:
            self.renew(worker, task_tokens)

    def renew(self, worker: Worker, task_tokens: Sequence[str] | None) -> None:
        worker.last_heartbeat = self.now
        for run in self.leases(worker):
            listed = task_tokens is not None and any(is_token(run.token, token) for token in task_tokens)
            run.listed = run.listed or listed
            if listed or task_tokens is None:
                run.renewed_at = self.now
        for activity in self.attempts(worker):
            if task_tokens is None or any(is_token(activity.token, token) for token in task_tokens):
                activity.renewed_at = self.now

    def leases(self, worker: Worker) -> list[Run]:
        return [run for _, run in sorted(self.runs.items()) if run.holder == worker.id]

    def activities(self) -> list[Activity]:
        """All activities by id."""
        found = [activity for run in self.runs.values() for activity in run.activities.values()]
        return sorted(found, key=lambda activity: activity.made)

    def attempts(self, worker: Worker) -> list[Activity]:
        return [one for one in self.activities() if one.status == RUNNING and one.claimed_by == worker.id]

    def deregister(self, worker_id: str) -> dict[str, Any]:
        worker = self.worker(worker_id)
        del self.workers[worker_id]
        self.release(worker)
        self.tell("worker_deregistered")
        return {"worker_id": worker_id}

    def lose(self, worker: Worker) -> None:
        """Silent for a whole lease: so are its leases."""
        for run in self.leases(worker):
            self.expire_lease(run)
        worker.lost = True
        self.release(worker)
        self.tell("worker_lost")

    def release(self, worker: Worker) -> None:
        for run in self.leases(worker):
            run.end_lease()
            run.forget_sticky()
            self.dispatch(run)
        for activity in sorted(self.attempts(worker), key=lambda one: (one.workflow_id, one.made)):
            self.attempt_failed(activity, "worker lost", token=None)

    # -- claims --------------------------------------------------------------------------------------------------

    def poll_workflow(self, worker_id: str, queue: str | None, chosen: list[str]) -> dict[str, Any] | None:
        worker = self.polling(worker_id, queue)
        tasks = self.claim_runs(worker, 1, chosen)
        return tasks[0] if tasks else None

    def poll_activity(self, worker_id: str, queue: str | None) -> dict[str, Any] | None:
        tasks = self.claim_activities(self.polling(worker_id, queue), 1)
        return tasks[0] if tasks else None

    def polling(self, worker_id: str, queue: str | None) -> Worker:
        worker = self.worker(worker_id)
        if queue not in (None, worker.task_queue):
            raise Refused("validation_failed")
        self.touch(worker)
        return worker

    def claimable(self, worker: Worker) -> list[Run]:
        return [run for run in self.runs.values() if self.may_claim(worker, run)]

    def may_claim(self, worker: Worker, run: Run) -> bool:
        fits = (run.namespace, run.task_queue) == (worker.namespace, worker.task_queue) and run.type in worker.workflows
        due = run.open and run.needs_dispatch and run.token is None and run.dispatchable_at <= self.now
        return fits and due and self.reserved_for(run) in (None, worker.id)

    def reserved_for(self, run: Run) -> str | None:
        """The active worker that has the run in memory, for the first second."""
        worker = self.workers.get(run.sticky_worker or "")
        if worker is None or worker.lost or self.now >= run.dispatchable_at + STICKY_SECS:
            return None
        return worker.id

    def claim_runs(self, worker: Worker, limit: int, chosen: list[str]) -> list[dict[str, Any]]:
        """Take the runs that the engine chose, when the choice is one that it may make."""
        limit = min(limit, worker.max_workflows - len(self.leases(worker)))
        tasks = []
        for workflow_id in chosen:
            candidates = self.claimable(worker)
            oldest = min((run.dispatchable_at for run in candidates), default=None)
            allowed = {run.id for run in candidates if run.dispatchable_at == oldest}
            assert workflow_id in allowed and limit > 0, f"claimed {workflow_id}, allowed are {allowed} up to {limit}"
            tasks.append(self.claim(worker, self.runs[workflow_id]))
            limit -= 1
        left = [run.id for run in self.claimable(worker)]
        assert limit <= 0 or not left, f"{worker.id} was not given {left}"
        return tasks

    def claim(self, worker: Worker, run: Run) -> dict[str, Any]:
        if run.status == PENDING:
            run.status = RUNNING
            self.tell("workflow_running", run)
        run.needs_dispatch = False
        run.token, run.holder, run.listed = Fresh("token"), worker.id, False
        run.claimed_at = run.renewed_at = self.now
        run.lease_epoch += 1
        run.delivered = len(run.events)
        after = 0
        if worker.sticky and run.sticky_worker == worker.id and run.sticky_seq is not None:
            after = run.sticky_seq
        return {
            "workflow_id": run.id,
            "run_id": run.run_id,
            "namespace": run.namespace,
            "workflow_type": run.type,
            "task_queue": run.task_queue,
            "input": run.input,
            "task_token": run.token,
            "attempt": run.task_attempts + 1,
            "history_from_seq": after + 1,
            "history": [
                {"seq": seq, "event_type": event.type, "payload": event.payload, "timestamp": event.timestamp}
                for seq, event in enumerate(run.events, 1)
                if seq > after
            ],
        }

    def claim_activities(self, worker: Worker, limit: int) -> list[dict[str, Any]]:
        limit = min(limit, worker.max_activities - len(self.attempts(worker)))
        due = [
            one
            for one in self.activities()
            if one.status == PENDING
            and one.scheduled_at <= self.now
            and one.name in worker.activities
            and one.task_queue == worker.task_queue
            and self.runs[one.workflow_id].namespace == worker.namespace
        ]
        due.sort(key=lambda one: (one.scheduled_at, one.made))
        return [self.start_attempt(worker, one) for one in due[: max(limit, 0)]]

    def start_attempt(self, worker: Worker, activity: Activity) -> dict[str, Any]:
        run = self.runs[activity.workflow_id]
        assert run.open and run.cancel_requested_at is None
        activity.status, activity.claimed_by, activity.token = RUNNING, worker.id, Fresh("token")
        activity.started_at = activity.renewed_at = self.now
        activity.last_heartbeat = None
        self.tell("activity_started", run)
        return {
            "id": activity.id,
            "workflow_id": run.id,
            "activity_seq": activity.seq,
            "name": activity.name,
            "task_queue": activity.task_queue,
            "input": activity.input,
            "attempt": activity.attempt,
            "max_attempts": activity.options["max_attempts"],
            "start_to_close_secs": activity.options["start_to_close_secs"],
            "heartbeat_timeout_secs": activity.options["heartbeat_timeout_secs"],
            "heartbeat_details": activity.details,
            "task_token": activity.token,
        }

    def undo(self, worker_id: str, task_tokens: list[str]) -> None:
        """Claims whose answer could not be written are as if they had not been made."""
        for token in task_tokens:
            for run in self.runs.values():
                if is_token(run.token, token) and run.holder == worker_id:
                    run.end_lease()
                    run.needs_dispatch = True  # since the time of its last news, as before the claim
            for activity in self.activities():
                if is_token(activity.token, token) and activity.claimed_by == worker_id:
                    self.unclaim(activity)

    def unclaim(self, activity: Activity) -> None:
        if self.runs[activity.workflow_id].cancel_requested_at is not None:
            # Nothing may be pending now, and no worker has it: the attempt is over like any lost one.
            self.attempt_failed(activity, "worker lost", token=None)
            return
        activity.status, activity.token, activity.claimed_by = PENDING, None, None
        activity.started_at = activity.renewed_at = activity.last_heartbeat = None

    # -- workflow tasks ------------------------------------------------------------------------------------------

    def submit(
        self, worker_id: str, workflow_id: str, token: str, commands: list[dict[str, Any]], namespace: str | None
    ) -> dict[str, Any]:
        worker = self.worker(worker_id)
        run, repeated = self.current(worker, workflow_id, token, "commands", namespace)
        if repeated:
            return self.submitted(run, "repeated")
        self.check_batch(run, commands)
        kinds = {command["type"] for command in commands}
        if run.cancel_requested_at is not None and kinds & set(NEW_WORK):
            run.end_lease()
            run.forget_sticky()
            self.dispatch(run)
            raise Refused("cancel_requested")
        self.check_names(run, commands)
        for command in commands:
            if command["type"] not in CLOSING:
                self.apply(run, command)
        return self.submitted(run, self.end_task(worker, run, token, commands, kinds))

    def end_task(self, worker: Worker, run: Run, token: str, commands: list[dict[str, Any]], kinds: set[str]) -> str:
        """The lease ends and what follows from the batch as a whole; the outcome."""
        run.end_lease()
        run.last_token, run.last_kind = token, "commands"
        run.accepted = run.delivered
        if kinds & set(RECORDS) and not kinds & set(NEW_WORK) and not kinds & set(CLOSING):
            self.dispatch(run)
        if not kinds & set(CLOSING) and self.waits_for_nothing(run):
            # Whatever the batch holds: the run would be open for ever, because no event could wake it.
            self.task_failed(run, "internal", ANY, True)
            return "applied"
        run.task_error, run.task_attempts = None, 0
        run.answered_cancel = run.cancel_requested_at is not None
        run.sticky_worker = worker.id if worker.sticky else None
        run.sticky_seq = run.delivered if worker.sticky else None
        return self.end_run(run, commands[-1]) if kinds & set(CLOSING) else "applied"

    def end_run(self, run: Run, closing: dict[str, Any]) -> str:
        puts_off = closing["type"] in ("CompleteWorkflow", "ContinueAsNew") and run.cancel_requested_at is None
        if puts_off and not run.deferred and run.signals(run.delivered):
            run.deferred = True
            run.forget_sticky()
            self.dispatch(run)
            return "deferred"
        self.apply_closing(run, closing)
        return "applied"

    def current(
        self, worker: Worker, workflow_id: str, token: str, kind: str, namespace: str | None
    ) -> tuple[Run, bool]:
        run = self.find(workflow_id, namespace)
        if run.last_token == token:
            if run.last_kind == kind:
                return run, True
            raise Refused("stale_task_token")
        if not run.open:
            raise Refused("workflow_closed")
        if not is_token(run.token, token) or run.holder != worker.id:
            raise Refused("stale_task_token")
        return run, False

    def submitted(self, run: Run, outcome: str) -> dict[str, Any]:
        return {
            "workflow_id": run.id,
            "run_id": run.run_id,
            "outcome": outcome,
            "status": run.status,
            "last_event_seq": len(run.events),
        }

    def fail_task(
        self, worker_id: str, workflow_id: str, token: str, kind: str, error: str, namespace: str | None
    ) -> dict[str, Any]:
        worker = self.worker(worker_id)
        run, repeated = self.current(worker, workflow_id, token, "fail", namespace)
        if not repeated:
            run.end_lease()
            run.last_token, run.last_kind = token, "fail"
            self.task_failed(run, kind, error, True)
        answer = {
            "workflow_id": run.id,
            "run_id": run.run_id,
            "outcome": "repeated" if repeated else "applied",
        }
        return answer if repeated else {**answer, "task_attempts": run.task_attempts, "retry_at": run.dispatchable_at}

    # -- activities ----------------------------------------------------------------------------------------------

    def attempt(self, activity_id: int, worker_id: str, token: str, kind: str) -> tuple[Activity, bool]:
        self.worker(worker_id)
        activity = next((one for one in self.activities() if one.id.value == activity_id), None)
        if activity is None:
            raise Refused("activity_not_found")
        if activity.last_token == token and activity.last_kind == kind:
            return activity, True
        if not is_token(activity.token, token) or activity.claimed_by != worker_id:
            raise Refused("stale_task_token")
        return activity, False

    def complete_activity(self, activity_id: int, worker_id: str, token: str, result: Any) -> dict[str, Any]:
        activity, repeated = self.attempt(activity_id, worker_id, token, "complete")
        if repeated:
            return {"id": activity_id, "outcome": "repeated", "status": "COMPLETED"}
        run = self.runs[activity.workflow_id]
        activity.status, activity.result, activity.completed_at = COMPLETED, result, self.now
        self.end_attempt(activity, token, "complete")
        payload = {"activity_id": activity.id, "activity_seq": activity.seq, "name": activity.name, "result": result}
        self.append(run, "ActivityCompleted", payload, f"activity_closed:{activity.seq}")
        self.dispatch(run)
        self.tell("activity_completed", run)
        return {"id": activity_id, "outcome": "applied", "status": "COMPLETED"}

    def fail_activity(
        self, activity_id: int, worker_id: str, token: str, error: str, non_retryable: bool
    ) -> dict[str, Any]:
        activity, repeated = self.attempt(activity_id, worker_id, token, "fail")
        if repeated:
            return {"id": activity_id, "outcome": "repeated"}
        retry_at = self.attempt_failed(activity, error, final=non_retryable, token=token)
        return {"id": activity_id, "outcome": "applied", "status": activity.status, "retry_at": retry_at}

    def heartbeat_activity(
        self, activity_id: int, worker_id: str, token: str, details: tuple[Any, ...]
    ) -> dict[str, Any]:
        """``details`` is empty when the request has none."""
        activity, _ = self.attempt(activity_id, worker_id, token, "heartbeat")
        activity.last_heartbeat = activity.renewed_at = self.now
        if details:
            activity.details = details[0]
        run = self.runs[activity.workflow_id]
        return {"id": activity_id, "cancel_requested": run.cancel_requested_at is not None}

    def end_attempt(self, activity: Activity, token: str | None, kind: str) -> None:
        activity.token, activity.last_token, activity.last_kind = None, token, kind

    def attempt_failed(self, activity: Activity, error: str, *, token: str | None, final: bool = False) -> float | None:
        """The current attempt failed; when the next one is due (None: no more)."""
        run = self.runs[activity.workflow_id]
        activity.error = error
        self.end_attempt(activity, token, "fail")
        if final or activity.attempt >= activity.options["max_attempts"] or run.cancel_requested_at is not None:
            activity.status, activity.completed_at = FAILED, self.now
            payload = {
                "activity_id": activity.id,
                "activity_seq": activity.seq,
                "name": activity.name,
                "error": error,
                "attempts": activity.attempt,
            }
            self.append(run, "ActivityFailed", payload, f"activity_closed:{activity.seq}")
            self.dispatch(run)
            self.tell("activity_failed", run)
            return None
        activity.status, activity.scheduled_at = PENDING, self.now + activity.backoff()
        activity.attempt += 1
        activity.claimed_by = activity.started_at = activity.renewed_at = activity.last_heartbeat = None
        self.tell("activity_retrying", run)
        return activity.scheduled_at

    # -- turns ---------------------------------------------------------------------------------------------------

    def turn(
        self,
        worker_id: str,
        workflow_results: list[dict[str, Any]],
        activity_results: list[dict[str, Any]],
        task_tokens: list[str] | None,
        limits: tuple[int, int],
        chosen: list[str],
    ) -> dict[str, Any]:
        worker = self.worker(worker_id)
        runs = self.each(workflow_results, lambda item: item["workflow_id"], self.workflow_result, worker_id)
        known = {one.id.value: one.workflow_id for one in self.activities()}
        activities = self.each(
            activity_results, lambda item: known.get(item["id"], ""), self.activity_result, worker_id
        )
        self.touch(worker, task_tokens)
        return {
            "workflow_results": runs,
            "activity_results": activities,
            "workflow_tasks": self.claim_runs(worker, limits[0], chosen),
            "activity_tasks": self.claim_activities(worker, limits[1]),
        }

    def each(self, items: list[dict[str, Any]], key: Any, deliver: Any, worker_id: str) -> list[dict[str, Any]]:
        """Items are delivered in the order of their runs and answered in the order of the request."""
        answers: list[dict[str, Any]] = [{} for _ in items]
        for index in sorted(range(len(items)), key=lambda index: key(items[index])):
            try:
                answers[index] = {"http_status": 200, **deliver(worker_id, items[index])}
            except Refused as refused:
                answers[index] = {"http_status": STATUS[refused.code], "code": refused.code}
        return answers

    def workflow_result(self, worker_id: str, item: dict[str, Any]) -> dict[str, Any]:
        failure = item.get("task_failure")
        if failure is not None:
            kind, error = failure["kind"], failure["error"]
            return self.fail_task(worker_id, item["workflow_id"], item["task_token"], kind, error, None)
        return self.submit(worker_id, item["workflow_id"], item["task_token"], item["commands"], None)

    def activity_result(self, worker_id: str, item: dict[str, Any]) -> dict[str, Any]:
        if "error" in item:
            final = item.get("non_retryable", False)
            return self.fail_activity(item["id"], worker_id, item["task_token"], item["error"], final)
        return self.complete_activity(item["id"], worker_id, item["task_token"], item.get("result"))

    # -- time ----------------------------------------------------------------------------------------------------

    def fire_timers(self) -> None:
        for run in self.runs.values():
            due = [(timer.fire_at, seq) for seq, timer in run.timers.items() if timer.status == PENDING]
            for fire_at, seq in sorted(pair for pair in due if pair[0] <= self.now):
                run.timers[seq].status = FIRED
                self.append(run, "TimerFired", {"timer_seq": seq, "fire_at": fire_at}, f"timer_closed:{seq}")
                self.dispatch(run)
                self.tell("timer_fired", run)

    def expire(self) -> None:
        """One pass: deadlines, cancel requests without an answer, silent workers, leases, attempts."""
        overdue = [run for run in self.runs.values() if run.open and run.deadline is not None]
        for run in sorted(overdue, key=lambda run: (run.deadline, run.id)):
            if run.open and run.deadline <= self.now:
                self.close_timed_out(run)
        self.close_unanswered()
        if self.now - self.started_at >= self.lease:
            self.lose_silent()
            self.expire_leases()
            for activity in self.activities():
                self.expire_attempt(activity)

    def close_unanswered(self) -> None:
        since = self.now - self.grace
        asked = [run for run in self.runs.values() if run.open and run.cancel_requested_at is not None]
        for run in sorted(asked, key=lambda run: (run.cancel_requested_at, run.id)):
            fitting = [
                worker
                for worker in self.workers.values()
                if (worker.namespace, worker.task_queue) == (run.namespace, run.task_queue)
                and run.type in worker.workflows
            ]
            # While no engine ran, no worker could be seen alive.
            watched = self.started_at <= since
            alone = watched and all(worker.lost and worker.last_heartbeat <= since for worker in fitting)
            if run.open and run.cancel_requested_at <= since and (alone or self.only_failed(run)):
                self.close_cancelled(run, run.cancel_reason)

    def only_failed(self, run: Run) -> bool:
        failed = run.task_error is not None and run.task_error["timestamp"] >= run.cancel_requested_at
        return failed and run.token is None and not run.answered_cancel

    def lose_silent(self) -> None:
        silent = [one for one in self.workers.values() if not one.lost and self.now - one.last_heartbeat > self.lease]
        for worker in sorted(silent, key=lambda worker: (worker.last_heartbeat, worker.id)):
            self.lose(worker)

    def expire_leases(self) -> None:
        for run in self.runs.values():
            if run.token is None:
                continue
            unlisted = not run.listed and self.now - run.claimed_at > 10 * self.lease
            if unlisted or self.now - run.renewed_at > self.lease:
                self.expire_lease(run)

    def expire_lease(self, run: Run) -> None:
        run.end_lease()
        self.task_failed(run, "internal", "lease expired", False)

    def expire_attempt(self, activity: Activity) -> None:
        if activity.status != RUNNING:
            return
        beat = activity.last_heartbeat or activity.started_at
        limit = activity.options["heartbeat_timeout_secs"]
        if activity.started_at + activity.options["start_to_close_secs"] <= self.now:
            self.attempt_failed(activity, "start-to-close timeout", token=None)
        elif limit is not None and beat + limit <= self.now:
            self.attempt_failed(activity, "heartbeat timeout", token=None)
        elif self.now - activity.renewed_at > self.lease:
            self.attempt_failed(activity, "worker lost", token=None)

    def forget_lost(self) -> None:
        gone = self.now - LOST_ROWS_KEPT_SECS - self.lease
        self.workers = {key: one for key, one in self.workers.items() if not (one.lost and one.last_heartbeat < gone)}

    def restart(self) -> None:
        self.started_at = self.now
