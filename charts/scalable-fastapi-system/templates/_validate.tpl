{{/* Refuses, with one message for all, what would install and then not work. Included by the ConfigMap. */}}
{{- define "sfs.validate" -}}
{{- $problems := list -}}

{{- $managed := include "sfs.managedSettings" . | fromYaml -}}
{{- $workers := dict -}}
{{- range $component, $worker := include "sfs.workers" . | fromJson -}}
{{- $_ := set $workers (ternary "worker" (printf "extraWorkers.%s" (trimPrefix "worker-" $component)) (eq $component "worker")) $worker -}}
{{- end -}}
{{- $components := merge (dict "api" .Values.api) $workers -}}
{{- $configs := dict "config" .Values.config "secrets.extra" .Values.secrets.extra -}}
{{- range $where, $component := $components }}{{ $_ := set $configs (printf "%s.config" $where) $component.config }}{{ end -}}
{{- range $where, $config := $configs -}}
{{- range $name, $_ := $config -}}
{{- if hasKey $managed $name -}}
{{- $problems = append $problems (printf "%s.%s: not here; %s" $where $name (get $managed $name)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A variable that stands in a container twice: the last one wins, and applying on the server is refused. */ -}}
{{- $passwords := list -}}
{{- if eq .Values.postgres.mode "embedded" }}{{ $passwords = append $passwords "POSTGRES_PASSWORD" }}{{ end -}}
{{- if eq .Values.redis.mode "embedded" }}{{ $passwords = append $passwords "REDIS_PASSWORD" }}{{ end -}}
{{- range $where, $component := $components -}}
{{- $seen := list -}}
{{- range $entry := $component.extraEnv -}}
{{- $name := $entry.name | default "" -}}
{{- if hasKey $managed $name -}}
{{- $problems = append $problems (printf "%s.extraEnv: %s: not here; %s" $where $name (get $managed $name)) -}}
{{- else if hasKey $component.config $name -}}
{{- $problems = append $problems (printf "%s.extraEnv: %s: it is in %s.config as well; leave one of the two" $where $name $where) -}}
{{- else if has $name $passwords -}}
{{- $problems = append $problems (printf "%s.extraEnv: %s: the chart gives the pods an embedded store's password by this name; take another" $where $name) -}}
{{- else if has $name $seen -}}
{{- $problems = append $problems (printf "%s.extraEnv: %s: given twice" $where $name) -}}
{{- end -}}
{{- $seen = append $seen $name -}}
{{- end -}}
{{- end -}}

{{- $own := (include "sfs.resolvedSecrets" . | fromJson).app -}}
{{- with .Values.secrets.secretKey -}}
{{- if lt (len .) 32 }}{{ $problems = append $problems "secrets.secretKey: at least 32 characters; leave it empty to have one made" }}{{ end -}}
{{- end -}}
{{- if and (eq .Values.postgres.mode "external") (not .Values.postgres.external.existingSecret.name) (not (hasKey $own "DATABASE__DATABASE_URL")) (not .Values.secrets.existingSecret) -}}
{{- $problems = append $problems "postgres.mode is external: set postgres.external.url or postgres.external.existingSecret.name, or have DATABASE__DATABASE_URL in secrets.existingSecret" -}}
{{- end -}}
{{- if and (eq .Values.redis.mode "external") (not .Values.redis.external.existingSecret.name) (not (hasKey $own "REDIS__REDIS_URL")) (not .Values.secrets.existingSecret) -}}
{{- $problems = append $problems "redis.mode is external: set redis.external.url or redis.external.existingSecret.name, or have REDIS__REDIS_URL in secrets.existingSecret" -}}
{{- end -}}

{{- /* Every pod has a disk of its own, and a root that is read-only: a folder for all is in a volume. */ -}}
{{- if hasPrefix "file:" .Values.storage.url -}}
{{- $url := urlParse .Values.storage.url -}}
{{- $folder := clean $url.path -}}
{{- if or $url.host (has $folder (list "." "/")) -}}
{{- $problems = append $problems (printf "storage.url: %s is not of the form file:///folder" .Values.storage.url) -}}
{{- else -}}
{{- $without := list -}}
{{- range $where, $component := $components -}}
{{- if not (include "sfs.sharesFolder" (list $component $folder)) }}{{ $without = append $without (printf "%s.extraVolumeMounts" $where) }}{{ end -}}
{{- end -}}
{{- with $without -}}
{{- $problems = append $problems (printf "storage.url: %s has to be in a volume that the pods share (a claim that is ReadWriteMany), mounted at %s or above; there is none in %s" $.Values.storage.url $folder (join ", " .)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- range $name, $component := $components -}}
{{- $scaling := $component.autoscaling -}}
{{- if gt (int $scaling.minReplicas) (int $scaling.maxReplicas) -}}
{{- $problems = append $problems (printf "%s.autoscaling: minReplicas %d is above maxReplicas %d" $name (int $scaling.minReplicas) (int $scaling.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- range $name, $worker := $workers -}}
{{- if and (eq $worker.autoscaling.type "cpu") (lt (int $worker.autoscaling.minReplicas) 1) -}}
{{- $problems = append $problems (printf "%s.autoscaling.minReplicas: scaling on CPU cannot start from 0; KEDA can" $name) -}}
{{- end -}}
{{- end -}}
{{- /* Helm makes what is new before it removes what is old, and KEDA refuses what an autoscaler scales already. */ -}}
{{- if .Release.IsUpgrade -}}
{{- range $component, $worker := include "sfs.workers" . | fromJson -}}
{{- $scaler := printf "%s-%s" (include "sfs.fullname" $) $component -}}
{{- if and (eq $worker.autoscaling.type "keda") (lookup "autoscaling/v2" "HorizontalPodAutoscaler" $.Release.Namespace $scaler) -}}
{{- $problems = append $problems (printf "%s: KEDA refuses to scale what HorizontalPodAutoscaler %s still does; before the upgrade: kubectl -n %s delete hpa %s" $component $scaler $.Release.Namespace $scaler) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $component := $components -}}
{{- if and (eq (include "sfs.text" $component.rollout.maxSurge) "0") (eq (include "sfs.text" $component.rollout.maxUnavailable) "0") -}}
{{- $problems = append $problems (printf "%s.rollout: maxSurge and maxUnavailable are both 0, so that no pod could be replaced" $name) -}}
{{- end -}}
{{- range $probe := list "startup" "liveness" "readiness" -}}
{{- if not (get $component.probes $probe) -}}
{{- $problems = append $problems (printf "%s.probes.%s: it cannot be left out; failureThreshold and periodSeconds make it more patient" $name $probe) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) }}{{ $problems = append $problems "ingress.hosts: at least one" }}{{ end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) }}{{ $problems = append $problems "httpRoute.parentRefs: at least one Gateway" }}{{ end -}}
{{- $scraped := or .Values.monitoring.serviceMonitor.enabled (and .Values.api.autoscaling.enabled .Values.api.autoscaling.targetRequestsInFlight) -}}
{{- if and $scraped .Values.networkPolicy.enabled .Values.networkPolicy.api.from (not .Values.networkPolicy.metrics.from) -}}
{{- $problems = append $problems "networkPolicy.api.from: it shuts out Prometheus, which has to scrape the API; say in networkPolicy.metrics.from where that runs" -}}
{{- end -}}
{{- $outside := list -}}
{{- if eq .Values.postgres.mode "external" }}{{ $outside = append $outside "Postgres" }}{{ end -}}
{{- if eq .Values.redis.mode "external" }}{{ $outside = append $outside "Redis" }}{{ end -}}
{{- if and $outside .Values.networkPolicy.enabled .Values.networkPolicy.egress.enabled (not .Values.networkPolicy.egress.to) -}}
{{- $problems = append $problems (printf "networkPolicy.egress: it shuts the pods off from the external %s; say in networkPolicy.egress.to where to find them" (join " and " $outside)) -}}
{{- end -}}

{{- $problems = concat $problems (include "sfs.connectionProblems" . | fromYamlArray) -}}
{{- with $problems }}{{ fail (printf "\n\nThe values do not work together:\n- %s\n" (join "\n- " .)) }}{{ end -}}
{{- end -}}

{{/* Whether a folder is in a volume that other pods can have, too: of the mounts above it, the nearest holds. (list .Values.api "/data") */}}
{{- define "sfs.sharesFolder" -}}
{{- $component := index . 0 -}}
{{- $folder := printf "%s/" (index . 1) -}}
{{- $own := list "tmp" -}}
{{- range $component.extraVolumes -}}
{{- if or (hasKey . "emptyDir") (hasKey . "ephemeral") }}{{ $own = append $own .name }}{{ end -}}
{{- end -}}
{{- $nearest := dict "name" "tmp" "path" "/" -}}
{{- range $component.extraVolumeMounts -}}
{{- $path := printf "%s/" (clean (.mountPath | default "")) -}}
{{- if and (hasPrefix $path $folder) (gt (len $path) (len $nearest.path)) }}{{ $nearest = dict "name" .name "path" $path }}{{ end -}}
{{- end -}}
{{- if not (has $nearest.name $own) }}yes{{ end -}}
{{- end -}}

{{/*
The connection budget, as JSON. A process opens at most poolSize + maxOverflow + readPoolSize connections, one for its look
at the schema and two for jobs enqueued by themselves; a worker five more for its engine. A rollout at full scale has
maxReplicas + maxSurge pods. Ten are left for migrations, waiting pods, KEDA, an operator's psql and the server's own
reserve. Code of yours with synchronous sessions has a second pool: halve the sizes.
*/}}
{{- define "sfs.connections" -}}
{{- $apiPods := ternary .Values.api.autoscaling.maxReplicas .Values.api.replicas .Values.api.autoscaling.enabled | int -}}
{{- $apiSurge := include "sfs.surge" (list .Values.api.rollout.maxSurge $apiPods) | int -}}
{{- $apiEach := mul (add .Values.api.database.poolSize .Values.api.database.maxOverflow .Values.api.database.readPoolSize 3) .Values.api.processes -}}
{{- $wanted := add (mul $apiEach (add $apiPods $apiSurge)) 10 -}}
{{- $how := list (printf "API: %d a pod x %d pods + %d in a rollout" $apiEach $apiPods $apiSurge) -}}
{{- range $component, $worker := include "sfs.workers" . | fromJson -}}
{{- $pods := ternary $worker.replicas $worker.autoscaling.maxReplicas (eq $worker.autoscaling.type "none") | int -}}
{{- $surge := include "sfs.surge" (list $worker.rollout.maxSurge $pods) | int -}}
{{- $each := add $worker.database.poolSize $worker.database.maxOverflow $worker.database.readPoolSize 8 -}}
{{- $wanted = add $wanted (mul $each (add $pods $surge)) -}}
{{- $how = append $how (printf "%s: %d a pod x %d pods + %d" $component $each $pods $surge) -}}
{{- end -}}
{{- dict "wanted" $wanted "how" (printf "%s; 10 in reserve" (join "; " $how)) | toJson -}}
{{- end -}}

{{- define "sfs.connectionProblems" -}}
{{- $budget := ternary .Values.postgres.maxConnections .Values.postgres.external.maxConnections (eq .Values.postgres.mode "embedded") | int -}}
{{- $connections := include "sfs.connections" . | fromJson -}}
{{- $wanted := int $connections.wanted -}}
{{- if and (gt $budget 0) (gt $wanted $budget) -}}
- {{ printf "connections: at full scale the pools could want %d (%s), but Postgres grants %d. Lower api.database, worker.database or maxReplicas, raise %s, or put PgBouncer between" $wanted $connections.how $budget (ternary "postgres.maxConnections" "postgres.external.maxConnections" (eq .Values.postgres.mode "embedded")) | quote }}
{{- else -}}
[]
{{- end -}}
{{- end -}}

{{/* Pods of a surge, which may be a number or a percentage that is rounded up. (list "25%" pods) */}}
{{- define "sfs.surge" -}}
{{- $surge := include "sfs.text" (index . 0) -}}
{{- if hasSuffix "%" $surge -}}
{{- div (add (mul (trimSuffix "%" $surge | int) (index . 1)) 99) 100 -}}
{{- else -}}
{{- $surge -}}
{{- end -}}
{{- end -}}
