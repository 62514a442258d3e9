{{/* Chart name, at most 40 characters. */}}
{{- define "mochi-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* First part of every object's name: at most 40 characters, so that a suffix fits into a label's 63. */}}
{{- define "mochi-operator.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Name of an object outside the release's namespace: two releases of one name must not meet there. */}}
{{- define "mochi-operator.clusterName" -}}
{{- printf "%s:%s" .Release.Namespace (include "mochi-operator.fullname" .) -}}
{{- end -}}

{{/* Labels that a selector may hold: they never change. */}}
{{- define "mochi-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "mochi-operator.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels of every object. */}}
{{- define "mochi-operator.labels" -}}
{{ include "mochi-operator.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: mochi-operator
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{- define "mochi-operator.serviceAccountName" -}}
{{- $fallback := ternary (include "mochi-operator.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $fallback .Values.serviceAccount.name -}}
{{- end -}}

{{/* Reference of an image. Takes a dict: image (repository, tag, digest) and root. */}}
{{- define "mochi-operator.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{/* Security contexts that satisfy the Pod Security level `restricted`; the image's own user is 10001 too. */}}
{{- define "mochi-operator.podSecurityContext" -}}
runAsNonRoot: true
{{- if not .Values.podSecurity.userFromNamespace }}
runAsUser: 10001
runAsGroup: 10001
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "mochi-operator.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}
