{{/*
The parts of a pod with the sidecar. From a chart that has this one as a dependency:

    shareProcessNamespace: true
    initContainers:
      {{- include "gatewatch.prepare" .Subcharts.gatewatch | nindent 6 }}
      {{- include "gatewatch.sidecar" .Subcharts.gatewatch | nindent 6 }}
    volumes:
      {{- include "gatewatch.volumes" .Subcharts.gatewatch | nindent 6 }}

and the label of `gateway.selector` on the pods. deploy/helm/example does it.
*/}}

{{/* Checks the node, before the gateway starts. Nothing where `gateway.prepare` is off. */}}
{{- define "gatewatch.prepare" -}}
{{- if .Values.gateway.prepare -}}
- name: gatewatch-prepare
  args: [doctor, --prepare]
  {{- include "gatewatch.common" . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The agent. Among initContainers with restartPolicy Always: there before the gateway, and until after its end. */}}
{{- define "gatewatch.sidecar" -}}
- name: gatewatch
  restartPolicy: Always
  ports:
    - name: gatewatch
      containerPort: {{ .Values.gateway.port }}
  # No readiness probe: it would count for the whole pod, and take a working gateway out of service.
  livenessProbe:
    httpGet:
      path: /healthz
      port: gatewatch
    periodSeconds: 30
    timeoutSeconds: 5
    failureThreshold: 4
  {{- include "gatewatch.common" . | nindent 2 }}
{{- end }}

{{- define "gatewatch.volumes" -}}
- name: gatewatch-config
  configMap:
    name: {{ include "gatewatch.configMap" . }}
{{- if .Values.gateway.pinning.enabled }}
- name: gatewatch-bpffs
  hostPath:
    path: {{ .Values.gateway.pinning.hostPath | quote }}
    type: DirectoryOrCreate
{{- end }}
{{- end }}

{{/* What both containers share. Why each line is as it is: docs/deployment.md. */}}
{{- define "gatewatch.common" -}}
image: {{ include "gatewatch.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
env:
  - name: GATEWATCH_CONFIG
    value: /etc/gatewatch/config.yaml
  {{- range $name, $value := .Values.gateway.env }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
resources:
  {{- toYaml .Values.gateway.resources | nindent 2 }}
securityContext:
  runAsUser: 0
  runAsGroup: 0
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
    add:
      {{- toYaml .Values.gateway.capabilities | nindent 6 }}
  seccompProfile:
    {{- toYaml .Values.gateway.seccompProfile | nindent 4 }}
volumeMounts:
  - name: gatewatch-config
    mountPath: /etc/gatewatch
    readOnly: true
  {{- if .Values.gateway.pinning.enabled }}
  # Not below /sys: the AppArmor profile containers get by default forbids to write there.
  - name: gatewatch-bpffs
    mountPath: /run/gatewatch/bpf
  {{- end }}
{{- end }}
