"""The statements of `PostgresStore`. State numbers are those of `JobState`: 0 scheduled, 1 queued, 2 running."""

from __future__ import annotations

_CLAIM_COLUMNS = (
    "j.id, j.attempt, j.kind, j.queue, j.args, j.owner_id, j.priority, j.max_attempts, j.failures, j.crashes, "
    "j.created_at, j.run_at, j.deadline_at, j.timeout_seconds, j.concurrency_key, j.then_id, j.request_id, "
    "j.traceparent"
)
_HINT_COLUMNS = "j.id, j.attempt, j.queue, j.owner_id, j.priority"

# A row locked by somebody (a user's transaction that cancels it) is skipped: a claim waits for nobody.
CLAIM = f"""
UPDATE jobs j SET state = 2, attempt = j.attempt + 1, worker_id = $2, started_at = now(), lease_expires_at = now() + $3
FROM (SELECT id FROM jobs WHERE id = ANY($1::uuid[]) AND state IN (0, 1) AND run_at <= now()
        AND concurrency_key IS NULL AND kind = ANY($4::text[]) FOR UPDATE SKIP LOCKED) c
WHERE j.id = c.id
RETURNING {_CLAIM_COLUMNS}"""  # noqa: S608 - column lists only

WHY_NOT = """
SELECT id, attempt, queue, owner_id, priority, kind, concurrency_key,
       extract(epoch FROM run_at - now())::float8 AS wait_seconds
FROM jobs WHERE id = ANY($1::uuid[]) AND state IN (0, 1) AND waits_for = 0"""

LOCK_KEYS_OF = """
SELECT pg_advisory_xact_lock(hashtextextended(k, 0)) FROM (
  SELECT DISTINCT concurrency_key AS k FROM jobs
  WHERE id = ANY($1::uuid[]) AND concurrency_key IS NOT NULL ORDER BY 1) keys"""

CLAIM_KEYED = f"""
UPDATE jobs j SET state = 2, attempt = j.attempt + 1, worker_id = $2, started_at = now(), lease_expires_at = now() + $3
FROM (SELECT DISTINCT ON (concurrency_key) id, concurrency_key FROM jobs
      WHERE id = ANY($1::uuid[]) AND state IN (0, 1) AND run_at <= now() AND concurrency_key IS NOT NULL
      ORDER BY concurrency_key, priority, run_at, id) c
WHERE j.id = c.id AND j.state IN (0, 1)
  AND NOT EXISTS (SELECT 1 FROM jobs r WHERE r.concurrency_key = c.concurrency_key AND r.state = 2)
RETURNING {_CLAIM_COLUMNS}"""  # noqa: S608

# The best priority, and whether any live job has a concurrency key: the first entry of their index.
TOP_PRIORITY = """
SELECT priority, (SELECT concurrency_key FROM jobs WHERE concurrency_key IS NOT NULL AND state IN (1, 2)
                  ORDER BY concurrency_key LIMIT 1) IS NOT NULL AS has_keys
FROM jobs WHERE queue = $1 AND state = 1 ORDER BY queue, priority LIMIT 1"""

# A loose index scan: each step jumps to the next (priority, owner) that has something queued.
LANES = """
WITH RECURSIVE lanes AS (
  (SELECT priority, coalesce(owner_id, 0) AS lane FROM jobs
   WHERE queue = $1 AND state = 1 AND (priority, coalesce(owner_id, 0)) > ($2::smallint, $3::int)
   ORDER BY priority, coalesce(owner_id, 0) LIMIT 1)
  UNION ALL
  SELECT n.priority, n.lane FROM lanes l, LATERAL (
    SELECT priority, coalesce(owner_id, 0) AS lane FROM jobs
    WHERE queue = $1 AND state = 1 AND (priority, coalesce(owner_id, 0)) > (l.priority, l.lane)
    ORDER BY priority, coalesce(owner_id, 0) LIMIT 1) n)
SELECT priority, lane FROM lanes LIMIT $4"""

CLAIM_LANES = f"""
UPDATE jobs j SET state = 2, attempt = j.attempt + 1, worker_id = $7, started_at = now(), lease_expires_at = now() + $8
FROM (SELECT x.id FROM unnest($2::smallint[], $3::int[]) WITH ORDINALITY AS l(priority, lane, place), LATERAL (
        SELECT id FROM jobs
        WHERE queue = $1 AND state = 1 AND priority = l.priority AND coalesce(owner_id, 0) = l.lane
          AND kind = ANY($4::text[]) AND concurrency_key IS NULL
        ORDER BY run_at LIMIT $5 FOR UPDATE SKIP LOCKED) x
      ORDER BY l.place LIMIT $6) c
WHERE j.id = c.id
RETURNING {_CLAIM_COLUMNS}"""  # noqa: S608

