{{/*
Alerts that tell a cause, or a fault that no objective shows yet. `[[ … ]]` is Prometheus' own template, which Helm would
read as its own. What needs kube-state-metrics (kube_…) stands beside what the pods say themselves; without it that part is
silent. Each alert has a page in docs/runbooks.
*/}}
{{- define "sfs.monitoring.causes" -}}
{{- $rule := .Values.monitoring.prometheusRule -}}
{{- $api := include "sfs.monitoring.selector" (list . "api") -}}
{{- $worker := include "sfs.monitoring.selector" (list . "worker") -}}
{{- $both := include "sfs.monitoring.both" . -}}
{{- $pods := include "sfs.monitoring.pods" . -}}
{{- $namespace := .Release.Namespace -}}
{{- $keda := and (eq .Values.worker.autoscaling.type "keda") (eq (int .Values.worker.autoscaling.minReplicas) 0) -}}
- alert: ApiDown
  expr: absent(up{ {{- $api -}} } == 1)
  for: 2m
  severity: critical
  dashboard: sfs-runtime
  summary: no API pod can be scraped
  description: Nobody is served, or nobody is watching.
- alert: PodNotReady
  expr: |-
    max by (namespace, pod) (service_readiness{ {{- $both -}} ,state="ready"}) == 0
    or max by (namespace, pod) (up{ {{- $both -}} }) == 0
    or max by (namespace, pod) (kube_pod_status_ready{ {{- $pods -}} ,condition="true"}) == 0
  for: 10m
  severity: warning
  dashboard: sfs-runtime
  summary: "[[ $labels.pod ]] is not ready"
  description: For ten minutes the pod has said so itself, could not be scraped, or failed its probe.
- alert: PodRestarting
  expr: |-
    max by (namespace, pod) (changes(service_start_time_seconds{ {{- $both -}} }[30m])) >= 3
    or max by (namespace, pod) (increase(kube_pod_container_status_restarts_total{ {{- $pods -}} }[30m])) >= 3
  for: 0m
  severity: warning
  dashboard: sfs-runtime
  summary: "[[ $labels.pod ]] restarts again and again"
  description: "[[ $value | humanize ]] times in half an hour: out of memory, a failing liveness probe, or a crash."
- alert: RequestsShed
  expr: sum by (namespace, job) (rate(http_requests_shed_total{ {{- $api -}} }[5m])) > 0
  for: 5m
  severity: warning
  dashboard: sfs-api
  summary: the API refuses requests because it is full
  description: "[[ $value | humanize ]] requests a second are answered 503 at once: too few pods, or a slow store behind them."
- alert: EventLoopLag
  expr: avg by (namespace, pod) (avg_over_time(service_event_loop_lag_seconds{ {{- $both -}} }[5m])) > 0.5
  for: 5m
  severity: warning
  dashboard: sfs-runtime
  summary: the event loop of [[ $labels.pod ]] is late
  description: "By [[ $value | humanizeDuration ]] on average: something blocks it, or the pod has too little CPU."
- alert: DatabaseUnreachable
  expr: count by (namespace, job) (service_readiness{ {{- $both -}} ,state="database"} == 1)
  for: 1m
  severity: critical
  dashboard: sfs-runtime
  summary: "[[ $labels.job ]] does not reach Postgres"
  description: "[[ $value ]] of its pods: what needs the database answers 503, and jobs wait."
- alert: DatabasePoolSaturated
  expr: |-
    max by (namespace, pod, pool) (
      db_pool_connections{ {{- $both -}} ,state="in_use"}
      / on (namespace, job, pod, pool) db_pool_max_connections{ {{- $both -}} }
    ) > 0.9
  for: 5m
  severity: warning
  dashboard: sfs-runtime
  summary: pool "[[ $labels.pool ]]" of [[ $labels.pod ]] is nearly used up
  description: "[[ $value | humanizePercentage ]] of its connections are at work; soon callers wait, then they get 503."
- alert: MigrationPending
  expr: |-
    count by (namespace) (service_readiness{ {{- $both -}} ,state="schema"} == 1)
    or count by (namespace) (kube_pod_init_container_status_running{ {{- $pods -}} ,container="wait-for-schema"} == 1)
  for: 10m
  severity: warning
  dashboard: sfs-runtime
  summary: pods wait for the schema
  description: "[[ $value ]] pods: the migration has not run, has failed, or takes long. Pods of the last release serve on."
- alert: MigrationFailed
  expr: max by (namespace, job_name) (kube_job_failed{namespace="{{ $namespace }}",job_name=~"{{ include "sfs.fullname" . }}-migrate-.*",condition="true"}) == 1
  for: 0m
  severity: critical
  dashboard: sfs-runtime
  summary: migration [[ $labels.job_name ]] failed
  description: All its retries are used up. Pods of the last release serve on; new ones wait.
