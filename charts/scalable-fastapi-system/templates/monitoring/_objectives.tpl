{{/*
Four objectives as JSON: name, alert, what is counted, and the PromQL of bad and all events a second, whose window is
written WINDOW. A counter's `sum` drops every label; the recording rules give the release's own.
*/}}
{{- define "sfs.monitoring.objectives" -}}
{{- $objectives := .Values.monitoring.prometheusRule.objectives -}}
{{- $api := include "sfs.monitoring.selector" (list . "api") -}}
{{- $worker := include "sfs.monitoring.selector" (list . "worker") -}}
{{- $routes := printf `%s,handler!~"/health(/live|/ready)?|/metrics"` $api -}}
{{- $failed := printf `sum(rate(jobs_attempts_total{%s,outcome="failed"}[WINDOW]))` $worker -}}
{{- $quarantined := printf `sum(rate(jobs_quarantined_total{%s}[WINDOW]))` $worker -}}
{{- $requests := printf `sum(rate(http_request_duration_seconds_count{%s}[WINDOW]))` $routes -}}
{{- $starts := printf `sum(rate(jobs_wait_seconds_count{%s}[WINDOW]))` $worker -}}
{{- list
      (dict "slo" "availability" "alert" "AvailabilityBudgetBurn" "dashboard" "sfs-api"
            "percent" $objectives.availabilityPercent
            "what" "of the requests were answered with 5xx"
            "bad" (printf `sum(rate(http_requests_total{%s,status="5xx"}[WINDOW]))` $routes)
            "all" (printf `sum(rate(http_requests_total{%s}[WINDOW]))` $routes))
      (dict "slo" "latency" "alert" "LatencyBudgetBurn" "dashboard" "sfs-api"
            "percent" $objectives.latencyPercent
            "what" (printf "of the requests took longer than %s s" $objectives.latencySeconds)
            "bad" (printf `%s - sum(rate(http_request_duration_seconds_bucket{%s,le="%s"}[WINDOW]))` $requests $routes $objectives.latencySeconds)
            "all" $requests)
      (dict "slo" "jobs" "alert" "JobSuccessBudgetBurn" "dashboard" "sfs-jobs"
            "percent" $objectives.jobsPercent
            "what" "of the ended jobs failed for good or were set apart"
            "bad" (printf `%s + %s` $failed $quarantined)
            "all" (printf `sum(rate(jobs_attempts_total{%s,outcome=~"succeeded|failed"}[WINDOW])) + %s` $worker $quarantined))
      (dict "slo" "queue-wait" "alert" "QueueWaitBudgetBurn" "dashboard" "sfs-jobs"
            "percent" $objectives.queueWaitPercent
            "what" (printf "of the jobs started later than %s s after they were due" $objectives.queueWaitSeconds)
            "bad" (printf `%s - sum(rate(jobs_wait_seconds_bucket{%s,le="%s"}[WINDOW]))` $starts $worker $objectives.queueWaitSeconds)
            "all" $starts)
    | toJson -}}
{{- end -}}

{{/* The pairs of windows: an alert needs both, so that it fires soon and ends soon. */}}
{{- define "sfs.monitoring.burns" -}}
- {factor: 14.4, short: 5m, long: 1h, for: 2m, severity: critical}
- {factor: 6, short: 30m, long: 6h, for: 15m, severity: critical}
- {factor: 3, short: 2h, long: 1d, for: 1h, severity: warning}
- {factor: 1, short: 6h, long: 3d, for: 3h, severity: warning}
{{- end -}}

{{/* What the scraped series of a component carry, as the ServiceMonitors make it. (list $ "api") */}}
{{- define "sfs.monitoring.selector" -}}
{{- $ := index . 0 -}}
namespace="{{ $.Release.Namespace }}",job="{{ include "sfs.fullname" $ }}-{{ index . 1 }}"
{{- end -}}

{{/* The same for API and worker together. */}}
{{- define "sfs.monitoring.both" -}}
namespace="{{ .Release.Namespace }}",job=~"{{ include "sfs.fullname" . }}-(api|worker)"
{{- end -}}

{{/* The pods of both, as kube-state-metrics names them. */}}
{{- define "sfs.monitoring.pods" -}}
namespace="{{ .Release.Namespace }}",pod=~"{{ include "sfs.fullname" . }}-(api|worker)-.*"
{{- end -}}