# As CLAIM_LANES, together with the first job of each concurrency key that nobody runs: the best priority first, in it the
# heads of all lanes, then the second of each. A job with a key is not claimed by it: its id comes back alone.
CLAIM_LANES_AND_KEYS = f"""
WITH lanes AS (SELECT * FROM unnest($2::smallint[], $3::int[]) WITH ORDINALITY AS l(priority, lane, place)),
plain AS (
  SELECT x.id, l.priority, l.lane, x.run_at, false AS is_keyed FROM lanes l, LATERAL (
    SELECT id, run_at FROM jobs
    WHERE queue = $1 AND state = 1 AND priority = l.priority AND coalesce(owner_id, 0) = l.lane
      AND kind = ANY($4::text[]) AND concurrency_key IS NULL
    ORDER BY run_at LIMIT $5 FOR UPDATE SKIP LOCKED) x),
keyed AS (
  SELECT DISTINCT ON (concurrency_key) id, priority, coalesce(owner_id, 0) AS lane, run_at, true AS is_keyed FROM jobs
  WHERE concurrency_key IS NOT NULL AND state = 1 AND queue = $1 AND kind = ANY($4::text[])
    AND concurrency_key NOT IN (SELECT concurrency_key FROM jobs WHERE concurrency_key IS NOT NULL AND state = 2)
  ORDER BY concurrency_key, priority, run_at),
ranked AS (
  SELECT *, row_number() OVER (PARTITION BY priority, lane ORDER BY run_at) AS turn
  FROM (SELECT * FROM plain UNION ALL SELECT * FROM keyed) either),
chosen AS (
  SELECT r.id, r.is_keyed FROM ranked r LEFT JOIN lanes l USING (priority, lane)
  ORDER BY r.priority, r.turn, l.place LIMIT $6),
claimed AS (
  UPDATE jobs j SET state = 2, attempt = j.attempt + 1, worker_id = $7, started_at = now(), lease_expires_at = now() + $8
  FROM chosen c WHERE j.id = c.id AND NOT c.is_keyed
  RETURNING {_CLAIM_COLUMNS})
SELECT {_CLAIM_COLUMNS} FROM claimed j
UNION ALL SELECT c.id, {", ".join(["NULL"] * _CLAIM_COLUMNS.count(","))} FROM chosen c WHERE c.is_keyed"""  # noqa: S608

SUCCEED = """
UPDATE jobs j SET state = 3, finished_at = now(), lease_expires_at = NULL, unique_key = NULL, error = NULL,
  result = f.result, progress = coalesce(f.progress, j.progress)
FROM unnest($1::uuid[], $2::int[], $3::jsonb[], $4::jsonb[]) AS f(id, attempt, result, progress)
WHERE j.id = f.id AND j.attempt = f.attempt AND j.state = 2 AND j.worker_id = $5
RETURNING j.id"""

# One that would wait for its next try, and whose cancel was asked for while it ran, is cancelled.
_IS_CANCELLED = "(f.state < 3 AND j.cancel_requested_at IS NOT NULL)"
_IS_OVER = "(f.state >= 3 OR j.cancel_requested_at IS NOT NULL)"

SETTLE = f"""
UPDATE jobs j SET state = CASE WHEN {_IS_CANCELLED} THEN 5 ELSE f.state END, lease_expires_at = NULL,
  finished_at = CASE WHEN {_IS_OVER} THEN now() END,
  unique_key = CASE WHEN {_IS_OVER} THEN NULL ELSE j.unique_key END,
  worker_id = CASE WHEN {_IS_OVER} THEN j.worker_id END,
  run_at = CASE WHEN {_IS_OVER} THEN j.run_at ELSE now() + make_interval(secs => f.delay) END,
  failures = j.failures + f.is_failure::int, interruptions = j.interruptions + f.is_interruption::int,
  result = coalesce(f.result, j.result), progress = coalesce(f.progress, j.progress),
  error = CASE WHEN f.state = 3 THEN NULL WHEN {_IS_CANCELLED}
    THEN jsonb_build_object('type', 'Cancelled', 'message', 'cancelled while it ran', 'attempt', j.attempt)
    ELSE coalesce(f.error, j.error) END
FROM unnest($1::uuid[], $2::int[], $3::smallint[], $4::float8[], $5::bool[], $6::bool[], $7::jsonb[], $8::jsonb[],
            $9::jsonb[]) AS f(id, attempt, state, delay, is_failure, is_interruption, result, error, progress)
WHERE j.id = f.id AND j.attempt = f.attempt AND j.state = 2 AND j.worker_id = $10
RETURNING j.id, j.started_at, j.state"""  # noqa: S608 - conditions from here only

