{{/* Names, labels, images. Names are cut at 40 characters, so that every suffix fits into 63. */}}

{{- define "sfs.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sfs.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sfs.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "sfs.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{/* What selectors match: never a version, since selectors cannot change. (list $ "api") */}}
{{- define "sfs.selectorLabels" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "sfs.name" $ | quote }}
app.kubernetes.io/instance: {{ $.Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of an object. (list $ "api") */}}
{{- define "sfs.labels" -}}
{{- $ := index . 0 -}}
{{ include "sfs.selectorLabels" . }}
app.kubernetes.io/part-of: {{ include "sfs.name" $ | quote }}
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata of an object. (list $ "component" "name suffix" annotations) */}}
{{- define "sfs.metadata" -}}
{{- $ := index . 0 -}}
name: {{ include "sfs.fullname" $ }}{{ index . 2 }}
namespace: {{ $.Release.Namespace | quote }}
labels:
  {{- include "sfs.labels" (list $ (index . 1)) | nindent 2 }}
{{- with merge (dict) (index . 3) $.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* An image of this project. (list $ .Values.api.image) */}}
{{- define "sfs.image" -}}
{{- $ := index . 0 -}}
{{- $image := index . 1 -}}
{{- include "sfs.imageReference" (dict
      "registry" $.Values.image.registry
      "repository" $image.repository
      "tag" (coalesce $image.tag $.Values.image.tag $.Chart.AppVersion)
      "digest" $image.digest) -}}
{{- end -}}

{{/* registry/repository:tag or registry/repository@digest, quoted. */}}
{{- define "sfs.imageReference" -}}
{{- $name := .repository -}}
{{- with .registry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- if .digest -}}
{{- printf "%s@%s" $name .digest | quote -}}
{{- else -}}
{{- printf "%s:%s" $name .tag | quote -}}
{{- end -}}
{{- end -}}

{{/*
A value as text. A values file gives every number as a float64, which a template would write as 1e+06 from a million on: no
setting takes that. JSON writes it out.
*/}}
{{- define "sfs.text" -}}
{{- if kindIs "float64" . }}{{ toJson . }}{{ else }}{{ toString . }}{{ end -}}
{{- end -}}

{{/* A Host that the API takes, for who calls it by another name; empty where it takes any. */}}
{{- define "sfs.allowedHost" -}}
{{- $allowed := get (merge (dict) .Values.api.config .Values.secrets.extra .Values.config) "SECURITY__ALLOWED_HOSTS" | toString -}}
{{- /* with commas or as JSON, as the application reads it */ -}}
{{- $names := regexFindAll `[^][\s,"]+` $allowed -1 -}}
{{- if and $names (not (has "*" $names)) }}{{ first $names | replace "*." "helm-test." }}{{ end -}}
{{- end -}}

{{/* A map over another, as Helm lays values over each other: maps are merged, all else is replaced. (list under over), as JSON */}}
{{- define "sfs.over" -}}
{{- $result := deepCopy (index . 0) -}}
{{- range $key, $value := index . 1 -}}
{{- $under := get $result $key -}}
{{- if and (kindIs "map" $value) (kindIs "map" $under) -}}
{{- $value = include "sfs.over" (list $under $value) | fromJson -}}
{{- end -}}
{{- $_ := set $result $key $value -}}
{{- end -}}
{{- toJson $result -}}
{{- end -}}

{{/*
The deployments of workers, by component, as JSON: `worker`, and `worker-NAME` for each of extraWorkers, over what `worker` says.
A component of its own each, since a selector that took in another's pods would have autoscalers count and budgets guard those.
*/}}
{{- define "sfs.workers" -}}
{{- $workers := dict "worker" .Values.worker -}}
{{- range $name, $own := .Values.extraWorkers -}}
{{- $_ := set $workers (printf "worker-%s" $name) (include "sfs.over" (list $.Values.worker $own) | fromJson) -}}
{{- end -}}
{{- toJson $workers -}}
{{- end -}}
