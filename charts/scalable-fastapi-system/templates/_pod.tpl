{{/* What pods have in common. Every pod passes the `restricted` Pod Security Standard; none but the doctor's mounts a token. */}}

{{/* Head of a pod's spec. (dict "root" $ "user" 10001 "component" .Values.api), and "token" true for the one that asks the API server. */}}
{{- define "sfs.podHead" -}}
{{- $values := .root.Values -}}
automountServiceAccountToken: {{ .token | default false }}
# Service links would put X_PORT=tcp://… into the environment, which settings are read from.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  {{- if not (kindIs "invalid" .user) }}
  runAsUser: {{ include "sfs.text" .user }}
  runAsGroup: {{ include "sfs.text" .user }}
  fsGroup: {{ include "sfs.text" .user }}
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
  seccompProfile:
    type: RuntimeDefault
{{- with $values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.nodeSelector | default $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.tolerations | default $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .component.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* (list $ "api" .Values.api.topologySpread) */}}
{{- define "sfs.topologySpread" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $spread := index . 2 -}}
{{- with $spread.topologyKeys }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $spread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "sfs.selectorLabels" (list $ $component) | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
{{- end }}
{{- end -}}

{{/* Security of a container; the argument is whether its root is read-only. */}}
{{- define "sfs.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: {{ . }}
capabilities:
  drop: [ALL]
{{- end -}}

{{/* A container of our image up to its resources. (dict "root" $ "name" "api" "image" .Values.api.image) */}}
{{- define "sfs.containerHead" -}}
name: {{ .name }}
image: {{ include "sfs.image" (list .root .image) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "sfs.containerSecurity" .root.Values.podSecurity.readOnlyRootFilesystem | nindent 2 }}
{{- end -}}

{{/*
The init container that waits for the schema. It has what the component has mounted: the address of the database may name a file
there (`sslrootcert=`). (list $ .Values.api)
*/}}
{{- define "sfs.waitForSchema" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{ include "sfs.containerHead" (dict "root" $ "name" "wait-for-schema" "image" $component.image) }}
command: [python, -m, services.manage, migrate, --wait, {{ include "sfs.text" $.Values.migrate.waitSeconds | quote }}]
{{ include "sfs.environment" (list $ "") }}
resources:
  {{- toYaml $.Values.migrate.resources | nindent 2 }}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- with $component.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* (dict "path" "/health/live" "port" "http" "probe" .Values.api.probes.liveness) */}}
{{- define "sfs.probe" -}}
httpGet: {path: {{ .path }}, port: {{ .port }}}
{{ toYaml .probe }}
{{- end -}}

{{/* Hashes that renew the pods of API and worker when what they read at start changes. */}}
{{- define "sfs.checksums" -}}
checksum/config: {{ include "sfs.config" . | sha256sum | quote }}
checksum/secrets: {{ include "sfs.resolvedSecrets" . | sha256sum | quote }}
{{- end -}}

{{/* Annotations of the pods of API and worker; ours win, as with the labels. (list $ "api" .Values.api.podAnnotations) */}}
{{- define "sfs.podAnnotations" -}}
{{- $own := dict "kubectl.kubernetes.io/default-container" (index . 1) -}}
{{- merge (dict) $own (include "sfs.checksums" (index . 0) | fromYaml) (index . 2) | toYaml -}}
{{- end -}}

{{/* Whether the schema has to be brought again and again: the database goes with its pod. */}}
{{- define "sfs.keepsSchema" -}}
{{- if and .Values.migrate.enabled (eq .Values.postgres.mode "embedded") (not .Values.postgres.persistence.enabled) }}yes{{ end -}}
{{- end -}}

{{/* The components that run our code, by their labels: who may reach the stores. */}}
{{- define "sfs.components" -}}
{{- $names := concat (list "api") (include "sfs.workers" . | fromJson | keys | sortAlpha) (list "migrate" "doctor" "test") -}}
{{- if include "sfs.keepsSchema" . }}{{ $names = append $names "schema" }}{{ end -}}
{{- join ", " $names -}}
{{- end -}}

{{/*
What migrations and tests have of the API's mounts: a file that the address of the database names is in a Secret, a ConfigMap or the
like. Claims are data, and one that is for a single node would keep those pods from starting on another. (.Values.api), as JSON
*/}}
{{- define "sfs.sharedMounts" -}}
{{- $volumes := list -}}
{{- $claims := list -}}
{{- range .extraVolumes -}}
{{- if or .persistentVolumeClaim .ephemeral }}{{ $claims = append $claims .name }}{{ else }}{{ $volumes = append $volumes . }}{{ end -}}
{{- end -}}
{{- $mounts := list -}}
{{- range .extraVolumeMounts -}}
{{- if not (has .name $claims) }}{{ $mounts = append $mounts . }}{{ end -}}
{{- end -}}
{{- dict "volumes" $volumes "mounts" $mounts | toJson -}}
{{- end -}}