REMEMBER_ATTEMPTS = """
INSERT INTO job_attempts (job_id, attempt, started_at, ended_at, outcome, worker_id, error)
SELECT a.job_id, a.attempt, a.started_at, now(), a.outcome, a.worker_id, a.error
FROM unnest($1::uuid[], $2::int[], $3::timestamptz[], $4::text[], $5::text[], $6::jsonb[])
  AS a(job_id, attempt, started_at, outcome, worker_id, error)"""

NEXT_OF_KEYS = f"""
SELECT DISTINCT ON (j.concurrency_key) {_HINT_COLUMNS} FROM jobs j
WHERE j.concurrency_key = ANY($1::text[]) AND j.state = 1
ORDER BY j.concurrency_key, j.priority, j.run_at"""  # noqa: S608

RENEW = """
UPDATE jobs j SET lease_expires_at = now() + $4
FROM unnest($1::uuid[], $2::int[]) AS r(id, attempt)
WHERE j.id = r.id AND j.attempt = r.attempt AND j.state = 2 AND j.worker_id = $3
RETURNING j.id, j.cancel_requested_at IS NOT NULL"""

LOOK = """
SELECT j.id, j.cancel_requested_at IS NOT NULL
FROM unnest($1::uuid[], $2::int[]) AS r(id, attempt)
JOIN jobs j ON j.id = r.id AND j.attempt = r.attempt AND j.state = 2 AND j.worker_id = $3"""

SAVE_PROGRESS = """
UPDATE jobs j SET progress = p.progress
FROM unnest($1::uuid[], $2::int[], $3::jsonb[]) AS p(id, attempt, progress)
WHERE j.id = p.id AND j.attempt = p.attempt AND j.state = 2 AND j.worker_id = $4"""

RELEASE_STRAYS = f"""
UPDATE jobs j SET state = 1, worker_id = NULL, lease_expires_at = NULL
WHERE j.state = 2 AND j.worker_id = $2 AND j.id <> ALL($1::uuid[])
RETURNING {_HINT_COLUMNS}"""  # noqa: S608

SILENT_WORKERS = """
SELECT DISTINCT worker_id FROM jobs WHERE state = 2 AND lease_expires_at < now() LIMIT 100"""

ALIVE_OF = "SELECT id FROM job_workers WHERE id = ANY($1::text[]) AND seen_at > now() - $2::interval"

ROWS_OF_SILENT = """
SELECT id, attempt, crashes, worker_id, cancel_requested_at FROM jobs
WHERE state = 2 AND worker_id = ANY($1::text[]) AND (worker_id = ANY($2::text[]) OR lease_expires_at < now())
ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED"""

TAKE_BACK = f"""
WITH taken AS (
  UPDATE jobs j SET state = c.state, crashes = j.crashes + c.is_blamed::int,
    interruptions = j.interruptions + (NOT c.is_blamed)::int, lease_expires_at = NULL, error = c.error,
    run_at = CASE WHEN c.state >= 3 THEN j.run_at ELSE now() END,
    finished_at = CASE WHEN c.state >= 3 THEN now() END,
    unique_key = CASE WHEN c.state >= 3 THEN NULL ELSE j.unique_key END
  FROM unnest($1::uuid[], $2::int[], $3::smallint[], $4::bool[], $5::jsonb[], $6::text[])
    AS c(id, attempt, state, is_blamed, error, outcome)
  WHERE j.id = c.id AND j.attempt = c.attempt AND j.state = 2
  RETURNING {_HINT_COLUMNS}, j.state, j.started_at, j.worker_id, c.error, c.outcome),
history AS (
  INSERT INTO job_attempts (job_id, attempt, started_at, ended_at, outcome, worker_id, error)
  SELECT id, attempt, started_at, now(), outcome, worker_id, error FROM taken)
SELECT id, attempt, queue, owner_id, priority, state FROM taken"""  # noqa: S608

