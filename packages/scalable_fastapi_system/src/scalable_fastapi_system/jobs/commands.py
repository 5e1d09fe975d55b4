"""`manage jobs …`: the operators' commands for jobs, queues and workers."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.domain import Product
from scalable_fastapi_system.kit.errors import APIException, NotFoundException, ServiceUnavailableException

if TYPE_CHECKING:
    from scalable_fastapi_system.jobs.client import JobClient
    from scalable_fastapi_system.jobs.records import JobRecord

EXIT_REFUSED = 1
MAX_LIMIT = 100_000
MAX_USER_ID = 2**31 - 1
MAX_QUEUE_LENGTH = 64
_STATES = ("scheduled", "queued", "running", "succeeded", "failed", "cancelled", "quarantined")

Action = Callable[["JobClient", argparse.Namespace], Awaitable[int]]


def add_job_commands(commands: Any) -> None:
    """Adds `jobs` and what is under it to a parser's subcommands."""
    jobs = commands.add_parser("jobs", help="see and steer background jobs, queues and workers")
    actions = jobs.add_subparsers(dest="action", required=True, metavar="ACTION")

    listing = actions.add_parser("list", help="jobs from the newest on")
    listing.add_argument("--state", action="append", choices=_STATES, help="only these; may be repeated")
    listing.add_argument("--kind")
    listing.add_argument("--queue")
    listing.add_argument("--owner", type=_number(MAX_USER_ID), metavar="USER_ID")
    listing.add_argument("--limit", type=_number(MAX_LIMIT), default=20)
    _finish(_with_json(listing), _list)

    show = actions.add_parser("show", help="everything about a job, and why it does not run yet")
    _finish(_with_json(_with_ids(show)), _show)
    cancel = actions.add_parser("cancel", help="cancel jobs")
    _finish(_with_ids(cancel), _cancel)
    retry = actions.add_parser(
        "retry",
        help="queue failed, cancelled or quarantined jobs again, by id or by what they have in common",
    )
    retry.add_argument("ids", nargs="*", type=UUID, metavar="ID")
    retry.add_argument("--state", choices=("failed", "quarantined", "cancelled"), help="all in this state")
    retry.add_argument("--kind", help="of those only this kind")
    retry.add_argument("--limit", type=_number(MAX_LIMIT), default=1000, help="at the most so many (1000)")
    _finish(retry, _retry)

    stats = actions.add_parser("stats", help="queues: depth, age, workers, free slots")
    _finish(_with_json(stats), _stats)
    workers = actions.add_parser("workers", help="workers: queues, load, last beat")
    _finish(_with_json(workers), _workers)
    for name, text, action in (
        ("pause", "workers take nothing from a queue any more; what runs goes on", _pause),
        ("resume", "end a queue's pause", _resume),
    ):
        queue = actions.add_parser(name, help=text)
        queue.add_argument("queue", nargs="+", type=_queue)
        _finish(queue, action)
    drain = actions.add_parser("drain", help="have workers finish or hand back what they run, and end")
    drain.add_argument("workers", nargs="+", metavar="WORKER_ID")
    _finish(drain, _drain)