- alert: RedisDegraded
  expr: count by (namespace, job) (redis_up{ {{- $both -}} } == 0)
  for: 5m
  severity: warning
  dashboard: sfs-runtime
  summary: "[[ $labels.job ]] works without Redis"
  description: "[[ $value ]] of its pods: cache and rate limits count in each process alone, workers ask Postgres for jobs."
- alert: RedisMemoryHigh
  expr: max by (namespace) (redis_memory_used_bytes{ {{- $both -}} } / (redis_memory_max_bytes{ {{- $both -}} } > 0)) > 0.9
  for: 15m
  severity: warning
  dashboard: sfs-runtime
  summary: Redis is nearly full
  description: "[[ $value | humanizePercentage ]] of its memory. It never evicts: when full it refuses writes, and the system goes on without it."
- alert: WorkerDown
  {{- if $keda }}
  # Scaled to none at rest: a fault only where jobs came in that were due while there was none, and then until there is one,
  # which the alert knows of itself: nobody but a worker counts what waits. The range goes further back than the worker's
  # absence, for jobs between two scrapes, but no further than a worker stays after its last job.
  expr: |-
    absent(max_over_time(up{ {{- $worker -}} }[5m]) == 1)
    and on () sum(increase(jobs_enqueued_total{ {{- $api -}} ,due="now"}[{{ add 300 (min 120 (int .Values.worker.autoscaling.keda.cooldownPeriodSeconds)) }}s])) > 0
    or absent(up{ {{- $worker -}} } == 1)
    and on () count(ALERTS{namespace="{{ $namespace }}",release="{{ .Release.Name }}",alertname="WorkerDown"}) > 0
  {{- else }}
  expr: absent(up{ {{- $worker -}} } == 1)
  {{- end }}
  for: 5m
  severity: critical
  dashboard: sfs-jobs
  summary: no worker pod can be scraped
  description: Jobs are accepted and wait. None is lost.
- alert: WorkerSilent
  expr: time() - (max by (namespace, pod) (jobs_last_beat_timestamp_seconds{ {{- $worker -}} }) > 0) > 60
  for: 1m
  severity: warning
  dashboard: sfs-jobs
  summary: worker [[ $labels.pod ]] has not told the database that it lives
  description: "For [[ $value | humanizeDuration ]]; others take its jobs. It is blocked, or does not reach Postgres."
- alert: WorkerBlocked
  expr: max by (namespace, pod) (jobs_loop_blocked_seconds{ {{- $worker -}} }) > 15
  for: 0m
  severity: warning
  dashboard: sfs-jobs
  summary: the event loop of worker [[ $labels.pod ]] stands still
  description: "For [[ $value | humanizeDuration ]]. A handler blocks it; the pod's log shows where."
- alert: WorkersDying
  expr: sum by (namespace, job) (increase(jobs_leases_expired_total{ {{- $worker -}} }[15m])) > 3
  for: 0m
  severity: warning
  dashboard: sfs-jobs
  summary: workers fall silent in mid-job
  description: "[[ $value | humanize ]] jobs were taken back in 15 minutes: out of memory, evicted, or a blocked loop."
- alert: JobsWaiting
  expr: max by (namespace, queue) (jobs_oldest_due_seconds{ {{- $worker -}} }) > {{ include "sfs.text" $rule.oldestJobSeconds }}
  for: 5m
  severity: warning
  dashboard: sfs-jobs
  summary: jobs wait in queue [[ $labels.queue ]]
  description: "The oldest has been due for [[ $value | humanizeDuration ]]: too few workers, slow jobs, or nobody takes that queue."
- alert: JobsFailing
  expr: |-
    sum by (namespace, kind) (increase(jobs_attempts_total{ {{- $worker -}} ,outcome="failed"}[30m])) > 4
    and sum by (namespace, kind) (increase(jobs_attempts_total{ {{- $worker -}} ,outcome="failed"}[30m]))
    / sum by (namespace, kind) (increase(jobs_attempts_total{ {{- $worker -}} ,outcome=~"succeeded|failed"}[30m])) > 0.25
  for: 0m
  severity: warning
  dashboard: sfs-jobs
  summary: jobs of the kind [[ $labels.kind ]] fail
  description: "[[ $value | humanize ]] in half an hour, more than a quarter of them."
- alert: JobsQuarantined
  expr: sum by (namespace, job) (increase(jobs_quarantined_total{ {{- $worker -}} }[1h])) > 0
  for: 0m
  severity: warning
  dashboard: sfs-jobs
  summary: a job was set apart
  description: "Workers died of it time and again. Look at it, then retry it, or leave it: it does not run by itself."
- alert: JobStoreErrors
  expr: sum by (namespace, job) (rate(jobs_store_errors_total{ {{- $worker -}} }[5m])) > 0
  for: 10m
  severity: warning
  dashboard: sfs-jobs
  summary: workers have trouble with Postgres
  description: "[[ $value | humanize ]] calls of the job tables a second fail and are repeated."
{{- end -}}
