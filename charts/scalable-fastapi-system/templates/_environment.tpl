{{/* The environment of API, worker, migrations and tests. */}}

{{/* Settings that are no secret and the same for all: the ConfigMap's data. */}}
{{- define "sfs.config" -}}
{{- $own := dict
      "ENVIRONMENT" .Values.environment
      "JOBS__MODE" "worker"
      "STORAGE__URL" .Values.storage.url -}}
{{- $defaults := dict "LOGGING__FORMAT" "json" -}}
{{- range $name, $value := merge $own .Values.config $defaults }}
{{ $name }}: {{ include "sfs.text" $value | quote }}
{{- end }}
{{- end -}}

{{/* envFrom and env: shared settings, secrets, the two stores' URLs, and further entries. (list $ "- name: …") */}}
{{- define "sfs.environment" -}}
{{- $ := index . 0 -}}
{{ include "sfs.envFrom" $ }}
{{- with printf "%s\n%s" (include "sfs.storeEnv" $ | trim) (index . 1 | trim) | trim }}
env:
  {{- . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sfs.envFrom" -}}
envFrom:
  - configMapRef: {name: {{ include "sfs.fullname" . }}}
  {{- if include "sfs.ownSecretData" . }}
  - secretRef: {name: {{ include "sfs.fullname" . }}}
  {{- end }}
  {{- with .Values.secrets.existingSecret }}
  - secretRef: {name: {{ . }}}
  {{- end }}
{{- end -}}

{{- define "sfs.storeEnv" -}}
{{- if eq .Values.postgres.mode "embedded" }}
- name: POSTGRES_PASSWORD
  valueFrom:
    secretKeyRef: {{ include "sfs.postgresPasswordRef" . }}
- name: DATABASE__DATABASE_URL
  value: postgresql://{{ .Values.postgres.auth.username }}:$(POSTGRES_PASSWORD)@{{ include "sfs.fullname" . }}-postgres:5432/{{ .Values.postgres.auth.database }}
{{- else if .Values.postgres.external.existingSecret.name }}
- name: DATABASE__DATABASE_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.postgres.external.existingSecret.name }}, key: {{ .Values.postgres.external.existingSecret.key }}}
{{- end }}
{{- if eq .Values.redis.mode "embedded" }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {{ include "sfs.redisPasswordRef" . }}
- name: REDIS__REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "sfs.fullname" . }}-redis:6379/0
{{- else if .Values.redis.external.existingSecret.name }}
- name: REDIS__REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.external.existingSecret.name }}, key: {{ .Values.redis.external.existingSecret.key }}}
{{- end }}
{{- end -}}

{{/* Further env entries of a component. (dict "own" (dict NAME value …) "config" .Values.api.config "extra" .Values.api.extraEnv) */}}
{{- define "sfs.componentEnv" -}}
{{- range $name, $value := merge (dict) .own .config }}
- name: {{ $name }}
  value: {{ include "sfs.text" $value | quote }}
{{- end }}
{{- with .extra }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Settings that the chart sets itself, and what to do: `config` may not set them a second time. */}}
{{- define "sfs.managedSettings" -}}
ENVIRONMENT: set environment
STORAGE__URL: set storage.url
JOBS__MODE: jobs run in the worker
API__HOST: the pods listen on all addresses
API__PORT: the pods listen on 8000; set api.service.port
API__WORKERS: set api.processes
API__SHUTDOWN_GRACE_SECONDS: set api.shutdown.drainSeconds
JOBS__HEALTH_HOST: the pods listen on all addresses
JOBS__HEALTH_PORT: the pods listen on 8001
JOBS__CONCURRENCY: set worker.concurrency
JOBS__QUEUES: set worker.queues
JOBS__DRAIN_SECONDS: set worker.shutdown.drainSeconds
DATABASE__POOL_SIZE: set api.database.poolSize and worker.database.poolSize
DATABASE__MAX_OVERFLOW: set api.database.maxOverflow and worker.database.maxOverflow
DATABASE__READ_POOL_SIZE: set api.database.readPoolSize and worker.database.readPoolSize
DATABASE__DATABASE_URL: set postgres.mode and postgres.external, or put it into secrets.existingSecret
REDIS__REDIS_URL: set redis.mode and redis.external, or put it into secrets.existingSecret
SECURITY__SECRET_KEY: set secrets.secretKey, or put it into secrets.existingSecret
{{- end -}}
