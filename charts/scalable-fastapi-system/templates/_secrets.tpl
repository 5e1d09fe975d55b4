{{/*
Secrets: an existing one > a value > what the last install left > random. A render resolves them once and keeps them in
`.Values`, so that the Secrets and the checksums agree, and an upgrade that finds its secrets again restarts nothing.
`lookup` finds nothing under `helm template` and GitOps tools: there, name existing Secrets.
*/}}

{{/* Data of a Secret in the cluster, decoded, as JSON: {} where there is none. (list $ "suffix") */}}
{{- define "sfs.livingSecret" -}}
{{- $ := index . 0 -}}
{{- $data := dict -}}
{{- $living := lookup "v1" "Secret" $.Release.Namespace (printf "%s%s" (include "sfs.fullname" $) (index . 1)) -}}
{{- range $key, $value := ($living | default dict).data }}{{ $_ := set $data $key ($value | b64dec) }}{{ end -}}
{{- toJson $data -}}
{{- end -}}

{{/* All secrets that the chart makes, as JSON: {"app": {…}, "postgres": {…}, "redis": {…}}. */}}
{{- define "sfs.resolvedSecrets" -}}
{{- if not (hasKey .Values "_resolvedSecrets") -}}
{{- $app := merge (dict) .Values.secrets.extra -}}
{{- if not .Values.secrets.existingSecret -}}
{{- $living := include "sfs.livingSecret" (list . "") | fromJson -}}
{{- $_ := set $app "SECURITY__SECRET_KEY" (coalesce .Values.secrets.secretKey $living.SECURITY__SECRET_KEY (randAlphaNum 64)) -}}
{{- end -}}
{{- if eq .Values.postgres.mode "external" -}}
{{- with .Values.postgres.external.url }}{{ $_ := set $app "DATABASE__DATABASE_URL" . }}{{ end -}}
{{- end -}}
{{- if eq .Values.redis.mode "external" -}}
{{- with .Values.redis.external.url }}{{ $_ := set $app "REDIS__REDIS_URL" . }}{{ end -}}
{{- end -}}
{{- $secrets := dict "app" $app "postgres" dict "redis" dict -}}
{{- if and (eq .Values.postgres.mode "embedded") (not .Values.postgres.auth.existingSecret.name) -}}
{{- $living := include "sfs.livingSecret" (list . "-postgres") | fromJson -}}
{{- $_ := set $secrets.postgres "password" (coalesce .Values.postgres.auth.password $living.password (randAlphaNum 32)) -}}
{{- end -}}
{{- if and (eq .Values.redis.mode "embedded") (not .Values.redis.auth.existingSecret.name) -}}
{{- $living := include "sfs.livingSecret" (list . "-redis") | fromJson -}}
{{- $_ := set $secrets.redis "password" (coalesce .Values.redis.auth.password $living.password (randAlphaNum 32)) -}}
{{- end -}}
{{- $_ := set .Values "_resolvedSecrets" $secrets -}}
{{- end -}}
{{- toJson .Values._resolvedSecrets -}}
{{- end -}}

{{/* Data of the application's own Secret; empty where it needs none. */}}
{{- define "sfs.ownSecretData" -}}
{{- range $key, $value := (include "sfs.resolvedSecrets" . | fromJson).app }}
{{ $key }}: {{ include "sfs.text" $value | b64enc | quote }}
{{- end }}
{{- end -}}

{{/* Whether the database outlives the release: then what unlocks it must, too. */}}
{{- define "sfs.keepsData" -}}
{{- if eq .Values.postgres.mode "external" }}yes
{{- else if and .Values.postgres.persistence.enabled (eq .Values.postgres.persistence.whenDeleted "Retain") }}yes
{{- end -}}
{{- end -}}

{{- define "sfs.postgresPasswordRef" -}}
{{- with .Values.postgres.auth.existingSecret -}}
{name: {{ .name | default (printf "%s-postgres" (include "sfs.fullname" $)) }}, key: {{ ternary .key "password" (not (empty .name)) }}}
{{- end -}}
{{- end -}}

{{- define "sfs.redisPasswordRef" -}}
{{- with .Values.redis.auth.existingSecret -}}
{name: {{ .name | default (printf "%s-redis" (include "sfs.fullname" $)) }}, key: {{ ternary .key "password" (not (empty .name)) }}}
{{- end -}}
{{- end -}}