PROMOTE = f"""
UPDATE jobs j SET state = 1
FROM (SELECT id FROM jobs WHERE state = 0 AND run_at <= now() ORDER BY run_at LIMIT $1 FOR UPDATE SKIP LOCKED) c
WHERE j.id = c.id
RETURNING {_HINT_COLUMNS}"""  # noqa: S608

OVERDUE = f"""
SELECT {_HINT_COLUMNS} FROM unnest($2::smallint[], $3::int[]) WITH ORDINALITY AS l(priority, lane, place), LATERAL (
  SELECT * FROM jobs q
  WHERE q.queue = $1 AND q.state = 1 AND q.priority = l.priority AND coalesce(q.owner_id, 0) = l.lane
    AND q.kind = ANY($4::text[]) AND q.run_at < now() - $7::interval
    AND (q.concurrency_key IS NULL
         OR NOT EXISTS (SELECT 1 FROM jobs r WHERE r.concurrency_key = q.concurrency_key AND r.state = 2))
  ORDER BY q.run_at LIMIT $5) j
ORDER BY l.place LIMIT $6"""  # noqa: S608

WAITING_ON = "SELECT id, then_id FROM jobs WHERE id = ANY($1::uuid[]) AND then_id IS NOT NULL"

CANCEL_WAITING = """
UPDATE jobs SET state = 5, finished_at = now(), unique_key = NULL,
  error = '{"type": "Cancelled", "message": "a job that this one needs did not succeed"}'
WHERE id = ANY($1::uuid[]) AND state = 0 AND needs_success RETURNING id"""

COUNT_OFF = """
WITH counted AS (
  UPDATE jobs j SET waits_for = greatest(0, j.waits_for - c.number),
    state = CASE WHEN j.waits_for <= c.number THEN 1 ELSE j.state END,
    run_at = CASE WHEN j.waits_for <= c.number THEN now() ELSE j.run_at END
  FROM unnest($1::uuid[], $2::int[]) AS c(id, number)
  WHERE j.id = c.id AND j.state = 0 AND j.waits_for > 0 AND j.run_at >= $3
  RETURNING j.id, j.state)
SELECT id FROM counted WHERE state = 1"""

HINTS_OF = f"SELECT {_HINT_COLUMNS} FROM jobs j WHERE id = ANY($1::uuid[]) AND state = 1"  # noqa: S608

INSERT = """
INSERT INTO jobs (id, created_at, run_at, deadline_at, owner_id, waits_for, timeout_seconds, state, priority,
  max_attempts, needs_success, queue, kind, then_id, concurrency_key, unique_key, request_id, traceparent, args)
SELECT n.id, now(), CASE WHEN n.waits_for > 0 THEN $18 ELSE coalesce(n.run_at, now()) END, n.deadline_at, n.owner_id,
  n.waits_for, n.timeout_seconds, CASE WHEN n.waits_for > 0 OR n.run_at IS NOT NULL THEN 0 ELSE 1 END, n.priority,
  n.max_attempts, n.needs_success, n.queue, n.kind, n.then_id, n.concurrency_key, n.unique_key, n.request_id,
  n.traceparent, n.args
FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::int[], $5::int[], $6::float8[], $7::smallint[],
  $8::smallint[], $9::bool[], $10::text[], $11::text[], $12::uuid[], $13::text[], $14::text[], $15::text[],
  $16::text[], $17::jsonb[])
  AS n(id, run_at, deadline_at, owner_id, waits_for, timeout_seconds, priority, max_attempts, needs_success, queue,
       kind, then_id, concurrency_key, unique_key, request_id, traceparent, args)
ON CONFLICT DO NOTHING RETURNING id"""

HOLDERS = """
SELECT id, unique_key FROM jobs WHERE unique_key = ANY($1::text[]) OR id = ANY($2::uuid[])"""

PLAN_DELIVERIES = """
WITH planned AS (INSERT INTO webhook_deliveries (id, endpoint_id, job_id, created_at, attempts, event)
SELECT gen_random_uuid(), e.id, j.id, now(), 0,
  'task.' || (ARRAY['succeeded', 'failed', 'cancelled', 'quarantined'])[j.state - 2]
FROM jobs j JOIN webhook_endpoints e ON e.owner_id = j.owner_id AND e.disabled_at IS NULL
  AND (jsonb_array_length(e.kinds) = 0 OR e.kinds ? j.kind)
WHERE j.id = ANY($1::uuid[]) AND j.state >= 3
RETURNING id, job_id)
SELECT p.id, j.traceparent, j.request_id FROM planned p JOIN jobs j ON j.id = p.job_id"""
