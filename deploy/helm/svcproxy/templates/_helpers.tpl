{{- define "svcproxy.name" -}}
{{- if contains "svcproxy" .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-svcproxy{{ end -}}
{{- end }}

{{- define "svcproxy.selector" -}}
app.kubernetes.io/name: svcproxy
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "svcproxy.labels" -}}
{{ include "svcproxy.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "svcproxy.config" -}}
{{- $config := dict "apiVersion" "kubeproxy.config.k8s.io/v1alpha1" "kind" "KubeProxyConfiguration" }}
{{- $_ := set $config "mode" .Values.mode }}
{{- $_ := set $config "clientConnection" (dict "kubeconfig" "/etc/svcproxy/kubeconfig.conf") }}
{{- if .Values.metrics.serviceMonitor.enabled }}
{{- $_ := set $config "metricsBindAddress" "0.0.0.0:10249" }}
{{- end }}
{{- mergeOverwrite $config (deepCopy .Values.config) | toYaml }}
{{- end }}
