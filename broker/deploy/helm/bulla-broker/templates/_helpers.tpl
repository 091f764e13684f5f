{{- define "bulla-broker.name" -}}
{{- printf "%s-broker" .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "bulla-broker.selector" -}}
app.kubernetes.io/name: bulla-broker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "bulla-broker.labels" -}}
{{ include "bulla-broker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: bulla
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "bulla-broker.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "bulla-broker.container-security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