def _with_ids(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("ids", nargs="+", type=UUID, metavar="ID")
    return parser


def _with_json(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser


def _number(largest: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or not 1 <= int(text) <= largest:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to {largest}")
        return int(text)

    return number


def _queue(text: str) -> str:
    if not 1 <= len(text) <= MAX_QUEUE_LENGTH:
        raise argparse.ArgumentTypeError(f"the name of a queue has 1 to {MAX_QUEUE_LENGTH} characters")
    return text


def _finish(parser: argparse.ArgumentParser, action: Action) -> None:
    parser.set_defaults(run=_runner(action))


def _runner(action: Action) -> Callable[[argparse.Namespace, Settings, Product], int]:
    def run(arguments: argparse.Namespace, settings: Settings, product: Product) -> int:
        return asyncio.run(_act(action, arguments, settings, product))

    return run


async def _act(action: Action, arguments: argparse.Namespace, settings: Settings, product: Product) -> int:
    from scalable_fastapi_system.infra.resources import Resources
    from scalable_fastapi_system.jobs.client import JobClient

    if settings.is_ephemeral:
        sys.stderr.write(
            "There is no database to look into: set DATABASE__DATABASE_URL to the one of the API.\n"
        )
        return EXIT_REFUSED
    resources = Resources(settings, product)
    client = JobClient(resources, is_worker=True)
    await resources.start()
    try:
        await client.start()
        try:
            return await action(client, arguments)
        finally:
            await client.stop()
    except ServiceUnavailableException:
        raise  # no refusal: a store that does not answer, which has an exit code of its own
    except APIException as error:
        sys.stderr.write(error.message + "\n")
        return EXIT_REFUSED
    finally:
        await resources.stop()


# -- jobs -----------------------------------------------------------------------------------------------


async def _list(client: JobClient, arguments: argparse.Namespace) -> int:
    from scalable_fastapi_system.jobs.client import ANY_OWNER
    from scalable_fastapi_system.jobs.states import JobState

    page = await client.list(
        owner=ANY_OWNER if arguments.owner is None else arguments.owner,
        limit=arguments.limit,
        states=[JobState.from_label(label) for label in arguments.state or ()],
        kind=arguments.kind,
        queue=arguments.queue,
    )
    if arguments.json:
        return _print_json([_facts(job) for job in page.items])
    rows = [
        (str(job.id), job.status, job.kind, job.queue, str(job.attempt), _when(job.created_at), _error(job))
        for job in page.items
    ]
    return _print_table(("ID", "STATE", "KIND", "QUEUE", "ATTEMPT", "CREATED", "ERROR"), rows)


async def _show(client: JobClient, arguments: argparse.Namespace) -> int:
    shown: list[dict[str, Any]] = []
    code = 0
    for job_id in arguments.ids:
        try:
            shown.append(await _everything_about(client, job_id))
        except NotFoundException as error:
            code = _complain(job_id, error)
    if arguments.json:
        _print_json(shown)
        return code
    for facts in shown:
        width = max(map(len, facts))
        for name, value in facts.items():
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            _say(f"{name:<{width}}  {text}")
        _say("")
    return code


async def _everything_about(client: JobClient, job_id: UUID) -> dict[str, Any]:
    from scalable_fastapi_system.jobs.store import reading

    facts = _facts(await client.get(job_id))
    reason = await client.why(job_id)
    facts["why"] = None if reason is None else f"{reason.rule}: {reason.message}"
    async with client.resources.database.transaction() as session:
        facts["attempts"] = await reading.list_attempts(session, job_id=job_id)
    return facts


async def _cancel(client: JobClient, arguments: argparse.Namespace) -> int:
    code = 0
    for job_id in arguments.ids:
        try:
            change = await client.cancel(job_id)
        except NotFoundException as error:
            code = _complain(job_id, error)
            continue
        if change.has_changed and not change.state.is_terminal:
            _say(f"{job_id}: asked to stop")
        else:
            _say(f"{job_id}: {change.state.label}")
    return code


async def _retry(client: JobClient, arguments: argparse.Namespace) -> int:
    from scalable_fastapi_system.jobs.states import JobState

    ids: list[UUID] = list(arguments.ids)
    if arguments.state is not None:
        page = await client.list(
            limit=arguments.limit, states=[JobState.from_label(arguments.state)], kind=arguments.kind
        )
        ids += [job.id for job in page.items]
    elif not ids:
        sys.stderr.write("Name jobs by their ids, or by --state.\n")
        return EXIT_REFUSED
    refused = 0
    code = 0
    for job_id in ids:
        try:
            change = await client.retry(job_id)
        except NotFoundException as error:
            code = _complain(job_id, error)
            continue
        refused += not change.has_changed
        _say(f"{job_id}: {change.state.label}{'' if change.has_changed else ' (left as it is)'}")
    return EXIT_REFUSED if refused and refused == len(ids) else code


# -- queues and workers ---------------------------------------------------------------------------------


async def _stats(client: JobClient, arguments: argparse.Namespace) -> int:
    queues = await client.queues()
    if arguments.json:
        return _print_json([_slots_of(queue) for queue in queues])
    rows = [
        (
            queue.name + (" (paused)" if queue.is_paused else ""),
            str(queue.scheduled),
            str(queue.queued),
            str(queue.running),
            f"{queue.oldest_due_seconds:.1f} s",
            str(queue.workers),
            f"{queue.free_slots} of {queue.slots}",
        )
        for queue in queues
    ]
    return _print_table(("QUEUE", "SCHEDULED", "QUEUED", "RUNNING", "OLDEST", "WORKERS", "FREE SLOTS"), rows)


async def _workers(client: JobClient, arguments: argparse.Namespace) -> int:
    workers = await client.workers()
    if arguments.json:
        return _print_json([_slots_of(worker) for worker in workers])
    rows = [
        (
            worker.id,
            "draining" if worker.is_draining else "alive" if worker.is_alive else "silent",
            worker.version,
            ",".join(worker.queues),
            f"{worker.running} of {worker.concurrency}",
            _when(worker.seen_at),
        )
        for worker in workers
    ]
    return _print_table(("WORKER", "STATE", "VERSION", "QUEUES", "RUNNING", "SEEN"), rows)


async def _pause(client: JobClient, arguments: argparse.Namespace) -> int:
    for name in arguments.queue:
        await client.pause_queue(name)
        _say(f"{name}: paused")
    return 0


async def _resume(client: JobClient, arguments: argparse.Namespace) -> int:
    for name in arguments.queue:
        await client.resume_queue(name)
        _say(f"{name}: open")
    return 0


async def _drain(client: JobClient, arguments: argparse.Namespace) -> int:
    code = 0
    for worker_id in arguments.workers:
        if await client.drain_worker(worker_id):
            _say(f"{worker_id}: drains with its next beat")
        else:
            sys.stderr.write(f"{worker_id}: there is no such worker\n")
            code = EXIT_REFUSED
    return code


# -- printing -------------------------------------------------------------------------------------------


def _facts(job: JobRecord) -> dict[str, Any]:
    facts = {name: getattr(job, name) for name in job.__slots__ if name != "state"}
    return {"id": facts.pop("id"), "state": job.status, **facts}


def _slots_of(view: Any) -> dict[str, Any]:
    return {name: getattr(view, name) for name in view.__slots__}


def _error(job: JobRecord) -> str:
    if not isinstance(job.error, dict):
        return ""
    text = f"{job.error.get('type')}: {job.error.get('message')}".splitlines()[0]
    return text if len(text) <= 60 else text[:59] + "…"


def _when(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds")


def _complain(job_id: UUID, error: APIException) -> int:
    sys.stderr.write(f"{job_id}: {error.message}\n")
    return EXIT_REFUSED


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_json(value: Any) -> int:
    _say(json.dumps(value, indent=2, default=str))
    return 0


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    for row in (head, *rows):
        _say("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0
