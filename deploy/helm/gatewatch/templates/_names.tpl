{{- define "gatewatch.name" -}}
{{- if contains "gatewatch" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-gatewatch{{ end }}
{{- end }}

{{- define "gatewatch.configMap" -}}
{{ include "gatewatch.name" . | trunc 56 }}-config
{{- end }}

{{- define "gatewatch.labels" -}}
app.kubernetes.io/name: gatewatch
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "gatewatch.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{- define "gatewatch.node" -}}
{{ include "gatewatch.name" . | trunc 56 }}-node
{{- end }}

{{- define "gatewatch.scaler" -}}
{{ include "gatewatch.name" . | trunc 56 }}-scaler
{{- end }}

{{/* By which Services, monitors and budgets find the pods. */}}
{{- define "gatewatch.node.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: node
{{- end }}

{{- define "gatewatch.scaler.selector" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: scaler
{{- end }}
